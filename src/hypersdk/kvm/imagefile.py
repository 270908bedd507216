"""An image gets its place in a local pool: shared blocks, another name, or a copy without its holes.

No file is ever replaced: a name is given by ``link``, which fails where it exists. Each step can be repeated and undone
after a kill, by the name of the partial file (which nobody else uses) and the image's inode number.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from hypersdk.errors import TargetError, register
from hypersdk.remedies import First, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import FILE_MODE, exists, open_regular, sync_folder, target_errors
from hypersdk.transfer.holes import runs
from hypersdk.units import MiB

NAME_IN_USE: Final = register(
    "name_in_use",
    "A file of that name came into the folder meanwhile. It is never replaced.",
    First("find out what made the file, and move it away"),
    Retry(),
)
_FICLONE: Final = 0x40049409
"""ioctl_ficlonerange(2)."""
_NO_CLONES: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}
)
_STEP: Final = 16 * MiB


def is_same_file_system(image: Path, folder: Path) -> bool:
    """Whether ``image`` can get a name in ``folder`` without a copy. Raises OSError."""
    return image.stat().st_dev == folder.stat().st_dev


def allocated_bytes(image: Path) -> int:
    """What the image takes on its file system, without its holes. Raises OSError."""
    return image.stat().st_blocks * 512


def clone(image: Path, partial: Path) -> bool:
    """Makes ``partial`` a file that shares the blocks of ``image`` until one of them is written. False where the file
    system cannot do that; ``partial`` does not exist then. Raises TargetError."""
    with target_errors(f"cloning {image.name}"):
        source, target = _opened(image, partial)
        try:
            fcntl.ioctl(target, _FICLONE, source)
            os.fsync(target)
        except OSError as error:
            partial.unlink()
            if error.errno in _NO_CLONES:
                return False
            raise
        finally:
            os.close(source)
            os.close(target)
    return True


def copy(image: Path, partial: Path, *, report: Callable[[int], None], cancel: CancelToken) -> None:
    """Copies ``image`` without its holes and syncs the copy. ``report`` gets the bytes copied. Raises TargetError,
    Cancelled; the copy is incomplete then."""
    with target_errors(f"copying {image.name}"):
        source, target = _opened(image, partial)
        try:
            done = 0
            size_bytes = os.fstat(source).st_size
            os.ftruncate(target, size_bytes)
            for run, is_data in runs(source, range(size_bytes)):
                for count in _copy_run(source, target, run) if is_data else ():
                    cancel.check()
                    done += count
                    report(done)
            os.fsync(target)
        finally:
            os.close(source)
            os.close(target)


def _copy_run(source: int, target: int, run: range) -> Iterator[int]:
    """Copies in the kernel, and yields the bytes of each step. copy_file_range(2) does not cross file systems of two
    kinds. What was read leaves the page cache."""
    os.lseek(target, run.start, os.SEEK_SET)
    while run:
        count = os.sendfile(target, source, run.start, min(_STEP, len(run)))
        if not count:
            raise OSError(errno.EIO, "the image became shorter")
        os.posix_fadvise(source, run.start, count, os.POSIX_FADV_DONTNEED)
        yield count
        run = run[count:]


def give_name(existing: Path, name: Path) -> None:
    """The file ``existing`` gets another name, durably, and keeps the one that it has. Raises TargetError
    ``name_in_use``."""
    with target_errors(f"naming {name.name}"):
        try:
            os.link(existing, name)
        except FileExistsError as error:
            raise TargetError(f"{name} exists", code=NAME_IN_USE, file=str(name)) from error
        sync_folder(name.parent)


def drop_name(path: Path) -> None:
    """Removes a name, durably; one that does not exist is no error. Raises TargetError."""
    with target_errors(f"removing {path.name}"):
        path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            sync_folder(path.parent)


def inode_of(path: Path) -> int | None:
    """The file's inode number; None where there is no file. Raises TargetError."""
    with target_errors(f"looking at {path.name}"):
        try:
            return path.lstat().st_ino
        except FileNotFoundError:
            return None


def may_write(folder: Path) -> bool:
    """Whether this process can make files in ``folder``."""
    return exists(folder) and os.access(folder, os.W_OK | os.X_OK)


def _opened(image: Path, partial: Path) -> tuple[int, int]:
    """Descriptors of both. A partial file that exists is of a killed run of ours: nobody else knows its name."""
    source = open_regular(image, follow=True)
    try:
        partial.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return source, os.open(partial, flags, FILE_MODE)
    except BaseException:
        os.close(source)
        raise
