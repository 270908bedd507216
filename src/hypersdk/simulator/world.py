"""The state that all calls act on: the registry of managed objects, one lock, change notification, and a scheduler.

Every read and change of an object happens under ``world.lock``. A change ends in ``touch``, which wakes those who wait
for updates. Work that takes time (a task, a lease becoming ready) is scheduled, and run by one thread under the lock.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar, cast

from hypersdk.simulator.values import Ref, object_not_found, unexpected


class WorldObject(Protocol):
    """What the world needs of the objects in it."""

    ref: Ref

    def is_a(self, type_: str) -> bool:
        """Whether the object is of that API type or inherits from it."""

    def forget_cached(self) -> None:
        """Drops cached properties."""


T = TypeVar("T", bound=WorldObject)


def now() -> datetime:
    """Time of day as the server shows it."""
    return datetime.now(UTC)


class World:
    """Holds all managed objects. ``tick`` grows with every change."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.tick = 0
        self.closing = False
        self.root_moref = ""
        self._objects: dict[str, WorldObject] = {}
        self._by_class: defaultdict[type, dict[str, WorldObject]] = defaultdict(dict)
        self._numbers: Counter[str] = Counter()
        self._scheduled: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._schedule_changed = threading.Condition(self.lock)
        self._scheduler = threading.Thread(target=self._run_scheduled, name="simulator-scheduler", daemon=True)

    def start(self) -> None:
        """Starts the scheduler."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stops the scheduler and wakes all waiting threads; nothing scheduled runs afterwards."""
        with self.lock:
            self.closing = True
            self.changed.notify_all()
            self._schedule_changed.notify_all()
        if self._scheduler.is_alive():
            self._scheduler.join()

    def number(self, prefix: str) -> str:
        """A fresh moref value such as ``vm-101``."""
        self._numbers[prefix] += 1
        return f"{prefix}{self._numbers[prefix]}"

    def add(self, managed: WorldObject) -> None:
        """Registers the object under its reference."""
        self._objects[managed.ref.moref] = managed
        for class_ in type(managed).__mro__:
            self._by_class[class_][managed.ref.moref] = managed
        self.touch(managed)

    def remove(self, managed: WorldObject) -> None:
        """Removes the object; calls on it fail from now on."""
        self._objects.pop(managed.ref.moref, None)
        for class_ in type(managed).__mro__:
            self._by_class[class_].pop(managed.ref.moref, None)
        self.touch(managed)

    def touch(self, managed: WorldObject) -> None:
        """Notifies that some property of the object may have changed."""
        with self.lock:
            self.tick += 1
            managed.forget_cached()
            self.changed.notify_all()

    def find(self, ref: Ref, type_: type[T]) -> T | None:
        """The object as the Python class ``type_``, or ``None`` when it is gone or of another type."""
        managed = self._objects.get(ref.moref)
        return managed if isinstance(managed, type_) and (not ref.type or managed.is_a(ref.type)) else None

    def get(self, ref: Ref, type_: type[T]) -> T:
        """As ``find``. Raises MethodFault (ManagedObjectNotFound)."""
        managed = self.find(ref, type_)
        if managed is None:
            raise object_not_found(ref)
        return managed

    def all(self, type_: type[T]) -> list[T]:
        """All objects of a Python class, oldest first."""
        return cast(list[T], list(self._by_class[type_].values()))

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Runs ``action`` under the lock after ``delay_s`` seconds."""
        with self.lock:
            heapq.heappush(self._scheduled, (time.monotonic() + delay_s, next(self._order), action))
            self._schedule_changed.notify_all()

    def _run_scheduled(self) -> None:
        """Runs each scheduled action when it is due, until the world is closing."""
        with self.lock:
            while not self.closing:
                delay_s = self._scheduled[0][0] - time.monotonic() if self._scheduled else None
                if delay_s is None or delay_s > 0:
                    self._schedule_changed.wait(delay_s)
                    continue
                _, _, action = heapq.heappop(self._scheduled)
                try:
                    action()
                except Exception as error:  # noqa: BLE001 - the scheduler lives on, whatever an action does
                    unexpected(error)
