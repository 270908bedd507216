"""Whether the daemon is ready: for load balancers and service managers. Open to everyone, so it is asked of the
database at most once a second, and says only which part is missing, with a code."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.jobs.enginecopy import engine_fault_of, engine_file
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import NO_WORKER
from hypersdk.jobs.statistics import workers_alive
from hypersdk.jobs.workerfault import SharedFault
from hypersdk.state.database import DATABASE_NEWER, PROBE_WAIT_S, Database, DatabaseError, connect_sqlite
from hypersdk.state.faults import DATABASE_DOWN

KEPT_S: Final = 1.0
WAIT_S: Final = 8.0
"""For all parts together; then the answer is that the database does not answer."""
OK: Final = "ok"


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """One part: ``ok``, or what is wrong with it and the code for that."""

    word: str = OK
    code: str | None = None


class Readiness:
    """Thread-safe. ``shared_fault`` is what the supervisor reports of workers that do not stay alive or cannot work."""

    def __init__(
        self,
        database: Database,
        settings: DaemonSettings,
        shared_fault: SharedFault,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._needs_worker = "worker" in settings.roles
        self._take_over_s = settings.take_over_s
        self._engine = engine_file(settings) if self._needs_worker else None
        self._shared_fault = shared_fault
        self._clock = clock
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "readiness")
        self._looking: Future[Mapping[str, ReadinessCheck]] | None = None
        self._looked = -KEPT_S
        self._checks: Mapping[str, ReadinessCheck] = {}

    def checks(self) -> Mapping[str, ReadinessCheck]:
        """By part. A database that hangs is waited for by one look, not by one for each that asks."""
        with self._lock:
            if self._clock() - self._looked >= KEPT_S:
                if self._looking is None:
                    self._looking = self._pool.submit(self._look)
                looking = self._looking
                if wait([looking], WAIT_S).done:
                    self._looking = None  # also where it ended by a bug: the next one looks anew
                    self._checks = looking.result()
                else:
                    self._checks = {"database": ReadinessCheck("does not answer", DATABASE_DOWN)}
                self._looked = self._clock()
            return self._checks

    def fine(self, checks: Mapping[str, ReadinessCheck]) -> bool:
        """Whether that is enough. A daemon that has no workers of its own answers without them, too."""
        return all(check.code is None for part, check in checks.items() if self._needs_worker or part != "workers")

    def _look(self) -> Mapping[str, ReadinessCheck]:
        if (fault := self._database.writable()) is not None and fault.code == DATABASE_DOWN:
            return {"database": ReadinessCheck("does not answer", fault.code)}
        try:
            current = self._database.is_current()
            alive = workers_alive(self._database, take_over_s=self._take_over_s)
        except DatabaseError as error:
            return {"database": ReadinessCheck("does not answer", error.code)}
        checks = {
            "database": ReadinessCheck() if fault is None else ReadinessCheck("cannot be written", fault.code),
            "schema": ReadinessCheck() if current else ReadinessCheck("not the one of this version", DATABASE_NEWER),
            "workers": ReadinessCheck() if alive else ReadinessCheck("none is alive", NO_WORKER),
        }
        if worker_fault := self._shared_fault.read():
            word = "one exits each time that it starts" if worker_fault.exits else "one cannot do its work"
            checks["workers"] = ReadinessCheck(word, worker_fault.code)
        if self._engine is not None and (found := _look_at_engine(self._engine)).code is not None:
            checks["engine"] = found
        return checks


def _look_at_engine(path: Path) -> ReadinessCheck:
    """The workers' own file: this process never opens it otherwise. One that is not there yet is made by the first
    worker."""
    if not path.exists():
        return ReadinessCheck()
    try:
        with closing(connect_sqlite(path, PROBE_WAIT_S)) as engine:
            engine.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        fault = engine_fault_of(error, path)
        return ReadinessCheck("cannot be written", None if fault is None else fault.code)
    return ReadinessCheck()
