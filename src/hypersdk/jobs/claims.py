"""What only the worker that has a job may do, each time guarded by the job's epoch in the same transaction.

A worker that was stopped, declared dead and continued still believes that it has the job. Its epoch is no longer the
job's, so its writes change nothing, and it learns that its attempt is stale (``StaleAttempt``) before it acts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.errors import Cancelled, register
from hypersdk.jobs import steps
from hypersdk.jobs.locks import conflicting_job
from hypersdk.jobs.records import JobRecord, Step
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.states import ATTEMPT_LOST, HELD, UNDOING, JobEvent, JobState, StepState, after
from hypersdk.jobs.steps import read_steps
from hypersdk.jobs.store import JobStore, append_log
from hypersdk.jobs.transition import (
    CurrentJob,
    change,
    exhaust,
    lock,
    lock_all,
    lock_attempt,
    may,
    requeue,
    transition,
)
from hypersdk.migration.runs import SNAPSHOT_MAX_AGE
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.tables import attempts, jobs, runs
from hypersdk.state.tables import steps as step_rows

STALE_ATTEMPT: Final = register(
    "stale_attempt",
    "Another worker has taken over the job, because this one sent no heartbeat for too long.",
    "Nothing needs to be done: the other worker continues the job.",
)


LOST: Final = "lost"
"""Outcome of an attempt that its worker turned out not to run."""
MOST_LOST: Final = 100
CLEANUP_EVERY_S: Final = 3600.0
MAX_IDLE: Final = 100
"""Idle jobs whose records are read in one look."""
REQUESTS: Final = {JobState.CANCELLING: "cancel", JobState.PAUSING: "pause"}
"""What users request of a job that a worker has, by its state."""
_HELD: Final = jobs.c.state.in_([state.value for state in HELD])
_IDLE: Final = jobs.c.state.in_([JobState.FAILED.value, JobState.QUEUED.value])


class StaleAttempt(Cancelled):
    """This worker no longer has the job, and must not touch its source or target again."""

    default_code = STALE_ATTEMPT


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker has. ``epoch`` fences off earlier claims."""

    job: JobRecord
    epoch: int


@dataclass(frozen=True, slots=True)
class Unsaved:
    """Progress and log lines of a claimed job that are not in the database yet."""

    claim: Claim
    progress: Mapping[str, Any] | None = None
    log: bytes = b""


