"""The decoder on streams that are right: any dialect, any order, any chunking, and what qemu-img writes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.vmdk.stream import GrainDecoder, inflate
from hypersdk.units import GiB, KiB, MiB, TiB
from tests.support import vmdkstreams as streams
from tests.support.seeds import examples
from tests.support.tools import run_tool
from tests.support.vmdkstreams import DIALECTS, Block, Stream, build, cut, decode, grains_of

chunk_sizes = st.lists(st.integers(1, 200_000), min_size=1, max_size=4) | st.just([4 * MiB]) | st.just([512])
some = examples(120)


@some
@given(streams.streams(), chunk_sizes)
def test_any_stream_in_any_chunks(stream: Stream, sizes: list[int]) -> None:
    assert decode(cut(build(stream), sizes)) == stream.content()


@some
@given(streams.streams())
def test_grains_come_in_stream_order_as_they_are(stream: Stream) -> None:
    found = grains_of(build(stream))
    assert [grain.offset for grain in found] == [index * streams.GRAIN for index in stream.blocks]
    assert [bytes(grain.zlib) for grain in found] == [block.deflated() for block in stream.blocks.values()]
    assert [grain.length for grain in found] == [len(block.data) for block in stream.blocks.values()]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_byte_by_byte(dialect: str) -> None:
    """Each grain is handed out with the byte that completes it, and the stream is finished with its last necessary byte
    and not before."""
    stream = streams.small_stream(dialect)
    data = build(stream)
    decoder = GrainDecoder(expected_capacity=stream.capacity)
    seen = 0
    for at in range(len(data)):
        with pytest.raises(IntegrityError) as caught:
            decoder.close()
        assert caught.value.code == "truncated_stream"
        assert caught.value.fields["received"] == at
        seen += len(decoder.feed(memoryview(data)[at : at + 1]))
        if decoder.finished:
            break
    assert seen == len(stream.blocks)
    assert not any(data[at + 1 :])
    decoder.feed(memoryview(data)[at + 1 :])
    decoder.close()
    assert decoder.position == stream.capacity


@pytest.mark.parametrize("dialect", DIALECTS)
def test_views_point_into_the_chunk(dialect: str) -> None:
    """A grain that lies in one chunk is not copied."""
    chunk = memoryview(build(streams.small_stream(dialect)))
    assert [grain.zlib.obj for grain in GrainDecoder().feed(chunk)] == [chunk.obj] * 4


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_header_rounded_up_to_grains_means_the_capacity_expected(dialect: str) -> None:
    stream = Stream(MiB + 512, {16: Block(b"e" * 512, filled_up=True)}, dialect=dialect, header_capacity=MiB + 64 * KiB)
    assert decode([build(stream)], expected_capacity=stream.capacity) == stream.content()
    with pytest.raises(IntegrityError, match="capacity"):
        decode([build(stream)], expected_capacity=stream.capacity + 512)
    assert (
        decode([build(stream)]) == stream.content()
    )  # nobody expects anything: its own descriptor has the exact number
    with pytest.raises(IntegrityError, match="capacity"):
        decode([build(replace(stream, header_capacity=MiB + 128 * KiB))])


def test_zeroed_grains_are_not_waited_for() -> None:
    """Flag 4 lets an entry of 1 stand for a grain of zeros that is not stored."""
    data = bytearray(build(Stream(MiB, {2: Block(b"z" * streams.GRAIN)}, dialect="qemu")))
    table = 4 * 512
    assert data[table + 8 : table + 12] != bytes(4)
    data[table : table + 4] = (1).to_bytes(4, "little")
    with pytest.raises(IntegrityError):
        decode([bytes(data)])
    data[8:12] = (0x30005).to_bytes(4, "little")
    assert decode([bytes(data)])[2 * streams.GRAIN] == ord("z")


def test_position_and_capacity_as_they_become_known() -> None:
    stream = Stream(3 * MiB, {20: Block(b"a" * streams.GRAIN), 4: Block(b"b" * streams.GRAIN)})
    data = memoryview(build(stream))
    decoder = GrainDecoder()
    assert (decoder.capacity, decoder.position) == (None, 0)
    decoder.feed(data[: 8 * 512])
    assert (decoder.capacity, decoder.position) == (3 * MiB, 0)
    decoder.feed(data[8 * 512 :])
    assert decoder.position == 21 * streams.GRAIN


# Against qemu-img.


def write_sparse(path: Path, capacity: int, parts: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)
        file.truncate(capacity)
    return path


def qemu_stream(raw: Path) -> Path:
    image = raw.with_suffix(".vmdk")
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, image)
    return image


def guest_parts(capacity: int, seed: int) -> dict[int, bytes]:
    source = random.Random(seed)
    parts = {0: b"first", capacity - 512: b"\x55" * 512, capacity // 2: source.randbytes(300_000)}
    return {offset: data[: capacity - offset] for offset, data in parts.items()}


@pytest.mark.parametrize("capacity", [512, 64 * KiB, MiB + 512, 33 * MiB + 127 * 512, 200 * MiB])
def test_what_qemu_img_writes(capacity: int, tmp_path: Path) -> None:
    raw = write_sparse(tmp_path / "disk.raw", capacity, guest_parts(capacity, 1))
    data = qemu_stream(raw).read_bytes()
    assert decode(cut(data, [100_003]), expected_capacity=capacity) == raw.read_bytes()


def test_an_empty_disk_of_qemu_img(tmp_path: Path) -> None:
    raw = write_sparse(tmp_path / "disk.raw", 100 * MiB, {})
    assert decode([qemu_stream(raw).read_bytes()]) == bytes(100 * MiB)


def test_more_than_two_terabytes(tmp_path: Path) -> None:
    """qemu-img's tables of 3 TiB (2 x 192 MiB) pass by, and offsets keep all their bits."""
    capacity = 3 * TiB + 512
    parts = {0: b"a" * 5000, 2 * TiB - 512: b"b" * 1024, 2 * TiB + 5 * GiB: b"c" * 70_000, capacity - 512: b"d" * 512}
    image = qemu_stream(write_sparse(tmp_path / "disk.raw", capacity, parts))
    decoder = GrainDecoder(expected_capacity=capacity)
    buffer = memoryview(bytearray(4 * MiB))
    found: dict[int, bytes] = {}
    with image.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found |= {grain.offset: bytes(inflate(grain)) for grain in decoder.feed(buffer[:count])}
    decoder.close()
    for offset, data in parts.items():
        held = b"".join(found.get(start, b"") for start in range(offset // 65536 * 65536, offset + len(data), 65536))
        assert held[offset % 65536 :][: len(data)] == data
    assert decoder.position == capacity
