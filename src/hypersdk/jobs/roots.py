"""Export roots: the only places that jobs may write to.

Each root holds a file with an id of its own, so that workers on several hosts can say which roots they see: the same share may be
mounted elsewhere under the same path. Folders of jobs are opened below the root's descriptor, component by component, following no
symbolic link: what a job writes to cannot be turned elsewhere by whoever may write in the root.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from hypersdk.errors import TARGET_DENIED, Refused, TargetError, register
from hypersdk.transfer.files import target_errors

OUTSIDE_ROOTS: Final = register(
    "outside_export_roots",
    "Jobs may only write below the daemon's export roots.",
    "Choose a folder below one of them, or add its root to `export_roots` in the daemon's configuration.",
)
FOLDER_LINK: Final = register(
    "folder_is_link",
    "A part of the output folder's path is a symbolic link or no folder; the daemon follows none below an export root.",
    "Name the real folder, or remove the link.",
)
ROOT_ID_FILE: Final = ".hypersdk-root"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_MODE: Final = 0o750


@dataclass(frozen=True, slots=True)
class ExportRoot:
    """One root that this host sees. ``path`` is absolute and free of symbolic links."""

    id: str
    path: Path


class ExportRoots:
    """The roots of this host, by configuration. ``open`` makes their ids where they have none."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.roots: Final = tuple(sorted(map(_root, paths), key=lambda root: len(root.path.parts), reverse=True))

    @property
    def ids(self) -> list[str]:
        """Ids of all roots."""
        return sorted({root.id for root in self.roots})

    def of(self, folder: str | Path) -> ExportRoot:
        """The root that ``folder`` lies in, by its text alone. Raises Refused ``outside_export_roots``."""
        path = PurePosixPath(folder)
        if not path.is_absolute() or ".." in path.parts or "\0" in str(folder):
            raise _outside(folder, self.roots)
        for root in self.roots:
            if path.is_relative_to(root.path):
                return root
        raise _outside(folder, self.roots)

    def by_id(self, root_id: str) -> ExportRoot | None:
        """The root with that id, if this host sees it."""
        return next((root for root in self.roots if root.id == root_id), None)

    @contextmanager
    def opened(self, folder: str | Path, *, create: bool) -> Iterator[int]:
        """A descriptor of ``folder``, opened below its root; made when it is missing and ``create`` is set. Raises Refused and TargetError."""
        root = self.of(folder)
        parts = PurePosixPath(folder).relative_to(root.path).parts
        with target_errors(f"opening {folder}"):
            descriptor = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for part in parts:
                    descriptor = _step(descriptor, part, create=create)
                yield descriptor
            finally:
                os.close(descriptor)


def _root(path: Path) -> ExportRoot:
    """Raises TargetError where the root cannot be used."""
    real = Path(os.path.realpath(path.expanduser()))
    with target_errors(f"preparing the export root {real}"):
        real.mkdir(parents=True, exist_ok=True, mode=_MODE)
        return ExportRoot(_root_id(real), real)


def _root_id(root: Path) -> str:
    """The id in the root's file, which is made when it is missing; of several processes that make it, one wins."""
    path = root / ROOT_ID_FILE
    descriptor, partial = -1, root / f"{ROOT_ID_FILE}.{secrets.token_hex(8)}"
    try:
        if not path.exists():
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            os.write(descriptor, f"{secrets.token_hex(16)}\n".encode())
            os.fsync(descriptor)
            with suppress(FileExistsError):  # another process was faster; its id counts
                os.link(partial, path)
        text = _read_id(path)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
            partial.unlink(missing_ok=True)
    if not _ID.fullmatch(text):
        raise TargetError(f"{path} holds no id", code=TARGET_DENIED, next_step=f"Remove {path}; it is made anew.")
    return text


def _read_id(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 64).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def _step(parent: int, name: str, *, create: bool) -> int:
    """One component further; closes ``parent``, also when it fails."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if create:
            with suppress(FileExistsError):  # the usual case; what it is, the next line finds out
                os.mkdir(name, _MODE, dir_fd=parent)
        child = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise TargetError(
                f"'{name}' in the output folder's path is a link or no folder", code=FOLDER_LINK
            ) from error
        raise
    os.close(parent)
    return child


def _outside(folder: str | Path, roots: Sequence[ExportRoot]) -> Refused:
    known = ", ".join(str(root.path) for root in roots) or "none"
    return Refused(f"{str(folder)[:300]} is not below an export root ({known})", code=OUTSIDE_ROOTS, key="export_roots")
