"""Opening, upgrading and copying the daemon's database."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from hypersdk import state
from hypersdk.errors import UsageError
from hypersdk.state.database import (
    Database,
    DatabaseError,
    _alembic,
    _revisions,
    copy_sqlite,
    file_system,
    parse_url,
)
from hypersdk.state.tables import METADATA, counters, jobs, meta, runs

HEAD = ScriptDirectory.from_config(_alembic()).get_current_head()


def test_the_schema_is_made_once_and_is_what_the_tables_say(database: Database) -> None:
    assert database.upgrade() is None
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        counted = {row.name: row.value for row in connection.execute(sa.select(counters))}
        assert counted == {"revision": 0, "job": 0, "worker": 0, "bytes": 0}


def test_the_revisions_are_those_that_alembic_finds() -> None:
    """They are read off the names of files, so that Alembic is loaded only where there is something to upgrade."""
    found = ScriptDirectory.from_config(_alembic())
    assert [script.revision for script in found.walk_revisions()][::-1] == list(_revisions())
    assert found.get_heads() == [_revisions()[-1]]


def test_a_process_that_serves_or_copies_does_not_load_what_it_does_not_need() -> None:
    code = (
        "import sys, hypersdk.api.process, hypersdk.jobs.worker; print({'alembic', 'httpx', 'pygments'} &"
        " sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_older_schema_is_upgraded_with_its_rows(empty_database: Database) -> None:
    """Jobs of the first schema, one with a snapshot that is not undone: afterwards the job says so."""
    config = _alembic()
    changes = [
        {"kind": "snapshot", "data": {}, "made": True, "undone": False},
        {"kind": "lease", "data": {}, "made": True, "undone": True},
    ]
    with empty_database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        then = sa.Table("jobs", sa.MetaData(), autoload_with=connection)
        for number in (1, 2):
            row = {column.name: _something(column) for column in then.columns if not column.nullable}
            connection.execute(sa.insert(then).values(row | {"id": f"job-{number}", "number": number}))
        connection.execute(
            sa.insert(runs).values(job_id="job-2", record=json.dumps({"changes": changes}), updated_at=1.0)
        )
        connection.commit()
        connection.execute(sa.insert(counters), [{"name": name, "value": 7} for name in ("revision", "job", "worker")])
        connection.commit()
    assert empty_database.upgrade() == "0001"
    with empty_database.read() as connection:
        counted = {row.name: row.value for row in connection.execute(sa.select(counters))}
        assert counted == {"revision": 7, "job": 7, "worker": 7, "bytes": 0}
        found = connection.execute(sa.select(jobs.c.id, jobs.c.source_changes).order_by(jobs.c.id)).all()
        assert [tuple(row) for row in found] == [("job-1", 0), ("job-2", 1)]
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def _something(column: sa.Column[Any]) -> Any:
    """A value that the column takes."""
    return {bool: False, int: 0, float: 0.0, dict: {}}.get(column.type.python_type, "x")


def test_two_that_start_at_once_make_one_schema(sqlite_url: str) -> None:
    def upgrade(_: int) -> None:
        database = Database.open(sqlite_url)
        try:
            database.upgrade()
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, range(4)))  # raises what any of them raised


def test_a_schema_from_the_future_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError) as caught:
        database.upgrade()
    assert caught.value.code == "database_newer"


def test_an_sqlite_file_is_copied_before_its_schema_changes(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later release, whose change of the schema fails: nothing has changed, and the copy is there. The one after it
    is better."""
    database = Database.open(sqlite_url)
    database.upgrade()
    assert database.path is not None
    with database.write() as connection:
        connection.execute(sa.insert(meta).values(name="x", value="1"))
    _later_release(
        tmp_path, monkeypatch, "op.add_column('meta', sa.Column('more', sa.Text))\n    raise OSError('power')"
    )
    with pytest.raises(OSError, match="power"):
        database.upgrade()
    assert [column["name"] for column in sa.inspect(database.engine).get_columns("meta")] == ["name", "value"]
    _later_release(tmp_path, monkeypatch, "op.add_column('meta', sa.Column('more', sa.Text))")
    assert database.upgrade() == HEAD
    assert database.upgrade() is None
    assert "more" in [column["name"] for column in sa.inspect(database.engine).get_columns("meta")]
    database.close()
    copies = list(database.path.parent.glob("state.sqlite3.before-9998-*"))
    assert copies
    for copy in copies:
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        found = sqlite3.connect(copy)
        assert found.execute("SELECT * FROM meta WHERE name = 'x'").fetchall() == [("x", "1")]
        assert found.execute("SELECT version_num FROM alembic_version").fetchone() == (HEAD,)
        found.close()


