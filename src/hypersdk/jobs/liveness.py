"""What a process of the daemon reports to its supervisor, line by line on standard output::

    ready            it does its work from now on
    alive            now and then, while its main loop runs
    blocked CODE     instead of ``alive``: the error that keeps it from its work
    failed CODE      the error that ends it

The supervisor (``supervisor.Child``) kills a process that was silent for too long: it may be stopped, or stuck in a
call that never returns.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from contextlib import suppress
from typing import Final

REPORT_S: Final = 2.0
READY: Final = "ready"
FAILED: Final = "failed"
ALIVE: Final = "alive"
BLOCKED: Final = "blocked"


class LivenessReporter:
    """For one thread: the one that runs the main loop."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._next = 0.0
        self._blocked_by = ""
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)

    def ready(self) -> None:
        """The process does its work from now on."""
        self._write(READY)

    def failed(self, code: str) -> None:
        """The process ends because of an error with this code."""
        with suppress(BrokenPipeError):  # the supervisor has ended first
            self._write(f"{FAILED} {code}")

    def alive(self, blocked_by: str = "") -> None:
        """To be called often; reports at most every ``REPORT_S``, and whenever ``blocked_by`` changes: the code of the
        error that keeps the process from its work, or empty. Never blocks: a supervisor that does not read is not
        waited for."""
        now = time.monotonic()
        if now < self._next and blocked_by == self._blocked_by:
            return
        self._next, self._blocked_by = now + REPORT_S, blocked_by
        if any(event == select.POLLOUT for _, event in self._writable.poll(0)):
            self._write(f"{BLOCKED} {blocked_by}" if blocked_by else ALIVE)

    def alive_in_loop(self) -> None:
        """Reports from the running event loop for as long as it runs."""
        self.alive()
        asyncio.get_running_loop().call_later(REPORT_S, self.alive_in_loop)

    def _write(self, line: str) -> None:
        os.write(self._descriptor, line.encode() + b"\n")
