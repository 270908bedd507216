"""Output files of a run while they are written: names, open descriptors, removal.

A file stays open from its first use until the outputs are closed. It is hashed, finished and published by its
descriptor, so a file that another process puts under the same name is never mistaken for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Final

from hypersdk.migration.naming import BLOCKS, MANIFEST_NAME, PARTIAL, stem_of_run
from hypersdk.migration.runfile import LOCK_FILE, RunRecord
from hypersdk.migration.spec import FileHash
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import check_name, has_name, open_output, publish, remove_own, shown_path, target_errors
from hypersdk.transfer.filetree import DigestedFile, FileTree
from hypersdk.transfer.treehash import tree_digest


class HeldFile:
    """One output file of this run, held by its descriptor; when it is resumed, by that of the earlier process's
    file."""

    def __init__(self, final: Path, attempt_suffix: str, file_hash: FileHash) -> None:
        """Its tree digest is computed while it is written, unless ``file_hash`` is ``NONE``. With ``SHA256`` all of it
        is read when it is finished, so it stays in the page cache."""
        self.final: Final = final
        self.partial: Final = partial_path(final, attempt_suffix)
        self._hashed = file_hash is not FileHash.NONE
        self._read_back = file_hash is FileHash.SHA256
        self._descriptor: int | None = None
        self._tree: FileTree | None = None

    def opened(self, *, fresh: bool) -> int:
        """Opens it for writing: a new file, or the one that exists. Raises TargetError, ``output_replaced`` where
        another file took its place."""
        if self._descriptor is not None:
            check_name(self._descriptor, self.partial)
            if not fresh:
                return self._descriptor
        descriptor = open_output(self.partial, fresh=fresh)
        self.close()
        self._descriptor = descriptor
        self._tree = FileTree(descriptor, self.partial.parent) if self._hashed else None
        return descriptor

    def from_byte(self, start: int) -> FdFile:
        """The open file from byte ``start`` on; its changes are known to the tree."""
        if self._tree is None:
            return FdFile(self.whole, start, cached=self._read_back)
        return DigestedFile(self.whole, self._tree, start, cached=self._read_back)

    def following(self) -> AbstractContextManager[None]:
        """Hashes the open file behind the writes of the block."""
        return nullcontext() if self._tree is None else self._tree.following()

    def tree_digest(self, cancel: CancelToken, on_bytes: Callable[[int], None] | None = None) -> str:
        """Hex tree digest of the file (``transfer.treehash``). What was not hashed while this process wrote it is
        read. Raises TargetError and Cancelled."""
        with target_errors(f"reading {self.final.name} back"):
            if self._tree is not None:
                return self._tree.digest(cancel, on_bytes)
            return tree_digest(self.whole, cancel, on_bytes)

    @property
    def whole(self) -> int:
        """The descriptor of the finished file, under its partial or its final name. Raises TargetError."""
        if self._descriptor is None:
            unfinished = os.path.lexists(self.partial) or not os.path.lexists(self.final)
            self._descriptor = open_output(self.partial if unfinished else self.final, fresh=False)
        return self._descriptor

    def publish(self, on_lost: Callable[[], None] | None = None) -> None:
        """Renames it to its final name; may be repeated after a crash. Raises TargetError."""
        if not has_name(self.whole, self.final):
            publish(self.whole, self.partial, self.final, on_lost)

    def take_back(self) -> None:
        """Renames it back to its partial name. Raises TargetError."""
        check_name(self.whole, self.final)
        with target_errors(f"taking {self.final.name} back"):
            self.final.replace(self.partial)

    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where another file has the final name."""
        check_name(self.whole, self.final)

    def remove(self) -> None:
        """Removes the partial file; a file of another process under that name is left alone."""
        if self._descriptor is not None:
            remove_own(self._descriptor, self.partial)
            self.close()
        else:
            self.partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes its descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._tree is not None:
            self._tree.close()
            self._tree = None


def partial_path(path: Path, attempt_suffix: str = "") -> Path:
    """The name of ``path`` while it is written."""
    return path.with_name(path.name + PARTIAL + attempt_suffix)


def blocks_path(path: Path, attempt_suffix: str = "") -> Path:
    """The ledger of the blocks of ``path``, next to its partial file."""
    return path.with_name(path.name + PARTIAL + attempt_suffix + BLOCKS)


def remove_other_attempts(folder: Path, names: Sequence[str], attempt_suffix: str) -> None:
    """Removes partial files and locks that other attempts left for the published ``names``. A process that still has
    such a file open writes into a deleted file."""
    with target_errors(f"removing what another process left in {shown_path(folder)}"):
        for path in folder.iterdir():
            of_ours = any(path.name.startswith(name + PARTIAL) for name in names)
            lock = path.name.startswith(LOCK_FILE) and path.name != LOCK_FILE + attempt_suffix
            if of_ours or lock:
                path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, stem: str) -> None:
    """Removes the partial files in ``folder`` of a machine whose run record is unreadable."""
    ours = re.compile(rf"{re.escape(stem)}(-disk\d+)?\.[a-z0-9]+{re.escape(PARTIAL)}")
    with target_errors(f"removing what an unfinished run left in {shown_path(folder)}"):
        for path in folder.iterdir():
            if ours.match(path.name):
                path.unlink(missing_ok=True)


def remove_half_published(run: RunRecord) -> None:
    """Removes the files that ``run``, which is discarded, had already published when it ended. A manifest says that it
    had not started publishing: then the files are those of the export that it was to replace."""
    folder, stem = run.folder, stem_of_run(run)
    names = [record.file_name for record in run.disks] + [f"{stem}{suffix}" for suffix in (".ova", ".ovf", ".mf")]
    with target_errors(f"removing what an earlier run left in {shown_path(folder)}"):
        if run.copied and not os.path.lexists(folder / MANIFEST_NAME):
            for name in names:
                (folder / name).unlink(missing_ok=True)


def size_of(partial: Path, final: Path) -> int:
    """Size of an output under its partial or final name; -1 where it has neither."""
    for path in (partial, final):
        with suppress(FileNotFoundError):
            return path.lstat().st_size
    return -1
