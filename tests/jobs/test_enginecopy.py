"""The engine's file is copied before another version of its library opens it: once, whole, and not without need."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.errors import HyperSDKError
from hypersdk.jobs.enginecopy import copy_before_upgrade
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.state.database import Database
from hypersdk.state.tables import meta
from tests.support.site import Site

pytestmark = pytest.mark.waits


@pytest.fixture
def settings(tmp_path: Path) -> DaemonSettings:
    return DaemonSettings(state_dir=tmp_path)


@pytest.fixture
def state(settings: DaemonSettings) -> Iterator[Database]:
    database = Database.open(settings.url)
    database.upgrade()
    yield database
    database.close()


def _fill(path: Path, value: int) -> None:
    with closing(sqlite3.connect(path)) as engine, engine:
        engine.execute("PRAGMA journal_mode=WAL")
        engine.execute("CREATE TABLE IF NOT EXISTS facts (value INTEGER)")
        engine.execute("INSERT INTO facts VALUES (?)", (value,))


def _facts(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as engine:
        return [value for (value,) in engine.execute("SELECT value FROM facts ORDER BY value")]


def _copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("engine.sqlite3.*before*"))


def test_a_copy_is_made_when_the_version_changes_and_only_then(
    settings: DaemonSettings, state: Database, tmp_path: Path
) -> None:
    assert copy_before_upgrade(settings, state, "1.0") is None, "there is no file yet"
    _fill(tmp_path / "engine.sqlite3", 1)
    assert copy_before_upgrade(settings, state, "1.0") is None
    first = copy_before_upgrade(settings, state, "2.0")
    assert first is not None
    assert first.name.startswith("engine.sqlite3.before-2.0-")
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    _fill(tmp_path / "engine.sqlite3", 2)
    assert copy_before_upgrade(settings, state, "2.0") is None
    back = copy_before_upgrade(settings, state, "1.0")
    assert back is not None, "an older version is another one too"
    assert (_facts(first), _facts(back)) == ([1], [1, 2])
    assert _copies(tmp_path) == sorted([first, back])


def test_a_file_of_an_unknown_version_is_copied_while_it_is_in_use(
    settings: DaemonSettings, state: Database, tmp_path: Path
) -> None:
    path = tmp_path / "engine.sqlite3"
    _fill(path, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO facts VALUES (2)")  # not committed
        copy = copy_before_upgrade(settings, state)
    assert copy is not None
    assert _facts(copy) == [1]
    assert copy_before_upgrade(settings, state, version("dbos")) is None


def test_of_many_that_start_at_once_one_makes_it(settings: DaemonSettings, state: Database, tmp_path: Path) -> None:
    _fill(tmp_path / "engine.sqlite3", 1)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: copy_before_upgrade(settings, state, "2.0"), range(8)))
    assert [one for one in made if one is not None] == _copies(tmp_path)
    assert len(_copies(tmp_path)) == 1


def test_without_a_copy_it_is_not_opened(settings: DaemonSettings, state: Database, tmp_path: Path) -> None:
    (tmp_path / "engine.sqlite3").write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(HyperSDKError) as caught:
            copy_before_upgrade(settings, state, "2.0")
        assert caught.value.code == "engine_copy"
    assert _copies(tmp_path) == [], "halves are left"
    (tmp_path / "engine.sqlite3").unlink()
    _fill(tmp_path / "engine.sqlite3", 1)
    assert copy_before_upgrade(settings, state, "2.0") is not None


def test_postgresql_has_no_file(tmp_path: Path, state: Database) -> None:
    settings = DaemonSettings(state_dir=tmp_path, database_url="postgresql://h@db.example.com/h")
    assert copy_before_upgrade(settings, state, "2.0") is None
    with state.read() as connection:
        assert connection.execute(sa.select(meta).where(meta.c.name == "engine")).first() is None


def test_workers_that_find_another_version_keep_the_file_as_it_was(site: Callable[..., Site]) -> None:
    made = site()
    made.worker().end()
    folder = made.folder / "db"
    assert _copies(folder) == []
    with made.database.write() as connection:
        changed = sa.update(meta).where(meta.c.name == "engine", meta.c.value == version("dbos")).values(value="0.1")
        assert connection.execute(changed).rowcount == 1
    _fill(folder / "engine.sqlite3", 1)
    started = [made.start(index=index) for index in range(2)]
    for one in started:
        assert one.process.stdout is not None
        assert one.process.stdout.readline() == "ready\n", one.log.read_text()
    (copy,) = _copies(folder)
    assert copy.name.startswith(f"engine.sqlite3.before-{version('dbos')}-")
    assert _facts(copy) == [1]
