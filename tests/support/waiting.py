"""Waiting for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2
AT_ONCE_S = 20
"""Something took less: that it waited for the end of a longer pause is ruled out, on a busy machine too."""


def eventually(condition: Callable[[], Any], timeout_s: float = 90, explain: Callable[[], Any] | None = None) -> None:
    """Waits until ``condition`` is true. Otherwise the test fails after ``timeout_s``, with ``explain()``."""
    end, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not condition():
        assert time.monotonic() < end, explain() if explain else "timed out"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
