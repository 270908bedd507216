"""A copy of the engine's file before another version of the engine's library opens it: opening changes its schema, and nothing takes that back."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from hypersdk.errors import register
from hypersdk.jobs.engine import engine_file
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.state.database import Database, DatabaseError, copy_sqlite
from hypersdk.state.tables import meta

LOG: Final = logging.getLogger(__name__)
VERSION_ROW: Final = "engine"
"""Row of ``meta``: the version of the library that opened the file last."""
ENGINE_COPY: Final = register(
    "engine_copy",
    "engine.sqlite3 could not be copied, and without a copy a new version of the job engine does not open it.",
    "Make room in the state directory and let its user write there; the daemon then goes on by itself.",
)


def copy_before_upgrade(settings: DaemonSettings, database: Database, version: str | None = None) -> Path | None:
    """Copies the engine's file beside itself where another version of the library had it; the copy, or None where none was due.

    Of several workers that start at once, one does it and the others wait. ``version`` is that of the library here. PostgreSQL has no file.
    Raises DatabaseError ``engine_copy``; then the file is as it was.
    """
    path = engine_file(settings)
    if path is None:
        return None
    version = version or importlib.metadata.version("dbos")
    with _alone(path):
        if _known_version(database) == version:
            return None
        copy = _copy(path, version) if path.exists() else None
        # Only now: a start that ends before it makes another copy, rather than none.
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
    LOG.info("%s is kept as %s before version %s of the job engine opens it", path.name, copy.name, version)
    return copy


def _known_version(database: Database) -> str | None:
    with database.read() as connection:
        return connection.execute(sa.select(meta.c.value).where(meta.c.name == VERSION_ROW)).scalar_one_or_none()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, for this file."""
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseError(f"{path.parent} cannot be written: {error.strerror}", code=ENGINE_COPY) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
