"""Whether the daemon can do its work: for load balancers and service managers. Open to everyone, so it is asked of the database at most
once a second, and says only which part is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from hypersdk.jobs.figures import workers_alive
from hypersdk.state.database import Database, DatabaseError

KEPT_S: Final = 1.0


class Readiness:
    """Thread-safe."""

    def __init__(
        self, database: Database, *, needs_worker: bool, take_over_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._needs_worker = needs_worker
        self._take_over_s = take_over_s
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = -KEPT_S
        self._checks: Mapping[str, str] = {}

    def checks(self) -> Mapping[str, str]:
        """Part -> ``ok`` or what is wrong."""
        with self._lock:
            if self._clock() - self._looked >= KEPT_S:
                self._checks = self._look()
                self._looked = self._clock()
            return self._checks

    def fine(self, checks: Mapping[str, str]) -> bool:
        """Whether that is enough. A daemon that has no workers of its own answers without them, too."""
        return all(word == "ok" for part, word in checks.items() if self._needs_worker or part != "workers")

    def _look(self) -> Mapping[str, str]:
        try:
            current = self._database.is_current()
            alive = workers_alive(self._database, take_over_s=self._take_over_s)
        except DatabaseError:
            return {"database": "does not answer"}
        checks = {"database": "ok", "schema": "ok" if current else "not the one of this version"}
        checks["workers"] = "ok" if alive else "none is alive"
        return checks
