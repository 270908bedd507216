"""Copies a disk as ranges of a raw file: only what may hold data and is not in the image yet, several ranges at
once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final

from hypersdk.errors import Cancelled
from hypersdk.formats.image import BLOCK
from hypersdk.transfer.activity import Activity, Timeline
from hypersdk.transfer.blockmap import BlockMap, cut
from hypersdk.transfer.digest import hash_block
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.policies import PolicedRanges, Policies
from hypersdk.transfer.progress import Meter, Waiting, unseen
from hypersdk.transfer.sink import Block, Sink, differs_now
from hypersdk.transfer.source import RangeSource
from hypersdk.transfer.workergroup import WorkerGroup
from hypersdk.units import MiB

PIECE: Final = 4 * MiB


class RangePass:
    """Fetches what is missing. Created inside the block of a group, run once."""

    def __init__(
        self,
        group: WorkerGroup,
        source: RangeSource,
        policies: Policies,
        ledger: BlockLedger,
        sink: Sink,
        meter: Meter,
        streams: int,
    ) -> None:
        """``streams`` ranges are read at once."""
        self._group = group
        self._source = source
        self._policies = policies
        self._ledger = ledger
        self._sink = sink
        self._meter = meter
        self._streams = streams
        self._piece_blocks = max(1, policies.step_bytes(PIECE) // BLOCK)
        self._lock = threading.Lock()
        self._pieces: Iterator[tuple[int, range]] = iter(())
        self._none_left = group.token.child()

    def run(self) -> None:
        """Returns when nothing is missing, which is checked at the end. Raises the first error of any thread, and
        IntegrityError ``content_differs`` where data of an earlier stream lies outside of the source's extents."""
        wanted = _blocks_of(self._source.extents(self._group.token), self._ledger)
        if (index := self._ledger.data_outside(wanted)) is not None:
            raise differs_now(self._source.label, index)  # of a stream that broke, and the disk has nothing there
        missing = sum(len(run) for run in _missing(wanted, self._ledger))
        self._meter.begin_ranges(wanted.count * BLOCK, (wanted.count - missing) * BLOCK)
        self._pieces = enumerate(cut(_missing(wanted, self._ledger), self._piece_blocks))
        for number in range(max(1, min(self._streams, missing))):
            # Only one shows that it waits for its slot: the disk is not waiting while others copy.
            waiting = self._meter.waiting if number == 0 else unseen
            self._group.start(f"range {number + 1}", partial(self._fetch, waiting))
        self._group.wait()
        if (lost := next(_missing(wanted, self._ledger), None)) is not None:
            raise RuntimeError(f"{self._source.label}: blocks {lost.start} to {lost.stop} were taken and not stored")
        self._meter.complete_pass()

    def _fetch(self, waiting: Waiting) -> None:
        with ExitStack() as slot:
            try:
                ranges = slot.enter_context(self._policies.ranges(self._source, self._meter, self._none_left, waiting))
            except Cancelled:
                if not self._none_left.cancelled:
                    raise
                self._group.token.check()
                return  # the others have fetched everything while it waited
            self._fetch_pieces(ranges)

    def _fetch_pieces(self, ranges: PolicedRanges) -> None:
        """Fetches pieces until there are none left. A piece that was taken is fetched, or its error is raised."""
        buffer = memoryview(bytearray(self._piece_blocks * BLOCK))
        with self._meter.reader() as time:
            while (piece := self._next_piece()) is not None:
                number, blocks = piece
                self._fetch_piece(ranges, number, blocks, buffer, time)

    def _next_piece(self) -> tuple[int, range] | None:
        with self._lock:
            piece = next(self._pieces, None)
        if piece is None:
            self._none_left.cancel("no ranges are left")
        return piece

    def _fetch_piece(
        self, ranges: PolicedRanges, number: int, blocks: range, buffer: memoryview, time: Timeline
    ) -> None:
        offset = blocks.start * BLOCK
        view = buffer[: min(blocks.stop * BLOCK, self._source.capacity_bytes) - offset]
        ranges.read(offset, view, self._group.token)
        time.switch(Activity.CPU)
        found = [_block(offset + at, view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]
        time.switch(Activity.IDLE)
        self._sink.store(number, found, time)
        self._meter.add_decoded(len(view), None)


def _block(offset: int, data: memoryview) -> Block:
    return Block(offset, len(data), hash_block(data), data)


def _blocks_of(extents: Iterable[tuple[int, int]], ledger: BlockLedger) -> BlockMap:
    """Returns the blocks that ``extents`` touch; what is outside the disk or empty is ignored."""
    wanted = BlockMap(ledger.blocks)
    for offset, length in extents:
        low, high = max(offset, 0), min(offset + length, ledger.capacity)
        if low < high:
            wanted.add_run(low // BLOCK, -(-high // BLOCK))
    return wanted


def _missing(wanted: BlockMap, ledger: BlockLedger) -> Iterator[range]:
    for run in wanted.runs(0, wanted.blocks, present=True):
        yield from ledger.missing(run.start, run.stop)
