"""What holds for every test of this package: a thread that outlives its test fails it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from hypersdk.vsphere.session import Session
from tests.support.peers import Vcsim
from tests.support.tlsserver import PEER
from tests.support.vsphere import connect

PATIENCE_S = 5.0
"""A server in this process needs a moment to see that a client hung up."""


def _running() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name != PEER}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = _running()
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (left := _running() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, "threads outlive the test"


@pytest.fixture(scope="module")
def session(server: Vcsim) -> Iterator[Session]:
    """A session on the module's server."""
    with connect(server) as opened:
        yield opened
