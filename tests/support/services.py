"""The daemon's services as the daemon itself puts them together, on a state of the test's own.

Fixture: ``services``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hypersdk.api.context import Services, open_services
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.settings import DaemonSettings

ENVIRON = {"GOVC_URL": "https://vcenter.example.com"}
"""Submitted jobs name no endpoint; nobody runs them."""


def daemon_settings(folder: Path, **overrides: Any) -> DaemonSettings:
    """A daemon on a free port of loopback that keeps all in ``folder``; no rate is reached."""
    settings: dict[str, Any] = {
        "addr": "127.0.0.1:0",
        "state_dir": folder / "state",
        "export_roots": (folder / "exports",),
        "drain_s": 5.0,
        "rate_per_minute": 1_000_000,
        "rate_per_address_per_minute": 1_000_000,
        "login_rate_per_minute": 10_000,
    }
    return DaemonSettings(**settings | overrides)


@contextmanager
def running_services(folder: Path, *, environ: Mapping[str, str] = ENVIRON, **settings: Any) -> Iterator[Services]:
    """Until the end of the block; ``settings`` as of ``daemon_settings``."""
    with open_services(daemon_settings(folder, **settings), environ) as found:
        yield found


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """On SQLite."""
    with running_services(tmp_path) as found:
        yield found


def endpoint_resolver(services: Services, environ: Mapping[str, str] = ENVIRON) -> EndpointResolver:
    """Where the workers of those services would log in."""
    return EndpointResolver(services.jobs, services.vault, services.endpoints, services.settings, environ)
