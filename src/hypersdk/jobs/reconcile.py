"""What a crash at the wrong moment leaves between our rows and the engine's, made good; and what is too old,
removed."""

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
from hypersdk.jobs.states import ENDED, HELD, NO_WORKER_FOR_ROOT, JobState
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.transition import exhaust, requeue, set_waiting
from hypersdk.migration.register import Register
from hypersdk.state.database import Database
from hypersdk.state.outbox import prune_events
from hypersdk.state.tables import idempotency, jobs, logins, runs, workers

LOG: Final = logging.getLogger(__name__)
GRACE_S: Final = 10.0
"""A row that has just changed may be between two transactions of a healthy worker."""
PART: Final = 500
PRUNE_EVERY_S: Final = 600.0
EXPIRE_EVERY_S: Final = 3600.0
DAY_S: Final = 86_400.0


class Reconciler:
    """Run every few seconds by each worker; what it does is the same whoever does it, and how often."""

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
        """Jobs that wait for an attempt which the engine does not have any more get another; one that kills its worker
        every time fails."""
        held = jobs.c.state.in_([state.value for state in HELD])
        queued = sa.and_(jobs.c.state == JobState.QUEUED.value, jobs.c.number > self._looked_up_to)
        with self._database.read() as connection:
            quiet = self._database.now(connection) - GRACE_S
            silent = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.number).where(
                jobs.c.enqueued == jobs.c.attempt, jobs.c.updated_at < quiet
            )
            # Of a long queue a part each time; those that should be running are few, and all of them are looked at.
            rows = connection.execute(silent.where(held).limit(PART)).all()
            part = connection.execute(silent.where(queued).order_by(jobs.c.number).limit(PART)).all()
        self._looked_up_to = part[-1].number if len(part) == PART else 0
        rows = [*rows, *part]
        if not rows:
            return
        ended = self._engine.ended([f"{row.id}/{row.attempt}" for row in rows])
        for row in rows:
            if word := ended.get(f"{row.id}/{row.attempt}"):
                self._renew(row.id, row.attempt, word)

    def _renew(self, job_id: str, attempt: int, word: str) -> None:
        exhausted = word == EXHAUSTED
        LOG.warning("attempt %s/%s is %s in the engine", job_id, attempt, word)
        with self._database.write() as connection:
            if not exhausted:
                requeue(self._database, connection, job_id, attempt)
                return
            exhaust(self._database, connection, job_id, attempt)

    def _waiting(self) -> None:
        """Says of queued jobs that no living worker sees their root."""
        with self._database.read() as connection:
            alive = connection.execute(sa.select(workers.c.roots).where(workers.c.state == "alive")).scalars()
            seen = sorted({root for roots in alive for root in roots})
            queued = jobs.c.state == JobState.QUEUED.value
            blind = sa.and_(queued, jobs.c.root_id.not_in(seen), jobs.c.waiting.is_distinct_from(NO_WORKER_FOR_ROOT))
            cured = sa.and_(queued, jobs.c.root_id.in_(seen), jobs.c.waiting == NO_WORKER_FOR_ROOT)
            found = [
                (job_id, code)
                for condition, code in ((blind, NO_WORKER_FOR_ROOT), (cured, None))
                for job_id in connection.execute(sa.select(jobs.c.id).where(condition).limit(1000)).scalars()
            ]
            orphans = self._orphans(connection, seen)
        for job_id, attempt in orphans:
            LOG.warning("job %s has lost its worker, and no other sees its export root: it waits", job_id)
            with self._database.write() as connection:
                requeue(self._database, connection, job_id, attempt)
        if not found:
            return
        with self._database.write() as connection:
            self._database.lock_rows(connection, jobs.c.id, [job_id for job_id, _ in found])
            set_waiting(self._database, connection, dict(found))

    def _orphans(self, connection: sa.Connection, seen: Sequence[str]) -> list[tuple[str, int]]:
        """Running jobs of dead workers that no living one can take over. In the engine they would wait for ever, and be
        shown as running."""
        known = sa.select(workers.c.id).where(workers.c.state != "dead")
        query = sa.select(jobs.c.id, jobs.c.attempt).where(
            jobs.c.state == JobState.RUNNING.value, jobs.c.worker_id.not_in(known), jobs.c.root_id.not_in(seen)
        )
        return [(job_id, attempt) for job_id, attempt in connection.execute(query.limit(PART))]

    def _expire(self) -> None:
        """Has the snapshots of jobs that are paused for too long removed: they grow on a production datastore. Tried
        again each hour."""
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
                LOG.warning("job %s is paused for so long that its temporary snapshot is removed", row.id)
                JobStore(self._database).expire(row.id)

    def prune(self) -> None:
        """Removes what is older than the retention: jobs that ended, with their logs; answers kept for repeated
        requests; dead workers."""
        store = JobStore(self._database)
        with self._database.write() as connection:
            now = self._database.now(connection)
            old = now - self._settings.retention_days * DAY_S
            ended = [state.value for state in ENDED]
            # A job that left something at its source has the only record of it.
            over = (jobs.c.state.in_(ended), jobs.c.completed_at < old, jobs.c.source_changes == 0)
            found = sa.select(jobs.c.id).where(*over).limit(1000)
            gone = connection.execute(found).scalars().all()
            self._database.lock_rows(connection, jobs.c.id, gone)
            gone = connection.execute(found.where(jobs.c.id.in_(gone))).scalars().all()  # a retry may have been faster
            if gone:
                store.remove_rows(connection, list(gone))
            connection.execute(sa.delete(idempotency).where(idempotency.c.at < now - DAY_S))
            prune_events(connection, now, store.revision_of(connection))
            connection.execute(sa.delete(logins).where(logins.c.expires_at < now))
            connection.execute(sa.delete(workers).where(workers.c.state == "dead", workers.c.beat < now - 7 * DAY_S))
        self._engine.prune(list(gone), old)

    def _unregister(self) -> None:
        """Forgets runs in this host's register of jobs that left nothing at their source: given up, or put back by a
        worker of another host."""
        own = Register(self._register.places[:1])  # those of other daemons are in their own
        found = {
            known.entry.run_id: known.entry.job
            for known in own.entries()
            if known.entry.program == DatabaseRuns.program and not known.held
        }
        with self._database.read() as connection:
            going = sa.or_(jobs.c.source_changes > 0, jobs.c.state.not_in([state.value for state in ENDED]))
            kept = set(connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(found.values()), going)).scalars())
        for run_id, job_id in found.items():
            if job_id not in kept:
                self._register.forget(run_id)
