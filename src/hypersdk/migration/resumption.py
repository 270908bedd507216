"""What a resume reads again, and which method reads less: an estimate with the plan, decided when the copy starts.

::

    point in time not provably the same   everything, from the start
    finished disks                        nothing
    a new stream                          all data of the disk: a stream starts at its first byte; data that is on
                                          record is compared and not written
    datastore ranges                      the missing data; without change tracking (CBT) holes count as missing, too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from hypersdk.migration.formats import outputs_for
from hypersdk.migration.runfile import RunRecord
from hypersdk.migration.spec import ExportSpec, Method
from hypersdk.model import Machine
from hypersdk.units import format_size


@dataclass(frozen=True, slots=True)
class ResumeCost:
    """What each method of resuming is expected to read of the guest's disks. ``holes``: ranges read holes, too, as
    their positions are unknown."""

    ranges_bytes: int
    stream_bytes: int
    holes: bool

    @classmethod
    def of(cls, capacity: int, *, areas_bytes: int, allocated_bytes: int | None, recorded_bytes: int) -> Self:
        """The cost of one disk. ``areas_bytes`` is what ranges would read from the start, ``recorded_bytes`` is in the
        image already."""
        whole = areas_bytes >= capacity
        allocated = capacity if allocated_bytes is None else min(allocated_bytes, capacity)
        return cls(max(0, areas_bytes - recorded_bytes), allocated if whole else areas_bytes, whole)

    @classmethod
    def of_all(cls, costs: Sequence[ResumeCost]) -> Self:
        """The cost of several disks, which use the same method."""
        return cls(
            sum(cost.ranges_bytes for cost in costs),
            sum(cost.stream_bytes for cost in costs),
            any(cost.holes for cost in costs),
        )

    @property
    def takes_ranges(self) -> bool:
        """Whether ranges are used. They must read less, not only as much: a stream is compressed and has the server's
        manifest."""
        return self.ranges_bytes < self.stream_bytes

    @property
    def choice(self) -> str:
        """The choice and the reason, for users."""
        ranges, stream = format_size(self.ranges_bytes), format_size(self.stream_bytes)
        if self.takes_ranges:
            return f"resumed with datastore ranges: about {ranges} is missing, a new stream has {stream} of data"
        holes = ", holes included, which only change tracking (CBT) would show" if self.holes else ""
        return f"resumed with a new stream of {stream} of data: datastore ranges would read about {ranges}{holes}"


@dataclass(frozen=True, slots=True)
class Resumption:
    """The estimate for a resume, in guest bytes. ``receive_bytes`` is everything that will be received, ``again_bytes``
    the part that was received before. ``recorded_bytes`` are on record; none where the run starts again
    (``from_start``). ``untracked``: ranges would read holes, too."""

    receive_bytes: int
    again_bytes: int
    recorded_bytes: int
    from_start: bool
    ranges: bool
    untracked: bool

    @property
    def text(self) -> str:
        """A description for users."""
        receive, recorded = format_size(self.receive_bytes), format_size(self.recorded_bytes)
        if self.from_start:
            return (
                f"about {receive} to receive, everything again: the machine is not provably at the point in time of the"
                " earlier run"
            )
        if not self.again_bytes:
            way = (
                "by datastore ranges where they can be read, else everything again by a stream"
                if self.ranges
                else "the rest"
            )
            return f"about {receive} to receive, {way}; about {recorded} is on record and stays"
        why = ", and without change tracking (CBT) datastore ranges would read more" if self.untracked else ""
        return (
            f"about {receive} to receive; of it about {format_size(self.again_bytes)} is on record already and only"
            f" compared: a stream begins at its first byte{why}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "receive_bytes": self.receive_bytes,
            "again_bytes": self.again_bytes,
            "recorded_bytes": self.recorded_bytes,
            "begins_anew": self.from_start,
            "from": "datastore" if self.ranges else "lease",
        }


def resumption_of(machine: Machine, spec: ExportSpec, run: RunRecord) -> Resumption:
    """What a resume of ``run`` is expected to receive from ``machine`` as it is now. Raises TargetError."""
    disks = {disk.key: disk for disk in machine.disks}
    if not (run.point and run.point.holds_of(machine)):
        whole = sum(
            _data_bytes(disks[disk.key].used_bytes if disk.key in disks else None, disk.capacity_bytes)
            for disk in run.disks
        )
        return Resumption(whole, 0, 0, from_start=True, ranges=False, untracked=False)
    outputs = outputs_for(run, spec)
    pending = [disk for disk in run.disks if not disk.done and disk.key in disks]
    recorded = sum(outputs.recorded_bytes(disk) for disk in pending)
    untracked = spec.method is Method.AUTO and any(disks[disk.key].change_id is None for disk in pending)
    cost = ResumeCost.of_all(
        [
            ResumeCost.of(
                disk.capacity_bytes,
                areas_bytes=(
                    disk.capacity_bytes if now.change_id is None else _data_bytes(now.used_bytes, disk.capacity_bytes)
                ),
                allocated_bytes=now.used_bytes,
                recorded_bytes=outputs.recorded_bytes(disk),
            )
            for disk in pending
            for now in [disks[disk.key]]
        ]
    )
    ranges = spec.method is Method.DATASTORE or (spec.method is Method.AUTO and bool(recorded) and cost.takes_ranges)
    if ranges:
        return Resumption(cost.ranges_bytes, 0, recorded, from_start=False, ranges=True, untracked=untracked)
    return Resumption(
        cost.stream_bytes,
        min(recorded, cost.stream_bytes),
        recorded,
        from_start=False,
        ranges=False,
        untracked=untracked,
    )


def _data_bytes(used: int | None, capacity: int) -> int:
    return capacity if used is None else min(used, capacity)
