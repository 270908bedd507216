"""Readiness of the daemon, for load balancers and service managers. It needs no authentication, so the database is
checked at most once a second, and the result names only the part that fails, with a code."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping
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

CACHED_S: Final = 1.0
WAIT_S: Final = 8.0
"""Time limit of all checks together; after it, the result is that the database does not answer."""
OK: Final = "ok"


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The state of one part: ``ok``, or what is wrong with it and the error code."""

    word: str = OK
    code: str | None = None


class Readiness:
    """Thread-safe. ``shared_fault`` is what the supervisor reports of workers that do not stay alive or cannot work."""

    def __init__(
        self,
        database: Database,
        settings: DaemonSettings,
        shared_fault: SharedFault,
    ) -> None:
        self._database = database
        self._needs_worker = "worker" in settings.roles
        self._take_over_s = settings.take_over_s
        self._engine = engine_file(settings) if self._needs_worker else None
        self._shared_fault = shared_fault
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "readiness")
        self._running: Future[Mapping[str, ReadinessCheck]] | None = None
        self._checked_at = -CACHED_S
        self._checks: Mapping[str, ReadinessCheck] = {}

    def checks(self) -> Mapping[str, ReadinessCheck]:
        """The checks by part. If the database hangs, one thread waits for it, not one for each request."""
        with self._lock:
            if time.monotonic() - self._checked_at >= CACHED_S:
                if self._running is None:
                    self._running = self._pool.submit(self._check)
                running = self._running
                if wait([running], WAIT_S).done:
                    self._running = None  # before ``result``, which raises if the check failed because of a bug
                    self._checks = running.result()
                else:
                    self._checks = {"database": ReadinessCheck("does not answer", DATABASE_DOWN)}
                self._checked_at = time.monotonic()
            return self._checks

    def fine(self, checks: Mapping[str, ReadinessCheck]) -> bool:
        """Whether the daemon is ready. One that has no workers of its own is ready without them."""
        return all(check.code is None for part, check in checks.items() if self._needs_worker or part != "workers")

    def _check(self) -> Mapping[str, ReadinessCheck]:
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
        if self._engine is not None and (found := _check_engine(self._engine)).code is not None:
            checks["engine"] = found
        return checks


def _check_engine(path: Path) -> ReadinessCheck:
    """Checks the workers' own database, which this process does not open otherwise. If it does not exist, the first
    worker creates it."""
    if not path.exists():
        return ReadinessCheck()
    try:
        with closing(connect_sqlite(path, PROBE_WAIT_S)) as engine:
            engine.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        fault = engine_fault_of(error, path)
        return ReadinessCheck("cannot be written", None if fault is None else fault.code)
    return ReadinessCheck()
