"""An attempt that will not be run: whatever the job was doing, it is neither lost nor begun twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa

from hypersdk.jobs.claims import Claims
from hypersdk.jobs.reconcile import PART, Reconciler
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import JobEvent, JobState
from hypersdk.jobs.store import Filter, JobStore
from hypersdk.migration.register import Register, entry_of
from hypersdk.state.pages import PageRequest
from hypersdk.state.tables import jobs
from tests.support.jobrecords import new_job, submit


@pytest.mark.parametrize(
    ("asked", "state", "due"),
    [
        ((), JobState.QUEUED, True),
        (("claim",), JobState.QUEUED, True),
        (("claim", "pause"), JobState.PAUSED, False),
        (("claim", "cancel"), JobState.CANCELLING, True),
    ],
    ids=["queued", "running", "pausing", "cancelling"],
)
def test_a_draining_worker_hands_back_what_it_would_have_begun(
    store: JobStore, asked: tuple[str, ...], state: JobState, due: bool
) -> None:
    """Also what it had when it died: the engine gives it that first."""
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    for act in asked:
        _ = claims.claim(job.id, 1) if act == "claim" else getattr(store, act)(job.id)
    claims.hand_back(job.id, 1)
    now = store.get(job.id)
    assert (now.state, now.worker_id) == (state, None)
    assert now.attempt == (2 if due else 1)
    if state is JobState.PAUSED:
        store.resume(job.id)
    claim = claims.claim(job.id, 2)
    assert claim is not None
    assert claim.job.state is (JobState.CANCELLING if state is JobState.CANCELLING else JobState.RUNNING)


def test_a_job_that_has_moved_on_is_left_alone(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    store.cancel(job.id)
    claims.hand_back(job.id, 1)
    assert store.get(job.id).state is JobState.CANCELLED
    store.retry(job.id)
    claims.hand_back(job.id, 1)
    assert store.get(job.id).attempt == 2


def test_a_cancel_that_comes_while_a_job_is_paused_is_done_by_another_attempt(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    store.pause(job.id)
    store.cancel(job.id)
    assert claims.end(claim, JobEvent.PAUSED) is JobState.CANCELLING
    now = store.get(job.id)
    assert (now.attempt, now.worker_id) == (2, None)


class Forgetful:
    """An engine that has lost every attempt."""

    asked: ClassVar[list[str]] = []

    def ended(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        self.asked.extend(workflow_ids)
        return dict.fromkeys(workflow_ids, "absent")

    def prune(self, job_ids: Sequence[str], before: float) -> None:
        """Nothing to forget."""


def test_a_lost_job_is_found_behind_any_queue(store: JobStore) -> None:
    """The running one at once; of those that are queued a part in each round, until all were looked at."""
    running = submit(store, new_job())
    assert Claims(store.database, "w1").claim(running.id, 1) is not None
    store.submit([new_job(name=f"vm {number}") for number in range(PART + 100)])
    with store.database.write() as connection:
        connection.execute(sa.update(jobs).values(enqueued=jobs.c.attempt, updated_at=jobs.c.updated_at - 60))
    engine = Forgetful()
    engine.asked.clear()
    reconciler = Reconciler(store.database, engine, DaemonSettings())  # type: ignore[arg-type]
    reconciler.run()
    assert store.get(running.id).state is JobState.QUEUED
    assert store.get(running.id).attempt == 2
    reconciler.run()
    assert len({*engine.asked}) == PART + 101
    assert all(job.attempt == 2 for job in store.page(Filter(), PageRequest("number")).rows)


def test_what_a_dead_worker_was_undoing_waits_for_another_outside_of_the_queue(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    assert claims.claim(job.id, 1) is not None
    assert store.cancel(job.id).state is JobState.CANCELLING
    assert claims.undo_due(["root"], 4) == []  # its worker does it
    Claims(store.database, "w2").release_undo("w1")
    assert claims.undo_due(["elsewhere"], 4) == []
    assert claims.undo_due(["root"], 4) == [(job.id, 2)]
    claim = claims.claim(job.id, 2, free=True)
    assert claim is not None
    assert claims.claim(job.id, 2, free=True) is None
    assert claims.undo_due(["root"], 4) == []


def test_a_job_whose_pausing_worker_died_is_paused_by_another(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    assert claims.claim(job.id, 1) is not None
    assert store.pause(job.id).state is JobState.PAUSING
    Claims(store.database, "w2").release_undo("w1")
    found = store.get(job.id)
    assert (found.state, found.progress["phase"]) == (JobState.PAUSING, "paused")
    assert claims.undo_due(["root"], 4) == [(job.id, 2)]


def test_a_queued_job_that_was_begun_once_is_undone_outside_of_the_queue(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    claims.end(claim, JobEvent.REQUEUE)
    with store.database.write() as connection:
        connection.execute(sa.update(jobs).values(enqueued=jobs.c.attempt))
    store.cancel(job.id)
    assert claims.undo_due(["root"], 4) == [(job.id, 3)]


def test_what_the_register_shows_of_jobs_that_left_nothing_is_forgotten(store: JobStore, tmp_path: Path) -> None:
    """Given up, or put back by a worker of another host: else users of this one read for ever of a snapshot that may be
    left."""
    claims = Claims(store.database, "w1")
    running, failed, undone, given_up = (submit(store, new_job(name=name, target=f"/tmp/{name}")) for name in "abcd")
    for job, changes in ((running, 0), (failed, 1), (undone, 0), (given_up, 1)):
        claim = claims.claim(job.id, 1)
        assert claim is not None
        claims.write_run(claim, "{}", changes)
        if job is not running:
            claims.end(claim, JobEvent.FAIL)
    store.delete(given_up.id, give_up=True)
    register = Register((tmp_path / "own", tmp_path / "users"))
    facts = dict.fromkeys(("started_at", "folder", "machine", "moref", "endpoint", "snapshot"), "")
    entries = [
        entry_of(f"r-{job.name}", program="hypervisord", job=job.id, **facts)
        for job in (running, failed, undone, given_up)
    ]
    at_work = entry_of("r-e", program="hypervisord", job="gone", **facts)
    users = entry_of("r-f", program="hyper2kvm", job="", **facts)
    elsewhere = entry_of("r-g", program="hypervisord", job="of-another-daemon", **facts)
    for entry in (*entries, users):
        with register.holding(entry):
            pass
    with Register(register.places[1:]).holding(elsewhere):
        pass
    with register.holding(at_work):
        Reconciler(store.database, Forgetful(), DaemonSettings(), register).run()  # type: ignore[arg-type]
    assert sorted(known.entry.run_id for known in register.entries()) == ["r-a", "r-b", "r-e", "r-f", "r-g"]
    assert {path.stem for path in (tmp_path / "users").iterdir()} == {"r-a", "r-b", "r-e", "r-f", "r-g"}
