"""The queue as a whole: percentage and remaining time of all its jobs, read from their rows.

::

    submitted ──> ended           time ──>
    a ├────────┤
    b    ├──────────────┤          the queue: c, d and e. b had ended before c was submitted: between them the queue
    c                      ├────┤             was empty
    d                       ├────────── running
    e                           ├────── queued

The set is that of jobs that have not ended, and of those that ended since the queue was last empty. Jobs that were
paused meanwhile belong to it, and do not keep it open. Once all have ended it stays as it is until the next job is
submitted.

The estimate itself is ``model.eta``, without a database and without a clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.jobs.heartbeat import TAKE_OVER_S
from hypersdk.jobs.states import ENDED, HELD, NO_WORKER_FOR_ROOT, JobState
from hypersdk.model import SNAPSHOTS_PER_DATASTORE, Phase, read_job_object, waits_for
from hypersdk.model.eta import QueuedJob, QueueProgress, Span, Stage, estimate, never_falling, slots_of
from hypersdk.state.database import Database
from hypersdk.state.tables import attempts, jobs, workers

MAX_JOBS: Final = 20_000
"""Jobs that have not ended, and as many that have, are looked at: the first ones to start, and the last ones that
ended."""
MAX_SPANS: Final = 200
"""The last attempts, from which the number of slots and the time of a job are measured."""
CACHED_S: Final = 1.0
NO_WORKER_TEXT: Final = "no worker is running"
_OPEN: Final = tuple(state.value for state in (JobState.QUEUED, *HELD))
_ENDED: Final = tuple(state.value for state in ENDED)
_STAGES: Final = {
    JobState.QUEUED: Stage.WAITING,
    JobState.RUNNING: Stage.RUNNING,
    JobState.COMPLETED: Stage.COMPLETED,
    JobState.FAILED: Stage.FAILED,
    JobState.CANCELLED: Stage.CANCELLED,
}
"""Others are set aside: paused ones, and those that only end."""


def _number(name: str) -> sa.ColumnElement[float]:
    number: sa.ColumnElement[float] = jobs.c.progress[name].as_float()
    return number


_ROW: Final = (
    jobs.c.id,
    jobs.c.state,
    jobs.c.epoch,
    jobs.c.waiting,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.completed_at,
    _number("expected_bytes").label("expected_bytes"),
    _number("percent_complete").label("percent"),
    _number("percent_redone").label("redone"),
    _number("copy_s").label("copy_s"),
    _number("turn_s").label("turn_s"),
    jobs.c.progress["snapshots_on"].label("snapshots_on"),
    _number("eta_s").label("eta_s"),
    _number("rate_bytes_s").label("rate_bytes_s"),
    jobs.c.progress["phase"].as_string().label("phase"),
    jobs.c.progress["stalled"].as_string().label("stalled"),
)


def read_queue(database: Database, *, take_over_s: float = TAKE_OVER_S) -> QueueProgress:
    """The queue as it is now. Raises DatabaseError."""
    with database.read() as connection:
        now = database.now(connection)
        rows = _rows(connection)
        spans = _spans(connection)
        alive = connection.execute(
            sa.select(sa.func.count()).where(workers.c.state == "alive", workers.c.beat > now - take_over_s)
        ).scalar_one()
        notes = _notes(connection, [row.id for row in rows if row.phase == Phase.WAITING.value])
    width, gap_s = slots_of(list(spans.values()), now)
    found = [_job(row, spans.get((row.id, row.epoch)), notes, now) for row in rows]
    snapshots = SNAPSHOTS_PER_DATASTORE * max(alive, 1)
    queue = estimate(found, width=max(width, 1) if alive else 0, gap_s=gap_s, snapshots=snapshots)
    reason = queue.reason if alive or not queue.open else NO_WORKER_TEXT
    return replace(queue, added=_added(rows), reason=reason)


def _rows(connection: sa.Connection) -> list[Any]:
    """The jobs of the queue, the waiting ones in the order in which they start."""
    opened = connection.execute(sa.select(sa.func.min(jobs.c.created_at)).where(jobs.c.state.in_(_OPEN))).scalar()
    begun, since = _begun(connection, opened)
    if begun is None:
        return []
    paused = sa.and_(jobs.c.state == JobState.PAUSED.value, jobs.c.updated_at >= begun)
    unfinished = sa.select(*_ROW).where(jobs.c.state.in_(_OPEN) | paused)
    over = sa.select(*_ROW).where(jobs.c.state.in_(_ENDED), jobs.c.completed_at >= since)
    return [
        *connection.execute(unfinished.order_by(jobs.c.priority.desc(), jobs.c.number).limit(MAX_JOBS)),
        *connection.execute(over.order_by(jobs.c.completed_at.desc()).limit(MAX_JOBS)),
    ]


def _begun(connection: sa.Connection, opened: float | None) -> tuple[float | None, float]:
    """When the first job of the queue was submitted, and when the first one of it ended."""
    query = (
        sa.select(jobs.c.created_at, jobs.c.completed_at)
        .where(jobs.c.state.in_(_ENDED))
        .order_by(jobs.c.completed_at.desc())
        .limit(MAX_JOBS)
    )
    begun, since = opened, float("inf")
    for created_at, completed_at in connection.execute(query):
        if begun is not None and completed_at < begun:
            break
        begun, since = created_at if begun is None else min(begun, created_at), completed_at
    return begun, since


def _spans(connection: sa.Connection) -> dict[tuple[str, int], Span]:
    """The last attempts, by job and epoch. One whose worker died has no end: it runs while its job is still its."""
    running = sa.and_(jobs.c.epoch == attempts.c.epoch, jobs.c.state.in_([state.value for state in HELD]))
    lost = sa.and_(attempts.c.ended_at.is_(None), sa.not_(running))
    query = (
        sa.select(attempts.c.job_id, attempts.c.epoch, attempts.c.started_at, attempts.c.ended_at, lost.label("lost"))
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .order_by(attempts.c.started_at.desc())
        .limit(MAX_SPANS)
    )
    found: dict[tuple[str, int], Span] = {}
    later: dict[str, float] = {}
    for row in connection.execute(query):
        end = later.get(row.job_id) if row.lost else row.ended_at
        found[row.job_id, row.epoch] = Span(row.started_at, end, bool(row.lost))
        later[row.job_id] = row.started_at
    return found


def _notes(connection: sa.Connection, job_ids: list[str]) -> Mapping[str, str]:
    """What jobs wait for, in words."""
    if not job_ids:
        return {}
    query = sa.select(jobs.c.id, jobs.c.progress).where(jobs.c.id.in_(job_ids[:MAX_SPANS]))
    return {job_id: waits_for(read_job_object(progress)) for job_id, progress in connection.execute(query)}


def _job(row: Any, span: Span | None, notes: Mapping[str, str], now: float) -> QueuedJob:
    stage = _stage(row)
    end = now if span is None or span.ended_at is None else span.ended_at
    # Of an ended job whose work several attempts share, no one attempt shows what a job takes.
    measured = span is not None and (stage is not Stage.COMPLETED or row.epoch == 1)
    return QueuedJob(
        row.id,
        stage,
        expected_bytes=int(row.expected_bytes or 0),
        fraction=(row.percent or 0.0) / 100,
        redone=None if row.redone is None else row.redone / 100,
        slot_s=end - span.started_at if measured and span is not None else 0.0,
        copy_s=float(row.copy_s or 0.0) if measured else 0.0,
        turn_s=float(row.turn_s or 0.0) if measured else 0.0,
        eta_s=row.eta_s,
        ended_at=row.completed_at or 0.0,
        rate_bytes_s=row.rate_bytes_s,
        reason=str(row.stalled or notes.get(row.id, "")),
        snapshots_on=tuple(row.snapshots_on or ()) or (None if row.phase == Phase.QUEUED.value else ()),
    )


def _stage(row: Any) -> Stage:
    stage = _STAGES.get(JobState(row.state), Stage.ASIDE)
    if stage is Stage.RUNNING and (row.stalled or row.phase == Phase.WAITING.value):
        return Stage.BLOCKED
    return Stage.ASIDE if stage is Stage.WAITING and row.waiting == NO_WORKER_FOR_ROOT else stage


def _added(rows: Iterable[Any]) -> int:
    """How many were submitted after the first one had started."""
    rows = list(rows)
    first = min((row.started_at for row in rows if row.started_at is not None), default=float("inf"))
    return sum(row.created_at > first for row in rows)


class QueueWatch:
    """The queue for one API process, whose percentage does not fall from look to look. Thread-safe."""

    def __init__(
        self, database: Database, *, take_over_s: float = TAKE_OVER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._take_over_s = take_over_s
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: QueueProgress | None = None
        self._read_at = -CACHED_S

    def look(self) -> QueueProgress:
        """The queue, read at most once a second. Raises DatabaseError."""
        with self._lock:
            if self._latest is None or self._clock() - self._read_at >= CACHED_S:
                self._latest = never_falling(read_queue(self._database, take_over_s=self._take_over_s), self._latest)
                self._read_at = self._clock()
            return self._latest
