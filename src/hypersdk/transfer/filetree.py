"""The tree of a file that is being written: leaves are hashed behind the write front, while they are in the page cache,
so a finished image is not read a second time.

::

    DigestedFile ── written, cut, freed: forget these leaves ──> FileTree <── thread: hashes leaves that became quiet
                                                                    └── digest: hashes the others, then the tree

What is hashed is read from the file, not taken from the buffers that were written: the digest is that of the bytes that
lie there. The hash of a leaf is forgotten **after** a change was made, and not kept when the leaf changed while it was
hashed. So a kept hash is that of the leaf's last content, whatever the order of writes.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hypersdk.formats.image import Buffer
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.treehash import LEAF, LeafHashes, leaf_hash, leaf_region, tree_digest
from hypersdk.units import MiB

LAG: Final = 16 * MiB
"""A leaf is quiet once this much was written elsewhere since its last change: then it is full, and still cached."""
_MAX_WAITING: Final = 4096
"""Leaves that may wait for the thread: 16 GiB. Those that waited longest are hashed at the end instead."""


class FileTree:
    """The tree of one open file. Thread-safe. Nothing is known of what the file had before."""

    def __init__(self, descriptor: int, folder: Path, *, lag_bytes: int = LAG) -> None:
        """``folder`` is where the hashes are stored. The caller closes ``descriptor``, after ``close``."""
        self._descriptor = descriptor
        self._lag = lag_bytes
        self._hashes = LeafHashes(folder)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, int] = OrderedDict()  # leaf: bytes written up to its last change; oldest first
        self._written = 0
        self._hashing: int | None = None
        self._ending = False

    def wrote(self, region: range) -> None:
        """Notes that these bytes of the file were written, or a part of them."""
        leaves = _leaves(region)
        with self._changed:
            self._written += len(region)
            self._forget(leaves)
            for leaf in leaves:
                self._waiting[leaf] = self._written
                self._waiting.move_to_end(leaf)
            while len(self._waiting) > _MAX_WAITING:
                self._waiting.popitem(last=False)
            if self._has_quiet():
                self._changed.notify()

    def lost(self, region: range) -> None:
        """Notes that these bytes were cut off, became a hole, or were added as one."""
        with self._changed:
            self._forget(_leaves(region))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Hashes quiet leaves in a thread of its own while the block runs."""
        thread = threading.Thread(target=self._follow, name="file-tree")
        self._ending = False
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._ending = True
                self._changed.notify()
            thread.join()

    def digest(self, cancel: CancelToken, on_bytes: Callable[[int], None] | None = None) -> str:
        """Hex digest of the file; leaves whose hash is not known are read. Not while others write. See
        ``tree_digest``."""
        return tree_digest(self._descriptor, cancel, on_bytes, self._hashes)

    def close(self) -> None:
        """Forgets all hashes."""
        self._hashes.close()

    def _forget(self, leaves: range) -> None:
        self._hashes.forget(leaves)
        if self._hashing is not None and self._hashing in leaves:
            self._hashing = None

    # The thread

    def _follow(self) -> None:
        while (leaf := self._next_quiet()) is not None:
            with suppress(OSError):  # such a leaf is read again at the end, and the error raised there
                self._hash(leaf)

    def _has_quiet(self) -> bool:
        return bool(self._waiting) and self._written - next(iter(self._waiting.values())) >= self._lag

    def _next_quiet(self) -> int | None:
        with self._changed:
            self._hashing = None
            self._changed.wait_for(lambda: self._ending or self._has_quiet())
            if self._ending:
                return None
            self._hashing, _ = self._waiting.popitem(last=False)
            return self._hashing

    def _hash(self, leaf: int) -> None:
        size = os.fstat(self._descriptor).st_size
        region = leaf_region(leaf, size)
        if len(region) < LEAF:
            return  # the end of the file, which still grows
        digest = leaf_hash(self._descriptor, region)
        with self._changed:
            if self._hashing == leaf:  # it did not change meanwhile
                self._hashes.keep(leaf, digest)


class DigestedFile(FdFile):
    """An ``FdFile`` that notes its changes in ``tree``, also those that fail half-way."""

    def __init__(self, fd: int, tree: FileTree, start: int = 0, *, cached: bool = False) -> None:
        super().__init__(fd, start, cached=cached)
        self._tree = tree

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        """See FdFile."""
        try:
            super().pwrite(buffers, offset)
        finally:
            length = sum(memoryview(buffer).nbytes for buffer in buffers)
            self._tree.wrote(self._region(offset, offset + length))

    def truncate(self, size: int) -> None:
        """See FdFile."""
        before = self.size()
        try:
            super().truncate(size)
        finally:
            self._tree.lost(self._region(min(before, size), max(before, size)))

    def discard(self, offset: int, length: int) -> None:
        """See FdFile."""
        try:
            super().discard(offset, length)
        finally:
            self._tree.lost(self._region(offset, offset + length))

    def _region(self, start: int, stop: int) -> range:
        return range(self._start + start, self._start + stop)


def _leaves(region: range) -> range:
    return range(region.start // LEAF, -(-region.stop // LEAF)) if region else range(0)
