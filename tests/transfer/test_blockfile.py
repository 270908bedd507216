"""Files and regions: what the kernel does in parts arrives whole, holes are punched or zeroed, errors pass through."""

from __future__ import annotations

import ctypes
import errno
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hypersdk.transfer import blockfile
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import KiB, MiB


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def test_more_buffers_than_one_call_takes(fd: int) -> None:
    buffers = [bytes([number % 256]) * (number % 7) for number in range(3000)]
    FdFile(fd).pwrite(buffers, 100)
    expected = b"".join(buffers)
    assert FdFile(fd).pread(len(expected), 100) == expected
    assert FdFile(fd).size() == 100 + len(expected)


def test_short_writes_and_reads_are_gone_on_with(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the 2 GiB limit of one call, on NFS, or when a signal comes in between."""
    source = random.Random(1)
    real_write, real_read = os.pwritev, os.pread

    def stingy_write(fd: int, buffers: Sequence[bytes], offset: int) -> int:
        return real_write(fd, [b"".join(buffers)[: source.randint(1, 900)]], offset)

    monkeypatch.setattr(os, "pwritev", stingy_write)
    monkeypatch.setattr(
        os, "pread", lambda fd, length, offset: real_read(fd, min(length, source.randint(1, 900)), offset)
    )
    buffers = [source.randbytes(length) for length in (0, 1, 5000, 0, 300, 70_000)]
    FdFile(fd).pwrite([memoryview(buffer) for buffer in buffers], 7)
    assert FdFile(fd).pread(100_000, 7) == b"".join(buffers)


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """What leaves the page cache."""
    seen: list[range] = []

    def advise(_fd: int, offset: int, length: int, advice: int) -> None:
        assert length, "0 would be the whole file"
        assert advice == os.POSIX_FADV_DONTNEED
        seen.append(range(offset, offset + length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return seen


def test_durable_data_leaves_the_page_cache_but_for_the_newest(
    fd: int, dropped: list[range], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = bytes(64 * KiB)
    monkeypatch.setattr(blockfile, "KEPT_BYTES", 2 * len(block))

    def at(first: int, stop: int) -> range:
        return range(1000 + first * len(block), 1000 + stop * len(block))

    file = FdFile(fd, 1000)
    for number in (2, 0, 1, 7, 9, 20):
        file.pwrite([block], number * len(block))
    file.pwrite([b"a table"], 40 * len(block))
    assert dropped == [], "not durable yet"
    file.sync()
    assert dropped == [at(0, 3), at(7, 8)]
    file.sync()
    file.pwrite([block], 21 * len(block))
    file.sync()
    assert dropped == [at(0, 3), at(7, 8), at(9, 10)]


def test_what_a_failed_sync_may_have_lost_stays(fd: int, dropped: list[range], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockfile, "KEPT_BYTES", 0)
    file = FdFile(fd)
    file.pwrite([bytes(1 * MiB)], 0)

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
    file.sync()
    assert dropped == []


def test_what_is_read_back_soon_stays_in_the_page_cache(
    fd: int, dropped: list[range], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockfile, "KEPT_BYTES", 0)
    file = FdFile(fd, cached=True)
    file.pwrite([bytes(1 * MiB)], 0)
    for _ in range(3):
        file.sync()
    assert dropped == []


def test_a_file_system_that_takes_no_advice_is_no_error(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    monkeypatch.setattr(blockfile, "KEPT_BYTES", 0)
    file = FdFile(fd)
    file.pwrite([bytes(1 * MiB)], 0)
    file.sync()
    file.sync()


def test_a_write_that_takes_nothing_is_an_error(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: 0)
    with pytest.raises(OSError, match="no more bytes"):
        FdFile(fd).pwrite([b"x"], 0)


def test_reads_are_short_only_at_the_end(fd: int) -> None:
    FdFile(fd).pwrite([b"abcdef"], 0)
    assert FdFile(fd).pread(4, 1) == b"bcde"
    assert FdFile(fd).pread(40, 4) == b"ef"
    assert FdFile(fd).pread(4, 6) == b""
    assert FdFile(fd).pread(4, 600) == b""


def test_a_full_file_system_passes_through() -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(OSError, match="No space") as caught:
        FdFile(full.fileno()).pwrite([b"x"], 0)
    assert caught.value.errno == errno.ENOSPC


def test_discarded_ranges_read_as_zeros_and_take_no_room(fd: int) -> None:
    file = FdFile(fd)
    file.pwrite([b"\xff" * MiB], 0)
    file.sync()
    file.discard(64 * KiB, 512 * KiB)
    assert file.pread(MiB, 0) == b"\xff" * 64 * KiB + bytes(512 * KiB) + b"\xff" * 448 * KiB
    assert os.fstat(fd).st_blocks * 512 <= 600 * KiB


@pytest.mark.parametrize("reason", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_holes_zeros_are_written(fd: int, reason: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> int:
        ctypes.set_errno(reason)
        return -1

    monkeypatch.setattr(blockfile, "_fallocate", refuse)
    file = FdFile(fd)
    file.pwrite([b"\xff" * 3 * MiB], 0)
    file.discard(1000, 2 * MiB)
    assert file.pread(3 * MiB, 0) == b"\xff" * 1000 + bytes(2 * MiB) + b"\xff" * (MiB - 1000)


def test_other_failures_to_discard_pass_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MiB)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            FdFile(fd).discard(0, MiB)
    finally:
        os.close(fd)


def test_discarding_never_makes_a_file_longer(fd: int) -> None:
    file = FdFile(fd)
    file.pwrite([b"\xff" * 1000], 0)
    file.discard(500, MiB)
    file.discard(5000, MiB)
    assert file.pread(MiB, 0) == b"\xff" * 500 + bytes(500)


def test_runs_of_data_between_holes(fd: int) -> None:
    file = FdFile(fd)
    file.truncate(4 * MiB + 100)
    file.pwrite([b"\xff" * 64 * KiB], MiB)
    file.pwrite([b"\xff" * (64 * KiB + 100)], 4 * MiB - 64 * KiB)
    first, last = range(MiB, MiB + 64 * KiB), range(4 * MiB - 64 * KiB, 4 * MiB + 100)
    assert list(file.data_runs(0)) == [first, last]
    assert list(file.data_runs(MiB + 4 * KiB)) == [first[4 * KiB :], last]
    assert list(FdFile(fd, MiB).data_runs(64 * KiB)) == [range(last.start - MiB, last.stop - MiB)]
    assert list(file.data_runs(5 * MiB)) == []


def test_a_region_is_a_file_of_its_own(fd: int) -> None:
    whole = FdFile(fd)
    whole.pwrite([b"head"], 0)
    region = FdFile(fd, 1000)
    assert region.size() == 0
    region.truncate(3000)
    region.pwrite([b"\xff" * 3000], 0)
    region.discard(1000, 1000)
    region.sync()
    assert region.size() == 3000
    assert region.pread(10_000, 500) == b"\xff" * 500 + bytes(1000) + b"\xff" * 1000
    assert whole.pread(1001, 0) == b"head" + bytes(996) + b"\xff"
    assert whole.size() == 4000
