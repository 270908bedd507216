"""A state that cannot be written for a while: every job ends or goes on soon after it can, and none says "running" that
nobody runs.

Real workers on a real full file system, a real lock, a real PostgreSQL that is stopped. The moments are drawn from the
seed of the run.
"""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from hypersdk.errors import TargetError
from hypersdk.jobs import worker
from hypersdk.jobs.attempt import JobAttempt
from hypersdk.jobs.claims import MOST_LOST, Claims
from hypersdk.jobs.engine import Tables
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import ENDED, JobEvent, JobState, JobStateError
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.worker import LOOKS, LostAttempts, Running
from hypersdk.simulator.config import DiskSpec
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.tables import attempts, job_log, jobs
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.databases import PostgresServer, fresh_database, postgres_of_its_own
from tests.support.jobrecords import new_job, submit
from tests.support.outages import SmallDisk, locked, spoil
from tests.support.seeds import SEED
from tests.support.site import SMALL, Site, SiteFactory, machines, source

pytestmark = pytest.mark.waits

MEDIUM = DiskSpec(32 * MiB, allocated_bytes=24 * MiB)
TAKE_OVER_S = 4.0
GOES_ON_S = 30.0
OPTIONS = {"take_over_s": TAKE_OVER_S, "jobs_per_worker": 4}


def own_of(database: Database, engine: FakeEngine, working: Running) -> LostAttempts:
    return LostAttempts(Claims(database, "w1"), engine, lambda: working)  # type: ignore[arg-type]


class FakeEngine:
    """What the engine says that this worker runs."""

    def __init__(self, *begun: str) -> None:
        self.found = list(begun)
        self.given_up: list[str] = []

    def begun(self) -> list[str]:
        return self.found

    def give_up(self, workflow_id: str) -> None:
        self.given_up.append(workflow_id)
        self.found.remove(workflow_id)


NOTHING = Running(frozenset(), {})


