"""Reads back what an earlier process wrote and compares it before the copy continues.

::

    ledger: block, hash ──┐
                          ├── equal? ── yes ── neither written nor fetched again
    image: block, read ───┘         └── no ─── removed from ledger and image: copied again

Each block that the image has is read once, through the image's own tables, in the order of the disk, and hashed. So a
flipped bit, a lost cluster and a damaged table are all found. Blocks that are neither recorded nor stored read as
zeros, and are not read. What this process writes is not read back.

Memory: two pieces of 4 MiB, and two bits for each 64 KiB of the disk.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from hypersdk.errors import IntegrityError
from hypersdk.formats.image import BLOCK, ImageWriter
from hypersdk.model import Phase
from hypersdk.transfer.blockmap import BlockMap, cut
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import ZERO_BLOCK, hash_block, hash_blocks
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.workergroup import WorkerGroup
from hypersdk.units import MiB

PIECE_BLOCKS: Final = 4 * MiB // BLOCK


def take_over(writer: ImageWriter, ledger: BlockLedger, *, cancel: CancelToken, meter: Meter, workers: int = 2) -> int:
    """Removes all blocks from ledger and image that are not in the image as they were recorded. Returns how many of
    them were recorded.

    To be called after the image was resumed, before anything is written. Raises TargetError and Cancelled.
    """
    before = ledger.recorded
    with target_errors(f"checking {meter.file_name}"):
        stored = BlockMap.of(ledger.blocks, writer.stored())
        ledger.forget_except(stored.runs(0, ledger.blocks, present=True))
        pieces = cut(stored.runs(0, ledger.blocks, present=True), PIECE_BLOCKS)
        check = _Check(writer, ledger, meter, pieces, BlockMap(ledger.blocks))
        meter.check_earlier(stored.count * BLOCK)
        with WorkerGroup(cancel, meter.label) as group:
            for number in range(workers):
                group.start(f"check {number + 1}", lambda: check.run(group.token))
            group.wait()
        if check.wrong.count:
            ledger.forget(check.wrong.runs(0, ledger.blocks, present=True))
            writer.drop(index for run in check.wrong.runs(0, ledger.blocks, present=True) for index in run)
            ledger.forget_except(writer.stored())
        meter.enter(Phase.PREPARING)
    return before - ledger.recorded


@dataclass(slots=True)
class _Check:
    """Compares the blocks of ``pieces`` with the ledger. ``wrong`` are those that must be removed."""

    writer: ImageWriter
    ledger: BlockLedger
    meter: Meter
    pieces: Iterator[range]
    wrong: BlockMap
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, cancel: CancelToken) -> None:
        """Compares pieces until there are none left. Raises OSError, and Cancelled."""
        buffer = memoryview(bytearray(PIECE_BLOCKS * BLOCK))
        while (piece := self._next_piece()) is not None:
            cancel.check()
            self._compare(piece, buffer)
            self.meter.add_read_back(len(piece) * BLOCK)

    def _next_piece(self) -> range | None:
        with self._lock:
            return next(self.pieces, None)

    def _compare(self, piece: range, buffer: memoryview) -> None:
        found = self._hashes(piece, buffer)
        recorded = self.ledger.hashes(piece.start, len(piece))
        for index, digest, known in zip(piece, found, recorded, strict=True):
            if digest != (known if self.ledger.has(index) else ZERO_BLOCK):
                with self._lock:
                    self.wrong.add(index)

    def _hashes(self, piece: range, buffer: memoryview) -> Sequence[bytes | None]:
        """Returns the hash of each block in the image; None where it cannot be read."""
        start, end = piece.start * BLOCK, min(piece.stop * BLOCK, self.ledger.capacity)
        view = buffer[: end - start]
        if self._read(start, view):
            return hash_blocks(view)
        blocks = [view[at : at + BLOCK] for at in range(0, len(view), BLOCK)]
        return [
            hash_block(block) if self._read(index * BLOCK, block) else None
            for index, block in zip(piece, blocks, strict=True)
        ]

    def _read(self, offset: int, view: memoryview) -> bool:
        """Fills ``view``; returns False where the image is damaged or the drive cannot read it."""
        try:
            self.writer.read(offset, view)
        except IntegrityError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return True
