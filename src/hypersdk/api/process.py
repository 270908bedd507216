"""The API process: serves the API until a signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypersdk.api.address import check_exposure
from hypersdk.api.app import create_app
from hypersdk.api.context import open_services
from hypersdk.api.server import HTTPServer
from hypersdk.jobs.settings import DaemonSettings


def run_api(
    settings: DaemonSettings, environ: Mapping[str, str], ready: Callable[[HTTPServer], None] = lambda _: None
) -> None:
    """Serves until SIGTERM, SIGINT or ``stop`` of the server that is passed to ``ready``; SIGHUP reloads the
    certificate.

    Raises UsageError for an address that needs TLS or authentication, DatabaseError, VaultError.
    """
    check_exposure(settings)
    with open_services(settings, environ) as services:
        server = HTTPServer(create_app(services), settings)
        server.run(lambda: ready(server))
