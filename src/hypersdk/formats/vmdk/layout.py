"""Layout of VMDK sparse files: constants and structs, each with its source.

Sources: [V] VMware, "Virtual Disk Format 5.0" (technical note, 2011), sections "Hosted Sparse Extents" and
"Stream-Optimized Compressed Sparse Extents"; [Q] what ``qemu-img`` 7 writes and reads (``block/vmdk.c``).

A sparse extent. All numbers are little-endian, all positions are in sectors of 512 bytes from the start of the file::

    0        1            overHead
    +--------+------------+-----------------------------------------------------------+
    | header | descriptor | grains and tables                                         |
    +--------+------------+-----------------------------------------------------------+

    grain directory (GD) ──entry g──> grain table (GT), 512 entries ──entry i──> grain (g * 512 + i)

A stream, as ESXi sends it: it can be written and read without seeking, so each part has a marker that tells its type,
and the directory comes last, found through the footer (a second header)::

    header, descriptor │ grain grain ... GT │ grain ... GT │ GD │ footer │ end of stream

    grain     lba u64, size u32, size bytes of zlib (RFC 1950), padding to a sector
    others    sectors u64, 0 u32, type u32, padding to a sector; then so many sectors

``qemu-img`` writes another variant: GD and GTs are before the first grain, there is neither a footer nor a reliable end
marker, and the file may end in sectors of zeros.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, Final

from hypersdk.errors import BAD_FORMAT, IntegrityError
from hypersdk.formats.image import BLOCK, Buffer
from hypersdk.units import SECTOR, MiB, TiB, align_up

MAGIC: Final = b"KDMV"
"""First four bytes of a hosted sparse extent [V]."""
COWD_MAGIC: Final = b"COWD"
"""First four bytes of an ESXi ``vmfsSparse`` delta, another format altogether [V]."""
SESPARSE_MAGIC: Final = b"\xbe\xba\xfe\xca\x00\x00\x00\x00"
"""First eight bytes of an ESXi ``seSparse`` delta: 0x00000000cafebabe [Q]."""

HEADER: Final = Struct("<4sIIQQQQIQQQB4sH433x")
"""SparseExtentHeader [V]: magic, version, flags, capacity, grainSize, descriptorOffset, descriptorSize, numGTEsPerGT,
rgdOffset, gdOffset, overHead, uncleanShutdown, the four end-of-line characters, compressAlgorithm; one sector."""
GRAIN_MARKER: Final = Struct("<QI")
"""lba (first guest sector), bytes of zlib data; the data follows at once [V]."""
META_MARKER: Final = Struct("<QII")
"""sectors that follow, 0, MarkerType; fills its sector [V]."""

VERSIONS: Final = range(1, 4)
"""1 plain, 2 zeroed grains, 3 written for streams by ESXi and qemu; the layout is the same [V][Q]."""
GD_AT_END: Final = 2**64 - 1
"""``gdOffset`` of a stream whose directory is only found through the footer [V]."""
DEFLATE: Final = 1
"""``compressAlgorithm``: RFC 1950 in grains [V]."""
END_OF_LINE: Final = b"\n \r\n"
"""Changed by transfers in text mode, to detect them [V]."""

GRAIN_SECTORS: Final = BLOCK // SECTOR
ENTRIES_PER_TABLE: Final = 512
"""GTEs in a GT, fixed by [V]."""
TABLE_BYTES: Final = 4 * ENTRIES_PER_TABLE
TABLE_SPAN: Final = ENTRIES_PER_TABLE * BLOCK
"""Guest bytes behind one GT of 64 KiB grains: 32 MiB."""
ZEROED_GRAIN: Final = 1
"""GTE of a grain of zeros that is not stored; only with HeaderFlag.ZEROED_GRAIN [Q]."""

MAX_CAPACITY: Final = 64 * TiB
"""Above vSphere's largest disk (62 TiB). A header beyond it is refused, which bounds every table made from it."""
MAX_GRAIN_BYTES: Final = 2 * BLOCK
"""Largest zlib data of one grain that is accepted: qemu's limit [Q]. isal's level 0 needs 80,631 bytes."""
DEFLATED_MOST: Final = 65_569
"""Most bytes that zlib makes of 64 KiB."""
MAX_DESCRIPTOR_BYTES: Final = 1 * MiB
"""Embedded descriptors have 10 KiB; text files of split disks one line for each 2 GiB."""
MAX_FILE_SECTORS: Final = 2**32
"""GTEs have 32 bits, so nothing may start beyond 2 TiB of a sparse file [V]."""


