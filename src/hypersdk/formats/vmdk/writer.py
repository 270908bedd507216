"""Writes a streamOptimized VMDK as ESXi sends it: grains, a table after each 512 of them, directory, footer, end
marker.

The stream goes forward only: a block that is to be written again is cut off first, with all that follows it in the
file, so the finished file names and holds each block once. The header comes last: until then the file starts with a
magic number that no reader knows.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Final, Self

from isal import isal_zlib

from hypersdk.formats.image import BLOCK, BlockFile, Buffer, Piece, check_range, runs_of
from hypersdk.formats.vmdk.descriptor import stream_descriptor
from hypersdk.formats.vmdk.layout import (
    DEFLATED_MOST,
    ENTRIES_PER_TABLE,
    GRAIN_MARKER,
    MAGIC,
    MAX_CAPACITY,
    MAX_GRAIN_BYTES,
    META_MARKER,
    TABLE_SPAN,
    MarkerType,
    SparseHeader,
    bad_format,
    bytes_of,
    entries_of,
    grain_record,
    meta_marker,
    parse_header,
    stream_header,
)
from hypersdk.formats.vmdk.log import FRONT_BYTES, TABLE_RECORD_BYTES, Record, StreamLog
from hypersdk.formats.vmdk.stream import inflate
from hypersdk.formats.vmdk.tables import GrainTables
from hypersdk.units import SECTOR, align_up

UNFINISHED_MAGIC: Final = b"kdm~"
"""Stands in for the header's magic number until the file is whole."""
_DESCRIPTOR_SECTORS: Final = 20
_CID: Final = re.compile(rb"^CID=([0-9a-f]{8})$", re.MULTILINE)
_RESERVED_CIDS: Final = 0xFFFFFFFE  # this one, and 0xffffffff for "no parent"
_LEVEL: Final = 1  # of isal's 0 to 3