@pytest.mark.parametrize("asked", ["", "pause", "cancel"])
def test_a_row_that_its_own_worker_does_not_have_is_due_again(database: Database, asked: str) -> None:
    store, claims = JobStore(database), Claims(database, "w1")
    job = submit(store, new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    if asked:
        getattr(store, asked)(job.id)
    there = Running(frozenset({f"{job.id}/1"}), {job.id: claim.epoch})
    engine = FakeEngine(f"{job.id}/1")
    held = store.get(job.id).state
    for working in (there, Running(frozenset({f"{job.id}/1"}), {job.id: None})):
        own = own_of(database, engine, working)
        for _ in range(LOOKS + 2):
            own.look()
        assert store.get(job.id).state is held, "it has it"
    own = own_of(database, engine, NOTHING)
    own.look()
    assert store.get(job.id).state is held, "one look is none: it may have ended between the two questions"
    for _ in range(LOOKS):
        own.look()
    now = store.get(job.id)
    assert now.state is {"": JobState.QUEUED, "pause": JobState.PAUSED, "cancel": JobState.CANCELLING}[asked]
    assert now.worker_id is None
    assert now.attempt == (1 if asked == "pause" else 2)
    assert engine.given_up == [f"{job.id}/1"], "it takes no place of the queue any more"
    (attempt,) = store.attempts(job.id)
    assert (attempt.outcome, attempt.error and attempt.error["code"]) == ("lost", "attempt_lost")


def test_an_older_epoch_is_not_in_hand_and_a_job_of_another_is_left_alone(database: Database) -> None:
    store, claims, other = JobStore(database), Claims(database, "w1"), Claims(database, "w2")
    job, foreign = (submit(store, new_job(target=f"/tmp/{one}")) for one in "ab")
    assert claims.claim(job.id, 1)
    assert other.claim(foreign.id, 1)
    own = own_of(database, FakeEngine(), Running(frozenset(), {job.id: 7}))
    for _ in range(LOOKS + 1):
        own.look()
    assert store.get(job.id).state is JobState.QUEUED
    assert store.get(foreign.id).state is JobState.RUNNING
    assert claims.requeue_lost(job.id, 1) is None, "it has moved on"


def test_an_attempt_that_never_began_is_due_again(database: Database) -> None:
    """The engine gave it to this worker, and the claim could not be written."""
    store = JobStore(database)
    job = submit(store, new_job())
    with database.write() as connection:
        connection.execute(sa.update(jobs).values(enqueued=1))
    engine = FakeEngine(f"{job.id}/1")
    own = own_of(database, engine, NOTHING)
    for _ in range(LOOKS + 1):
        own.look()
    assert engine.given_up == [f"{job.id}/1"]
    now = store.get(job.id)
    assert (now.state, now.attempt, now.enqueued) == (JobState.QUEUED, 2, 1)


def test_a_job_that_is_lost_every_time_fails(database: Database) -> None:
    store, claims = JobStore(database), Claims(database, "w1")
    job = submit(store, new_job())
    with database.write() as connection:
        connection.execute(
            sa.insert(attempts),
            [
                {
                    "job_id": job.id,
                    "epoch": -number,
                    "attempt": 1,
                    "worker_id": "w1",
                    "started_at": 1.0,
                    "ended_at": 2.0,
                    "outcome": "lost",
                }
                for number in range(1, MOST_LOST)
            ],
        )
    claim = claims.claim(job.id, 1)
    assert claim is not None
    assert claims.requeue_lost(job.id, claim.epoch) is JobState.FAILED
    error = store.get(job.id).error
    assert error is not None
    assert error["code"] == "attempts_exhausted"


# Real ones


@contextmanager
def both_locked(folder: Path) -> Iterator[None]:
    with locked(folder / "state.sqlite3"), locked(folder / "engine.sqlite3"):
        yield


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


def told_once(made: Site, log: Path, expected: set[str]) -> None:
    """An outage is two lines for each database; and the worker says of each job once that it stops."""

    def told(what: str) -> set[str]:
        found = [line for line in log.read_text().splitlines() if what in line]
        assert len(found) <= 2, found
        return {
            name
            for name in ("the database", "the job engine's database")
            for line in found
            if f" {name} {what}" in line
        }

    begun = told("cannot be used")
    assert begun >= expected
    made.until(lambda: told("can be used again") == begun, GOES_ON_S)
    noise = [line for line in log.read_text().splitlines() if re.search("WARNING|ERROR|Traceback|failed|cannot", line)]
    assert len(noise) < 20, noise


def nobody_says_running(made: Site) -> None:
    with made.database.read() as connection:
        query = sa.select(sa.func.count()).where(
            jobs.c.worker_id.is_not(None), jobs.c.state.not_in([one.value for one in ENDED])
        )
        assert connection.execute(query).scalar_one() == 0


def goes_on(made: Site, job: JobRecord, since: float) -> bool:
    """It has ended, or bytes came after that moment of the database's clock."""
    now = made.store.get(job.id)
    return now.state in ENDED or (
        now.state is JobState.RUNNING
        and now.updated_at.timestamp() > since
        and now.progress["rate_bytes_s"] is not None
    )


def through(made: Site, outage: AbstractContextManager[None], lasts_s: float, *told: str) -> None:
    """Three jobs, of which one would end and one copies through the outage, and one that is asked to be cancelled in
    the middle of it."""
    draw = random.Random(SEED)
    before = source(made)
    process = made.worker()
    ends, copies, cancelled = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"}, {"vm_path": "web-2"})
    made.copied(copies, 2 * MiB)
    made.copied(cancelled, MiB)
    time.sleep(draw.uniform(0, 1))
    with outage:
        time.sleep(lasts_s)
    with made.database.read() as connection:
        since = made.database.now(connection)
    made.until(lambda: all(goes_on(made, job, since) for job in (ends, copies, cancelled)), GOES_ON_S)
    with suppress(JobStateError):  # it may have ended
        made.store.cancel(cancelled.id)
    ended = made.until_ended([ends, copies, cancelled])
    assert [job.state for job in ended[:2]] == [JobState.COMPLETED] * 2, made.told()
    assert ended[2].state in (JobState.CANCELLED, JobState.COMPLETED)
    assert source(made) == before
    nobody_says_running(made)
    told_once(made, process.log, set(told))
    assert process.process.poll() is None, "it is the same worker all the time"


def pending(made: Site) -> list[tuple[object, ...]]:
    return made.engine_rows("SELECT workflow_uuid FROM workflow_status WHERE status IN ('PENDING', 'ENQUEUED')")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "locked"])
def test_files_that_cannot_be_written_for_a_while(site: SiteFactory, small_disk: SmallDisk, how: str) -> None:
    """Whoever waits for a lock of ours waits longer than this one lasts; the engine does not."""
    made = site(machines=machines(3, (SMALL, MEDIUM)), rate_bytes_s=3 * MiB, options=OPTIONS)
    if how == "full":
        through(made, small_disk.full(), 6, "the database")
    else:
        through(made, both_locked(small_disk.folder), 12, "the job engine's database")
    made.until(lambda: pending(made) == [], GOES_ON_S)


@pytest.mark.slow
def test_a_damaged_file_of_the_engine_is_put_aside_and_jobs_go_on(site: SiteFactory) -> None:
    made = site(machines=machines(2, (SMALL, MEDIUM)), rate_bytes_s=6 * MiB, options=OPTIONS)
    before = source(made)
    process = made.worker()
    jobs_of = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"})
    made.copied(jobs_of[1], MiB)
    process.end(signal.SIGKILL)
    spoil(made.folder / "db" / "engine.sqlite3", "page")
    made.worker()
    assert {job.state for job in made.until_ended(jobs_of, 2 * GOES_ON_S)} == {JobState.COMPLETED}
    assert source(made) == before
    (aside,) = (made.folder / "db").glob("engine.sqlite3.damaged-*")
    assert aside.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("lasts_s", [1.0, 2 * TAKE_OVER_S])
