"""The output folder of a run, open from the first check to the last file.

::

    named   /srv/images/web-01         what the user said, and what results and messages show
    path    /proc/self/fd/7            the folder itself, wherever it is by now: paths below it are inside that folder

Another process may give the name to another folder at any time. So the folder is opened once, all its files are
accessed through ``path``, and ``check`` tells whether the name still refers to it: a run succeeds only when its files
are found under the name that it reports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from hypersdk.errors import TargetError, register
from hypersdk.remedies import ChooseFolder, First, Resume, Retry, of_source
from hypersdk.transfer.files import has_name, shown_path, target_errors

FOLDER_MOVED: Final = register(
    "folder_moved",
    "The output folder was renamed or moved while the run was writing to it.",
    First("move it back"),
    Resume(),
    "What was written is kept.",
)
FOLDER_REMOVED: Final = register(
    "folder_removed",
    "The output folder was removed while the run was writing to it, or another file system was mounted over it.",
    First("find out what removes it"),
    Retry(),
)
FOLDER_TAKEN: Final = register(
    "folder_taken",
    "The run's lock file was removed from the output folder, so another process may be using it.",
    First("end the other process"),
    Retry(),
    ChooseFolder(),
)
CHECK_INTERVAL_S: Final = 5.0
"""How soon a copy notices that its folder is gone: a check costs three system calls, a useless copy costs hours."""

_OPEN_FILES: Final = Path("/proc/self/fd")
_ABOUT_SOURCE: Final = ("not_undone", "kept_snapshot")
"""Fields of an error that say what remains at the source, whatever the reason."""

Locate: TypeAlias = Callable[[Path], os.stat_result | None]
"""Returns the status of the folder with that name; None where there is none. Raises TargetError where that cannot be
found out."""


def locate(named: Path) -> os.stat_result | None:
    """See Locate. Symbolic links are followed: the user may have named one."""
    with target_errors(f"checking {named}"):
        try:
            return named.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None


class OutputFolder:
    """One folder, open. Thread-safe."""

    def __init__(
        self,
        descriptor: int,
        named: Path,
        locate: Locate = locate,
        clock: Callable[[], float] = time.monotonic,
        path: Path | None = None,
    ) -> None:
        """The caller closes ``descriptor``. ``path`` is used to access the folder instead of its descriptor."""
        self.named: Final = named
        self.path: Final = path or _OPEN_FILES / str(descriptor)
        self._descriptor = descriptor
        self._locate = locate
        self._clock = clock
        self._next_check_s = clock() + CHECK_INTERVAL_S
        self._lock: tuple[Path, int] | None = None

    @classmethod
    @contextmanager
    def opened(cls, place: Path, named: Path, locate: Locate = locate) -> Iterator[OutputFolder]:
        """Opens the folder at ``place``, known to users as ``named``. Raises TargetError."""
        with target_errors(f"opening {named}"):
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Without /proc, as in a bare chroot, files are accessed by the folder's name; that is checked as well.
            yield cls(descriptor, named, locate, path=None if _OPEN_FILES.exists() else place)
        finally:
            os.close(descriptor)

    @contextmanager
    def locked_by(self, lock: Path, descriptor: int) -> Iterator[None]:
        """Sets the run's lock file and its descriptor while the block runs."""
        before, self._lock = self._lock, (lock, descriptor)
        try:
            yield
        finally:
            self._lock = before

    @property
    def is_locked(self) -> bool:
        """Whether this run has locked it (``locked_by``)."""
        return self._lock is not None

    @property
    def has_lock(self) -> bool:
        """Whether this run's lock file is still in the folder."""
        return self._lock is None or has_name(self._lock[1], self._lock[0])

    def check_lock(self) -> None:
        """Raises TargetError ``folder_taken``, or ``folder_removed`` where the folder was removed with its lock."""
        if self.has_lock:
            return
        if self._place() is None:
            raise self._removed()
        raise TargetError(f"another process may be using {self.named}: this run's lock was removed", code=FOLDER_TAKEN)

    def check(self) -> None:
        """Raises TargetError ``folder_moved``, ``folder_removed`` or ``folder_taken`` where the name refers to another
        folder, or the lock is gone."""
        self.check_lock()
        if self._is_ours(self._locate(self.named)):
            return
        place = self._place()
        if place is None:
            raise self._removed()
        raise TargetError(
            f"{self.named} was moved to {place}", code=FOLDER_MOVED, folder=str(self.named), moved_to=str(place)
        )

    def check_sometimes(self) -> None:
        """Calls ``check`` if the last check was some seconds ago. Cheap enough to be called before every write."""
        if (now := self._clock()) >= self._next_check_s:
            self._next_check_s = now + CHECK_INTERVAL_S
            self.check()

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Replaces a TargetError of the block by that of ``check``, if it raises one: then a missing file is only a
        symptom."""
        try:
            yield
        except TargetError as error:
            try:
                self.check()
            except TargetError as reason:
                if reason.code == error.code:
                    raise error from error.__cause__
                reason.fields |= {key: value for key, value in error.fields.items() if key in _ABOUT_SOURCE}
                reason.remedies += of_source(error.remedies)
                raise reason from error
            raise

    def _place(self) -> Path | None:
        """The current path of the folder; None where it was removed or cannot be accessed."""
        place = shown_path(self.path)
        return place if place != self.path and self._is_ours(locate(place)) else None

    def _is_ours(self, found: os.stat_result | None) -> bool:
        return found is not None and os.path.samestat(found, os.fstat(self._descriptor))

    def _removed(self) -> TargetError:
        return TargetError(f"{self.named} was removed", code=FOLDER_REMOVED, folder=str(self.named))
