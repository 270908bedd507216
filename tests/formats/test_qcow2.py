"""What is peculiar to qcow2: where things lie, what passes through, what a resumed run keeps and gives back."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.image import BLOCK, Buffer, Piece
from hypersdk.formats.qcow2.clusters import HostClusters
from hypersdk.formats.qcow2.layout import (
    CLUSTER,
    COUNTS_PER_BLOCK,
    DEFLATED_MAX,
    DEFLATED_MIN,
    DRAFT_MAGIC,
    L2_SPAN,
    MAGIC,
    REFCOUNT_TABLE_OFFSET,
    Geometry,
    compressed_entry,
    entry_span,
    plain_entry,
)
from hypersdk.formats.qcow2.writer import Compression, Qcow2Writer
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import GiB, MiB, TiB
from tests.support.strictqcow2 import StrictImage
from tests.support.tools import run_tool
from tests.support.writers import (
    Guest,
    Step,
    assert_blocks,
    assert_clean,
    assert_same,
    block_bytes,
    block_file,
    is_accepted,
    perform,
)


@given(st.integers(5 * CLUSTER, 1 << 48), st.integers(1, DEFLATED_MAX))
def test_a_compressed_entry_spans_what_its_sectors_touch(offset: int, length: int) -> None:
    entry = compressed_entry(offset, length)
    assert entry & ((1 << 54) - 1) == offset
    sectors = (entry >> 54 & 0xFF) + 1
    assert entry >> 62 == 1
    assert sectors <= CLUSTER // 512
    read_end = offset - offset % 512 + sectors * 512
    assert offset + length <= read_end < offset + length + 512
    first, count = entry_span(entry)
    assert first == offset // CLUSTER
    assert first + count - 1 == (read_end - 1) // CLUSTER


@given(st.integers(5, 1 << 39).map(lambda cluster: cluster * CLUSTER))
def test_a_plain_entry_spans_its_cluster(offset: int) -> None:
    assert entry_span(plain_entry(offset)) == (offset // CLUSTER, 1)


@given(st.integers(1, 62 * TiB // 512).map(lambda sectors: sectors * 512))
def test_the_fixed_part_does_not_overlap_and_the_table_has_room(capacity: int) -> None:
    geometry = Geometry(capacity)
    assert geometry.l1_entries * L2_SPAN >= capacity > (geometry.l1_entries - 1) * L2_SPAN
    assert geometry.l1_offset == REFCOUNT_TABLE_OFFSET + geometry.refcount_table_clusters * CLUSTER
    assert geometry.fixed_clusters * CLUSTER >= geometry.l1_offset + geometry.l1_entries * 8
    assert geometry.most_host_clusters > 2 * (geometry.guest_clusters + geometry.l1_entries) + geometry.fixed_clusters


@pytest.mark.parametrize("capacity", [0, -512, 1000, 513])
def test_capacities_that_no_disk_has_are_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="whole sectors"):
        Geometry(capacity)


def test_the_header_is_what_qemu_img_reads(tmp_path: Path) -> None:
    with block_file(image := tmp_path / "image") as file:
        Qcow2Writer.create(file, 5 * GiB + 512).finish()
    info = json.loads(run_tool("qemu-img", "info", "--output=json", image))
    assert info["virtual-size"] == 5 * GiB + 512
    assert info["cluster-size"] == CLUSTER
    details = info["format-specific"]["data"]
    assert (details["compat"], details["refcount-bits"], details["lazy-refcounts"], details["corrupt"]) == (
        "1.1",
        16,
        False,
        False,
    )
    assert_clean(image)


class Recorder(FdFile):
    """Notes how many bytes each write had."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.writes: list[int] = []

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        self.writes.append(sum(len(buffer) for buffer in buffers))
        super().pwrite(buffers, offset)


@pytest.mark.parametrize("compression", ["none", "pass"])
def test_neighbours_go_out_with_one_write_and_their_entries_with_another(
    compression: Compression, tmp_path: Path
) -> None:
    guest = Guest(64 * BLOCK, dict.fromkeys(range(64), "text" if compression == "pass" else "random"))
    fd = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    try:
        writer = Qcow2Writer.create(file := Recorder(fd), guest.capacity, compression=compression)
        perform(writer, guest, Step(0, 0, deflated=False))
        file.writes.clear()
        perform(writer, guest, Step(16, 31, deflated=compression == "pass"))
    finally:
        os.close(fd)
    assert len(file.writes) == 2
    assert file.writes[1] == 16 * 8