def test_a_file_that_cannot_be_copied_keeps_its_schema(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(sqlite_url)
    database.upgrade()
    assert database.path is not None
    _later_release(tmp_path, monkeypatch, "op.add_column('meta', sa.Column('more', sa.Text))")
    taken = 1_800_000_000
    monkeypatch.setattr("hypersdk.state.database.time.time", lambda: taken)
    database.path.with_name(f"{database.path.name}.before-9998-{taken}.partial").mkdir()
    with pytest.raises(DatabaseError, match="cannot be copied") as caught:
        database.upgrade()
    assert caught.value.code == "database_io"
    assert [column["name"] for column in sa.inspect(database.engine).get_columns("meta")] == ["name", "value"]
    database.close()


def _later_release(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Migrations with one more."""
    place = folder / "later"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(Path(state.__file__).parent / "migrations", place, ignore=shutil.ignore_patterns("__pycache__"))
    head = f"import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '9998', '{HEAD}'\n"
    (place / "versions" / "9998_more.py").write_text(
        f"{head}branch_labels = depends_on = None\n\n\ndef upgrade():\n    {change}\n"
    )
    monkeypatch.setattr("hypersdk.state.database._MIGRATIONS", place)


def test_the_clock_is_the_servers(database: Database) -> None:
    with database.read() as connection:
        assert abs(database.now(connection) - time.time()) < 5


def test_revisions_rise_without_a_gap_whoever_writes(database: Database) -> None:
    seen: list[int] = []

    def bump() -> None:
        for _ in range(20):
            with database.write() as connection:
                seen.append(database.revision(connection))

    threads = [threading.Thread(target=bump) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(min(seen), min(seen) + 80))


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(meta).values(name="x", value="1"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as connection:
        assert connection.execute(sa.select(meta.c.name).where(meta.c.name == "x")).first() is None


def test_nobody_else_reads_the_file_and_a_copy_is_whole(sqlite_url: str, tmp_path: Path) -> None:
    database = Database.open(sqlite_url)
    database.upgrade()
    assert database.path is not None
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600
    with database.write() as connection:
        connection.execute(sa.insert(meta).values(name="x", value="1"))
    copy_sqlite(database.path, tmp_path / "copy.sqlite3")
    database.close()
    assert stat.S_IMODE((tmp_path / "copy.sqlite3").stat().st_mode) == 0o600
    copied = sqlite3.connect(tmp_path / "copy.sqlite3")
    assert copied.execute("SELECT value FROM meta WHERE name = 'x'").fetchone() == ("1",)
    copied.close()


@pytest.mark.parametrize("url", ["sqlite://", "mysql://h/d", "not a url", "sqlite:///:memory:"])
def test_urls_that_cannot_serve(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(url)
    assert caught.value.code == "database_url"


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    database = Database.open("postgresql://someone:hunter2@127.0.0.1:1/none")
    with pytest.raises(DatabaseError) as caught, database.read() as connection:
        connection.execute(sa.select(1))
    database.close()
    assert "hunter2" not in str(caught.value.as_dict())


def test_an_sqlite_that_lacks_what_is_needed_is_told(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr("sqlite3.sqlite_version", "3.34.1")
    with pytest.raises(UsageError, match=r"SQLite 3\.34\.1") as caught:
        Database.open(sqlite_url)
    assert caught.value.code == "sqlite_old"


def test_the_file_system_is_known(tmp_path: Path) -> None:
    assert file_system(tmp_path)
    assert file_system(Path("/proc/self/state.sqlite3")) == "proc"
