"""The decoder on streams that are wrong: it answers with the same content or an IntegrityError, in bounded time and
memory."""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.image import Piece
from hypersdk.formats.vmdk.stream import GrainDecoder, inflate
from hypersdk.units import MiB, TiB
from tests.support import vmdkstreams as streams
from tests.support.seeds import examples
from tests.support.vmdkstreams import DIALECTS, GD_AT_END, GRAIN, SECTOR, Block, Stream, build, decode, decode_grains

MASKS = (0x01, 0x80, 0xFF)


def same_or_refused(data: bytes, stream: Stream, expected_capacity: int | None) -> bool:
    """Whether ``data`` was refused; when it was not, it has to be what is in ``stream``."""
    try:
        capacity, grains = decode_grains([data], expected_capacity=expected_capacity)
    except IntegrityError:
        return True
    assert capacity == stream.capacity
    assert _with_data(grains) == _with_data({index * GRAIN: block.data for index, block in stream.blocks.items()})
    return False


def _with_data(grains: Mapping[int, bytes]) -> dict[int, bytes]:
    """Those that hold something else than zeros."""
    return {offset: data for offset, data in grains.items() if data.strip(b"\0")}


def check_every_flip(dialect: str, masks: tuple[int, ...], *, told: bool) -> None:
    stream = streams.small_stream(dialect)
    data, refused = build(stream), 0
    for at in range(len(data)):
        if at % len(masks) and not data[at]:
            continue  # of the padding, which is most of it, a part will do
        flipped = bytearray(data)
        flipped[at] ^= masks[at % len(masks)]
        refused += same_or_refused(bytes(flipped), stream, stream.capacity if told else None)
    assert refused > 500


