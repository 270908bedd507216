"""Push parser of a streamOptimized VMDK: bytes in, grains out, in the order of the stream. No socket, file or thread.

::

    chunk ──feed──> grains (views into the chunk)      whole grains: one tight loop, no copy
                └─> _parse: header, descriptor, front tables, markers, grains cut in two by the chunk's end

The input is untrusted. Memory is limited by the capacity (1.2 KiB for each 512 MiB that holds a grain, one directory),
the length of an acceptable stream is limited by the capacity too, and each byte is parsed once. The tables are compared
with the grains, so a grain that was moved, lost or repeated is an error even where its checksum is right.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

from deflate import DeflateError, zlib_decompress
from isal import isal_zlib

from hypersdk.errors import CORRUPT_GRAIN, TRUNCATED_STREAM, IntegrityError
from hypersdk.formats.image import BLOCK, Piece
from hypersdk.formats.vmdk.descriptor import parse_descriptor
from hypersdk.formats.vmdk.grainmap import GrainMap, table_sum
from hypersdk.formats.vmdk.layout import (
    ENTRIES_PER_TABLE,
    GD_AT_END,
    GRAIN_MARKER,
    GRAIN_SECTORS,
    MAX_GRAIN_BYTES,
    TABLE_BYTES,
    ZEROED_GRAIN,
    HeaderFlag,
    MarkerType,
    SparseHeader,
    bad_format,
    entries_of,
    exact_capacity,
    parse_header,
    require_stream,
)
from hypersdk.units import SECTOR, KiB, MiB, align_up

_PIECE: Final = 64 * KiB
"""Bytes requested at a time where many are read or skipped; at most so many are buffered between two chunks."""
_MOST_FILLER: Final = 1 * MiB
"""Zeros that may stand after the last grain: qemu-img leaves up to 64 KiB [Q]."""
_MOST_DIRECTORIES: Final = 2
_DIRECTORY_SLACK_SECTORS: Final = GRAIN_SECTORS
_NO_ENTRIES: Final = bytes(TABLE_BYTES)
_DEFLATE_ERROR: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]  # isal's stub takes the class for an instance

_Steps: TypeAlias = Generator[int, memoryview, None]
"""A parser that yields how many bytes it needs next and is sent exactly these, which are valid until it yields
again."""


@dataclass(frozen=True, slots=True)
class Grain(Piece):
    """One block of the stream: guest ``offset`` and inflated ``length`` in bytes (short at the end of an odd disk), and
    the RFC 1950 stream.

    ``zlib[2:-4]`` is raw deflate.
    """

    zlib: memoryview


class GrainDecoder:
    """Decodes one stream, chunk by chunk.

    Raises IntegrityError ``bad_format`` for an invalid or inconsistent stream; the decoder cannot be used after an
    error. ``expected_capacity`` (bytes) is that of the source; without it the header's is used. A header may be rounded
    up to whole grains, as the format's description requires.
    """

    def __init__(self, *, expected_capacity: int | None = None) -> None:
        self.capacity: int | None = None
        """Guest bytes; None until the header has come."""
        self.position = 0
        """Highest end of a grain so far, in guest bytes."""
        self.received = 0
        """Bytes of the stream that were parsed."""
        self._expected = expected_capacity
        self._grains_wanted: int | None = None  # known only when the tables stand in front
        self._map = GrainMap()
        self._tables = _Tables()
        self._filler = 0
        self._ended = False
        self._out: list[Grain] = []
        self._held = bytearray()
        self._between = False  # the parser waits for a marker: whole grains may be taken off the chunk
        self._parser = self._parse()
        self._needed = next(self._parser)

    @property
    def finished(self) -> bool:
        """Whether the end marker came, or every grain that the front tables name."""
        return self._ended or (self._grains_wanted is not None and self._map.count >= self._grains_wanted)

    def feed(self, chunk: memoryview) -> list[Grain]:
        """Returns the grains that ``chunk`` completes. Their ``zlib`` points into ``chunk``, except for a grain that
        began in an earlier one."""
        self._out = []
        at = 0
        while not self._ended:
            if self._between and not self._held:
                at = self._whole_grains(chunk, at)
            stop = at + self._needed - len(self._held)
            if stop > len(chunk):
                self._held += chunk[at:]
                return self._out
            unit = chunk[at:stop]
            if self._held:
                unit = memoryview(b"".join((self._held, unit)))
                self._held.clear()
            self.received += len(unit)
            self._needed = self._parser.send(unit)
            at = stop
        self._after_end(chunk[at:])
        return self._out

    def close(self) -> None:
        """Ends the stream. Raises IntegrityError ``truncated_stream`` unless it is complete, and ``bad_format`` where
        the grains do not match the tables."""
        if not self.finished:
            raise IntegrityError(
                f"the stream ended after {self.received + len(self._held)} bytes, before its end",
                code=TRUNCATED_STREAM,
                received=self.received + len(self._held),
                position=self.position,
            )
        if self._grains_wanted is not None:
            for table in self._map.mismatched():
                raise bad_format(f"grain table {table} does not match the grains of the stream", table=table)

    # The hot path.

    def _whole_grains(self, chunk: memoryview, at: int) -> int:
        """Parses the grains that lie completely in ``chunk`` from ``at`` on; returns where anything else begins."""
        start = at
        base = self.received - at
        last_marker = len(chunk) - GRAIN_MARKER.size
        grains = self._out
        while at <= last_marker:
            lba, size = GRAIN_MARKER.unpack_from(chunk, at)
            after = at + (12 + size + 511 & ~511)  # a marker begins a sector
            if not 0 < size <= MAX_GRAIN_BYTES or after > len(chunk):
                break
            grains.append(self._grain(lba, (base + at) // SECTOR, chunk[at + 12 : at + 12 + size]))
            at = after
        self.received += at - start
        return at

    def _grain(self, lba: int, sector: int, zlib: memoryview) -> Grain:
        capacity = self.capacity
        assert capacity is not None
        index, misfit = divmod(lba, GRAIN_SECTORS)
        offset = lba * SECTOR
        if misfit or offset >= capacity:
            raise bad_format(f"a grain for guest sector {lba}", sector=sector)
        self._map.arrive(index, sector)
        end = min(offset + BLOCK, capacity)
        if end > self.position:
            self.position = end
        return Grain(offset, end - offset, zlib)

    # Everything else, in the order of the stream.

    def _parse(self) -> _Steps:
        header = parse_header((yield SECTOR))
        require_stream(header)
        yield from self._front(header)
        self._between = True
        while not self._ended:
            lba, size = GRAIN_MARKER.unpack((yield GRAIN_MARKER.size))
            sector = self.received // SECTOR
            self._between = False
            if size:
                yield from self._cut_grain(lba, size, sector)
            else:
                kind = int.from_bytes((yield SECTOR - GRAIN_MARKER.size)[:4], "little")
                yield from self._metadata(header, kind, lba)
            self._between = True
        yield 0

    def _cut_grain(self, lba: int, size: int, sector: int) -> _Steps:
        if size > MAX_GRAIN_BYTES:
            raise bad_format(f"a grain of {size} compressed bytes", sector=sector)
        data = yield size
        self._out.append(self._grain(lba, sector, data))
        if padding := -self.received % SECTOR:
            yield padding  # separately, because the last grain of a file may come without it

    def _metadata(self, header: SparseHeader, kind: int, sectors: int) -> _Steps:
        match kind:
            case MarkerType.END_OF_STREAM:
                self._end_marker(header, sectors)
            case MarkerType.GRAIN_TABLE:
                yield from self._table(header, sectors)
            case MarkerType.GRAIN_DIRECTORY:
                yield from self._directory(header, sectors)
            case MarkerType.FOOTER:
                yield from self._footer(header, sectors)
            case _:
                raise bad_format(f"a marker of unknown type {kind}", sector=self.received // SECTOR - 1)

    def _front(self, header: SparseHeader) -> _Steps:
        """Parses descriptor and, if they are here, directory and tables; up to the first marker."""
        parts = [(header.directory_offset, self._front_directory)] if _tables_first(header) else []
        text = bytearray()
        if header.descriptor_sectors:
            parts.append(
                (header.descriptor_offset, lambda header: self._read(header.descriptor_sectors * SECTOR, text))
            )
        for sector, part in sorted(parts, key=lambda found: found[0]):
            yield from self._skip_to(sector)
            yield from part(header)
        self.capacity = self._check_capacity(header, bytes(text))
        yield from self._skip_to(header.overhead_sectors)

    def _front_directory(self, header: SparseHeader) -> _Steps:
        data = bytearray()
        yield from self._read(header.directory_bytes, data)
        directory = entries_of(data)
        zeroed = bool(header.flags & HeaderFlag.ZEROED_GRAIN)
        wanted = 0
        for table in sorted((table for table, sector in enumerate(directory) if sector), key=directory.__getitem__):
            yield from self._skip_to(directory[table])
            entries = bytes((yield TABLE_BYTES))
            if entries != _NO_ENTRIES:
                named = entries_of(entries)
                self._map.expect(table, table_sum(named, zeroed_allowed=zeroed))
                wanted += ENTRIES_PER_TABLE - named.count(0) - (named.count(ZEROED_GRAIN) if zeroed else 0)
        self._grains_wanted = wanted

    def _check_capacity(self, header: SparseHeader, text: bytes) -> int:
        described = parse_descriptor(text).own_sectors
        capacity = exact_capacity(header, described) if self._expected is None else self._expected
        allowed = {capacity, align_up(capacity, BLOCK)}
        for found in {header.capacity, *([described * SECTOR] if described is not None else [])} - allowed:
            raise bad_format(f"a capacity of {found} bytes, not {capacity}", capacity=found, expected=capacity)
        return capacity

    def _table(self, header: SparseHeader, sectors: int) -> _Steps:
        if sectors * SECTOR != TABLE_BYTES:
            raise bad_format(f"a grain table of {sectors} sectors")
        if len(self._tables) > self._map.count + header.tables:
            raise bad_format("more grain tables than grains")
        sector = self.received // SECTOR
        entries = entries_of((yield TABLE_BYTES))
        self._tables.add(sector, table_sum(entries, zeroed_allowed=bool(header.flags & HeaderFlag.ZEROED_GRAIN)))

    def _directory(self, header: SparseHeader, sectors: int) -> _Steps:
        needed = -(-header.directory_bytes // SECTOR)
        if not needed <= sectors <= needed + _DIRECTORY_SLACK_SECTORS:
            raise bad_format(f"a grain directory of {sectors} sectors for {header.tables} tables")
        if len(self._tables.directories) == _MOST_DIRECTORIES:
            raise bad_format("more than two grain directories")
        sector = self.received // SECTOR
        data = bytearray()
        yield from self._read(sectors * SECTOR, data)
        self._tables.directories[sector] = entries_of(data[: header.directory_bytes])

    def _footer(self, header: SparseHeader, sectors: int) -> _Steps:
        if sectors != 1:
            raise bad_format(f"a footer of {sectors} sectors")
        if self._tables.footer_directory is not None:
            raise bad_format("more than one footer")
        footer = parse_header((yield SECTOR))
        require_stream(footer)
        if footer.capacity_sectors != header.capacity_sectors:
            raise bad_format("header and footer name different capacities")
        if header.directory_offset not in (GD_AT_END, footer.directory_offset):
            raise bad_format("header and footer name different grain directories")
        self._tables.footer_directory = footer.directory_offset

    def _end_marker(self, header: SparseHeader, sectors: int) -> None:
        if sectors:
            raise bad_format(f"an end marker with {sectors} sectors")
        if self._grains_wanted is not None:
            self._count_filler(SECTOR)  # qemu-img's zero sectors look the same; the front tables know the end
            return
        self._tables.compare(self._map, header)
        self._ended = True

    def _after_end(self, rest: memoryview) -> None:
        if bytes(rest).strip(b"\0"):
            raise bad_format("data after the end of the stream")
        self._count_filler(len(rest))

    def _count_filler(self, length: int) -> None:
        self._filler += length
        if self._filler > _MOST_FILLER:
            raise bad_format(f"more than {_MOST_FILLER} bytes of zeros after the last grain")

    def _read(self, length: int, into: bytearray) -> _Steps:
        while len(into) < length:
            into += yield min(_PIECE, length - len(into))

    def _skip_to(self, sector: int) -> _Steps:
        distance = sector * SECTOR - self.received
        if distance < 0:
            raise bad_format(f"its parts overlap at sector {sector}")
        while distance:
            distance -= len((yield min(_PIECE, distance)))


class _Tables:
    """Tables and directories between and behind the grains: 16 bytes for each table."""

    def __init__(self) -> None:
        self.directories: dict[int, array[int]] = {}
        self.footer_directory: int | None = None
        self._sectors = array("Q")
        self._sums = array("Q")

    def __len__(self) -> int:
        return len(self._sectors)

    def add(self, sector: int, entries_sum: int) -> None:
        """Adds a table at ``sector``; sectors rise because the stream only goes forward."""
        self._sectors.append(sector)
        self._sums.append(entries_sum)

    def compare(self, grains: GrainMap, header: SparseHeader) -> None:
        """Raises IntegrityError ``bad_format`` unless the directory in use names exactly the ``grains`` that came."""
        offset = header.directory_offset if self.footer_directory is None else self.footer_directory
        directory = self.directories.get(offset)
        if directory is None:
            raise bad_format(
                "the stream ends without its grain directory"
                if offset == GD_AT_END
                else f"no grain directory at sector {offset}"
            )
        for table, sector in enumerate(directory):
            if (self._sum_at(sector) if sector else 0) != grains.sum_of(table):
                raise bad_format(f"grain table {table} does not match the grains of the stream", table=table)

    def _sum_at(self, sector: int) -> int:
        position = bisect_left(self._sectors, sector)
        if position == len(self._sectors) or self._sectors[position] != sector:
            raise bad_format(f"no grain table at sector {sector}, where the directory has one")
        return self._sums[position]


def _tables_first(header: SparseHeader) -> bool:
    return 0 < header.directory_offset < header.overhead_sectors


def inflate(grain: Piece) -> bytes | bytearray:
    """Returns the ``grain.length`` bytes of a grain after checking its Adler-32. Never makes more than 64 KiB.

    Writers may pad the last grain of an odd disk to 64 KiB; what is beyond the end of the disk is dropped.
    Raises IntegrityError ``corrupt_grain``.
    """
    # libdeflate takes two thirds of isal's time, but neither stops at 64 KiB nor names the error: unusual grains are
    # inflated again.
    try:
        data = zlib_decompress(grain.zlib, BLOCK)
    except DeflateError:
        return _inflate_with_care(grain)
    # It also ignores what follows the data: the checksum must be at the end.
    if len(data) == grain.length and grain.zlib[-4:] == isal_zlib.adler32(data).to_bytes(4, "big"):
        return data
    return _inflate_with_care(grain)


def _inflate_with_care(grain: Piece) -> bytes:
    decompressor = isal_zlib.decompressobj()
    try:
        data = decompressor.decompress(grain.zlib, BLOCK + 1)
    except _DEFLATE_ERROR as error:
        raise _corrupt(grain, str(error)) from error
    if len(data) > BLOCK:
        raise _corrupt(grain, "it inflates to more than 64 KiB")
    if not decompressor.eof:
        raise _corrupt(grain, "it ends too early")
    if decompressor.unused_data:
        raise _corrupt(grain, f"{len(decompressor.unused_data)} bytes follow its end")
    if len(data) < grain.length:
        raise _corrupt(grain, f"it inflates to {len(data)} bytes, not {grain.length}")
    return data[: grain.length]


def _corrupt(grain: Piece, why: str) -> IntegrityError:
    return IntegrityError(
        f"the block at guest offset {grain.offset} is damaged: {why}", code=CORRUPT_GRAIN, offset=grain.offset
    )
