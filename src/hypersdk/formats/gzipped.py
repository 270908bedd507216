"""Random access to the content of a gzip file (RFC 1952), without unpacking it: copies of the inflater are kept.

::

    offsets inside   0 ────────┬─────────┬─────────┬──────────>
                     begin     copy 1    copy 2    copy 3         every 4 MiB, at most 512: then half of them go
                                           └── read(offset) continues from a copy of the nearest one before it

Reading from start to end inflates everything once, reading in several places a little more. Memory is 40 KiB for each
copy, whatever the content. zlib checks length and CRC-32 of each member at its end.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypersdk.errors import BAD_FORMAT, TRUNCATED_STREAM, IntegrityError
from hypersdk.formats.image import ReadableFile
from hypersdk.units import KiB, MiB, TiB

if TYPE_CHECKING:
    from zlib import _Decompress

MAGIC: Final = b"\x1f\x8b"
MAX_INFLATED: Final = 64 * TiB
"""The largest disk that is read. Deflate makes at most 1032 bytes of one, so the work is also limited by the size of
the file."""
MAX_COPIES: Final = 512

_WITH_GZIP_HEADER: Final = 31
_INPUT: Final = 32 * KiB
_STEP: Final = 1 * MiB
_FIRST_SPACING: Final = 4 * MiB
_READERS: Final = 16
"""Positions that reading continues from: a few disks of an archive, a few ranges of each."""


@dataclass(eq=False, slots=True)
class _Place:
    """A position in the content: ``offset``, the input ``consumed`` up to there, and the inflater; None between
    members."""

    offset: int
    consumed: int
    inflater: _Decompress | None

    def copy(self) -> _Place:
        return _Place(self.offset, self.consumed, self.inflater.copy() if self.inflater else None)


class GzipReader:
    """The content of a gzip ``file`` as a ReadableFile. Thread-safe.

    ``check`` is called repeatedly while it inflates, and may raise. Raises IntegrityError: ``truncated_stream``,
    ``bad_format``.
    """

    def __init__(self, file: ReadableFile, check: Callable[[], None] = lambda: None) -> None:
        self._file = file
        self._check = check
        self._lock = threading.Lock()
        self._spacing = _FIRST_SPACING
        self._copies = [_Place(0, 0, None)]
        self._readers: list[_Place] = []
        self._size: int | None = None

    def pread(self, length: int, offset: int) -> bytes:
        """See ReadableFile."""
        parts = []
        with self._lock:
            place = self._place_before(offset)
            while place.offset < offset and self._inflate(place, offset - place.offset):
                pass
            while length > 0 and place.offset >= offset and (data := self._inflate(place, length)):
                parts.append(data)
                length -= len(data)
            self._readers.append(place)
            del self._readers[:-_READERS]
        return b"".join(parts)

    def size(self) -> int:
        """Returns the bytes of the content. The first call inflates all of it, which also verifies it."""
        with self._lock:
            if self._size is None:
                place = max([self._copies[-1], *self._readers], key=lambda place: place.offset).copy()
                while self._inflate(place, _STEP):
                    pass
            assert self._size is not None
            return self._size

    def _place_before(self, offset: int) -> _Place:
        """Returns the nearest place to read ``offset`` from: a reader that is there already, else a copy."""
        places = [place for place in (*self._readers, *self._copies) if place.offset <= offset]
        nearest = max(places, key=lambda place: place.offset)
        if nearest.offset < offset or nearest not in self._readers:
            return nearest.copy()
        self._readers.remove(nearest)
        return nearest

    def _inflate(self, place: _Place, most: int) -> bytes:
        """Returns up to ``most`` bytes from ``place`` and advances it; none at the end of the file."""
        while self._in_member(place):
            self._check()
            assert place.inflater is not None
            source = self._file.pread(_INPUT, place.consumed)
            if not source:
                raise IntegrityError("the gzip file is truncated", code=TRUNCATED_STREAM)
            try:
                data = place.inflater.decompress(source, min(most, _STEP))
            except zlib.error as error:
                raise IntegrityError(f"the gzip file is damaged: {error}", code=BAD_FORMAT) from error
            inflater = place.inflater  # at the end of a member Python may give the same rest in both of its attributes
            place.consumed += len(source) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail)
            place.offset += len(data)
            if place.inflater.eof:
                place.inflater = None
            self._remember(place)
            if data:
                return data
        return b""

    def _in_member(self, place: _Place) -> bool:
        """Begins the next member after the end of one; returns False when none follows."""
        if place.inflater is not None:
            return True
        head = self._file.pread(len(MAGIC), place.consumed)
        if head == MAGIC:
            place.inflater = zlib.decompressobj(_WITH_GZIP_HEADER)
            return True
        while source := self._file.pread(_INPUT, place.consumed):
            self._check()
            if source.strip(b"\0"):
                raise IntegrityError("the gzip file has other data after its end", code=BAD_FORMAT)
            place.consumed += len(source)
        self._size = place.offset
        return False

    def _remember(self, place: _Place) -> None:
        if place.offset > MAX_INFLATED:
            raise IntegrityError(f"the gzip file holds more than {MAX_INFLATED} bytes", code=BAD_FORMAT)
        if place.offset >= self._copies[-1].offset + self._spacing:
            self._copies.append(place.copy())
            if len(self._copies) > MAX_COPIES:
                self._copies = self._copies[::2]
                self._spacing *= 2
