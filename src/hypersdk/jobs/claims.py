"""What only the worker that has a job may do, each time guarded by the job's epoch in the same statement.

A worker that was stopped, declared dead and woken again still believes that it has the job. Its epoch is no longer the
job's, so every write of it changes no row, and it learns that it is stale (``StaleAttempt``) before it acts.
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
    CURRENT,
    CurrentJob,
    change,
    exhaust,
    lock,
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


MANY: Final = 1_000_000
LOST: Final = "lost"
"""Outcome of an attempt whose worker found that it does not have it."""
MOST_LOST: Final = 100
CLEANUP_EVERY_S: Final = 3600.0
LOOKED_AT: Final = 100


REQUESTS: Final = {JobState.CANCELLING: "cancel", JobState.PAUSING: "pause"}
"""What users ask of a job that a worker has, by its state."""


class StaleAttempt(Cancelled):
    """This worker no longer has the job. It must not touch source or target again."""

    default_code = STALE_ATTEMPT


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker has. ``epoch`` is the fence."""

    job: JobRecord
    epoch: int


class Claims:
    """The jobs of one worker. Thread-safe."""

    def __init__(self, database: Database, worker_id: str, *, most: int = MANY) -> None:
        """``most`` jobs are this worker's at a time; those that it only undoes something of do not count."""
        self.database: Final = database
        self.worker_id: Final = worker_id
        self._most = most
        self._claiming = Lock()
        self._store = JobStore(database)
        self._counting = Lock()
        self._counted: dict[str, tuple[int, int]] = {}
        """Job -> epoch of its attempt here, and the bytes of it that the counter ``bytes`` holds already."""

    def claim(self, job_id: str, attempt: int, *, free: bool = False) -> Claim | None:
        """Takes the job up: its epoch rises, whoever had it before is stale from here on. None where the attempt is not
        the job's last one, or the job has ended or is paused meanwhile; with ``free`` also where a worker has it.

        None as well where another job holds a lock of it, or this worker has as many as it may: then another attempt
        is due."""
        with self._claiming, self.database.write() as connection:
            job = lock(connection, jobs.c.id == job_id, jobs.c.attempt == attempt, *may(JobEvent.START))
            if job is None or (free and job.worker_id is not None):
                return None
            busy = conflicting_job(connection, job_id) is not None
            if busy or (not free and self._others(connection, job_id) >= self._most):
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
                    started_at=self.database.now(connection),
                )
            )
        return Claim(self._store.get(job_id), epoch)

    def _others(self, connection: sa.Connection, job_id: str) -> int:
        query = sa.select(sa.func.count()).where(
            jobs.c.worker_id == self.worker_id, jobs.c.state.in_([state.value for state in HELD]), jobs.c.id != job_id
        )
        return int(connection.execute(query).scalar_one())

    def undo_due(self, root_ids: Sequence[str], limit: int) -> list[tuple[str, int]]:
        """Jobs below these roots that wait for somebody to undo what they did, and their attempts, oldest first."""
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
        """Jobs below these roots that nobody works on, whose source is not as it was found, and that were left alone
        for an hour: failed ones, and those that wait in the queue with a snapshot that is too old to be kept. With
        each, whether its files are published."""
        with self.database.read() as connection:
            now = self.database.now(connection)
            query = (
                sa.select(jobs.c.id, jobs.c.state, runs.c.record)
                .join(runs, runs.c.job_id == jobs.c.id)
                .where(
                    jobs.c.state.in_([JobState.FAILED.value, JobState.QUEUED.value]),
                    jobs.c.source_changes > 0,
                    jobs.c.updated_at < now - CLEANUP_EVERY_S,
                    jobs.c.root_id.in_(root_ids),
                )
                .order_by(jobs.c.updated_at)
                .limit(LOOKED_AT)
            )
            rows = connection.execute(query).all()
        due = [row for row in rows if row.state == JobState.FAILED.value or is_old(row.record, now)]
        return [(row.id, bool(json.loads(row.record).get("published"))) for row in due[:limit]]

    def claim_idle(self, job_id: str) -> Claim | None:
        """The job as it is, with an epoch of its own: whoever takes it up meanwhile makes this one stale. None where it
        has moved on."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            idle = jobs.c.state.in_([JobState.FAILED.value, JobState.QUEUED.value])
            job = lock(connection, jobs.c.id == job_id, idle, jobs.c.updated_at < now - CLEANUP_EVERY_S)
            if job is None:
                return None
            epoch = job.epoch + 1
            change(self.database, connection, job_id, now, epoch=epoch)
        return Claim(self._store.get(job_id), epoch)

    def release_undo(self, worker_id: str) -> None:
        """Jobs that a dead worker was undoing wait for another: not in the queue, where their attempt may be."""
        with self.database.write() as connection:
            mine = sa.select(*CURRENT).where(jobs.c.worker_id == worker_id, *may(JobEvent.RELEASE))
            for job in connection.execute(mine.order_by(jobs.c.id).with_for_update()).all():
                transition(self.database, connection, job, JobEvent.RELEASE)

    def hand_back(self, job_id: str, attempt: int) -> None:
        """An attempt that this worker will not begin, because it drains: another one is due. A job that has moved on is
        left alone."""
        with self.database.write() as connection:
            requeue(self.database, connection, job_id, attempt)

    def held(self) -> dict[str, int]:
        """Jobs that this worker has, as the rows say, and the epoch of each."""
        query = sa.select(jobs.c.id, jobs.c.epoch).where(
            jobs.c.state.in_([state.value for state in HELD]), jobs.c.worker_id == self.worker_id
        )
        with self.database.read() as connection:
            return {job_id: int(epoch) for job_id, epoch in connection.execute(query)}

    def put_back(self, job_id: str, epoch: int) -> JobState | None:
        """For a job whose row says that this worker has it, and that it does not have: another attempt is due, as after
        a death. One that was lost in this way again and again fails. Its new state; None where the row has moved on."""
        with self.database.write() as connection:
            mine = (jobs.c.id == job_id, jobs.c.epoch == epoch, jobs.c.worker_id == self.worker_id)
            held = jobs.c.state.in_([state.value for state in HELD])
            attempt = connection.execute(sa.select(jobs.c.attempt).where(*mine, held).with_for_update()).scalar()
            if attempt is None:
                return None
            error = error_dict(DatabaseError("the end of the attempt could not be stored", code=ATTEMPT_LOST))
            connection.execute(
                sa.update(attempts)
                .where(attempts.c.job_id == job_id, attempts.c.epoch == epoch, attempts.c.ended_at.is_(None))
                .values(ended_at=self.database.now(connection), outcome=LOST, error=error)
            )
            lost = sa.select(sa.func.count()).where(attempts.c.job_id == job_id, attempts.c.outcome == LOST)
            if connection.execute(lost).scalar_one() >= MOST_LOST:
                return exhaust(self.database, connection, job_id, attempt)
            return requeue(self.database, connection, job_id, attempt)

    def renew(self, job_id: str, attempt: int) -> None:
        """An attempt that the engine gave to this worker and that was never begun: another one is due. A job that has
        moved on is left alone."""
        with self.database.write() as connection:
            state = sa.select(jobs.c.state).where(jobs.c.id == job_id, jobs.c.attempt == attempt).with_for_update()
            if connection.execute(state).scalar() == JobState.QUEUED.value:
                requeue(self.database, connection, job_id, attempt)

    def check(self, claim: Claim) -> None:
        """Raises StaleAttempt unless the job is still ours."""
        with self.database.read() as connection:
            epoch = connection.execute(sa.select(jobs.c.epoch).where(jobs.c.id == claim.job.id)).scalar_one_or_none()
        if epoch != claim.epoch:
            raise _stale(claim)

    def requests(self, job_ids: Sequence[str]) -> dict[str, tuple[str, bool]]:
        """What users ask of these jobs: id -> (``cancel`` or ``pause``, whether partial files are to be kept)."""
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
    ) -> JobState:
        """The attempt is over; ``progress`` is how far it came. With ``REQUEUE``, and where a cancel came too late for
        this one, another attempt is due; ``keep_run`` keeps the record of a cancelled one, to go on from.

        Raises StaleAttempt.
        """
        with self.database.write() as connection:
            job = self._ours(connection, claim)
            new = after(JobState(job.state), event)
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
                **({"source_changes": 0} if over else {}),
            )
            if over:
                connection.execute(sa.delete(runs).where(runs.c.job_id == claim.job.id))
            connection.execute(
                sa.update(attempts)
                .where(attempts.c.job_id == claim.job.id, attempts.c.epoch == claim.epoch)
                .values(ended_at=self.database.now(connection), outcome=event.value, error=failure)
            )
        with self._counting:
            self._counted.pop(claim.job.id, None)
        return new

    def last_result(self, claim: Claim) -> Mapping[str, Any] | None:
        """What the last step left: the result of a job all of whose steps were done in earlier processes."""
        mine = sa.select(step_rows.c.result).where(step_rows.c.job_id == claim.job.id)
        with self.database.read() as connection:
            found: Mapping[str, Any] | None = connection.execute(
                mine.order_by(step_rows.c.position.desc()).limit(1)
            ).scalar_one()
        return found

    def begin_step(self, claim: Claim, position: int) -> Step:
        """Says that a step runs, unless it is done already; the step as it was. Raises StaleAttempt."""
        with self.database.write() as connection:
            self._ours(connection, claim)
            step = read_steps(connection, [claim.job.id])[claim.job.id][position]
            if step.state is not StepState.DONE:
                now = self.database.now(connection)
                steps.begin(connection, claim.job.id, position, claim.job.attempt, now)
                self._tell_step(connection, claim, step.name, StepState.RUNNING, now)
            return step

    def end_step(self, claim: Claim, step: Step, result: Mapping[str, Any] | None) -> None:
        """Says that a step is done, and what later ones need to know of it. Raises StaleAttempt."""
        with self.database.write() as connection:
            self._ours(connection, claim)
            now = self.database.now(connection)
            steps.finish(connection, claim.job.id, step.position, now, result)
            self._tell_step(connection, claim, step.name, StepState.DONE, now)

    def _tell_step(self, connection: sa.Connection, claim: Claim, name: str, state: StepState, now: float) -> None:
        change(self.database, connection, claim.job.id, now, "step", {"step": name, "state": state.value})

    def write_progress(self, claims: Mapping[str, int], progress: Mapping[str, Mapping[str, Any]]) -> None:
        """Progress of several jobs in one transaction; those that are not ours any more are left alone. ``claims`` is
        id -> epoch.

        By what they have downloaded since the last write of the same attempt, the counter ``bytes`` rises.
        """
        counted: dict[str, tuple[int, int]] = {}
        with self._counting:  # until it is noted: two writes of one job must not count the same bytes
            with self.database.write() as connection:
                self.database.lock_rows(connection, jobs.c.id, progress.keys())
                now = self.database.now(connection)
                grown = 0
                for job_id, now_at in progress.items():
                    done = connection.execute(
                        sa.update(jobs)
                        .where(
                            jobs.c.id == job_id,
                            jobs.c.epoch == claims[job_id],
                            jobs.c.state.in_([state.value for state in HELD]),
                        )
                        .values(progress=dict(now_at), updated_at=now, revision=self.database.revision(connection))
                    )
                    if done.rowcount:
                        counted[job_id] = (claims[job_id], int(now_at.get("bytes_downloaded", 0)))
                        grown += self._growth(job_id, *counted[job_id])
                if grown:
                    self.database.count(connection, "bytes", grown)
            self._counted |= counted

    def _growth(self, job_id: str, epoch: int, size: int) -> int:
        before_epoch, before_size = self._counted.get(job_id, (0, 0))
        return max(0, size - (before_size if before_epoch == epoch else 0))

    def log(self, claim: Claim, data: bytes) -> None:
        """Adds to the job's log, if it is still ours."""
        with self.database.write() as connection:
            if (
                connection.execute(sa.select(jobs.c.epoch).where(jobs.c.id == claim.job.id)).scalar_one_or_none()
                == claim.epoch
            ):
                append_log(connection, claim.job.id, data)

    # The run: journal, receipts, point in time

    def read_run(self, claim: Claim) -> str | None:
        """The record of the export under way, as JSON; None where there is none."""
        with self.database.read() as connection:
            return connection.execute(
                sa.select(runs.c.record).where(runs.c.job_id == claim.job.id)
            ).scalar_one_or_none()

    def write_run(self, claim: Claim, record: str, source_changes: int) -> None:
        """Saves it, and how many of its changes at the source are not undone; durable when this returns.

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

    def _ours(self, connection: sa.Connection, claim: Claim) -> CurrentJob:
        """The job, locked until the transaction ends. Raises StaleAttempt where its epoch is not ours."""
        job = lock(connection, jobs.c.id == claim.job.id, jobs.c.epoch == claim.epoch)
        if job is None:
            raise _stale(claim)
        return job


def is_old(record: str, now: float) -> bool:
    """Whether the temporary snapshot of the run with that record, if it has one, is too old to be kept."""
    begun = datetime.fromisoformat(json.loads(record)["started_at"]).timestamp()
    return begun < now - SNAPSHOT_MAX_AGE.total_seconds()


def _stale(claim: Claim) -> StaleAttempt:
    return StaleAttempt(f"job '{claim.job.id}' was taken over by another worker", job=claim.job.id, epoch=claim.epoch)
