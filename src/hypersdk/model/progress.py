"""Progress of a run, as immutable snapshots.

Each field is declared once, here, with its name in the two JSON forms that exist::

    field of the record ──> "progress" events of ``hyper2kvm --json``: named as here, unless ``event=`` says otherwise
                        └─> progress of a job (database, API, client): named as here, unless ``job=`` says otherwise
"""
# ruff: noqa: RUF009 - `_field` makes a new dataclasses.field each time

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, TypeVar


class Phase(StrEnum):
    """The phase of a disk or a machine, in order; only ``waiting`` returns to the phase before it."""

    QUEUED = "queued"
    PREPARING = "preparing"  # snapshot, power, lease
    TRANSFERRING = "transferring"
    WAITING = "waiting"  # for space, for an earlier lease to expire, for a token: ``note`` says which
    VERIFYING = "verifying"  # reads the image back
    PUBLISHING = "publishing"  # rename, manifest, undo
    CONVERTING = "converting"  # the guest: drivers, boot loader
    LANDING = "landing"  # defines the domain; starts it
    PROVING = "proving"  # boots the guest in isolation
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"  # a job between two attempts
    CANCELLING = "cancelling"  # a job whose source is still to be restored


class Basis(StrEnum):
    """What the percentage is based on; shown to the user."""

    LENGTH = "bytes of the stream"
    ALLOCATED = "allocated bytes"
    POSITION = "position on the disk"
    BYTES_READ = "bytes read back"


class Bottleneck(StrEnum):
    """What limited the copy most, over the last seconds."""

    SOURCE = "source"  # vSphere or the wire delivers slower than we take
    TARGET = "target"  # writes are slower than the stream
    CPU = "cpu"  # inflating and hashing
    LIMIT = "limit"  # --bwlimit


MAX_UNFINISHED_FRACTION: Final = 0.994
"""The largest fraction shown of unfinished work: it does not round up to 100 %."""
SNAPSHOTS_PER_DATASTORE: Final = 2
"""Temporary snapshots that the exports of one process may have on one datastore at a time."""
_REDONE: Final = "0 to 100: how far the attempt has come while it does again what was done before; else null"
ENDED: Final = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED})
_LANDING: Final = frozenset({Phase.CONVERTING, Phase.LANDING, Phase.PROVING})
_AT_WORK: Final = _LANDING | {
    Phase.PREPARING, Phase.TRANSFERRING, Phase.WAITING, Phase.VERIFYING, Phase.PUBLISHING
}  # fmt: skip
"""Phases in which work is done."""
_COPIED: Final = _LANDING | {Phase.DONE, Phase.VERIFYING, Phase.PUBLISHING}


def _field(default: Any, about: str = "", *, job: str | None = "", event: str | None = "", digits: int = 1) -> Any:
    """``job`` and ``event`` are names in JSON: empty for the field's own, None where it is omitted. Fractional numbers
    are rounded to ``digits``."""
    return field(default=default, metadata={"job": job, "event": event, "about": about, "digits": digits})


