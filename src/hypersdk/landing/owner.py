"""Who owns the images of a landed machine, in the manifest beside them: ``metadata.hypersdk.landed``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import IntegrityError, TargetError
from hypersdk.landing.guests import export_id, manifest_bytes
from hypersdk.migration.manifest import LandedPart, document_text, read_manifest
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.transfer.files import write_atomic

LOG: Final = logging.getLogger(__name__)
_LANDED: Final = "landed"


@contextmanager
def changing_manifest(folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The manifest as JSON, so that fields of later versions and of other programs stay, and the id of its export;
    written anew after the block. Raises IntegrityError, TargetError."""
    text = manifest_bytes(folder)
    export = export_id(read_manifest(text))
    document: dict[str, Any] = json.loads(text)
    document["metadata"]["hypersdk"] = document["metadata"].get("hypersdk") or {}  # where its seal is
    yield document, export
    write_atomic(folder / MANIFEST_NAME, document_text(document))


def note_owner(folder: Path, part: LandedPart) -> None:
    """Writes who owns the images of the export in ``folder`` now. Raises IntegrityError, TargetError."""
    with changing_manifest(folder) as (document, export):
        whole = part.model_copy(update={"received_manifest": export})
        document["metadata"]["hypersdk"][_LANDED] = whole.model_dump(mode="json")


def forget_owner(folder: Path) -> None:
    """The images belong to the export again. A manifest that cannot be read says nothing; one that cannot be written is
    no reason to say that something is left at the target: the next landing replaces what it says."""
    try:
        if _LANDED not in (json.loads(manifest_bytes(folder))["metadata"].get("hypersdk") or {}):
            return
        with changing_manifest(folder) as (document, _):
            del document["metadata"]["hypersdk"][_LANDED]
    except (IntegrityError, TargetError, ValueError, KeyError, TypeError, AttributeError) as error:
        LOG.info("the manifest still says who owned the images of an undone landing: %s", error)
