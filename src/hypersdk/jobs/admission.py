"""Which attempts go to the engine now: limits, priorities, and locks.

::

    queued rows that are due ──> my roots ──> room? all, of the site, of me ──> locks free? ──> engine
                                                 no: later           no: the row says what it waits for

A worker hands over only as many attempts as it has room for itself, by priority and then by age; all that are in the
engine count. So the engine starts each one at once, and its queues need neither limits nor priorities.
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
"""Most pages that are read in one round: a queue may begin with many jobs that wait for the same folder."""


@dataclass(frozen=True, slots=True)
class DueAttempt:
    """An attempt to be handed to the engine."""

    id: str
    attempt: int
    root_id: str


@dataclass(slots=True)
class _Load:
    """The jobs in the engine: those that workers have, and those that wait in the engine's queues."""

    here: int = 0
    """Those that this worker has, or that wait in its queues."""
    sites: Counter[str] = field(default_factory=Counter)
    locks: set[str] = field(default_factory=set)

    def add(self, site: str, locks: Iterable[str]) -> None:
        self.sites[site] += 1
        self.locks.update(locks)


class Admission:
    """For one worker."""

    def __init__(self, database: Database, settings: DaemonSettings, worker_id: str, root_ids: Sequence[str]) -> None:
        self._database = database
        self._settings = settings
        self._worker_id = worker_id
        self._roots = list(root_ids)

    def is_due(self) -> bool:
        """Whether an attempt is due and there is room for it. Mostly not, and then nothing needs to be written."""
        with self._database.read() as connection:
            due = connection.execute(self._due().limit(1)).first() is not None
            return due and self._room(self._current_load(connection)) > 0

    def take(self, connection: sa.Connection) -> list[DueAttempt]:
        """The attempts to start, in order, with their rows locked. Notes which others wait for a folder or a machine.
        Only one transaction at a time does so."""
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
                if self._is_full(now, row.site):
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

    def _pages(self, connection: sa.Connection, now: _Load) -> Iterator[Sequence[Any]]:
        """Due rows in order, of sites that are not full. Later pages leave out jobs that wait for a held lock."""
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

    def _room(self, now: _Load) -> int:
        room = self._settings.jobs_per_worker - now.here
        return min(room, self._settings.max_jobs - now.sites.total()) if self._settings.max_jobs else room

    def _full(self, now: _Load) -> list[str]:
        return [site for site in now.sites if self._is_full(now, site)]

    def _is_full(self, now: _Load, site: str) -> bool:
        """A job without a site, such as an import, burdens none."""
        return bool(site) and now.sites[site] >= self._settings.jobs_per_site

    def _current_load(self, connection: sa.Connection) -> _Load:
        waiting = sa.and_(jobs.c.state == JobState.QUEUED.value, jobs.c.enqueued == jobs.c.attempt)
        counted = sa.or_(HELD_BY_WORKER, waiting)
        held = locks_of(connection, counted)
        found = _Load()
        for row in connection.execute(
            sa.select(jobs.c.id, jobs.c.state, jobs.c.worker_id, jobs.c.site, jobs.c.root_id).where(counted)
        ):
            found.add(row.site, held.get(row.id, ()))
            is_waiting = row.state == JobState.QUEUED.value
            found.here += row.root_id in self._roots if is_waiting else row.worker_id == self._worker_id
        return found
