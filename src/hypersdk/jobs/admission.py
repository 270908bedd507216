"""Which attempts go to the engine now: the limits, and what must not run side by side.

::

    queued rows that are due ──> my roots ──> room? all, of the site, of me ──> locks free? ──> engine
                                                 no: later           no: the row says what it waits for

A worker hands over no more than it has room for itself, in the order of priority and submit; whatever is in the engine
counts. So what the engine gets begins at once, and its queues know neither limits nor priorities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.jobs.locks import BUSY, HELD_BY_WORKER, busy_code, locks_of
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import JobState
from hypersdk.jobs.transition import set_waiting
from hypersdk.state.database import Database
from hypersdk.state.tables import jobs, locks

PAGE: Final = 500
"""Queued jobs that are read at a time."""
PAGES: Final = 8
"""Pages that are read in one round, for as many jobs as there is room for: a queue may begin with many that wait for
one folder."""


@dataclass(frozen=True, slots=True)
class DueAttempt:
    """An attempt to be handed to the engine."""

    id: str
    attempt: int
    root_id: str


@dataclass(slots=True)
class _Engine:
    """What is in the engine, whoever runs it: jobs that a worker has, and those that wait in the engine's queues."""

    mine: int = 0
    waiting: int = 0
    sites: Counter[str] = field(default_factory=Counter)
    locks: set[str] = field(default_factory=set)

    def add(self, site: str, locks: Iterable[str]) -> None:
        self.sites[site] += 1
        self.locks.update(locks)


class Admission:
    """Of one worker."""

    def __init__(self, database: Database, settings: DaemonSettings, worker_id: str, root_ids: Sequence[str]) -> None:
        self._database = database
        self._settings = settings
        self._worker_id = worker_id
        self._roots = list(root_ids)

    def is_due(self) -> bool:
        """Whether anything waits, and there is a place for it: most of the time one of the two is not so, and nobody
        need write."""
        with self._database.read() as connection:
            due = connection.execute(self._due().limit(1)).first() is not None
            return due and self._room(self._current_load(connection)) > 0

    def take(self, connection: sa.Connection) -> list[DueAttempt]:
        """Attempts that may begin, in their order; of the others, those that wait for a folder or a machine say so. The
        rows that are returned are locked. To be called in a transaction, of which no other goes on meanwhile."""
        self._database.serialize(connection, "admission")
        now = self._current_load(connection)
        room = self._room(now)
        if room <= 0:
            return []
        taken: list[DueAttempt] = []
        reasons: dict[str, str | None] = {}
        for rows in self._pages(connection, now):
            wanted = locks_of(connection, jobs.c.id.in_([row.id for row in rows]))
            for row in rows:
                if now.sites[row.site] >= self._settings.jobs_per_site:
                    continue
                names = wanted.get(row.id, [])
                busy = [name for name in names if name in now.locks]
                reason = busy_code(busy) if busy else None
                if row.waiting != reason and (reason or row.waiting in BUSY):
                    reasons[row.id] = reason
                if reason is None and len(taken) < room:
                    taken.append(DueAttempt(row.id, row.attempt, row.root_id))
                    now.add(row.site, names)
            if len(taken) == room:
                break
        self._database.lock_rows(connection, jobs.c.id, [*(due.id for due in taken), *reasons])
        set_waiting(self._database, connection, reasons)
        return taken

    def _pages(self, connection: sa.Connection, now: _Engine) -> Iterator[Sequence[Any]]:
        """Rows that are due, in their order, of sites that are not full. What waits for a lock that is held is left out
        of the later pages."""
        query = self._due()
        for _ in range(PAGES):
            rows = connection.execute(query.where(jobs.c.site.not_in(self._full(now))).limit(PAGE)).all()
            yield rows
            if len(rows) < PAGE:
                return
            last = rows[-1]
            blocked = sa.select(locks.c.job_id).where(locks.c.name.in_(sorted(now.locks)))
            query = self._due().where(
                (jobs.c.priority < last.priority)
                | ((jobs.c.priority == last.priority) & (jobs.c.number > last.number)),
                jobs.c.id.not_in(blocked),
            )

    def _due(self) -> sa.Select[Any]:
        return (
            sa.select(
                jobs.c.id,
                jobs.c.attempt,
                jobs.c.root_id,
                jobs.c.site,
                jobs.c.priority,
                jobs.c.number,
                jobs.c.waiting,
            )
            .where(
                jobs.c.attempt > jobs.c.enqueued, jobs.c.state == JobState.QUEUED.value, jobs.c.root_id.in_(self._roots)
            )
            .order_by(jobs.c.priority.desc(), jobs.c.number)
        )

    def _room(self, now: _Engine) -> int:
        room = self._settings.jobs_per_worker - now.mine - now.waiting
        return min(room, self._settings.max_jobs - now.sites.total()) if self._settings.max_jobs else room

    def _full(self, now: _Engine) -> list[str]:
        return [site for site, count in now.sites.items() if count >= self._settings.jobs_per_site]

    def _current_load(self, connection: sa.Connection) -> _Engine:
        waiting = sa.and_(jobs.c.state == JobState.QUEUED.value, jobs.c.enqueued == jobs.c.attempt)
        counted = sa.or_(HELD_BY_WORKER, waiting)
        held = locks_of(connection, counted)
        found = _Engine()
        for row in connection.execute(
            sa.select(jobs.c.id, jobs.c.state, jobs.c.worker_id, jobs.c.site, jobs.c.root_id).where(counted)
        ):
            found.add(row.site, held.get(row.id, ()))
            if row.state == JobState.QUEUED.value:
                found.waiting += row.root_id in self._roots
            else:
                found.mine += row.worker_id == self._worker_id
        return found
