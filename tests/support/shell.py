"""The API as the daemon serves it: ``HTTPServer`` with its own protocol, TLS and limits, in a thread, on a free port of
loopback.

Fixture: ``shell``, a factory: ``shell(login_rate_per_minute=3)`` serves with these settings. Beside it,
``apiserver.api`` is for tests of routes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
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
from hypersdk.api.process import open_services
from hypersdk.api.server import ConnectionLimiter, HTTPServer
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.secret import Secret

START_S = 30
PASSWORD = "correct horse battery"


@dataclass
class Shell:
    """A running server and what it was made of."""

    services: Services
    app: FastAPI
    server: HTTPServer
    url: str
    host: str
    port: int

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
    environ: Mapping[str, str] | None = None,
    gate: ConnectionLimiter | None = None,
    change: Callable[[FastAPI], None] = lambda _: None,
    **settings: Any,
) -> Iterator[Shell]:
    """Serves until the end of the block. ``change`` may add routes. Without settings, no rate is reached."""
    (folder / "exports").mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "addr": "127.0.0.1:0",
        "state_dir": folder / "state",
        "export_roots": (folder / "exports",),
        "drain_s": 5.0,
        "rate_per_minute": 1_000_000,
        "rate_per_address_per_minute": 1_000_000,
        "login_rate_per_minute": 10_000,
    }
    with open_services(
        DaemonSettings(**(values | settings)), environ or {"GOVC_URL": "https://vcenter.example.com"}
    ) as services:
        app = create_app(services)
        change(app)
        server = HTTPServer(app, services.settings, gate=gate)
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(ready.set,), name="shell")
        thread.start()
        try:
            assert ready.wait(START_S), "the server did not start"
            host, port = server.sockets[0].getsockname()[:2]
            yield Shell(services, app, server, server.url, host, port)
        finally:
            server.stop()
            thread.join(START_S)
            assert not thread.is_alive(), "the server did not end"


ServeShell = Callable[..., Shell]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[ServeShell]:
    """A factory of servers; all are stopped at the end of the test."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(served(tmp_path, **settings))
