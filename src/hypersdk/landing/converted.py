"""The manifest of an export whose guest was converted: digests and sizes of now, those as received under ``pipeline``.

It is changed as JSON, so that fields of later versions and of other programs stay.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from hypersdk.landing.guests import export_id
from hypersdk.migration.manifest import (
    ArtifactManifest,
    ConvertPart,
    DiskPart,
    FilePart,
    ReceivedPart,
    WarningPart,
    document_text,
)


def converted_manifest(
    text: bytes, manifest: ArtifactManifest, now: Mapping[str, FilePart], part: ConvertPart
) -> bytes:
    """``text``, from which ``manifest`` was read, for the files that are changed ``now``, by name. ``part`` is the
    conversion without what was received."""
    document: dict[str, Any] = json.loads(text)
    facts = document["metadata"].setdefault("hypersdk", None) or {}
    document["metadata"]["hypersdk"] = facts
    for disk in document["disks"]:
        if changed := now.get(disk["local_path"]):
            disk |= {"bytes": changed.bytes, "checksum": changed.checksum}
            if disk.get("hypersdk"):
                # The content at the source is not that of the image any more.
                disk["hypersdk"] |= {**_tree(changed), "content_digest": None, "content_algorithm": None}
    files = facts.get("files") or [file.model_dump(mode="json") for file in manifest.files]
    facts["files"] = [{**file, **_file(now.get(file["name"]))} for file in files]
    received = {"received": _received(manifest, now), "received_manifest": export_id(manifest)}
    whole = part.model_copy(update=received)
    document["pipeline"]["convert"] = whole.model_dump(mode="json")
    document["warnings"] += [
        WarningPart(stage="convert", message=warning, timestamp=part.ended_at).model_dump() for warning in part.warnings
    ]
    return document_text(document)


def _file(file: FilePart | None) -> dict[str, Any]:
    return file.model_dump(mode="json") if file else {}


def _received(manifest: ArtifactManifest, names: Collection[str]) -> tuple[ReceivedPart, ...]:
    """The files ``names`` as the export wrote them."""
    disks = {disk.local_path: disk for disk in manifest.disks}
    return tuple(
        ReceivedPart.model_validate({**file.model_dump(), **_content(disks.get(file.name))})
        for file in manifest.files
        if file.name in names
    )


def _content(disk: DiskPart | None) -> dict[str, str | None]:
    if disk is None or disk.hypersdk is None:
        return {}
    return {"content_digest": disk.hypersdk.content_digest, "content_algorithm": disk.hypersdk.content_algorithm}


def _tree(file: FilePart) -> dict[str, Any]:
    return {"tree": file.tree.model_dump(mode="json") if file.tree else None}