def test_a_postgresql_that_is_stopped_for_a_while(site: SiteFactory, lasts_s: float) -> None:
    with postgres_of_its_own() as server, fresh_database(server.url) as url:
        made = site(machines=machines(3, (SMALL, MEDIUM)), rate_bytes_s=3 * MiB, options=OPTIONS, url=url)
        through(made, stopped(server), lasts_s, "the database")
        made.close()


class Deaf:
    """An engine whose file is locked; everything else that a worker does in its turns is counted."""

    may_judge = declared_dead = False

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def dispatch(self) -> None:
        self.done["dispatch"] += 1
        raise DatabaseError("locked", code="database_locked")

    def count(self, what: str) -> Callable[..., None]:
        def counted(*_: object) -> None:
            self.done[what] += 1

        return counted


def test_what_needs_one_database_is_done_while_the_other_cannot_be_used(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = Deaf()
    made = worker.Worker(DaemonSettings(state_dir=tmp_path, take_over_s=2.0), database, {})
    fakes: Any = SimpleNamespace(run=deaf.count("reconcile"), look=deaf.count("own"), tick=deaf.count("undo"))
    monkeypatch.setattr(worker, "Reconciler", lambda *_: fakes)
    monkeypatch.setattr(worker, "LostAttempts", lambda *_: fakes)
    monkeypatch.setattr(worker, "LOST_AFTER_S", 0.0)
    monkeypatch.setattr(made, "_renew_streams", deaf.count("renew"))
    engine: Any = deaf
    turns = threading.Timer(3.0, made.stop)
    turns.start()
    made._work(engine, Claims(database, "w1"), engine, fakes, deaf.count("alive"))
    turns.join()
    assert {"dispatch", "undo", "renew", "reconcile", "own"} <= deaf.done.keys()
    assert deaf.done["alive"] > sum(deaf.done.values()) / 2, "each step may take half a minute"


def test_a_connection_of_before_a_restart_is_no_outage(tmp_path: Path, postgres_url: str) -> None:
    """The pool replaces it; and whoever is stopped in a transaction of the engine holds its locks no longer than a
    minute."""
    tables = Tables(DaemonSettings(state_dir=tmp_path, database_url=postgres_url))
    try:
        with tables.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == "1min"
            mine = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        other = Database.open(postgres_url)
        with other.write() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": mine})
        other.close()
        tables.check()
        assert tables.outage.fault is None
    finally:
        tables.engine.dispose()


def test_an_engine_whose_file_is_another_one_needs_a_new_start(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise DatabaseError("gone", code="engine_gone")

    made = worker.Worker(DaemonSettings(state_dir=tmp_path), database, {})
    fakes: Any = SimpleNamespace(
        run=gone, look=gone, tick=lambda: None, dispatch=gone, declared_dead=False, may_judge=False
    )
    monkeypatch.setattr(worker, "Reconciler", lambda *_: fakes)
    with pytest.raises(DatabaseError) as caught:
        made._work(fakes, Claims(database, "w1"), fakes, fakes, lambda: None)
    assert caught.value.code == "engine_gone"


def test_an_end_that_cannot_be_written_is_kept_until_it_can(database: Database) -> None:
    store, claims = JobStore(database), Claims(database, "w1")
    job = submit(store, new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    waits: list[float] = []

    def ending(seconds: float) -> bool:
        waits.append(seconds)
        return False

    tries = iter([True, True, False])

    class Full(Claims):
        def end(self, *given: Any, **more: Any) -> JobState:
            if next(tries):
                raise DatabaseError("full", code="database_full")
            return super().end(*given, **more)

    context: Any = SimpleNamespace(claims=Full(database, "w1"), ending=ending)
    attempt = JobAttempt(context, claim, CancelToken())
    attempt.progress.log("the last line")
    assert attempt.store_end(JobEvent.FAIL, error=TargetError("full", code="no_space")) is JobState.FAILED
    assert len(waits) == 2
    with database.read() as connection:
        data = connection.execute(sa.select(job_log.c.data).where(job_log.c.job_id == job.id)).scalars().all()
    assert b"".join(data).count(b"the last line") == 1, "what was written before the end failed is not written again"


def test_a_worker_that_ends_first_leaves_the_job_to_the_next(database: Database) -> None:
    store, claims = JobStore(database), Claims(database, "w1")
    job = submit(store, new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    database.close()

    class Down(Claims):
        def end(self, *_given: Any, **_more: Any) -> JobState:
            raise DatabaseError("down")

    context: Any = SimpleNamespace(claims=Down(database, "w1"), ending=lambda _: True)
    with pytest.raises(DatabaseError):
        JobAttempt(context, claim, CancelToken()).store_end(JobEvent.REQUEUE)
    assert store.get(job.id).state is JobState.RUNNING
