"""Signs of life, and the guard that stops a worker which gave none."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from hypersdk.jobs.claims import Claims, StaleAttempt
from hypersdk.jobs.heartbeat import Heartbeat, declare_dead
from hypersdk.jobs.statistics import list_workers
from hypersdk.jobs.store import JobStore
from hypersdk.state.database import Database
from hypersdk.state.tables import workers
from tests.support.clock import Clock
from tests.support.jobrecords import new_job, submit

pytestmark = pytest.mark.waits

TAKE_OVER_S = 30.0


def heartbeat(database: Database, clock: Clock, worker: str = "w1") -> Heartbeat:
    """One that beats when the test says so."""
    return Heartbeat(database, worker, ["root"], beat_s=3600, take_over_s=TAKE_OVER_S, clock=clock)


def silent(database: Database, seconds: float) -> None:
    """As if the last beats were so long ago on the database's clock."""
    with database.write() as connection:
        connection.execute(sa.update(workers).values(beat=workers.c.beat - seconds))


def test_the_guard_stops_at_half_of_the_take_over_time_and_a_beat_frees_it(database: Database) -> None:
    clock = Clock()
    with heartbeat(database, clock) as beating:
        clock.now += TAKE_OVER_S / 2
        beating.guard()
        clock.now += 0.1
        with pytest.raises(StaleAttempt):
            beating.guard()
        beating.beat()
        beating.guard()


def test_a_process_that_slept_is_stopped_before_it_asks_anybody(database: Database) -> None:
    """The machine's clock tells it; no call is needed. Once another has taken over, no beat helps any more."""
    clock = Clock()
    with heartbeat(database, clock) as beating:
        clock.now += 3600
        silent(database, 3600)
        with pytest.raises(StaleAttempt):
            beating.guard()
        assert declare_dead(database, take_over_s=TAKE_OVER_S) == ["w1"]
        beating.beat()
        assert beating.declared_dead
        clock.now -= 3600
        with pytest.raises(StaleAttempt):
            beating.guard()
    assert [worker.state for worker in list_workers(database).rows] == ["dead"]


def test_a_beat_counts_from_when_it_was_begun(database: Database) -> None:
    """A database that answers late confirms what was, not what is."""
    clock = Clock()
    with heartbeat(database, clock) as beating:

        @sa.event.listens_for(database.engine, "before_cursor_execute")
        def slow(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("UPDATE workers"):
                clock.now += 20

        beating.beat()
        sa.event.remove(database.engine, "before_cursor_execute", slow)
        with pytest.raises(StaleAttempt):
            beating.guard()


def test_a_worker_that_beats_is_never_declared_dead_and_a_silent_one_by_one_other(database: Database) -> None:
    clock = Clock()
    with heartbeat(database, clock, "silent"):
        silent(database, TAKE_OVER_S + 1)
        with heartbeat(database, clock, "beating") as beating:
            beating.beat()
            found: list[str] = []
            threads = [
                threading.Thread(target=lambda: found.extend(declare_dead(database, take_over_s=TAKE_OVER_S)))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert found == ["silent"]


def test_a_dead_worker_that_still_has_jobs_is_declared_again(database: Database) -> None:
    """Whoever declared it may have been killed before it took the jobs over."""
    store = JobStore(database)
    job = submit(store, new_job())
    with heartbeat(database, Clock(), "w1"):
        assert Claims(database, "w1").claim(job.id, 1) is not None
    assert declare_dead(database, take_over_s=TAKE_OVER_S) == []  # it ended by itself, a moment ago
    for _ in range(2):
        silent(database, TAKE_OVER_S + 1)
        assert declare_dead(database, take_over_s=TAKE_OVER_S) == ["w1"]
        assert declare_dead(database, take_over_s=TAKE_OVER_S) == []
    assert Claims(database, "w2").claim(job.id, 1) is not None
    silent(database, TAKE_OVER_S + 1)
    assert declare_dead(database, take_over_s=TAKE_OVER_S) == []


def test_nobody_judges_others_after_a_silence_that_may_be_the_databases(database: Database) -> None:
    clock = Clock()
    with heartbeat(database, clock) as beating:
        for _ in range(4):
            assert not beating.may_judge  # it has only just come
            clock.now += TAKE_OVER_S / 3
            beating.beat()
        assert beating.may_judge
        clock.now += TAKE_OVER_S
        assert not beating.may_judge  # nothing was confirmed
        beating.beat()
        for _ in range(4):
            assert not beating.may_judge  # others may need as long as we did to come through
            clock.now += TAKE_OVER_S / 3
            beating.beat()
        assert beating.may_judge


def test_a_worker_that_starts_again_is_alive_with_another_epoch(database: Database) -> None:
    clock = Clock()
    first = heartbeat(database, clock)
    with first:
        silent(database, TAKE_OVER_S + 1)
        declare_dead(database, take_over_s=TAKE_OVER_S)
        with heartbeat(database, clock) as second:
            second.beat()
            assert not second.declared_dead
            first.beat()
            assert first.declared_dead
            (worker,) = list_workers(database).rows
            assert (worker.state, worker.roots) == ("alive", ("root",))
            second.draining()
            assert list_workers(database).rows[0].state == "draining"
