"""The content of a sparse file, without reading its holes.

Most of a raw image is holes. To read one, the kernel clears pages and copies them; ``lseek`` finds it at once
(SEEK_DATA, SEEK_HOLE; POSIX.1-2024). A file system that does not know its holes reports all as data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Final

from hypersdk.units import KiB, MiB

READ_STEP: Final = 4 * MiB
"""Bytes of one read: large enough that the system call itself does not matter."""
ZEROS: Final = memoryview(bytes(512 * KiB))  # stays in a core's cache while it is hashed


def pieces(descriptor: int, region: range) -> Iterator[memoryview]:
    """Yields the bytes of ``region``, in order, at most ``READ_STEP`` at once; fewer in all only where the file ends. A
    piece is valid until the next one.

    The next piece is read in a thread while the caller uses the last one. What was read is dropped from the page cache:
    reading 1 TiB must not evict everything else.
    """
    step = min(READ_STEP, max(len(region), 1))
    buffers = cycle([memoryview(bytearray(step)), memoryview(bytearray(step))])
    os.posix_fadvise(descriptor, region.start, len(region), os.POSIX_FADV_SEQUENTIAL)
    found = _pieces(descriptor, region, buffers)
    yield from _ahead(found) if len(region) > READ_STEP else found


def _ahead(found: Iterator[memoryview]) -> Iterator[memoryview]:
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        following = reader.submit(next, found, None)
        while (piece := following.result()) is not None:
            following = reader.submit(next, found, None)
            yield piece


def _pieces(descriptor: int, region: range, buffers: Iterator[memoryview]) -> Iterator[memoryview]:
    for run, is_data in runs(descriptor, region):
        if is_data:
            yield from _read(descriptor, run, buffers)
        else:
            yield from (ZEROS[: len(run) - at] for at in range(0, len(run), len(ZEROS)))


def _read(descriptor: int, run: range, buffers: Iterator[memoryview]) -> Iterator[memoryview]:
    while run:
        buffer = next(buffers)
        count = os.preadv(descriptor, [buffer[: len(run)]], run.start)
        if not count:
            return
        os.posix_fadvise(descriptor, run.start, count, os.POSIX_FADV_DONTNEED)
        yield buffer[:count]
        run = run[count:]


def runs(descriptor: int, region: range) -> Iterator[tuple[range, bool]]:
    """Yields the runs of ``region`` up to the end of the file, and whether each is data (else a hole)."""
    at = region.start
    while at < region.stop:
        data = _seek(descriptor, at, os.SEEK_DATA)
        # The size is read again: a file that was truncated meanwhile has no hole there.
        start = min(region.stop, os.fstat(descriptor).st_size if data is None else data)
        yield range(at, start), False
        if data is None or start == region.stop:
            return
        hole = _seek(descriptor, start, os.SEEK_HOLE)
        if hole is None:  # the file was truncated since
            return
        at = min(region.stop, hole)
        yield range(start, at), True


def _seek(descriptor: int, at: int, whence: int) -> int | None:
    """The offset of the next data or hole from ``at`` on; None where there is none up to the end of the file."""
    try:
        return os.lseek(descriptor, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
