"""Cancels, and pauses that took too long, of jobs that no worker has: done at once, outside of the queue.

Undoing takes seconds and frees a lease or a snapshot at the source. In the queue it would wait for a free place behind exports that take hours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from hypersdk.jobs.claims import Claims

AT_ONCE: Final = 4


class Undoing:
    """Of one worker. ``execute`` runs an attempt of a job that is free; it raises nothing."""

    def __init__(self, claims: Claims, root_ids: Sequence[str], execute: Callable[[str, int], object]) -> None:
        self._claims = claims
        self._roots = list(root_ids)
        self._execute = execute
        self._threads: dict[str, threading.Thread] = {}

    def tick(self) -> None:
        """Begins what is due, as far as there is room. To be called every second or so. Raises DatabaseError."""
        self._threads = {job_id: thread for job_id, thread in self._threads.items() if thread.is_alive()}
        room = AT_ONCE - len(self._threads)
        if room <= 0:
            return
        for job_id, attempt in self._claims.undo_due(self._roots, AT_ONCE):
            if job_id not in self._threads and len(self._threads) < AT_ONCE:
                thread = threading.Thread(
                    target=self._execute, args=(job_id, attempt), name=f"undo {job_id}", daemon=True
                )
                self._threads[job_id] = thread
                thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for what was begun, so long at most; what is not done by then is done by the next worker."""
        end = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, end - time.monotonic()))
