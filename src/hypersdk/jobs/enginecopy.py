"""The engine's SQLite file: replacing it if it is damaged, and copying it before a new version of the library opens it,
which upgrades its schema for good."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from hypersdk.errors import register
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.state.database import Database, DatabaseError, connect_sqlite, copy_sqlite, parse_url
from hypersdk.state.faults import DATABASE_DAMAGED, DATABASE_GONE, fault_of
from hypersdk.state.tables import meta

LOG: Final = logging.getLogger(__name__)
VERSION_ROW: Final = "engine"
"""Row of ``meta`` with the version of the library that opened the file last."""
ENGINE_DAMAGED: Final = register(
    "engine_damaged",
    "engine.sqlite3, the job engine's database, is damaged.",
    "Nothing needs to be done if the daemon could move it aside: jobs continue from their checkpoints with a new one."
    " Otherwise make the state directory writable for the daemon's user. Check the drive that it was on.",
)
ENGINE_GONE: Final = register(
    "engine_gone",
    "engine.sqlite3, the job engine's database, was removed or replaced while the daemon was running.",
    "Nothing needs to be done: the worker restarts with the file that is there, or a new one, and jobs continue from"
    " their checkpoints.",
)
_OWN_CODES: Final = {DATABASE_DAMAGED: ENGINE_DAMAGED, DATABASE_GONE: ENGINE_GONE}
LOOK_S: Final = 10
ENGINE_COPY: Final = register(
    "engine_copy",
    "engine.sqlite3 could not be copied, and without a copy a new version of the job engine does not open it.",
    "Free space in the state directory and make it writable for the daemon's user; the daemon then continues by"
    " itself.",
)


def engine_file(settings: DaemonSettings) -> Path | None:
    """The engine's SQLite file, beside ours; None on PostgreSQL."""
    url = parse_url(settings.url)
    return Path(str(url.database)).with_name("engine.sqlite3") if url.get_backend_name() == "sqlite" else None


def engine_fault_of(error: BaseException, path: Path | None) -> DatabaseError | None:
    """``fault_of`` for the engine's database. Its codes for a damaged or lost file are others than ours: no backup
    needs to be restored."""
    fault = fault_of(error, path, "the job engine's database")
    if fault is None or fault.code not in _OWN_CODES:
        return fault
    return DatabaseError(fault.message, code=_OWN_CODES[fault.code])


def replace_damaged(settings: DaemonSettings) -> Path | None:
    """Renames a damaged file of the engine, and returns its new path. Its content is not needed: jobs are rows of ours,
    and each that has not ended gets another attempt. For a worker before it opens the file. Raises DatabaseError if the
    file cannot be renamed, or cannot be read at all."""
    path = engine_file(settings)
    if path is None:
        return None
    with _alone(path):
        if not path.exists():
            _begin_anew(path)
            return None
        fault = _look(path)
        if fault is None:
            return None
        if fault.code != DATABASE_DAMAGED:
            raise fault
        aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
        try:
            for end in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
        except OSError as error:
            raise DatabaseError(f"{path} cannot be renamed: {error.strerror}", code=ENGINE_DAMAGED) from error
        LOG.error("%s (%s): it is now %s; jobs continue with a new one", fault.message, ENGINE_DAMAGED, aside.name)
        return aside


def _begin_anew(path: Path) -> None:
    """Removes the log that is left if only the file was removed: SQLite would replay it into a new file."""
    left = [log for end in ("-wal", "-shm") if (log := path.with_name(path.name + end)).exists()]
    try:
        for log in left:
            log.unlink()
        if left:
            path.touch(mode=0o600)  # under the lock: no other process removes the log of the new file
    except OSError as error:
        raise DatabaseError(f"{path.parent} cannot be written: {error.strerror}", code=ENGINE_DAMAGED) from error


def _look(path: Path) -> DatabaseError | None:
    """The fault of the engine's file, if any."""
    try:
        with closing(connect_sqlite(path, LOOK_S)) as engine:
            found = [str(row[0]) for row in engine.execute("PRAGMA quick_check(1)")]
    except sqlite3.Error as error:
        return fault_of(error, path, path.name)
    return None if found == ["ok"] else DatabaseError(f"{path.name}: {found[0][:200]}", code=DATABASE_DAMAGED)


def copy_before_upgrade(settings: DaemonSettings, database: Database, version: str | None = None) -> Path | None:
    """Copies the engine's file beside itself if another version of the library opened it last. Returns the copy, or
    None if none was needed; PostgreSQL has no file.

    Of several workers that start at once, one copies and the others wait. ``version`` is that of the installed library.
    Raises DatabaseError ``engine_copy``; then the file is unchanged.
    """
    path = engine_file(settings)
    if path is None:
        return None
    version = version or importlib.metadata.version("dbos")
    with _alone(path):
        with database.read() as connection:
            known = sa.select(meta.c.value).where(meta.c.name == VERSION_ROW)
            if connection.execute(known).scalar_one_or_none() == version:
                return None
        copy = _copy(path, version) if path.exists() else None
        # After the copy: a start that is interrupted copies again.
        with database.write() as connection:
            connection.execute(sa.delete(meta).where(meta.c.name == VERSION_ROW))
            connection.execute(sa.insert(meta).values(name=VERSION_ROW, value=version))
    return copy


def _copy(path: Path, version: str) -> Path:
    copy = path.with_name(f"{path.name}.before-{version}-{int(time.time())}")
    try:
        copy_sqlite(path, copy)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseError(f"{path} cannot be copied: {error}", code=ENGINE_COPY) from error
    LOG.info("%s was copied to %s before version %s of the job engine opens it", path.name, copy.name, version)
    return copy


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Locks this file against other processes."""
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseError(f"{path.parent} cannot be written: {error.strerror}", code=ENGINE_COPY) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
