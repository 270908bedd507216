"""The files of a package as they are stored: in a folder, or in an archive. Opened without surprises, and watched for changes.

::

    OpenFile     one regular file, never a device, pipe or folder       Stored    a name and a region of an open file
    FolderStore  names below one folder, no symbolic link on the way    Joined    chunks, one after another
    ArchiveStore the members of an OVA, packed with gzip or not
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

from hypersdk.errors import BAD_FORMAT, IntegrityError, TargetError, register
from hypersdk.formats.image import ReadableFile
from hypersdk.formats.names import is_inner_path
from hypersdk.formats.ova import OvaMember
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.holes import pieces
from hypersdk.units import MiB

UNREADABLE_INPUT: Final = register(
    "unreadable_input", "The file to convert cannot be opened.", "Check its path and permissions."
)
INPUT_NOT_A_FILE: Final = register(
    "input_not_a_file",
    "What is to be converted, or a file that belongs to it, is a folder, a pipe, a socket or a device.",
    "Give a regular file. Copy a device into one first.",
)
INPUT_CHANGED: Final = register(
    "input_changed",
    "A file changed while it was converted.",
    "Nothing was published. Wait until nobody writes to the file, then run it again.",
)

_READ_STEP: Final = 4 * MiB
_ESCAPED: Final = re.compile("[\udc80-\udcff]")
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"), (stat.S_ISLNK, "a symbolic link"),
)  # fmt: skip


@contextmanager
def input_errors() -> Iterator[None]:
    """Raises any OSError of the block as TargetError ``unreadable_input``."""
    try:
        yield
    except OSError as error:
        raise TargetError(f"the input cannot be read: {error.strerror}", code=UNREADABLE_INPUT) from error


class OpenFile(FdFile):
    """A regular file, open for reading until ``stack`` ends."""

    def __init__(self, stack: ExitStack, fd: int, name: str) -> None:
        stack.callback(os.close, fd)
        super().__init__(fd)
        self.name = name
        self._descriptor = fd
        self._before = self._stamp()

    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def check_unchanged(self) -> None:
        """Raises IntegrityError ``input_changed`` when somebody wrote to the file since it was opened."""
        if self._stamp() != self._before:
            raise IntegrityError(f"'{self.name}' changed while it was converted", code=INPUT_CHANGED, file=self.name)

    def pieces(self, region: range) -> Iterator[memoryview]:
        """The bytes of ``region``, see ``transfer.holes.pieces``."""
        return pieces(self._descriptor, region)


def open_regular(stack: ExitStack, path: str | Path, name: str, *, folder: int | None = None) -> OpenFile:
    """Opens ``path`` (below the open ``folder``, if given: then it must not be a symbolic link) if it is a regular file.

    What it is is asked before it is opened, because opening a device may do something, and again afterwards. A pipe is not waited for.
    Raises FileNotFoundError, TargetError ``input_not_a_file`` or ``unreadable_input``.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_NOFOLLOW if folder is not None else 0)
    try:
        _require_regular(os.stat(path, dir_fd=folder, follow_symlinks=folder is None).st_mode, name)
        fd = os.open(path, flags, dir_fd=folder)
        opened = OpenFile(stack, fd, name)
        _require_regular(os.fstat(fd).st_mode, name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TargetError(f"'{name}' cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error
    return opened


def _require_regular(mode: int, name: str) -> None:
    if stat.S_ISLNK(mode):
        raise IntegrityError(f"'{name}' is a symbolic link", code=BAD_FORMAT)
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in _KINDS if test(mode)), "not a file")
        raise TargetError(f"'{name}' is {kind}, not a regular file", code=INPUT_NOT_A_FILE, file=name)


class Stored:
    """One file of the package: ``size_bytes`` of an open file, or of what is inside a gzip file, from ``start`` on.

    Reads end at its end, so that a member never shows its neighbour.
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
        if isinstance(self._file, OpenFile):
            yield from self._file.pieces(range(self._start, self._start + self._length))
            return
        for at in range(0, self._length, _READ_STEP):
            yield self.pread(_READ_STEP, at)


class Joined:
    """Files one after another, read as one."""

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
                break  # cut short since it was opened; whoever reads notices
            found.append(data)
            offset += len(data)
        return b"".join(found)

    def size(self) -> int:
        """Bytes of all parts."""
        return self._size


class Store(Protocol):
    """Where the files of a package are."""

    def open(self, path: str) -> Stored | None:
        """The file of that path below the store's root; None where there is none.

        Raises IntegrityError for a path that leads elsewhere, TargetError for what cannot be read.
        """
        ...

    def manifests(self, folder: str) -> list[str]:
        """Paths of the ``.mf`` files in ``folder`` (empty for the root)."""
        ...

    def check_unchanged(self) -> None:
        """Raises IntegrityError ``input_changed`` when a file that was opened is not what it was then."""
        ...


class FolderStore:
    """Files in one folder and below. It is opened once, so that what is looked up stays in the same folder whatever happens to its path."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._files: list[OpenFile] = []
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TargetError(f"{folder} cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error
        stack.callback(os.close, self._folder)

    def open(self, path: str) -> Stored | None:
        """See Store. No part of the way may be a symbolic link."""
        if not is_inner_path(_ESCAPED.sub("?", path)):
            raise IntegrityError(f"a descriptor names {path!r}, which is not a file beside it", code=BAD_FORMAT)
        shown = os.fsencode(path).decode(errors="replace")
        with ExitStack() as on_the_way:
            try:
                folder = self._enter(on_the_way, path.split("/")[:-1])
                file = open_regular(self._stack, path.rpartition("/")[2], shown, folder=folder)
            except FileNotFoundError:
                return None
        return self.adopt(file)

    def adopt(self, file: OpenFile) -> Stored:
        """``file`` as one of the package."""
        self._files.append(file)
        return Stored(file.name, file, 0, file.size())

    def _enter(self, stack: ExitStack, folders: Sequence[str]) -> int:
        here = self._folder
        for name in folders:
            mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise IntegrityError(f"'{name}' is a symbolic link", code=BAD_FORMAT)
            if not stat.S_ISDIR(mode):
                raise FileNotFoundError(name)
            with input_errors():
                here = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            stack.callback(os.close, here)
        return here

    def manifests(self, folder: str) -> list[str]:
        """See Store. Only the root is looked at: the descriptor is in it."""
        assert not folder
        with input_errors(), os.scandir(self._folder) as entries:
            return sorted(entry.name for entry in entries if _is_mf(entry.name))

    def check_unchanged(self) -> None:
        """See Store."""
        for file in self._files:
            file.check_unchanged()


class ArchiveStore:
    """The members of an archive. ``content`` is where they lie: the archive itself, or what is inside it when it is packed."""

    def __init__(self, archive: OpenFile, content: ReadableFile, members: Iterable[OvaMember]) -> None:
        self._archive = archive
        self._content = content
        self._members: Mapping[str, OvaMember] = {member.name: member for member in members}

    def open(self, path: str) -> Stored | None:
        """See Store."""
        member = self._members.get(path)
        return None if member is None else Stored(member.name, self._content, member.offset, member.size)

    def manifests(self, folder: str) -> list[str]:
        """See Store."""
        return sorted(name for name in self._members if _is_mf(name) and name.rpartition("/")[0] == folder)

    def check_unchanged(self) -> None:
        """See Store."""
        self._archive.check_unchanged()


def _is_mf(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(".mf") and not name.startswith(".")
