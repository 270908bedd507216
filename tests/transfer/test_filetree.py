"""The tree digest of a file, while it is written and afterwards: always that of a fresh reading."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import Cancelled
from hypersdk.transfer import treehash
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.filetree import DigestedFile, FileTree
from hypersdk.transfer.treehash import HASH_SIZE, LEAF, LeafHashes, tree_digest
from hypersdk.units import KiB, MiB, TiB
from tests.support.seeds import examples
from tests.support.treedigest import tree_digest_of_file

ROOT = Path(__file__).parents[2]
NEVER = CancelToken()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def tree(image: int, tmp_path: Path) -> Iterator[FileTree]:
    tree = FileTree(image, tmp_path, lag_bytes=2 * LEAF)
    yield tree
    tree.close()


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.mark.parametrize("size", [0, 1, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF, 9 * LEAF + 12345])
def test_the_definition(image: int, tmp_path: Path, size: int) -> None:
    os.pwrite(image, noise(size), 0)
    assert tree_digest(image, NEVER) == tree_digest_of_file(tmp_path / "image")


def test_the_program_in_the_documentation(image: int, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "manifest.md").read_text()
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "file tree" in block)
    os.pwrite(image, noise(LEAF + 4321), 3 * LEAF)
    shown = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "image"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == tree_digest(image, NEVER)


Change = tuple[str, int, int]
OFFSETS = st.one_of(st.integers(0, 12 * LEAF), st.integers(0, 12).map(lambda leaf: leaf * LEAF))
LENGTHS = st.one_of(st.integers(1, 64 * KiB), st.integers(1, 3 * LEAF), st.just(LEAF))
CHANGES = st.lists(st.tuples(st.sampled_from(["write", "write", "discard", "truncate"]), OFFSETS, LENGTHS), max_size=14)


def change(file: DigestedFile, what: str, offset: int, length: int) -> None:
    match what:
        case "write":
            half = length // 2
            file.pwrite([noise(half, offset), noise(length - half, length)], offset)
        case "discard":
            file.discard(offset, length)
        case "truncate":
            file.truncate(offset)


@examples(60)
@given(before=CHANGES, after=CHANGES, more=CHANGES, start=st.sampled_from([0, 512, LEAF + 1024]))
def test_any_changes_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, before: list[Change], after: list[Change], more: list[Change], start: int
) -> None:
    """Written by one process, resumed by another (which knows nothing), and changed again after its digest."""
    folder = tmp_path_factory.mktemp("tree")
    path = folder / "image"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for runs in ([before], [after, more]):
            tree = FileTree(descriptor, folder, lag_bytes=0)
            file = DigestedFile(descriptor, tree, start)
            for changes in runs:
                with tree.following():
                    for item in changes:
                        change(file, *item)
                assert tree.digest(NEVER) == tree_digest_of_file(path)
            tree.close()
    finally:
        os.close(descriptor)
        path.unlink()
    assert list(folder.iterdir()) == []


def test_many_writers_at_once(image: int, tree: FileTree, tmp_path: Path) -> None:
    file = DigestedFile(image, tree)

    def write(seed: int) -> None:
        chosen = random.Random(seed)
        for turn in range(150):
            file.pwrite([noise(64 * KiB, seed * 1000 + turn)], chosen.randrange(24 * LEAF))

    with tree.following():
        threads = [threading.Thread(target=write, args=[seed]) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tree.digest(NEVER) == tree_digest_of_file(tmp_path / "image")


def read_back(monkeypatch: pytest.MonkeyPatch, tree: FileTree) -> list[int]:
    """The leaves that the digest reads."""
    seen: list[int] = []
    real = treehash._read_back

    def read(descriptor: int, region: range) -> bytes:
        seen.append(region.start // LEAF)
        return real(descriptor, region)

    monkeypatch.setattr(treehash, "_read_back", read)
    tree.digest(NEVER)
    return sorted(seen)


def until_quiet(tree: FileTree) -> None:
    """Waits until the thread has nothing to do."""
    with tree._changed:
        while tree._has_quiet() or tree._hashing is not None:
            tree._changed.wait(0.01)


def test_what_lies_behind_the_front_is_not_read_again(
    image: int, tree: FileTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DigestedFile(image, tree)
    with tree.following():
        for number in range(40):
            file.pwrite([noise(MiB, number)], number * MiB)
        until_quiet(tree)
        file.pwrite([b"header"], 0)
    assert read_back(monkeypatch, tree) == [0, 8, 9]


def test_holes_and_what_was_freed_are_not_read(image: int, tree: FileTree, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DigestedFile(image, tree)
    file.truncate(40 * LEAF)
    file.pwrite([noise(LEAF)], 7 * LEAF)
    file.pwrite([noise(LEAF)], 20 * LEAF)
    file.discard(20 * LEAF, LEAF)
    assert read_back(monkeypatch, tree) == [7]


def test_a_write_that_fails_half_way_counts_as_made(
    image: int, tree: FileTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DigestedFile(image, tree)
    with tree.following():
        for number in range(6):
            file.pwrite([noise(LEAF, number)], number * LEAF)
        until_quiet(tree)

    def torn(descriptor: int, buffers: list[bytes], offset: int) -> int:
        os.pwrite(descriptor, b"torn", offset)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwritev", torn)
    with pytest.raises(OSError, match="full"):
        file.pwrite([noise(100)], 12)
    monkeypatch.undo()
    assert tree.digest(NEVER) == tree_digest_of_file(tmp_path / "image")


def test_hashes_that_cannot_be_stored_are_made_again(image: int, tmp_path: Path) -> None:
    """As on a full file system."""
    tree = FileTree(image, tmp_path / "missing", lag_bytes=0)
    file = DigestedFile(image, tree)
    with tree.following():
        for number in range(6):
            file.pwrite([noise(LEAF, number)], number * LEAF)
        until_quiet(tree)
    assert tree.digest(NEVER) == tree_digest_of_file(tmp_path / "image")


def test_one_flipped_bit_anywhere_is_another_digest(image: int, tmp_path: Path) -> None:
    os.pwrite(image, noise(2 * LEAF + 100), 0)
    os.ftruncate(image, 5 * LEAF + 7)
    whole = tree_digest(image, NEVER)
    for place in (0, LEAF - 1, LEAF, 2 * LEAF + 99, 3 * LEAF + 5, 5 * LEAF + 6):
        (byte,) = os.pread(image, 1, place)
        os.pwrite(image, bytes([byte ^ 4]), place)
        assert tree_digest(image, NEVER) != whole
        os.pwrite(image, bytes([byte]), place)
    assert tree_digest(image, NEVER) == whole
    os.ftruncate(image, 5 * LEAF + 8)
    assert tree_digest(image, NEVER) != whole


def test_counts_every_byte_once(image: int, tree: FileTree) -> None:
    file = DigestedFile(image, tree)
    with tree.following():
        for number in range(5):
            file.pwrite([noise(LEAF, number)], number * LEAF)
    file.truncate(11 * LEAF + 5)
    counts: list[int] = []
    tree.digest(NEVER, counts.append)
    assert sum(counts) == 11 * LEAF + 5


def test_ends_soon_after_a_cancel(image: int) -> None:
    os.pwrite(image, noise(4 * LEAF), 0)
    os.ftruncate(image, 100 * LEAF)
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        tree_digest(image, cancel, lambda _count: cancel.cancel("enough"))


def test_a_file_that_is_cut_while_it_is_read(image: int) -> None:
    os.pwrite(image, bytes(40 * LEAF), 0)
    with pytest.raises(OSError, match="shorter"):
        tree_digest(image, NEVER, lambda _count: os.ftruncate(image, LEAF))


def test_memory_of_a_sparse_disk_of_the_largest_size(tmp_path: Path) -> None:
    """62 TiB with a block in each 64 GiB: the hashes are in a file, which is as sparse as the disk."""
    program = """
