"""Export roots: the only places that jobs may write to.

Each root holds a file with an id of its own, so that workers on several hosts can say which roots they see: the same
share may be mounted elsewhere under the same path. Folders of jobs are opened below the root's descriptor, component by
component, following no symbolic link: what a job writes to cannot be turned elsewhere by whoever may write in the root.

Whose word counts for the id depends on who may write in the root::

    everybody (/tmp)        .hypersdk-root-UID   ours or root's, and nobody else may write it; each user's daemon has
                                                 an id of its own
    owner, or a group too   .hypersdk-root       one for all hosts; whoever made it, for those who may write here are
                                                 trusted with the images already. Not writable by everybody, nor by a
                                                 group that the root is not

In the second case the owner is not looked at: the packaged service may run under another uid on each host, and a file
server may show another owner than the one who wrote. A root whose file is neither is left out: the daemon starts
without it, says why, and refuses jobs that would write there. The same goes for a root that cannot be made or opened.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from hypersdk.errors import Refused, TargetError, register
from hypersdk.transfer.files import target_errors

LOG: Final = logging.getLogger(__name__)
OUTSIDE_ROOTS: Final = register(
    "outside_export_roots",
    "Jobs may only write below the daemon's export roots.",
    "Choose a folder below one of them, or add its root to `export_roots` in the daemon's configuration.",
)
FOLDER_LINK: Final = register(
    "folder_is_link",
    "A part of the output folder's path is a symbolic link or not a folder; the daemon follows no links below an"
    " export root.",
    "Name the real folder, or remove the link.",
)
ROOT_LEFT_OUT: Final = register(
    "export_root_left_out",
    "The daemon cannot use this export root, for the reason given, and disabled it at its start.",
    "Fix the cause and restart the daemon, or choose a folder below another root.",
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
    """The roots of this host, by configuration; their ids are made where they have none. Raises TargetError where not
    one can be used.

    ``left_out`` holds those that cannot be used, each with the reason.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        found: list[ExportRoot] = []
        failures: dict[Path, TargetError] = {}
        for path in paths:
            real = Path(os.path.realpath(path.expanduser()))
            try:
                found.append(_root(real))
            except TargetError as error:
                failures[real] = error
        if failures and not found:
            raise next(iter(failures.values()))
        for real, failure in failures.items():
            LOG.warning("the export root %s is left out, jobs into it are refused: %s", real, failure.message)
        self.roots: Final = tuple(sorted(found, key=lambda root: len(root.path.parts), reverse=True))
        self.left_out: Final = {real: failure.message for real, failure in failures.items()}

    @property
    def ids(self) -> list[str]:
        """Ids of all roots."""
        return sorted({root.id for root in self.roots})

    def of(self, folder: str | Path) -> ExportRoot:
        """The root that ``folder`` lies in, by its text alone. Raises Refused ``outside_export_roots`` or
        ``export_root_left_out``."""
        path = PurePosixPath(folder)
        if not path.is_absolute() or ".." in path.parts or "\0" in str(folder):
            raise _outside(folder, self.roots)
        root = next((root for root in self.roots if path.is_relative_to(root.path)), None)
        for real, reason in self.left_out.items():
            # One that lies inside of a good root is no part of it; a good root inside of it goes on.
            if path.is_relative_to(real) and (root is None or real.is_relative_to(root.path)):
                raise _left_out(folder, real, reason)
        if root is None:
            raise _outside(folder, self.roots)
        return root

    def by_id(self, root_id: str) -> ExportRoot | None:
        """The root with that id, if this host sees it."""
        return next((root for root in self.roots if root.id == root_id), None)

    @contextmanager
    def opened(self, folder: str | Path, *, create: bool) -> Iterator[int]:
        """A descriptor of ``folder``, opened below its root; made when it is missing and ``create`` is set. Raises
        Refused and TargetError."""
        root = self.of(folder)
        parts = PurePosixPath(folder).relative_to(root.path).parts
        with target_errors(f"opening {folder}"):
            descriptor = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for part in parts:
                    descriptor = _step(descriptor, part, create=create)
                yield descriptor
            finally:
                os.close(descriptor)

    def locate(self, folder: Path) -> os.stat_result | None:
        """What ``folder`` is now, found as ``opened`` finds it; None where there is no folder, or a link in its place.
        Raises TargetError."""
        try:
            with self.opened(folder, create=False) as descriptor:
                return os.fstat(descriptor)
        except TargetError as error:
            if error.code == FOLDER_LINK or error.fields.get("errno") in ("ENOENT", "ENOTDIR", "ELOOP"):
                return None
            raise


def _root(real: Path) -> ExportRoot:
    """Raises TargetError where the root cannot be used."""
    with target_errors(f"preparing the export root {real}"):
        real.mkdir(parents=True, exist_ok=True, mode=_MODE)
        folder = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return ExportRoot(_root_id(real, folder), real)
        finally:
            os.close(folder)


def id_file_name(folder: os.stat_result) -> str:
    """The name of the id's file in a folder of that kind."""
    return f"{ROOT_ID_FILE}-{os.geteuid()}" if folder.st_mode & stat.S_IWOTH else ROOT_ID_FILE


def _root_id(root: Path, folder: int) -> str:
    """The id in the root's file, which is made when it is missing; of several processes that make it, one wins."""
    kind = os.fstat(folder)
    name = id_file_name(kind)
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        _make(name, folder)
    text = _read_id(root / name, name, folder, kind)
    if not _ID.fullmatch(text):
        raise _not_ours(root / name, "holds no id")
    return text


def _make(name: str, folder: int) -> None:
    partial = f"{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o644, dir_fd=folder)
    try:
        os.fchmod(
            descriptor, 0o644
        )  # whatever the umask: the same service may read it under another uid, and it is no secret
        os.write(descriptor, f"{secrets.token_hex(16)}\n".encode())
        os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was faster; its id counts
            os.link(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)


def _read_id(path: Path, name: str, folder: int, kind: os.stat_result) -> str:
    try:
        # Not blocking: a FIFO in its place must not hang us. It is judged by its descriptor, so nothing can be put
        # there in between.
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=folder
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise _not_ours(path, "is not a regular file") from error
        raise
    try:
        if why := _distrust(os.fstat(descriptor), kind):
            raise _not_ours(path, why)
        return os.read(descriptor, 64).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def _distrust(found: os.stat_result, folder: os.stat_result) -> str:
    """Why the id in a file is not taken; empty where it is. The rule stands at the top of this module."""
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if folder.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {found.st_uid})"
    trusted_group = not folder.st_mode & stat.S_IWOTH and folder.st_mode & stat.S_IWGRP
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not trusted_group):
        return "can be written by others"
    return ""


def _not_ours(path: Path, why: str) -> TargetError:
    return TargetError(
        f"{path}, which names the export root, {why}",
        code=ROOT_LEFT_OUT,
        next_step=f"Remove {path} and restart the daemon; it is made anew.",
    )


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


def _left_out(folder: str | Path, root: Path, reason: str) -> Refused:
    message = f"{str(folder)[:300]} is below the export root {root}, which the daemon left out at its start: {reason}"
    return Refused(message, code=ROOT_LEFT_OUT, key="export_roots")
