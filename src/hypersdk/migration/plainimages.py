"""qcow2 and raw images as disks to read."""

from __future__ import annotations

from collections.abc import Iterator

from hypersdk.errors import BAD_FORMAT, IntegrityError
from hypersdk.formats.qcow2.reader import Qcow2Reader
from hypersdk.migration.stored import PooledFile
from hypersdk.units import SECTOR, align_up


class Qcow2Disk:
    """See DiskReader."""

    def __init__(self, file: PooledFile) -> None:
        self._reader = Qcow2Reader(file)
        self.capacity = self._reader.size
        if self.capacity % SECTOR or not self.capacity:
            raise IntegrityError(f"the disk has {self.capacity} bytes, not whole sectors", code=BAD_FORMAT)

    def extents(self) -> Iterator[tuple[int, int]]:
        """See DiskReader."""
        return self._reader.extents()

    def read(self, offset: int, buffer: memoryview) -> None:
        """See DiskReader."""
        buffer[:] = self._reader.read(offset, len(buffer))


class RawDisk:
    """See DiskReader. A last sector that the file does not hold whole ends with zeros."""

    def __init__(self, file: PooledFile) -> None:
        self._file = file
        self.capacity = align_up(file.size(), SECTOR)
        if not self.capacity:
            raise IntegrityError("the image is empty", code=BAD_FORMAT)

    def extents(self) -> Iterator[tuple[int, int]]:
        """See DiskReader."""
        yield from ((run.start, len(run)) for run in self._file.data_runs())

    def read(self, offset: int, buffer: memoryview) -> None:
        """See DiskReader."""
        buffer[:] = self._file.pread(len(buffer), offset).ljust(len(buffer), b"\0")
