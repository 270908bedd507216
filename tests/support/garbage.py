"""No test leaves the process without garbage collection: the tests after it would take all memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _garbage_collection() -> Iterator[None]:
    yield
    left_off = not gc.isenabled()
    gc.enable()
    assert not left_off, "garbage collection was left off"
