"""Databases for tests: an SQLite file for each test, and a real PostgreSQL server of this run's own.

Fixtures: ``database`` (parametrized over both), ``sqlite_url``, ``postgres_url`` (a fresh database).
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.state.database import Database

START_TIMEOUT_S = 60


def _programs() -> Path:
    """Where ``initdb`` and ``postgres`` are: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    there = shutil.which("postgres")
    if there is None:
        pytest.fail("PostgreSQL is not installed (Debian package postgresql); see scripts/test", pytrace=False)
    return Path(there).parent


def _as_server_user(command: list[str | Path]) -> list[str | Path]:
    """PostgreSQL refuses to run as root; there it runs as the user that its package makes."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


@dataclass
class PostgresServer:
    """A server on a free port of 127.0.0.1, ``postgresql://HOST:PORT``, which may be stopped and started again."""

    folder: Path
    user: str
    port: int
    options: list[str | Path]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it answers."""
        command = [_programs() / "postgres", "-D", self.folder / "data", *self.options]
        self.process = subprocess.Popen(
            _as_server_user(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder
        )
        _wait_for(self.url)

    def stop(self) -> None:
        """As a crash of the machine: every connection breaks, nothing is written down first."""
        programs = _programs()
        command: list[str | Path] = [programs / "pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop"]
        subprocess.run(
            _as_server_user(command), check=True, capture_output=True, timeout=START_TIMEOUT_S, cwd=self.folder
        )
        self._wait()

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()  # runuser hands it on
            self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        self.process.wait(START_TIMEOUT_S)
        self.process = None


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[str]:
    """A server's URL; it syncs only if it is asked to, and ends with the block."""
    with postgres_of_its_own(durable=durable) as server:
        yield server.url


@contextmanager
def postgres_of_its_own(*, durable: bool = False) -> Iterator[PostgresServer]:
    """The same, for a test that stops it."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="hypersdk-pg-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    subprocess.run(
        _as_server_user(
            [programs / "initdb", "-D", folder / "data", "-U", user, "-A", "trust", "-E", "UTF8", "--no-sync"]
        ),
        check=True,
        capture_output=True,
        timeout=START_TIMEOUT_S,
        cwd=folder,
    )
    fsync = "on" if durable else "off"
    address: list[str | Path] = ["-h", "127.0.0.1", "-p", str(port), "-k", folder]
    options = [*address, "-c", f"fsync={fsync}", "-c", "max_connections=200"]
    server = PostgresServer(folder, user, port, options)
    try:
        server.start()
        yield server
    finally:
        server.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """One for the whole run."""
    with running_postgres() as url:
        yield url


def _wait_for(url: str) -> None:
    engine = administration(url)
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with engine.connect():
                return
        except sa.exc.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def administration(server: str) -> sa.Engine:
    """Connections of the server's administrator, who works outside the tests' databases and transactions."""
    return sa.create_engine(
        server.replace("postgresql:", "postgresql+psycopg:") + "/postgres",
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
    )


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty database."""
    with fresh_database(postgres_server) as url:
        yield url


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """A database of the server, dropped with the block."""
    name = f"t{secrets.token_hex(6)}"
    admin = administration(server)
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    try:
        yield f"{server}/{name}"
    finally:
        with admin.connect() as connection:
            connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'state' / 'state.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of each kind, without any table."""
    kind = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    found = Database.open(request.getfixturevalue(kind))
    if found.path is not None:
        found.path.parent.mkdir()
        found.path.touch()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """An upgraded database of each kind."""
    empty_database.upgrade()
    return empty_database
