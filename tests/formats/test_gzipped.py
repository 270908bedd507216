"""Reading anywhere inside a gzip file: the same bytes as Python's gzip has, or a refusal; and memory that stays
small."""

from __future__ import annotations

import contextlib
import gzip
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import Cancelled, IntegrityError
from hypersdk.formats import gzipped
from hypersdk.formats.gzipped import GzipReader
from hypersdk.units import KiB, MiB
from tests.support.seeds import examples


class Bytes:
    """A ReadableFile over bytes that counts what is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.read = 0

    def pread(self, length: int, offset: int) -> bytes:
        self.read += len(self._data[offset : offset + length])
        return self._data[offset : offset + length]

    def size(self) -> int:
        return len(self._data)


def content(seed: int, size: int) -> bytes:
    draw = random.Random(seed)
    return b"".join(draw.randbytes(3000) if draw.random() < 0.5 else bytes(5000) for _ in range(size // 4000))[:size]


CONTENT = content(1, 700 * KiB)
PACKED = b"".join(gzip.compress(CONTENT[at : at + 300 * KiB], mtime=0) for at in range(0, len(CONTENT), 300 * KiB))


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 10), st.integers(0, 200 * KiB)), max_size=12), st.booleans())
def test_any_ranges_in_any_order(ranges: list[tuple[int, int]], measured: bool) -> None:
    reader = GzipReader(Bytes(PACKED))
    if measured:
        assert reader.size() == len(CONTENT)
    for offset, length in ranges:
        assert reader.pread(length, offset) == CONTENT[offset : offset + length]
    assert reader.size() == len(CONTENT)


@pytest.mark.parametrize("end", [b"", bytes(3000), gzip.compress(b"", mtime=0) * 3])
def test_zeros_and_empty_members_at_the_end_hold_nothing(end: bytes) -> None:
    assert GzipReader(Bytes(PACKED + end)).size() == len(CONTENT)


@examples(200)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255), st.booleans())
def test_damage_is_refused_or_changes_nothing(position: int, mask: int, cut: bool) -> None:
    """Of the header some bytes say nothing of the content: time, system, name."""
    data = bytearray(PACKED[:position] if cut else PACKED)
    if not cut:
        data[position] ^= mask
    with contextlib.suppress(IntegrityError):
        reader = GzipReader(Bytes(bytes(data)))
        size = reader.size()
        assert reader.pread(size, 0) == CONTENT[:size]
        assert size == len(CONTENT) or cut  # cut between two members: no gzip file tells how many there are


@pytest.mark.parametrize("end", [b"rubbish", bytes(100) + b"\1", b"\x1f\x8b"])
def test_rubbish_behind_it_is_refused(end: bytes) -> None:
    with pytest.raises(IntegrityError):
        GzipReader(Bytes(PACKED + end)).size()


def test_few_copies_serve_a_large_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only every eighth copy is left, no read inflates more than one spacing to get where it begins."""
    monkeypatch.setattr(gzipped, "MAX_COPIES", 4)
    monkeypatch.setattr(gzipped, "_FIRST_SPACING", 64 * KiB)
    data = content(2, 3 * MiB)
    reader = GzipReader(Bytes(gzip.compress(data, 1)))
    assert reader.size() == len(data)
    assert len(reader._copies) <= 4
    for offset in random.Random(3).sample(range(len(data)), 30):
        assert reader.pread(1000, offset) == data[offset : offset + 1000]


def test_reading_on_does_not_begin_again() -> None:
    data = random.Random(4).randbytes(2 * MiB)
    file = Bytes(gzip.compress(data, 1))
    reader = GzipReader(file)
    found = b"".join(reader.pread(64 * KiB, at) for at in range(0, len(data), 64 * KiB))
    assert found == data
    assert file.read < 2 * file.size()


def test_several_threads_read_at_once() -> None:
    reader = GzipReader(Bytes(PACKED))
    found: dict[int, bytes] = {}

    def read(start: int) -> None:
        found.update({at: reader.pread(64 * KiB, at) for at in range(start, len(CONTENT), 4 * 64 * KiB)})

    threads = [threading.Thread(target=read, args=(number * 64 * KiB,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b"".join(found[at] for at in sorted(found)) == CONTENT


def test_a_bomb_ends_at_the_limit_or_when_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(30 * MiB))
    monkeypatch.setattr(gzipped, "MAX_INFLATED", 5 * MiB)
    with pytest.raises(IntegrityError, match="more than"):
        GzipReader(Bytes(bomb)).size()
    asked = iter(range(3))

    def check() -> None:
        if next(asked, None) is None:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        GzipReader(Bytes(bomb), check).size()
