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
processor's cache; the ledger stores the 32 bytes; only 1/2048 of the disk (32 bytes for 64 KiB) is hashed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from blake3 import blake3

from hypersdk.formats.image import BLOCK, Buffer
from hypersdk.transfer.blockmap import BlockMap, cut
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB

HASH_SIZE: Final = 32
GROUP_BLOCKS: Final = 8192
GROUP: Final = GROUP_BLOCKS * BLOCK
"""Bytes of the guest's disk under one group digest: 512 MiB."""

_GROUP_CONTEXT: Final = "hypersdk guest content group 1"
_DISK_CONTEXT: Final = "hypersdk guest content disk 1"
_ZEROS: Final = bytearray(BLOCK)  # a bytearray compares with any buffer by memcmp; bytes and memoryview do not
_READ_BLOCKS: Final = 4 * MiB // BLOCK

ZERO_BLOCK: Final = blake3(bytes(BLOCK)).digest()


class Readable(Protocol):
    """Random access to the guest's bytes."""

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fills the whole ``buffer`` from guest ``offset``; holes read as zeros."""


def hash_block(data: Buffer) -> bytes:
    """Digest of one block. Shorter than BLOCK only at the end of a disk: it counts as padded with zeros."""
    if _ZEROS == data:  # noqa: SIM300 - this way round it is memcmp; a memoryview compares item by item
        return ZERO_BLOCK
    digest = blake3(data)
    if len(data) < BLOCK:
        digest.update(_ZEROS[len(data) :])
    return digest.digest()


def hash_blocks(data: memoryview) -> list[bytes]:
    """Digests of the blocks of ``data``."""
    return [hash_block(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]


def group_digest(hashes: Buffer) -> bytes:
    """Digest of one group from the digests of its blocks, one after another."""
    return blake3(hashes, derive_key_context=_GROUP_CONTEXT).digest()


_ZERO_HASHES: Final = ZERO_BLOCK * GROUP_BLOCKS
ZERO_GROUP: Final = group_digest(_ZERO_HASHES)


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
    stored: Iterable[range] | None = None,
    cancel: CancelToken | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> str:
    """Hex content digest of a disk that can be read at random, from its bytes alone.

    ``stored`` are the runs of blocks that may hold data; the others are known to read as zeros and are not read.
    ``on_bytes`` is called with the number of further guest bytes done, read or not.
    """
    blocks = -(-capacity // BLOCK)
    wanted = BlockMap.of(blocks, [range(blocks)] if stored is None else stored)
    return disk_digest(capacity, _group_digests(disk, capacity, wanted, cancel or CancelToken(), on_bytes))


def _group_digests(
    disk: Readable, capacity: int, wanted: BlockMap, cancel: CancelToken, on_bytes: Callable[[int], None] | None
) -> Iterator[bytes]:
    buffer = memoryview(bytearray(_READ_BLOCKS * BLOCK))
    for group in groups_of(capacity):
        cancel.check()
        hashes = bytearray(ZERO_BLOCK * len(group))
        for piece in cut(wanted.runs(group.start, group.stop, present=True), _READ_BLOCKS):
            cancel.check()
            start = piece.start * BLOCK
            view = buffer[: min(piece.stop * BLOCK, capacity) - start]
            disk.read(start, view)
            at = (piece.start - group.start) * HASH_SIZE
            hashes[at : at + len(piece) * HASH_SIZE] = b"".join(hash_blocks(view))
        yield ZERO_GROUP if hashes == _ZERO_HASHES else group_digest(hashes)
        if on_bytes is not None:
            on_bytes(min(group.stop * BLOCK, capacity) - group.start * BLOCK)
