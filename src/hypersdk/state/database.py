"""Connecting to the database and upgrading its schema: SQLite or PostgreSQL, chosen by a URL; Alembic, under a lock.

::

    sqlite:////var/lib/hypersdk/state.sqlite3     one host; WAL, a local file system
    postgresql://user@db.example.com/hypersdk     several hosts
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from hypersdk.errors import UsageError, register
from hypersdk.state.faults import DATABASE_DAMAGED, DATABASE_GONE, Outage, fault_of, fault_of_file, is_conflict
from hypersdk.state.faults import DatabaseError as DatabaseError
from hypersdk.state.tables import counters
from hypersdk.transfer.files import owned_like_folder
from hypersdk.units import MiB

if TYPE_CHECKING:
    from alembic.config import Config

DATABASE_URL: Final = register(
    "database_url",
    "The address of the database is invalid.",
    "Leave it out for SQLite in the state directory, or write postgresql://user@host/name.",
)
DATABASE_NEWER: Final = register(
    "database_newer",
    "The database was upgraded by a newer version of HyperSDK.",
    "Start that version, or restore the copy that was made before the upgrade.",
)
SQLITE_OLD: Final = register(
    "sqlite_old",
    "Python's SQLite is too old, as on RHEL 9.",
    "Use PostgreSQL (`database_url`), or a Python with a newer SQLite.",
)
SQLITE_LEAST: Final = (3, 42, 0) if sys.version_info >= (3, 12) else (3, 35, 0)
"""For RETURNING and DROP COLUMN; the job engine needs unixepoch('subsec') on Python 3.12 and later."""
_NETWORK_FS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "fuse.glusterfs"}
)
_LOCK_KEY: Final = 0x48594B56
"""Key of PostgreSQL's advisory lock for migrations."""
POOL_SIZE: Final = 8
BUSY_S: Final = 30
"""How long a writer waits for another one on SQLite."""
CONNECT_S: Final = 10
CHECKED_BYTES: Final = 512 * MiB
PROBE_S: Final = 5.0
"""Least time between two probes of whether the database can be written; ``PROBE_FAILED_S`` after a failure."""
PROBE_FAILED_S: Final = 1.0
PROBE_WAIT_S: Final = 3
_PROBE: Final = "probe"
"""Row of ``meta`` that a probe writes."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_VERSION: Final = sa.table("alembic_version", sa.column("version_num", sa.String))


class Database:
    """An engine and the clock of its server. Thread-safe."""

    def __init__(self, engine: sa.Engine, path: Path | None) -> None:
        self.engine: Final = engine
        # On PostgreSQL each statement of a reader sees what is committed by then, in a transaction or not: without one,
        # two round trips are saved.
        self._reading: Final = engine if path else engine.execution_options(isolation_level="AUTOCOMMIT")
        self.path: Final = path
        """The SQLite file; None on PostgreSQL."""
        self.outage: Final = Outage("the database")
        self._probing = threading.Lock()
        self._probed: tuple[float, DatabaseError | None] | None = None

    @classmethod
    def open(cls, url: str) -> Database:
        """A database by its URL, which connects on first use. Raises UsageError ``database_url`` and ``sqlite_old``."""
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite":
            return cls(_sqlite(parsed), Path(str(parsed.database)))
        engine = sa.create_engine(
            parsed, pool_size=POOL_SIZE, max_overflow=POOL_SIZE, pool_pre_ping=True, connect_args=connect_args(parsed)
        )
        return cls(engine, None)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is an SQLite file, for one host only."""
        return self.path is not None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading; on SQLite the block sees one snapshot of the data. Raises DatabaseError."""
        with self._translated(writing=False), self._reading.connect() as connection:
            yield connection.execution_options(read_only=True)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end of the block. Raises DatabaseError."""
        with self._translated(writing=True), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self, *, writing: bool) -> Iterator[None]:
        """Translates errors of the driver. Integrity violations pass: callers know what they mean."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            fault = fault_of(error, self.path)
            if fault is None:
                raise
            if not is_conflict(error):
                self.outage.failed(fault, writing=writing)
            raise fault from error
        self.outage.succeeded(writing=writing)

    def writable(self) -> DatabaseError | None:
        """Why the database cannot be written, or None. Probed by a small write, at most every few seconds."""
        with self._probing:
            if self._probed is not None:
                at, found = self._probed
                valid_s = PROBE_S if found is None and self.outage.fault is None else PROBE_FAILED_S
                if time.monotonic() - at < valid_s:
                    return found or self.outage.fault
            fault: DatabaseError | None = None
            try:
                self._probe()
            except DatabaseError as error:
                fault = error
            self._probed = (time.monotonic(), fault)
            return fault or self.outage.fault

    def _probe(self) -> None:
        """Writes one row, without waiting for a pooled connection or long for another writer. Raises DatabaseError."""
        with self._translated(writing=True):
            if self.path is None:
                with self.engine.begin() as connection:
                    connection.execute(sa.text(f"SET LOCAL statement_timeout = '{PROBE_WAIT_S}s'"))
                    # In one statement: other processes probe at the same time.
                    connection.execute(
                        sa.text(
                            "INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET"
                            " value = excluded.value"
                        ),
                        {"name": _PROBE, "value": str(time.time())},
                    )
                return
            with closing(connect_sqlite(self.path, PROBE_WAIT_S)) as file, file:
                file.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_PROBE, str(time.time())))

    def now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the database's clock, the only one that several hosts share."""
        return float(connection.execute(sa.select(self.clock)).scalar_one())

    @property
    def clock(self) -> sa.ColumnElement[float]:
        """``now`` as an SQL expression."""
        if self.is_sqlite:
            return (sa.func.julianday("now") - 2440587.5) * 86400.0
        return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)

    def revision(self, connection: sa.Connection, by: int = 1) -> int:
        """The next revision, or the last of the next ``by``. Locks the counter until the transaction ends, so that
        revisions become visible in order.

        To avoid deadlocks, lock the rows to be changed before, several of them in the order of their keys
        (``lock_rows``).
        """
        return self.count(connection, "revision", by)

    def count(self, connection: sa.Connection, name: str, by: int = 1) -> int:
        """Increases a counter and returns its new value."""
        bump = (
            sa.update(counters)
            .where(counters.c.name == name)
            .values(value=counters.c.value + by)
            .returning(counters.c.value)
        )
        return int(connection.execute(bump).scalar_one())

    def lock_rows(self, connection: sa.Connection, key: sa.Column[str], values: Collection[str]) -> None:
        """Locks rows of a table by their key until the transaction ends. SQLite has a single writer anyway."""
        if not self.is_sqlite and values:
            connection.execute(sa.select(key).where(key.in_(values)).order_by(key).with_for_update())

    def serialize(self, connection: sa.Connection, name: str) -> None:
        """Waits until no other transaction that called this with ``name`` is active. SQLite has a single writer
        anyway."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))

    def upgrade(self, *, make: bool = True) -> str | None:
        """Upgrades the schema and returns its former revision, or None if the database was empty or up to date.

        An SQLite file is copied beside itself before. Raises DatabaseError: ``database_newer`` for a schema that this
        version does not know; without ``make``, ``database_gone`` for a missing file.
        """
        known = _revisions()
        head = known[-1]
        with self._migrating(make) as connection:
            current = _revision_of(connection)
            if current == head:
                return None
            if current is not None and current not in known:
                raise DatabaseError(
                    f"the database has schema {current}, which this version does not know", code=DATABASE_NEWER
                )
            if current is not None and self.path is not None:
                try:
                    copy_sqlite(self.path, self.path.with_name(f"{self.path.name}.before-{head}-{int(time.time())}"))
                except OSError as error:
                    raise fault_of_file(error, self.path, "copied") from error
            _migrate(connection)
            if current is None:  # later counters are added by their migrations
                connection.execute(
                    sa.insert(counters), [{"name": name, "value": 0} for name in ("revision", "job", "worker")]
                )
            connection.commit()
            return current

    def check(self) -> None:
        """Checks the integrity of an SQLite file of up to ``CHECKED_BYTES``. Raises DatabaseError
        ``database_damaged``."""
        if self.path is None or self.path.stat().st_size > CHECKED_BYTES:
            return
        with self.read() as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
        if found != "ok":
            raise DatabaseError(f"{self.path} is damaged: {found[:200]}", code=DATABASE_DAMAGED)

    def is_current(self) -> bool:
        """Whether the schema is that of this version. Raises DatabaseError."""
        with self.read() as connection:
            return _revision_of(connection) == _revisions()[-1]

    def wait_until_usable(self, alive: Callable[[], None]) -> None:
        """Waits until the database has this version's schema and can be written, in a process of a running daemon. A
        missing file is not created: it was moved, and may be moved back. ``alive`` is called in each turn.

        Raises DatabaseError for faults that waiting does not end.
        """
        while True:
            alive()
            try:
                self.upgrade(make=False)
                fault = self.writable()
            except DatabaseError as error:
                self.outage.failed(error, writing=True)
                fault = error
            if fault is None:
                return
            if fault.code in (DATABASE_DAMAGED, DATABASE_NEWER):
                raise fault
            time.sleep(PROBE_FAILED_S)

    @contextmanager
    def _migrating(self, make: bool) -> Iterator[sa.Connection]:
        """A connection under the lock for migrations. A new SQLite file is readable by its owner only."""
        if self.path is None:
            with self._translated(writing=True), self.engine.connect() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_lock(_LOCK_KEY)))
                try:
                    yield connection
                finally:
                    connection.rollback()
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK_KEY)))
            return
        if not make and not self.path.exists():
            raise DatabaseError(f"{self.path} does not exist", code=DATABASE_GONE)
        with _opened(self.path, self.path.with_suffix(".lock")) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with _opened(self.path, self.path):
                pass  # creates a missing file: connections do not
            with self._translated(writing=True), self.engine.connect() as connection:
                yield connection

    def close(self) -> None:
        """Drops all connections."""
        self.engine.dispose()


def parse_url(url: str) -> URL:
    """The URL with our driver. Raises UsageError, whose text holds no password."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise UsageError("the database URL cannot be read", code=DATABASE_URL) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise UsageError("the SQLite URL names no file", code=DATABASE_URL)
        return parsed.set(drivername="sqlite")
    if backend not in ("postgresql", "postgres"):
        raise UsageError(f"'{backend[:40]}' is not a database that HyperSDK can use", code=DATABASE_URL)
    return parsed.set(drivername="postgresql+psycopg")