class Claims:
    """The jobs of one worker. Thread-safe."""

    def __init__(self, database: Database, worker_id: str, *, most: int | None = None) -> None:
        """The worker has up to ``most`` jobs at a time; those whose changes it only undoes do not count."""
        self.database: Final = database
        self.worker_id: Final = worker_id
        self._most = most
        self._claiming = Lock()
        self._store = JobStore(database)
        self._counting = Lock()
        self._counted: dict[tuple[str, int], int] = {}
        """Job and epoch -> how many of the attempt's bytes the counter ``bytes`` holds."""

    def claim(self, job_id: str, attempt: int, *, free: bool = False) -> Claim | None:
        """Takes the job: its epoch rises, which makes every earlier claim stale. None if the attempt is not the job's
        last one, or the job has ended or is paused; with ``free`` also if a worker has it.

        None as well if another job holds a lock of it, or this worker has as many jobs as it may: then another attempt
        is due."""
        with self._claiming, self.database.write() as connection:
            job = lock_attempt(connection, job_id, attempt)
            if job is None or (free and job.worker_id is not None):
                return None
            busy = conflicting_job(connection, job_id) is not None
            if busy or (not free and self._most is not None and self._others(connection, job_id) >= self._most):
                if not free:
                    transition(self.database, connection, job, JobEvent.REQUEUE)
                return None
            epoch = job.epoch + 1
            transition(self.database, connection, job, JobEvent.START, worker_id=self.worker_id, epoch=epoch)
            connection.execute(
                sa.insert(attempts).values(
                    job_id=job_id,
                    epoch=epoch,
                    attempt=attempt,
                    worker_id=self.worker_id,
                    started_at=self.database.clock,
                )
            )
        return Claim(self._store.get(job_id), epoch)

    def _others(self, connection: sa.Connection, job_id: str) -> int:
        others = sa.select(sa.func.count()).where(jobs.c.worker_id == self.worker_id, _HELD, jobs.c.id != job_id)
        return int(connection.execute(others).scalar_one())

    def undo_due(self, root_ids: Sequence[str], limit: int) -> list[tuple[str, int]]:
        """Jobs below these roots whose changes are to be undone, with the attempt of each, oldest first."""
        query = (
            sa.select(jobs.c.id, jobs.c.attempt)
            .where(
                jobs.c.state.in_([state.value for state in UNDOING]),
                jobs.c.worker_id.is_(None),
                jobs.c.attempt > jobs.c.enqueued,
                jobs.c.root_id.in_(root_ids),
            )
            .order_by(jobs.c.number)
            .limit(limit)
        )
        with self.database.read() as connection:
            return [(job_id, attempt) for job_id, attempt in connection.execute(query)]

    def cleanup_due(self, root_ids: Sequence[str], limit: int) -> list[tuple[str, bool]]:
        """Jobs below these roots that have been idle for an hour and whose source is not restored: failed ones, and
        queued ones whose snapshot is too old to be kept. With each, whether it failed with its files published."""
        with self.database.read() as connection:
            now = self.database.now(connection)
            query = (
                sa.select(jobs.c.id, jobs.c.state, runs.c.record)
                .join(runs, runs.c.job_id == jobs.c.id)
                .where(
                    _IDLE,
                    jobs.c.source_changes > 0,
                    jobs.c.updated_at < now - CLEANUP_EVERY_S,
                    jobs.c.root_id.in_(root_ids),
                )
                .order_by(jobs.c.updated_at)
                .limit(MAX_IDLE)
            )
            rows = connection.execute(query).all()
        due = [row for row in rows if row.state == JobState.FAILED.value or is_old(row.record, now)]
        failed = JobState.FAILED.value
        return [(row.id, row.state == failed and bool(json.loads(row.record).get("published"))) for row in due[:limit]]

    def claim_idle(self, job_id: str) -> Claim | None:
        """Claims an idle job without changing its state; a later claim makes this one stale. None if the job has moved
        on."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            job = lock(connection, jobs.c.id == job_id, _IDLE, jobs.c.updated_at < now - CLEANUP_EVERY_S)
            if job is None:
                return None
            change(self.database, connection, job_id, now, epoch=job.epoch + 1)
        return Claim(self._store.get(job_id), job.epoch + 1)

    def release_undo(self, worker_id: str) -> None:
        """Has another worker undo the jobs that a dead worker was undoing: outside of the queue, where their attempt
        may be."""
        with self.database.write() as connection:
            for job in lock_all(connection, jobs.c.worker_id == worker_id, may(JobEvent.RELEASE)):
                transition(self.database, connection, job, JobEvent.RELEASE)

    def hand_back(self, job_id: str, attempt: int) -> None:
        """Makes another attempt due instead of one that this worker will not begin, because it drains. A job that has
        moved on is left alone."""
        with self.database.write() as connection:
            requeue(self.database, connection, job_id, attempt)

    def held(self) -> dict[str, int]:
        """The jobs that this worker has according to the database, with the epoch of each."""
        query = sa.select(jobs.c.id, jobs.c.epoch).where(_HELD, jobs.c.worker_id == self.worker_id)
        with self.database.read() as connection:
            return {job_id: int(epoch) for job_id, epoch in connection.execute(query)}

    def requeue_lost(self, job_id: str, epoch: int) -> JobState | None:
        """For a job that this worker has according to the database, but does not run: another attempt is due, as after
        the death of a worker. A job that was lost in this way ``MOST_LOST`` times fails. Its new state; None if it has
        moved on."""
        with self.database.write() as connection:
            held = (jobs.c.id == job_id, jobs.c.epoch == epoch, jobs.c.worker_id == self.worker_id, _HELD)
            job = lock(connection, *held)
            if job is None:
                return None
            error = error_dict(DatabaseError("the end of the attempt could not be stored", code=ATTEMPT_LOST))
            connection.execute(
                sa.update(attempts)
                .where(attempts.c.job_id == job_id, attempts.c.epoch == epoch, attempts.c.ended_at.is_(None))
                .values(ended_at=self.database.clock, outcome=LOST, error=error)
            )
            lost = sa.select(sa.func.count()).where(attempts.c.job_id == job_id, attempts.c.outcome == LOST)
            if connection.execute(lost).scalar_one() >= MOST_LOST:
                return exhaust(self.database, connection, job)
            return transition(self.database, connection, job, JobEvent.REQUEUE)

    def requeue_unstarted(self, job_id: str, attempt: int) -> None:
        """Makes another attempt due instead of one that the engine gave to this worker and that never started. A job
        that has moved on is left alone."""
        with self.database.write() as connection:
            job = lock_attempt(connection, job_id, attempt)
            if job is not None and job.state is JobState.QUEUED:
                transition(self.database, connection, job, JobEvent.REQUEUE)

    def check(self, claim: Claim) -> None:
        """Raises StaleAttempt unless the job is still ours."""
        with self.database.read() as connection:
            epoch = connection.execute(sa.select(jobs.c.epoch).where(jobs.c.id == claim.job.id)).scalar_one_or_none()
        if epoch != claim.epoch:
            raise _stale(claim)

    def requests(self, job_ids: Sequence[str]) -> dict[str, tuple[str, bool]]:
        """What users request of these jobs: id -> (``cancel`` or ``pause``, whether to keep partial files)."""
        if not job_ids:
            return {}
        query = sa.select(jobs.c.id, jobs.c.state, jobs.c.keep_partial).where(
            jobs.c.id.in_(job_ids), jobs.c.state.in_([state.value for state in REQUESTS])
        )
        with self.database.read() as connection:
            return {
                job_id: (REQUESTS[JobState(state)], bool(keep)) for job_id, state, keep in connection.execute(query)
            }

    def end(
        self,
        claim: Claim,
        event: JobEvent,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        keep_run: bool = False,
        progress: Mapping[str, Any] | None = None,
        log: bytes = b"",
    ) -> JobState:
        """Ends the attempt, with its last progress and log lines. After ``REQUEUE``, or if a cancel came too late for
        this attempt, another one is due; ``keep_run`` keeps the record of a cancelled job, to resume from.

        Raises StaleAttempt.
        """
        with self._counting:
            with self.database.write() as connection:
                job = self._ours(connection, claim)
                append_log(connection, job.id, log)
                new = after(job.state, event)
                over = new is JobState.COMPLETED or (new is JobState.CANCELLED and not keep_run)
                failure = None if error is None else dict(error)
                transition(
                    self.database,
                    connection,
                    job,
                    event,
                    keep=keep_run,
                    result=None if result is None else dict(result),
                    error=failure,
                    discard=False,
                    progress=dict(job.progress if progress is None else progress),
                    **({"secret": None} if new is JobState.COMPLETED else {}),
                    **({"source_changes": 0, "target_changes": 0} if over else {}),
                )
                self._count_bytes(connection, claim, progress or {})  # after the revision, in the order of ``save``
                if over:
                    connection.execute(sa.delete(runs).where(runs.c.job_id == job.id))
                connection.execute(
                    sa.update(attempts)
                    .where(attempts.c.job_id == job.id, attempts.c.epoch == claim.epoch)
                    .values(ended_at=self.database.clock, outcome=event.value, error=failure)
                )
            self._counted.pop((job.id, claim.epoch), None)
        return new

    def last_result(self, claim: Claim) -> Mapping[str, Any] | None:
        """The result of the last step that has one: that of a job whose steps were all done by earlier processes."""
        mine = sa.select(step_rows.c.result).where(step_rows.c.job_id == claim.job.id)
        with self.database.read() as connection:
            found = connection.execute(mine.order_by(step_rows.c.position.desc())).scalars().all()
        return next((result for result in found if result is not None), None)

    def begin_step(self, claim: Claim, position: int) -> Step:
        """Marks a step as running, unless it is done already. Returns the step as it was. Raises StaleAttempt."""
        with self.database.write() as connection:
            self._ours(connection, claim)
            step = read_steps(connection, [claim.job.id])[claim.job.id][position]
            if step.state is not StepState.DONE:
                now = self.database.now(connection)
                steps.begin(connection, claim.job.id, position, claim.job.attempt, now)
                self._step_event(connection, claim, step.name, StepState.RUNNING, now)
            return step

    def end_step(self, claim: Claim, step: Step, result: Mapping[str, Any] | None) -> None:
        """Marks a step as done, with what later steps need to know of it. Raises StaleAttempt."""
        with self.database.write() as connection:
            self._ours(connection, claim)
            now = self.database.now(connection)
            steps.finish(connection, claim.job.id, step.position, now, result)
            self._step_event(connection, claim, step.name, StepState.DONE, now)

    def _step_event(self, connection: sa.Connection, claim: Claim, name: str, state: StepState, now: float) -> None:
        change(self.database, connection, claim.job.id, now, "step", {"step": name, "state": state.value})

    def save(self, *unsaved: Unsaved) -> None:
        """Stores progress and log lines of several jobs in one transaction; a job that another worker has taken over is
        left alone. The counter ``bytes`` rises by what their attempts have downloaded since the last time."""
        due = {entry.claim.job.id: entry for entry in unsaved if entry.progress is not None or entry.log}
        if not due:
            return
        counted: dict[tuple[str, int], int] = {}
        with self._counting:  # until it is noted: two writes of one job must not count the same bytes
            with self.database.write() as connection:
                now = self.database.now(connection)
                for job in lock_all(connection, jobs.c.id.in_(due)):
                    claim, progress, log = due[job.id].claim, due[job.id].progress, due[job.id].log
                    if job.epoch != claim.epoch:
                        continue
                    append_log(connection, job.id, log)
                    if progress is not None and job.state in HELD:
                        values = {"progress": dict(progress), "updated_at": now}
                        revision = self.database.revision(connection)
                        connection.execute(
                            sa.update(jobs).where(jobs.c.id == job.id).values(revision=revision, **values)
                        )
                        counted[job.id, claim.epoch] = self._count_bytes(connection, claim, progress)
            self._counted |= counted

    def _count_bytes(self, connection: sa.Connection, claim: Claim, progress: Mapping[str, Any]) -> int:
        """How many of the attempt's bytes the counter holds afterwards."""
        before, size = self._counted.get((claim.job.id, claim.epoch), 0), int(progress.get("bytes_downloaded", 0))
        if size > before:
            self.database.count(connection, "bytes", size - before)
        return size

    # The run: journal, receipts, point in time

    def read_run(self, claim: Claim) -> str | None:
        """The record of the unfinished export, as JSON; None if there is none."""
        with self.database.read() as connection:
            return connection.execute(
                sa.select(runs.c.record).where(runs.c.job_id == claim.job.id)
            ).scalar_one_or_none()

    def write_run(self, claim: Claim, record: str, source_changes: int) -> None:
        """Stores the record, and how many of its changes at the source are not undone; durable when this returns.

        Raises StaleAttempt, and then nothing was written.
        """
        with self.database.write() as connection:
            known = self._ours(connection, claim).source_changes
            now = self.database.now(connection)
            if known != source_changes:
                change(self.database, connection, claim.job.id, now, source_changes=source_changes)
            done = connection.execute(
                sa.update(runs).where(runs.c.job_id == claim.job.id).values(record=record, updated_at=now)
            )
            if not done.rowcount:
                connection.execute(sa.insert(runs).values(job_id=claim.job.id, record=record, updated_at=now))

    def note_target(self, claim: Claim, changes: int) -> None:
        """Stores how many changes at the target are not undone. Raises StaleAttempt."""
        with self.database.write() as connection:
            if self._ours(connection, claim).target_changes != changes:
                change(
                    self.database,
                    connection,
                    claim.job.id,
                    self.database.now(connection),
                    target_changes=changes,
                )

    def _ours(self, connection: sa.Connection, claim: Claim) -> CurrentJob:
        """The job, locked until the transaction ends. Raises StaleAttempt if another worker has taken it over."""
        job = lock(connection, jobs.c.id == claim.job.id, jobs.c.epoch == claim.epoch)
        if job is None:
            raise _stale(claim)
        return job


def is_old(record: str, now: float) -> bool:
    """Whether the temporary snapshot of a run, if it has one, is too old to be kept."""
    begun = datetime.fromisoformat(json.loads(record)["started_at"]).timestamp()
    return begun < now - SNAPSHOT_MAX_AGE.total_seconds()


def _stale(claim: Claim) -> StaleAttempt:
    return StaleAttempt(f"job '{claim.job.id}' was taken over by another worker", job=claim.job.id, epoch=claim.epoch)
