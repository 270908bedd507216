"""The point in time that an export is of. One image never mixes two of them.

A powered-off machine does not change as long as it is not reconfigured and not powered on: ``config.changeVersion`` and
the last power-on tell. A snapshot does not change as long as it exists. A token of either is stored with the run, and a
run continues only where the token is proved equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

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
    """What holds the disks still."""

    OFF = "off"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class DiskPoint:
    """What of one disk must not change: its backing file, size in bytes and, with CBT, its change id."""

    key: int
    file: str | None
    capacity_bytes: int
    change_id: str | None


@dataclass(frozen=True, slots=True)
class PointInTime:
    """A token for one point in time; two equal tokens are the same bytes on every disk.

    ``instance`` tells machines apart even where a moref was given out again. ``boot_time`` is RFC 3339 text.
    """

    kind: PointKind
    instance: str
    snapshot: str | None
    change_version: str | None
    boot_time: str | None
    disks: tuple[DiskPoint, ...]

    def difference(self, now: PointInTime) -> str | None:
        """Why ``now`` may not be the same point; None where it is."""
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
        """For people."""
        return "the powered-off machine" if self.kind is PointKind.OFF else f"snapshot {self.snapshot}"

    def identity(self, disk_key: int) -> str:
        """Text that is equal exactly for one disk at one point in time; ledgers carry it."""
        if self.kind is PointKind.SNAPSHOT:
            return f"{self.instance}/{disk_key}/snapshot/{self.snapshot}"
        return f"{self.instance}/{disk_key}/off/{self.change_version}/{self.boot_time}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PointInTime:
        """The inverse of ``as_dict``. Raises KeyError, TypeError or ValueError where ``data`` is something else."""
        disks = tuple(DiskPoint(**disk) for disk in data["disks"])
        return cls(**{**data, "kind": PointKind(data["kind"]), "disks": disks})


def point_of(machine: Machine, snapshot: str | None) -> PointInTime:
    """The point that an export of ``machine`` would be of now. ``snapshot`` is a moref, or None for the powered-off
    machine.

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
    """Raises SourceError ``snapshot_gone`` where ``point`` is a snapshot that the machine does not have any more."""
    if point.snapshot is not None and all(node.moref != point.snapshot for node in machine.snapshots):
        raise snapshot_gone(machine.name, point.snapshot)


def snapshot_gone(machine: str, snapshot: str | None) -> SourceError:
    """The error that says so."""
    return SourceError(f"snapshot {snapshot} of '{machine}' was removed while it was exported", code=SNAPSHOT_GONE)
