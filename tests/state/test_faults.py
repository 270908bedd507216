"""Faults of a database: each by its own code, told once, and gone when their cause is."""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.errors import HyperSDKError
from hypersdk.state import database as module
from hypersdk.state.database import Database, DatabaseError, copy_sqlite, sqlite_engine
from hypersdk.state.faults import DATABASE_DAMAGED, OVER_S, Outage, fault_of
from hypersdk.state.tables import meta
from tests.support.outages import SmallDisk, locked, spoil
from tests.support.waiting import eventually

FAULT = DatabaseError("planted fault")


@pytest.fixture
def found(sqlite_url: str) -> Iterator[Database]:
    """An SQLite file with a table that is too large for one page."""
    made = Database.open(sqlite_url)
    made.upgrade()
    with made.write() as connection:
        connection.execute(sa.insert(meta), [{"name": f"row{number}", "value": "x" * 500} for number in range(200)])
    yield made
    made.close()


def code_of(database: Database, *, writing: bool = True, size: int = 1) -> str:
    """The code of what keeps a call from being done; ``""`` where it is done."""
    try:
        if writing:
            with database.write() as connection:
                connection.execute(sa.delete(meta).where(meta.c.name == "a"))
                connection.execute(sa.insert(meta).values(name="a", value="b" * size))
        else:
            with database.read() as connection:
                connection.execute(sa.select(meta)).all()
    except DatabaseError as error:
        return error.code
    return ""


def opened(url: str) -> None:
    """What a daemon does with its database when it starts."""
    database = Database.open(url)
    try:
        database.upgrade()
        database.check()
    finally:
        database.close()


def impatient(database: Database) -> Database:
    """The same file, without long waits for a lock."""
    assert database.path is not None
    engine = sqlite_engine(database.path, "journal_mode=WAL", busy_s=0)
    return Database(engine, database.path)


# The log


def test_an_outage_is_told_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    outage = Outage("the test's database", tell=True, clock=lambda: now[0])
    for _ in range(1500):
        now[0] += 0.01
        outage.failed(FAULT, writing=True)
    assert outage.fault is FAULT
    outage.succeeded(writing=True)
    assert outage.fault is FAULT, "on a full disk one of two writes finds room"
    now[0] += OVER_S
    outage.succeeded(writing=False)
    assert outage.fault is FAULT, "reading says nothing about writing"
    outage.succeeded(writing=True)
    assert outage.fault is None
    for _ in range(3):
        outage.succeeded(writing=True)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("the test's database cannot be used: planted fault (database_down)")
    assert told[1] == "the test's database can be used again after 18 s; 1500 calls to it had failed"
    outage.failed(FAULT, writing=False)
    now[0] += OVER_S
    outage.succeeded(writing=False)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"] * 2


def test_a_command_says_itself_what_it_met(caplog: pytest.LogCaptureFixture) -> None:
    Outage("the database").failed(FAULT, writing=True)
    assert caplog.records == []


def test_damage_is_told_until_the_daemon_is_started_again() -> None:
    """The pages that are whole go on answering."""
    now = [0.0]
    outage = Outage("the database", clock=lambda: now[0])
    damage = DatabaseError("torn", code=DATABASE_DAMAGED)
    outage.failed(damage, writing=False)
    now[0] += 60
    outage.succeeded(writing=True)
    assert outage.fault is damage


def test_what_is_wrong_with_a_statement_is_no_fault_of_the_database(found: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), found.write() as connection:
        connection.execute(sa.insert(meta), [{"name": "same", "value": "1"}] * 2)
    assert fault_of(sa.exc.ProgrammingError("x", {}, Exception("y")), None) is None
    assert found.outage.fault is None


# SQLite


@pytest.mark.parametrize("how", ["header", "truncated", "page"])
def test_a_damaged_file(found: Database, sqlite_url: str, how: str) -> None:
    assert found.path is not None
    found.close()
    spoil(found.path, how)
    with pytest.raises(HyperSDKError) as caught:
        opened(sqlite_url)
    assert (caught.value.code, caught.value.exit_status) == ("database_damaged", 12)
    assert "state.sqlite3" in caught.value.message