def connect_args(url: URL) -> dict[str, Any]:
    """Arguments for PostgreSQL's driver: without a limit, it waits for minutes for a host that does not answer."""
    return {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}


def _sqlite(url: URL) -> sa.Engine:
    path = Path(str(url.database))
    if sqlite3.sqlite_version_info < SQLITE_LEAST:
        least = ".".join(map(str, SQLITE_LEAST[:2]))
        raise UsageError(f"this Python has SQLite {sqlite3.sqlite_version}; {least} is needed", code=SQLITE_OLD)
    if (kind := file_system(path)) in _NETWORK_FS:
        raise UsageError(f"{path} is on {kind}; SQLite's locks need a local file system", code=DATABASE_URL)
    engine = sqlite_engine(path, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        # A transaction that reads before it writes fails at once if another has written meanwhile. This one waits.
        immediate = connection.get_execution_options().get("read_only") is not True
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def sqlite_engine(
    path: Path, *pragmas: str, isolation_level: Literal["IMMEDIATE"] | None = None, busy_s: int = BUSY_S
) -> sa.Engine:
    """An engine for an existing file. pysqlite begins transactions only if ``isolation_level`` is set.

    Each checkout compares the open file with the one that has its name: a file that was removed while open would take
    writes that are lost, and SQLite would create an empty one under its name.
    """
    engine = sa.create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: connect_sqlite(path, busy_s),
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
    )

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = isolation_level
        for pragma in (*pragmas, f"busy_timeout={busy_s * 1000}"):
            connection.execute(f"PRAGMA {pragma}")
        record.info["file"] = _identity(path)

    @sa.event.listens_for(engine, "checkout")
    def _taken(_connection: sqlite3.Connection, record: Any, _proxy: object) -> None:
        if record.info["file"] != _identity(path):
            raise sa.exc.DisconnectionError(
                f"{path} was replaced by another file"
            )  # the pool opens the one that is there, if any

    return engine


