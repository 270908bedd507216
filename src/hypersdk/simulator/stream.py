"""A simulated disk as a streamOptimized VMDK, in the shape in which ESXi sends it: no length known beforehand, markers,
grains in rising order, each grain table after its grains, the directory, a footer and the end-of-stream marker.

::

    sector 0      header   version 3, flags 0x30001, gdOffset = all ones: the directory is at the end
    sector 1-20   descriptor text
    sector 128    {lba u64, size u32, zlib...} padded to 512     one grain
                  {4, 0, 1} + 2 KiB of sector numbers           grain table, after the grains of its 32 MiB
                  {n, 0, 2} + sector numbers of the tables      grain directory
                  {1, 0, 3} + header with the real gdOffset     footer
                  {0, 0, 0}                                     end of stream

Source: VMware "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

from isal import isal_zlib

from hypersdk.simulator.content import BLOCK, STAMP, DiskImage, joined_adler
from hypersdk.units import SECTOR, MiB

GRAIN_SECTORS: Final = BLOCK // SECTOR
TABLE_ENTRIES: Final = 512
OVERHEAD_SECTORS: Final = 128
HEADER: Final = struct.Struct("<4sIIQQQQIQQQBccccH433x")
GRAIN_MARKER: Final = struct.Struct("<QI")
MARKER: Final = struct.Struct("<QII496x")
FLAGS: Final = 0x30001  # newline test valid, compressed grains, markers
AT_END: Final = 0xFFFFFFFFFFFFFFFF
CHUNK: Final = MiB
# zlib header, then a stored block that is not the last, STAMP bytes long: the stamp follows, then the pattern's deflate
# data
_STORED_STAMP: Final = b"\x78\x01" + struct.pack("<BHH", 0, STAMP, STAMP ^ 0xFFFF)
_PADDING: Final = bytes(SECTOR)

STAMP_IN_GRAIN: Final = GRAIN_MARKER.size + len(_STORED_STAMP)
"""Where the stamp lies inside a grain: a flipped bit there spoils the grain's Adler-32."""


def _header(capacity_bytes: int, directory_sector: int) -> bytes:
    return HEADER.pack(
        b"KDMV",
        3,
        FLAGS,
        -(-capacity_bytes // SECTOR),
        GRAIN_SECTORS,
        1,
        20,
        TABLE_ENTRIES,
        0,
        directory_sector,
        OVERHEAD_SECTORS,
        0,
        b"\n",
        b" ",
        b"\r",
        b"\n",
        1,
    )


def descriptor(capacity_bytes: int, extent: str, *, kind: str, content_id: str, adapter: str = "lsilogic") -> str:
    """The text that describes a disk; ``extent`` is the line of its one extent."""
    cylinders = min(capacity_bytes // (SECTOR * 255 * 63), 2**31)
    return (
        "# Disk DescriptorFile\nversion=1\n"
        f'CID={content_id}\nparentCID=ffffffff\nisNativeSnapshot="no"\ncreateType="{kind}"\n\n'
        f"# Extent description\n{extent}\n\n"
        "# The Disk Data Base\n#DDB\n\n"
        f'ddb.adapterType = "{adapter}"\nddb.geometry.cylinders = "{cylinders}"\nddb.geometry.heads = "255"\n'
        f'ddb.geometry.sectors = "63"\nddb.virtualHWVersion = "19"\n'
    )


def content_id(image: DiskImage) -> str:
    """The descriptor's CID: eight hex digits that change with the content."""
    return hashlib.sha256(image.key().encode()).hexdigest()[:8]


class VmdkStream:
    """Generates the stream. ``chunks`` yields about a MiB at a time; ``grain_starts`` tells where grains began in the
    last chunk."""

    def __init__(self, image: DiskImage, name: str) -> None:
        self._image = image
        self._name = name
        self._sector = OVERHEAD_SECTORS
        self._parts: list[bytes] = []
        self._size = 0
        self.grain_starts: list[int] = []

    def chunks(self) -> Iterator[bytes]:
        """The whole stream, chunk by chunk."""
        self._put(self._front())
        tables = [0] * -(-self._image.content.blocks // TABLE_ENTRIES)
        current, entries = -1, [0] * TABLE_ENTRIES
        for index in self._image.allocated_blocks():
            table, slot = divmod(index, TABLE_ENTRIES)
            if table != current and current >= 0:
                tables[current] = self._put_table(entries)
                entries = [0] * TABLE_ENTRIES
            current = table
            entries[slot] = self._sector
            self._put_grain(index)
            if self._size >= CHUNK:
                yield self._take()
        if current >= 0:
            tables[current] = self._put_table(entries)
        self._put_end(tables)
        yield self._take()

    def _take(self) -> bytes:
        chunk = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return chunk

    def next_chunk_starts(self) -> list[int]:
        """Offsets, in the stream's bytes, of the grains made since the last call."""
        starts, self.grain_starts = self.grain_starts, []
        return starts

    def _put(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)

    def _front(self) -> bytes:
        capacity = self._image.capacity_bytes
        extent = f'RDONLY {-(-capacity // SECTOR)} SPARSE "{self._name}"'
        text = descriptor(capacity, extent, kind="streamOptimized", content_id=content_id(self._image))
        return (_header(capacity, AT_END) + text.encode()).ljust(OVERHEAD_SECTORS * SECTOR, b"\0")

    def _put_grain(self, index: int) -> None:
        """Adds a grain. One of zeros, of given bytes, or the short one at the end is deflated on the spot."""
        self.grain_starts.append(self._sector * SECTOR)
        parts = self._image.parts(index)
        pieces: tuple[bytes, ...]
        if parts is None or self._image.content.length(index) < BLOCK:
            pieces = (isal_zlib.compress(self._image.block(index), 1),)
        else:
            stamp, pattern = parts
            pieces = (_STORED_STAMP + stamp, pattern.deflated, joined_adler(stamp, pattern).to_bytes(4, "big"))
        length = sum(map(len, pieces))
        padding = -(GRAIN_MARKER.size + length) % SECTOR
        size = GRAIN_MARKER.size + length + padding
        self._parts += (GRAIN_MARKER.pack(index * GRAIN_SECTORS, length), *pieces, _PADDING[:padding])
        self._size += size
        self._sector += size // SECTOR

    def _put_table(self, entries: list[int]) -> int:
        """Writes one grain table; returns the sector of its entries."""
        return self._put_metadata(1, struct.pack(f"<{TABLE_ENTRIES}I", *entries))

    def _put_metadata(self, kind: int, data: bytes) -> int:
        padded = data + _PADDING[: -len(data) % SECTOR]
        sectors = len(padded) // SECTOR
        self._put(MARKER.pack(sectors, 0, kind) + padded)
        start = self._sector + 1
        self._sector += 1 + sectors
        return start

    def _put_end(self, tables: list[int]) -> None:
        directory = self._put_metadata(2, struct.pack(f"<{len(tables)}I", *tables))
        self._put_metadata(3, _header(self._image.capacity_bytes, directory))
        self._put(MARKER.pack(0, 0, 0))


def stream_length(image: DiskImage, name: str) -> int:
    """Length of the stream, found by generating it: for servers that announce ``fileSize``."""
    return sum(len(chunk) for chunk in VmdkStream(image, name).chunks())