@dataclass(frozen=True, slots=True)
class DiskProgress:
    """One disk. ``fraction`` is 0 to 1 and never decreases; rates and ETAs are ``None`` while unknown. ``again_bytes``
    are guest bytes that the image already has and the current stream sends again, as it starts at its first byte.
    ``redone`` is set while less is done than ``fraction`` says, because something is done again."""

    label: str = ""
    file_name: str = _field("", job="file", event="file")
    phase: Phase = Phase.QUEUED
    capacity_bytes: int = 0
    wire_bytes: int = _field(0, "Bytes that came over the wire", job="bytes_downloaded")
    guest_bytes: int = _field(0, job=None)
    written_bytes: int = _field(0, "Bytes written to the image", job="bytes_written")
    skipped_bytes: int = _field(0, "Guest bytes found in the image from an earlier run", job="bytes_skipped")
    fraction: float = _field(0.0, "0 to 100", job="percent_complete", digits=4)
    basis: Basis = _field(Basis.ALLOCATED, "What the percentage is a percentage of")
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    bottleneck: Bottleneck | None = _field(None, "What the copy waits for most: source, target, cpu or limit")
    attempt: int = 1
    note: str = ""
    again_bytes: int = _field(0, "Guest bytes that the image already has and the stream sends again", job="bytes_again")
    redone: float | None = _field(None, _REDONE, job="percent_redone", digits=4)


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """One machine: the sum over its disks. ``note`` is one line for users (what is being waited for, which route).

    The defaults are the progress of a job that has not started. All properties are part of a job's JSON.
    """

    machine: str = _field("", job=None)
    phase: Phase = _field(Phase.QUEUED, "queued, preparing, transferring, waiting, verifying, publishing, done, ...")
    disks: tuple[DiskProgress, ...] = ()
    wire_bytes: int = _field(0, "Bytes that came over the wire", job="bytes_downloaded")
    fraction: float = _field(0.0, "0 to 100", job="percent_complete", digits=4)
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    elapsed_s: float = _field(0.0, job=None)
    lease_age_s: float | None = _field(None, "How long the export lease has been open, in seconds")
    note: str = _field("", "One line for users: what is being done or waited for")
    method: str = _field("", job="export_method", event=None)
    stalled: str | None = _field(None, "Why nothing moves; null while something does", event=None)
    redone: float | None = _field(None, _REDONE, job="percent_redone", digits=4)
    expected_bytes: int = _field(0, "Bytes of data that its disks are expected to hold; 0 while unknown")
    copy_s: float = _field(0.0, "Seconds in which this attempt copied or read back; waiting is not included")
    turn_s: float = _field(0.0, "Seconds in which this attempt waited for its turn to create a temporary snapshot")
    snapshots_on: tuple[str, ...] = _field((), "Datastores on which it needs a temporary snapshot")

    @property
    def current_file(self) -> str:
        """Name of the file being written; empty while there is none."""
        moving = self.disks if self.phase in _AT_WORK else ()
        return next((disk.file_name for disk in moving if disk.phase is Phase.TRANSFERRING), "")

    @property
    def current_step(self) -> str:
        """The note, or the phase where there is none; empty before the job has started."""
        started = self.disks or self.phase is not Phase.QUEUED
        return self.note or (self.phase.value if started else "")

    @property
    def files_downloaded(self) -> int:
        """Disks whose copy is complete."""
        return sum(disk.phase in _COPIED for disk in self.disks)

    @property
    def total_files(self) -> int:
        """Disks of the machine."""
        return len(self.disks)

    @property
    def bytes_transferred(self) -> int:
        """Bytes written to the images."""
        return sum(disk.written_bytes for disk in self.disks)

    @property
    def total_bytes(self) -> int:
        """Capacity of all disks."""
        return sum(disk.capacity_bytes for disk in self.disks)

    @property
    def estimated_remaining(self) -> int:
        """Whole seconds, 0 while unknown; `eta_s` is null then."""
        return int(self.eta_s or 0)


P = TypeVar("P", "ExportProgress", "DiskProgress")


def at_rest(progress: ExportProgress, phase: Phase) -> ExportProgress:
    """The progress of a job that is not running: without rates, ETAs and notes."""
    return replace(
        without_rate(progress),
        phase=phase,
        fraction=1.0 if phase is Phase.DONE else progress.fraction,
        disks=tuple(replace(without_rate(disk), note="", redone=None) for disk in progress.disks),
        lease_age_s=None,
        note="",
        stalled=None,
        redone=None,
    )


def without_rate(progress: P) -> P:
    """Without rate and ETA: nothing moves."""
    return replace(progress, rate_bytes_s=None, eta_s=None)


def waits_for(progress: ExportProgress) -> str:
    """What a disk waits for, in words, else the machine's note; empty while neither says anything."""
    notes = [disk.note for disk in progress.disks if disk.phase is Phase.WAITING]
    return next((note for note in [*notes, progress.note] if note), "")


def waits_to_land(progress: ExportProgress) -> bool:
    """Whether all is copied, and the machine waits for its turn to be converted, landed or proved."""
    return progress.phase is Phase.WAITING and all(disk.phase is Phase.DONE for disk in progress.disks)


def never_below(now: ExportProgress, before: ExportProgress) -> ExportProgress:
    """The progress of another attempt: no fraction is below that of the attempt ``before`` it. What is really done
    again is in ``redone`` until it passes what is shown."""
    floors = {disk.label: disk.fraction for disk in before.disks}
    disks = tuple(_not_below(disk, floors.get(disk.label, 0.0)) for disk in now.disks)
    return _not_below(replace(now, disks=disks), before.fraction)


def _not_below(progress: P, floor: float) -> P:
    floor = min(floor, MAX_UNFINISHED_FRACTION)
    if progress.fraction >= floor:
        return progress
    return replace(progress, fraction=floor, redone=progress.fraction if progress.redone is None else progress.redone)
