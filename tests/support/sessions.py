"""Logged-in sessions on test servers.

Fixtures: ``log_in`` (any server with ``url``, ``username``, ``password``), ``vcsim_session`` (a vcsim with a few
machines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hypersdk.vsphere.session import Session
from tests.support.peers import Vcsim
from tests.support.vsphere import log_in_to

LogIn = Callable[..., Session]


@pytest.fixture
def log_in() -> Iterator[LogIn]:
    """Logs in to a server; sessions end with the test."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(log_in_to(server))


@pytest.fixture
def vcsim_session(vcsim: Callable[..., Vcsim], log_in: LogIn) -> tuple[Vcsim, Session]:
    """A vcsim with two machines, and a session on it."""
    server = vcsim(vm=2, cluster=0, standalone_host=1)
    return server, log_in(server)