@pytest.mark.slow
@pytest.mark.parametrize(("told", "first"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_flipped_byte(dialect: str, told: bool, first: int) -> None:
    """Each byte with two of the masks: they begin elsewhere where the capacity is not told."""
    check_every_flip(dialect, MASKS[first:] + MASKS[:first], told=told)


@examples(150)
@given(st.sampled_from(DIALECTS), st.booleans(), st.data())
def test_a_flipped_byte(dialect: str, told: bool, drawn: st.DataObject) -> None:
    stream = streams.small_stream(dialect)
    data = bytearray(build(stream))
    meaning = [at for at, byte in enumerate(data) if byte]
    at = drawn.draw(st.sampled_from(meaning) | st.integers(0, len(data) - 1))
    data[at] ^= drawn.draw(st.integers(1, 255))
    same_or_refused(bytes(data), stream, stream.capacity if told else None)


@examples(100)
@given(streams.streams(), st.data())
def test_cut_short_anywhere(stream: Stream, drawn: st.DataObject) -> None:
    """Only zeros and padding may be missing."""
    data = build(stream)
    length = drawn.draw(st.integers(0, len(data) - 1))
    try:
        raw = decode([data[:length]])
    except IntegrityError as error:
        assert error.code == "truncated_stream"  # noqa: PT017 - both outcomes are right
    else:
        assert raw == stream.content()
        assert not any(data[length:])


@examples(100)
@given(streams.streams(), st.binary(min_size=1, max_size=2000), st.data())
def test_rubbish_in_the_middle(stream: Stream, rubbish: bytes, drawn: st.DataObject) -> None:
    data = build(stream)
    at = drawn.draw(st.integers(0, len(data)))
    same_or_refused(data[:at] + rubbish + data[at + len(rubbish) :], stream, stream.capacity)


# Particular lies.


def parts(stream: Stream) -> tuple[bytes, list[bytes], bytes]:
    """Front, grain records and the rest of an ``esxi`` stream with all tables at the end."""
    data = build(stream)
    at = stream.overhead * SECTOR
    records = [streams.grain(index, block.deflated()) for index, block in stream.blocks.items()]
    end = at + sum(map(len, records))
    assert data[at:end] == b"".join(records)
    return data[:at], records, data[end:]


THREE = Stream(
    64 * MiB, {7: Block(b"a" * GRAIN), 8: Block(b"b" * GRAIN), 600: Block(b"c" * GRAIN)}, tables_at_once=True
)


def refusal(data: bytes) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        decode([data])
    return caught.value


def test_a_grain_twice() -> None:
    front, records, _ = parts(THREE)
    error = refusal(front + records[0] + records[0])
    assert (error.code, "twice" in error.message) == ("bad_format", True)


def test_grains_that_changed_places() -> None:
    """Each is right by itself; only the tables know better."""
    front, records, rest = parts(THREE)
    assert len(records[0]) == len(records[1])
    error = refusal(b"".join((front, records[1], records[0], records[2], rest)))
    assert (error.code, "does not match the grains" in error.message) == ("bad_format", True)


def test_a_grain_that_vanished() -> None:
    front, records, rest = parts(THREE)
    assert len(records[0]) == len(streams.marker(1, 4)) == SECTOR
    other = streams.grain(9, THREE.blocks[7].deflated())
    assert refusal(b"".join((front, other, *records[1:], rest))).code == "bad_format"


@pytest.mark.parametrize("lba", [1, 64, 64 * MiB // SECTOR, 2**63, 2**64 - 128])
def test_a_grain_where_none_can_be(lba: int) -> None:
    front, _, _ = parts(THREE)
    deflated = zlib.compress(bytes(GRAIN))
    error = refusal(front + struct.pack("<QI", lba, len(deflated)) + deflated + bytes(SECTOR))
    assert (error.code, "guest sector" in error.message) == ("bad_format", True)


@pytest.mark.parametrize("size", [128 * 1024 + 1, 2**31, 2**32 - 1])
def test_a_grain_of_absurd_size(size: int) -> None:
    """Refused by its marker, before a byte of it is waited for."""
    front, _, _ = parts(THREE)
    decoder = GrainDecoder()
    with pytest.raises(IntegrityError, match="compressed bytes"):
        decoder.feed(memoryview(front + struct.pack("<QI", 0, size) + bytes(SECTOR)))


def test_the_last_table_is_missing() -> None:
    _, _, rest = parts(THREE)
    data = build(THREE)
    at = len(data) - len(rest)
    assert rest.startswith(streams.marker(1, 4))
    assert refusal(data[:at] + rest[5 * SECTOR :]).code == "bad_format"


def test_the_end_without_a_directory() -> None:
    front, records, _ = parts(THREE)
    error = refusal(b"".join((front, *records, streams.marker(0, 0))))
    assert (error.code, "directory" in error.message) == ("bad_format", True)


def test_data_after_the_end() -> None:
    error = refusal(build(THREE) + b"\1")
    assert (error.code, "after the end" in error.message) == ("bad_format", True)


def test_a_delta_is_no_disk() -> None:
    data = build(THREE).replace(b"parentCID=ffffffff", b"parentCID=12345678")
    error = refusal(data)
    assert (error.code, "delta" in error.message) == ("bad_format", True)


def test_a_transfer_in_text_mode() -> None:
    assert "text mode" in refusal(build(THREE).replace(b"\n \r\n", b"\n \n\n", 1)).message


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (0, "4s", b"COWD"),
        (4, "<I", 0),
        (4, "<I", 4),
        (8, "<I", 1),
        (8, "<I", 0x20001),
        (8, "<I", 0x10001),
        (12, "<Q", 0),
        (12, "<Q", 2**63),
        (12, "<Q", 2**64 - 1),
        (20, "<Q", 0),
        (20, "<Q", 64),
        (20, "<Q", 2**40),
        (36, "<Q", 2**40),
        (36, "<Q", 100_000),
        (28, "<Q", 2**60),
        (44, "<I", 0),
        (44, "<I", 256),
        (44, "<I", 2**31),
        (56, "<Q", 5),
        (56, "<Q", 2**40),
        (64, "<Q", 0),
        (64, "<Q", 1),
        (64, "<Q", 2**50),
        (77, "<H", 0),
        (77, "<H", 2),
    ],
)
def test_a_header_that_lies(at: int, layout: str, value: int | bytes) -> None:
    data = bytearray(build(THREE))
    struct.pack_into(layout, data, at, value)
    assert refusal(bytes(data)).code == "bad_format"


# Bounds.


def endless(front: bytes, block: Callable[[int], bytes]) -> Iterator[bytes]:
    yield front
    number = 0
    while True:
        yield b"".join(block(number + each) for each in range(256))
        number += 256


def fed_until_refused(chunks: Iterator[bytes]) -> tuple[int, str]:
    """Bytes accepted before the decoder had enough, and what it said."""
    decoder = GrainDecoder()
    fed = 0
    deadline = time.monotonic() + 60
    for chunk in chunks:
        try:
            decoder.feed(memoryview(chunk))
        except IntegrityError as error:
            return fed, error.message
        fed += len(chunk)
        assert time.monotonic() < deadline
    raise AssertionError("the chunks came to an end")


def test_zeros_without_end() -> None:
    qemu = build(Stream(MiB, {}, dialect="qemu"))
    assert fed_until_refused(endless(qemu, lambda _: bytes(SECTOR)))[0] < 2 * MiB
    assert fed_until_refused(endless(build(THREE), lambda _: bytes(SECTOR)))[0] < 2 * MiB


def test_tables_without_end() -> None:
    front, records, _ = parts(THREE)
    table = streams.marker(1, 4) + bytes(2048)
    fed, said = fed_until_refused(endless(front + b"".join(records), lambda _: table))
    assert (fed < MiB, said) == (True, "not a usable VMDK: more grain tables than grains")


def test_directories_and_footers_without_end() -> None:
    front, _, _ = parts(THREE)
    directory = streams.marker(2, 1) + bytes(SECTOR)
    assert fed_until_refused(endless(front, lambda _: directory))[0] < MiB
    footer = streams.marker(3, 1) + front[:SECTOR]
    assert fed_until_refused(endless(front, lambda _: footer))[0] < MiB


def test_an_unknown_marker() -> None:
    front, _, _ = parts(THREE)
    assert "unknown type 9" in refusal(front + streams.marker(9, 0)).message


def wide_front(capacity: int, directory: int, overhead: int) -> bytes:
    return streams.header(capacity, directory=directory, overhead=overhead) + streams.descriptor(capacity)


@pytest.mark.parametrize(("directory", "overhead"), [(GD_AT_END, 128), (3, 2**23)])
def test_memory_of_a_header_that_promises_much(directory: int, overhead: int) -> None:
    """62 TiB said, nothing there: no table is made from the number, and a directory is held only as it arrives."""
    front = wide_front(62 * TiB, directory, overhead)
    tracemalloc.start()
    try:
        decoder = GrainDecoder()
        decoder.feed(memoryview(front.ljust(overhead * SECTOR if overhead == 128 else MiB, b"\0")))
        assert decoder.capacity == (62 * TiB if overhead == 128 else None)
        assert tracemalloc.get_traced_memory()[1] < 4 * MiB
    finally:
        tracemalloc.stop()


def test_memory_of_a_wide_disk() -> None:
    """4 TiB with one grain in each 512 MiB, the worst there is for the map of what came: about 1.3 KiB for each."""
    deflated = zlib.compress(b"w" * GRAIN)
    decoder = GrainDecoder()
    decoder.feed(memoryview(wide_front(4 * TiB, GD_AT_END, 128).ljust(128 * SECTOR, b"\0")))
    tracemalloc.start()
    try:
        for index in range(0, 4 * TiB // GRAIN, 8192):
            assert len(decoder.feed(memoryview(streams.grain(index, deflated)))) == 1
        assert tracemalloc.get_traced_memory()[1] < 14 * MiB
    finally:
        tracemalloc.stop()


# Single grains.


def grain_of(zlib_bytes: bytes, length: int = GRAIN) -> Piece:
    return Piece(3 * GRAIN, length, memoryview(zlib_bytes))


def damage(zlib_bytes: bytes, length: int = GRAIN) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        inflate(grain_of(zlib_bytes, length))
    assert caught.value.code == "corrupt_grain"
    assert caught.value.fields == {"offset": 3 * GRAIN}
    return caught.value


def test_a_bomb_stops_at_64_kib() -> None:
    bomb = zlib.compress(bytes(100 * MiB))
    assert len(bomb) < 128 * 1024
    tracemalloc.start()
    try:
        assert "more than 64 KiB" in damage(bomb).message
        assert tracemalloc.get_traced_memory()[1] < MiB
    finally:
        tracemalloc.stop()


def test_grains_that_are_not_what_they_must_be() -> None:
    good = zlib.compress(os.urandom(GRAIN))
    assert "too early" in damage(good[:-1]).message
    assert "too early" in damage(good[:100]).message
    assert "too early" in damage(b"").message
    assert "follow its end" in damage(good + b"\0").message
    assert "65535 bytes" in damage(zlib.compress(bytes(GRAIN - 1))).message
    assert "more than 64 KiB" in damage(zlib.compress(bytes(GRAIN + 1))).message
    damage(bytes([good[0] ^ 0x0F]) + good[1:])
    damage(good[:-1] + bytes([good[-1] ^ 1]))
    damage(zlib.compressobj(1, zlib.DEFLATED, 15, zdict=b"abc").compress(b"") + good[2:])
    damage(good[2:-4])


@given(st.integers(0, 9), st.integers(9, 15), st.integers(0, 2**32))
@examples(40)
def test_grains_of_any_deflate(level: int, window_bits: int, seed: int) -> None:
    source = random.Random(seed)
    data = b"".join(source.randbytes(source.randint(1, 900)) * source.randint(1, 9) for _ in range(80))[:GRAIN]
    data = data.ljust(GRAIN, b"\0")
    codec = zlib.compressobj(level, zlib.DEFLATED, window_bits)
    assert inflate(grain_of(codec.compress(data) + codec.flush())) == data


def test_the_last_grain_may_be_filled_up() -> None:
    data = b"d" * 1024
    assert inflate(grain_of(zlib.compress(data), 1024)) == data
    assert inflate(grain_of(zlib.compress(data.ljust(GRAIN, b"\0")), 1024)) == data
    assert "1024 bytes" in damage(zlib.compress(data), 1536).message
