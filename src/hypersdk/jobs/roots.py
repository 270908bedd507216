"""Export roots: the only folders that jobs may write to.

Each root holds a file with an id, by which workers on several hosts state the roots that they have access to: the same
path may be another file system elsewhere. Folders of jobs are opened below the root's descriptor, component by
component, without following symbolic links: nobody who may write in the root can redirect what a job writes.

Which id file is trusted depends on who may write in the root::

    everybody (/tmp)        .hypersdk-root-UID   owned by us or root, and writable by nobody else: each user's daemon
                                                 has an id of its own
    owner, or a group too   .hypersdk-root       one for all hosts, of any owner: those who may write here may change
                                                 the images anyway. Not writable by everybody, nor by a group that may
                                                 not write in the root

In the second case the owner does not matter: the packaged service may run under another uid on each host, and a file
server may show another owner. A root whose id file is not trusted is left out: the daemon starts without it, logs why,
and refuses jobs that would write there. The same goes for a root that cannot be created or opened.
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
OUTSIDE_IMPORT_ROOTS: Final = register(
    "outside_import_roots",
    "Imports may only read below the daemon's import roots and export roots.",
    "Move the file below one of them, or add its folder to `import_roots` in the daemon's configuration.",
)
ROOT_ID_FILE: Final = ".hypersdk-root"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_MODE: Final = 0o751
"""Others may enter: QEMU's user must reach the images that a landed machine uses. They may not list, and the files have
no permission for them."""


@dataclass(frozen=True, slots=True)
class ExportRoot:
    """One root of this host. ``path`` is absolute and free of symbolic links."""

    id: str
    path: Path


class ExportRoots:
    """The configured roots of this host; missing ids are created. Raises TargetError if none can be used.

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
            LOG.warning(
                "the export root %s is left out, and jobs that write there are refused: %s", real, failure.message
            )
        self.roots: Final = tuple(sorted(found, key=lambda root: len(root.path.parts), reverse=True))
        self.left_out: Final = {real: failure.message for real, failure in failures.items()}

    @property
    def ids(self) -> list[str]:
        """Ids of all roots."""
        return sorted({root.id for root in self.roots})

    def of(self, folder: str | Path) -> ExportRoot:
        """The root that ``folder`` is below, judged by the path alone. Raises Refused ``outside_export_roots`` or
        ``export_root_left_out``."""
        path, root = PurePosixPath(folder), None
        if path.is_absolute() and ".." not in path.parts and "\0" not in str(folder):
            root = next((root for root in self.roots if path.is_relative_to(root.path)), None)
            for real, reason in self.left_out.items():
                # One that lies inside of a good root is no part of it; a good root inside of it is used.
                if path.is_relative_to(real) and (root is None or real.is_relative_to(root.path)):
                    message = (
                        f"{str(folder)[:300]} is below the export root {real}, which the daemon left out: {reason}"
                    )
                    raise Refused(message, code=ROOT_LEFT_OUT, key="export_roots")
        if root is None:
            known = ", ".join(str(root.path) for root in self.roots) or "none"
            message = f"{str(folder)[:300]} is not below an export root ({known})"
            raise Refused(message, code=OUTSIDE_ROOTS, key="export_roots")
        return root

    def by_id(self, root_id: str) -> ExportRoot | None:
        """The root with that id, if this host has it."""
        return next((root for root in self.roots if root.id == root_id), None)

    @contextmanager
    def opened(self, folder: str | Path, *, create: bool) -> Iterator[int]:
        """A descriptor of ``folder``, opened below its root. With ``create``, a missing folder is created. Raises
        Refused and TargetError."""
        with _opened(self.of(folder).path, folder, create=create) as descriptor:
            yield descriptor

    def locate(self, folder: Path) -> os.stat_result | None:
        """The status of ``folder``, opened as by ``opened``; None if it is missing or a link. Raises TargetError."""
        try:
            with self.opened(folder, create=False) as descriptor:
                return os.fstat(descriptor)
        except TargetError as error:
            if error.code == FOLDER_LINK or error.fields.get("errno") in ("ENOENT", "ENOTDIR", "ELOOP"):
                return None
            raise


