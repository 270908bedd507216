"""The digest of a guest's content: the same for the same disk, whatever the image format and the order of the writes.

::

    disk    = H("... disk 1",  capacity as u64 little endian, group 0, group 1, ...)      one per disk
    group   = H("... group 1", block 0, block 1, ... block 8191)                          one per 512 MiB
    block   = BLAKE3(64 KiB of the guest)                                                 one per 64 KiB

``H(context, parts...)`` is BLAKE3 in its key derivation mode with that context string over the parts, one after
another; so a group's digest can never be mistaken for a block's. Digests are 32 bytes. The last block of a disk is
padded with zeros to 64 KiB, the last group holds only the blocks that the disk has, and the capacity is part of the
disk's digest.

An absent block reads as zeros, so it counts as a block of zeros: its digest is the constant ``ZERO_BLOCK``. That makes
the digest of a sparse 4 TiB disk cheap (``ZERO_GROUP`` stands for 512 MiB), and equal for an image with holes and one
with zeros written out.

Why a tree: blocks arrive in any order, in several threads, over several runs. Each is hashed once, while it is in the
processor's cache anyway; the ledger keeps the 32 bytes; what is left at the end is 64 KiB/32 = 1/2048 of the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from blake3 import blake3

from hypersdk.formats.image import BLOCK, Buffer
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB

HASH_SIZE: Final = 32
GROUP_BLOCKS: Final = 8192
GROUP: Final = GROUP_BLOCKS * BLOCK
"""Bytes of the guest's disk under one group digest: 512 MiB."""

_GROUP_CONTEXT: Final = "hypersdk guest content group 1"
_DISK_CONTEXT: Final = "hypersdk guest content disk 1"
_ZEROS: Final = bytearray(BLOCK)  # a bytearray compares with any buffer by memcmp; bytes and memoryview do not
_READ_STEP: Final = 4 * MiB

ZERO_BLOCK: Final = blake3(bytes(BLOCK)).digest()


class Readable(Protocol):
    """Random access to the guest's bytes, as a disk image's reader gives it."""

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fills the whole ``buffer`` from guest ``offset``; holes read as zeros."""
        ...


def hash_block(data: Buffer) -> bytes:
    """Digest of one block. Shorter than BLOCK only at the end of a disk: it counts as padded with zeros."""
    if _ZEROS == data:  # noqa: SIM300 - this way round it is memcmp; a memoryview compares item by item
        return ZERO_BLOCK
    digest = blake3(data)
    if len(data) < BLOCK:
        digest.update(_ZEROS[len(data) :])
    return digest.digest()


def group_digest(hashes: Buffer) -> bytes:
    """Digest of one group from the digests of its blocks, one after another."""
    return blake3(hashes, derive_key_context=_GROUP_CONTEXT).digest()


ZERO_GROUP: Final = group_digest(ZERO_BLOCK * GROUP_BLOCKS)


def disk_digest(capacity: int, groups: Iterable[bytes]) -> str:
    """Hex digest of a disk of ``capacity`` bytes from the digests of its groups, in order."""
    digest = blake3(capacity.to_bytes(8, "little"), derive_key_context=_DISK_CONTEXT)
    for group in groups:
        digest.update(group)
    return digest.hexdigest()


def groups_of(capacity: int) -> Iterator[range]:
    """The block indexes of each group of a disk of ``capacity`` bytes."""
    blocks = -(-capacity // BLOCK)
    for first in range(0, blocks, GROUP_BLOCKS):
        yield range(first, min(first + GROUP_BLOCKS, blocks))


def content_digest_of(
    disk: Readable,
    capacity: int,
    *,
    extents: Iterable[tuple[int, int]] | None = None,
    cancel: CancelToken | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> str:
    """Hex content digest of a disk that can be read at random, from its bytes alone.

    ``extents`` (``(offset, length)``, rising) are the ranges that may hold data; the rest is known to read as zeros
    and is not read. ``on_bytes`` is called with the number of further guest bytes done, read or not.
    """
    reader = _GroupReader(disk, capacity, iter(extents) if extents is not None else iter([(0, capacity)]))
    return disk_digest(capacity, reader.digests(cancel, on_bytes))


class _GroupReader:
    """Reads a disk a group at a time, past its holes."""

    def __init__(self, disk: Readable, capacity: int, extents: Iterator[tuple[int, int]]) -> None:
        self._disk = disk
        self._capacity = capacity
        self._extents = extents
        self._start = self._end = 0
        self._buffer = memoryview(bytearray(_READ_STEP))

    def digests(self, cancel: CancelToken | None, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
        for blocks in groups_of(self._capacity):
            if cancel is not None:
                cancel.check()
            yield self._digest(blocks, cancel)
            if on_bytes is not None:
                on_bytes(min(blocks.stop * BLOCK, self._capacity) - blocks.start * BLOCK)

    def _digest(self, blocks: range, cancel: CancelToken | None) -> bytes:
        hashes: dict[int, bytes] = {}
        for offset, length in self._pieces(blocks.start * BLOCK, min(blocks.stop * BLOCK, self._capacity)):
            if cancel is not None:
                cancel.check()
            view = self._buffer[:length]
            self._disk.read(offset, view)
            for at in range(0, length, BLOCK):
                hashes[(offset + at) // BLOCK] = hash_block(view[at : at + BLOCK])
        if not hashes and len(blocks) == GROUP_BLOCKS:
            return ZERO_GROUP
        return group_digest(b"".join(hashes.get(index, ZERO_BLOCK) for index in blocks))

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` to read within ``start..end``: whole blocks that an extent touches, at most a buffer at
        a time."""
        position = start
        while position < end and self._next_extent(position):
            position = max(position, self._start // BLOCK * BLOCK)
            stop = min(end, -(-self._end // BLOCK) * BLOCK, self._capacity)
            while position < stop:
                length = min(_READ_STEP, stop - position)
                yield position, length
                position += length
            if position >= end:
                return

    def _next_extent(self, position: int) -> bool:
        """Moves to the first extent that ends after ``position``; False when there is none."""
        while self._end <= position:
            following = next(self._extents, None)
            if following is None:
                return False
            self._start, self._end = following[0], following[0] + following[1]
        return self._start < self._capacity