def zlib_stream(data: bytes, level: int = 6, dictionary: bytes = b"") -> bytes:
    codec = zlib.compressobj(level, zdict=dictionary) if dictionary else zlib.compressobj(level)
    return codec.compress(data) + codec.flush()


def test_grains_pass_through_as_they_are(tmp_path: Path) -> None:
    guest = Guest(8 * BLOCK, dict.fromkeys(range(8), "text"))
    streams = [zlib_stream(guest.blocks[index]) for index in range(8)]
    with block_file(image := tmp_path / "image") as file:
        writer = Qcow2Writer.create(file, guest.capacity, compression="pass")
        assert (
            writer.write_deflated([Piece(n * BLOCK, BLOCK, memoryview(stream)) for n, stream in enumerate(streams)])
            == []
        )
        writer.finish()
    packed = b"".join(stream[2:-4] for stream in streams)
    assert packed in image.read_bytes()
    assert image.stat().st_blocks * 512 < len(packed) + 6 * CLUSTER
    assert StrictImage(image, window_bits=15).compressed() == set(range(8))
    assert_same(guest, image, "qcow2")


def test_grains_that_can_be_no_cluster_come_back(tmp_path: Path) -> None:
    capacity = 6 * BLOCK + 512
    text = block_bytes("text", 1, BLOCK)
    good = Piece(0, BLOCK, zlib_stream(text))
    returned = [
        Piece(1 * BLOCK, BLOCK, zlib_stream(block_bytes("random", 1, BLOCK))),  # does not shrink
        Piece(2 * BLOCK, BLOCK, zlib_stream(text, dictionary=text[:100])),  # preset dictionary
        Piece(3 * BLOCK, BLOCK, b"\x78\x01" + bytes(DEFLATED_MIN - 1) + bytes(4)),  # too short to be a block
        Piece(4 * BLOCK, BLOCK, b""),
        Piece(5 * BLOCK, BLOCK, b"\x77" + zlib_stream(text)[1:]),  # another method
        Piece(6 * BLOCK, 512, zlib_stream(text[:512])),  # the short last one
    ]
    with block_file(tmp_path / "image") as file:
        writer = Qcow2Writer.create(file, capacity, compression="pass")
        assert list(writer.write_deflated([good, *returned])) == returned
        assert list(writer.stored()) == [range(1)]


@pytest.mark.parametrize("compression", ["none", "repack"])
def test_without_pass_all_grains_come_back(compression: Compression, tmp_path: Path) -> None:
    pieces = [Piece(0, BLOCK, zlib_stream(bytes(BLOCK)))]
    with block_file(tmp_path / "image") as file:
        assert Qcow2Writer.create(file, BLOCK, compression=compression).write_deflated(pieces) == pieces


def compressed_image(tmp_path: Path, compression: Compression) -> tuple[Guest, Path]:
    guest = Guest(9 * BLOCK + 1024, {0: "text", 1: "random", 2: "text", 3: "half", 5: "full", 9: "thin"})
    with block_file(image := tmp_path / "image") as file:
        writer = Qcow2Writer.create(file, guest.capacity, compression=compression)
        perform(writer, guest, Step(0, 3, deflated=True, level=9))
        perform(writer, guest, Step(5, 5, deflated=True))
        perform(writer, guest, Step(9, 9, deflated=False))
        writer.finish()
    assert_same(guest, image, "qcow2")
    return guest, image


def test_repack_is_for_readers_with_a_narrow_window(tmp_path: Path) -> None:
    guest, image = compressed_image(tmp_path, "repack")
    strict = StrictImage(image)
    assert strict.compressed() == {3, 5, 9}, "what repeats itself only far away does not shrink with a narrow window"
    assert strict.content() == guest.write_raw(tmp_path / "raw").read_bytes()


