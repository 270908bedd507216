"""Raw images: the guest's bytes at the guest's offsets; what was never written is a hole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Self

from hypersdk.formats.image import BLOCK, BlockFile, Buffer, Piece, check_range


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