import os, resource, sys
from pathlib import Path
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.filetree import DigestedFile, FileTree
from hypersdk.units import GiB, TiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
descriptor = os.open(sys.argv[1] + "/image", os.O_RDWR | os.O_CREAT)
tree = FileTree(descriptor, Path(sys.argv[1]))
file = DigestedFile(descriptor, tree)
size = int(sys.argv[2])
file.truncate(size)
with tree.following():
    for offset in range(0, size, 64 * GiB):
        file.pwrite([bytes([7]) * 65536], offset)
print(tree.digest(CancelToken()))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    size = largest_file(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path, str(size)], capture_output=True, text=True, check=True
    )
    digest, grown_mib = ran.stdout.split()
    assert len(digest) == 2 * HASH_SIZE
    assert int(grown_mib) < 48


def largest_file(folder: Path) -> int:
    """62 TiB, or what the file system allows."""
    size = 62 * TiB
    with (folder / "probe").open("wb") as probe:
        while size > TiB:
            try:
                probe.truncate(size)
            except OSError:
                size //= 2
            else:
                break
    (folder / "probe").unlink()
    return size


def test_hashes_are_kept_outside_of_memory_and_leave_nothing(tmp_path: Path) -> None:
    hashes = LeafHashes(tmp_path)
    assert list(hashes.spans(5)) == [(range(5), False)]
    for leaf in (1, 2, 4):
        hashes.keep(leaf, bytes([leaf]) * HASH_SIZE)
    assert list(hashes.spans(6)) == [
        (range(1), False), (range(1, 3), True), (range(3, 4), False), (range(4, 5), True), (range(5, 6), False)
    ]  # fmt: skip
    assert hashes.read(range(1, 3)) == bytes([1]) * HASH_SIZE + bytes([2]) * HASH_SIZE
    hashes.forget(range(2, 9))
    assert list(hashes.spans(2)) == [(range(1), False), (range(1, 2), True)]
    assert list(tmp_path.iterdir()) == []
    hashes.close()
    assert list(hashes.spans(2)) == [(range(2), False)]