def test_pass_through_needs_the_whole_window(tmp_path: Path) -> None:
    guest, image = compressed_image(tmp_path, "pass")
    assert StrictImage(image, window_bits=15).content() == guest.write_raw(tmp_path / "raw").read_bytes()
    with pytest.raises(zlib.error, match="too far back"):
        StrictImage(image).content()


def begun(tmp_path: Path, guest: Guest) -> Path:
    """An image whose process died when all blocks were written."""
    with block_file(image := tmp_path / "image") as file:
        writer = Qcow2Writer.create(file, guest.capacity)
        for index in guest.kinds:
            perform(writer, guest, Step(index, index, deflated=False))
    assert not is_accepted(image, "qcow2")
    return image


def test_what_is_not_trusted_reads_as_zeros_and_gives_its_room_back(tmp_path: Path) -> None:
    guest = Guest(2 * L2_SPAN, dict.fromkeys([*range(64), L2_SPAN // BLOCK + 5], "random"))
    image = begun(tmp_path, guest)
    before = image.stat().st_blocks * 512
    kept = {index: kind for index, kind in guest.kinds.items() if index % 2 == 0 and index < 60}
    with block_file(image) as file:
        writer = Qcow2Writer.resume(file, guest.capacity, trusted=kept.__contains__)
        assert list(writer.stored()) == [range(index, index + 1) for index in kept]
        writer.finish()
    assert_same(Guest(guest.capacity, kept), image, "qcow2")
    assert image.stat().st_blocks * 512 <= before - (65 - len(kept)) * BLOCK + MiB // 4


def test_a_finished_image_is_resumed_too(tmp_path: Path) -> None:
    """A process may die between the header and the rename."""
    guest = Guest(20 * BLOCK, dict.fromkeys(range(5), "random"))
    image = begun(tmp_path, guest)
    with block_file(image) as file:
        Qcow2Writer.resume(file, guest.capacity, trusted=lambda index: True).finish()
        assert file.pread(4, 0) == MAGIC
        writer = Qcow2Writer.resume(file, guest.capacity, trusted=lambda index: True)
        assert file.pread(4, 0) == DRAFT_MAGIC
        writer.finish()
    assert_same(guest, image, "qcow2")


def test_resuming_again_and_again_does_not_make_it_grow(tmp_path: Path) -> None:
    guest = Guest(64 * BLOCK, dict.fromkeys(range(16), "random"))
    image = begun(tmp_path, guest)
    size = image.stat().st_size
    with block_file(image) as file:
        for _ in range(5):
            writer = Qcow2Writer.resume(file, guest.capacity, trusted=lambda index: index < 8)
            perform(writer, guest, Step(8, 15, deflated=False))
        writer.finish()
    assert image.stat().st_size <= size
    assert_same(guest, image, "qcow2")


def damaged(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, b"KDMV"),
        (0, bytes(CLUSTER)),
        (24, (21 * BLOCK).to_bytes(8, "big")),  # another capacity
        (3 * CLUSTER, plain_entry(0).to_bytes(8, "big")),  # the L2 table would be the header
        (3 * CLUSTER, plain_entry(4 * CLUSTER + 512).to_bytes(8, "big")),
        (5 * CLUSTER, plain_entry(1 << 50).to_bytes(8, "big")),  # a block in a refcount block
        (5 * CLUSTER, plain_entry(3 * CLUSTER).to_bytes(8, "big")),  # a block in the L1 table
        (5 * CLUSTER, compressed_entry(100, 100).to_bytes(8, "big")),
    ],
)
def test_a_damaged_partial_is_named(offset: int, data: bytes, tmp_path: Path) -> None:
    guest = Guest(20 * BLOCK, {0: "random"})
    image = begun(tmp_path, guest)
    [entry] = struct.unpack(">Q", image.read_bytes()[3 * CLUSTER : 3 * CLUSTER + 8])
    assert entry == plain_entry(5 * CLUSTER), "the cases above name the place of the only L2 table"
    damaged(image, offset, data)
    with block_file(image) as file, pytest.raises(IntegrityError) as caught:
        Qcow2Writer.resume(file, guest.capacity, trusted=lambda index: True)
    assert caught.value.code == "partial_damaged"


def test_a_table_that_a_power_cut_lost_is_dropped(tmp_path: Path) -> None:
    """The L1 entry became durable, the end of the file with the table did not: nothing in it was checkpointed."""
    guest = Guest(2 * L2_SPAN, {3: "random", L2_SPAN // BLOCK: "random"})
    image = begun(tmp_path, guest)
    os.truncate(image, 6 * CLUSTER)
    with block_file(image) as file:
        writer = Qcow2Writer.resume(file, guest.capacity, trusted=lambda index: index == 3)
        perform(writer, guest, Step(L2_SPAN // BLOCK, L2_SPAN // BLOCK, deflated=False))
        writer.finish()
    assert_same(guest, image, "qcow2")


@pytest.mark.parametrize("left", range(9))
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("compression", ["none", "pass"])
def test_a_file_that_was_cut_within_an_entry_is_resumed(
    compression: Compression, level: int, left: int, tmp_path: Path
) -> None:
    guest = Guest(20 * BLOCK, dict.fromkeys(range(5), "half"))
    with block_file(image := tmp_path / "image") as file:
        perform(Qcow2Writer.create(file, guest.capacity, compression=compression), guest, Step(0, 4, deflated=True))
        (entry,) = struct.unpack(">Q", file.pread(8, 3 * CLUSTER))
        file.truncate(3 * CLUSTER + left if level == 1 else entry % (1 << 56) + 2 * 8 + left)
        writer = Qcow2Writer.resume(file, guest.capacity, compression=compression, trusted=lambda index: True)
        left_over = [index for run in writer.stored() for index in run]
        for index in sorted(set(range(5)) - set(left_over)):
            perform(writer, guest, Step(index, index, deflated=True))
        writer.finish()
    assert_same(guest, image, "qcow2")


def far_writer(file: FdFile, capacity: int, first_clusters: int, compression: Compression) -> Qcow2Writer:
    """A writer whose next cluster lies behind ``first_clusters`` others that stay holes."""
    Qcow2Writer.create(file, capacity, compression=compression)
    geometry = Geometry(capacity)
    clusters = HostClusters.fresh(file, geometry)
    while first_clusters > 0:
        clusters.reserve(step := min(first_clusters, COUNTS_PER_BLOCK - 1))
        first_clusters -= step
    return Qcow2Writer(file, geometry, clusters, compression)


@pytest.mark.parametrize("compression", ["none", "pass"])
@pytest.mark.parametrize("short_of_border", [0, 1, 2, 20, 63, 64, 65])
def test_images_cross_from_one_refcount_block_to_the_next(
    compression: Compression, short_of_border: int, tmp_path: Path
) -> None:
    guest = Guest(300 * BLOCK, dict.fromkeys(range(200), "half"))
    with block_file(image := tmp_path / "image") as file:
        fixed = Geometry(guest.capacity).fixed_clusters
        writer = far_writer(file, guest.capacity, COUNTS_PER_BLOCK - fixed - short_of_border, compression)
        for first in range(0, 200, 25):
            perform(writer, guest, Step(first, first + 24, deflated=True))
        writer.finish()
    assert image.stat().st_size > 2 * GiB
    assert_same(guest, image, "qcow2")


@pytest.mark.parametrize("compression", ["none", "pass"])
def test_host_offsets_beyond_2_tib(compression: Compression, tmp_path: Path) -> None:
    capacity = 3 * TiB
    starts = [0, GiB, 2 * TiB, 3 * TiB - 2 * BLOCK]
    full = block_bytes("full", 0, BLOCK)
    with block_file(image := tmp_path / "image") as file:
        writer = far_writer(file, capacity, (2 * TiB + 5 * GiB) // CLUSTER, compression)
        for start in starts[:2]:
            writer.write(start, full)
        resumed = Qcow2Writer.resume(file, capacity, compression=compression, trusted=lambda index: True)
        for start in starts[2:]:
            resumed.write(start, full)
        resumed.finish()
    assert image.stat().st_size > 2 * TiB
    assert image.stat().st_blocks * 512 < 200 * MiB
    assert_blocks(image, "qcow2", 0xFF, starts)
    assert_clean(image)
