"""Progress of one disk: a fraction that never falls and never exceeds 1.

The threads of the engine update counters; a display calls ``snapshot(now)`` a few times a second, with its own clock.

The fraction of a stream, in the order of preference:

1. its length is known: bytes received / length.
2. the source says how much is allocated: with *d* bytes of data decoded so far and the highest guest position *p*,
   d / (d + r), where the rest *r* is what is allocated and not yet decoded, but no more than the space behind *p*. So
   an estimate that is too high does not end in a jump. When *d* exceeds it, it was too low: the rest is then assumed to
   be as dense as what came.
3. neither: p / capacity.

When grains come out of order, *p* is of no use: then the space behind it is all that has not been decoded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from hypersdk.model import MAX_UNFINISHED_FRACTION, Basis, Bottleneck, DiskProgress, Phase
from hypersdk.transfer.activity import Spent, Timeline, bottleneck, difference, total
from hypersdk.units import format_size

Waiting: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Shows a note while the block runs: what is being waited for."""

RATE_WINDOW_S: Final = 10.0
BOTTLENECK_WINDOW_S: Final = 5.0
_SAMPLE_EVERY_S: Final = 0.25
_REDONE_STEP: Final = 0.001
"""Estimates of what is allocated fall by less than this without anything being done again."""
_UNDONE: Final = frozenset({Phase.PREPARING, Phase.TRANSFERRING, Phase.VERIFYING})


@contextmanager
def unseen(_note: str) -> Iterator[None]:
    """A ``Waiting`` for callers without a display."""
    yield


@dataclass(frozen=True, slots=True)
class _Sample:
    now: float
    moved_bytes: int
    share: float
    readers: Spent
    workers: Spent


@dataclass(slots=True)
class _Pass:
    """One pass over the source: from its start, or over what is missing."""

    length: int | None = None
    allocated: int | None = None
    wanted: int | None = None  # ranges: bytes to have in the end
    again: int = 0  # a stream: guest bytes that are there already
    wire: int = 0
    data: int = 0
    position: int | None = 0
    complete: bool = False

    def basis(self, capacity: int) -> Basis:
        if self.length:
            return Basis.LENGTH
        if self.allocated or (self.wanted is not None and self.wanted < capacity):
            return Basis.ALLOCATED
        return Basis.POSITION

    def share(self, capacity: int) -> float:
        if self.complete:
            return 1.0
        if self.length:
            return self.wire / self.length
        if self.wanted is not None:
            return self.data / self.wanted if self.wanted else 1.0
        if self.allocated:
            return self._allocated_share(self.allocated, capacity)
        return (self.data if self.position is None else self.position) / capacity if capacity else 1.0

    def _allocated_share(self, allocated: int, capacity: int) -> float:
        if not self.data:
            return 0.0
        room = capacity - (self.data if self.position is None else self.position)
        rest: float = allocated - self.data
        if rest < 0:
            rest = room * self.data / (self.position or capacity)
        return self.data / (self.data + max(0.0, min(rest, room)))


