"""Stores blocks: writer, ledger and counters, in an order that makes a kill at any moment harmless.

::

    blocks ── known to the ledger? ── yes ── same hash? ── no ── error: not the same disk
                                 └── no ──── zero? ── yes ──────────────────────────┐
                                                  └── no ── writer (data, tables) ──┴── ledger ── counters ── checkpoint
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from hypersdk.errors import HyperSDKError, IntegrityError, register
from hypersdk.formats.image import BLOCK, Buffer, ImageWriter, Piece
from hypersdk.formats.vmdk.stream import inflate
from hypersdk.remedies import Discard
from hypersdk.transfer.activity import Activity, Timeline
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import ZERO_BLOCK
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.ledger import UNHASHED, BlockLedger
from hypersdk.transfer.policies import Record
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.workergroup import SequenceGate, WorkerGroup

CONTENT_DIFFERS: Final = register(
    "content_differs",
    "A block that was read again differs from its first copy: the disk changed, or one of the two copies was damaged"
    " in transit.",
    Discard(),
    "If it happens again, check the source datastore and the network path to it.",
)

BEHIND: Final = 4
"""How many checkpoint intervals may be written and not yet durable, which a power cut may lose. Beyond, the copy waits
for the disk."""
_POLL_S: Final = 0.2


def differs_now(label: str, index: int) -> IntegrityError:
    """The error for block ``index``, which is not the same as when it was copied first."""
    offset = index * BLOCK
    message = f"{label}: the block at guest offset {offset} differs from its first copy"
    return IntegrityError(message, code=CONTENT_DIFFERS, offset=offset)


@dataclass(slots=True)
class Block:
    """A block to be stored: its bytes, or the grain that holds them, or both. ``digest`` is UNHASHED where the grain
    was not inflated."""

    offset: int
    length: int
    digest: bytes
    data: Buffer | None
    piece: Piece | None = None

    @property
    def index(self) -> int:
        """The index of the block."""
        return self.offset // BLOCK

    def plain(self) -> Buffer:
        """Returns the guest's bytes; inflates the grain if needed. Raises IntegrityError ``corrupt_grain``."""
        if self.data is None:
            assert self.piece is not None
            self.data = inflate(self.piece)
        return self.data


class Sink:
    """Stores blocks, for one pass. Thread-safe, each block once."""

    def __init__(
        self,
        group: WorkerGroup,
        writer: ImageWriter,
        ledger: BlockLedger,
        record: Record,
        meter: Meter,
        checkpoints: Checkpoints | None,
    ) -> None:
        """``record`` is that of the ledger, with policies."""
        self._gate = group.adopt(SequenceGate()) if writer.ordered else None
        self._writer = writer
        self._ledger = ledger
        self._record_blocks = record
        self._meter = meter
        self._checkpoints = checkpoints
        self._cancel = group.token
        self._doing = f"writing {meter.file_name}"

    def store(self, number: int, blocks: Sequence[Block], time: Timeline) -> None:
        """Writes what is new of the batch ``number``, in the order of the numbers where the writer needs it. When it
        returns, all of ``blocks`` survive the death of this process.

        Raises TargetError, and IntegrityError ``content_differs`` when a recorded block differs now.
        """
        with nullcontext() if self._gate is None else self._gate.turn(number):
            time.switch(Activity.CPU)
            self._store(blocks, time)
            time.switch(Activity.IDLE)

    def _store(self, blocks: Sequence[Block], time: Timeline) -> None:
        new = [block for block in blocks if not self._ledger.has(block.index)]
        if len(new) < len(blocks):
            self._compare([block for block in blocks if self._ledger.has(block.index)])
        data = [block for block in new if block.digest != ZERO_BLOCK]
        with target_errors(self._doing):
            written = self._write(data)  # counted as CPU, but for the file's part (transfer.space)
            time.switch(Activity.WRITING)
            self._record(new)
        self._meter.add_stored(sum(block.length for block in new), written, len(data), len(new) - len(data))
        if self._checkpoints is not None:
            self._checkpoints.wrote(sum(block.length for block in data), self._cancel)

    def _compare(self, known: Sequence[Block]) -> None:
        for run in _runs(known):
            recorded = self._ledger.hashes(run[0].index, len(run))
            for block, before in zip(run, recorded, strict=True):
                unhashed = UNHASHED in (block.digest, before)
                if not (self._is_stored(block) if unhashed else block.digest == before):
                    raise differs_now(self._meter.label, block.index)

    def _is_stored(self, block: Block) -> bool:
        """Whether the image has these bytes: the first copy of a block that was stored without a look at it came from a
        stream that broke, which no digest of a later stream covers."""
        found = memoryview(bytearray(block.length))
        try:
            self._writer.read(block.offset, found)
        except IntegrityError:
            return False
        return found == block.plain()

    def _write(self, blocks: Sequence[Block]) -> int:
        """Returns the number of bytes written: deflated blocks as they are, plain ones in one write with their
        neighbours."""
        pieces = [block.piece for block in blocks if block.piece is not None]
        refused = {piece.offset for piece in self._writer.write_deflated(pieces)} if pieces else set()
        written = sum(len(piece.zlib) for piece in pieces if piece.offset not in refused)
        for run in _runs([block for block in blocks if block.piece is None or block.offset in refused]):
            data = run[0].plain() if len(run) == 1 else b"".join(block.plain() for block in run)
            self._writer.write(run[0].offset, data)
            written += len(data)
        return written

    def _record(self, blocks: Sequence[Block]) -> None:
        for run in _runs(blocks):
            self._record_blocks(run[0].index, [block.digest for block in run])


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yields lists of adjacent blocks, in the given order."""
    run: list[Block] = []
    for block in blocks:
        if run and block.offset != run[-1].offset + BLOCK:
            yield run
            run = []
        run.append(block)
    if run:
        yield run


class Checkpoints:
    """Makes the copy durable each ``interval_bytes``, in its own thread, while the copy continues.

    Once ``BEHIND`` intervals are written and not durable, ``wrote`` waits.
    """

    def __init__(self, ledger: BlockLedger, sync: Callable[[], None], interval_bytes: int, name: str) -> None:
        self._ledger = ledger
        self._sync = sync
        self._interval = interval_bytes
        self._name = name
        self._changed = threading.Condition()
        self._pending = 0
        self._closing = False
        self._error: HyperSDKError | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name}: checkpoints")

    def wrote(self, count: int, cancel: CancelToken) -> None:
        """Adds guest bytes that were written. Raises the TargetError of a checkpoint that failed, and Cancelled."""
        with self._changed:
            self._pending += count
            self._changed.notify_all()
            while self._pending >= BEHIND * self._interval and self._error is None:
                self._changed.wait(_POLL_S)
                cancel.check()
            if self._error is not None:
                raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (due := self._due()) is not None:
            try:
                with target_errors(f"syncing {self._name}"):
                    self._ledger.checkpoint(self._sync)
            except HyperSDKError as error:
                self._error = error
            with self._changed:
                self._pending -= due
                self._changed.notify_all()

    def _due(self) -> int | None:
        """Waits until an interval was written and returns its bytes; None at the end, and after an error."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._error or self._pending >= self._interval)
            return None if self._closing or self._error else self._pending
