"""The API process: opens the services and serves the API until a signal."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from hypersdk.access.access import Access
from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.api.address import check_exposure
from hypersdk.api.app import create_app
from hypersdk.api.context import Services
from hypersdk.api.feed import Feed
from hypersdk.api.metrics import Metrics
from hypersdk.api.readiness import Readiness
from hypersdk.api.server import HTTPServer
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.service import JobService
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.workerfault import SharedFault
from hypersdk.state.database import Database

LOG: Final = logging.getLogger(__name__)


@contextmanager
def open_services(settings: DaemonSettings, environ: Mapping[str, str]) -> Iterator[Services]:
    """Opens and upgrades the database; on the first start, creates the encryption key and the administrator. Raises
    DatabaseError, VaultError; nothing is left open then."""
    database = Database.open(settings.url)
    database.outage.tell = True
    try:
        database.upgrade()
        vault = Vault.load(settings.state_dir, settings.key_file, environ, database)
        access = Access(database, session_s=settings.session_hours * 3600)
        if (path := access.first_start(settings.state_dir)) is not None:
            LOG.info("first start: the administrator's token is in %s", path)
        endpoints, store = EndpointStore(database, vault), JobStore(database)
        roots, shared_fault = ExportRoots(settings.roots), SharedFault.inherited(os.environ)
        feed = Feed(store)
        yield Services(
            settings=settings,
            database=database,
            jobs=store,
            service=JobService(store, vault, endpoints, settings, roots, environ, shared_fault),
            access=access,
            vault=vault,
            endpoints=endpoints,
            feed=feed,
            metrics=Metrics(database, feed, take_over_s=settings.take_over_s),
            readiness=Readiness(database, settings, shared_fault),
        )
    finally:
        database.close()


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
