"""Random access to local VMDKs: sparse, flat, split into many files, and finished streams.

::

    open_vmdk ── sparse or stream ────────────────────────> _SparseExtent
              └─ descriptor, a text ── SPARSE "a-s001.vmdk" > _SparseExtent ┐
                                    ── FLAT "a-f001.vmdk" 0 > _FlatExtent   ├ _SplitDisk
                                    ── ZERO ───────────────> _ZeroExtent   ┘

The caller opens the files, because their names are untrusted text. ``open_extent`` gets the names that one file may
have; all of them are inner paths (apart from bytes that are not text).
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate
from typing import Final, Protocol, TypeAlias

from hypersdk.errors import TRUNCATED_STREAM, IntegrityError
from hypersdk.formats.image import BLOCK, Piece, ReadableFile, runs_of
from hypersdk.formats.names import is_inner_path
from hypersdk.formats.vmdk.descriptor import Descriptor, ExtentLine, is_descriptor, parse_descriptor
from hypersdk.formats.vmdk.layout import (
    COWD_MAGIC,
    ENTRIES_PER_TABLE,
    GD_AT_END,
    GRAIN_MARKER,
    MAGIC,
    MAX_DESCRIPTOR_BYTES,
    MAX_GRAIN_BYTES,
    META_MARKER,
    SESPARSE_MAGIC,
    TABLE_BYTES,
    ZEROED_GRAIN,
    HeaderFlag,
    MarkerType,
    SparseHeader,
    bad_format,
    entries_of,
    exact_capacity,
    no_size,
    parse_header,
    require_stream,
)
from hypersdk.formats.vmdk.stream import inflate
from hypersdk.units import SECTOR, MiB

SNIFF_BYTES: Final = 512
"""Bytes that ``sniff`` needs of a file."""
_ESCAPED: Final = re.compile("[\udc80-\udcff]")
"""Bytes that are not text, as ``surrogateescape`` decodes them."""
_TABLES_KEPT: Final = 64
_MOST_DIRECTORY_BYTES: Final = 32 * MiB
"""64 TiB of 64 KiB grains need 8 MiB; only unusual combinations of capacity and grain size need more than 32 MiB."""


class VmdkKind(StrEnum):
    """The type of a file, from its first bytes."""

    STREAM = "streamOptimized"
    SPARSE = "sparse extent"
    DESCRIPTOR = "descriptor"


class DiskReader(Protocol):
    """Random access to a guest disk. Thread-safe. Raises IntegrityError where it is damaged, and OSError."""

    capacity: int
    """Guest bytes."""

    def extents(self) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` of guest ranges that may hold data, rising, disjoint; all else reads as zeros."""

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fills ``buffer`` from guest ``offset``; the range must lie within the capacity."""


def sniff(head: bytes) -> VmdkKind:
    """Returns the type of a file that begins with ``head`` (SNIFF_BYTES, fewer where the file is shorter).

    Raises IntegrityError ``bad_format`` for anything but a VMDK, and for the deltas of ESXi.
    """
    if head.startswith(MAGIC):
        header = parse_header(head)
        return VmdkKind.STREAM if header.compressed else VmdkKind.SPARSE
    if head.startswith((COWD_MAGIC, SESPARSE_MAGIC)):
        raise bad_format("it is the delta of a snapshot on ESXi; consolidate the machine's snapshots first")
    if is_descriptor(head):
        return VmdkKind.DESCRIPTOR
    raise bad_format("neither a sparse extent nor a descriptor")


ExtentOpener: TypeAlias = Callable[[Sequence[str]], ReadableFile]
"""Opens the file beside a descriptor that has one of these names, best first."""


def open_vmdk(file: ReadableFile, open_extent: ExtentOpener) -> DiskReader:
    """Opens the disk in ``file``; ``open_extent`` opens the files that its descriptor names.

    Raises IntegrityError (``bad_format``, ``truncated_stream``).
    """
    if sniff(file.pread(SNIFF_BYTES, 0)) is VmdkKind.DESCRIPTOR:
        return _open_split(parse_descriptor(file.pread(MAX_DESCRIPTOR_BYTES + 1, 0)), open_extent)
    header = parse_header(_exactly(file, SECTOR, 0))
    return _SparseExtent(file, _own_sectors(file, header))


def stream_capacity(file: ReadableFile) -> int:
    """Returns the guest bytes of the streamOptimized disk in ``file``; reads only header and descriptor. Raises as
    ``open_vmdk``."""
    header = parse_header(_exactly(file, SECTOR, 0))
    return exact_capacity(header, _own_sectors(file, header))


def _own_sectors(file: ReadableFile, header: SparseHeader) -> int | None:
    """Returns the sectors in the embedded descriptor. Raises IntegrityError where the disk is a delta."""
    if not header.descriptor_sectors:
        return None
    text = _exactly(file, header.descriptor_sectors * SECTOR, header.descriptor_offset * SECTOR)
    return parse_descriptor(text).own_sectors


def _open_split(descriptor: Descriptor, open_extent: ExtentOpener) -> DiskReader:
    if not descriptor.extents:
        raise bad_format("a descriptor without extents")
    return _SplitDisk([_open_extent(line, open_extent) for line in descriptor.extents])


def _open_extent(line: ExtentLine, open_extent: ExtentOpener) -> DiskReader:
    length = line.sectors * SECTOR
    match line.kind:
        case "ZERO":
            return _ZeroExtent(length)
        case "FLAT" | "VMFS":
            return _FlatExtent(open_extent(_inner_names(line)), line.offset * SECTOR, length)
        case "SPARSE":
            return _SparseExtent(open_extent(_inner_names(line)), line.sectors)
        case _:
            raise bad_format(f"an extent of kind {line.kind}")


def _inner_names(line: ExtentLine) -> list[str]:
    names = [name for name in line.names if is_inner_path(_ESCAPED.sub("?", name))]
    if not names:
        raise bad_format(
            f"an extent in {(line.names or ('',))[0][:80]!r}; only a file beside the descriptor may be named"
        )
    return names


class _ZeroExtent:
    """An extent of zeros."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def extents(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def read(self, offset: int, buffer: memoryview) -> None:  # noqa: ARG002 - zeros everywhere
        buffer[:] = bytes(len(buffer))


