"""A raw image on this machine's disk as the content of a simulated disk: a real guest goes through the whole path.

The file is opened once, its holes are looked up then, and its blocks are read while they are sent. It must not change
meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

from hypersdk.errors import UsageError
from hypersdk.text import clean
from hypersdk.units import SECTOR, TiB, align_up, format_size

MAX_IMAGE_BYTES: Final = 62 * TiB
"""vSphere's largest disk."""
_OTHER_FORMATS: Final = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"# Di": "VMDK",
    b"vhdx": "VHDX",
}


class ImageBlocks(Mapping[int, bytes]):
    """Blocks of ``block_bytes`` that hold data, by their index in ascending order; the last may be short.

    Raises UsageError for a path that is not a readable raw image: only a regular file is opened, so a FIFO or a device
    is refused without a wait. Reading raises OSError when the file has become shorter.
    """

    def __init__(self, path: Path, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self._descriptor = _open(path)
        weakref.finalize(self, os.close, self._descriptor)
        found = _checked(path, self._descriptor)
        self.size_bytes = found.st_size
        self.version = f"{found.st_dev:x}-{found.st_ino:x}-{found.st_mtime_ns:x}"
        """Another text for another file, or the same with other content."""
        self._runs = list(_data_runs(self._descriptor, found.st_size, block_bytes))
        self._first = [run.start for run in self._runs]
        self._count = list(accumulate(map(len, self._runs)))

    def __len__(self) -> int:
        return self._count[-1] if self._count else 0

    def __iter__(self) -> Iterator[int]:
        for run in self._runs:
            yield from run

    def __contains__(self, index: object) -> bool:
        position = bisect_right(self._first, index) - 1 if isinstance(index, int) else -1
        return position >= 0 and index in self._runs[position]

    def __getitem__(self, index: int) -> bytes:
        if index not in self:
            raise KeyError(index)
        offset = index * self.block_bytes
        wanted = min(self.block_bytes, self.size_bytes - offset)
        data = os.pread(self._descriptor, wanted, offset)
        if len(data) < wanted:
            raise OSError(errno.EIO, "The image of a simulated disk has become shorter.")
        return data


def image_capacity(path: Path) -> int:
    """Size in bytes of the disk that a raw image holds: whole sectors. Raises UsageError where ImageBlocks does."""
    descriptor = _open(path)
    try:
        return align_up(_checked(path, descriptor).st_size, SECTOR)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        reason = error.strerror if isinstance(error, OSError) else None
        raise _unusable(path, reason or str(error)) from error


def _checked(path: Path, descriptor: int) -> os.stat_result:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(path, "it is not a regular file")
    if not 0 < found.st_size <= MAX_IMAGE_BYTES:
        limit = format_size(MAX_IMAGE_BYTES)
        raise _unusable(path, f"its size is {format_size(found.st_size)}, and a disk has 1 byte to {limit}")
    if (other := _OTHER_FORMATS.get(os.pread(descriptor, 4, 0))) is not None:
        raise _unusable(path, f"it is a {other} image", "Convert it: qemu-img convert -O raw IMAGE NEW.")
    return found


def _unusable(path: Path, reason: str, next_step: str = "Give the path of a raw image.") -> UsageError:
    return UsageError(f"{clean(str(path))} cannot be used as a disk: {reason}", next_step=next_step)


def _data_runs(descriptor: int, size_bytes: int, block_bytes: int) -> Iterator[range]:
    """Ranges of blocks in which the file holds data, ascending, apart from each other."""
    run, offset = range(0), 0
    while (start := _next_data(descriptor, offset, size_bytes)) < size_bytes:
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        first, end = start // block_bytes, -(-offset // block_bytes)
        if run and first <= run.stop:
            run = range(run.start, max(run.stop, end))
            continue
        if run:
            yield run
        run = range(first, end)
    if run:
        yield run


def _next_data(descriptor: int, offset: int, size_bytes: int) -> int:
    """Where data begins at or after ``offset``; the file's size when only a hole follows."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size_bytes
