"""Cancels, and pauses that took too long, of jobs that no worker has: done at once, outside of the queue.

Undoing takes seconds and frees a lease or a snapshot at the source. In the queue it would wait for a free place behind
exports that take hours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from hypersdk.jobs.claims import Claims

AT_ONCE: Final = 4
LOOK_S: Final = 30.0
"""How often it is looked for what was left; each job has its turn once an hour."""


class CancelRunner:
    """Of one worker. ``execute`` runs an attempt of a job that is free, ``tidy`` looks after one that stays what it is;
    they raise nothing."""

    def __init__(
        self,
        claims: Claims,
        root_ids: Sequence[str],
        execute: Callable[[str, int], object],
        tidy: Callable[[str, bool], object],
    ) -> None:
        self._claims = claims
        self._roots = list(root_ids)
        self._execute = execute
        self._tidy = tidy
        self._next_tidy = 0.0
        self._threads: dict[str, threading.Thread] = {}

    def tick(self) -> None:
        """Begins what is due, as far as there is room. To be called every second or so. Raises DatabaseError."""
        self._threads = {job_id: thread for job_id, thread in self._threads.items() if thread.is_alive()}
        room = AT_ONCE - len(self._threads)
        if room <= 0:
            return
        for job_id, attempt in self._claims.undo_due(self._roots, AT_ONCE):
            self._begin(job_id, self._execute, job_id, attempt)
        if time.monotonic() >= self._next_tidy:
            self._next_tidy = time.monotonic() + LOOK_S
            for job_id, published in self._claims.tidy_due(self._roots, AT_ONCE):
                self._begin(job_id, self._tidy, job_id, published)

    def _begin(self, job_id: str, act: Callable[..., object], *arguments: object) -> None:
        if job_id not in self._threads and len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=act, args=arguments, name=f"undo {job_id}", daemon=True)
            self._threads[job_id] = thread
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for what was begun, so long at most; what is not done by then is done by the next worker."""
        end = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, end - time.monotonic()))
