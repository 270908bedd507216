"""The register of runs of this host: what works here now, and what left something at its source.

::

    STATE/register/ID.json          of this user
    /run/hypersdk/ID.json           of all users, where that folder exists (mode 1777; the packages make it)

An entry is written before the source is touched and goes once nothing is left to undo there. Its file is locked (flock)
by the process that works on the run, and the kernel frees the lock of a killed one: so a run at work is told from one
whose process is dead. Whoever cleans up after others asks here first. Entries of other users are claims of theirs: they
may keep something from being removed, never have it removed.
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
from typing import Any, Final, Self

from hypersdk.transfer.files import open_regular
from hypersdk.units import KiB

LOG: Final = logging.getLogger(__name__)

HOST_PLACE: Final = Path("/run/hypersdk")
MAX_ENTRY_BYTES: Final = 16 * KiB
MAX_ENTRIES: Final = 10_000
RUN_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
"""Ids become names of files, and come from names of snapshots and from records in folders that others write to."""
_TRIES: Final = 5
"""How often an entry that is replaced while it is looked at is looked at again."""
_OWNER: Final = re.compile(r"Owner: ([^\n]{1,300})")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run: which program works on it, on what, since when (RFC 3339). ``job`` is empty for a run without the
    daemon."""

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
        """Who that is, in one line for people and for the snapshot's description."""
        what = f"job {self.job}" if self.job else f"run {self.run_id}"
        return f"{self.program}, {what}, {self.user}@{self.host}, since {self.started_at}"


@dataclass(frozen=True, slots=True)
class Registered:
    """An entry as it was found. ``held``: a process works on the run now. ``uid`` is the owner of the file, whatever it
    says."""

    entry: RunEntry
    held: bool
    uid: int

    @property
    def ours(self) -> bool:
        """Whether this user made it: what another user wrote proves nothing."""
        return self.uid == os.geteuid()

    @property
    def here(self) -> bool:
        """Whether it was made on this host. Through a shared home the lock of another one's process may not be seen."""
        return self.entry.host == platform.node()


def entry_of(run_id: str, **facts: str) -> RunEntry:
    """An entry of this process. ``facts`` are the fields that are not about the process."""
    return RunEntry(run_id=run_id, user=_user(), host=platform.node(), pid=os.getpid(), **facts)


def described_owner(description: str) -> str | None:
    """The owner that a snapshot's description names; None where it names none. It is text from outside."""
    found = _OWNER.search(description)
    return found[1].strip() if found else None


@dataclass(frozen=True, slots=True)
class Register:
    """The entries in ``places``; the first is this user's own. Without any it holds and finds nothing."""

    places: tuple[Path, ...] = ()

    @classmethod
    def of(cls, *states: Path) -> Self:
        """That of these state directories, and the host's, where it has one."""
        own = dict.fromkeys(state / "register" for state in states)
        return cls((*own, HOST_PLACE) if _is_shared(HOST_PLACE) else tuple(own))

    @contextmanager
    def holding(self, entry: RunEntry) -> Iterator[None]:
        """Shows that this process works on the run. The entry stays, free, until it is forgotten."""
        held = [descriptor for place in self.places if (descriptor := _write(place, entry)) is not None]
        try:
            yield
        finally:
            for descriptor in held:
                os.close(descriptor)

    def forget(self, run_id: str) -> None:
        """Removes the entry: nothing of the run is left at its source, or the user took responsibility for it."""
        for path in self._paths(run_id):
            try:
                path.unlink(missing_ok=True)
                for broken_off in path.parent.glob(f".{path.stem}.*"):
                    broken_off.unlink(missing_ok=True)  # a kill came before it had its name
            except OSError as error:
                LOG.info("%s stays: %s", path, error.strerror)

    def find(self, run_id: str) -> Registered | None:
        """What is known of a run: where places differ, that it is held, else what this user wrote."""
        found = [known for path in self._paths(run_id) if (known := _read(path)) is not None]
        return max(found, key=lambda known: (known.held, known.ours), default=None)

    def entries(self) -> list[Registered]:
        """All of them, each run once."""
        names = [path.stem for place in self.places for path in _listed(place)]
        return [known for run_id in dict.fromkeys(names) if (known := self.find(run_id)) is not None]

    def _paths(self, run_id: str) -> Iterator[Path]:
        if RUN_ID.fullmatch(run_id):
            yield from (place / f"{run_id}.json" for place in self.places)


def _is_shared(place: Path) -> bool:
    """Whether everybody may write there, and nobody in the place of another."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and bool(found.st_mode & stat.S_ISVTX)


def _write(place: Path, entry: RunEntry) -> int | None:
    """Writes it and returns the descriptor that holds its lock. Renamed into place with the lock taken: nobody sees it
    free.

    None where it cannot be written: the run goes on, and is protected by what its snapshot says of its owner.
    """
    new = place / f".{entry.run_id}.{secrets.token_hex(4)}"
    try:
        if place != HOST_PLACE:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        LOG.warning("the register of runs in %s cannot be written: %s", place, error.strerror)
        return None
    try:
        os.fchmod(descriptor, 0o644)  # whatever the umask is: others must be able to see whose it is
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps({"version": 1, **asdict(entry)}).encode())
        new.replace(place / f"{entry.run_id}.json")
    except OSError as error:
        LOG.warning("the register of runs in %s cannot be written: %s", place, error.strerror)
        os.close(descriptor)
        with suppress(OSError):
            new.unlink()
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
    """None where there is none. One that cannot be read belongs to somebody: it is held."""
    for _ in range(_TRIES):
        try:
            descriptor = open_regular(path)
        except FileNotFoundError:
            return None
        except OSError:
            return Registered(_unreadable(path.stem), held=True, uid=-1)
        try:
            found = os.fstat(descriptor)
            held = _is_held(descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(found, path.lstat()):
                    entry = _decode(os.pread(descriptor, MAX_ENTRY_BYTES + 1, 0), path.stem)
                    return Registered(entry, held, found.st_uid)
        finally:
            os.close(descriptor)
    return Registered(_unreadable(path.stem), held=True, uid=-1)


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _decode(text: bytes, run_id: str) -> RunEntry:
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("run_id") != run_id:
            return _unreadable(run_id)
        return RunEntry(**{field.name: _value(data, field.name) for field in fields(RunEntry)})
    except (ValueError, RecursionError):
        return _unreadable(run_id)


def _value(data: dict[str, Any], name: str) -> Any:
    value = data.get(name)
    if type(value) is not (int if name == "pid" else str):
        raise ValueError(name)
    return value


def _unreadable(run_id: str) -> RunEntry:
    """Of an entry that says nothing: whose it is cannot be told."""
    unknown = dict.fromkeys((field.name for field in fields(RunEntry)), "")
    return RunEntry(**{**unknown, "run_id": run_id, "program": "unknown", "pid": 0})  # type: ignore[arg-type]


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
