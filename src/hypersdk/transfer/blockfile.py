"""The block file of an open file descriptor, or of the end of one (a member of an OVA)."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from hypersdk.formats.image import BLOCK, Buffer
from hypersdk.transfer.holes import runs
from hypersdk.units import GiB, MiB

KEPT_BYTES: Final = 64 * MiB
"""Durable data that stays in the page cache: more than what is hashed behind the writes."""
_BUFFERS_AT_ONCE: Final = 1024  # IOV_MAX of Linux: pwritev(2) takes no more
_BYTES_AT_ONCE: Final = 1 * GiB  # pread(2) transfers less than 2 GiB
_ZEROS: Final = bytes(1 * MiB)

# linux/falloc.h
_FALLOC_FL_KEEP_SIZE: Final = 0x01
_FALLOC_FL_PUNCH_HOLE: Final = 0x02
_NO_HOLES: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM}
"""Errors of fallocate(2) where file system or kernel cannot punch holes; EPERM comes from sandboxes that block the
call."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


class FdFile:
    """An open, seekable file descriptor as a BlockFile, from byte ``start`` to its end. The caller closes the
    descriptor after the last call.

    Durable data leaves the page cache, but for the newest ``KEPT_BYTES``: its pages are used again for what comes next,
    and 1 TiB does not evict everything else. What follows the writes (the tree digest) reads from the cache. Tables
    stay.
    """

    def __init__(self, fd: int, start: int = 0, *, cached: bool = False) -> None:
        """``cached``: all of it stays in the page cache, because it is read back soon."""
        self._fd = fd
        self._start = start
        self._cached = cached
        self._written: list[range] = []
        self._durable: list[range] = []

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Writes all buffers at ``offset``, with as few system calls as possible."""
        offset += self._start
        for start in range(0, len(buffers), _BUFFERS_AT_ONCE):
            offset += self._pwrite_all(buffers[start : start + _BUFFERS_AT_ONCE], offset)

    def _pwrite_all(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Writes at most IOV_MAX buffers; returns their length."""
        total = sum(memoryview(buffer).nbytes for buffer in buffers)
        if total >= BLOCK and not self._cached:
            self._written.append(range(offset, offset + total))
        done = os.pwritev(self._fd, buffers, offset)
        while done < total:
            written = os.pwritev(self._fd, _without(buffers, done), offset + done)
            if written == 0:
                raise OSError(errno.EIO, "the file accepts no more bytes, without an error")
            done += written
        return total

    def pread(self, length: int, offset: int) -> bytes:
        """Up to ``length`` bytes at ``offset``; fewer only at the end of the file."""
        offset += self._start
        parts: list[bytes] = []
        while length and (data := os.pread(self._fd, min(length, _BYTES_AT_ONCE), offset)):
            parts.append(data)
            length -= len(data)
            offset += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self) -> int:
        """Bytes from ``start`` to the end of the file."""
        return max(0, os.fstat(self._fd).st_size - self._start)

    def truncate(self, size: int) -> None:
        """Sets the size; what is new is a hole."""
        os.ftruncate(self._fd, self._start + size)

    def discard(self, offset: int, length: int) -> None:
        """Punches a hole; writes zeros where the file system has no holes. Never changes the size."""
        length = min(length, self.size() - offset)
        if length > 0 and not self._punch(offset, length):
            self._zero(offset, length)

    def _punch(self, offset: int, length: int) -> bool:
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        if _fallocate(self._fd, mode, self._start + offset, length) == 0:
            return True
        code = ctypes.get_errno()
        if code not in _NO_HOLES:
            raise OSError(code, os.strerror(code))
        return False

    def _zero(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            step = min(len(_ZEROS), end - offset)
            self.pwrite([memoryview(_ZEROS)[:step]], offset)
            offset += step

    def data_runs(self, start: int) -> Iterator[range]:
        """Runs of bytes from ``start`` on that hold data."""
        for run, is_data in runs(self._fd, range(self._start + start, self._start + self.size())):
            if is_data:
                yield range(run.start - self._start, run.stop - self._start)

    def sync(self) -> None:
        """Waits until data and size are durable. One caller at a time."""
        written, self._written = self._written, []
        os.fdatasync(self._fd)
        self._durable += written
        for run in _joined(self._take_old()):
            with suppress(OSError):  # only advice, which some file systems do not take
                os.posix_fadvise(self._fd, run.start, len(run), os.POSIX_FADV_DONTNEED)

    def _take_old(self) -> list[range]:
        """Takes all durable regions but the newest, of ``KEPT_BYTES``."""
        first, kept_bytes = len(self._durable), 0
        while first and kept_bytes < KEPT_BYTES:
            first -= 1
            kept_bytes += len(self._durable[first])
        old, self._durable = self._durable[:first], self._durable[first:]
        return old


def _joined(regions: Iterable[range]) -> list[range]:
    """Joins neighbours: a page that two regions share is only dropped with both."""
    joined: list[range] = []
    for region in sorted(regions, key=lambda region: region.start):
        if joined and region.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, region.stop))
        else:
            joined.append(region)
    return joined


def _without(buffers: Sequence[Buffer], done: int) -> list[memoryview]:
    """Returns ``buffers`` without their first ``done`` bytes."""
    left: list[memoryview] = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if done < len(view):
            left.append(view[done:])
        done = max(0, done - len(view))
    return left
