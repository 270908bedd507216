"""Output files: opened safely, replaced atomically, synced before they are renamed, read back for their checksum.

A file is written as ``NAME.partial``; when it is complete it is synced, renamed and its folder synced. So ``NAME`` is
always a complete file, also after a power cut.

Another process may give the name to another file at any time, so the descriptor of a written file stays open until it
has its final name. As long as it is open, no other file has its inode number, and ``has_name`` can tell the two apart.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from hypersdk.errors import NO_SPACE, TARGET_DENIED, TargetError, register
from hypersdk.remedies import First, Resume
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.holes import pieces

FILE_MODE: Final = 0o640
"""Images hold the guest's data: others may not read them. The group may, so that qemu can be given access."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a write that succeeds once there is more space."""

OUTPUT_REPLACED: Final = register(
    "output_replaced",
    "Another process replaced, moved or removed a file of this run. Only this run's own files were published.",
    First("find out what writes to the output folder"),
    Resume(),
)
SYMBOLIC_LINK: Final = "a symbolic link"
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"), (stat.S_ISLNK, SYMBOLIC_LINK),
)  # fmt: skip
_BY_DESCRIPTOR: Final = ("/", "proc", "self", "fd")
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def shown_path(path: Path) -> Path:
    """Returns ``path`` as users know it: for a path through an open descriptor of this process
    (``/proc/self/fd/7/disk.qcow2``), with the name of that folder."""
    if path.parts[:4] != _BY_DESCRIPTOR or len(path.parts) < 5:
        return path
    try:
        return Path(*path.parts[:5]).readlink().joinpath(*path.parts[5:])
    except OSError:  # closed already
        return path


def owned_like_folder(descriptor: int, folder: Path) -> None:
    """Changes the owner of a file that root created to that of ``folder``: root may maintain the state of a service
    that runs as another user."""
    if os.geteuid() == 0:
        owner, now = folder.stat(), os.fstat(descriptor)
        if (now.st_uid, now.st_gid) != (owner.st_uid, owner.st_gid):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def target_error(error: OSError, doing: str) -> TargetError:
    """Returns ``error`` as a TargetError. ``doing`` names action and file: ``writing disk-1.qcow2``."""
    number = error.errno or 0
    reason = os.strerror(number) if number else str(error)
    code = NO_SPACE if number in FULL else TARGET_DENIED if number in _DENIED else None
    return TargetError(f"{doing} failed: {reason}", code=code, cause=f"{reason}.", errno=errno.errorcode.get(number))


@contextmanager
def target_errors(doing: str) -> Iterator[None]:
    """Raises any OSError of the block as TargetError."""
    try:
        yield
    except OSError as error:
        raise target_error(error, doing) from error


def exists(path: Path, *, follow_links: bool = True) -> bool:
    """Whether the path exists; False, not an error, where that cannot be known (no permission, a name that is too
    long): opening it says why."""
    try:
        path.stat(follow_symlinks=follow_links)
    except (OSError, ValueError):
        return False
    return True


def is_folder(path: Path) -> bool:
    """The same for folders."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def open_output(path: Path, *, fresh: bool) -> int:
    """Opens ``path`` for reading and writing: a new, empty file that replaces an old one or, not ``fresh``, the
    existing file.

    A symbolic link and anything but a regular file is refused: the output must be where the user said. Raises
    TargetError.
    """
    with target_errors(f"opening {path.name}"):
        if not fresh:
            return open_regular(path, os.O_RDWR)
        with suppress(FileNotFoundError):
            path.unlink()
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, FILE_MODE)


class NotRegularError(OSError):
    """The path is not a regular file; ``kind`` says what it is: ``a pipe``."""

    def __init__(self, mode: int) -> None:
        self.kind: Final = next((words for test, words in _KINDS if test(mode)), "something else")
        super().__init__(f"it is {self.kind}, not a regular file")


def open_regular(
    path: str | Path,
    flags: int = os.O_RDONLY,
    *,
    folder: int | None = None,
    follow: bool = False,
    mode: int = FILE_MODE,
) -> int:
    """Opens the regular file ``path``, relative to the open ``folder`` where one is given. A symbolic link is only
    followed with ``follow``.

    The type is checked before the file is opened, because opening a device may have effects, and again afterwards. A
    FIFO does not block. ``mode`` is for a file that ``flags`` create. Raises NotRegularError, and any other OSError.
    """
    with nullcontext() if not flags & os.O_CREAT else suppress(FileNotFoundError):
        _require_regular(os.stat(path, dir_fd=folder, follow_symlinks=follow))
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, mode, dir_fd=folder)
    try:
        _require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotRegularError(found.st_mode)


def has_name(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the open file, and not a link to it. Raises TargetError."""
    with target_errors(f"checking {path.name}"):
        try:
            return os.path.samestat(os.fstat(descriptor), path.lstat())
        except FileNotFoundError:
            return False


