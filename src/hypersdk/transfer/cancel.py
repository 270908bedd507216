"""The cancel token, one per run and checked by every loop; and an event that signal handlers may set."""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hypersdk.errors import Cancelled


class SignalFlag:
    """An event that a signal handler sets and the main thread waits for.

    It has no lock: that of ``threading.Event`` may be held by the thread that the handler interrupts, which would then
    wait for itself forever.
    """

    def __init__(self) -> None:
        self._set = False
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(self, _close_all, self._reader, self._writer)

    def set(self) -> None:
        """Wakes the waiting thread. Safe in a signal handler, and from any thread."""
        self._set = True
        with suppress(BlockingIOError):  # the pipe is full, which wakes the thread as well
            os.write(self._writer, b"!")

    def clear(self) -> None:
        """Resets the flag; only the waiting thread may do that."""
        self._set = False
        with suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass

    def is_set(self) -> bool:
        """Whether ``set`` was called since the last ``clear``."""
        return self._set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until ``set`` is called, at most ``timeout_s``; returns whether it was."""
        if not self._set:
            ready = select.poll()
            ready.register(self._reader, select.POLLIN)
            ready.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        return self._set


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class CancelToken:
    """A request to stop, made once, by a signal handler or another thread. ``child`` tokens are cancelled with their
    parent, not the other way round."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._children: list[CancelToken] = []
        self._calls: list[Callable[[], None]] = []
        self.reason = ""

    def child(self) -> CancelToken:
        """A token that is cancelled when this one is, and can be cancelled alone."""
        child = CancelToken()
        with self._lock:
            self._children.append(child)
        if self._event.is_set():
            child.cancel(self.reason)
        return child

    def cancel(self, reason: str) -> None:
        """Requests that everything that uses this token stops. ``reason`` is shown to the user; the first one is
        kept."""
        with self._lock:
            if not self._event.is_set():
                self.reason = reason
                self._event.set()
            children = list(self._children)
            for call in self._calls:
                call()
        for child in children:
            child.cancel(reason)

    @contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """While the block runs, ``cancel`` also makes this call, in its own thread, to end a wait that does not check
        the token. The call must be quick, raise nothing and not use this token."""
        with self._lock:
            self._calls.append(call)
            if self._event.is_set():
                call()
        try:
            yield
        finally:
            with self._lock:
                self._calls.remove(call)

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled once ``cancel`` was called."""
        if self._event.is_set():
            raise Cancelled(f"stopped: {self.reason}")

    def sleep(self, seconds: float) -> None:
        """Sleeps; raises Cancelled as soon as ``cancel`` is called."""
        if self._event.wait(seconds):
            self.check()
