"""What holds for every test of this package: a thread that outlives its test fails it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

PATIENCE_S = 5.0
"""A server in this process needs a moment to see that a client hung up."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (
        left := [thread for thread in threading.enumerate() if thread not in before]
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, "threads outlive the test"
