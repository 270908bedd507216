"""The one place that changes a job's state, with all that goes with it, and that tells of it.

::

    who                        asks for an event                      transition()
    store     a user           cancel, pause, resume, retry, expire   state      states.after
    claims    a worker         start, finish, fail, paused ...        revision, times, worker, attempt, progress, steps
    reconcile a worker lost    requeue, fail                          outbox     an event in the same transaction
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

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
"""The event of a change that is not one of state: what a queued job waits for."""
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
_PHASES: Final = {JobState.COMPLETED: "done"}
"""What the progress of a job at rest says, where it is not the state."""


class CurrentJob(Protocol):
    """What must be known of a job, read under a lock that lasts until the transaction ends: a ``Job``, or a row."""

    @property
    def id(self) -> str:
        """Of the job."""

    @property
    def state(self) -> Any:
        """A ``JobState``, or its text."""

    @property
    def worker_id(self) -> str | None:
        """The worker that has it."""

    @property
    def epoch(self) -> int:
        """How often workers had it."""

    @property
    def progress(self) -> Mapping[str, Any]:
        """As far as it was written."""

    @property
    def source_changes(self) -> int:
        """How many of its changes at the source are not undone."""


CURRENT: Final = tuple(jobs.c[name] for name in ("id", "state", "worker_id", "epoch", "progress", "source_changes"))
"""The columns of a ``CurrentJob``."""


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
    are done stay done where it is cancelled or tried again.

    A job that waits for a worker afterwards is due for another attempt; one that rests shows a progress that does not
    move. Raises JobStateError ``job_state`` where the event may not happen.
    """
    state = JobState(job.state)
    new = after(state, event)
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
    change(database, connection, job.id, now, event.value, {"from": state.value, "to": new.value}, **values)
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
    """Changes columns of a job's row, which is locked, and tells of it."""
    revision = database.revision(connection)
    same = sa.update(jobs).where(jobs.c.id == job_id)
    connection.execute(same.values(**values, updated_at=now, revision=revision))
    write_events(connection, now, [Event(revision, TOPIC, job_id, event, data or {})])


def set_waiting(database: Database, connection: sa.Connection, reasons: Mapping[str, str | None]) -> None:
    """Says of queued jobs what they wait for, by the code of it; None is a free worker. The rows are locked. When a job
    was queued is told by ``updated_at``, which stays."""
    now = database.now(connection)
    for job_id, reason in reasons.items():
        revision = database.revision(connection)
        same = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED.value)
        if connection.execute(same.values(waiting=reason, revision=revision)).rowcount:
            write_events(connection, now, [Event(revision, TOPIC, job_id, CHANGED, {"waiting": reason})])


def lock(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> CurrentJob | None:
    """The job that meets the conditions, which nobody else changes until the transaction ends; None where none does."""
    query = sa.select(*CURRENT).where(*conditions).with_for_update()
    return connection.execute(query).one_or_none()


def requeue(database: Database, connection: sa.Connection, job_id: str, attempt: int) -> JobState | None:
    """That attempt will not be run, whoever was to: another one is due, unless the job was on its way to a pause. Its
    new state; None for a job that has moved on."""
    job = lock(connection, jobs.c.id == job_id, jobs.c.attempt == attempt, *may(JobEvent.REQUEUE))
    return None if job is None else transition(database, connection, job, JobEvent.REQUEUE)


def exhaust(database: Database, connection: sa.Connection, job_id: str, attempt: int) -> JobState | None:
    """The job fails: its attempts never finish. Its new state; None for a job that has moved on."""
    job = lock(connection, jobs.c.id == job_id, jobs.c.attempt == attempt, *may(JobEvent.START))
    if job is None:
        return None
    error = error_dict(SourceError(f"attempt {attempt} never finished", code=ATTEMPTS_EXHAUSTED))
    return transition(database, connection, job, JobEvent.FAIL, error=error)


def may(event: JobEvent) -> tuple[sa.ColumnElement[bool]]:
    """The condition that a job is in a state in which ``event`` may happen."""
    return (jobs.c.state.in_([state.value for state in before(event)]),)
