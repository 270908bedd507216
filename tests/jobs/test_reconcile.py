"""An attempt that will not be run: whatever the job was doing, it is neither lost nor begun twice."""

from __future__ import annotations

import pytest

from hypersdk.jobs.claims import Claims
from hypersdk.jobs.states import JobEvent, JobState
from hypersdk.jobs.store import JobStore
from hypersdk.state.database import Database
from tests.jobs.test_states import new_job


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


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
    job, _ = store.submit(new_job())
    for act in asked:
        _ = claims.claim(job.id, 1) if act == "claim" else getattr(store, act)(job.id)
    claims.hand_back(job.id, 1)
    now = store.get(job.id)
    assert (now.state, now.worker_id) == (state, None)
    assert now.attempt == (2 if due else 1)
    assert now.request == ("cancel" if state is JobState.CANCELLING else None)
    if state is JobState.PAUSED:
        store.resume(job.id)
    claim = claims.claim(job.id, 2)
    assert claim is not None
    assert claim.job.state is (JobState.CANCELLING if state is JobState.CANCELLING else JobState.RUNNING)


def test_a_job_that_has_moved_on_is_left_alone(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job, _ = store.submit(new_job())
    store.cancel(job.id)
    claims.hand_back(job.id, 1)
    assert store.get(job.id).state is JobState.CANCELLED
    store.retry(job.id)
    claims.hand_back(job.id, 1)
    assert store.get(job.id).attempt == 2


def test_a_cancel_that_comes_while_a_job_is_paused_is_done_by_another_attempt(store: JobStore) -> None:
    claims = Claims(store.database, "w1")
    job, _ = store.submit(new_job())
    claim = claims.claim(job.id, 1)
    assert claim is not None
    store.pause(job.id)
    store.cancel(job.id)
    assert claims.end(claim, JobEvent.PAUSED) is JobState.CANCELLING
    now = store.get(job.id)
    assert (now.attempt, now.worker_id, now.request) == (2, None, "cancel")
