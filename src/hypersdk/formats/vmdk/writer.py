"""Writes a streamOptimized VMDK as ESXi sends it: grains, a table after each 512 of them, directory, footer, end
marker.

The stream goes forward only, so a block written again leaves its old grain behind; such grains are squeezed out
(``log``) and the finished file names and holds each block once. The header comes last: until then the file starts with
a magic number that no reader knows.
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

from hypersdk.formats.image import BLOCK, BlockFile, Buffer, Piece, check_range
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


class StreamOptimizedWriter:
    """An ImageWriter for one stream. Thread-safe; deflating is done outside the lock, appending and hashing inside."""

    ordered: ClassVar[bool] = True
    """Blocks should be written in rising order, as far as the source has it: some readers of streams expect that."""

    def __init__(self, file: BlockFile, header: SparseHeader, log: StreamLog, *, level: int) -> None:
        self.capacity = capacity = header.capacity
        self._file = file
        self._header = header
        self._log = log
        self._level = level
        self._front = _front(header, secrets.randbelow(_RESERVED_CIDS - 1) + 1)
        self._tables = GrainTables(file, capacity)
        self._first_dead: int | None = None  # bytes; the lowest grain that no table names any more
        self._moved: dict[int, int] | None = None  # while grains are moved: tables and the sectors they will have
        self._unnumbered: int | None = None  # bytes; grains from here on have moved, and their tables do not know yet
        self._whole = False
        self._hash: hashlib._Hash | None = None
        self._lock = threading.Lock()

    @classmethod
    def create(cls, file: BlockFile, capacity: int, *, level: int = 1) -> Self:
        """Begins anew; what was in ``file`` goes. ``capacity`` in bytes, a multiple of 512; ``level`` as isal has it, 0
        to 3."""
        digest = hashlib.sha256()
        writer = cls(file, _header(capacity), StreamLog(file, digest=digest), level=level)
        digest.update(writer._front)
        writer._hash = digest
        file.truncate(0)
        writer._write_front(UNFINISHED_MAGIC)
        return writer

    @classmethod
    def resume(cls, file: BlockFile, capacity: int, *, trusted: Callable[[int], bool], level: int = 1) -> Self:
        """Goes on with what an earlier run left in ``file``; ``trusted(block)`` says whose data is known to be good,
        the rest goes; so does all behind the first damage.

        Raises IntegrityError ``bad_format`` where ``file`` is no such thing. ``sha256`` is None for good.
        """
        header = _header(capacity)
        _require_ours(file, header)
        _cut_at_hole(file)
        log = StreamLog(file)
        writer = cls(file, header, log, level=level)
        file.pwrite([UNFINISHED_MAGIC], 0)
        file.sync()
        log.finish_move()
        writer._read_log()
        writer._drop(trusted)
        writer._squeeze()
        return writer

    @property
    def sha256(self) -> str | None:
        """Hex digest of the finished file; None before, and where the file was not written from first to last in one
        go."""
        return self._hash.hexdigest() if self._whole and self._hash is not None else None

    def write(self, offset: int, data: Buffer) -> None:
        """``data`` at guest ``offset``; see ImageWriter."""
        view = memoryview(data).cast("B")
        check_range(offset, len(view), self.capacity)
        self._append([self._deflated(offset + at, view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)])

    def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Stores ``pieces`` as they are, since a grain is an RFC 1950 stream; returns those larger than any reader
        takes."""
        for piece in pieces:
            check_range(piece.offset, piece.length, self.capacity)
        self._append([piece for piece in pieces if len(piece.zlib) <= MAX_GRAIN_BYTES])
        return [piece for piece in pieces if len(piece.zlib) > MAX_GRAIN_BYTES]

    def sync(self) -> None:
        """Makes what was written durable."""
        self._file.sync()

    def finish(self) -> None:
        """Tables, directory, footer, end marker, and the header last; durable on return. May be called again after an
        OSError."""
        with self._lock:
            if not self._whole:
                self._squeeze()
                self._append_tables(self._tables.changed())
                self._log.append(self._trailer())
                self._whole = True
            self._file.truncate(self._log.end)
            self._file.sync()
            self._write_front(MAGIC)
            self._file.sync()

    def data_extents(self) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` of guest ranges that hold grains, rising."""
        start = end = 0
        for grain in self._grains():
            if grain * BLOCK != end:
                if end > start:
                    yield start, end - start
                start = grain * BLOCK
            end = min((grain + 1) * BLOCK, self.capacity)
        if end > start:
            yield start, end - start

    def allocated_runs(self) -> Iterator[range]:
        """Runs of blocks whose grains are in the log: ``resume`` found each of them whole."""
        for offset, length in self.data_extents():
            yield range(offset // BLOCK, -(-(offset + length) // BLOCK))

    stored = allocated_runs

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
            raise bad_format(f"no grain for guest offset {offset} at sector {sector}, where it was")
        return Piece(offset, length, data)

    def drop(self, blocks: Iterable[int]) -> None:
        """Takes the grains of ``blocks`` out of the log; those behind them move down."""
        with self._lock:
            for grain in blocks:
                self._drop_grain(grain)
            self._squeeze()

    def _grains(self) -> Iterator[int]:
        with self._lock:
            numbers = list(self._tables.used())
        for number in numbers:
            with self._lock:
                entries = self._tables.entries(number)
            yield from (number * ENTRIES_PER_TABLE + slot for slot, sector in enumerate(entries) if sector)

    # Writing.

    def _deflated(self, offset: int, data: memoryview) -> Piece:
        """A whole grain is deflated also at the end of an odd disk: the format knows no shorter ones."""
        block: Buffer = data if len(data) == BLOCK else bytes(data).ljust(BLOCK, b"\0")
        return Piece(offset, len(data), isal_zlib.compress(block, self._level))

    def _append(self, pieces: Sequence[Piece]) -> None:
        """All of ``pieces``, or none of them when an error is raised."""
        records = [grain_record(piece.offset, piece.zlib) for piece in pieces]
        with self._lock:
            self._append_tables(self._tables.due())
            for piece in pieces:
                self._tables.load(piece.offset // BLOCK)
            at = self._log.append([buffer for record in records for buffer in record])
            for piece, record in zip(pieces, records, strict=True):
                self._put(piece.offset // BLOCK, at)
                at += sum(map(len, record))
            self._tables.trim()

    def _put(self, grain: int, start: int) -> None:
        before = self._tables.put(grain, start // SECTOR) * SECTOR
        if before and before != start:
            self._dead(before)

    def _dead(self, start: int) -> None:
        self._first_dead = start if self._first_dead is None else min(start, self._first_dead)

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

    # Going on after a crash.

    def _read_log(self) -> None:
        """Enters everything that an earlier run appended; of a block that is there twice the later one counts."""
        end = FRONT_BYTES
        self._log.end = self._file.size()
        for record in self._log.records(FRONT_BYTES, self.capacity):
            if record.grain is not None:
                self._put(record.grain, record.start)
            else:
                self._adopt_table(record)
            self._tables.trim()
            end = record.start + record.length
        self._log.end = end
        self._file.truncate(end)

    def _adopt_table(self, record: Record) -> None:
        """Lets go of a table in memory when ``record`` is its copy, which keeps memory as small as it was when this was
        written."""
        data = self._file.pread(record.length - SECTOR, record.start + SECTOR)
        entries = entries_of(data)
        first = next(filter(None, entries), 0)
        marker = self._file.pread(META_MARKER.size, first * SECTOR)
        if len(marker) < META_MARKER.size:
            return  # of a move that a crash broke off: what it named has gone elsewhere
        lba, _, _ = META_MARKER.unpack(marker)
        number = lba * SECTOR // (BLOCK * ENTRIES_PER_TABLE)
        if first and number < len(self._tables.directory) and self._tables.entries(number) == entries:
            self._tables.stored(number, record.sector)

    def _drop(self, trusted: Callable[[int], bool]) -> None:
        for grain in self._grains():
            if not trusted(grain):
                self._drop_grain(grain)

    def _drop_grain(self, grain: int) -> None:
        self._append_tables(self._tables.due())
        if start := self._tables.put(grain, 0) * SECTOR:
            self._dead(start)

    def _squeeze(self) -> None:
        """Takes the grains that no table names out of the log. After an OSError it goes on where it was."""
        if self._first_dead is not None:
            self._move(self._first_dead)
        if self._unnumbered is not None:
            for record in self._log.records(self._unnumbered, self.capacity):
                if record.grain is not None:
                    self._append_tables(self._tables.due())
                    self._tables.put(record.grain, record.sector)
                self._unnumbered = record.start + record.length
            self._unnumbered = None

    def _move(self, target: int) -> None:
        self._hash = None
        if self._moved is None:
            self._append_tables(self._tables.changed())
            moved: dict[int, int] = {}
            self._log.prepare_move(target, self._named(target, moved))
            self._moved = moved
        self._log.finish_move()
        for number, sector in self._moved.items():
            self._tables.directory[number] = sector
        self._first_dead, self._moved, self._unnumbered = None, None, target

    def _named(self, target: int, moved: dict[int, int]) -> Iterator[Record]:
        """The records from ``target`` on that are still named; ``moved`` gets the sector of each table once all of them
        stand at ``target``."""
        tables = {sector: number for number, sector in enumerate(self._tables.directory) if sector * SECTOR > target}
        at = target
        for record in self._log.records(target, self.capacity):
            if record.grain is not None:
                named = self._tables.sector(record.grain) == record.sector
                self._tables.trim()
            elif named := record.sector in tables:
                moved[tables[record.sector]] = (at + SECTOR) // SECTOR
            if named:
                at += record.length
                yield record


def most_bytes(capacity: int, blocks: int) -> int:
    """The longest that the stream of ``blocks`` grains becomes: none shrinks, and each table is written a second time
    for a late grain."""
    tables = -(-capacity // TABLE_SPAN)
    directory = SECTOR + align_up(tables * 4, SECTOR)
    grains = blocks * align_up(GRAIN_MARKER.size + DEFLATED_MOST, SECTOR)
    return FRONT_BYTES + grains + min(blocks, 2 * tables) * TABLE_RECORD_BYTES + directory + 3 * SECTOR


def is_front(data: bytes, capacity: int) -> bool:
    """Whether ``data`` is, to the last byte, what this writer puts before the first grain of a disk of ``capacity``
    bytes; any content id will do."""
    cid = _CID.search(data)
    return cid is not None and data == _front(_header(capacity), int(cid[1], 16))


def _front(header: SparseHeader, cid: int) -> bytes:
    """All that stands before the first grain."""
    text = stream_descriptor(header.capacity, cid)
    assert len(text) <= _DESCRIPTOR_SECTORS * SECTOR
    return (header.pack() + text).ljust(FRONT_BYTES, b"\0")


def _header(capacity: int) -> SparseHeader:
    if capacity % SECTOR or not 0 < capacity <= MAX_CAPACITY:
        raise ValueError(f"no VMDK can have a capacity of {capacity} bytes")
    return stream_header(capacity, descriptor_sectors=_DESCRIPTOR_SECTORS, overhead_sectors=FRONT_BYTES // SECTOR)


def _cut_at_hole(file: BlockFile) -> None:
    """A log is written without a hole, so where one is, something was lost; the heads of records alone would not
    tell."""
    first = next(file.data_runs(FRONT_BYTES), None)
    end = first.stop if first is not None and first.start == FRONT_BYTES else FRONT_BYTES
    if end < file.size():
        file.truncate(end)


def _require_ours(file: BlockFile, header: SparseHeader) -> None:
    """Raises IntegrityError ``bad_format`` unless ``file`` begins as one that this writer began for this disk."""
    sector = file.pread(SECTOR, 0)
    if sector.startswith(UNFINISHED_MAGIC):
        sector = MAGIC + sector[len(MAGIC) :]
    if parse_header(sector) != header:
        raise bad_format("the file was not begun by this program, or for another disk")
