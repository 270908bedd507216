"""The one place that changes a job's state, with all that depends on it, and writes the event.

::

    who                        asks for an event                      transition()
    store     a user           cancel, pause, resume, retry, expire   state      states.after
    claims    a worker         start, finish, fail, paused ...        revision, times, worker, attempt, progress, steps
    reconcile a worker lost    requeue, fail                          outbox     an event in the same transaction
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.errors import SourceError
from hypersdk.jobs.records import at_rest
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.states import ATTEMPTS_EXHAUSTED, ENDED, JobEvent, JobState, after, before
from hypersdk.jobs.steps import follow
from hypersdk.state.database import Database
from hypersdk.state.outbox import Event, write_events
from hypersdk.state.tables import jobs

TOPIC: Final = "jobs"
SUBMITTED: Final = "submit"
CHANGED: Final = "changed"
"""The event of a change to other columns than the state."""
ATTEMPT_OVER: Final = frozenset(
    {
        JobEvent.FINISH,
        JobEvent.FAIL,
        JobEvent.CANCELLED,
        JobEvent.ABANDON,
        JobEvent.PAUSED,
        JobEvent.REQUEUE,
        JobEvent.RELEASE,
    }
)
"""Events after which no worker has the job."""
_RESTING: Final = frozenset({JobState.QUEUED, JobState.PAUSED, *ENDED})
_PHASES: Final = {JobState.COMPLETED: "done", JobState.PAUSING: "paused"}
"""The phase in the progress of a job that no worker runs, where it is not the state. A job can be ``pausing`` without a
worker when the one that undid its changes died."""


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """What must be known of a job to change it, read under a lock that lasts until the transaction ends."""

    id: str
    state: JobState
    attempt: int
    worker_id: str | None
    epoch: int
    progress: Mapping[str, Any]
    source_changes: int
    target_changes: int


_CURRENT: Final = tuple(jobs.c[field.name] for field in fields(CurrentJob))


def transition(
    database: Database,
    connection: sa.Connection,
    job: CurrentJob,
    event: JobEvent,
    *,
    keep: bool = True,
    **changes: Any,
) -> JobState:
    """Changes the state of a job and returns the new one. ``changes`` are further columns; with ``keep`` the steps that
    are done stay done when it is cancelled or retried.

    A job that waits for a worker afterwards is due for another attempt; one that rests gets a progress at rest. Raises
    JobStateError ``job_state`` if the event may not happen.
    """
    new = after(job.state, event)
    now = database.now(connection)
    worker_id = changes.pop("worker_id", None if event in ATTEMPT_OVER else job.worker_id)
    values = {"state": new.value, "worker_id": worker_id, "waiting": None, **changes}
    if worker_id is None and new not in (JobState.PAUSED, *ENDED):
        values["attempt"] = jobs.c.attempt + 1
    if event in ATTEMPT_OVER or new in _RESTING:
        values["progress"] = at_rest(changes.get("progress", job.progress), _PHASES.get(new, new.value))
    values["completed_at"] = now if new in ENDED else None
    if event is JobEvent.START:
        values["started_at"] = sa.func.coalesce(jobs.c.started_at, now)
    if event is JobEvent.RETRY:
        values |= {"error": None, "result": None}
    follow(connection, job.id, event, now, error=changes.get("error"), keep=keep)
    change(database, connection, job.id, now, event.value, {"from": job.state.value, "to": new.value}, **values)
    return new


def change(
    database: Database,
    connection: sa.Connection,
    job_id: str,
    now: float,
    event: str = CHANGED,
    data: Mapping[str, Any] | None = None,
    **values: Any,
) -> None:
    """Changes columns of a job's row, which is locked, and writes the event."""
    revision = database.revision(connection)
    same = sa.update(jobs).where(jobs.c.id == job_id)
    connection.execute(same.values(**values, updated_at=now, revision=revision))
    write_events(connection, now, [Event(revision, TOPIC, job_id, event, data or {})])


def set_waiting(database: Database, connection: sa.Connection, reasons: Mapping[str, str | None]) -> None:
    """Stores what queued jobs wait for, by its code; None is a free worker. The rows are locked. ``updated_at`` stays:
    it is the time at which the job was queued."""
    now = database.now(connection)
    for job_id, reason in reasons.items():
        revision = database.revision(connection)
        same = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED.value)
        if connection.execute(same.values(waiting=reason, revision=revision)).rowcount:
            write_events(connection, now, [Event(revision, TOPIC, job_id, CHANGED, {"waiting": reason})])


def lock_all(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[CurrentJob]:
    """The jobs that meet the conditions, which nobody else changes until the transaction ends."""
    query = sa.select(*_CURRENT).where(*conditions).order_by(jobs.c.id).with_for_update()
    return [CurrentJob(**{**row, "state": JobState(row["state"])}) for row in connection.execute(query).mappings()]


def lock(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> CurrentJob | None:
    """The one job that meets the conditions, locked; None if there is none."""
    return next(iter(lock_all(connection, *conditions)), None)


def lock_attempt(connection: sa.Connection, job_id: str, attempt: int) -> CurrentJob | None:
    """The job, locked, if this attempt is still to be run or is running; None for a job that has moved on."""
    return lock(connection, jobs.c.id == job_id, jobs.c.attempt == attempt, may(JobEvent.START))


def requeue(database: Database, connection: sa.Connection, job_id: str, attempt: int) -> None:
    """Another attempt is due instead of this one, unless the job was being paused. A job that has moved on is left
    alone."""
    job = lock_attempt(connection, job_id, attempt)
    if job is not None:
        transition(database, connection, job, JobEvent.REQUEUE)


def exhaust(database: Database, connection: sa.Connection, job: CurrentJob) -> JobState:
    """Fails a job whose attempts never finish."""
    error = error_dict(SourceError(f"attempt {job.attempt} never finished", code=ATTEMPTS_EXHAUSTED))
    return transition(database, connection, job, JobEvent.FAIL, error=error)


def may(event: JobEvent) -> sa.ColumnElement[bool]:
    """The condition that a job is in a state in which ``event`` may happen."""
    return jobs.c.state.in_([state.value for state in before(event)])
