"""The content of simulated disks: computed from a seed, block by block, and never stored.

A disk is cut into blocks of 64 KiB and runs of 16 blocks. Some runs are allocated: half of them at the front of the
disk, as an operating system leaves them, the other half spread evenly over the rest. Inside a run a block is
compressible, random or, now and then, allocated but full of zeros. Two bytes of a SHAKE-128 stream over (disk, page)
decide for each block.

Every block begins with a stamp of 64 readable bytes that names the disk, the block and its generation, so no two blocks
are equal, and a misplaced block is visible in a hex dump. The rest comes from a small pool of patterns,
deflated once: so a stream of grains costs a few microseconds per block. Changing a disk gives some of its blocks a new
generation; a snapshot freezes the table of generations as it is.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Final

from hypersdk.units import KiB

BLOCK: Final = 64 * KiB
RUN_BLOCKS: Final = 16
STAMP: Final = 64
REST: Final = BLOCK - STAMP
PAGE_BLOCKS: Final = 4096
COMPRESSIBLE_PATTERNS: Final = 24
RANDOM_PATTERNS: Final = 8
ZERO_OF_256: Final = 6
RANDOM_OF_256: Final = 44
_ADLER: Final = 65521


class BlockKind(IntEnum):
    """What a block holds."""

    HOLE = 0
    ZERO = 1
    COMPRESSIBLE = 2
    RANDOM = 3


@dataclass(frozen=True, slots=True)
class Pattern:
    """All of a block but its stamp: plain, deflated (raw deflate, complete), and its Adler-32 parts."""

    plain: bytes
    deflated: bytes
    adler_low: int
    adler_high: int


def _words(rng: random.Random) -> bytes:
    """Text like a log file's, with some noise: deflates to between a third and two thirds."""
    vocabulary = [
        bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(2, 11))) for _ in range(1500)
    ]
    noise = rng.choice((0.0, 0.1, 0.25, 0.4))
    out = bytearray()
    while len(out) < REST:
        if rng.random() < noise:
            out += rng.randbytes(96)
        else:
            out += b" ".join(rng.choices(vocabulary, k=12)) + b"\n"
    return bytes(out[:REST])


@cache
def patterns() -> tuple[Pattern, ...]:
    """The pool: compressible ones first, then random ones. The same in every process."""
    rng = random.Random(0x9E3779B97F4A7C15)  # noqa: S311 - content to look at, no secret
    plains = [_words(rng) for _ in range(COMPRESSIBLE_PATTERNS)] + [rng.randbytes(REST) for _ in range(RANDOM_PATTERNS)]
    return tuple(
        _pattern(plain, level=0 if index >= COMPRESSIBLE_PATTERNS else 6) for index, plain in enumerate(plains)
    )


def _pattern(plain: bytes, level: int) -> Pattern:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -15)
    adler = zlib.adler32(plain)
    return Pattern(plain, deflater.compress(plain) + deflater.flush(), adler & 0xFFFF, adler >> 16)


def joined_adler(stamp: bytes, pattern: Pattern) -> int:
    """Adler-32 of ``stamp`` followed by the pattern, without reading the pattern again."""
    head = zlib.adler32(stamp)
    low = (head & 0xFFFF) + pattern.adler_low - 1
    high = (head >> 16) + pattern.adler_high + REST * ((head & 0xFFFF) - 1)
    return (high % _ADLER) << 16 | low % _ADLER


