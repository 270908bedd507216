"""Dumps a PostgreSQL state to a file and restores it, with ``pg_dump`` and ``pg_restore``: one consistent snapshot
while the daemon runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.engine import URL

from hypersdk.errors import UsageError, register
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.tables import jobs

POSTGRESQL_TOOLS: Final = register(
    "postgresql_tools",
    "A backup of a PostgreSQL database needs pg_dump and pg_restore, which are not installed on this host.",
    "Install postgresql-client, of the server's version or newer, or run the command on a host that has it.",
)
DUMP_FAILED: Final = register(
    "dump_failed",
    "pg_dump or pg_restore failed. A restore is one transaction: the database is unchanged.",
    "The message has PostgreSQL's own. The tools must not be older than the server.",
)
STATE_USED: Final = register(
    "state_used",
    "A running daemon is using this database.",
    "Stop `hypervisord` on every host that uses it, then restore again.",
)
MAX_OUTPUT: Final = 1000
TIMEOUT_S: Final = 6 * 3600


def dump(url: URL, file: Path) -> None:
    """Writes the database to a new ``file`` of mode 0600, in pg_dump's custom format. Raises UsageError, DatabaseError
    ``dump_failed``."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    _run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={file}")


def restore(url: URL, file: Path) -> None:
    """Restores a dump in place of the existing tables, in one transaction. Raises UsageError, DatabaseError
    ``dump_failed``."""
    _run(
        "pg_restore",
        url,
        "--single-transaction",
        "--exit-on-error",
        "--clean",
        "--if-exists",
        "--no-owner",
        "--no-privileges",
        str(file),
    )


def check_unused(database: Database) -> None:
    """Raises UsageError ``state_used`` while there are other connections, from any host."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    with database.read() as connection:
        if count := int(connection.execute(query).scalar_one()):
            raise UsageError(f"{count} connections to the database are open", code=STATE_USED, connections=count)


def holds_state(database: Database) -> bool:
    """Whether the database has the tables of a state."""
    with database.read() as connection:
        return bool(sa.inspect(connection).has_table(jobs.name))


def _run(program: str, url: URL, *arguments: str) -> None:
    """The password is passed in the environment, which only this user and root can read; arguments are public."""
    path = shutil.which(program)
    if path is None:
        raise UsageError(f"{program} is not in PATH", code=POSTGRESQL_TOOLS)
    parts = conninfo_to_dict(url.set(drivername="postgresql").render_as_string(hide_password=False))
    environ = {**os.environ, "LC_MESSAGES": "C"}
    if (password := parts.pop("password", None)) is not None:
        environ["PGPASSWORD"] = str(password)
    if "sslpassword" in parts:
        raise UsageError("the URL holds sslpassword", code=DUMP_FAILED, next_step="Use a key file without a password.")
    command = [path, "--no-password", f"--dbname={make_conninfo('', **parts)}", *arguments]
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DatabaseError(f"{program} did not finish within {TIMEOUT_S // 3600} hours", code=DUMP_FAILED) from error
    if done.returncode:
        output = " ".join(done.stderr.split())[:MAX_OUTPUT]
        raise DatabaseError(f"{program} ended with {done.returncode}: {output}", code=DUMP_FAILED)
