"""The point in time of an export. One image never mixes two of them.

A powered-off machine does not change while it is not reconfigured and not powered on, which ``config.changeVersion``
and the time of the last power-on show. A snapshot does not change while it exists. A token of either is stored with the
run, and a run continues only where the token is proved equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hypersdk.errors import SourceError, register
from hypersdk.model import Machine, Power
from hypersdk.remedies import Discard, Resume

SOURCE_CHANGED = register(
    "source_changed",
    "The machine is no longer at the point in time at which the export began.",
    Discard(),
    "What was copied belongs to another point in time.",
)
SNAPSHOT_GONE = register(
    "snapshot_gone",
    "The snapshot was removed while it was exported: the data read from it may mix two points in time.",
    Resume(),
    "It starts over with a new snapshot. Keep other programs from removing snapshots named hypersdk-*.",
)


class PointKind(StrEnum):
    """Why the disks do not change."""

    OFF = "off"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class DiskPoint:
    """The facts of a disk that must not change: its backing file, size in bytes and, with CBT, its change id."""

    key: int
    file: str | None
    capacity_bytes: int
    change_id: str | None


@dataclass(frozen=True, slots=True)
class PointInTime:
    """A token for one point in time; equal tokens mean the same data on every disk.

    ``instance`` identifies the machine even where its moref was reused. ``boot_time`` is RFC 3339 text.
    """

    kind: PointKind
    instance: str
    snapshot: str | None
    change_version: str | None
    boot_time: str | None
    disks: tuple[DiskPoint, ...]

    def difference(self, now: PointInTime) -> str | None:
        """Why ``now`` may be another point; None where it is the same."""
        if self.instance != now.instance:
            return "it is another machine"
        if self.kind is not now.kind or self.snapshot != now.snapshot:
            return f"the export was of {self.describe()}, now it would be of {now.describe()}"
        if self.kind is PointKind.SNAPSHOT:
            return None
        if self.boot_time != now.boot_time:
            return "it was powered on since"
        if self.change_version is None or self.change_version != now.change_version:
            return "it was reconfigured or powered on since"
        if self.disks != now.disks:
            return "its disks are no longer the same files"
        return None

    def holds_of(self, machine: Machine) -> bool:
        """Whether ``machine`` is provably still at this point."""
        try:
            return self.difference(point_of(machine, self.snapshot)) is None
        except SourceError:
            return False

    def describe(self) -> str:
        """A description for users."""
        return "the powered-off machine" if self.kind is PointKind.OFF else f"snapshot {self.snapshot}"

    def identity(self, disk_key: int) -> str:
        """The identity of one disk at this point in time, which its ledger contains."""
        if self.kind is PointKind.SNAPSHOT:
            return f"{self.instance}/{disk_key}/snapshot/{self.snapshot}"
        return f"{self.instance}/{disk_key}/off/{self.change_version}/{self.boot_time}"


def point_of(machine: Machine, snapshot: str | None) -> PointInTime:
    """The current point in time of ``machine``. ``snapshot`` is a moref, or None for the powered-off machine.

    Raises SourceError ``source_changed`` when the machine runs and no snapshot is given, or the snapshot is gone.
    """
    if snapshot is None and machine.power is not Power.OFF:
        raise SourceError(f"'{machine.name}' is no longer powered off", code=SOURCE_CHANGED)
    if snapshot is not None and all(node.moref != snapshot for node in machine.snapshots):
        raise SourceError(f"snapshot {snapshot} of '{machine.name}' is gone", code=SOURCE_CHANGED)
    return PointInTime(
        kind=PointKind.OFF if snapshot is None else PointKind.SNAPSHOT,
        instance=machine.summary.instance_uuid or f"{machine.summary.uuid}/{machine.moref}",
        snapshot=snapshot,
        change_version=machine.change_version,
        boot_time=machine.boot_time.isoformat() if machine.boot_time else None,
        disks=tuple(DiskPoint(disk.key, disk.file, disk.capacity_bytes, disk.change_id) for disk in machine.disks),
    )


def check_snapshot_there(machine: Machine, point: PointInTime) -> None:
    """Raises SourceError ``snapshot_gone`` where ``point`` is a snapshot that the machine no longer has."""
    if point.snapshot is not None and all(node.moref != point.snapshot for node in machine.snapshots):
        raise snapshot_gone(machine.name, point.snapshot)


def snapshot_gone(machine: str, snapshot: str | None) -> SourceError:
    """The error for a removed snapshot."""
    return SourceError(f"snapshot {snapshot} of '{machine}' was removed while it was exported", code=SNAPSHOT_GONE)
