"""What a run looks like while it runs. Snapshots, made at a bounded rate; a reader never sees half an update."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a disk or a machine is. Moves downwards only, but for ``waiting``, which returns to where it came from."""

    QUEUED = "queued"
    PREPARING = "preparing"  # snapshot, power, lease
    TRANSFERRING = "transferring"
    WAITING = "waiting"  # for space, for a lease of our own to run out, for a token: ``note`` says which
    VERIFYING = "verifying"  # reads the image back
    PUBLISHING = "publishing"  # rename, manifest, undo
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Basis(StrEnum):
    """What the percentage is a percentage of; shown to the user."""

    LENGTH = "bytes of the stream"
    ALLOCATED = "allocated bytes"
    POSITION = "position on the disk"
    BYTES_READ = "bytes read back"


class Bottleneck(StrEnum):
    """What the copy waits for most, over the last seconds."""

    SOURCE = "source"  # vSphere or the wire delivers slower than we take
    TARGET = "target"  # writes are slower than the stream
    CPU = "cpu"  # inflating and hashing
    LIMIT = "limit"  # --bwlimit


@dataclass(frozen=True, slots=True)
class DiskProgress:
    """One disk. ``fraction`` is 0..1, never falls and never passes 1; ``None`` rates and ETAs are not known yet.
    ``again_bytes`` are guest bytes that the image holds already and the stream under way brings again, as it begins at
    its first byte."""

    label: str
    file_name: str
    phase: Phase
    capacity_bytes: int
    wire_bytes: int
    guest_bytes: int
    written_bytes: int
    skipped_bytes: int
    fraction: float
    basis: Basis
    rate_bytes_s: float | None
    eta_s: float | None
    bottleneck: Bottleneck | None
    attempt: int
    note: str
    again_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """One machine: the sum over its disks. ``note`` is one line for people (what is being waited for, which route)."""

    machine: str
    phase: Phase
    disks: tuple[DiskProgress, ...]
    wire_bytes: int
    fraction: float
    rate_bytes_s: float | None
    eta_s: float | None
    elapsed_s: float
    lease_age_s: float | None
    note: str