class HeaderFlag(IntFlag):
    """``flags`` of the header [V][Q]."""

    END_OF_LINE = 1 << 0
    ZEROED_GRAIN = 1 << 2
    COMPRESSED = 1 << 16
    MARKERS = 1 << 17


class MarkerType(IntEnum):
    """``type`` of a metadata marker [V]."""

    END_OF_STREAM = 0
    GRAIN_TABLE = 1
    GRAIN_DIRECTORY = 2
    FOOTER = 3


def bad_format(what: str, **fields: Any) -> IntegrityError:
    """Returns the error for an invalid or unsupported VMDK; ``what`` names the problem."""
    return IntegrityError(f"not a usable VMDK: {what}", code=BAD_FORMAT, **fields)


def no_size() -> IntegrityError:
    """Returns the error for a disk of 0 bytes, which is a valid VMDK."""
    return IntegrityError(
        "the disk has a capacity of 0 bytes: there is nothing to read",
        code=BAD_FORMAT,
        cause="The disk has no size. No image format of a hypervisor can hold such a disk.",
        next_step="Leave the disk out.",
    )


@dataclass(frozen=True, slots=True)
class SparseHeader:
    """The header (or footer) of a sparse extent. Positions and sizes in sectors, as in the file."""

    version: int
    flags: int
    capacity_sectors: int
    grain_sectors: int
    descriptor_offset: int
    descriptor_sectors: int
    entries_per_table: int
    redundant_directory_offset: int
    directory_offset: int
    overhead_sectors: int
    end_of_line: bytes
    compression: int

    @property
    def capacity(self) -> int:
        """Guest bytes."""
        return self.capacity_sectors * SECTOR

    @property
    def compressed(self) -> bool:
        """Grains are zlib streams."""
        return bool(self.flags & HeaderFlag.COMPRESSED)

    @property
    def tables(self) -> int:
        """Grain tables (and so entries of the directory) that the capacity needs."""
        return -(-self.capacity_sectors // (self.grain_sectors * self.entries_per_table))

    @property
    def directory_bytes(self) -> int:
        """Bytes of the directory, without the padding to a sector."""
        return 4 * self.tables

    def pack(self) -> bytes:
        """One sector."""
        return HEADER.pack(
            MAGIC,
            self.version,
            self.flags,
            self.capacity_sectors,
            self.grain_sectors,
            self.descriptor_offset,
            self.descriptor_sectors,
            self.entries_per_table,
            self.redundant_directory_offset,
            self.directory_offset,
            self.overhead_sectors,
            0,
            self.end_of_line,
            self.compression,
        )


def parse_header(sector: Buffer) -> SparseHeader:
    """Parses the header in the first 512 bytes of ``sector`` and checks what is true for every sparse extent.

    Raises IntegrityError ``bad_format``.
    """
    if len(sector) < HEADER.size:
        raise bad_format("it is shorter than a header")
    fields = HEADER.unpack_from(sector)
    if fields[0] != MAGIC:
        raise bad_format("the magic number is missing")
    header = SparseHeader(*fields[1:11], *fields[12:])  # field 11, uncleanShutdown, means nothing in a stream
    _check_header(header)
    return header


def _check_header(header: SparseHeader) -> None:
    if header.version not in VERSIONS:
        raise bad_format(f"unknown version {header.version}")
    if header.flags & HeaderFlag.END_OF_LINE and header.end_of_line != END_OF_LINE:
        raise bad_format("its line ends were changed, as a transfer in text mode does")
    if not header.capacity:
        raise no_size()
    if header.capacity > MAX_CAPACITY:
        raise bad_format(f"a capacity of {header.capacity_sectors} sectors")
    if header.entries_per_table != ENTRIES_PER_TABLE:
        raise bad_format(f"grain tables of {header.entries_per_table} entries")
    grain = header.grain_sectors
    if not 8 <= grain <= 2048 or grain & (grain - 1):
        raise bad_format(f"grains of {grain} sectors")
    if header.descriptor_sectors * SECTOR > MAX_DESCRIPTOR_BYTES:
        raise bad_format(f"a descriptor of {header.descriptor_sectors} sectors")
    if header.compressed and header.compression != DEFLATE:
        raise bad_format(f"compression method {header.compression}")


def exact_capacity(header: SparseHeader, described_sectors: int | None) -> int:
    """Returns the guest bytes of an extent, where its descriptor has ``described_sectors`` (None: it has none).

    VirtualBox rounds the header's number up to whole grains, as [V] asks for, and writes the guest's into the
    descriptor alone. Raises IntegrityError ``bad_format`` when the two differ by more than that.
    """
    described = header.capacity if described_sectors is None else described_sectors * SECTOR
    if header.capacity not in (described, align_up(described, header.grain_sectors * SECTOR)):
        raise bad_format(f"a capacity of {header.capacity} bytes, not {described} as in its descriptor")
    return described


def require_stream(header: SparseHeader) -> None:
    """Raises IntegrityError ``bad_format`` unless ``header`` is that of a stream with 64 KiB grains."""
    wanted = HeaderFlag.COMPRESSED | HeaderFlag.MARKERS
    if header.flags & wanted != wanted:
        raise bad_format("it is a sparse disk, but not a streamOptimized one")
    if header.grain_sectors != GRAIN_SECTORS:
        raise bad_format(f"a stream with grains of {header.grain_sectors} sectors, not {GRAIN_SECTORS}")
    if not 0 < header.overhead_sectors <= _most_overhead_sectors(header):
        raise bad_format(f"{header.overhead_sectors} sectors before the first grain")
    if header.descriptor_sectors and header.descriptor_offset + header.descriptor_sectors > header.overhead_sectors:
        raise bad_format(f"a descriptor at sector {header.descriptor_offset}, after the first grain")


def _most_overhead_sectors(header: SparseHeader) -> int:
    """An upper bound for two directories with all their tables, a descriptor and alignment."""
    tables_bytes = 2 * (header.directory_bytes + header.tables * TABLE_BYTES)
    return (tables_bytes + MAX_DESCRIPTOR_BYTES) // SECTOR + 16 * GRAIN_SECTORS


def entries_of(data: Buffer) -> array[int]:
    """The 32-bit little-endian entries of a table or directory."""
    entries = array("I")
    entries.frombytes(data)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


def bytes_of(entries: array[int]) -> bytes:
    """The reverse of ``entries_of``, padded with zeros to whole sectors."""
    if sys.byteorder == "big":
        entries = entries[:]
        entries.byteswap()
    data = entries.tobytes()
    return data.ljust(align_up(len(data), SECTOR), b"\0")


def meta_marker(kind: MarkerType, sectors: int) -> bytes:
    """Returns the marker in front of ``sectors`` sectors of ``kind``."""
    return META_MARKER.pack(sectors, 0, kind).ljust(SECTOR, b"\0")


def grain_record(offset: int, zlib: Buffer) -> list[Buffer]:
    """Returns the buffers of one stored grain: marker, data, padding. ``offset`` in guest bytes."""
    padding = -(GRAIN_MARKER.size + len(zlib)) % SECTOR
    return [GRAIN_MARKER.pack(offset // SECTOR, len(zlib)), zlib, bytes(padding)]


def stream_header(capacity: int, *, descriptor_sectors: int, overhead_sectors: int) -> SparseHeader:
    """The header of a stream as ESXi writes it: version 3, directory at the end. ``capacity`` in bytes."""
    return SparseHeader(
        version=3,
        flags=HeaderFlag.END_OF_LINE | HeaderFlag.COMPRESSED | HeaderFlag.MARKERS,
        capacity_sectors=capacity // SECTOR,
        grain_sectors=GRAIN_SECTORS,
        descriptor_offset=1,
        descriptor_sectors=descriptor_sectors,
        entries_per_table=ENTRIES_PER_TABLE,
        redundant_directory_offset=0,
        directory_offset=GD_AT_END,
        overhead_sectors=overhead_sectors,
        end_of_line=END_OF_LINE,
        compression=DEFLATE,
    )
