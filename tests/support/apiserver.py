"""A real API over real sockets in this process: the daemon's server on a free port of 127.0.0.1, in its own
thread.

Fixture: ``api`` (SQLite, with tokens for each role and a folder to export to).
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hypersdk.access.roles import Role
from hypersdk.api.app import create_app
from hypersdk.api.context import Services
from hypersdk.api.server import ConnectionLimiter, HTTPServer
from hypersdk.jobs.claims import Claims
from hypersdk.jobs.heartbeat import Heartbeat
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.store import JobStore
from hypersdk.state.database import Database
from tests.support.jobrecords import new_job, submit
from tests.support.services import running_services

START_S = 30


@contextmanager
def serving(
    services: Services, app: FastAPI | None = None, *, gate: ConnectionLimiter | None = None
) -> Iterator[HTTPServer]:
    """A server that runs until the end of the block, of the daemon's own app where no other is given."""
    server = HTTPServer(app or create_app(services), services.settings, gate=gate)
    started = threading.Event()
    thread = threading.Thread(target=server.run, args=(started.set,), name="api")
    thread.start()
    try:
        assert started.wait(START_S), "the server did not start"
        yield server
    finally:
        server.stop()
        thread.join(START_S)
        assert not thread.is_alive(), "the server did not end"


@dataclass
class Api:
    """A running API, with a client for each role and the claims of a worker."""

    services: Services
    url: str
    folder: Path
    tokens: dict[str, str]
    _clients: list[httpx.Client] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def client(self, role: str | None = "admin") -> httpx.Client:
        """A client with the token of that role; None: without any."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        self._clients.append(client)
        return client

    def add_job(self, **more: Any) -> JobRecord:
        """A queued job, straight into the database."""
        number = next(self._numbers)
        root = self.services.service.roots.roots[0]
        subject, folder = f"/data/vm/web{number}", str(root.path / f"job{number}")
        given: dict[str, Any] = {
            "name": f"job {number}",
            "subject": subject,
            "target": folder,
            "definition": {"vm_path": subject, "output_path": folder, "format": more.pop("format", "qcow2")},
            "root_id": root.id,
        }
        return submit(self.services.jobs, new_job(**given | more))

    def claims(self) -> Claims:
        """The claims of a worker."""
        return Claims(self.services.database, "worker-1")

    def close(self) -> None:
        """Closes the clients."""
        for client in self._clients:
            client.close()


def make_tokens(services: Services) -> dict[str, str]:
    """A token for each role, and one for metrics alone."""
    tokens: dict[str, str] = {}
    for role in Role:
        user = services.access.users.create(f"test-{role}", role, None)
        tokens[role.value] = services.access.tokens.create(user.id, "test", role.value)[1].reveal()
    user = services.access.users.create("test-metrics", Role.VIEWER, None)
    tokens["metrics"] = services.access.tokens.create(user.id, "test", "metrics")[1].reveal()
    return tokens


@contextmanager
def running_api(folder: Path, url: str | None = None, **more: Any) -> Iterator[Api]:
    """An API with a token for each role; ``more`` as of ``running_services``."""
    with running_services(folder, database_url=url, **more) as services:
        tokens = make_tokens(services)
        with serving(services) as server:
            api = Api(services, server.url, folder, tokens)
            try:
                yield api
            finally:
                api.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API of this test's own, on SQLite."""
    with running_api(tmp_path) as found:
        yield found


@dataclass(frozen=True)
class ApiProcess:
    """An API in a separate process."""

    url: str
    tokens: dict[str, str]
    pid: int

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def api_process(folder: Path, url: str | None = None) -> Iterator[ApiProcess]:
    """Runs for as long as the block does."""
    command = [sys.executable, "-m", "tests.support.programs.apiserver", str(folder), *([url] if url else [])]
    log = folder / "api.log"
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield ApiProcess(**json.loads(line))
        finally:
            process.terminate()
            process.wait(START_S)


@contextmanager
def beating(services: Services) -> Iterator[None]:
    """A worker that is alive and idle."""
    with Heartbeat(services.database, "worker-1", services.service.roots.ids):
        yield


def fill(database: Database, count: int, prefix: str) -> None:
    """Adds ``count`` queued jobs, ``PREFIX-N``."""
    JobStore(database).submit(
        [
            new_job(
                id=f"{prefix}-{number}",
                name=prefix,
                subject=f"/data/vm/{prefix}{number}",
                target=f"/srv/{prefix}{number}",
                definition={"vm_path": f"/data/vm/{prefix}{number}"},
                root_id="0" * 32,
            )
            for number in range(count)
        ]
    )
