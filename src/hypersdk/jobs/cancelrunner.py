"""Undoing the changes of cancelled and paused jobs that no worker has: at once, outside of the queue.

It takes seconds and frees a lease or a snapshot at the source. In the queue it would wait behind exports that take
hours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypersdk.jobs.claims import Claims

AT_ONCE: Final = 4
CLEANUP_S: Final = 30.0
"""How often idle jobs with changes at their source are looked for; each job has its turn once an hour."""


class CancelRunner:
    """For one worker. ``undo`` runs an attempt of a cancelled or paused job; ``clean_up`` removes what an idle job left
    at its source, and leaves its state. They raise nothing."""

    def __init__(
        self,
        claims: Claims,
        root_ids: Sequence[str],
        undo: Callable[[str, int], object],
        clean_up: Callable[[str, bool], object],
    ) -> None:
        self._claims = claims
        self._roots = list(root_ids)
        self._undo = undo
        self._clean_up = clean_up
        self._next_cleanup = 0.0
        self._threads: dict[str, threading.Thread] = {}

    def tick(self) -> None:
        """Starts what is due, ``AT_ONCE`` at a time. To be called about every second. Raises DatabaseError."""
        self._threads = {job_id: thread for job_id, thread in self._threads.items() if thread.is_alive()}
        if len(self._threads) >= AT_ONCE:
            return
        for job_id, attempt in self._claims.undo_due(self._roots, AT_ONCE):
            self._start(self._undo, job_id, attempt)
        if time.monotonic() >= self._next_cleanup:
            self._next_cleanup = time.monotonic() + CLEANUP_S
            for job_id, published in self._claims.cleanup_due(self._roots, AT_ONCE):
                self._start(self._clean_up, job_id, published)

    def _start(self, act: Callable[[str, Any], object], job_id: str, argument: object) -> None:
        if job_id not in self._threads and len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=act, args=(job_id, argument), name=f"undo {job_id}", daemon=True)
            self._threads[job_id] = thread
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for what was started, at most this long; the next worker does the rest."""
        end = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, end - time.monotonic()))
