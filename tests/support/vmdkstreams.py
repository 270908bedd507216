"""Streams made to measure, byte by byte and without the package's own layout: every dialect, any order, stale tables,
odd ends."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from hypersdk.formats.vmdk.stream import Grain, GrainDecoder, inflate

SECTOR: Final = 512
GRAIN: Final = 65536
TABLE: Final = 512
GD_AT_END: Final = 2**64 - 1
DIALECTS: Final = ("esxi", "qemu", "tail")
"""Directory behind the grains and found by the footer; in front; behind, but found by the header, without a footer."""


@dataclass(frozen=True)
class Block:
    """One stored block: its data, zlib's level and window for it, and whether it is filled up to 64 KiB where the disk
    ends earlier."""

    data: bytes
    level: int = 1
    window_bits: int = 15
    filled_up: bool = False

    def deflated(self) -> bytes:
        data = self.data.ljust(GRAIN, b"\0") if self.filled_up else self.data
        codec = zlib.compressobj(self.level, zlib.DEFLATED, self.window_bits)
        return codec.compress(data) + codec.flush()


@dataclass(frozen=True)
class Stream:
    """What to make a stream of. ``blocks`` in stream order; ``stale_after`` positions in it after which a table that
    will not count is put."""

    capacity: int
    blocks: Mapping[int, Block]
    dialect: str = "esxi"
    stale_after: frozenset[int] = frozenset()
    tables_at_once: bool = False
    redundant: bool = False
    end: bytes = b""
    padded: bool = True
    overhead: int = 8
    header_capacity: int | None = None
    descriptor: bool = True

    def content(self) -> bytearray:
        """The guest's bytes."""
        raw = bytearray(self.capacity)
        for index, block in self.blocks.items():
            raw[index * GRAIN : index * GRAIN + len(block.data)] = block.data
        return raw

    @property
    def tables(self) -> int:
        return -(-self.capacity // (TABLE * GRAIN))


def build(stream: Stream) -> bytes:
    """The stream's bytes."""
    if stream.dialect == "qemu":
        return _build_tables_first(stream)
    return _build_tables_last(stream)


def header(
    capacity: int, *, directory: int, overhead: int, redundant: int = 0, flags: int = 0x30001, version: int = 3
) -> bytes:
    return struct.pack(
        "<4sIIQQQQIQQQB4sH433x",
        b"KDMV",
        version,
        flags,
        capacity // SECTOR,
        128,
        1,
        2,
        TABLE,
        redundant,
        directory,
        overhead,
        0,
        b"\n \r\n",
        1,
    )


def descriptor(capacity: int) -> bytes:
    text = (
        '# Disk DescriptorFile\nversion=1\nCID=7f3b2f2d\nparentCID=ffffffff\ncreateType="streamOptimized"\nRW'
        f' {capacity // SECTOR} SPARSE "x.vmdk"\n'
    )
    return text.encode().ljust(2 * SECTOR, b"\0")


def marker(kind: int, sectors: int) -> bytes:
    return struct.pack("<QII496x", sectors, 0, kind)


def grain(index: int, deflated: bytes) -> bytes:
    return _padded(struct.pack("<QI", index * 128, len(deflated)) + deflated)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def _entries(numbers: Sequence[int]) -> bytes:
    return _padded(struct.pack(f"<{len(numbers)}I", *numbers))


def _front(stream: Stream, directory: int, overhead: int, redundant: int = 0) -> bytes:
    capacity = stream.header_capacity or stream.capacity
    text = descriptor(stream.capacity) if stream.descriptor else bytes(2 * SECTOR)
    return header(capacity, directory=directory, overhead=overhead, redundant=redundant) + text


def _build_tables_last(stream: Stream) -> bytes:
    out = bytearray(stream.overhead * SECTOR)
    tables = [[0] * TABLE for _ in range(stream.tables)]
    left = [sum(index // TABLE == number for index in stream.blocks) for number in range(stream.tables)]
    directory = [0] * stream.tables

    def put_table(number: int) -> None:
        out.extend(marker(1, 4))
        directory[number] = len(out) // SECTOR
        out.extend(_entries(tables[number]))

    for position, (index, block) in enumerate(stream.blocks.items()):
        number = index // TABLE
        tables[number][index % TABLE] = len(out) // SECTOR
        out += grain(index, block.deflated())
        left[number] -= 1
        if (not left[number] and not stream.tables_at_once) or position in stream.stale_after:
            put_table(number)
    for number, table in enumerate(tables):
        if any(table) and (stream.tables_at_once or not directory[number]):
            put_table(number)
    out += marker(2, -(-stream.tables * 4 // SECTOR))
    at = len(out) // SECTOR
    out += _entries(directory)
    if stream.dialect == "esxi":
        out += marker(3, 1) + _front(stream, at, stream.overhead)[:SECTOR]
        at = GD_AT_END
    out += marker(0, 0) + stream.end
    front = _front(stream, at, stream.overhead)
    out[: len(front)] = front
    return bytes(out)


def _build_tables_first(stream: Stream) -> bytes:
    directory_sectors = -(-stream.tables * 4 // SECTOR)
    redundant = 3 if stream.redundant else 0
    directory = 3 + (directory_sectors + 4 * stream.tables if stream.redundant else 0)
    overhead = directory + directory_sectors + 4 * stream.tables + stream.overhead
    grains = bytearray()
    tables = [[0] * TABLE for _ in range(stream.tables)]
    for index, block in stream.blocks.items():
        grains.extend(bytes(-len(grains) % SECTOR))
        tables[index // TABLE][index % TABLE] = overhead + len(grains) // SECTOR
        record = grain(index, block.deflated())
        grains += record if stream.padded else record[: 12 + int.from_bytes(record[8:12], "little")]
    front = bytearray(_front(stream, directory, overhead, redundant))
    for start in (redundant, directory) if stream.redundant else (directory,):
        first = start + directory_sectors
        front += _entries([first + 4 * number for number in range(stream.tables)])
        for table in tables:
            front += _entries(table)
    return bytes(front.ljust(overhead * SECTOR, b"\0") + grains) + (stream.end if stream.padded else b"")


def decode(chunks: Iterable[bytes], *, expected_capacity: int | None = None) -> bytearray:
    """The guest's bytes as the decoder has them. Chunks pass through one buffer that is overwritten after each
    ``feed``, as the engine does."""
    capacity, grains = decode_grains(chunks, expected_capacity=expected_capacity)
    raw = bytearray(capacity)
    for offset, data in grains.items():
        raw[offset : offset + len(data)] = data
    return raw


def decode_grains(chunks: Iterable[bytes], *, expected_capacity: int | None = None) -> tuple[int, dict[int, bytes]]:
    """The same as the capacity and the data by offset: of a small stream the zeros are what takes the time."""
    decoder = GrainDecoder(expected_capacity=expected_capacity)
    grains: dict[int, bytes] = {}
    for chunk in chunks:
        buffer = bytearray(chunk)
        for found in decoder.feed(memoryview(buffer)):
            grains[found.offset] = bytes(inflate(found))
            assert len(grains[found.offset]) == found.length
        buffer[:] = b"\xa5" * len(buffer)
    decoder.close()
    assert decoder.finished
    assert decoder.capacity is not None
    return decoder.capacity, grains


def grains_of(data: bytes) -> list[Grain]:
    """All grains, the whole stream fed at once."""
    decoder = GrainDecoder()
    found = decoder.feed(memoryview(data))
    decoder.close()
    return found


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """``data`` in chunks of ``sizes``, over and over."""
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


def small_stream(dialect: str) -> Stream:
    """A few kilobytes that hold everything: two tables, an odd capacity, a short last grain, one that does not shrink,
    any order."""
    capacity = 40 * 1024 * 1024 + 3 * SECTOR
    last = capacity // GRAIN
    noise = random.Random(1).randbytes(700)
    blocks = {
        513: Block(b"x" * GRAIN),
        3: Block(noise.ljust(GRAIN, b"\1"), level=9),
        last: Block(b"odd end.".ljust(3 * SECTOR, b"\2")),
        0: Block(bytes(GRAIN)),
    }
    return Stream(
        capacity, blocks, dialect=dialect, redundant=True, end=bytes(2 * SECTOR) if dialect == "qemu" else b""
    )


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Any valid stream of up to some 160 MiB of guest disk."""
    base = draw(st.sampled_from([0, TABLE - 3, 2 * TABLE - 2]))
    sectors = base * 128 + draw(st.integers(1, 12 * 128))
    capacity = sectors * SECTOR
    last = (capacity - 1) // GRAIN
    indexes = draw(st.lists(st.integers(max(0, base - 3), last), unique=True, max_size=10))
    if draw(st.booleans()) and last not in indexes:
        indexes.append(last)
    blocks = {index: draw(_blocks(min(GRAIN, capacity - index * GRAIN), index)) for index in indexes}
    return Stream(
        capacity,
        blocks,
        dialect=draw(st.sampled_from(DIALECTS)),
        stale_after=draw(st.frozensets(st.integers(0, 10), max_size=4)),
        tables_at_once=draw(st.booleans()),
        redundant=draw(st.booleans()),
        end=bytes(draw(st.sampled_from([0, 1, 511, 512, 65536, 66000]))),
        padded=draw(st.booleans()),
        overhead=draw(st.sampled_from([3, 8, 128])),
        descriptor=draw(st.booleans()),
    )


@st.composite
def _blocks(draw: st.DrawFn, length: int, seed: int) -> Block:
    noise = random.Random(seed).randbytes(draw(st.sampled_from([1, 300, 30_000, GRAIN])))
    data = draw(
        st.sampled_from(
            [noise[:length].ljust(length, b"\0"), bytes(length), (noise * (length // len(noise) + 1))[:length]]
        )
    )
    level = draw(st.integers(0, 9))
    return Block(data, level, draw(st.integers(9, 15)), draw(st.booleans()))
