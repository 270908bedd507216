"""The cancel token: one per run, looked at by every loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypersdk.errors import Cancelled


class CancelToken:
    """Set once, by a signal handler or another thread; ``child`` tokens are cancelled with their parent, not the other way round."""

    def __init__(self, parent: CancelToken | None = None) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._children: list[CancelToken] = []
        self._calls: list[Callable[[], None]] = []
        self.reason = ""
        if parent is not None:
            parent._adopt(self)

    def _adopt(self, child: CancelToken) -> None:
        with self._lock:
            self._children.append(child)
        if self._event.is_set():
            child.cancel(self.reason)

    def child(self) -> CancelToken:
        """A token that is cancelled when this one is, and can be cancelled alone."""
        return CancelToken(self)

    def cancel(self, reason: str) -> None:
        """Asks all who hold this token to stop. ``reason`` is shown to the user; the first one stands."""
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
        """While inside, ``cancel`` also makes this call, from its own thread: for what ends a wait that looks at no token. It must be quick,
        raise nothing and leave this token alone. After the block it is not made any more."""
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
        """Sleeps, and raises Cancelled at once when cancelled meanwhile."""
        if self._event.wait(seconds):
            self.check()
