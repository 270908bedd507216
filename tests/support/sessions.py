"""Logged-in sessions on test servers.

Fixtures: ``log_in`` (any server with ``url``, ``username``, ``password``), ``vcsim_session`` (a vcsim with a few
machines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest

from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import resolve_endpoint
from hypersdk.vsphere.session import Session
from tests.support.peers import Vcsim


class Server(Protocol):
    """What a login needs to know."""

    @property
    def url(self) -> str: ...


LogIn = Callable[..., Session]


@pytest.fixture
def log_in() -> Iterator[LogIn]:
    """Logs in to ``server`` as ``username`` (default ``user``, password ``pass``); sessions end with the test."""
    with ExitStack() as stack:

        def connect(server: Server, username: str = "user", password: str = "pass") -> Session:
            environ = {
                "GOVC_URL": server.url,
                "GOVC_USERNAME": username,
                "GOVC_PASSWORD": password,
                "GOVC_INSECURE": "1",
            }
            endpoint = resolve_endpoint(environ, None)
            return stack.enter_context(Session.connect(endpoint, cancel=CancelToken()))

        yield connect


@pytest.fixture
def vcsim_session(vcsim: Callable[..., Vcsim], log_in: LogIn) -> tuple[Vcsim, Session]:
    """A vcsim with two machines, and a session on it."""
    server = vcsim(vm=2, cluster=0, standalone_host=1)
    return server, log_in(server)
