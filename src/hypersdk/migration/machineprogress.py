"""The progress of one machine: the sum of the meters of its disks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.migration.plan import PlannedDisk
from hypersdk.model import DiskProgress, ExportProgress, Phase
from hypersdk.transfer.progress import MAX_UNFINISHED_FRACTION, Meter
from hypersdk.vsphere.lease import LeasedExport


class MachineProgress:
    """Thread-safe. Workers set phase and note and update the meters; a ticker takes snapshots."""

    def __init__(
        self,
        machine: str,
        disks: Sequence[PlannedDisk],
    ) -> None:
        self._machine = machine
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._phase = Phase.QUEUED
        self._note = ""
        self._lease: LeasedExport | None = None
        self.expected_bytes: Mapping[int, int] = {disk.key: max(disk.expected_bytes, 1) for disk in disks}
        self.meters: Mapping[int, Meter] = {
            disk.key: Meter(disk.label, disk.file_name, disk.capacity_bytes) for disk in disks
        }

    def phase(self, phase: Phase, note: str = "") -> None:
        """Moves the machine to ``phase``."""
        with self._lock:
            self._phase, self._note = phase, note

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

    def watch_lease(self, lease: LeasedExport | None) -> None:
        """The lease that is held now, if any: its age is shown, and the server is told the progress of the copy."""
        with self._lock:
            self._lease = lease

    def snapshot(self) -> ExportProgress:
        """The current state. The fraction is that of the disks, weighted by their expected bytes, and 1 only when all
        is done."""
        now = time.monotonic()
        disks = tuple(meter.snapshot(now) for meter in self.meters.values())
        with self._lock:
            phase, note, lease = self._phase, self._note, self._lease
        fraction = 1.0 if phase is Phase.DONE else self._fraction(disks)
        if lease is not None:
            lease.set_fraction(fraction)
        return ExportProgress(
            machine=self._machine,
            phase=phase,
            disks=disks,
            wire_bytes=sum(disk.wire_bytes for disk in disks),
            fraction=fraction,
            rate_bytes_s=_sum_known([disk.rate_bytes_s for disk in disks if disk.phase is Phase.TRANSFERRING]),
            eta_s=max((disk.eta_s for disk in disks if disk.eta_s is not None), default=None),
            elapsed_s=now - self._started,
            lease_age_s=lease.age_s if lease else None,
            note=note,
        )

    def _fraction(self, disks: Sequence[DiskProgress]) -> float:
        weights = self.expected_bytes.values()
        weighted = sum(disk.fraction * weight for disk, weight in zip(disks, weights, strict=True))
        return min(weighted / max(sum(weights), 1), MAX_UNFINISHED_FRACTION)


def _sum_known(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None
