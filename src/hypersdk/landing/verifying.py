"""Verifies an export as ``migration.verify`` does, and knows what a guest conversion does to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from hypersdk.errors import IntegrityError, TargetError, register
from hypersdk.landing.guests import export_id, open_manifest
from hypersdk.landing.record import Conversion, ConversionState, LandingRecord, read_landing
from hypersdk.migration.findings import (
    VERIFY_EXTRA,
    VERIFY_FLIPPED,
    VERIFY_GROWN,
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
    "Run it again, or clean the folder up: what it left is removed.",
)
VERIFY_COMMITTING: Final = register(
    "verify_committing",
    "A guest conversion is being written into the images, or was interrupted by that: they are neither as they were"
    " exported nor converted.",
    "Run it again, or clean the folder up: both finish it. Do not use the images before, and keep the files named"
    " *.overlay.",
)
_CHANGED: Final = frozenset({VERIFY_FLIPPED, VERIFY_GROWN, VERIFY_TRUNCATED, VERIFY_SWAPPED_DISK})


def verify_export(path: Path, *, cancel: CancelToken, observer: Observer | None = None) -> VerifyReport:
    """``verify_directory``; where a guest conversion was interrupted, that is the first finding, and the differences
    that it made are none."""
    report = verify_directory(path, cancel=cancel, observer=observer)
    try:
        record = _record(path)
    except IntegrityError as error:
        return _with(report, Finding(error.code, error.message, LANDING_FILE))
    except TargetError as error:
        return _with(report, Finding(VERIFY_UNREADABLE, error.message, LANDING_FILE))
    if record is None or record.conversion is None or not record.conversion.overlays:
        return report
    others = tuple(finding for finding in report.findings if not _made_by(record.conversion, finding))
    return _with(replace(report, findings=others), _finding(path, record, record.conversion))


def _record(path: Path) -> LandingRecord | None:
    """The record of the export in ``path``, or what that of an earlier export left there."""
    record = read_landing(path)
    if record is None or record.conversion is None:
        return None
    try:
        export = export_id(open_manifest(path))
    except (IntegrityError, TargetError):  # the report says why; a conversion needs it
        return record
    if record.export == export:
        return record
    return replace(record, conversion=replace(record.conversion, state=ConversionState.CONVERTING))


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
