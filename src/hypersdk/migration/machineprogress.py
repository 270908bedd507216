"""The progress of one machine: the sum of the meters of its disks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.migration.plan import PlannedDisk
from hypersdk.model import ENDED, MAX_UNFINISHED_FRACTION, DiskProgress, ExportProgress, Phase
from hypersdk.model.eta import Pace
from hypersdk.transfer.progress import Meter
from hypersdk.vsphere.lease import LeasedExport

_COPYING = frozenset({Phase.TRANSFERRING, Phase.VERIFYING})


class MachineProgress:
    """Thread-safe. Workers set phase and note and update the meters; a ticker takes snapshots."""

    def __init__(
        self,
        machine: str,
        disks: Sequence[PlannedDisk],
        clock: Callable[[], float] = time.monotonic,
        *,
        snapshots_on: Sequence[str] = (),
    ) -> None:
        self._machine = machine
        self._snapshots_on = tuple(snapshots_on)
        self._clock = clock
        self._started: float | None = None
        self._ended: float | None = None
        self._lock = threading.Lock()
        self._phase = Phase.QUEUED
        self._note = ""
        self._lease: LeasedExport | None = None
        self._turn_s = 0.0
        self._turn_since: float | None = None
        self._pace = Pace()
        self._disk_paces: Mapping[int, Pace] = {disk.key: Pace() for disk in disks}
        self._data_bytes = sum(_data_bytes(disk) for disk in disks)
        self.expected_bytes: Mapping[int, int] = {disk.key: max(disk.expected_bytes, 1) for disk in disks}
        self.meters: Mapping[int, Meter] = {
            disk.key: Meter(disk.label, disk.file_name, disk.capacity_bytes) for disk in disks
        }

    def phase(self, phase: Phase, note: str = "") -> None:
        """Moves the machine to ``phase``."""
        with self._lock:
            self._phase, self._note = phase, note
            now = self._clock()
            self._started = now if self._started is None else self._started
            self._ended = now if phase in ENDED else None

    @contextmanager
    def ended_by_errors(self) -> Iterator[None]:
        """Sets the phase failed or cancelled when the block raises an expected error."""
        try:
            yield
        except HyperSDKError as error:
            self.phase(Phase.CANCELLED if isinstance(error, Cancelled) else Phase.FAILED, error.message)
            raise

    def note(self, text: str) -> None:
        """Shows one line for users: what is being done or waited for."""
        with self._lock:
            self._note = text

    @contextmanager
    def waiting_for_turn(self) -> Iterator[None]:
        """Measures the wait until a temporary snapshot may be created."""
        with self._lock:
            self._turn_since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._turn_s, self._turn_since = self._waited_s(self._clock()), None

    def _waited_s(self, now: float) -> float:
        return self._turn_s + (0.0 if self._turn_since is None else now - self._turn_since)

    def watch_lease(self, lease: LeasedExport | None) -> None:
        """The lease that is held now, if any: its age is shown, and the server is told the progress of the copy."""
        with self._lock:
            self._lease = lease

    def snapshot(self) -> ExportProgress:
        """The current state. The fraction is that of the disks, weighted by their expected bytes, and 1 only when all
        is done. The remaining time is that of all disks together, also of those that are still to come, and at least
        that of the slowest."""
        now = self._clock()
        disks = tuple(meter.snapshot(now) for meter in self.meters.values())
        with self._lock:
            phase, note, lease = _phase_of(self._phase, disks), self._note, self._lease
            real = self._fraction([_real(disk) for disk in disks])
            copying = phase in _COPYING and any(disk.phase in _COPYING for disk in disks)
            self._sample(now, disks, copying=copying)
            elapsed_s = 0.0 if self._started is None else (self._ended or now) - self._started
            turn_s = self._waited_s(now)
        fraction = 1.0 if phase is Phase.DONE else self._fraction([disk.fraction for disk in disks])
        if lease is not None:
            lease.set_fraction(fraction)
        return ExportProgress(
            machine=self._machine,
            phase=phase,
            disks=disks,
            wire_bytes=sum(disk.wire_bytes for disk in disks),
            fraction=fraction,
            rate_bytes_s=_sum_known([disk.rate_bytes_s for disk in disks if disk.phase is Phase.TRANSFERRING]),
            eta_s=self._left_s(disks, real) if copying else None,
            elapsed_s=elapsed_s,
            lease_age_s=lease.age_s if lease else None,
            note=note,
            redone=real if real < fraction and any(disk.redone is not None for disk in disks) else None,
            expected_bytes=self._data_bytes,
            copy_s=self._pace.copy_s,
            turn_s=turn_s,
            snapshots_on=self._snapshots_on,
        )

    def _fraction(self, fractions: Sequence[float]) -> float:
        weights = self.expected_bytes.values()
        weighted = sum(fraction * weight for fraction, weight in zip(fractions, weights, strict=True))
        return min(weighted / max(sum(weights), 1), MAX_UNFINISHED_FRACTION)

    def _sample(self, now: float, disks: Sequence[DiskProgress], *, copying: bool) -> None:
        parts = self._parts(disks)
        self._pace.sample(now, parts, copying=copying)
        for disk, pace, (part, done) in zip(disks, self._disk_paces.values(), parts.items(), strict=True):
            pace.sample(now, {part: done}, copying=disk.phase in _COPYING)

    def _left_s(self, disks: Sequence[DiskProgress], real: float) -> float | None:
        """Disks that are copied side by side do not hand on their speed: when one is done, others go on as before."""
        whole = max(sum(self.expected_bytes.values()), 1)
        left = [self._pace.left_s(1 - real)]
        for disk, pace, weight in zip(disks, self._disk_paces.values(), self.expected_bytes.values(), strict=True):
            left += [pace.left_s((1 - _real(disk)) * weight / whole)] if disk.phase in _COPYING else []
        return max((seconds for seconds in left if seconds is not None), default=None)

    def _parts(self, disks: Sequence[DiskProgress]) -> Mapping[Hashable, float]:
        """What is done of each disk, as a share of the machine's work. A retry, and what an earlier run copied, make
        another part of it: it begins somewhere without that much work having been done."""
        whole = max(sum(self.expected_bytes.values()), 1)
        return {
            (at, max(disk.attempt, 1), disk.skipped_bytes): _real(disk) * weight / whole
            for at, (disk, weight) in enumerate(zip(disks, self.expected_bytes.values(), strict=True))
        }


def _real(disk: DiskProgress) -> float:
    return disk.fraction if disk.redone is None else disk.redone


def _data_bytes(disk: PlannedDisk) -> int:
    """The data that the disk is expected to hold."""
    return disk.capacity_bytes if disk.allocated_bytes is None else min(disk.capacity_bytes, disk.allocated_bytes)


def _phase_of(phase: Phase, disks: Sequence[DiskProgress]) -> Phase:
    """``waiting`` while disks are to move and each of them waits."""
    moving = [disk for disk in disks if disk.phase in (*_COPYING, Phase.WAITING)]
    waiting = [disk for disk in moving if disk.phase is Phase.WAITING and disk.rate_bytes_s is None]
    return Phase.WAITING if phase is Phase.TRANSFERRING and moving and len(waiting) == len(moving) else phase


def _sum_known(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None
