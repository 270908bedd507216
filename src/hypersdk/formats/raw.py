"""Raw images: the guest's bytes at the guest's offsets, with holes where nothing was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Self

from hypersdk.formats.image import BLOCK, BlockFile, Buffer, Piece, check_range


class RawWriter:
    """An ImageWriter for raw images. There is no header: only the file's name distinguishes an unfinished image from a
    finished one."""

    ordered: ClassVar[bool] = False

    def __init__(self, file: BlockFile, capacity: int) -> None:
        self._file = file
        self.capacity = capacity

    @classmethod
    def create(cls, file: BlockFile, capacity: int) -> Self:
        """Creates an image in ``file``, whose content is lost."""
        file.truncate(0)
        file.truncate(capacity)
        return cls(file, capacity)

    @classmethod
    def resume(cls, file: BlockFile, capacity: int) -> Self:
        """Resumes an image of ``create``. Every block that is not known to be good must be written again."""
        if file.size() > capacity:
            file.truncate(capacity)  # a shorter one stays short until ``finish``: only its length shows what it lost
        return cls(file, capacity)

    def write(self, offset: int, data: Buffer) -> None:
        """Writes ``data`` at ``offset``."""
        check_range(offset, memoryview(data).nbytes, self.capacity)
        self._file.pwrite([data], offset)

    def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Returns all pieces: raw images hold nothing compressed."""
        return pieces

    def sync(self) -> None:
        """Makes all that was written durable."""
        self._file.sync()

    def finish(self) -> None:
        """Sets the size and makes the image durable."""
        if self._file.size() != self.capacity:
            self._file.truncate(self.capacity)
        self._file.sync()

    def stored(self) -> Iterator[range]:
        """Returns runs of blocks with data in the file."""
        end = 0
        for run in self._file.data_runs(0):
            first, stop = max(end, run.start // BLOCK), -(-min(run.stop, self.capacity) // BLOCK)
            if first < stop:
                yield range(first, stop)
                end = stop

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fills ``buffer`` from ``offset``; with zeros beyond the end of a file that was truncated."""
        check_range(offset, len(buffer), self.capacity)
        buffer[:] = self._file.pread(len(buffer), offset).ljust(len(buffer), b"\0")

    def drop(self, blocks: Iterable[int]) -> None:
        """Replaces ``blocks`` by holes."""
        for index in blocks:
            self._file.discard(index * BLOCK, min(BLOCK, self.capacity - index * BLOCK))
