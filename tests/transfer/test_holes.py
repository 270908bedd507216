"""A sparse file is hashed as its bytes say, and its holes are not read for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.migration.readback import Reading, digests_of
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import sha256_of
from hypersdk.transfer.holes import READ_STEP, pieces
from hypersdk.units import KiB, MiB

SIZE = 12 * MiB + 77


def sparse(path: Path, runs: Sequence[tuple[int, int]], size: int) -> Path:
    with path.open("wb") as file:
        for start, length in runs:
            file.seek(start)
            file.write(os.urandom(length))
        file.truncate(size)
    return path


def read(path: Path, region: range) -> bytes:
    with path.open("rb", buffering=0) as file:
        found = [bytes(piece) for piece in pieces(file.fileno(), region)]
    assert all(0 < len(piece) <= READ_STEP for piece in found)
    return b"".join(found)


@given(
    runs=st.lists(st.tuples(st.integers(0, SIZE - 300 * KiB), st.integers(1, 300 * KiB)), max_size=5),
    start=st.integers(0, SIZE),
    length=st.integers(0, SIZE),
)
def test_the_bytes_are_the_files(runs: Sequence[tuple[int, int]], start: int, length: int) -> None:
    """Also of a region that begins or ends within a hole, or goes beyond the end of the file."""
    with TemporaryDirectory() as folder:
        path = sparse(Path(folder) / "file", runs, SIZE)
        assert read(path, range(start, start + length)) == path.read_bytes()[start : start + length]


@pytest.mark.parametrize("size", [0, 1, READ_STEP, 3 * READ_STEP + 1])
def test_a_file_of_nothing_but_a_hole(tmp_path: Path, size: int) -> None:
    assert read(sparse(tmp_path / "file", [], size), range(size)) == bytes(size)


def test_a_file_that_is_cut_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes end there; it is no error of its own."""
    path, lseek = sparse(tmp_path / "file", [(0, MiB)], MiB), os.lseek

    def cutting(descriptor: int, at: int, whence: int) -> int:
        if whence == os.SEEK_HOLE:
            os.truncate(path, 0)
        return lseek(descriptor, at, whence)

    monkeypatch.setattr(os, "lseek", cutting)
    assert read(path, range(MiB)) == b""


def by_transfer(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file.fileno(), path.name, CancelToken())


def by_verify(path: Path) -> str:
    with path.open("rb") as file:
        pieces = Reading(CancelToken()).pieces(file.fileno(), "", range(path.stat().st_size))
        return digests_of(pieces, ["SHA256"])["SHA256"]


@pytest.mark.parametrize("digest", [by_transfer, by_verify])
def test_holes_are_hashed_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Callable[[Path], str]
) -> None:
    path = sparse(tmp_path / "file", [(5 * MiB, MiB), (90 * MiB, MiB)], 128 * MiB)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    counted, preadv = [0], os.preadv

    def counting(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        counted.append(count)
        return count

    monkeypatch.setattr(os, "preadv", counting)
    assert digest(path) == expected
    assert 2 * MiB <= sum(counted) <= 3 * MiB  # a file system may keep more than what was written, never a whole hole
