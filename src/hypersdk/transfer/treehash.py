"""The digest of a file: a tree of BLAKE3 hashes, which several threads can compute, in any order.

::

    file = H("hypersdk file tree 1", size of the file as u64 little endian, leaf 0, leaf 1, ...)
    leaf = BLAKE3(4 MiB of the file)                        the last one may be shorter, and is not padded

``H`` is BLAKE3 in its key derivation mode (see ``transfer.digest``). Hashes are 32 bytes. Leaves that lie in holes are
known to be zeros, and are not read (``transfer.holes``).
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, TypeAlias

from blake3 import blake3

from hypersdk.formats.image import Buffer
from hypersdk.transfer.blockmap import BlockMap, cut
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.holes import ZEROS, runs
from hypersdk.units import MiB

LEAF: Final = 4 * MiB
TREE_ALGORITHM: Final = "blake3-tree-4m"
HASH_SIZE: Final = 32
ZERO_LEAF: Final = blake3(bytes(LEAF)).digest()

_CONTEXT: Final = "hypersdk file tree 1"
_READ_BYTES: Final = 1 * MiB
_READERS: Final = min(4, os.cpu_count() or 1)
_AHEAD: Final = 2 * _READERS
"""Leaves that are read before it is their turn."""
_PART: Final = 32 * 1024  # known hashes that are used at once: 1 MiB

_Found: TypeAlias = "tuple[range, bytes | Future[bytes]]"


class LeafHashes:
    """The known hashes of a growing file: one bit for each leaf in memory, 2 MiB for 62 TiB, and the hashes in a file
    without a name, 8 MiB for 1 TiB. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where the hashes are stored, once there are any."""
        self._folder = folder
        self._known = BlockMap(0)
        self._file: IO[bytes] | None = None

    def keep(self, leaf: int, digest: bytes) -> None:
        """Records the hash of ``leaf``. Raises OSError."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - closed by ``close``
                buffering=0, prefix=".hypersdk-tree-", dir=self._folder
            )
        os.pwrite(self._file.fileno(), digest, leaf * HASH_SIZE)
        self._known.grow(leaf + 1)
        self._known.add(leaf)

    def forget(self, leaves: range) -> None:
        """The hashes of ``leaves`` are not known any more."""
        for run in list(self._known.runs(leaves.start, min(leaves.stop, self._known.blocks), present=True)):
            for leaf in run:
                self._known.remove(leaf)

    def spans(self, leaves: int) -> Iterator[tuple[range, bool]]:
        """Yields the runs of ``leaves`` leaves, and whether their hashes are known."""
        end = 0
        for run in self._known.runs(0, min(leaves, self._known.blocks), present=True):
            if end < run.start:
                yield range(end, run.start), False
            yield run, True
            end = run.stop
        if end < leaves:
            yield range(end, leaves), False

    def read(self, leaves: range) -> bytes:
        """The known hashes of ``leaves``, one after another."""
        assert self._file is not None
        return os.pread(self._file.fileno(), len(leaves) * HASH_SIZE, leaves.start * HASH_SIZE)

    def close(self) -> None:
        """Forgets all of them."""
        self._known = BlockMap(0)
        if self._file is not None:
            self._file.close()
            self._file = None


def leaf_region(leaf: int, size: int) -> range:
    """The bytes of ``leaf`` in a file of ``size`` bytes."""
    return range(leaf * LEAF, min((leaf + 1) * LEAF, size))


def leaf_hash(descriptor: int, region: range) -> bytes:
    """The hash of the leaf with the bytes ``region``. Raises OSError, also where the file ends before."""
    digest, left = blake3(), len(region)
    for piece in _pieces(descriptor, region):
        digest.update(piece)
        left -= len(piece)
    if left:
        raise OSError(errno.EIO, "the file became shorter while it was read")
    return digest.digest()


def tree_digest(
    descriptor: int,
    cancel: CancelToken,
    on_bytes: Callable[[int], None] | None = None,
    known: LeafHashes | None = None,
) -> str:
    """Hex digest of an open file. It is read in several threads, but for the ``known`` leaves; ``on_bytes`` is called
    with the number of further bytes done. Memory: a few leaves.

    Raises OSError, also where the file becomes shorter meanwhile, and Cancelled.
    """
    size = os.fstat(descriptor).st_size
    tree = blake3(size.to_bytes(8, "little"), derive_key_context=_CONTEXT)
    with _readers() as pool:
        for leaves, hashes in _in_order(_found(pool, descriptor, size, known or LeafHashes(Path()))):
            cancel.check()
            tree.update(hashes)
            if on_bytes is not None:
                on_bytes(min(leaves.stop * LEAF, size) - leaves.start * LEAF)
    return tree.hexdigest()


def _pieces(descriptor: int, region: range) -> Iterator[Buffer]:
    for run, is_data in runs(descriptor, region):
        for part in cut([run], _READ_BYTES if is_data else len(ZEROS)):
            yield os.pread(descriptor, len(part), part.start) if is_data else ZEROS[: len(part)]


@contextmanager
def _readers() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="file-tree")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(found: Iterator[_Found]) -> Iterator[tuple[range, bytes]]:
    """Waits for hashes in their order, while the leaves behind them are read."""
    ahead: deque[_Found] = deque()
    for item in found:
        ahead.append(item)
        if len(ahead) > _AHEAD:
            yield _awaited(*ahead.popleft())
    while ahead:
        yield _awaited(*ahead.popleft())


def _awaited(leaves: range, hashes: bytes | Future[bytes]) -> tuple[range, bytes]:
    return leaves, hashes if isinstance(hashes, bytes) else hashes.result()


def _found(pool: ThreadPoolExecutor, descriptor: int, size: int, known: LeafHashes) -> Iterator[_Found]:
    """All leaves of the file with their hashes, in order; a leaf that must be read with its future hash."""
    for leaves, is_known in known.spans(-(-size // LEAF)):
        if is_known:
            yield from ((part, known.read(part)) for part in cut([leaves], _PART))
            continue
        for run, is_data in _with_data(descriptor, leaves, size):
            if is_data:
                yield from (
                    (range(leaf, leaf + 1), pool.submit(_read_back, descriptor, leaf_region(leaf, size)))
                    for leaf in run
                )
            else:
                yield from ((part, ZERO_LEAF * len(part)) for part in cut([run], _PART))


def _with_data(descriptor: int, leaves: range, size: int) -> Iterator[tuple[range, bool]]:
    """Splits ``leaves`` into runs that may have data and runs that lie in holes."""
    end = leaves.start
    for run, is_data in runs(descriptor, range(leaves.start * LEAF, min(leaves.stop * LEAF, size))):
        first, stop = max(end, -(-run.start // LEAF)), run.stop // LEAF
        if not is_data and first < stop:
            if end < first:
                yield range(end, first), True
            yield range(first, stop), False
            end = stop
    if end < leaves.stop:
        yield range(end, leaves.stop), True


def _read_back(descriptor: int, region: range) -> bytes:
    """The hash of a leaf that is not used again soon: reading 1 TiB must not evict everything else from the cache."""
    digest = leaf_hash(descriptor, region)
    os.posix_fadvise(descriptor, region.start, len(region), os.POSIX_FADV_DONTNEED)
    return digest
