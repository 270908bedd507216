"""Fixtures of the proofs of durability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hypersdk.jobs.store import JobStore
from hypersdk.state.database import Database
from tests.support.simulator import SimulatorFactory
from tests.support.site import Site


@pytest.fixture
def site(simulator: SimulatorFactory, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Site]]:
    """``site(machines=..., options={...}, postgres=True)``, or with a database's ``url``: a simulator and a database;
    workers end with the test."""
    with ExitStack() as stack:

        def start(
            *, options: dict[str, Any] | None = None, postgres: bool = False, url: str | None = None, **simulated: Any
        ) -> Site:
            if url is None:
                file = f"sqlite:///{tmp_path / 'db' / 'state.sqlite3'}"
                url = request.getfixturevalue("postgres_url") if postgres else file
            made = Site(tmp_path, simulator(**simulated), url, options or {})
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def store(database: Database) -> JobStore:
    """The jobs of an empty database."""
    return JobStore(database)
