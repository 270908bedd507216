"""The API as the daemon serves it: ``HTTPServer`` with its own protocol, TLS and limits, in a thread, on a free port of
loopback.

Fixture: ``serve_api``, a factory: ``serve_api(login_rate_per_minute=3)`` serves with these settings. Beside it,
``apiserver.api`` is for tests of routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hypersdk.access.roles import Role
from hypersdk.api.app import create_app
from hypersdk.api.context import Services
from hypersdk.api.server import ConnectionLimiter, HTTPServer
from hypersdk.secret import Secret
from tests.support.apiserver import serving
from tests.support.services import running_services

PASSWORD = "correct horse battery"


@dataclass
class ServedApi:
    """A running server and its parts."""

    services: Services
    app: FastAPI
    server: HTTPServer
    host: str
    port: int

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def admin(self) -> str:
        """The token of the first start."""
        return (self.services.settings.state_dir / "admin.token").read_text().strip()

    def user(self, role: Role, name: str | None = None) -> str:
        """A user with ``PASSWORD``; the name."""
        return self.services.access.users.create(name or f"a-{role}", role, Secret(PASSWORD)).name

    def token(self, role: Role, scope: str | None = None) -> str:
        """A token of a new user."""
        users = self.services.access.users
        user = users.create(f"t-{role}-{scope}-{len(users.list())}", role, None)
        return self.services.access.tokens.create(user.id, "test", scope or role.value)[1].reveal()

    def client(self, token: str | None = None, **more: Any) -> httpx.Client:
        """Close it."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **more)


@contextmanager
def served(
    folder: Path,
    *,
    gate: ConnectionLimiter | None = None,
    change: Callable[[FastAPI], None] = lambda _: None,
    **more: Any,
) -> Iterator[ServedApi]:
    """Serves until the end of the block. ``change`` may add routes; ``more`` as of ``running_services``."""
    (folder / "exports").mkdir(exist_ok=True)
    with running_services(folder, **more) as services:
        app = create_app(services)
        change(app)
        with serving(services, app, gate=gate) as server:
            host, port = server.sockets[0].getsockname()[:2]
            yield ServedApi(services, app, server, host, port)


ServeApi = Callable[..., ServedApi]


@pytest.fixture
def serve_api(tmp_path: Path) -> Iterator[ServeApi]:
    """A factory of servers; all are stopped at the end of the test."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(served(tmp_path, **settings))
