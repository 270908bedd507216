"""Raw images: the guest's bytes at the guest's offsets; what was never written is a hole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final, Self

from hypersdk.formats.image import BLOCK, BlockFile, Buffer, Piece, check_range
from hypersdk.units import MiB

_SCAN: Final = 4 * MiB  # bytes read at once by data_extents
_ZEROS: Final = bytes(_SCAN)


class RawWriter:
    """An ImageWriter for raw images. There is no header: only the file's name can tell an unfinished image from a
    finished one."""

    ordered: ClassVar[bool] = False

    def __init__(self, file: BlockFile, capacity: int) -> None:
        self._file = file
        self.capacity = capacity

    @classmethod
    def create(cls, file: BlockFile, capacity: int) -> Self:
        """A new image in ``file``; what the file held is gone."""
        file.truncate(0)
        file.truncate(capacity)
        return cls(file, capacity)

    @classmethod
    def resume(cls, file: BlockFile, capacity: int) -> Self:
        """Goes on with an image that ``create`` began. Every block that is not known to be good must be written
        again."""
        if file.size() > capacity:
            file.truncate(capacity)  # a shorter one stays short until ``finish``: only its length says what it lost
        return cls(file, capacity)

    def write(self, offset: int, data: Buffer) -> None:
        """Writes ``data`` where it belongs."""
        check_range(offset, memoryview(data).nbytes, self.capacity)
        self._file.pwrite([data], offset)

    def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Returns all pieces: raw images hold nothing compressed."""
        return pieces

    def sync(self) -> None:
        """Makes all that was written durable."""
        self._file.sync()

    def finish(self) -> None:
        """The image is complete once it has its size and is durable."""
        if self._file.size() != self.capacity:
            self._file.truncate(self.capacity)
        self._file.sync()

    def data_extents(self) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` of runs of blocks that are not all zero. Reads the whole image: nothing else knows what
        was written."""
        start: int | None = None
        for offset, is_data in self._blocks():
            if is_data:
                start = offset if start is None else start
            elif start is not None:
                yield start, offset - start
                start = None
        if start is not None:
            yield start, self.capacity - start

    def stored(self) -> Iterator[range]:
        """Runs of blocks that are not all hole."""
        end = 0
        for run in self._file.data_runs(0):
            first, stop = max(end, run.start // BLOCK), -(-min(run.stop, self.capacity) // BLOCK)
            if first < stop:
                yield range(first, stop)
                end = stop

    def read(self, offset: int, buffer: memoryview) -> None:
        """The bytes at ``offset``; behind the end of a file that was cut short there are zeros."""
        check_range(offset, len(buffer), self.capacity)
        buffer[:] = self._file.pread(len(buffer), offset).ljust(len(buffer), b"\0")

    def drop(self, blocks: Iterable[int]) -> None:
        """Makes holes of ``blocks``."""
        for index in blocks:
            self._file.discard(index * BLOCK, min(BLOCK, self.capacity - index * BLOCK))

    def allocated_runs(self) -> Iterator[range]:
        """Runs of blocks that have no hole in them and end before the file does."""
        for run in self._file.data_runs(0):
            first = -(-run.start // BLOCK)
            end = -(-self.capacity // BLOCK) if run.stop >= self.capacity else run.stop // BLOCK
            if first < end:
                yield range(first, end)

    def _blocks(self) -> Iterator[tuple[int, bool]]:
        """``(offset, is_data)``, in large steps where all is zero."""
        for offset in range(0, self.capacity, _SCAN):
            data = self._file.pread(min(_SCAN, self.capacity - offset), offset)
            if data == _ZEROS[: len(data)]:
                yield offset, False
                continue
            for start in range(0, len(data), BLOCK):
                block = data[start : start + BLOCK]
                yield offset + start, block != _ZEROS[: len(block)]