class Meter:
    """Counters of one disk. Thread-safe."""

    def __init__(
        self,
        label: str,
        file_name: str,
        capacity_bytes: int,
    ) -> None:
        self.label = label
        self.file_name = file_name
        self._capacity = capacity_bytes
        self._read_back_share = 0.0
        self._lock = threading.Lock()
        self._phase = Phase.QUEUED
        self._note = ""
        self._waits: list[str] = []
        self._pass = _Pass()
        self._guest = self._skipped = self._read_back = self._read_back_total = 0
        # Over all attempts: bytes received and bytes written to the image's file; blocks written and blocks of zeros.
        self.wire_bytes = self.written_bytes = self.blocks_written = self.blocks_zero = self.attempts = 0
        self._fraction = 0.0
        self._readers: list[Timeline] = []
        self._workers: list[Timeline] = []
        self._samples: deque[_Sample] = deque()

    # Updated by the caller

    def enter(self, phase: Phase, note: str = "") -> None:
        """Sets the phase; ``note`` is one line for the user."""
        with self._lock:
            self._phase, self._note = phase, note
            self._samples.clear()

    @contextmanager
    def waiting(self, note: str) -> Iterator[None]:
        """Shows phase ``waiting`` with ``note`` while the block runs; several threads may wait at once."""
        with self._lock:
            self._waits.append(note)
        try:
            yield
        finally:
            with self._lock:
                self._waits.remove(note)
                if not self._waits:
                    self._samples.clear()  # the time of waiting is not part of the rate

    def expect_read_back(self, share: float) -> None:
        """Sets the share of the work, from 0 to 1, that reading the image back (phase ``verifying``) will be. To be
        called before anything is copied."""
        with self._lock:
            self._read_back_share = share

    def check_earlier(self, total_bytes: int) -> None:
        """Begins to check ``total_bytes`` that an earlier process copied, counted by ``add_read_back``. They do not
        count as progress of the copy."""
        self._read(Phase.PREPARING, total_bytes, f"checking what an earlier run copied, {format_size(total_bytes)}")

    def read_back(self, total_bytes: int) -> None:
        """Begins to read ``total_bytes`` of the image back, counted by ``add_read_back``."""
        self._read(Phase.VERIFYING, total_bytes)

    def _read(self, phase: Phase, total_bytes: int, note: str = "") -> None:
        self.enter(phase, note)
        with self._lock:
            self._read_back, self._read_back_total = 0, total_bytes

    def add_read_back(self, count: int) -> None:
        """Adds bytes of the image that were read back."""
        with self._lock:
            self._read_back += count

    # Updated by the engine

    def begin_stream(self, length: int | None, allocated: int | None) -> None:
        """Begins a stream at its first byte; its length and the allocated bytes where known."""
        self._begin(_Pass(length=length, allocated=allocated, again=min(self._guest, self._capacity)))

    def begin_ranges(self, wanted_bytes: int, done_bytes: int) -> None:
        """Begins to fetch ranges: of ``wanted_bytes`` that may hold data, the image has ``done_bytes`` already."""
        self._begin(_Pass(wanted=wanted_bytes, data=done_bytes))

    def _begin(self, new: _Pass) -> None:
        with self._lock:
            self._pass = new
            self._phase, self._note = Phase.TRANSFERRING, ""
            self._samples.clear()

    def tried(self) -> None:
        """Counts another attempt."""
        with self._lock:
            self.attempts += 1

    def found(self, skipped_bytes: int) -> None:
        """Adds guest bytes that are in the image from an earlier run."""
        with self._lock:
            self._skipped += skipped_bytes
            self._guest += skipped_bytes

    def add_wire(self, count: int) -> None:
        """Adds received bytes."""
        with self._lock:
            self.wire_bytes += count
            self._pass.wire += count

    def add_decoded(self, data_bytes: int, position: int | None) -> None:
        """Adds guest bytes of the source; ``position`` is their highest end, None once they came out of order."""
        with self._lock:
            self._pass.data += data_bytes
            self._pass.position = position

    def add_stored(self, guest_bytes: int, written_bytes: int, blocks_written: int, blocks_zero: int) -> None:
        """Adds guest bytes that are in the image now, the bytes written to its file for them, and the numbers of blocks
        that were written, and not written because they are zero."""
        with self._lock:
            self._guest += guest_bytes
            self.written_bytes += written_bytes
            self.blocks_written += blocks_written
            self.blocks_zero += blocks_zero

    def complete_pass(self) -> None:
        """Notes that the source was read to its end."""
        with self._lock:
            self._pass.complete = True

    def reader(self) -> Timeline:
        """Returns the timeline of a new thread that reads from the source."""
        return self._timeline(self._readers)

    def worker(self) -> Timeline:
        """Returns the timeline of a new thread that processes what was read."""
        return self._timeline(self._workers)

    def _timeline(self, timelines: list[Timeline]) -> Timeline:
        timeline = Timeline(time.monotonic)
        with self._lock:
            timelines.append(timeline)
        return timeline

    # Read by a display

    def snapshot(self, now: float) -> DiskProgress:
        """Returns the progress at ``now`` (seconds of any steady clock, rising from call to call)."""
        with self._lock:
            share = self._share()
            real = self._whole(share)
            self._fraction = max(self._fraction, real)
            self._sample(now, share)
            moving = not self._waits or self._moved_lately
            return DiskProgress(
                label=self.label,
                file_name=self.file_name,
                phase=Phase.WAITING if self._waits else self._phase,
                capacity_bytes=self._capacity,
                wire_bytes=self.wire_bytes,
                guest_bytes=self._guest,
                written_bytes=self.written_bytes,
                skipped_bytes=self._skipped,
                fraction=self._fraction,
                basis=self._basis(),
                rate_bytes_s=self._rate(now) if moving else None,
                eta_s=self._eta(now) if moving else None,
                bottleneck=self._bottleneck(now),
                attempt=self.attempts,
                note=self._waits[-1] if self._waits else self._note,
                again_bytes=self._pass.again,
                redone=real if real < self._fraction - _REDONE_STEP and self._phase in _UNDONE else None,
            )

    def _share(self) -> float:
        """The fraction of the current phase."""
        if self._reads_back:
            return self._read_back / self._read_back_total if self._read_back_total else 1.0
        return self._pass.share(self._capacity)

    def _whole(self, share: float) -> float:
        if self._phase is Phase.DONE:
            return 1.0
        if self._phase is Phase.PREPARING:
            return 0.0
        transfer, read_back = 1 - self._read_back_share, self._read_back_share
        whole = transfer + read_back * share if self._phase is Phase.VERIFYING else transfer * share
        return min(max(whole, 0.0), MAX_UNFINISHED_FRACTION)

    @property
    def _reads_back(self) -> bool:
        return self._phase in (Phase.PREPARING, Phase.VERIFYING)

    def _basis(self) -> Basis:
        return Basis.BYTES_READ if self._reads_back else self._pass.basis(self._capacity)

    def _moved(self) -> int:
        return self._read_back if self._reads_back else self.wire_bytes

    @property
    def _moved_lately(self) -> bool:
        """Whether something moved although a thread waits."""
        return len(self._samples) > 1 and self._samples[-1].moved_bytes > self._samples[-2].moved_bytes

    def _sample(self, now: float, share: float) -> None:
        if self._samples and now - self._samples[-1].now < _SAMPLE_EVERY_S:
            return
        self._samples.append(_Sample(now, self._moved(), share, total(self._readers), total(self._workers)))
        while len(self._samples) > 2 and now - self._samples[1].now >= RATE_WINDOW_S:
            self._samples.popleft()

    def _since(self, now: float, window_s: float) -> tuple[_Sample, _Sample] | None:
        """The first and last sample of the last ``window_s``; None while there are not two."""
        if len(self._samples) < 2:
            return None
        inside = (sample for sample in self._samples if now - sample.now <= window_s)
        first, last = next(inside, self._samples[-2]), self._samples[-1]
        return (first, last) if first is not last else (self._samples[-2], last)

    def _rate(self, now: float) -> float | None:
        span = self._since(now, RATE_WINDOW_S)
        return (span[1].moved_bytes - span[0].moved_bytes) / (span[1].now - span[0].now) if span else None

    def _eta(self, now: float) -> float | None:
        """From the fraction of the phase, because ``fraction`` may still be that of an earlier attempt."""
        span = self._since(now, RATE_WINDOW_S)
        if span is None or span[1].share <= span[0].share:
            return None
        speed = (span[1].share - span[0].share) / (span[1].now - span[0].now)
        return max(0.0, 1 - span[1].share) / speed

    def _bottleneck(self, now: float) -> Bottleneck | None:
        span = self._since(now, BOTTLENECK_WINDOW_S)
        if span is None:
            return None
        first, last = span
        return bottleneck(difference(last.readers, first.readers), difference(last.workers, first.workers))
