"""Repairing what a crash leaves inconsistent between our rows and the engine's, and removing what is too old."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from hypersdk.jobs.claims import is_old
from hypersdk.jobs.engine import EXHAUSTED, Engine
from hypersdk.jobs.runstore import DatabaseRuns
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import ENDED, HELD, NO_WORKER_FOR_ROOT, JobEvent, JobState
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.transition import exhaust, lock_attempt, requeue, set_waiting, transition
from hypersdk.migration.register import Register
from hypersdk.state.database import Database
from hypersdk.state.outbox import prune_events
from hypersdk.state.pages import current_revision
from hypersdk.state.tables import idempotency, jobs, logins, runs, workers

LOG: Final = logging.getLogger(__name__)
GRACE_S: Final = 10.0
"""A row that changed more recently may be between two transactions of a healthy worker."""
PART: Final = 500
PRUNE_EVERY_S: Final = 600.0
EXPIRE_EVERY_S: Final = 3600.0
DAY_S: Final = 86_400.0


class Reconciler:
    """Run every few seconds by each worker. It does not matter which worker runs it, and how often."""

    def __init__(
        self, database: Database, engine: Engine, settings: DaemonSettings, register: Register | None = None
    ) -> None:
        self._database = database
        self._engine = engine
        self._settings = settings
        self._register = register or Register()
        self._next_prune = time.monotonic()
        self._looked_up_to = 0

    def run(self) -> None:
        """One round. Raises DatabaseError."""
        self._lost_attempts()
        self._waiting()
        self._expire()
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + PRUNE_EVERY_S
            self.prune()
            self._unregister()

    def _lost_attempts(self) -> None:
        """Makes another attempt due for jobs whose attempt the engine has lost; fails those that kill their worker each
        time."""
        held = jobs.c.state.in_([state.value for state in HELD])
        queued = sa.and_(jobs.c.state == JobState.QUEUED.value, jobs.c.number > self._looked_up_to)
        with self._database.read() as connection:
            quiet = self._database.now(connection) - GRACE_S
            silent = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.number).where(
                jobs.c.enqueued == jobs.c.attempt, jobs.c.updated_at < quiet
            )
            # Of a long queue a part each time; of the few that should be running, all.
            rows = connection.execute(silent.where(held).limit(PART)).all()
            part = connection.execute(silent.where(queued).order_by(jobs.c.number).limit(PART)).all()
        self._looked_up_to = part[-1].number if len(part) == PART else 0
        rows = [*rows, *part]
        if not rows:
            return
        ended = self._engine.ended([f"{row.id}/{row.attempt}" for row in rows])
        for row in rows:
            if status := ended.get(f"{row.id}/{row.attempt}"):
                self._renew(row.id, row.attempt, status)

    def _renew(self, job_id: str, attempt: int, status: str) -> None:
        LOG.warning("attempt %s/%s is %s in the engine", job_id, attempt, status)
        with self._database.write() as connection:
            job = lock_attempt(connection, job_id, attempt)
            if job is not None and status == EXHAUSTED:
                exhaust(self._database, connection, job)
            elif job is not None:
                transition(self._database, connection, job, JobEvent.REQUEUE)

    def _waiting(self) -> None:
        """Notes for queued jobs whether any living worker has access to their export root."""
        with self._database.read() as connection:
            alive = connection.execute(sa.select(workers.c.roots).where(workers.c.state == "alive")).scalars()
            seen = sorted({root for roots in alive for root in roots})
            code = sa.case((jobs.c.root_id.not_in(seen), NO_WORKER_FOR_ROOT))
            noted = sa.case((jobs.c.waiting == NO_WORKER_FOR_ROOT, NO_WORKER_FOR_ROOT))
            changed = (jobs.c.state == JobState.QUEUED.value, code.is_distinct_from(noted))
            query = sa.select(jobs.c.id, code.label("code")).where(*changed).limit(1000)
            found: dict[str, str | None] = {row.id: row.code for row in connection.execute(query)}
            orphans = self._orphans(connection, seen)
        for job_id, attempt in orphans:
            LOG.warning("job %s has lost its worker, and no other has access to its export root: it waits", job_id)
            with self._database.write() as connection:
                requeue(self._database, connection, job_id, attempt)
        if found:
            with self._database.write() as connection:
                self._database.lock_rows(connection, jobs.c.id, found)
                set_waiting(self._database, connection, found)

    def _orphans(self, connection: sa.Connection, seen: Sequence[str]) -> list[tuple[str, int]]:
        """Running jobs of dead workers that no living one can take over: they would wait in the engine forever, and be
        shown as running."""
        known = sa.select(workers.c.id).where(workers.c.state != "dead")
        query = sa.select(jobs.c.id, jobs.c.attempt).where(
            jobs.c.state == JobState.RUNNING.value, jobs.c.worker_id.not_in(known), jobs.c.root_id.not_in(seen)
        )
        return [(job_id, attempt) for job_id, attempt in connection.execute(query.limit(PART))]

    def _expire(self) -> None:
        """Has the snapshots of jobs that are paused for too long removed, since they grow on a production datastore.
        Retried each hour."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            paused = jobs.c.state == JobState.PAUSED.value
            query = (
                sa.select(jobs.c.id, runs.c.record)
                .join(runs, runs.c.job_id == jobs.c.id)
                .where(paused, jobs.c.source_changes > 0, jobs.c.updated_at < now - EXPIRE_EVERY_S)
                .limit(100)
            )
            rows = connection.execute(query).all()
        for row in rows:
            if is_old(row.record, now):
                LOG.warning("job %s has been paused for too long: its temporary snapshot is removed", row.id)
                JobStore(self._database).expire(row.id)

    def prune(self) -> None:
        """Deletes finished jobs older than the retention, old answers to repeated requests, events, logins and dead
        workers."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            old = now - self._settings.retention_days * DAY_S
            ended = [state.value for state in ENDED]
            # A job that left something at its source has the only record of it; that of its target is in its folder.
            kept = sa.or_(jobs.c.source_changes > 0, jobs.c.target_changes > 0)
            over = (jobs.c.state.in_(ended), jobs.c.completed_at < old, sa.not_(kept))
            found = sa.select(jobs.c.id).where(*over).limit(1000)
            gone = connection.execute(found).scalars().all()
            self._database.lock_rows(connection, jobs.c.id, gone)
            gone = connection.execute(found.where(jobs.c.id.in_(gone))).scalars().all()  # a retry may have been faster
            if gone:
                JobStore(self._database).remove_rows(connection, list(gone))
            connection.execute(sa.delete(idempotency).where(idempotency.c.at < now - DAY_S))
            prune_events(connection, now, current_revision(connection))
            connection.execute(sa.delete(logins).where(logins.c.expires_at < now))
            connection.execute(sa.delete(workers).where(workers.c.state == "dead", workers.c.beat < now - 7 * DAY_S))
        self._engine.prune(list(gone), old)

    def _unregister(self) -> None:
        """Removes from this host's register the runs of jobs that left nothing at their source: given up, or restored
        by a worker of another host."""
        own = Register(self._register.places[:1])  # those of other daemons are in their own
        found = {
            known.entry.run_id: known.entry.job
            for known in own.entries()
            if known.entry.program == DatabaseRuns.program and not known.held
        }
        with self._database.read() as connection:
            going = sa.or_(jobs.c.source_changes > 0, jobs.c.state.not_in([state.value for state in ENDED]))
            needed = set(connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(found.values()), going)).scalars())
        for run_id, job_id in found.items():
            if job_id not in needed:
                self._register.forget(run_id)
