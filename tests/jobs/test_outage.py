"""A state that cannot be written for a while: every job ends or goes on soon after it can, and none says "running" that nobody runs.

Real workers on a real full file system, a real lock, a real PostgreSQL that is stopped. The moments are drawn from a seed (HYPERSDK_KILL_SEED).
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.jobs.claims import MOST_LOST, Claims
from hypersdk.jobs.records import Job
from hypersdk.jobs.states import ENDED, JobState
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.worker import LOOKS, Own, Working
from hypersdk.simulator.config import DiskSpec
from hypersdk.state.database import Database
from hypersdk.state.tables import attempts, jobs
from hypersdk.units import MiB
from tests.jobs.test_durable import SEED, SMALL, SiteFactory, machines, source
from tests.jobs.test_states import new_job
from tests.support.databases import PostgresServer, fresh_database, postgres_of_its_own
from tests.support.outages import SmallDisk, locked, spoil
from tests.support.site import Site

MEDIUM = DiskSpec(32 * MiB, allocated_bytes=24 * MiB)
TAKE_OVER_S = 4.0
GOES_ON_S = 30.0
OPTIONS = {"take_over_s": TAKE_OVER_S, "jobs_per_worker": 4}


def own_of(database: Database, engine: FakeEngine, working: Working) -> Own:
    return Own(Claims(database, "w1"), engine, lambda: working)  # type: ignore[arg-type]


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


NOTHING = Working(frozenset(), {})


@pytest.mark.parametrize("asked", ["", "pause", "cancel"])
def test_a_row_that_its_own_worker_does_not_have_is_due_again(database: Database, asked: str) -> None:
    store, claims = JobStore(database), Claims(database, "w1")
    job, _ = store.submit(new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    if asked:
        getattr(store, asked)(job.id)
    there = Working(frozenset({f"{job.id}/1"}), {job.id: claim.epoch})
    engine = FakeEngine(f"{job.id}/1")
    held = store.get(job.id).state
    for working in (there, Working(frozenset({f"{job.id}/1"}), {job.id: None})):
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
    assert (now.worker_id, now.request) == (None, "cancel" if asked == "cancel" else None)
    assert now.attempt == (1 if asked == "pause" else 2)
    assert engine.given_up == [f"{job.id}/1"], "it takes no place of the queue any more"
    (attempt,) = store.attempts(job.id)
    assert (attempt.outcome, attempt.error and attempt.error["code"]) == ("lost", "attempt_lost")


def test_an_older_epoch_is_not_in_hand_and_a_job_of_another_is_left_alone(database: Database) -> None:
    store, claims, other = JobStore(database), Claims(database, "w1"), Claims(database, "w2")
    job, foreign = (store.submit(new_job(output_path=f"/tmp/{one}"))[0] for one in "ab")
    assert claims.claim(job.id, 1)
    assert other.claim(foreign.id, 1)
    own = own_of(database, FakeEngine(), Working(frozenset(), {job.id: 7}))
    for _ in range(LOOKS + 1):
        own.look()
    assert store.get(job.id).state is JobState.QUEUED
    assert store.get(foreign.id).state is JobState.RUNNING
    assert claims.put_back(job.id, 1) is None, "it has moved on"


def test_an_attempt_that_never_began_is_due_again(database: Database) -> None:
    """The engine gave it to this worker, and the claim could not be written."""
    store = JobStore(database)
    job, _ = store.submit(new_job())
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
    job, _ = store.submit(new_job())
    with database.write() as connection:
        connection.execute(sa.insert(attempts), [
            {"job_id": job.id, "epoch": -number, "attempt": 1, "worker_id": "w1", "started_at": 1.0, "ended_at": 2.0, "outcome": "lost"}
            for number in range(1, MOST_LOST)
        ])  # fmt: skip
    claim = claims.claim(job.id, 1)
    assert claim is not None
    assert claims.put_back(job.id, claim.epoch) is JobState.FAILED
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


def goes_on(made: Site, job: Job, since: float) -> bool:
    """It has ended, or bytes came after that moment of the database's clock."""
    now = made.store.get(job.id)
    return now.state in ENDED or (
        now.state is JobState.RUNNING and now.updated_at > since and now.progress["rate_bytes_s"] is not None
    )


def through(made: Site, outage: AbstractContextManager[None], lasts_s: float, *told: str) -> None:
    """Three jobs, of which one would end and one copies through the outage, and one that is asked to be cancelled in the middle of it."""
    draw = random.Random(SEED)
    print(f"HYPERSDK_KILL_SEED={SEED}")
    before = source(made)
    worker = made.worker()
    ends, copies, cancelled = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"}, {"vm_path": "web-2"})
    made.copied(copies, 2 * MiB)
    made.copied(cancelled, MiB)
    time.sleep(draw.uniform(0, 1))
    with outage:
        time.sleep(lasts_s)
    with made.database.read() as connection:
        since = made.database.now(connection)
    began = time.monotonic()
    made.until(lambda: all(goes_on(made, job, since) for job in (ends, copies, cancelled)), GOES_ON_S)
    took = time.monotonic() - began
    assert took < GOES_ON_S, made.told()
    if made.store.get(cancelled.id).state not in ENDED:
        made.service.cancel(cancelled.id)
    ended = made.until_ended([ends, copies, cancelled])
    assert [job.state for job in ended[:2]] == [JobState.COMPLETED] * 2, made.told()
    assert ended[2].state in (JobState.CANCELLED, JobState.COMPLETED)
    assert source(made) == before
    nobody_says_running(made)
    told_once(made, worker.log, set(told))
    assert worker.process.poll() is None, "it is the same worker all the time"


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
    worker = made.worker()
    jobs_of = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"})
    made.copied(jobs_of[1], MiB)
    worker.end(signal.SIGKILL)
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
