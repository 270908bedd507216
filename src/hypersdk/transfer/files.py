"""Output files: opened without surprises, replaced in one step, durable before they are named, read back for their checksum.

A file grows as ``NAME.partial``; when it is whole it is synced, renamed and its folder synced. Whoever finds ``NAME`` finds all
of it, also after a power cut.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hypersdk.errors import NO_SPACE, TARGET_DENIED, TargetError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.holes import pieces

FILE_MODE: Final = 0o640
"""Images hold what the guest held: not for everybody to read. The group may, so that qemu can be let in."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a write fails with when more room makes it succeed."""

_BY_DESCRIPTOR: Final = ("/", "proc", "self", "fd")
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def shown_path(path: Path) -> Path:
    """``path`` as people know it: where it leads through an open descriptor of this process (``/proc/self/fd/7/disk.qcow2``), by the name that
    the folder behind it has."""
    if path.parts[:4] != _BY_DESCRIPTOR or len(path.parts) < 5:
        return path
    try:
        return Path(*path.parts[:5]).readlink().joinpath(*path.parts[5:])
    except OSError:  # closed already
        return path


def owned_like_folder(descriptor: int, folder: Path) -> None:
    """Gives a file that root has made to the owner of ``folder``: root looks after the state of a service that runs as another user."""
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
    """A descriptor to read and write ``path``: a new, empty file (what lay there is gone) or, not ``fresh``, the one that exists.

    A symbolic link in the place of the file is refused: the output goes where the user said. Raises TargetError.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with target_errors(f"opening {path.name}"):
        if not fresh:
            return os.open(path, flags)
        with suppress(FileNotFoundError):
            path.unlink()
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path, on_lost: Callable[[], None] | None = None) -> None:
    """Makes the content of ``path`` durable, whoever wrote it. A symbolic link is refused, and a FIFO not waited for.

    ``on_lost`` is called when the sync fails: the next one would succeed all the same.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError:
        if on_lost is not None:
            on_lost()
        raise
    finally:
        os.close(handle)


def publish(partial: Path, final: Path, on_lost: Callable[[], None] | None = None) -> None:
    """Gives a whole file its name: content durable first, then the name, then the name durable. Raises TargetError.

    ``on_lost`` is called when the content could not be made durable.
    """
    with target_errors(f"publishing {final.name}"):
        sync_file(partial, on_lost)
        partial.replace(final)
        sync_folder(final.parent)


def write_atomic(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Writes a small file in one step: a reader sees the old content or the new one, also after a power cut. Raises TargetError.

    One writer at a time. What a kill leaves in the middle of it, the next write of that file takes away.
    """
    new = path.with_name(f".{path.name.lstrip('.')[:100]}.new")
    handle = open_output(new, fresh=True)
    with target_errors(f"writing {path.name}"):
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sha256_of(
    path: Path, cancel: CancelToken, on_bytes: Callable[[int], None] | None = None, region: range | None = None
) -> str:
    """Hex SHA-256 of the file as it lies there, or of the ``region`` of its bytes; ``on_bytes`` hears how many more were read.

    Holes are hashed but not read (``transfer.holes``). Raises TargetError, also when the file ends before its region, and Cancelled.
    """
    digest = hashlib.sha256()
    with target_errors(f"reading {path.name} back"), open(path, "rb", buffering=0) as file:
        whole = region or range(os.fstat(file.fileno()).st_size)
        left = len(whole)
        for piece in pieces(file.fileno(), whole):
            cancel.check()
            digest.update(piece)
            left -= len(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    if left:
        raise TargetError(f"{path.name} ends {left} bytes before it should")
    return digest.hexdigest()
