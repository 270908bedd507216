"""One pass over a streamOptimized VMDK, from its first byte to its last, in several threads.

::

    socket ──chunk 4 MiB──> decoder ──16 grains a batch──> channel ──> 2 workers: inflate, hash, sink
               └──────────> hash thread (SHA-256 of the stream, or SHA-1 where the server only has that)

Memory: the chunks, which are reused as soon as their bytes are not needed any more; a few batches; what the workers
inflate. Grains are views into the chunk, so the stream is not copied between the socket and the inflater.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import TRUNCATED_STREAM, HyperSDKError, IntegrityError, TransientError
from hypersdk.formats.image import BLOCK
from hypersdk.formats.vmdk.stream import Grain, GrainDecoder, inflate
from hypersdk.transfer.activity import Activity
from hypersdk.transfer.blockmap import BlockMap
from hypersdk.transfer.digest import hash_block
from hypersdk.transfer.ledger import UNHASHED
from hypersdk.transfer.policies import CopyOptions
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.sink import Block, Sink
from hypersdk.transfer.source import ByteStream, StreamDigests, StreamSource
from hypersdk.transfer.workergroup import Channel, WorkerGroup
from hypersdk.units import MiB

CHUNK: Final = 4 * MiB
CHUNKS: Final = 4
"""One is filled, one hashed, two processed."""
BATCH_GRAINS: Final = 16
BATCHES: Final = 8
LINGER_S: Final = 0.5
"""A chunk that fills slowly is processed after this time, so that little is lost when the stream breaks."""


class _Chunk:
    """A buffer and the number of its users; returns to its pool after the last one."""

    def __init__(self, pool: Channel[_Chunk], size: int) -> None:
        self.view = memoryview(bytearray(size))
        self._pool = pool
        self._lock = threading.Lock()
        self._holders = 0

    def hold(self, holders: int) -> None:
        """Sets the number of users, which each call ``release`` once. Without users it returns to the pool."""
        self._holders = holders
        if not holders:
            self._pool.put(self)

    def release(self) -> None:
        """Ends the use by one user."""
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            self._pool.put(self)


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    grains: Sequence[Grain]
    chunk: _Chunk


class StreamPass:
    """One pass. Created inside the block of a group, run once."""

    def __init__(
        self,
        group: WorkerGroup,
        stream: ByteStream,
        source: StreamSource,
        sink: Sink,
        meter: Meter,
        options: CopyOptions,
        arrived: BlockMap | None = None,
    ) -> None:
        """``arrived`` gets the blocks of the stream."""
        self._group = group
        self._stream = stream
        self._sink = sink
        self._meter = meter
        self._options = options
        self._arrived = arrived
        self._decoder = GrainDecoder(expected_capacity=source.capacity_bytes)
        self._hasher = hashlib.new(source.algorithm, usedforsecurity=False)
        self._free = group.adopt(Channel[_Chunk](CHUNKS))
        for _ in range(CHUNKS):
            self._free.put(_Chunk(self._free, CHUNK))
        self._to_hash = group.adopt(Channel[tuple[_Chunk, memoryview]](CHUNKS))
        self._batches = group.adopt(Channel[_Batch](BATCHES))
        self._batch_number = 0
        self._received = 0
        self._position: int | None = 0
        self._ended = False
        self._broken: HyperSDKError | None = None

    def run(self) -> StreamDigests:
        """Reads the stream to its end. Raises the first error of any thread; TransientError, or IntegrityError
        ``truncated_stream``, only after everything received was stored.
        """
        self._group.start("read", self._read)
        self._group.start("hash", self._hash)
        for number in range(self._options.workers):
            self._group.start(f"work {number + 1}", self._work)
        self._group.wait()
        if self._broken is not None:
            raise self._broken
        self._meter.complete_pass()
        found = {self._hasher.name: self._hasher.hexdigest()}
        return StreamDigests(found.get("sha256"), found.get("sha1"), self._received)

    # Reader

    def _read(self) -> None:
        with self._meter.reader() as time:
            while not self._ended:
                time.switch(Activity.BACKLOG)
                chunk = self._free.get()
                assert chunk is not None
                view = chunk.view[: self._fill(chunk.view)]
                time.switch(Activity.CPU)
                grains = self._decode(view)
                time.switch(Activity.BACKLOG)
                self._hand_out(chunk, view, grains)
        self._to_hash.close()
        self._batches.close()

    def _fill(self, view: memoryview) -> int:
        """Reads until the chunk is full, ``LINGER_S`` are over, or the stream ends. Returns the bytes read."""
        filled = 0
        waiting_since = self._options.clock()
        while filled < len(view) and self._options.clock() - waiting_since < LINGER_S:
            count = self._receive(view[filled:])
            if not count:
                self._ended = True
                break
            if not filled:
                waiting_since = self._options.clock()
            filled += count
        return filled

    def _receive(self, view: memoryview) -> int:
        self._group.token.check()
        try:
            count = self._stream.readinto(view)
        except TransientError as error:
            self._broken = error
            return 0
        self._received += count
        return count

    def _decode(self, view: memoryview) -> list[Grain]:
        grains = self._decoder.feed(view)
        if self._ended and self._broken is None:
            self._close_decoder()
        if grains:
            if self._position is not None and min(grain.offset for grain in grains) >= self._position:
                self._position = self._decoder.position
            else:
                self._position = None
            self._meter.add_decoded(sum(grain.length for grain in grains), self._position)
        if self._arrived is not None:
            for grain in grains:
                self._arrived.add(grain.offset // BLOCK)
        return grains

    def _close_decoder(self) -> None:
        try:
            self._decoder.close()
        except IntegrityError as error:
            if error.code != TRUNCATED_STREAM:
                raise
            self._broken = error

    def _hand_out(self, chunk: _Chunk, view: memoryview, grains: list[Grain]) -> None:
        starts = range(0, len(grains), BATCH_GRAINS)
        hashed = bool(view)
        chunk.hold(len(starts) + hashed)
        if hashed:
            self._to_hash.put((chunk, view))
        for start in starts:
            self._batches.put(_Batch(self._batch_number, grains[start : start + BATCH_GRAINS], chunk))
            self._batch_number += 1

    # Hash thread

    def _hash(self) -> None:
        with self._meter.worker() as time:
            while (item := self._to_hash.get()) is not None:
                time.switch(Activity.CPU)
                chunk, view = item
                self._hasher.update(view)
                chunk.release()
                time.switch(Activity.IDLE)

    # Workers

    def _work(self) -> None:
        with self._meter.worker() as time:
            while (batch := self._batches.get()) is not None:
                time.switch(Activity.CPU)
                blocks = [self._block(grain) for grain in batch.grains]
                time.switch(Activity.IDLE)
                self._sink.store(batch.number, blocks, time)
                batch.chunk.release()

    def _block(self, grain: Grain) -> Block:
        if not self._options.check:
            return Block(grain.offset, grain.length, UNHASHED, None, grain)
        data = inflate(grain)
        return Block(grain.offset, grain.length, hash_block(data), data, grain)
