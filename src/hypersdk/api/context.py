"""The services that routes use. One per API process, created at its start and never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Depends
from starlette.requests import HTTPConnection

from hypersdk.access.access import Access
from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.api.feed import Feed
from hypersdk.api.metrics import Metrics
from hypersdk.api.readiness import Readiness
from hypersdk.jobs.service import JobService
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.store import JobStore
from hypersdk.state.database import Database


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
    readiness: Readiness


async def services(request: HTTPConnection) -> Services:
    """A dependency of routes."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Use: TypeAlias = Annotated[Services, Depends(services)]
"""The parameter of a route that uses the services."""