class ImportRoots:
    """The folders below which imports may read: ``paths``, and the export roots."""

    def __init__(self, paths: Sequence[Path], exports: ExportRoots) -> None:
        real = [Path(os.path.realpath(path.expanduser())) for path in paths]
        self._roots = [*real, *(root.path for root in exports.roots)]

    def of(self, file: str) -> Path:
        """The root that ``file`` is below, judged by the path alone. Raises Refused ``outside_import_roots``."""
        path = PurePosixPath(file)
        if path.is_absolute() and ".." not in path.parts and "\0" not in file:
            for root in self._roots:
                if path.is_relative_to(root) and path != PurePosixPath(root):
                    return root
        known = ", ".join(map(str, self._roots))
        message = f"{file[:300]} is not below an import root or export root ({known})"
        raise Refused(message, code=OUTSIDE_IMPORT_ROOTS, key="import_roots")

    @contextmanager
    def opened(self, file: str) -> Iterator[Path]:
        """A path of ``file`` by the descriptor of its folder, opened below the root. Whether ``file`` itself is a link
        is not checked. Raises Refused and TargetError."""
        root, path = self.of(file), PurePosixPath(file)
        with _opened(root, path.parent, create=False) as descriptor:
            yield Path(f"/proc/self/fd/{descriptor}", path.name)


@contextmanager
def _opened(root: Path, folder: str | os.PathLike[str], *, create: bool) -> Iterator[int]:
    parts = PurePosixPath(folder).relative_to(root).parts
    with target_errors(f"opening {folder}"):
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for part in parts:
                descriptor = _step(descriptor, part, create=create)
            yield descriptor
        finally:
            os.close(descriptor)


def _root(real: Path) -> ExportRoot:
    """Raises TargetError if the root cannot be used."""
    with target_errors(f"preparing the export root {real}"):
        real.mkdir(parents=True, exist_ok=True, mode=_MODE)
        folder = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return ExportRoot(_root_id(real, folder), real)
        finally:
            os.close(folder)


def _root_id(root: Path, folder: int) -> str:
    """The id in the root's file. A missing file is created; of several processes that do so, one wins."""
    kind = os.fstat(folder)
    name = f"{ROOT_ID_FILE}-{os.geteuid()}" if kind.st_mode & stat.S_IWOTH else ROOT_ID_FILE
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
        os.fchmod(descriptor, 0o644)  # whatever the umask: the service may read it under another uid
        os.write(descriptor, f"{secrets.token_hex(16)}\n".encode())
        os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was faster
            os.link(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)


def _read_id(path: Path, name: str, folder: int, kind: os.stat_result) -> str:
    try:
        # Not blocking, in case it is a FIFO. It is checked by its descriptor, so it cannot be replaced in between.
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
    """Why an id file is not trusted, or empty; see the top of this module."""
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
        next_step=f"Remove {path} and restart the daemon, which creates it again.",
    )


def _step(parent: int, name: str, *, create: bool) -> int:
    """Opens the folder ``name`` in ``parent``, which is closed in any case."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        made = create and _made(parent, name)
        child = os.open(name, flags, dir_fd=parent)
        if made:
            # Whatever the umask. Not on a share where all is its server's: a landing there says what it lacks.
            with suppress(PermissionError):
                os.fchmod(child, stat.S_IMODE(os.fstat(child).st_mode) | stat.S_IXOTH)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise TargetError(
                f"'{name}' in the output folder's path is a link or not a folder", code=FOLDER_LINK
            ) from error
        raise
    os.close(parent)
    return child


def _made(parent: int, name: str) -> bool:
    """Creates the folder ``name`` in ``parent``; False where that name is taken."""
    try:
        os.mkdir(name, _MODE, dir_fd=parent)
    except FileExistsError:
        return False
    return True
