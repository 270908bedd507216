"""One disk as ranges of a raw file: only what may hold data and is not in the image yet, several ranges at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import Cancelled, TransientError
from hypersdk.formats.image import BLOCK
from hypersdk.transfer.activity import Activity, Timeline
from hypersdk.transfer.blockmap import BlockMap
from hypersdk.transfer.budget import EXHAUSTED_CODE, StreamBudget
from hypersdk.transfer.crew import SequenceGate, WorkerGroup
from hypersdk.transfer.digest import hash_block
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.limit import BandwidthLimit
from hypersdk.transfer.progress import Meter, unseen
from hypersdk.transfer.retry import Attempts, RetryPolicy
from hypersdk.transfer.sink import Block, Sink
from hypersdk.transfer.source import RangeSource
from hypersdk.units import MiB

PIECE: Final = 4 * MiB


@dataclass(frozen=True, slots=True)
class RangeOptions:
    """How ranges are fetched: ``streams`` at once, within ``budget`` and ``limit``; ``ordered`` stores them in rising
    order."""

    streams: int
    ordered: bool
    retry: RetryPolicy
    limit: BandwidthLimit | None
    budget: StreamBudget | None


class RangePass:
    """Fetches what is missing. Made inside a crew's block, run once."""

    def __init__(
        self,
        crew: WorkerGroup,
        source: RangeSource,
        ledger: BlockLedger,
        sink: Sink,
        meter: Meter,
        options: RangeOptions,
        retried: Callable[[], None],
    ) -> None:
        self._crew = crew
        self._source = source
        self._ledger = ledger
        self._sink = sink
        self._meter = meter
        self._options = options
        self._retried = retried
        self._turns: SequenceGate | None = crew.adopt(SequenceGate()) if options.ordered else None
        self._lock = threading.Lock()
        self._pieces: Iterator[tuple[int, range]] = iter(())
        self._none_left = crew.token.child()

    def run(self) -> None:
        """Returns when nothing is missing. Raises the first error of any thread."""
        wanted = _blocks_of(self._source.extents(self._crew.token), self._ledger)
        missing = sum(len(run) for run in _missing(wanted, self._ledger))
        self._meter.begin_ranges(wanted.count * BLOCK, (wanted.count - missing) * BLOCK)
        self._pieces = enumerate(_cut(_missing(wanted, self._ledger), self._piece_blocks()))
        for number in range(max(1, min(self._options.streams, missing))):
            self._crew.start(f"range {number + 1}", self._fetcher(first=number == 0))
        self._crew.wait()
        self._meter.complete_pass()

    def _piece_blocks(self) -> int:
        step = PIECE if self._options.limit is None else min(PIECE, self._options.limit.step_bytes)
        return max(1, step // BLOCK)

    def _fetcher(self, *, first: bool) -> Callable[[], None]:
        return lambda: self._fetch(self._meter.waiting if first else unseen)

    def _fetch(self, waiting: Callable[[str], AbstractContextManager[None]]) -> None:
        buffer = memoryview(bytearray(self._piece_blocks() * BLOCK))
        budget = self._options.budget
        slot = budget.stream(self._source.host, self._none_left, waiting) if budget is not None else nullcontext()
        try:
            with slot, self._meter.reader() as time:
                while (piece := self._next_piece()) is not None:
                    number, blocks = piece
                    self._fetch_piece(number, blocks, buffer, time)
        except Cancelled:
            self._crew.token.check()  # else it waited for a slot until the others had done it all

    def _next_piece(self) -> tuple[int, range] | None:
        with self._lock:
            piece = next(self._pieces, None)
        if piece is None:
            self._none_left.cancel("no ranges are left")
        return piece

    def _fetch_piece(self, number: int, blocks: range, buffer: memoryview, time: Timeline) -> None:
        offset = blocks.start * BLOCK
        view = buffer[: min(blocks.stop * BLOCK, self._source.capacity_bytes) - offset]
        self._read(offset, view, time)
        time.switch(Activity.CPU)
        found = [_block(offset + at, view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]
        time.switch(Activity.IDLE)
        with nullcontext() if self._turns is None else self._turns.turn(number):
            self._sink.store(found, time)
        self._meter.add_decoded(len(view), None)

    def _read(self, offset: int, view: memoryview, time: Timeline) -> None:
        attempts = Attempts(self._options.retry)
        while True:
            time.switch(Activity.READING)
            try:
                self._source.read(offset, view, self._crew.token)
                break
            except TransientError as error:
                wait_s = attempts.failed(error)
                self._back_off(error)
                self._crew.token.sleep(wait_s)
        self._meter.add_wire(len(view))
        if self._options.limit is not None:
            time.switch(Activity.LIMITED)
            self._options.limit.take(len(view), self._crew.token)

    def _back_off(self, error: TransientError) -> None:
        self._retried()
        if error.code == EXHAUSTED_CODE and self._options.budget is not None:
            self._options.budget.exhausted(self._source.host)


def _block(offset: int, data: memoryview) -> Block:
    return Block(offset, len(data), hash_block(data), data)


def _blocks_of(extents: Iterable[tuple[int, int]], ledger: BlockLedger) -> BlockMap:
    """The blocks that extents touch; what lies outside the disk, or is no range, is dropped."""
    wanted = BlockMap(ledger.blocks)
    for offset, length in extents:
        low, high = max(offset, 0), min(offset + length, ledger.capacity)
        if low < high:
            wanted.add_run(low // BLOCK, -(-high // BLOCK))
    return wanted


def _missing(wanted: BlockMap, ledger: BlockLedger) -> Iterator[range]:
    for run in wanted.runs(0, wanted.blocks, present=True):
        yield from ledger.missing(run.start, run.stop)


def _cut(runs: Iterable[range], piece_blocks: int) -> Iterator[range]:
    """Pieces of at most so many blocks, ending at multiples of them so that neighbours of different runs line up."""
    for run in runs:
        start = run.start
        while start < run.stop:
            stop = min(run.stop, (start // piece_blocks + 1) * piece_blocks)
            yield range(start, stop)
            start = stop
