"""The services that routes use. One per API process, created at its start and never changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from hypersdk.access.access import Access
from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.api.feed import Feed
from hypersdk.api.metrics import Metrics
from hypersdk.api.readiness import Readiness
from hypersdk.jobs.queue import QueueWatch
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.service import JobService
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.workerfault import SharedFault
from hypersdk.state.database import Database

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All services that routes need."""

    settings: DaemonSettings
    database: Database
    jobs: JobStore
    service: JobService
    access: Access
    vault: Vault
    endpoints: EndpointStore
    feed: Feed
    metrics: Metrics
    queue: QueueWatch
    readiness: Readiness


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
        endpoints = EndpointStore(database, vault, with_workers="worker" in settings.roles)
        store = JobStore(database)
        roots, shared_fault = ExportRoots(settings.roots), SharedFault.inherited(os.environ)
        feed, queue = Feed(store), QueueWatch(database, take_over_s=settings.take_over_s)
        yield Services(
            settings=settings,
            database=database,
            jobs=store,
            service=JobService(store, vault, endpoints, settings, roots, environ, shared_fault),
            access=access,
            vault=vault,
            endpoints=endpoints,
            feed=feed,
            metrics=Metrics(database, feed, queue, take_over_s=settings.take_over_s),
            queue=queue,
            readiness=Readiness(database, settings, shared_fault),
        )
    finally:
        database.close()


async def services(request: HTTPConnection) -> Services:
    """A dependency of routes."""
    return cast(Services, request.app.state.services)


Use: TypeAlias = Annotated[Services, Depends(services)]
"""The parameter of a route that uses the services."""
