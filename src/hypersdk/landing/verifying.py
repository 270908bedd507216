"""Verifies an export as ``migration.verify`` does, and knows what a guest conversion and a landing do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from hypersdk.errors import IntegrityError, TargetError, register
from hypersdk.landing.guests import export_id, open_manifest
from hypersdk.landing.landed import landed_images
from hypersdk.landing.record import Conversion, ConversionState, LandingRecord, read_landing
from hypersdk.migration.findings import (
    VERIFY_EXTRA,
    VERIFY_FLIPPED,
    VERIFY_GROWN,
    VERIFY_MISSING,
    VERIFY_SWAPPED_DISK,
    VERIFY_TRUNCATED,
    VERIFY_UNREADABLE,
    Finding,
    VerifyReport,
)
from hypersdk.migration.naming import LANDING_FILE
from hypersdk.migration.readback import Observer
from hypersdk.migration.runfile import is_locked
from hypersdk.migration.verify import verify_directory
from hypersdk.transfer.cancel import CancelToken

VERIFY_CONVERTING: Final = register(
    "verify_converting",
    "A guest conversion of the export is running, or was interrupted. The images are as they were exported.",
    "Run the migration or the import again, or clean the folder up: what was left is removed.",
)
VERIFY_COMMITTING: Final = register(
    "verify_committing",
    "A guest conversion is being written into the images, or was interrupted by that: they are neither as they were"
    " exported nor converted.",
    "Run the migration or the import again, or clean the folder up: both finish it. Do not use the images before, and"
    " keep the files named *.overlay.",
)
VERIFY_LANDED: Final = register(
    "verify_landed",
    "The machine was landed, and the image belongs to its domain now: it was moved into a storage pool, or the guest"
    " changes it.",
    "Nothing has to be done.",
)
_CHANGED: Final = frozenset({VERIFY_FLIPPED, VERIFY_GROWN, VERIFY_TRUNCATED, VERIFY_SWAPPED_DISK})


def verify_export(path: Path, *, cancel: CancelToken, observer: Observer | None = None) -> VerifyReport:
    """``verify_directory``; where a guest conversion was interrupted, that is the first finding, and the differences
    that it made are none. What a landing did with an image is told as that."""
    report = verify_directory(path, cancel=cancel, observer=observer)
    try:
        record = _record(path)
    except IntegrityError as error:
        return _with(report, Finding(error.code, error.message, LANDING_FILE))
    except TargetError as error:
        return _with(report, Finding(VERIFY_UNREADABLE, error.message, LANDING_FILE))
    if record is None:
        return report
    places = landed_images(record)
    report = replace(report, findings=tuple(_of_landing(finding, places) for finding in report.findings))
    if record.conversion is None or not record.conversion.overlays:
        return report
    others = tuple(finding for finding in report.findings if not _made_by(record.conversion, finding))
    return _with(replace(report, findings=others), _finding(path, record, record.conversion))


def _record(path: Path) -> LandingRecord | None:
    """The record of the export in ``path``, or what that of an earlier export left there."""
    record = read_landing(path)
    if record is None:
        return None
    try:
        export = export_id(open_manifest(path))
    except (IntegrityError, TargetError):  # the report says why; a conversion needs it
        return record
    if record.export == export:
        return record
    conversion = record.conversion and replace(record.conversion, state=ConversionState.CONVERTING)
    return replace(record, conversion=conversion, changes=[])


def _of_landing(finding: Finding, places: Mapping[str, Path]) -> Finding:
    """The finding, or another one where the landing explains it."""
    name = finding.file or ""
    if finding.code not in _CHANGED | {VERIFY_MISSING} or name not in places:
        return finding
    what = f"is at {places[name]}" if finding.code == VERIFY_MISSING else "was changed by the guest"
    return Finding(VERIFY_LANDED, f"{name} {what}: the machine was landed", name)


def _with(report: VerifyReport, finding: Finding) -> VerifyReport:
    return replace(report, findings=(finding, *report.findings))


def _made_by(conversion: Conversion, finding: Finding) -> bool:
    """Whether the conversion explains the finding."""
    name = finding.file or ""
    if finding.code == VERIFY_EXTRA:
        return name in conversion.overlays.values()
    written = name in conversion.overlays or name.endswith(".ovf")
    return conversion.state is ConversionState.COMMITTING and finding.code in _CHANGED and written


def _finding(path: Path, record: LandingRecord, conversion: Conversion) -> Finding:
    committing = conversion.state is ConversionState.COMMITTING
    doing = "is running" if is_locked(path) else "was interrupted"
    where = f" while it was written into {', '.join(conversion.overlays)}" if committing else ""
    code = VERIFY_COMMITTING if committing else VERIFY_CONVERTING
    return Finding(code, f"the guest conversion of {record.machine} {doing}{where}")
