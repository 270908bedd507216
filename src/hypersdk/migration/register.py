"""The register of runs on this host: active runs, and runs that left changes at their source.

::

    STATE/register/ID.json          of this user
    /run/hypersdk/ID.json           of all users, where that folder exists (mode 1777; the packages make it)

An entry is written before the source is changed, and removed once nothing is left to undo there. Its file is locked
(flock) by the process of the run. The kernel releases the lock of a killed process, so an active run can be told from a
dead one. A clean-up checks the register first. An entry of another user can only prevent that something is removed,
never cause it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import pwd
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Self

from hypersdk.migration.checked import validated
from hypersdk.transfer.files import open_regular
from hypersdk.units import KiB

LOG: Final = logging.getLogger(__name__)

HOST_PLACE: Final = Path("/run/hypersdk")
MAX_ENTRY_BYTES: Final = 16 * KiB
MAX_ENTRIES: Final = 10_000
RUN_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
"""Ids become file names, and come from snapshot names and from records in folders that others can write to."""
_TRIES: Final = 5
"""How often an entry is read again that was replaced while it was read."""
_OWNER: Final = re.compile(r"Owner: ([^\n]{1,300})")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run: its program, machine, folder and start (RFC 3339). ``job`` is empty for a run without the daemon."""

    run_id: str
    program: str
    job: str
    user: str
    host: str
    pid: int
    started_at: str
    folder: str
    machine: str
    moref: str
    endpoint: str
    snapshot: str

    @property
    def owner(self) -> str:
        """The owner in one line, for users and for the snapshot's description."""
        what = f"job {self.job}" if self.job else f"run {self.run_id}"
        return f"{self.program}, {what}, {self.user}@{self.host}, since {self.started_at}"


@dataclass(frozen=True, slots=True)
class Registered:
    """An entry as read. ``held``: a process is working on the run. ``uid`` is the owner of the file, whatever its
    content says."""

    entry: RunEntry
    held: bool
    uid: int

    @property
    def ours(self) -> bool:
        """Whether it is this user's: entries of other users prove nothing."""
        return self.uid == os.geteuid()

    @property
    def here(self) -> bool:
        """Whether it was made on this host. In a shared home directory the lock of a process on another host may be
        invisible."""
        return self.entry.host == platform.node()


def entry_of(run_id: str, **facts: str) -> RunEntry:
    """An entry of this process. ``facts`` are the other fields."""
    return RunEntry(run_id=run_id, user=_user(), host=platform.node(), pid=os.getpid(), **facts)


def described_owner(description: str) -> str | None:
    """The owner in a snapshot's description; None where there is none. The text is untrusted."""
    found = _OWNER.search(description)
    return found[1].strip() if found else None


@dataclass(frozen=True, slots=True)
class Register:
    """The entries in ``places``; the first is this user's. Without places it stores and finds nothing."""

    places: tuple[Path, ...] = ()

    @classmethod
    def of(cls, *states: Path) -> Self:
        """The register of these state directories and, where it exists, the host's."""
        own = dict.fromkeys(state / "register" for state in states)
        return cls((*own, HOST_PLACE) if _is_shared(HOST_PLACE) else tuple(own))

    @contextmanager
    def holding(self, entry: RunEntry) -> Iterator[None]:
        """Registers the run as active for the block. The entry stays, unlocked, until it is forgotten."""
        held = [descriptor for place in self.places if (descriptor := _write(place, entry)) is not None]
        try:
            yield
        finally:
            for descriptor in held:
                os.close(descriptor)

    def forget(self, run_id: str) -> None:
        """Removes the entry, once nothing of the run is left at its source or the user took responsibility for it."""
        for path in self._paths(run_id):
            try:
                path.unlink(missing_ok=True)
                for unnamed in path.parent.glob(f".{path.stem}.*"):
                    unnamed.unlink(missing_ok=True)  # left by a kill before the rename
            except OSError as error:
                LOG.info("%s stays: %s", path, error.strerror)

    def find(self, run_id: str) -> Registered | None:
        """The entry of a run. Where places differ, a locked one counts first, then this user's."""
        found = [known for path in self._paths(run_id) if (known := _read(path)) is not None]
        return max(found, key=lambda known: (known.held, known.ours), default=None)

    def entries(self) -> list[Registered]:
        """All entries, one for each run."""
        names = [path.stem for place in self.places for path in _listed(place)]
        return [known for run_id in dict.fromkeys(names) if (known := self.find(run_id)) is not None]

    def _paths(self, run_id: str) -> Iterator[Path]:
        if RUN_ID.fullmatch(run_id):
            yield from (place / f"{run_id}.json" for place in self.places)


def _is_shared(place: Path) -> bool:
    """Whether ``place`` is owned by root, and sticky: everybody may write there, and nobody replace a file of another
    user."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and bool(found.st_mode & stat.S_ISVTX)


def _write(place: Path, entry: RunEntry) -> int | None:
    """Writes the entry and returns the descriptor that holds its lock. It is renamed into place locked, so nobody sees
    it unlocked.

    None where it cannot be written: the run continues, protected by the owner in its snapshot's description.
    """
    new = place / f".{entry.run_id}.{secrets.token_hex(4)}"
    try:
        if place != HOST_PLACE:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(descriptor, 0o644)  # whatever the umask is: other users must be able to see the owner
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, json.dumps({"version": 1, **asdict(entry)}).encode())
            new.replace(place / f"{entry.run_id}.json")
        except OSError:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        LOG.warning("the register of runs in %s cannot be written: %s", place, error.strerror)
        return None
    return descriptor


def _listed(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as found:
            names = [entry.name for entry in found if entry.name.endswith(".json")]
    except OSError:
        return []
    return [place / name for name in sorted(names)[:MAX_ENTRIES]]


def _read(path: Path) -> Registered | None:
    """Reads an entry; None where there is none. One that cannot be read counts as locked."""
    for _ in range(_TRIES):
        try:
            descriptor = open_regular(path)
        except FileNotFoundError:
            return None
        except OSError:
            return Registered(_unreadable(path.stem), held=True, uid=-1)
        try:
            found = os.fstat(descriptor)
            held = is_held(descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(found, path.lstat()):
                    entry = _decode(os.pread(descriptor, MAX_ENTRY_BYTES + 1, 0), path.stem)
                    return Registered(entry, held, found.st_uid)
        finally:
            os.close(descriptor)
    return Registered(_unreadable(path.stem), held=True, uid=-1)


def is_held(descriptor: int) -> bool:
    """Whether another process has locked the open file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _decode(text: bytes, run_id: str) -> RunEntry:
    try:
        entry = validated(RunEntry, json.loads(text))
    except (ValueError, RecursionError):
        return _unreadable(run_id)
    return entry if entry.run_id == run_id else _unreadable(run_id)


def _unreadable(run_id: str) -> RunEntry:
    """The entry for a file that cannot be read: its owner is unknown."""
    unknown = dict.fromkeys((field.name for field in fields(RunEntry)), "")
    return RunEntry(**{**unknown, "run_id": run_id, "program": "unknown", "pid": 0})  # type: ignore[arg-type]


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
