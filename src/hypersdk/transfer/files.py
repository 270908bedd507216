"""Output files: opened without surprises, replaced in one step, durable before they are named, read back for their
checksum.

A file grows as ``NAME.partial``; when it is whole it is synced, renamed and its folder synced. Whoever finds ``NAME``
finds all of it, also after a power cut.

A name may be given to another file at any time, so a file that was written is held by its descriptor until it has its
final name. As long as it is open, no other file has its inode number, and ``has_name`` can tell the two apart.
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
"""What a write fails with when more room makes it succeed."""

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
    """``path`` as people know it: where it leads through an open descriptor of this process
    (``/proc/self/fd/7/disk.qcow2``), by the name that the folder behind it has."""
    if path.parts[:4] != _BY_DESCRIPTOR or len(path.parts) < 5:
        return path
    try:
        return Path(*path.parts[:5]).readlink().joinpath(*path.parts[5:])
    except OSError:  # closed already
        return path


def owned_like_folder(descriptor: int, folder: Path) -> None:
    """Gives a file that root has made to the owner of ``folder``: root maintains the state of a service that runs as
    another user."""
    if os.geteuid() == 0:
        owner, now = folder.stat(), os.fstat(descriptor)
        if (now.st_uid, now.st_gid) != (owner.st_uid, owner.st_gid):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def target_error(error: OSError, doing: str) -> TargetError:
    """``error`` in the user's terms. ``doing`` names the work and the file: ``writing disk-1.qcow2``."""
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


def open_output(path: Path, *, fresh: bool) -> int:
    """A descriptor to read and write ``path``: a new, empty file (what lay there is gone) or, not ``fresh``, the one
    that exists.

    A symbolic link in the place of the file is refused, and so is whatever is no regular file: the output goes where
    the user said. Raises TargetError.
    """
    with target_errors(f"opening {path.name}"):
        if not fresh:
            return open_regular(path, os.O_RDWR)
        with suppress(FileNotFoundError):
            path.unlink()
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, FILE_MODE)


class NotRegularError(OSError):
    """Something else than a regular file; ``kind`` is what, for people: ``a pipe``."""

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
    """A descriptor of the regular file ``path``, below the open ``folder`` where one is given; no link in its place is
    followed, but with ``follow``.

    What it is is asked before it is opened, because opening a device may do something, and again afterwards. A FIFO is
    not waited for. ``mode`` is that of a file that ``flags`` have made. Raises NotRegularError, and any other OSError.
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
    """Whether ``path`` still leads to the open file, itself and not through a link. Raises TargetError."""
    with target_errors(f"looking at {path.name}"):
        try:
            return os.path.samestat(os.fstat(descriptor), path.lstat())
        except FileNotFoundError:
            return False


def check_name(descriptor: int, path: Path) -> None:
    """Raises TargetError ``output_replaced`` where ``path`` is not the open file any more."""
    if not has_name(descriptor, path):
        raise TargetError(
            f"'{path.name}' in {shown_path(path.parent)} is not the file that this run wrote", code=OUTPUT_REPLACED
        )


def remove_own(descriptor: int, path: Path) -> None:
    """Removes ``path`` where it is the open file; another's is left alone. Raises TargetError."""
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
    """Gives the finished file ``descriptor`` its name: first its content is made durable, then the new name. Raises
    TargetError, ``output_replaced`` where another file has the name ``partial`` by now: that one keeps it.

    ``on_lost`` is called when the content could not be made durable: the next sync would succeed all the same.
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
    """Renames the open file. A rename goes by names, so what it moved is looked at: another's file gets its name
    back."""
    old.replace(new)
    if has_name(descriptor, new):
        return
    with suppress(OSError):  # taken again already, by whoever plays with these names
        os.link(new, old, follow_symlinks=False)
        new.unlink()
    check_name(descriptor, new)


def new_path(path: Path) -> Path:
    """Where ``write_atomic`` writes before ``path`` is replaced."""
    return path.with_name(f".{path.name.lstrip('.')[:100]}.new")


def write_atomic(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Writes a small file in one step: a reader sees the old content or the new one, also after a power cut. Raises
    TargetError.

    One writer at a time. What a kill leaves in the middle of it, the next write of that file takes away.
    """
    os.close(write_held(path, data, mode))


def write_held(path: Path, data: bytes, mode: int = FILE_MODE, check: Callable[[], None] | None = None) -> int:
    """``write_atomic``, and the descriptor of the file, which the caller closes. ``check`` raises where the name is not
    to be given after all."""
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
        raise TargetError(f"{name} ends {left} bytes before it should")
    return digest.hexdigest()