@dataclass(frozen=True, slots=True)
class SpreadAllocation:
    """Which runs of an unchanged disk are allocated: ``dense`` runs at the front, ``spread`` more among the other
    ``total - dense``: exactly these many, without a table."""

    total: int
    dense: int
    spread: int
    step: int

    @classmethod
    def of(cls, capacity_bytes: int, allocated_bytes: int) -> SpreadAllocation:
        """As many runs as ``allocated_bytes`` needs."""
        total = -(-capacity_bytes // (BLOCK * RUN_BLOCKS))
        wanted = min(total, -(-allocated_bytes // (BLOCK * RUN_BLOCKS)))
        dense = -(-wanted // 2)
        return cls(total, dense, wanted - dense, _coprime_step(total - dense))

    def count(self) -> int:
        """Number of allocated runs, without walking them."""
        return self.dense + self.spread

    def has(self, run: int) -> bool:
        """Whether the run is allocated."""
        if run < self.dense:
            return True
        rest = self.total - self.dense
        return run < self.total and (run - self.dense) * self.step % rest < self.spread

    def runs(self) -> Iterator[int]:
        """Allocated runs, in ascending order."""
        yield from range(self.dense)
        if self.spread:
            rest, step, spread = self.total - self.dense, self.step, self.spread
            yield from (self.dense + run for run in range(rest) if run * step % rest < spread)


def _coprime_step(total: int) -> int:
    """A multiplier that permutes ``range(total)`` and scatters neighbours."""
    step = max(1, int(total * 0.6180339887))
    while math.gcd(step, total) != 1:
        step += 1
    return step


@dataclass(frozen=True, slots=True)
class StrideAllocation:
    """As SpreadAllocation, with one run in each ``stride``: for disks of terabytes with almost no data."""

    total: int
    stride: int

    def count(self) -> int:
        return -(-self.total // self.stride)

    def has(self, run: int) -> bool:
        return run < self.total and run % self.stride == 0

    def runs(self) -> Iterator[int]:
        return iter(range(0, self.total, self.stride))


Allocation = SpreadAllocation | StrideAllocation


@dataclass(frozen=True, slots=True)
class DiskContent:
    """The content of one disk as made: ``identity`` distinguishes it from all others, ``fixed`` holds blocks with given
    bytes, in ascending order.

    With ``one_block_runs`` only the first block of each allocated run holds data.
    """

    identity: str
    capacity_bytes: int
    allocation: Allocation
    fixed: Mapping[int, bytes]
    one_block_runs: bool = False

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may be short."""
        return -(-self.capacity_bytes // BLOCK)

    def length(self, index: int) -> int:
        """Bytes in the block."""
        return min(BLOCK, self.capacity_bytes - index * BLOCK)


@cache
def _page_bytes(identity: str, page: int) -> bytes:
    """Two pseudo-random bytes for each block of a page."""
    return hashlib.shake_128(f"{identity}/{page}".encode()).digest(2 * PAGE_BLOCKS)


class DiskImage:
    """A disk at one point in time: its content and the generation of each block that was changed since it was made.
    Immutable."""

    def __init__(self, content: DiskContent, generations: Mapping[int, int] | None = None) -> None:
        self.content = content
        self.generations: Mapping[int, int] = dict(generations or {})

    @property
    def capacity_bytes(self) -> int:
        """Size of the guest's disk."""
        return self.content.capacity_bytes

    def key(self) -> str:
        """The same for equal contents: names cached digests and ETags."""
        changes = hashlib.sha256(repr(sorted(self.generations.items())).encode()).hexdigest()[:16]
        return f"{self.content.identity}-{self.content.capacity_bytes}-{changes}"

    def changed(self, indices: Iterable[int]) -> DiskImage:
        """A later point in time, with other content in these blocks."""
        later = dict(self.generations)
        for index in indices:
            later[index] = later.get(index, 0) + 1
        return DiskImage(self.content, later)

    def allocated_blocks(self) -> Iterator[int]:
        """Indices of all blocks that are not holes, in ascending order."""
        added = sorted(index for index in self.generations if not self._original(index))
        return heapq.merge(self._original_blocks(), added)

    def _original_blocks(self) -> Iterator[int]:
        content = self.content
        if content.fixed:
            yield from content.fixed
            return
        width = 1 if content.one_block_runs else RUN_BLOCKS
        for run in content.allocation.runs():
            first = run * RUN_BLOCKS
            yield from range(first, min(first + width, content.blocks))

    def _original(self, index: int) -> bool:
        """Whether the block was allocated when the disk was made."""
        if self.content.fixed:
            return index in self.content.fixed
        if self.content.one_block_runs and index % RUN_BLOCKS:
            return False
        return self.content.allocation.has(index // RUN_BLOCKS)

    def allocated_bytes(self) -> int:
        """Bytes of all blocks that are not holes, counted without walking the disk."""
        content = self.content
        later = sum(content.length(index) for index in self.generations if not self._original(index))
        if content.fixed:
            last = content.blocks - 1
            return later + len(content.fixed) * BLOCK - (BLOCK - content.length(last) if last in content.fixed else 0)
        width = 1 if content.one_block_runs else RUN_BLOCKS
        return later + content.allocation.count() * width * BLOCK - self._missing_at_end(width)

    def _missing_at_end(self, width: int) -> int:
        """Bytes by which the last run is shorter than the others, where it is allocated."""
        last = (self.content.blocks - 1) // RUN_BLOCKS
        if not self.content.allocation.has(last):
            return 0
        there = min(self.capacity_bytes, (last * RUN_BLOCKS + width) * BLOCK) - last * RUN_BLOCKS * BLOCK
        return width * BLOCK - there

    def kind(self, index: int) -> BlockKind:
        """What the block holds."""
        generation = self.generations.get(index, 0)
        if generation == 0 and not self._original(index):
            return BlockKind.HOLE
        if self.content.fixed:
            return BlockKind.RANDOM
        low = self._random_bytes(index, generation)[0]
        if low < ZERO_OF_256 and generation == 0:
            return BlockKind.ZERO
        return BlockKind.RANDOM if low < ZERO_OF_256 + RANDOM_OF_256 else BlockKind.COMPRESSIBLE

    def _random_bytes(self, index: int, generation: int) -> bytes:
        if generation:
            return hashlib.shake_128(f"{self.content.identity}/{index}/{generation}".encode()).digest(2)
        page, slot = divmod(index, PAGE_BLOCKS)
        return _page_bytes(self.content.identity, page)[2 * slot : 2 * slot + 2]

    def parts(self, index: int) -> tuple[bytes, Pattern] | None:
        """Stamp and pattern of a block, ``None`` for one that is all zeros or has fixed bytes."""
        kind = self.kind(index)
        if kind in (BlockKind.HOLE, BlockKind.ZERO) or (self.content.fixed and not self.generations.get(index)):
            return None
        generation = self.generations.get(index, 0)
        choice = self._random_bytes(index, generation)[1]
        compressible = kind is BlockKind.COMPRESSIBLE
        place = choice % COMPRESSIBLE_PATTERNS if compressible else COMPRESSIBLE_PATTERNS + choice % RANDOM_PATTERNS
        return self._stamp(index, generation), patterns()[place]

    def _stamp(self, index: int, generation: int) -> bytes:
        return f"{self.content.identity:<30.30} block {index:012d} gen {generation:09d}\n".encode("ascii", "replace")[
            :STAMP
        ]

    def block(self, index: int) -> bytes:
        """The block's bytes; shorter than ``BLOCK`` only at the end of the disk."""
        length = self.content.length(index)
        parts = self.parts(index)
        if parts is None:
            return self.content.fixed.get(index, b"")[:length].ljust(length, b"\0")
        return (parts[0] + parts[1].plain)[:length]

    def read(self, offset: int, length: int) -> bytes:
        """Guest bytes from ``offset``; fewer where the disk ends."""
        end = min(offset + length, self.capacity_bytes)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        joined = b"".join(map(self.block, range(first, last + 1)))
        skip = offset - first * BLOCK
        return joined if not skip and len(joined) == end - offset else joined[skip : skip + end - offset]

    def extents(self) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` of allocated areas in ascending order, neighbours joined."""
        start = end = 0
        for index in self.allocated_blocks():
            offset = index * BLOCK
            if offset != end and end > start:
                yield start, end - start
            if offset != end:
                start = offset
            end = offset + self.content.length(index)
        if end > start:
            yield start, end - start
