"""Turns: how many may do something at a time, in the order in which they asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hypersdk.transfer.cancel import CancelToken

_POLL_S: Final = 0.2


class Turns:
    """At most ``at_once`` take a turn at a time. Thread-safe."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def taken(self, cancel: CancelToken, waiting: Callable[[], None]) -> Iterator[None]:
        """Waits for a turn and has it during the block; ``waiting`` is called if none is free. Raises Cancelled."""
        turn = self._ask()
        try:
            if not turn.is_set():
                waiting()
                while not turn.wait(_POLL_S):
                    cancel.check()
            yield
        finally:
            self._give_back(turn)

    def _ask(self) -> threading.Event:
        turn = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set()
            else:
                self._waiting.append(turn)
        return turn

    def _give_back(self, turn: threading.Event) -> None:
        """Also of one that stopped waiting: its turn may have come meanwhile."""
        with self._lock:
            if not turn.is_set():
                self._waiting.remove(turn)
            elif self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