class _FlatExtent:
    """Plain guest bytes from ``start`` of a file on."""

    def __init__(self, file: ReadableFile, start: int, capacity: int) -> None:
        if start + capacity > file.size():
            raise _truncated(f"a flat extent of {capacity} bytes at {start} in a file of {file.size()}")
        self.capacity = capacity
        self._file = file
        self._start = start

    def extents(self) -> Iterator[tuple[int, int]]:
        yield 0, self.capacity

    def read(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = _exactly(self._file, len(buffer), self._start + offset)


class _SparseExtent:
    """Grains, plain or compressed, found through directory and tables."""

    def __init__(self, file: ReadableFile, described_sectors: int | None) -> None:
        header = parse_header(_exactly(file, SECTOR, 0))
        if header.compressed:
            require_stream(header)
        self.capacity = exact_capacity(header, described_sectors)
        self._file = file
        self._header = header
        self._grain = header.grain_sectors * SECTOR
        self._zeroed = ZEROED_GRAIN if header.flags & HeaderFlag.ZEROED_GRAIN else 0
        self._directory = self._read_directory()
        self._entries = lru_cache(_TABLES_KEPT)(self._read_table)

    def extents(self) -> Iterator[tuple[int, int]]:
        for run in runs_of(self._stored()):
            start = run.start * self._grain
            yield start, min(run.stop * self._grain, self.capacity) - start

    def read(self, offset: int, buffer: memoryview) -> None:
        at = 0
        while at < len(buffer):
            number, skip = divmod(offset + at, self._grain)
            length = min(self._grain - skip, len(buffer) - at)
            self._read_grain(number, skip, buffer[at : at + length])
            at += length

    def _stored(self) -> Iterator[int]:
        """Numbers of all grains that are stored. Raises IntegrityError where tables name more than the file can
        hold."""
        room = self._file.size() // (SECTOR if self._header.compressed else self._grain)
        for table, sector in enumerate(self._directory):
            if sector:
                for slot, entry in enumerate(self._entries(table)):
                    number = table * ENTRIES_PER_TABLE + slot
                    if entry and entry != self._zeroed and number * self._grain < self.capacity:
                        room -= 1
                        yield number
            if room < 0:
                raise bad_format("its tables name more grains than the file can hold")

    def _read_grain(self, number: int, skip: int, buffer: memoryview) -> None:
        table, slot = divmod(number, ENTRIES_PER_TABLE)
        sector = self._entries(table)[slot] if self._directory[table] else 0
        if sector == 0 or sector == self._zeroed:
            buffer[:] = bytes(len(buffer))
        elif self._header.compressed:
            buffer[:] = self._inflated(number, sector)[skip : skip + len(buffer)]
        else:
            buffer[:] = _exactly(self._file, len(buffer), sector * SECTOR + skip)

    def _inflated(self, number: int, sector: int) -> bytes | bytearray:
        offset = number * BLOCK
        lba, size = GRAIN_MARKER.unpack(_exactly(self._file, GRAIN_MARKER.size, sector * SECTOR))
        if lba * SECTOR != offset or not 0 < size <= MAX_GRAIN_BYTES:
            raise bad_format(f"no grain for guest offset {offset} at sector {sector}, where the tables point")
        zlib = _exactly(self._file, size, sector * SECTOR + GRAIN_MARKER.size)
        return inflate(Piece(offset, min(BLOCK, self.capacity - offset), zlib))

    def _read_directory(self) -> array[int]:
        sector = self._header.directory_offset
        if sector == GD_AT_END:
            sector = self._read_footer().directory_offset
        length = self._header.directory_bytes
        if length > _MOST_DIRECTORY_BYTES:
            raise bad_format(f"a grain directory of {length} bytes")
        return entries_of(_exactly(self._file, length, sector * SECTOR))

    def _read_footer(self) -> SparseHeader:
        """The footer of a stream: marker, footer and end marker are the file's last three sectors."""
        start = self._file.size() - 3 * SECTOR
        if start < SECTOR:
            raise _truncated("a stream without its footer")
        tail = _exactly(self._file, 3 * SECTOR, start)
        if META_MARKER.unpack_from(tail) != (1, 0, MarkerType.FOOTER) or any(tail[2 * SECTOR :]):
            raise _truncated("a stream that does not end in footer and end marker")
        footer = parse_header(tail[SECTOR : 2 * SECTOR])
        if footer.capacity_sectors != self._header.capacity_sectors:
            raise bad_format("header and footer name different capacities")
        return footer

    def _read_table(self, number: int) -> array[int]:
        return entries_of(_exactly(self._file, TABLE_BYTES, self._directory[number] * SECTOR))


class _SplitDisk:
    """Extents one after another."""

    def __init__(self, parts: list[DiskReader]) -> None:
        self._parts = parts
        self._starts = list(accumulate((part.capacity for part in parts), initial=0))
        self.capacity = self._starts.pop()
        if not self.capacity:
            raise no_size()

    def extents(self) -> Iterator[tuple[int, int]]:
        for start, part in zip(self._starts, self._parts, strict=True):
            yield from ((start + offset, length) for offset, length in part.extents())

    def read(self, offset: int, buffer: memoryview) -> None:
        at = 0
        while at < len(buffer):
            number = bisect_right(self._starts, offset + at) - 1
            skip = offset + at - self._starts[number]
            length = min(self._parts[number].capacity - skip, len(buffer) - at)
            self._parts[number].read(skip, buffer[at : at + length])
            at += length


def _exactly(file: ReadableFile, length: int, offset: int) -> bytes:
    data = file.pread(length, offset) if offset < 2**63 - length else b""
    if len(data) < length:
        raise _truncated(f"{length} bytes at {offset} are beyond the end of the file")
    return data


def _truncated(what: str) -> IntegrityError:
    return IntegrityError(f"the VMDK is cut short: {what}", code=TRUNCATED_STREAM)