class StreamOptimizedWriter:
    """An ImageWriter for one stream. Thread-safe; deflating is done outside the lock, appending and hashing inside."""

    ordered: ClassVar[bool] = True
    """Blocks should be written in rising order, as far as the source has it: some readers of streams expect that."""

    sha256: str | None = None
    """Hex digest of the finished file; None before, and where the file was not written from first to last in one go."""

    def __init__(self, file: BlockFile, capacity: int, digest: hashlib._Hash | None) -> None:
        self.capacity = capacity
        self._file = file
        self._header = _header(capacity)
        self._front = _front(self._header, secrets.randbelow(_RESERVED_CIDS - 1) + 1)
        self._digest = digest
        self._log = StreamLog(file, digest)
        self._tables = GrainTables(file, capacity)
        self._lock = threading.Lock()

    @classmethod
    def create(cls, file: BlockFile, capacity: int) -> Self:
        """Creates an image in ``file``, whose content is lost. ``capacity`` in bytes, a multiple of 512."""
        digest = hashlib.sha256()
        writer = cls(file, capacity, digest)
        digest.update(writer._front)
        file.truncate(0)
        writer._write_front(UNFINISHED_MAGIC)
        return writer

    @classmethod
    def resume(cls, file: BlockFile, capacity: int, *, trusted: Callable[[int], bool]) -> Self:
        """Resumes an image of ``create``, up to the first damage or the first block for which ``trusted(block)`` is
        False: its data is not known to be good.

        Raises IntegrityError ``bad_format`` where ``file`` is not such an image.
        """
        writer = cls(file, capacity, None)
        _require_ours(file, writer._header)
        file.pwrite([UNFINISHED_MAGIC], 0)
        file.sync()
        writer._read_log(trusted)
        return writer

    def write(self, offset: int, data: Buffer) -> None:
        """Deflates ``data`` and appends its grains; see ImageWriter."""
        view = memoryview(data).cast("B")
        check_range(offset, len(view), self.capacity)
        self._append([self._deflated(offset + at, view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)])

    def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Stores ``pieces`` unchanged, since a grain is an RFC 1950 stream; returns those larger than any reader
        accepts."""
        for piece in pieces:
            check_range(piece.offset, piece.length, self.capacity)
        self._append([piece for piece in pieces if len(piece.zlib) <= MAX_GRAIN_BYTES])
        return [piece for piece in pieces if len(piece.zlib) > MAX_GRAIN_BYTES]

    def sync(self) -> None:
        """Makes what was written durable."""
        self._file.sync()

    def finish(self) -> None:
        """Writes tables, directory, footer, end marker, and the header last; durable on return."""
        with self._lock:
            self._append_tables(self._tables.changed())
            self._log.append(self._trailer())
            self._file.truncate(self._log.end)
            self._file.sync()
            self._write_front(MAGIC)
            self._file.sync()
            self.sha256 = self._digest.hexdigest() if self._digest is not None else None

    def stored(self) -> Iterator[range]:
        """Returns runs of blocks whose grains are in the log."""
        return runs_of(self._grains())

    def read(self, offset: int, buffer: memoryview) -> None:
        """Inflates the grains of the log that the tables name."""
        check_range(offset, len(buffer), self.capacity)
        for at in range(0, len(buffer), BLOCK):
            view = buffer[at : at + BLOCK]
            with self._lock:
                sector = self._tables.sector((offset + at) // BLOCK)
                self._tables.trim()
            view[:] = inflate(self._grain_at(sector, offset + at, len(view))) if sector else bytes(len(view))

    def _grain_at(self, sector: int, offset: int, length: int) -> Piece:
        marker = self._file.pread(GRAIN_MARKER.size, sector * SECTOR)
        lba, size = GRAIN_MARKER.unpack(marker) if len(marker) == GRAIN_MARKER.size else (0, 0)
        data = self._file.pread(min(size, MAX_GRAIN_BYTES), sector * SECTOR + GRAIN_MARKER.size)
        if lba * SECTOR != offset or not data or len(data) < size:
            raise bad_format(f"no grain for guest offset {offset} at sector {sector}, where it was written")
        return Piece(offset, length, data)

    def drop(self, blocks: Iterable[int]) -> None:
        """Cuts the log off before the first grain of ``blocks``: all grains behind it are lost with it."""
        with self._lock:
            first = self._log.end // SECTOR
            for grain in blocks:
                first = min(first, self._tables.sector(grain) or first)
                self._tables.trim()
            self._digest = None
            self._file.truncate(first * SECTOR)
            self._read_log(lambda _: True)

    def _grains(self) -> Iterator[int]:
        for number in self._tables.used():
            entries = self._tables.entries(number)
            yield from (number * ENTRIES_PER_TABLE + slot for slot, sector in enumerate(entries) if sector)

    # Writing.

    def _deflated(self, offset: int, data: memoryview) -> Piece:
        """Deflates a block; the last one of an odd disk is padded, because the format has no shorter grains."""
        block: Buffer = data if len(data) == BLOCK else bytes(data).ljust(BLOCK, b"\0")
        return Piece(offset, len(data), isal_zlib.compress(block, _LEVEL))

    def _append(self, pieces: Sequence[Piece]) -> None:
        records = [grain_record(piece.offset, piece.zlib) for piece in pieces]
        with self._lock:
            self._append_tables(self._tables.due())
            at = self._log.append([buffer for record in records for buffer in record])
            for piece, record in zip(pieces, records, strict=True):
                self._tables.put(piece.offset // BLOCK, at // SECTOR)
                at += sum(map(len, record))
            self._tables.trim()

    def _append_tables(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            table = bytes_of(self._tables.entries(number))
            start = self._log.append([meta_marker(MarkerType.GRAIN_TABLE, len(table) // SECTOR), table])
            self._tables.stored(number, start // SECTOR + 1)

    def _trailer(self) -> list[Buffer]:
        directory = bytes_of(self._tables.directory)
        sectors = len(directory) // SECTOR
        footer = replace(self._header, directory_offset=self._log.end // SECTOR + 1).pack()
        return [
            meta_marker(MarkerType.GRAIN_DIRECTORY, sectors),
            directory,
            meta_marker(MarkerType.FOOTER, 1),
            footer,
            meta_marker(MarkerType.END_OF_STREAM, 0),
        ]

    def _write_front(self, magic: bytes) -> None:
        self._file.pwrite([magic, self._front[len(magic) :]], 0)

    # Resuming after a crash.

    def _read_log(self, trusted: Callable[[int], bool]) -> None:
        """Reads what an earlier run appended, up to the first grain that is not ``trusted`` or comes twice, and cuts
        the rest off."""
        self._tables = GrainTables(self._file, self.capacity)
        end = FRONT_BYTES
        for record in self._log.records(self.capacity):
            if record.grain is None:
                self._adopt_table(record)
            elif self._tables.sector(record.grain) or not trusted(record.grain):
                break
            else:
                self._tables.put(record.grain, record.start // SECTOR)
            self._tables.trim()
            end = record.start + record.length
        self._log.end = end
        self._file.truncate(end)

    def _adopt_table(self, record: Record) -> None:
        """Removes a table from memory when ``record`` is its copy, so memory stays as small as when it was written."""
        data = self._file.pread(record.length - SECTOR, record.start + SECTOR)
        entries = entries_of(data)
        first = next(filter(None, entries), 0)
        marker = self._file.pread(META_MARKER.size, first * SECTOR)
        if len(marker) < META_MARKER.size:
            return  # the record is damaged
        lba, _, _ = META_MARKER.unpack(marker)
        number = lba * SECTOR // (BLOCK * ENTRIES_PER_TABLE)
        if first and number < len(self._tables.directory) and self._tables.entries(number) == entries:
            self._tables.stored(number, record.start // SECTOR + 1)


def most_bytes(capacity: int, blocks: int) -> int:
    """Returns the largest size of a stream of ``blocks`` grains: none shrinks, and each table is written twice because
    of a late grain."""
    tables = -(-capacity // TABLE_SPAN)
    directory = SECTOR + align_up(tables * 4, SECTOR)
    grains = blocks * align_up(GRAIN_MARKER.size + DEFLATED_MOST, SECTOR)
    return FRONT_BYTES + grains + min(blocks, 2 * tables) * TABLE_RECORD_BYTES + directory + 3 * SECTOR


def is_front(data: bytes, capacity: int) -> bool:
    """Whether ``data`` is exactly what this writer puts before the first grain of a disk of ``capacity`` bytes, with
    any content id."""
    cid = _CID.search(data)
    return cid is not None and data == _front(_header(capacity), int(cid[1], 16))


def _front(header: SparseHeader, cid: int) -> bytes:
    """Returns everything before the first grain."""
    text = stream_descriptor(header.capacity, cid)
    assert len(text) <= _DESCRIPTOR_SECTORS * SECTOR
    return (header.pack() + text).ljust(FRONT_BYTES, b"\0")


def _header(capacity: int) -> SparseHeader:
    if capacity % SECTOR or not 0 < capacity <= MAX_CAPACITY:
        raise ValueError(f"no VMDK can have a capacity of {capacity} bytes")
    return stream_header(capacity, descriptor_sectors=_DESCRIPTOR_SECTORS, overhead_sectors=FRONT_BYTES // SECTOR)


def _require_ours(file: BlockFile, header: SparseHeader) -> None:
    """Raises IntegrityError ``bad_format`` unless this writer created ``file`` for this disk."""
    sector = file.pread(SECTOR, 0)
    if sector.startswith(UNFINISHED_MAGIC):
        sector = MAGIC + sector[len(MAGIC) :]
    if parse_header(sector) != header:
        raise bad_format("the file was not created by this program for this disk")
