"""The daemon's services, assembled as by the daemon, with the test's own state.

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
"""Submitted jobs name no endpoint, and no worker runs them."""


def daemon_settings(folder: Path, **overrides: Any) -> DaemonSettings:
    """A daemon on a free port of loopback that stores everything in ``folder``; its rate limits are never reached."""
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
    """Resolves endpoints as the workers of these services do."""
    return EndpointResolver(services.jobs, services.vault, services.endpoints, services.settings, environ)
