"""The state machine as data: walked whole, and against the store."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import HyperSDKError
from hypersdk.jobs.claims import Claim, Claims, StaleAttempt
from hypersdk.jobs.states import (
    ENDED,
    HELD,
    LEGACY_STATUS,
    TRANSITIONS,
    UNDOING,
    JobEvent,
    JobState,
    JobStateError,
    after,
)
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.transition import lock, transition
from hypersdk.state.tables import jobs
from tests.support.jobrecords import new_job, submit
from tests.support.seeds import examples


def test_every_state_can_be_reached_and_left() -> None:
    reached = {JobState.QUEUED}
    for _ in JobState:
        reached |= {new for (old, _), new in TRANSITIONS.items() if old in reached}
    assert reached == set(JobState)
    assert {old for old, _ in TRANSITIONS} == set(JobState) - {JobState.COMPLETED}
    assert set(LEGACY_STATUS) == set(JobState)


def test_a_job_that_a_worker_has_can_always_end() -> None:
    for state in HELD:
        ends = {TRANSITIONS.get((state, event)) for event in JobEvent}
        assert ends & ENDED
        assert JobState.FAILED in ends


REFUSED = [pair for pair in itertools.product(JobState, JobEvent) if pair not in TRANSITIONS]


@pytest.mark.parametrize(("state", "event"), REFUSED, ids=str)
def test_what_is_not_in_the_table_is_refused(state: JobState, event: JobEvent) -> None:
    with pytest.raises(JobStateError) as caught:
        after(state, event)
    assert caught.value.code == "job_state"


@pytest.mark.parametrize(("state", "event"), TRANSITIONS, ids=str)
def test_every_transition_of_the_table_can_be_stored(state: JobState, event: JobEvent, store: JobStore) -> None:
    job = submit(store, new_job())
    with store.database.write() as connection:
        connection.execute(sa.update(jobs).values(state=state.value, worker_id="w1"))
        found = lock(connection, jobs.c.id == job.id)
        assert found is not None
        transition(store.database, connection, found, event)
    assert store.get(job.id).state is TRANSITIONS[state, event]


ACTIONS = (
    "cancel",
    "pause",
    "resume",
    "retry",
    "claim",
    "finish",
    "fail",
    "paused",
    "cancelled",
    "requeue",
    "stale",
    "expire",
    "change",
)


@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=12))
@examples(25)
def test_whatever_users_and_workers_do_the_row_follows_the_table(store: JobStore, actions: list[str]) -> None:
    """Every step either leads where the table says or is refused and changes nothing; a job always has an attempt due
    or at work while it is neither ended nor paused."""
    claims = Claims(store.database, "w1")
    job = submit(store, new_job())
    start = store.revision()
    held: list[Claim] = []
    for action in actions:
        before = store.get(job.id)
        done = _act(store, claims, held, job.id, action)
        now = store.get(job.id)
        if not done:
            assert (now.state, now.attempt, now.epoch) == (before.state, before.attempt, before.epoch), action
            continue
        steps = {new for (old, _), new in TRANSITIONS.items() if old is before.state}
        assert now.state in {before.state, *steps}, action
        if now.state in {JobState.QUEUED, *UNDOING} and now.worker_id is None:
            assert now.attempt > now.enqueued, action
        if now.state in ENDED:
            assert now.completed_at is not None
    assert_told(store, job.id, start)


def assert_told(store: JobStore, job_id: str, start: int) -> None:
    """The outbox tells every change of state of the job since ``start``, each once, in order."""
    state = JobState.QUEUED
    for event in store.events_since(start):
        if event.id == job_id and "to" in event.data:
            assert (state, JobEvent(event.event)) in TRANSITIONS
            assert event.data["from"] == state.value
            state = JobState(event.data["to"])
            assert TRANSITIONS[JobState(event.data["from"]), JobEvent(event.event)] is state
    assert state is store.get(job_id).state


def _act(store: JobStore, claims: Claims, held: list[Claim], job_id: str, action: str) -> bool:
    """False when it was refused."""
    try:
        _try(store, claims, held, job_id, action)
    except (HyperSDKError, IndexError):
        return False
    return True


def _try(store: JobStore, claims: Claims, held: list[Claim], job_id: str, action: str) -> None:
    events = {
        "finish": JobEvent.FINISH,
        "fail": JobEvent.FAIL,
        "paused": JobEvent.PAUSED,
        "cancelled": JobEvent.CANCELLED,
        "requeue": JobEvent.REQUEUE,
    }
    if action in ("cancel", "pause", "resume", "retry", "expire"):
        getattr(store, action)(job_id)
    elif action == "claim":
        if claim := claims.claim(job_id, store.get(job_id).attempt):
            held.append(claim)
    elif action == "change":
        claims.write_run(held[-1], "{}", 1)
    elif action == "stale":
        with pytest.raises(StaleAttempt):
            claims.write_run(Claim(held[-1].job, held[-1].epoch - 1), "{}", 0)
    else:
        claims.end(held[-1], events[action])
