"""Signs of life: each worker writes them on the database's clock; whoever misses them for too long is declared dead by
exactly one other.

::

    beat every 2 s ──> UPDATE workers SET beat = now WHERE id = me AND epoch = mine AND state <> 'dead'
                          1 row: confirmed             0 rows: I was declared dead; nothing of mine may go on
    guard, at every write and every call:  CLOCK_BOOTTIME - last confirmed beat > take-over time / 2  ->  stop

``CLOCK_BOOTTIME`` goes on while the machine sleeps, so a process that slept notices before it writes.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from hypersdk import __version__
from hypersdk.jobs.claims import StaleAttempt
from hypersdk.jobs.states import HELD
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.tables import jobs, nfc_streams, workers

LOG: Final = logging.getLogger(__name__)
BEAT_S: Final = 2.0
TAKE_OVER_S: Final = 30.0
"""Without a sign of life for so long, a worker's jobs go to another."""


def boot_time() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Heartbeat:
    """The beating of one worker, in a thread of its own. A context manager."""

    def __init__(
        self,
        database: Database,
        worker_id: str,
        roots: Sequence[str],
        *,
        beat_s: float = BEAT_S,
        take_over_s: float = TAKE_OVER_S,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self._database = database
        self._id = worker_id
        self._roots = list(roots)
        self._beat_s = beat_s
        self._take_over_s = take_over_s
        self._clock = clock
        self._epoch = 0
        self._confirmed = self._steady_since = clock()
        self._dead = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._epoch = self._register()
        self._confirmed = self._steady_since = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._set_state("dead")

    @property
    def declared_dead(self) -> bool:
        """Another worker has taken this one's jobs over."""
        return self._dead

    @property
    def may_judge(self) -> bool:
        """Whether this worker's own beats came through for the whole of the take-over time. If not, the silence of
        others may be the database's: when it comes back, whoever is first must not declare all the others dead, nor
        itself."""
        now, most_s = self._clock(), self._take_over_s
        return not self._dead and now - self._confirmed <= most_s / 2 and now - self._steady_since > most_s

    def guard(self) -> None:
        """Raises StaleAttempt when the last confirmed beat is too long ago, or this worker was declared dead. Cheap: no
        call, no lock."""
        if self._dead or self._clock() - self._confirmed > self._take_over_s / 2:
            raise StaleAttempt(f"worker {self._id} gave no sign of life for too long")

    def draining(self) -> None:
        """Says that no new job will be taken."""
        self._set_state("draining")

    def _register(self) -> int:
        with self._database.write() as connection:
            epoch = self._database.count(connection, "worker")
            now = self._database.now(connection)
            row = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "version": __version__,
                "roots": self._roots,
                "state": "alive",
                "epoch": epoch,
                "started_at": now,
                "beat": now,
            }
            connection.execute(
                sa.delete(nfc_streams).where(nfc_streams.c.worker_id == self._id)
            )  # of a killed one before us
            if not connection.execute(sa.update(workers).where(workers.c.id == self._id).values(row)).rowcount:
                connection.execute(sa.insert(workers).values(id=self._id, **row))
            return epoch

    def _run(self) -> None:
        while not self._stopped.wait(self._beat_s):
            self.beat()

    def beat(self) -> None:
        """One sign of life. A database that does not answer is no error: the guard sees that none was confirmed."""
        began = self._clock()
        try:
            with self._database.write() as connection:
                mine = sa.update(workers).where(
                    workers.c.id == self._id, workers.c.epoch == self._epoch, workers.c.state != "dead"
                )
                found = connection.execute(mine.values(beat=self._database.clock)).rowcount
        except DatabaseError:  # the database says so itself, once
            return
        if found:
            if began - self._confirmed > self._take_over_s / 2:
                self._steady_since = began
            self._confirmed = began
        else:
            self._dead = True
            LOG.error("worker %s was declared dead; its jobs go on elsewhere", self._id)

    def _set_state(self, state: str) -> None:
        try:
            with self._database.write() as connection:
                connection.execute(
                    sa.update(workers)
                    .where(workers.c.id == self._id, workers.c.epoch == self._epoch)
                    .values(state=state)
                )
        except DatabaseError as error:
            LOG.warning("the state of worker %s could not be written: %s", self._id, error.message)


def declare_dead(database: Database, *, take_over_s: float = TAKE_OVER_S) -> list[str]:
    """Declares workers dead that have not beaten for ``take_over_s``; the ids of those that this call declared: its
    caller alone takes their jobs over. For a worker that ``may_judge``. The streams that they held are free for others.

    One that is dead already and still has jobs is declared again after as long a time: whoever declared it may have
    died of that, and one that drained may have ended before its jobs did.
    """
    has_jobs = sa.select(jobs.c.worker_id).where(
        jobs.c.worker_id == workers.c.id, jobs.c.state.in_([state.value for state in HELD])
    )
    with database.write() as connection:
        late = (
            sa.update(workers)
            .where(
                workers.c.beat < database.clock - take_over_s, sa.or_(workers.c.state != "dead", sa.exists(has_jobs))
            )
            .values(state="dead", epoch=workers.c.epoch + 1, beat=database.clock)
            .returning(workers.c.id)
        )
        dead = list(connection.execute(late).scalars())
        if dead:
            connection.execute(sa.delete(nfc_streams).where(nfc_streams.c.worker_id.in_(dead)))
        return dead
