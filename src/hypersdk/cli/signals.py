"""Ctrl-C, SIGTERM and a terminal that goes away (SIGHUP): the first stops the run in order, the second warns of the
consequences of force, the third ends the process. The kernel and the shell each send SIGHUP, so it never forces.

The interpreter runs signal handlers between two bytecodes of the main thread, which may hold any lock at that moment.
So the handler itself takes none; a wake-up pipe passes the number to a thread that may. The handler raises only while
the program waits for input or for the first answer of a server (``breakable``), because nothing else ends a blocked
read; the pipe is off during that time, so that no signal is handled twice.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

from hypersdk.errors import Cancelled
from hypersdk.transfer.cancel import CancelToken

WATCHED: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal went away"}
"""The signals, and why they stop a run."""


@dataclass(frozen=True, slots=True)
class StopTexts:
    """What the first signal is answered with, and the second: what force leaves behind."""

    stopping: str
    warning: str


NOTHING: Final = StopTexts("Stopping.", "Still stopping. Press Ctrl-C again to end by force.")
"""Nothing was begun."""
EXPORT: Final = StopTexts(
    "Stopping: written data is kept. Changes at the source are undone, except a temporary snapshot that is needed to"
    " resume. Please wait.",
    "Still stopping. If it is ended by force, the lease stays open on the server until it times out (usually after five"
    " minutes; until then the machine can be neither started nor moved), and a temporary snapshot or an ejected CD is"
    " restored only by `hyper2kvm cleanup`. Data on disk can still be resumed. Press Ctrl-C again to end by force.",
)
LANDING: Final = StopTexts(
    "Stopping: finished images are kept. Changes at the target and at the source are undone, except a temporary"
    " snapshot that is needed to resume. Please wait.",
    "Still stopping. If it is ended by force, what was changed at the target and at the source stays: a domain that is"
    " not finished, a source that is off or disconnected, a snapshot. The same command goes on, and `hyper2kvm"
    " cleanup` undoes it. Press Ctrl-C again to end by force.",
)


class Interrupts:
    """Counts the requests to stop and acts on them. ``texts`` are those of what is under way. ``received`` is the first
    signal; it decides the exit status."""

    def __init__(self, cancel: CancelToken, tell: Callable[[str], None], end: Callable[[int], None] = os._exit) -> None:
        self._cancel = cancel
        self._tell = tell
        self._end = end
        self._count = 0
        self._breakable = False
        self._diverted: Callable[[], None] | None = None
        self.texts = NOTHING
        self.received: signal.Signals | None = None

    def on_signal(self, number: int) -> None:
        """One signal, seen by the watching thread."""
        if number == signal.SIGHUP and self._count:
            return
        self._count += 1
        if self._count == 1:
            self._first(number)
        elif self._count == 2:
            self._tell(self.texts.warning)
        else:
            self._end(128 + number)

    def _first(self, number: int) -> None:
        self.received = signal.Signals(number)
        self._cancel.cancel(reason_of(number))
        if self._diverted is not None:
            self._diverted()
        else:
            self._tell(self.texts.stopping)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """For code that may be aborted anywhere: a signal raises Cancelled in the main thread, whatever blocks it. Main
        thread only."""
        pipe = signal.set_wakeup_fd(-1)
        self._breakable = True
        try:
            yield
        finally:
            signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
            self._breakable = False

    @contextmanager
    def diverted(self, stop: Callable[[], None]) -> Iterator[None]:
        """While a full-screen program uses the terminal: ``stop`` is called (from another thread) instead of printing a
        message."""
        self._diverted = stop
        try:
            yield
        finally:
            self._diverted = None

    def in_main_thread(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler. It must exist for the interpreter to write the number to the wake-up pipe."""
        if self._breakable:
            self.received = signal.Signals(number)
            raise cancelled_by(number)


def reason_of(number: int) -> str:
    """For the cancel token."""
    return WATCHED[signal.Signals(number)]


def cancelled_by(number: int) -> Cancelled:
    """The error that says which signal ended the run."""
    return Cancelled(f"stopped: {reason_of(number)}", signal=signal.Signals(number).name)


@contextmanager
def watched(interrupts: Interrupts) -> Iterator[None]:
    """Routes the signals to ``interrupts``, then restores the previous handlers. SIGHUP stays ignored where the parent
    ignores it (nohup). Main thread only."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    thread = threading.Thread(target=_watch, args=(reader, interrupts), name="signals", daemon=True)
    before = {number: signal.signal(number, interrupts.in_main_thread) for number in _to_watch()}
    old_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()


def _to_watch() -> list[signal.Signals]:
    stays = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in WATCHED if not (stays and number is signal.SIGHUP)]


def _watch(reader: socket.socket, interrupts: Interrupts) -> None:
    while numbers := reader.recv(16):
        for number in numbers:
            if number in WATCHED:
                interrupts.on_signal(number)
