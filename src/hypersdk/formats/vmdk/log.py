"""The growing part of a stream being written: grains and tables, one after another; what is in it can be found again
after a crash.

::

    0         64 KiB                                        end
    +---------+-------+-------+------+-------+-------+------+
    | front   | grain | grain | GT   | grain | grain | GT   |  append ->
    +---------+-------+-------+------+-------+-------+------+
     └ last sector: the note of a move under way

Every record says what it is and how long it is, so after the death of the process the log is read from its first record
up to the first thing that is none. Records that must not stay (written again, or of data that is not known to be good)
are squeezed out by moving those behind them down, in a way that may be interrupted anywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, Protocol

from hypersdk.errors import TargetError, register
from hypersdk.formats.image import BlockFile, Buffer
from hypersdk.formats.vmdk.layout import (
    GRAIN_MARKER,
    GRAIN_SECTORS,
    MAX_FILE_SECTORS,
    MAX_GRAIN_BYTES,
    META_MARKER,
    TABLE_BYTES,
    MarkerType,
)
from hypersdk.remedies import SetOption
from hypersdk.units import SECTOR, MiB, align_up

FRONT_BYTES: Final = GRAIN_SECTORS * SECTOR
"""Header, descriptor and alignment before the first record: ``overHead``, as ESXi has it."""
TABLE_RECORD_BYTES: Final = SECTOR + TABLE_BYTES

VMDK_TOO_LARGE: Final = register(
    "vmdk_too_large",
    "A sparse VMDK addresses its blocks with 32 bits: it holds at most 2 TiB of compressed data.",
    SetOption("format", "qcow2"),
    SetOption("format", "raw"),
)

_NOTE: Final = Struct("<4sQQQ")
"""Magic, where to, where from, how many bytes; followed by the CRC-32 of these."""
_NOTE_MAGIC: Final = b"move"
_NOTE_POSITION: Final = FRONT_BYTES - SECTOR
_COPY_BYTES: Final = 1 * MiB


class Digest(Protocol):
    """What ``hashlib`` makes."""

    def update(self, data: Buffer, /) -> None:
        """Adds ``data``."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """A grain or a table in the log: ``start`` and ``length`` in bytes of the file; ``grain`` is the block's number,
    None for a table."""

    start: int
    length: int
    grain: int | None

    @property
    def sector(self) -> int:
        """What a grain table (for a grain) or the directory (for a table) has for it."""
        return (self.start if self.grain is not None else self.start + SECTOR) // SECTOR


class StreamLog:
    """Appends to ``file`` from ``end`` on. Not thread-safe. ``digest`` sees every byte appended, in order."""

    def __init__(self, file: BlockFile, end: int = FRONT_BYTES, digest: Digest | None = None) -> None:
        self.file = file
        self.end = end
        self._digest = digest

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Writes ``buffers`` and returns where the first begins. After an OSError nothing counts as appended.

        Raises TargetError ``vmdk_too_large``.
        """
        start = self.end
        end = start + sum(map(len, buffers))
        if end > MAX_FILE_SECTORS * SECTOR:
            raise TargetError("the compressed disk has reached 2 TiB", code=VMDK_TOO_LARGE)
        self.file.pwrite(buffers, start)
        self.end = end
        if self._digest is not None:
            for buffer in buffers:
                self._digest.update(buffer)
        return start

    def records(self, start: int, capacity: int) -> Iterator[Record]:
        """All whole records from ``start`` to what is the end now, or the first thing that is none. ``capacity`` bounds
        the grains, in bytes."""
        return self._walk(start, self.end, capacity)

    def _walk(self, start: int, end: int, capacity: int) -> Iterator[Record]:
        while (record := self._record(start, capacity)) and start + record.length <= end:
            yield record
            start += record.length

    def _record(self, start: int, capacity: int) -> Record | None:
        head = self.file.pread(META_MARKER.size, start)
        if len(head) < META_MARKER.size:
            return None
        lba, size = GRAIN_MARKER.unpack_from(head)
        if 0 < size <= MAX_GRAIN_BYTES and lba % GRAIN_SECTORS == 0 and lba * SECTOR < capacity:
            return Record(start, align_up(GRAIN_MARKER.size + size, SECTOR), lba // GRAIN_SECTORS)
        if META_MARKER.unpack(head) == (TABLE_BYTES // SECTOR, 0, MarkerType.GRAIN_TABLE):
            return Record(start, TABLE_RECORD_BYTES, None)
        return None

    def prepare_move(self, target: int, kept: Iterable[Record]) -> None:
        """Gets ready to leave only ``kept`` (rising, all behind ``target``) from ``target`` on; ``finish_move`` does
        it.

        They are copied behind the end, then a note says where they go: whenever the process dies, either the old
        records are untouched or ``finish_move`` can do the rest. The digest no longer fits and is dropped.
        """
        self._digest = None
        end = self.end
        for record in kept:
            self._copy(record.start, end, record.length)
            end += record.length
        self.file.sync()
        note = _NOTE.pack(_NOTE_MAGIC, target, self.end, end - self.end)
        self.file.pwrite([note, zlib.crc32(note).to_bytes(4, "little")], _NOTE_POSITION)
        self.file.sync()

    def finish_move(self) -> None:
        """Does what the note says, if there is one, from the beginning: source and target never overlap. Sets ``end``
        if so."""
        sector = self.file.pread(_NOTE.size + 4, _NOTE_POSITION)
        note, checksum = sector[: _NOTE.size], sector[_NOTE.size :]
        if not note.startswith(_NOTE_MAGIC) or zlib.crc32(note).to_bytes(4, "little") != checksum:
            return
        _, target, source, length = _NOTE.unpack(note)
        if self.file.size() >= source + length:  # else it was done, and only the note is left
            for done in range(0, length, _COPY_BYTES):
                self._copy(source + done, target + done, min(_COPY_BYTES, length - done))
            self.file.sync()
            self.file.truncate(target + length)
        self.file.sync()
        self.end = target + length
        self.file.pwrite([bytes(SECTOR)], _NOTE_POSITION)

    def _copy(self, source: int, target: int, length: int) -> None:
        self.file.pwrite([self.file.pread(length, source)], target)