def test_a_damaged_page_is_found_before_anything_reads_it(found: Database, sqlite_url: str) -> None:
    """The last one alone: the schema is read without a word."""
    assert found.path is not None
    found.close()
    with closing(sqlite3.connect(found.path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'meta'").fetchone()
    with found.path.open("r+b") as out:
        out.seek((root - 1) * 4096)
        out.write(b"\xa5" * 4096)
    again = Database.open(sqlite_url)
    try:
        assert again.upgrade() is None
        with pytest.raises(DatabaseError) as caught:
            again.check()
        assert caught.value.code == "database_damaged"
    finally:
        again.close()


def test_a_locked_file(found: Database) -> None:
    assert found.path is not None
    hasty = impatient(found)
    try:
        with locked(found.path):
            assert code_of(hasty) == "database_locked"
            assert code_of(hasty, writing=False) == "", "who reads waits for nobody"
        assert code_of(hasty) == ""
    finally:
        hasty.close()


def test_a_file_with_no_room(found: Database) -> None:
    """SQLite's own limit, which says what a full disk says."""

    @sa.event.listens_for(found.engine, "checkout")
    def _limited(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")

    assert code_of(found, size=1_000_000) == "database_full"
    assert found.outage.fault is not None
    assert code_of(found, writing=False) == ""


def test_a_full_disk(small_disk: SmallDisk) -> None:
    made = Database.open(f"sqlite:///{small_disk.folder / 'state.sqlite3'}")
    try:
        made.upgrade()
        with small_disk.full():
            assert code_of(made, size=2_000_000) == "database_full"
            assert Database.open(f"sqlite:///{small_disk.folder / 'other' / 'state.sqlite3'}").outage.fault is None
            with pytest.raises(DatabaseError) as caught:
                Database.open(f"sqlite:///{small_disk.folder / 'other' / 'state.sqlite3'}").upgrade()
            assert caught.value.code == "database_full"
        assert code_of(made, size=2_000) == ""
    finally:
        made.close()


def test_a_full_disk_that_a_copy_goes_to_is_not_the_databases(found: Database, small_disk: SmallDisk) -> None:
    """`hypervisord backup` would say that the daemon's own is full."""
    assert found.path is not None
    with small_disk.full(), pytest.raises(OSError) as caught:
        copy_sqlite(found.path, small_disk.folder / "copy")
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.folder.iterdir()) == []


def test_a_read_only_disk(small_disk: SmallDisk) -> None:
    url = f"sqlite:///{small_disk.folder / 'state.sqlite3'}"
    made = Database.open(url)
    made.upgrade()
    made.close()
    small_disk.read_only()
    again = Database.open(url)
    try:
        with pytest.raises(DatabaseError) as caught:
            again.upgrade()
        assert (caught.value.code, caught.value.exit_status) == ("database_read_only", 12)
        assert code_of(again) == "database_read_only"
        with pytest.raises(DatabaseError) as caught:
            Database.open(f"sqlite:///{small_disk.folder / 'new' / 'state.sqlite3'}").upgrade()
        assert caught.value.code == "database_read_only"
    finally:
        again.close()


def test_a_file_that_is_removed_takes_no_more_writes_and_no_empty_one_comes_in_its_place(found: Database) -> None:
    assert found.path is not None
    aside = found.path.with_name("aside")
    assert code_of(found) == ""
    found.path.rename(aside)
    assert code_of(found) == "database_gone"
    assert code_of(found, writing=False) == "database_gone"
    fault = found.writable()
    assert fault is not None
    assert fault.code == "database_gone"
    assert not found.path.exists()
    aside.rename(found.path)
    assert code_of(found, writing=False) == ""


def test_a_file_that_is_replaced_is_the_one_that_is_used(found: Database, tmp_path: Path) -> None:
    assert found.path is not None
    other = Database.open(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    other.upgrade()
    assert code_of(other) == ""
    other.close()
    assert code_of(found, writing=False) == ""
    found.close()
    assert other.path is not None
    other.path.rename(found.path)
    with found.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(meta)).scalar_one() == 1


# The probe


def test_the_probe_writes_now_and_then(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> float:
        with database.read() as connection:
            return float(connection.execute(sa.select(meta.c.value).where(meta.c.name == "probe")).scalar_one())

    assert database.writable() is None
    first = written()
    for _ in range(50):
        assert database.writable() is None
    assert written() == first, "it is asked of the database at most every few seconds"
    monkeypatch.setattr(module, "PROBE_S", 0.0)
    assert database.writable() is None
    assert written() > first


def test_the_probe_waits_for_no_lock(found: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.path is not None
    monkeypatch.setattr(module, "PROBE_WAIT_S", 0.2)
    monkeypatch.setattr(module, "PROBE_FAILED_S", 0.0)
    monkeypatch.setattr("hypersdk.state.faults.OVER_S", 0.0)
    with locked(found.path):
        began = time.monotonic()
        fault = found.writable()
        assert time.monotonic() - began < 5
        assert fault is not None
        assert fault.code == "database_locked"
    assert found.writable() is None


def test_a_postgresql_that_may_not_be_written(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = Database.open(postgres_url)
    try:
        made.upgrade()
        name = postgres_url.rpartition("/")[2]
        with made.write() as connection:
            connection.execute(sa.text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        made.close()  # for new connections
        assert code_of(made) == "database_read_only"
        fault = made.writable()
        assert fault is not None
        assert fault.code == "database_read_only"
        assert code_of(made, writing=False) == ""
    finally:
        made.close()


def wait_in_thread(database: Database, turns: list[float]) -> Future[None]:
    pool = ThreadPoolExecutor(1)
    waiting = pool.submit(database.wait_until_usable, lambda: turns.append(time.monotonic()))
    pool.shutdown(wait=False)
    return waiting


def test_who_begins_in_an_outage_waits_and_says_so_once(
    found: Database, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And makes no empty file in place of one that was moved away."""
    assert found.path is not None
    found.close()
    folder, aside = found.path.parent, found.path.parent.with_name("aside")
    folder.rename(aside)
    again = Database.open(sqlite_url)
    again.outage.tell = True
    turns: list[float] = []
    waiting = wait_in_thread(again, turns)
    try:
        eventually(lambda: len(turns) >= 4)
        assert not waiting.done()
        assert not folder.exists()
        aside.rename(folder)
        waiting.result(30)
    finally:
        again.close()
    told = [record.getMessage().split(":")[0].split(" after")[0] for record in caplog.records]
    assert told == ["the database cannot be used", "the database can be used again"]


def test_what_no_waiting_helps_is_not_waited_for(found: Database, sqlite_url: str) -> None:
    assert found.path is not None
    found.close()
    spoil(found.path, "header")
    again = Database.open(sqlite_url)
    try:
        with pytest.raises(DatabaseError) as caught:
            again.wait_until_usable(lambda: None)
        assert caught.value.code == "database_damaged"
    finally:
        again.close()


def test_processes_that_try_the_database_at_once_are_not_in_each_others_way(database: Database) -> None:
    """On PostgreSQL two that write the same row one after the other met a violation of its key, which is no fault of
    the database."""
    url = database.engine.url.render_as_string(hide_password=False)
    others = [Database.open(url) for _ in range(4)]

    def tries(other: Database) -> None:
        for _ in range(25):
            other._probe()

    try:
        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(tries, others))
    finally:
        for other in others:
            other.close()
