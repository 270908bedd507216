"""A group of threads that start, stop and fail together; each copy is one.

::

    with WorkerGroup(cancel) as group, source.open(group.token) as stream:
        chunks = group.adopt(Channel(4))
        group.start("read", ...)          the first error of any thread stops them all
        group.wait()                      raises it, once; or Cancelled within a moment of the cancel

At the end of the block the source is closed first, which wakes a thread that still waits for it, then every thread is
joined: none outlives the block.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from hypersdk.errors import Cancelled
from hypersdk.transfer.cancel import CancelToken

T = TypeVar("T")
P = TypeVar("P", bound="Stoppable")

POLL_S: Final = 0.1
"""Longest time between two checks of the cancel token."""
GRACE_S: Final = 0.6
"""How long a stopped thread may take to notice, before its source is closed."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends a thread that waits while the group stops
    """Never leaves the group."""


class Stoppable:
    """Something that threads of a group wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stopped = False

    def stop(self) -> None:
        """Raises Stopped in every thread that waits now or later."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        """Called with the lock held. Raises Stopped."""
        self._changed.wait_for(lambda: self._stopped or ready())
        if self._stopped:
            raise Stopped


class Channel(Stoppable, Generic[T]):
    """A bounded queue between threads of one group."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._items: deque[T] = deque()
        self._closed = False

    def put(self, item: T) -> None:
        """Adds ``item``; waits while the channel is full. Raises Stopped."""
        with self._changed:
            self._wait_for(lambda: len(self._items) < self._room)
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T | None:
        """Returns the next item; None when the channel is closed and empty. Raises Stopped."""
        with self._changed:
            self._wait_for(lambda: bool(self._items) or self._closed)
            self._changed.notify_all()
            return self._items.popleft() if self._items else None

    def close(self) -> None:
        """Closes the channel: no more items will be added."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class SequenceGate(Stoppable):
    """Runs numbered blocks of code one at a time, in the order of their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Waits until all smaller numbers are done. Raises Stopped."""
        with self._changed:
            self._wait_for(lambda: self._next == number)
        yield
        with self._changed:
            self._next += 1
            self._changed.notify_all()


class WorkerGroup:
    """Starts threads, stops them together, joins them all. ``token`` is cancelled with the caller's and when the group
    stops."""

    def __init__(self, cancel: CancelToken, name: str) -> None:
        self.token = cancel.child()
        self._cancel = cancel
        self._name = name
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._stops: list[Callable[[], None]] = []

    def adopt(self, part: P) -> P:
        """Returns ``part``, which stops with the group from now on. To be called before threads start."""
        self._stops.append(part.stop)
        return part

    def start(self, role: str, work: Callable[[], None]) -> None:
        """Runs ``work`` in a thread of the group."""
        thread = threading.Thread(target=self._run, args=[work], name=f"{self._name}: {role}")
        with self._changed:
            thread.start()
            self._threads.append(thread)
            self._running += 1

    def wait(self) -> None:
        """Returns when all threads have ended. Raises the first error of any of them, or Cancelled."""
        self._wait_for_end()
        if self._error is not None:
            self._stop()
            with self._changed:
                self._changed.wait_for(lambda: not self._running, GRACE_S)
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
        self._stop()
        for thread in self._threads:
            thread.join()
        if self._error is not None and self._error is not error and (error is None or isinstance(error, Exception)):
            raise self._error  # the first error; that of closing the source is its context

    def _wait_for_end(self) -> None:
        with self._changed:
            while self._running and self._error is None:
                self._changed.wait(POLL_S)
                if self._cancel.cancelled:
                    break
        try:
            self._cancel.check()
        except Cancelled as cancelled:
            self._fail(cancelled)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass  # the reason is known already
        except BaseException as error:  # noqa: BLE001 - the outermost loop of the thread; `wait` raises it
            self._fail(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def _stop(self) -> None:
        self.token.cancel("another part of the copy ended")
        for stop in self._stops:
            stop()
