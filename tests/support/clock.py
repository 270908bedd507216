"""A clock that a test advances."""

from __future__ import annotations


class Clock:
    """Call it for the time; ``pass_`` moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds
