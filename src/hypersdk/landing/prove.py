"""The step ``prove``: the landed domain is booted in isolation, and what was seen is kept beside the manifest.

::

    DIR/screenshot.png             the screen at the end of the boot
    DIR/serial.log                 what the guest wrote on its first serial port, as plain text
    DIR/artifact-manifest.json     ``pipeline.validate``, after a success

The domain itself is not touched and is off afterwards. Evidence of a failed boot is kept, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hypersdk.kvm.connection import Connection
from hypersdk.kvm.prove import Boot, ProofOptions, boot_domain
from hypersdk.landing.owner import changing_manifest
from hypersdk.landing.record import PROVE, LandingFile
from hypersdk.migration.manifest import ValidatePart, timestamp
from hypersdk.migration.naming import SCREENSHOT, SERIAL_LOG
from hypersdk.model.guestplan import BootProof, Verdict
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import target_errors, write_atomic
from hypersdk.units import format_duration

LOG: Final = logging.getLogger(__name__)
_TEXTS: Final[Mapping[str, str]] = {
    Verdict.MARKER: "the guest printed '{line}'",
    Verdict.LOGIN: "a login prompt appeared: {line}",
    Verdict.AGENT: "the guest agent answered: {line}",
    Verdict.SCREEN_STABLE: "weak proof: {line}, and no known failure was seen",
}


def prove_landed(
    connection: Connection,
    landing: LandingFile,
    uuid: str,
    options: ProofOptions,
    *,
    cancel: CancelToken,
    report: Callable[[str], None] = lambda _text: None,
) -> BootProof:
    """Proves that the landed domain with this UUID boots; it is not booted again once it is proved. A machine that was
    landed anew is another domain. ``report`` gets what is waited for.

    Raises IntegrityError with the code of what was seen instead (``boot_...``), Cancelled, TargetError, and the errors
    of a connection.
    """
    if (known := _known(landing, uuid)) is not None:
        return known
    with landing.step(PROVE) as step:
        boot = boot_domain(connection, uuid, options, cancel=cancel, report=report)
        files = _keep(landing.folder.path, boot)
        if boot.verdict is None:
            assert boot.error is not None
            boot.error.fields.update({name: str(landing.folder.named / file) for name, file in files.items()})
            raise boot.error
        part = ValidatePart(
            enabled=True,
            verdict=boot.verdict,
            line=boot.line,
            seconds=round(boot.seconds, 3),
            accelerated=boot.accelerated,
            ended_at=timestamp(),
            **files,
        )
        _write_manifest(landing.folder.path, part)
        step.result = {**part.model_dump(mode="json"), "domain": uuid, "warnings": list(boot.warnings)}
    return _from_record(step.result, landing.folder.named)


def _known(landing: LandingFile, uuid: str) -> BootProof | None:
    """The proof of that domain in the record; None for one that cannot be read: it is made again."""
    done = landing.done(PROVE)
    if done is None or done.get("domain") != uuid:
        return None
    try:
        return _from_record(done, landing.folder.named)
    except (ValueError, KeyError, TypeError) as error:
        LOG.info("the record of the boot proof cannot be read: %s", error)
        return None


def proof_text(proof: BootProof) -> str:
    """For users: ``a login prompt appeared: web-01 login: (after 12 s)``."""
    seen = verdict_text(proof.verdict, proof.line)
    return f"{seen} (after {format_duration(proof.seconds)}{'' if proof.accelerated else ', emulated'})"


def verdict_text(verdict: str, line: str) -> str:
    """What was seen. ``verdict`` is one of a later version where it is unknown."""
    known = _TEXTS.get(verdict)
    return known.format(line=line) if known else f"{verdict}: {line}"


def _keep(folder: Path, boot: Boot) -> dict[str, str]:
    """Writes the evidence; what an earlier boot left of it is removed. Returns the names of the files."""
    evidence = {
        "screenshot": (SCREENSHOT, boot.screenshot),
        "serial_log": (SERIAL_LOG, f"{boot.serial}\n".encode() if boot.serial else None),
    }
    for name, data in evidence.values():
        if data is not None:
            write_atomic(folder / name, data)
        else:
            with target_errors(f"removing {name}"), suppress(FileNotFoundError):
                (folder / name).unlink()
    return {field: name for field, (name, data) in evidence.items() if data is not None}


def _write_manifest(folder: Path, part: ValidatePart) -> None:
    with changing_manifest(folder) as (document, export):
        whole = part.model_copy(update={"received_manifest": export})
        document["pipeline"]["validate"] = whole.model_dump(mode="json")


def _from_record(result: Mapping[str, Any], folder: Path) -> BootProof:
    part = ValidatePart.model_validate(result)
    return BootProof(
        verdict=Verdict(part.verdict),
        line=part.line,
        seconds=part.seconds,
        accelerated=part.accelerated,
        screenshot=folder / part.screenshot if part.screenshot else None,
        serial_log=folder / part.serial_log if part.serial_log else None,
        warnings=tuple(result["warnings"]),
    )
