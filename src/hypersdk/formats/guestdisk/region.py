"""Bounded reading of a disk that anybody may have written.

::

    Reader (an image) ── BoundedDisk: counts reads and bytes ── Region (the disk, a partition): short beyond its end

Nothing here raises for what is on the disk: bytes that do not exist, or that would exceed the limits, are missing from
the answer, and the functions below read missing bytes as zeros. So a parser sees a foreign disk and needs no checks of
lengths. ``BoundedDisk.exhausted`` says that something was left unread.
"""

from __future__ import annotations

from typing import Final, Protocol

from hypersdk.units import KiB, MiB

MAX_READS: Final = 2048
MAX_BYTES: Final = 24 * MiB
"""Limits for one disk. 128 partitions with a file system each take about 600 reads and 9 MiB."""
MAX_READ: Final = 512 * KiB


class Reader(Protocol):
    """Random access to the guest's bytes of a disk. Errors of the image itself (IntegrityError, TargetError) pass
    through everything in this package."""

    @property
    def size(self) -> int:
        """Bytes of the guest's disk."""

    def read(self, offset: int, length: int) -> bytes:
        """Returns the bytes at ``offset``; fewer only at the end of the disk."""


class BoundedDisk:
    """A disk, of which only so much is read."""

    def __init__(self, reader: Reader) -> None:
        self.size = reader.size
        self.exhausted = False
        self._reader = reader
        self._reads = 0
        self._bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        """Returns the bytes at ``offset``, fewer at the end of the disk, none beyond the limits."""
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        if length > MAX_READ or self._reads == MAX_READS or self._bytes + length > MAX_BYTES:
            self.exhausted = True
            return b""
        self._reads += 1
        self._bytes += length
        return self._reader.read(offset, length)


class Region:
    """A range of a disk, as far as it lies on it."""

    def __init__(self, disk: BoundedDisk, start: int = 0, size: int | None = None) -> None:
        whole = disk.size - start if size is None else size
        self.size = max(0, min(whole, disk.size - start)) if 0 <= start <= disk.size else 0
        self._disk = disk
        self._start = start

    def read(self, offset: int, length: int) -> bytes:
        """Returns the bytes at ``offset`` of the region; fewer at its end."""
        if offset < 0:
            return b""
        return self._disk.read(self._start + offset, min(length, self.size - offset))

    def part(self, start: int, size: int) -> Region:
        """A range of this one, which is cut where this one ends."""
        return Region(self._disk, self._start + start, min(size, self.size - start))


def little(data: bytes, offset: int, length: int) -> int:
    """The little-endian number at ``offset``; missing bytes are zeros."""
    return int.from_bytes(data[offset : offset + length], "little")


def big(data: bytes, offset: int, length: int) -> int:
    """The big-endian number at ``offset``; missing bytes are zeros."""
    return int.from_bytes(data[offset : offset + length].ljust(length, b"\0"), "big")


def text(data: bytes, offset: int, length: int, encoding: str = "utf-8") -> str | None:
    """The text at ``offset``, up to its first NUL, without blanks at its end; None where it is empty. Anything may be
    in it: clean it before it is shown."""
    found = data[offset : offset + length].decode(encoding, errors="replace")
    return found.partition("\0")[0].rstrip() or None


def is_power_of_two(number: int) -> bool:
    """Whether ``number`` is 1, 2, 4 ..."""
    return number > 0 and number & (number - 1) == 0