def connect_sqlite(path: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection to an existing file, for any thread. Raises sqlite3.OperationalError."""
    name = urllib.parse.quote(str(path.absolute()))
    return sqlite3.connect(f"file:{name}?mode=rw", timeout=timeout_s, uri=True, check_same_thread=False)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _opened(database: Path, path: Path) -> Iterator[int]:
    """A descriptor of ``path``. A missing file is created with the folder's owner, and readable by it only. Raises
    DatabaseError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise fault_of_file(error, database) from error
    try:
        owned_like_folder(descriptor, path.parent)
        yield descriptor
    finally:
        os.close(descriptor)


def file_system(path: Path) -> str:
    """The kernel's name of the file system that ``path`` is or will be on; empty if unknown."""
    best, found = "", ""
    target = str(path.absolute())
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, found = mount, kind
    return found


def copy_sqlite(source: Path, target: Path) -> None:
    """Copies a database that may be in use. The copy is readable by its owner only, and gets its name once it is
    complete and durable. Raises OSError and sqlite3.Error."""
    partial = target.with_name(target.name + ".partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        here, there = sqlite3.connect(source), sqlite3.connect(partial)
        try:
            here.backup(there)
        except sqlite3.OperationalError as error:
            if (
                int(getattr(error, "sqlite_errorcode", 0)) & 0xFF == sqlite3.SQLITE_FULL
            ):  # of the copy: what is copied is only read
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
            raise
        finally:
            there.close()
            here.close()
        os.fsync(descriptor)
    except BaseException:
        partial.unlink(missing_ok=True)  # repeated tries must not fill the disk
        raise
    finally:
        os.close(descriptor)
    shutil.move(partial, target)


def _migrate(connection: sa.Connection) -> None:
    from alembic import command  # slow to import, and mostly not needed

    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _revisions() -> Sequence[str]:
    """All revisions of the schema, the newest last. They are linear; the file of each begins with its number."""
    return sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _revision_of(connection: sa.Connection) -> str | None:
    """The revision of a database's schema; None if it is empty."""
    if not sa.inspect(connection).has_table(_VERSION.name):
        return None
    return connection.execute(sa.select(_VERSION.c.version_num)).scalar_one_or_none()
