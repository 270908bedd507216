"""What surrounds a copy: budget, retries, bandwidth limit, waiting for room, accounting. Each wraps the interface that
it implements; they are stacked here and nowhere else.

::

    StreamSource.open ── slot of the host ── counted ── limited ──> StreamPass, tried again as a whole
    RangeSource.read ─── slot of the host ── tried again ── counted ── limited ──> RangePass
    BlockLedger.record ── waits for room ──> Sink        (the image's file: SpaceWaitingFile, by who opens it)

``counted`` tells the meter of bytes, and the thread's timeline that it reads; the limit is outside of it, so that
waiting for the limit is not taken for a slow source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, TypeVar

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

S = TypeVar("S")
Open: TypeAlias = Callable[[CancelToken], AbstractContextManager[S]]
Record: TypeAlias = Callable[[int, Sequence[bytes]], None]


class RangeReader(Protocol):
    """The part of a RangeSource that reads."""

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """See RangeSource."""
        ...


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of one copy; None where there is none. ``space`` waits for room for the ledger, ``guard`` raises
    where nothing may be written any more."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limit: BandwidthLimit | None = None
    budget: StreamBudget | None = None
    space: SpaceGate | None = None
    guard: Callable[[], None] | None = None

    def stream(self, source: StreamSource, meter: Meter) -> Open[ByteStream]:
        """Opens ``source`` with all of them around it, but for the retries."""

        @contextmanager
        def opened(cancel: CancelToken) -> Iterator[ByteStream]:
            with source.open(cancel) as stream:
                found: ByteStream = _CountedStream(stream, meter)
                yield found if self.limit is None else _LimitedStream(found, self.limit, cancel)

        return self._in_budget(opened, source.host, meter.waiting)

    def ranges(
        self, source: RangeSource, meter: Meter, waiting: Waiting, retried: Callable[[], None]
    ) -> Open[RangeReader]:
        """Opens one of several streams of ranges. ``waiting`` shows that it waits for its slot, ``retried`` hears of
        each new try."""

        @contextmanager
        def opened(_cancel: CancelToken) -> Iterator[RangeReader]:
            found: RangeReader = _CountedRanges(_RetriedRanges(source, self, retried), meter)
            yield found if self.limit is None else _LimitedRanges(found, self.limit)

        return self._in_budget(opened, source.host, waiting)

    def record(self, ledger: BlockLedger, cancel: CancelToken, meter: Meter) -> Record:
        """``ledger.record``, which waits for room. Guarded like the image: blocks of zeros are recorded without a write
        to it."""

        def record(first: int, hashes: Sequence[bytes]) -> None:
            if self.guard is not None:
                self.guard()
            if self.space is None:
                ledger.record(first, hashes)
            else:
                self.space.retry_when_full(lambda: ledger.record(first, hashes), cancel, meter.waiting)

        return record

    def step_bytes(self, most: int) -> int:
        """How much to read at a time, at most ``most``: a limit makes it less, for an even flow."""
        return most if self.limit is None else min(most, self.limit.step_bytes)

    def refused(self, error: HyperSDKError, host: str) -> bool:
        """Lowers the budget of a host that has no room for one more stream. True while others of ours run there: they
        end, and then it has, so such a refusal does not use up a retry."""
        if error.code != EXHAUSTED_CODE or self.budget is None:
            return False
        self.budget.exhausted(host)
        return self.budget.use(host).running > 0

    def _in_budget(self, opened: Open[S], host: str, waiting: Waiting) -> Open[S]:
        budget = self.budget
        if budget is None:
            return opened

        @contextmanager
        def with_slot(cancel: CancelToken) -> Iterator[S]:
            with budget.stream(host, cancel, waiting), opened(cancel) as stream:
                yield stream

        return with_slot


DEFAULT_POLICIES: Final = Policies()
"""Retries, and nothing else."""


class _CountedStream:
    """Tells the meter and the thread's timeline."""

    def __init__(self, stream: ByteStream, meter: Meter) -> None:
        self.length_bytes, self.route = stream.length_bytes, stream.route
        self._stream, self._meter = stream, meter

    def readinto(self, buffer: memoryview) -> int:
        """See ByteStream."""
        with doing(Activity.READING):
            count = self._stream.readinto(buffer)
        self._meter.add_wire(count)
        return count


class _LimitedStream:
    """Pays for what was read before it returns."""

    def __init__(self, stream: ByteStream, limit: BandwidthLimit, cancel: CancelToken) -> None:
        self.length_bytes, self.route = stream.length_bytes, stream.route
        self._stream, self._limit, self._cancel = stream, limit, cancel

    def readinto(self, buffer: memoryview) -> int:
        """See ByteStream."""
        count = self._stream.readinto(buffer[: self._limit.step_bytes])
        if count:
            with doing(Activity.LIMITED):
                self._limit.take(count, self._cancel)
        return count


class _RetriedRanges:
    """Reads a range again when that may help."""

    def __init__(self, source: RangeSource, policies: Policies, retried: Callable[[], None]) -> None:
        self._source, self._policies, self._retried = source, policies, retried

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """See RangeSource."""
        attempts = Attempts(self._policies.retry)
        while True:
            try:
                return self._source.read(offset, buffer, cancel)
            except TransientError as error:
                wait_s = attempts.failed(error)
                self._retried()
                self._policies.refused(error, self._source.host)
            cancel.sleep(wait_s)


class _CountedRanges:
    """Tells the meter and the thread's timeline."""

    def __init__(self, ranges: RangeReader, meter: Meter) -> None:
        self._ranges, self._meter = ranges, meter

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """See RangeSource."""
        with doing(Activity.READING):
            self._ranges.read(offset, buffer, cancel)
        self._meter.add_wire(len(buffer))


class _LimitedRanges:
    """Pays for what was read before it returns."""

    def __init__(self, ranges: RangeReader, limit: BandwidthLimit) -> None:
        self._ranges, self._limit = ranges, limit

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """See RangeSource."""
        self._ranges.read(offset, buffer, cancel)
        with doing(Activity.LIMITED):
            self._limit.take(len(buffer), cancel)
