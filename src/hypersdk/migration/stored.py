"""The files of a package as they are stored: in a folder, or in an archive. Opened without surprises, and watched for
changes.

::

    PooledFile   one regular file, never a device, pipe or folder       Stored    a name and a region of an open file
    FolderStore  names below one folder, no symbolic link on the way    Joined    chunks, one after another
    ArchiveStore the members of an OVA, packed with gzip or not

A disk may be in thousands of extents or chunks, and a process may have 1024 files open. So files are closed when others
are read, and opened again: that must be the same file then.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final, TypeAlias

from hypersdk.errors import BAD_FORMAT, IntegrityError, TargetError, register
from hypersdk.formats.image import ReadableFile
from hypersdk.formats.names import is_inner_path
from hypersdk.formats.ova import OvaMember
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.files import SYMBOLIC_LINK, NotRegularError, open_regular
from hypersdk.transfer.holes import pieces, runs
from hypersdk.units import MiB

UNREADABLE_INPUT: Final = register(
    "unreadable_input", "The input file cannot be opened.", "Check its path and permissions."
)
INPUT_NOT_A_FILE: Final = register(
    "input_not_a_file",
    "The input file, or a file that belongs to it, is a folder, a pipe, a socket or a device.",
    "Give a regular file. Copy a device to a file first.",
)
INPUT_CHANGED: Final = register(
    "input_changed",
    "A file changed while it was converted.",
    "Nothing was published.",
    "Wait until no program writes to the file, then convert it again.",
)

MAX_OPEN: Final = 128
_READ_STEP: Final = 4 * MiB
_ESCAPED: Final = re.compile("[\udc80-\udcff]")


@contextmanager
def input_errors() -> Iterator[None]:
    """Raises any OSError of the block as TargetError ``unreadable_input``."""
    try:
        yield
    except OSError as error:
        raise TargetError(f"the input cannot be read: {error.strerror}", code=UNREADABLE_INPUT) from error


_Stamp: TypeAlias = tuple[int, int, int, int]


def _stamp(fd: int) -> _Stamp:
    """The facts of a file that change when it is replaced or written to."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _changed(name: str) -> IntegrityError:
    return IntegrityError(f"'{name}' changed while it was converted", code=INPUT_CHANGED, file=name)


class PooledFile:
    """A regular file, which is opened when it is read."""

    def __init__(self, pool: Pool, reopen: Callable[[], int], name: str) -> None:
        self.name = name
        self._pool = pool
        self._reopen = reopen
        self._before: _Stamp | None = None
        with pool.lent(self) as fd:
            self._size = FdFile(fd).size()

    def open(self) -> int:
        """Opens the file. Raises IntegrityError ``input_changed`` unless it is the file that was opened first."""
        try:
            fd = self._reopen()
        except FileNotFoundError:
            if self._before is None:
                raise
            raise _changed(self.name) from None
        try:
            self._check(fd)
        except IntegrityError:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int) -> None:
        now = _stamp(fd)
        if self._before not in (None, now):
            raise _changed(self.name)
        self._before = now

    def check_unchanged(self) -> None:
        """Raises IntegrityError ``input_changed`` when the file was written to since it was opened."""
        with self._pool.lent(self) as fd:
            self._check(fd)

    def pread(self, length: int, offset: int) -> bytes:
        """See ReadableFile."""
        with self._pool.lent(self) as fd:
            return FdFile(fd).pread(length, offset)

    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self._size

    def data_runs(self) -> Iterator[range]:
        """Runs of bytes that may hold data; all else are holes."""
        with self._pool.lent(self) as fd:
            yield from (run for run, is_data in runs(fd, range(self._size)) if is_data)

    def pieces(self, region: range) -> Iterator[memoryview]:
        """The bytes of ``region``, see ``transfer.holes.pieces``."""
        with self._pool.lent(self) as fd:
            yield from pieces(fd, region)


class Pool:
    """The open descriptors of the files of one package: at most ``MAX_OPEN``, in addition to those in use at the
    moment. They are closed when ``stack`` ends. Thread-safe."""

    def __init__(self, stack: ExitStack) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[PooledFile, int] = OrderedDict()
        self._users: Counter[PooledFile] = Counter()
        stack.callback(self._close_all)

    @contextmanager
    def lent(self, file: PooledFile) -> Iterator[int]:
        """The descriptor of ``file``, which stays open during the block."""
        with self._lock:
            if file not in self._open:
                self._make_room()
                self._open[file] = file.open()
            self._open.move_to_end(file)
            self._users[file] += 1
            fd = self._open[file]
        try:
            yield fd
        finally:
            with self._lock:
                self._users[file] -= 1

    def _make_room(self) -> None:
        idle = [file for file in self._open if not self._users[file]]
        for file in idle[: max(0, len(self._open) - MAX_OPEN + 1)]:
            os.close(self._open.pop(file))
            del self._users[file]

    def _close_all(self) -> None:
        for fd in self._open.values():
            os.close(fd)


