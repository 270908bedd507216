"""The policies of a copy: budget, retries, bandwidth limit, waiting for space, accounting. Only this module combines
them.

::

    StreamSource.open ── slot of the host ── counted ── limited ──> StreamPass, retried as a whole
    RangeSource.read ─── slot of the host ── retried ── counted ── limited ──> RangePass
    BlockLedger.record ── waits for space ──> Sink       (the caller wraps the image's file: SpaceWaitingFile)

Reading is counted and recorded in the thread's timeline. Waiting for the limit follows, so it is not mistaken for a
slow source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

from hypersdk.errors import HyperSDKError, TransientError
from hypersdk.transfer.activity import Activity, doing
from hypersdk.transfer.budget import EXHAUSTED_CODE, StreamBudget
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.limit import BandwidthLimit
from hypersdk.transfer.progress import Meter, Waiting
from hypersdk.transfer.retry import Attempts, RetryPolicy
from hypersdk.transfer.source import ByteStream, RangeSource, StreamSource
from hypersdk.transfer.space import SpaceGate
from hypersdk.units import MiB

Record: TypeAlias = Callable[[int, Sequence[bytes]], None]


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of one copy; None where there is none. ``space`` waits for free space for the ledger, ``guard``
    raises where nothing may be written any more."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limit: BandwidthLimit | None = None
    budget: StreamBudget | None = None
    space: SpaceGate | None = None
    guard: Callable[[], None] | None = None

    @contextmanager
    def stream(self, source: StreamSource, meter: Meter, cancel: CancelToken) -> Iterator[ByteStream]:
        """Opens ``source`` in a slot of its host; what is read is counted and limited."""
        with self._slot(source.host, cancel, meter.waiting), source.open(cancel) as stream:
            yield _PolicedStream(stream, meter, self.limit, cancel)

    @contextmanager
    def ranges(
        self, source: RangeSource, meter: Meter, cancel: CancelToken, waiting: Waiting
    ) -> Iterator[PolicedRanges]:
        """Opens one of several readers of ``source`` in a slot of its host. ``waiting`` shows that it waits for the
        slot, until ``cancel``. Reads are retried, counted and limited."""
        with self._slot(source.host, cancel, waiting):
            yield PolicedRanges(source, meter, self)

    def record(self, ledger: BlockLedger, cancel: CancelToken, meter: Meter) -> Record:
        """Returns ``ledger.record`` with waiting for space. It is guarded like the image, because blocks of zeros are
        recorded without a write to the image."""

        def record(first: int, hashes: Sequence[bytes]) -> None:
            if self.guard is not None:
                self.guard()
            if self.space is None:
                ledger.record(first, hashes)
            else:
                self.space.retry_when_full(lambda: ledger.record(first, hashes), cancel, meter.waiting)

        return record

    def step_bytes(self, most: int) -> int:
        """Returns the bytes of one read, at most ``most``; fewer with a limit, for an even flow."""
        return most if self.limit is None else min(most, self.limit.step_bytes)

    def refused(self, error: HyperSDKError, host: str) -> bool:
        """Lowers the budget of a host that has no memory for one more stream. Returns True while other streams of ours
        run there: the host has memory again when they end, so such a refusal does not use up a retry."""
        if error.code != EXHAUSTED_CODE or self.budget is None:
            return False
        self.budget.exhausted(host)
        return self.budget.use(host).running > 0

    def _slot(self, host: str, cancel: CancelToken, waiting: Waiting) -> AbstractContextManager[None]:
        return nullcontext() if self.budget is None else self.budget.stream(host, cancel, waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How a copy is run. ``check=False`` passes grains through unchecked: then there is no content digest. ``workers``
    threads inflate and hash. An attempt that stored ``checkpoint_bytes`` made progress: the count of failures starts
    again."""

    check: bool = True
    workers: int = 2
    range_streams: int = 4
    checkpoint_bytes: int = 64 * MiB
    clock: Callable[[], float] = time.monotonic


class _PolicedStream:
    """Counts what is read, in the meter and the thread's timeline, and applies the limit."""

    def __init__(self, stream: ByteStream, meter: Meter, limit: BandwidthLimit | None, cancel: CancelToken) -> None:
        self.length_bytes, self.route = stream.length_bytes, stream.route
        self._stream, self._meter, self._limit, self._cancel = stream, meter, limit, cancel

    def readinto(self, buffer: memoryview) -> int:
        """See ByteStream."""
        if self._limit is not None:
            buffer = buffer[: self._limit.step_bytes]
        with doing(Activity.READING):
            count = self._stream.readinto(buffer)
        self._meter.add_wire(count)
        if self._limit is not None and count:
            with doing(Activity.LIMITED):
                self._limit.take(count, self._cancel)
        return count


class PolicedRanges:
    """Retries transient errors, counts what is read, in the meter and the thread's timeline, and applies the
    limit."""

    def __init__(self, source: RangeSource, meter: Meter, policies: Policies) -> None:
        self._source, self._meter, self._policies = source, meter, policies

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """See RangeSource."""
        with doing(Activity.READING):
            self._read(offset, buffer, cancel)
        self._meter.add_wire(len(buffer))
        if self._policies.limit is not None:
            with doing(Activity.LIMITED):
                self._policies.limit.take(len(buffer), cancel)

    def _read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        attempts = Attempts(self._policies.retry)
        while True:
            try:
                return self._source.read(offset, buffer, cancel)
            except TransientError as error:
                wait_s = attempts.failed(error)
                self._meter.tried()
                self._policies.refused(error, self._source.host)
            cancel.sleep(wait_s)
