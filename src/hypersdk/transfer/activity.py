"""Where the threads of a copy spend their time, and what limits the copy.

::

    a reading thread:  reading | paying the limit | backlog: waits for the workers | cpu | writing
    a working thread:  idle: nothing to do                                            | cpu | writing

The reading threads set the pace, so their time shows the bottleneck: much ``reading`` means that the source is slow,
much ``backlog`` that the working threads are; their own time shows whether they compute or write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import TracebackType
from typing import Final

from hypersdk.model import Bottleneck


class Activity(IntEnum):
    """What a thread is doing."""

    IDLE = 0
    READING = 1
    LIMITED = 2
    BACKLOG = 3
    CPU = 4
    WRITING = 5


Spent = tuple[float, ...]
"""Seconds by ``Activity``."""
NOTHING: Spent = (0.0,) * len(Activity)


class Timeline:
    """The time of one thread. Only that thread calls ``switch``; any thread may read it, including the current
    activity."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._spent = [0.0] * len(Activity)
        self._activity = Activity.IDLE
        self._since = clock()

    def switch(self, activity: Activity) -> None:
        """Begins ``activity``."""
        with self._lock:
            now = self._clock()
            self._spent[self._activity] += now - self._since
            self._activity = activity
            self._since = now

    def spent(self) -> Spent:
        """Seconds so far."""
        with self._lock:
            spent = list(self._spent)
            spent[self._activity] += self._clock() - self._since
        return tuple(spent)

    @property
    def activity(self) -> Activity:
        """The current activity."""
        return self._activity

    def __enter__(self) -> Timeline:
        _OF_THREAD.timeline = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.switch(Activity.IDLE)
        _OF_THREAD.timeline = None


_OF_THREAD: Final = threading.local()


@contextmanager
def doing(activity: Activity) -> Iterator[None]:
    """Records ``activity`` for the calling thread while the block runs, then the one before. Does nothing in a thread
    without a timeline."""
    timeline: Timeline | None = getattr(_OF_THREAD, "timeline", None)
    if timeline is None:
        yield
        return
    before = timeline.activity
    timeline.switch(activity)
    try:
        yield
    finally:
        timeline.switch(before)


def total(timelines: Iterable[Timeline]) -> Spent:
    """Returns the sum over several threads."""
    return tuple(map(sum, zip(*(timeline.spent() for timeline in timelines), strict=True))) or NOTHING


def difference(later: Spent, earlier: Spent) -> Spent:
    """Returns the time spent between two samples."""
    return tuple(after - before for after, before in zip(later, earlier, strict=True))


def bottleneck(readers: Spent, workers: Spent) -> Bottleneck | None:
    """Returns what took most of the reading threads' time; None before anything was done."""
    busy = workers[Activity.CPU] + workers[Activity.WRITING]
    to_write = workers[Activity.WRITING] / busy if busy > 0 else 0.0
    backlog = readers[Activity.BACKLOG]
    shares = {
        Bottleneck.SOURCE: readers[Activity.READING],
        Bottleneck.LIMIT: readers[Activity.LIMITED],
        Bottleneck.TARGET: readers[Activity.WRITING] + backlog * to_write,
        Bottleneck.CPU: readers[Activity.CPU] + backlog * (1 - to_write),
    }
    most = max(shares, key=lambda kind: shares[kind])
    return most if shares[most] > 0 else None