def check_name(descriptor: int, path: Path) -> None:
    """Raises TargetError ``output_replaced`` where ``path`` is no longer the open file."""
    if not has_name(descriptor, path):
        raise TargetError(
            f"'{path.name}' in {shown_path(path.parent)} is not the file that this run wrote", code=OUTPUT_REPLACED
        )


def remove_own(descriptor: int, path: Path) -> None:
    """Removes ``path`` where it is the open file; another file is left alone. Raises TargetError."""
    if has_name(descriptor, path):
        with target_errors(f"removing {path.name}"):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(descriptor: int, partial: Path, final: Path, on_lost: Callable[[], None] | None = None) -> None:
    """Syncs the finished file ``descriptor``, renames it from ``partial`` to ``final`` and syncs the folder. Raises
    TargetError, ``output_replaced`` where another file has the name ``partial`` by now: that one is not renamed.

    ``on_lost`` is called when the content could not be synced: the next sync would succeed although data is lost.
    """
    with target_errors(f"publishing {final.name}"):
        try:
            os.fsync(descriptor)
        except OSError:
            if on_lost is not None:
                on_lost()
            raise
        check_name(descriptor, partial)
        _rename_own(descriptor, partial, final)
        sync_folder(final.parent)


def _rename_own(descriptor: int, old: Path, new: Path) -> None:
    """Renames the open file. A rename goes by names, so the result is checked: another file gets its old name
    again."""
    old.replace(new)
    if has_name(descriptor, new):
        return
    with suppress(OSError):  # another process uses these names too
        os.link(new, old, follow_symlinks=False)
        new.unlink()
    check_name(descriptor, new)


def new_path(path: Path) -> Path:
    """The temporary file of ``write_atomic`` for ``path``."""
    return path.with_name(f".{path.name.lstrip('.')[:100]}.new")


def write_atomic(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Writes a small file atomically: a reader sees the old content or the new one, also after a power cut. Raises
    TargetError.

    One writer at a time. A temporary file that a killed process left is replaced by the next write.
    """
    os.close(write_held(path, data, mode))


def write_held(path: Path, data: bytes, mode: int = FILE_MODE, check: Callable[[], None] | None = None) -> int:
    """Like ``write_atomic``, and returns the descriptor of the file, which the caller closes. ``check`` is called
    before the file gets its name, and may raise."""
    new = new_path(path)
    handle = open_output(new, fresh=True)
    try:
        with target_errors(f"writing {path.name}"):
            with open(handle, "wb", closefd=False) as file:
                file.write(data)
            os.fchmod(handle, mode)
            os.fsync(handle)
            if check is not None:
                check()
            check_name(handle, new)
            _rename_own(handle, new, path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(TargetError):
            remove_own(handle, new)
        os.close(handle)
        raise
    return handle


def sha256_of(
    descriptor: int,
    name: str,
    cancel: CancelToken,
    on_bytes: Callable[[int], None] | None = None,
    region: range | None = None,
) -> str:
    """Hex SHA-256 of the open file ``name``, or of the ``region`` of its bytes; ``on_bytes`` gets how many more were
    read.

    Holes are hashed but not read (``transfer.holes``). Raises TargetError, also when the file ends before its region,
    and Cancelled.
    """
    digest = hashlib.sha256()
    with target_errors(f"reading {name} back"):
        whole = region or range(os.fstat(descriptor).st_size)
        left = len(whole)
        for piece in pieces(descriptor, whole):
            cancel.check()
            digest.update(piece)
            left -= len(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    if left:
        raise TargetError(f"{name} is {left} bytes shorter than expected")
    return digest.hexdigest()
