"""Heartbeats: each worker writes them by the database's clock. A worker that misses them for too long is declared dead
by exactly one other.

::

    beat every 2 s ──> UPDATE workers SET beat = now WHERE id = me AND epoch = mine AND state <> 'dead'
                          1 row: confirmed             0 rows: I was declared dead, and must stop
    guard, before every write and call:  CLOCK_BOOTTIME - last confirmed beat > take-over time / 2  ->  stop

``CLOCK_BOOTTIME`` includes the time in which the machine sleeps, so a process that slept notices before it writes.
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
"""The jobs of a worker without a heartbeat for this long go to another."""


def boot_time() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Heartbeat:
    """The heartbeat of one worker, in a thread of its own. A context manager."""

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
        """Whether another worker has taken over the jobs of this one."""
        return self._dead

    @property
    def may_judge(self) -> bool:
        """Whether this worker's own heartbeats succeeded for the whole take-over time. If not, the others may be silent
        because of the database: when it is back, the first worker must not declare all others dead, or itself."""
        now, most_s = self._clock(), self._take_over_s
        return not self._dead and now - self._confirmed <= most_s / 2 and now - self._steady_since > most_s

    def guard(self) -> None:
        """Raises StaleAttempt if the last confirmed heartbeat is too old, or this worker was declared dead. Cheap: no
        I/O, no lock."""
        if self._dead or self._clock() - self._confirmed > self._take_over_s / 2:
            raise StaleAttempt(f"worker {self._id} sent no heartbeat for too long")

    def draining(self) -> None:
        """Marks the worker as one that takes no new jobs."""
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
            )  # left by a killed process with this identity
            if not connection.execute(sa.update(workers).where(workers.c.id == self._id).values(row)).rowcount:
                connection.execute(sa.insert(workers).values(id=self._id, **row))
            return epoch

    def _run(self) -> None:
        while not self._stopped.wait(self._beat_s):
            self.beat()

    def beat(self) -> None:
        """Writes one heartbeat. A database outage is not an error here: ``guard`` notices that none was confirmed."""
        began = self._clock()
        try:
            with self._database.write() as connection:
                mine = sa.update(workers).where(
                    workers.c.id == self._id, workers.c.epoch == self._epoch, workers.c.state != "dead"
                )
                found = connection.execute(mine.values(beat=self._database.clock)).rowcount
        except DatabaseError:  # logged by the database, once
            return
        if found:
            if began - self._confirmed > self._take_over_s / 2:
                self._steady_since = began
            self._confirmed = began
        else:
            self._dead = True
            LOG.error("worker %s was declared dead; its jobs continue elsewhere", self._id)

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
    """Declares workers without a heartbeat for ``take_over_s`` dead, and frees their streams. Returns the ids of those
    that this call declared: only its caller takes over their jobs. For a worker that ``may_judge``.

    A dead worker that still has jobs is declared again after the same time: the worker that declared it may have died
    before the take-over, and one that drained may have ended before its jobs did.
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
