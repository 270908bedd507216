"""What a process of the daemon tells its parent over standard output: ``ready`` once, a line now and then while its
main loop turns, with the code of what keeps it from its work, if anything does, and the code of the error that ends it.

The parent ends a process that was silent for too long (``supervisor.Child``): it may be stopped, or stuck in a call
that never returns.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

SIGN_S: Final = 2.0
READY: Final = b"ready\n"
FAILED: Final = b"failed "
ALIVE: Final = b"alive\n"
KEPT: Final = b"kept "


class LivenessReporter:
    """For one thread: the one whose main loop it is."""

    def __init__(self, descriptor: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._next = 0.0
        self._kept = ""
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def ready(self) -> None:
        """The process does its work from now on."""
        os.write(self._descriptor, READY)

    def failed(self, code: str) -> None:
        """The process ends by an error with that code."""
        with suppress(BrokenPipeError):  # its parent has ended first
            os.write(self._descriptor, FAILED + code.encode() + b"\n")

    def alive(self, kept: str = "") -> None:
        """To be called often; says so at most every ``SIGN_S``, and when ``kept`` changes: the code of what keeps the
        process from its work, empty where nothing does. Never waits: where the parent does not read, there is nobody to
        tell."""
        now = self._clock()
        if now < self._next and kept == self._kept:
            return
        self._next, self._kept = now + SIGN_S, kept
        if any(event == select.POLLOUT for _, event in self._room.poll(0)):
            os.write(self._descriptor, KEPT + kept.encode() + b"\n" if kept else ALIVE)

    def alive_in_loop(self) -> None:
        """The same for the event loop that runs: it says so as long as it turns."""
        self.alive()
        asyncio.get_running_loop().call_later(SIGN_S, self.alive_in_loop)
