from __future__ import annotations

import random

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import Cancelled
from hypersdk.formats.image import BLOCK
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import (
    GROUP,
    GROUP_BLOCKS,
    ZERO_BLOCK,
    ZERO_GROUP,
    content_digest_of,
    group_digest,
    hash_block,
)
from hypersdk.units import SECTOR, TiB
from tests.support.seeds import examples

GROUP_CONTEXT = "hypersdk guest content group 1"
DISK_CONTEXT = "hypersdk guest content disk 1"


def recomputed(raw: bytes) -> str:
    """The definition once more, read off the page and not off the code: for disks of one group."""
    blocks = b"".join(blake3(raw[at : at + BLOCK].ljust(BLOCK, b"\0")).digest() for at in range(0, len(raw), BLOCK))
    group = blake3(blocks, derive_key_context=GROUP_CONTEXT).digest()
    return blake3(len(raw).to_bytes(8, "little") + group, derive_key_context=DISK_CONTEXT).hexdigest()


class Bytes:
    """A disk in memory that notes how much was read."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.read_bytes = 0

    def read(self, offset: int, buffer: memoryview) -> None:
        piece = self.raw[offset : offset + len(buffer)]
        assert len(piece) == len(buffer), "read past the end of the disk"
        buffer[:] = piece
        self.read_bytes += len(buffer)


class Sparse:
    """Terabytes of zeros with a few blocks in them."""

    def __init__(self, blocks: dict[int, bytes]) -> None:
        self.blocks = blocks

    def read(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.blocks.get(offset, bytes(len(buffer)))


@pytest.mark.parametrize("length", [SECTOR, BLOCK - SECTOR, BLOCK])
def test_zeros_of_any_length_hash_to_the_constant(length: int) -> None:
    assert hash_block(bytes(length)) == hash_block(memoryview(bytearray(length))) == ZERO_BLOCK


def test_the_same_bytes_hash_the_same_from_every_kind_of_buffer() -> None:
    data = random.Random(1).randbytes(BLOCK)
    expected = blake3(data).digest()
    assert hash_block(data) == hash_block(bytearray(data)) == hash_block(memoryview(bytearray(data))) == expected


def test_one_bit_makes_a_block_different_from_zeros() -> None:
    data = bytearray(BLOCK)
    data[-1] = 1
    assert hash_block(data) != ZERO_BLOCK


@examples(60)
@given(sectors=st.integers(1, 5 * 128 + 7), seed=st.integers(0, 2**32))
def test_digest_is_the_definition_for_any_capacity(sectors: int, seed: int) -> None:
    rng = random.Random(seed)
    raw = bytearray(sectors * SECTOR)
    for at in range(0, len(raw), BLOCK):
        if rng.random() < 0.6:
            raw[at : at + SECTOR] = rng.randbytes(SECTOR)
    assert content_digest_of(Bytes(bytes(raw)), len(raw)) == recomputed(bytes(raw))


@examples(60)
@given(data=st.data())
def test_stored_blocks_change_what_is_read_and_not_the_digest(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 6 * 128)) * SECTOR
    marks = sorted(data.draw(st.sets(st.integers(0, capacity), max_size=8)))
    extents = [(low, high - low) for low, high in zip(marks[::2], marks[1::2], strict=False)]
    stored = [range(low // BLOCK, -(-high // BLOCK)) for low, high in zip(marks[::2], marks[1::2], strict=False)]
    raw = bytearray(capacity)
    for offset, length in extents:
        raw[offset : offset + length] = random.Random(offset).randbytes(length)
    disk = Bytes(bytes(raw))
    assert content_digest_of(disk, capacity, stored=stored) == recomputed(bytes(raw))
    touched = {at // BLOCK for offset, length in extents for at in range(offset, offset + length, SECTOR)}
    touched |= {(offset + length - 1) // BLOCK for offset, length in extents}
    assert disk.read_bytes <= len(touched) * BLOCK


def test_capacity_counts() -> None:
    assert content_digest_of(Bytes(bytes(BLOCK)), BLOCK) != content_digest_of(Bytes(bytes(BLOCK)), BLOCK - SECTOR)


def test_order_of_blocks_counts() -> None:
    a, b = b"a" * BLOCK, b"b" * BLOCK
    assert content_digest_of(Bytes(a + b), 2 * BLOCK) != content_digest_of(Bytes(b + a), 2 * BLOCK)


def test_terabytes_with_holes_are_quick_and_their_groups_are_told_apart() -> None:
    capacity = 4 * TiB
    block = random.Random(2).randbytes(BLOCK)
    accounted: list[int] = []
    digest = content_digest_of(
        Sparse({GROUP: block}), capacity, stored=[range(GROUP_BLOCKS, GROUP_BLOCKS + 1)], on_bytes=accounted.append
    )
    second = group_digest(hash_block(block) + ZERO_BLOCK * 8191)
    expected = blake3(capacity.to_bytes(8, "little"), derive_key_context=DISK_CONTEXT)
    for index in range(capacity // GROUP):
        expected.update(second if index == 1 else ZERO_GROUP)
    assert digest == expected.hexdigest()
    assert sum(accounted) == capacity


def test_cancel_ends_it() -> None:
    cancel = CancelToken()
    cancel.cancel("enough")
    with pytest.raises(Cancelled):
        content_digest_of(Bytes(bytes(BLOCK)), BLOCK, cancel=cancel)
