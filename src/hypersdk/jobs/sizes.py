"""Sizes of machines whose jobs still wait, so that the queue knows how much there is to do before they start.

An export that starts has a login: with it, it looks up the machines of the jobs behind it, in one list, while it
copies. A job is looked up once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState
from hypersdk.jobs.transition import lock_all
from hypersdk.state.database import Database
from hypersdk.state.tables import jobs

MOST: Final = 2000
"""Jobs that are looked up at once, from the head of the queue."""
AT_ONCE: Final = 200
"""Jobs that are changed in one transaction."""
LOGIN_FIELDS: Final = ("vcenter", "vcenter_url", "insecure", "datacenter")
"""Fields of a definition that decide which server and which account are meant."""


class Unsized(NamedTuple):
    """A queued job, and the machine that it exports as its definition names it."""

    id: str
    subject: str


class QueueSizes:
    """For one worker process. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._asked: set[str] = set()

    def find(self, job: JobRecord, look_up: Callable[[Sequence[Unsized]], Mapping[str, int]]) -> None:
        """Stores the sizes of jobs that wait and use the same server and account as ``job``. ``look_up`` returns bytes
        by id; it is not called while there is nothing to look up. Raises DatabaseError, and what ``look_up`` raises."""
        with self._lock:
            due = [unsized for unsized in self._unsized(job) if unsized.id not in self._asked]
            self._asked.update(unsized.id for unsized in due)
        if due:
            self._store(look_up(due))

    def _unsized(self, job: JobRecord) -> list[Unsized]:
        query = (
            sa.select(jobs.c.id, jobs.c.subject, jobs.c.definition, jobs.c.owner)
            .where(
                jobs.c.state == JobState.QUEUED.value,
                jobs.c.kind == job.kind,
                jobs.c.site == job.site,
                jobs.c.endpoint_id.is_not_distinct_from(job.endpoint_id),
                sa.func.coalesce(jobs.c.progress["expected_bytes"].as_float(), 0) == 0,
            )
            .order_by(jobs.c.priority.desc(), jobs.c.number)
            .limit(MOST)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        login = _login(job.definition, job.owner)
        return [Unsized(row.id, row.subject) for row in rows if _login(row.definition, row.owner) == login]

    def _store(self, sizes: Mapping[str, int]) -> None:
        ids = list(sizes)
        for at in range(0, len(ids), AT_ONCE):
            part = ids[at : at + AT_ONCE]
            with self._database.write() as connection:
                for job in lock_all(connection, jobs.c.id.in_(part), jobs.c.state == JobState.QUEUED.value):
                    # As other progress, without an event: ``updated_at`` stays the time at which the job was queued.
                    values = {
                        "progress": {**job.progress, "expected_bytes": sizes[job.id]},
                        "revision": self._database.revision(connection),
                    }
                    connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(values))


def _login(definition: Mapping[str, Any], owner: str | None) -> list[Any]:
    """Equal for two jobs that log in with the same account: the daemon's, or one of the same user."""
    fields = [definition.get(name) for name in LOGIN_FIELDS]
    return [*fields, owner] if any(fields) else []
