"""Database errors, translated from the driver's, and outages, each of which is logged once.

::

    full, read-only, locked, gone     ends once somebody fixes it: callers retry
    damaged                           a backup has to be restored
    down                              all others: no answer, or an unknown error of the driver
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from hypersdk.errors import HyperSDKError, register
from hypersdk.remedies import advice

LOG: Final = logging.getLogger(__name__)
DATABASE_DOWN: Final = register(
    "database_down", "The database does not answer.", "Check that it is running and that this host may connect to it."
)
DATABASE_FULL: Final = register(
    "database_full",
    "The file system of the daemon's database is full: nothing can be stored.",
    "Free space there. The daemon continues by itself; jobs continue from their checkpoints.",
)
DATABASE_READ_ONLY: Final = register(
    "database_read_only",
    "The daemon's user cannot write to the daemon's database or its folder.",
    "Mount its file system read-write, or give file and folder to the daemon's user. A running daemon continues by"
    " itself.",
)
DATABASE_LOCKED: Final = register(
    "database_locked",
    "Another program keeps the daemon's database locked.",
    "Close the program that has it open (`fuser -v FILE` names it), such as a backup or an sqlite3 shell. The daemon"
    " continues by itself.",
)
DATABASE_DAMAGED: Final = register(
    "database_damaged",
    "The file of the daemon's database is damaged, or is not a database.",
    "Stop the daemon, move the file away, and restore a backup with `hypervisord restore FILE`; check the drive that"
    " it was on.",
)
DATABASE_GONE: Final = register(
    "database_gone",
    "The file of the daemon's database was removed or renamed while the daemon was running.",
    "Put it back under its name; or stop the daemon, restore a backup with `hypervisord restore FILE`, and start it.",
)
DATABASE_IO: Final = register(
    "database_io",
    "The file system of the daemon's database reports an error.",
    "Check the kernel's log (`dmesg`) for errors of the drive. The daemon continues by itself once the file can be"
    " read and written.",
)
OVER_S: Final = 3.0
"""An outage is over if a call succeeds this long after the last failure: on a full disk, some writes still find
room."""
_BY_SQLITE: Final = {
    sqlite3.SQLITE_FULL: DATABASE_FULL,
    sqlite3.SQLITE_READONLY: DATABASE_READ_ONLY,
    sqlite3.SQLITE_PERM: DATABASE_READ_ONLY,
    sqlite3.SQLITE_BUSY: DATABASE_LOCKED,
    sqlite3.SQLITE_LOCKED: DATABASE_LOCKED,
    sqlite3.SQLITE_PROTOCOL: DATABASE_LOCKED,
    sqlite3.SQLITE_CORRUPT: DATABASE_DAMAGED,
    sqlite3.SQLITE_NOTADB: DATABASE_DAMAGED,
    sqlite3.SQLITE_IOERR: DATABASE_IO,
}
_BY_SQLSTATE: Final = {
    "53100": DATABASE_FULL,
    "25006": DATABASE_READ_ONLY,
    "55P03": DATABASE_LOCKED,
    "XX001": DATABASE_DAMAGED,
    "XX002": DATABASE_DAMAGED,
}
_CONFLICTS: Final = frozenset({"40001", "40P01", "55P03"})
"""SQLSTATEs of two conflicting transactions: no outage, one of them is retried."""


class DatabaseError(HyperSDKError):
    """The daemon's own database failed."""

    exit_status = 12
    default_code = DATABASE_DOWN


def fault_of(error: BaseException, path: Path | None, name: str = "") -> DatabaseError | None:
    """Translates an error of SQLAlchemy or of SQLite's driver, for the SQLite file at ``path`` (None: PostgreSQL). None
    if the error is one of the statement. Statement and values are not shown: they may be secret."""
    name = name or (f"the database {path}" if path else "the database")
    driver = getattr(error, "orig", None) or error
    text = _first_line(driver)
    if isinstance(error, sa.exc.TimeoutError):
        return DatabaseError(f"{name} failed: {text}")
    if isinstance(driver, sqlite3.Error):
        if isinstance(driver, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError):
            return None
        return DatabaseError(f"{name} failed: {text}", code=_code_of_sqlite(driver, text, path))
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.InternalError):
        return DatabaseError(f"{name} failed: {text}", code=_BY_SQLSTATE.get(_sqlstate(driver), DATABASE_DOWN))
    return None


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions conflict (PostgreSQL)."""
    return _sqlstate(getattr(error, "orig", None) or error) in _CONFLICTS


def fault_of_file(error: OSError, path: Path, done: str = "opened") -> DatabaseError:
    """Translates an error of the file system: the database's file could not be ``done``."""
    code = DATABASE_FULL if _is_full(path) else DATABASE_IO if os.access(path.parent, os.W_OK) else DATABASE_READ_ONLY
    return DatabaseError(f"{path} cannot be {done}: {error.strerror or error}", code=code)


def _code_of_sqlite(error: sqlite3.Error, text: str, path: Path | None) -> str:
    number = int(getattr(error, "sqlite_errorcode", 0))
    if path is not None and not path.exists():
        return DATABASE_GONE
    if number & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and path is not None:
        if _is_full(path):  # its log or its index could not grow
            return DATABASE_FULL
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return DATABASE_READ_ONLY
    if text.startswith(("no such table", "malformed database schema")):
        return DATABASE_DAMAGED
    return _BY_SQLITE.get(number & 0xFF, DATABASE_DOWN)


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _sqlstate(driver: object) -> str:
    return str(getattr(driver, "sqlstate", ""))


def _first_line(error: object) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__


class Outage:
    """Whether a database can be used, judged by the calls to it. Thread-safe.

    ``tell`` switches on logging, for daemons: commands report their errors themselves.
    """

    def __init__(self, name: str, *, tell: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._fault: DatabaseError | None = None
        self._damage: DatabaseError | None = None
        self._since = self._last = 0.0
        self._calls = 0
        self._writing = False
        self.tell = tell

    @property
    def fault(self) -> DatabaseError | None:
        """The current fault, if any. Damage stays one, since intact parts of the file still answer."""
        return self._fault or self._damage

    def failed(self, fault: DatabaseError, *, writing: bool) -> None:
        """Records a call that failed."""
        with self._lock:
            first = self._fault is None
            self._last = self._clock()
            if first:
                self._since, self._calls, self._writing = self._last, 0, False
            self._fault = fault
            self._calls += 1
            self._writing |= writing
            if fault.code == DATABASE_DAMAGED:
                self._damage = fault
        if first and self.tell:
            LOG.error("%s cannot be used: %s (%s). %s", self._name, fault.message, fault.code, advice(fault.remedies))

    def succeeded(self, *, writing: bool) -> None:
        """Records a call that succeeded. A read does not end an outage of writes."""
        with self._lock:
            now = self._clock()
            if self._fault is None or now - self._last < OVER_S or (self._writing and not writing):
                return
            self._fault = None
            lasted, calls = now - self._since, self._calls
        if self.tell:
            LOG.warning("%s can be used again after %.0f s; %d calls to it had failed", self._name, lasted, calls)