def shown_name(path: str) -> str:
    """``path`` for users: bytes that are not text become U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


def open_input(path: str | Path, name: str, *, folder: int | None = None, follow: bool = True) -> int:
    """A descriptor of the regular file ``path``. Below the open ``folder``, if given, and without ``follow``, it must
    not be a symbolic link.

    Raises FileNotFoundError, TargetError ``input_not_a_file`` or ``unreadable_input``, IntegrityError for a link.
    """
    try:
        return open_regular(path, folder=folder, follow=follow and folder is None)
    except FileNotFoundError:
        raise
    except NotRegularError as error:
        if error.kind == SYMBOLIC_LINK:
            raise _link(name) from error
        raise TargetError(f"'{name}' is {error.kind}, not a regular file", code=INPUT_NOT_A_FILE, file=name) from error
    except OSError as error:
        raise TargetError(f"'{name}' cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error


def _link(name: str) -> IntegrityError:
    return IntegrityError(f"'{name}' is a symbolic link", code=BAD_FORMAT)


class Stored:
    """One file of the package: a region of an open file, or of the content of a gzip file.

    Reads end at the end of the region, so that a member never shows the next one.
    """

    def __init__(self, name: str, file: ReadableFile, start: int, length: int) -> None:
        self.name = name
        self._file = file
        self._start = start
        self._length = length

    def pread(self, length: int, offset: int) -> bytes:
        """See ReadableFile."""
        return self._file.pread(max(0, min(length, self._length - offset)), self._start + offset)

    def size(self) -> int:
        """Bytes of the file."""
        return self._length

    def pieces(self) -> Iterator[bytes | memoryview]:
        """All of its bytes, in order. Raises OSError."""
        if isinstance(self._file, PooledFile):
            yield from self._file.pieces(range(self._start, self._start + self._length))
            return
        for at in range(0, self._length, _READ_STEP):
            yield self.pread(_READ_STEP, at)


class Joined:
    """Several files, read as one."""

    def __init__(self, parts: Sequence[ReadableFile]) -> None:
        self._parts = parts
        self._starts = list(accumulate((part.size() for part in parts), initial=0))
        self._size = self._starts.pop()

    def pread(self, length: int, offset: int) -> bytes:
        """See ReadableFile."""
        found = []
        end = min(offset + length, self._size)
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            data = self._parts[number].pread(end - offset, offset - self._starts[number])
            if not data:
                break  # truncated since it was opened; the reader notices
            found.append(data)
            offset += len(data)
        return b"".join(found)

    def size(self) -> int:
        """Bytes of all parts."""
        return self._size


class FolderStore:
    """Files in one folder and below. The folder is opened once, so that files are looked up in the same folder even
    when it is renamed."""

    def __init__(self, stack: ExitStack, pool: Pool, folder: Path) -> None:
        self._pool = pool
        self._files: list[PooledFile] = []
        try:
            self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TargetError(f"{folder} cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error
        stack.callback(os.close, self._folder)

    def open(self, path: str) -> Stored | None:
        """The file of that path below the folder; None where there is none. No part of the path may be a symbolic link.

        Raises IntegrityError for a path that leads elsewhere, TargetError for what cannot be read.
        """
        if not is_inner_path(_ESCAPED.sub("?", path)):
            raise IntegrityError(f"a descriptor names {path!r}, which is not a file beside it", code=BAD_FORMAT)
        shown = shown_name(path)
        try:
            file = PooledFile(self._pool, partial(self._open, path, shown), shown)
        except FileNotFoundError:
            return None
        return self.adopt(file)

    def adopt(self, file: PooledFile) -> Stored:
        """Adds ``file`` to the files of the package."""
        self._files.append(file)
        return Stored(file.name, file, 0, file.size())

    def _open(self, path: str, shown: str) -> int:
        *folders, name = path.split("/")
        with ExitStack() as on_the_way:
            return open_input(name, shown, folder=self._enter(on_the_way, folders))

    def _enter(self, stack: ExitStack, folders: Sequence[str]) -> int:
        here = self._folder
        for name in folders:
            mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise _link(name)
            if not stat.S_ISDIR(mode):
                raise FileNotFoundError(name)
            with input_errors():
                here = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            stack.callback(os.close, here)
        return here

    def manifests(self, folder: str) -> list[str]:
        """Paths of the ``.mf`` files in ``folder``, which is the root (empty): the descriptor is in it. Raises
        TargetError where it cannot be listed."""
        assert not folder
        with input_errors():
            listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                with os.scandir(listed) as entries:
                    return sorted(entry.name for entry in entries if _is_mf(entry.name))
            finally:
                os.close(listed)

    def check_unchanged(self) -> None:
        """Raises IntegrityError ``input_changed`` when a file changed since it was opened."""
        for file in self._files:
            file.check_unchanged()


class ArchiveStore:
    """The members of an archive. ``content`` contains them: the archive itself, or what it contains when it is
    compressed."""

    def __init__(self, archive: PooledFile, content: ReadableFile, members: Iterable[OvaMember]) -> None:
        self._archive = archive
        self._content = content
        self._members: Mapping[str, OvaMember] = {member.name: member for member in members}

    def open(self, path: str) -> Stored | None:
        """See FolderStore."""
        member = self._members.get(path)
        return None if member is None else Stored(member.name, self._content, member.offset, member.size)

    def manifests(self, folder: str) -> list[str]:
        """See FolderStore."""
        return sorted(name for name in self._members if _is_mf(name) and name.rpartition("/")[0] == folder)

    def check_unchanged(self) -> None:
        """See FolderStore."""
        self._archive.check_unchanged()


Store: TypeAlias = FolderStore | ArchiveStore
"""Where the files of a package are."""


def _is_mf(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(".mf") and not name.startswith(".")
