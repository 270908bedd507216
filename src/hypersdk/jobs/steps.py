"""The steps of a job: the named parts of its work, shown to users from submit on.

::

    waiting ──> running ──> done                    a later attempt begins with the first step that is not done
       │           ├──────> failed ──retry──> waiting
       │           ├──────> waiting                 paused, drained, or its worker died
       │           └──────> undone ──retry──> waiting       cancelled, as are steps that were done
       └──────────────────> skipped ──retry──> waiting      the job ended before it
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.jobs.records import STEPS, Step
from hypersdk.jobs.states import JobEvent, StepState
from hypersdk.state.pages import Listing
from hypersdk.state.tables import steps

_S, _E = StepState, JobEvent
_AFTER: Final[Mapping[JobEvent, Mapping[StepState, StepState]]] = {
    _E.FINISH: {_S.RUNNING: _S.DONE, _S.WAITING: _S.DONE},
    _E.FAIL: {_S.RUNNING: _S.FAILED},
    _E.PAUSED: {_S.RUNNING: _S.WAITING},
    _E.REQUEUE: {_S.RUNNING: _S.WAITING},
    _E.CANCELLED: {_S.RUNNING: _S.UNDONE, _S.FAILED: _S.UNDONE, _S.DONE: _S.UNDONE, _S.WAITING: _S.SKIPPED},
    _E.ABANDON: {_S.WAITING: _S.SKIPPED},
    _E.RETRY: {_S.FAILED: _S.WAITING, _S.UNDONE: _S.WAITING, _S.SKIPPED: _S.WAITING, _S.DONE: _S.WAITING},
}
"""How an event of the job changes the states of its steps. With ``keep`` those that are done stay done."""
_AGAIN: Final = {"attempt": None, "started_at": None, "ended_at": None, "result": None, "error": None}
_LIST: Final = Listing(STEPS, steps)


def follow(
    connection: sa.Connection,
    job_id: str,
    event: JobEvent,
    now: float,
    *,
    error: Mapping[str, Any] | None = None,
    keep: bool = True,
) -> None:
    """Changes the steps of a job after an event of the job. ``error`` is that of the step that failed."""
    moves = {old: new for old, new in _AFTER.get(event, {}).items() if not (keep and old is StepState.DONE)}
    for new in sorted(set(moves.values())):
        old = [state.value for state, to in moves.items() if to is new]
        values = _AGAIN if new is StepState.WAITING else {"ended_at": now, "error": error}
        mine = (steps.c.job_id == job_id, steps.c.state.in_(old))
        connection.execute(sa.update(steps).where(*mine).values(state=new.value, **values))


def begin(connection: sa.Connection, job_id: str, position: int, attempt: int, now: float) -> None:
    """Marks a step as running."""
    values = {**_AGAIN, "state": StepState.RUNNING.value, "attempt": attempt, "started_at": now}
    connection.execute(sa.update(steps).where(*_one(job_id, position)).values(values))


def finish(connection: sa.Connection, job_id: str, position: int, now: float, result: Mapping[str, Any] | None) -> None:
    """Marks a step as done."""
    values = {"state": StepState.DONE.value, "ended_at": now, "result": None if result is None else dict(result)}
    connection.execute(sa.update(steps).where(*_one(job_id, position)).values(values))


def add_steps(connection: sa.Connection, names_of: Mapping[str, Collection[str]]) -> None:
    """Inserts the steps of new jobs, given by job, in order."""
    rows = [
        {"job_id": job_id, "position": position, "name": name, "state": StepState.WAITING.value}
        for job_id, names in names_of.items()
        for position, name in enumerate(names)
    ]
    if rows:
        connection.execute(sa.insert(steps), rows)


def read_steps(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, tuple[Step, ...]]:
    """Steps by job, in order; every one of ``job_ids`` is a key."""
    found: dict[str, list[Step]] = {job_id: [] for job_id in job_ids}
    query = _LIST.select().where(steps.c.job_id.in_(job_ids)).order_by(steps.c.job_id, steps.c.position)
    for step in map(_LIST.record, connection.execute(query)):
        found[step.job_id].append(step)
    return {job_id: tuple(rows) for job_id, rows in found.items()}


def _one(job_id: str, position: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (steps.c.job_id == job_id, steps.c.position == position)
