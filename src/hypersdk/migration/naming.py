"""File names of an export, and detection of foreign files in its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from hypersdk.errors import FOREIGN_OUTPUT, TARGET_DENIED, LookupFailed, TargetError, register
from hypersdk.migration.runfile import RUN_FILE, RunRecord
from hypersdk.migration.spec import OutputFormat
from hypersdk.model import Disk, unit_order
from hypersdk.remedies import First, Look, Retry
from hypersdk.text import file_name
from hypersdk.transfer.files import shown_path

MANIFEST_NAME: Final = "artifact-manifest.json"
LANDING_FILE: Final = ".hypersdk-landing.json"
"""The record of what was done with an export afterwards (``landing.record``)."""
REPORT_NAME: Final = "report.html"
SCREENSHOT: Final = "screenshot.png"
SERIAL_LOG: Final = "serial.log"
EVIDENCE_FILES: Final = frozenset({"virt-v2v.log", SCREENSHOT, SERIAL_LOG, REPORT_NAME})
"""What the steps after an export keep beside it: the log of the guest conversion, what a boot showed, the report."""
PARTIAL: Final = ".partial"
BLOCKS: Final = ".blocks"
_MAX_STEM_BYTES: Final = 180
"""File names are limited to 255 bytes; our longest suffix is ``-disk64.qcow2.partial.blocks``."""

NO_SUCH_DISK = register(
    "no_such_disk",
    "The machine does not have the disk that is to be excluded.",
    Look("machine"),
    First("correct the list of excluded disks"),
    Retry(),
)

_DISK_ENDING = re.compile(r"-disk\d+\.[a-z0-9]+\Z")


def stem_of(machine_name: str) -> str:
    """The file name stem of a machine: its name without unsafe characters, cut so that all suffixes fit."""
    return file_name(machine_name, _MAX_STEM_BYTES, default="machine")


def stem_of_run(record: RunRecord) -> str:
    """The stem of the files of a run. Another release may have made it by other rules than ``stem_of``."""
    if not record.disks:
        return stem_of(record.machine)
    return _DISK_ENDING.sub("", record.disks[0].file_name)


def disk_file_name(stem: str, number: int, suffix: str) -> str:
    """``<stem>-disk<number>.<suffix>``; the same stem and numbers in every format."""
    return f"{stem}-disk{number}.{suffix}"


def select_disks(machine_name: str, disks: Iterable[Disk], exclude: Sequence[str]) -> list[tuple[int, Disk]]:
    """``(number, disk)`` in unit order without the excluded ones. The numbers count all disks, so exclusions do not
    change them.

    Raises LookupFailed ``no_such_disk`` for an exclusion that matches no disk.
    """
    numbered = list(enumerate(unit_order(disks), start=1))
    dropped: set[int] = set()
    for wanted in exclude:
        hits = {
            number
            for number, disk in numbered
            if wanted.casefold() in (disk.label.casefold(), str(disk.key), str(number))
        }
        if not hits:
            raise LookupFailed(
                f"'{machine_name}' has no disk '{wanted}'",
                code=NO_SUCH_DISK,
                disks=[disk.label for _, disk in numbered],
            )
        dropped |= hits
    return [(number, disk) for number, disk in numbered if number not in dropped]


def foreign_files(folder: Path) -> list[str]:
    """Names in ``folder`` that belong to an export: any manifest, image, descriptor or partial file."""
    suffixes = {*(f".{output}" for output in OutputFormat), ".mf", PARTIAL, BLOCKS}
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TargetError(f"{shown_path(folder)} cannot be read: {error.strerror}", code=TARGET_DENIED) from error
    return sorted(
        name for name in names if name in (MANIFEST_NAME, RUN_FILE) or Path(name).suffix in suffixes or PARTIAL in name
    )


def refuse_foreign(folder: Path, found: Sequence[str]) -> None:
    """Raises TargetError ``foreign_output`` when ``found`` is not empty."""
    if found:
        shown = ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")
        raise TargetError(
            f"{shown_path(folder)} already holds an export ({shown})", code=FOREIGN_OUTPUT, files=list(found)
        )
