"""The application: routers and the middleware around them, outermost first.

::

    Measured       request durations
    ErrorBoundary  headers on every response; unexpected errors are handled here
    HostCheck      DNS rebinding
    AddressRate    requests per address
    BodyLimit      bytes and time of a request
    Authenticate   401; the caller; CSRF
    TokenRate      requests per caller
    GZip           compression, except of files and streams
    Idempotent     Idempotency-Key
    Audited        an entry in the audit trail for each write
    routes         each with a guard: 403

Layers and routes receive HTTP requests only: the server has no websockets, and runs the background tasks itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.middleware.gzip import GZipMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from hypersdk import __version__
from hypersdk.access.roles import Role
from hypersdk.api import problems
from hypersdk.api.address import listens_on
from hypersdk.api.audited import Audited
from hypersdk.api.context import Services
from hypersdk.api.headers import ErrorBoundary, HostCheck
from hypersdk.api.idempotency import Answers, Idempotent
from hypersdk.api.limits import AddressRate, BodyLimit, TokenRate
from hypersdk.api.metrics import Measured
from hypersdk.api.routes import auth, endpoints, events, jobs, legacy, meta
from hypersdk.api.security import GUARDS, OPEN, Authenticate


def _heads_of(routers: Iterable[APIRouter]) -> APIRouter:
    """A ``HEAD`` route for every ``GET`` route of ``routers`` that has none. The server omits the body (RFC
    9110, 9.3.2). They are not in the OpenAPI document, which would describe each path twice."""
    found = APIRouter()
    for router in routers:
        routes = [route for route in router.routes if isinstance(route, APIRoute)]
        own = {route.path for route in routes if "HEAD" in (route.methods or ())}
        found.routes += [_head(route) for route in routes if "GET" in (route.methods or ()) and route.path not in own]
    return found


def _head(route: APIRoute) -> APIRoute:
    head = copy.copy(route)
    head.methods, head.include_in_schema = {"HEAD"}, False
    return head


ROUTERS: Final = (
    legacy.router,
    auth.router,
    endpoints.router,
    jobs.router,
    events.router,
    jobs.snapshots_router,
    meta.router,
)
HEADS: Final = _heads_of(router for router in ROUTERS if router not in (legacy.router, events.router))
"""Not for the legacy routes, which do not change, nor for the event stream, which has no length."""


def create_app(services: Services) -> FastAPI:
    """The application. Raises RuntimeError for a route without a guard, which would be open to everyone."""
    # The framework's own /docs loads external scripts, which the Content-Security-Policy forbids, and has no guard.
    app = FastAPI(title="HyperSDK", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    for router in (*ROUTERS, HEADS):
        app.include_router(router)
    problems.install(app)
    guarded_routes(app)
    _add_layers(app, services)
    return app


def _add_layers(app: FastAPI, services: Services) -> None:
    """The last one added is the outermost."""
    settings = services.settings
    host, loopback = listens_on(settings.addr)
    app.add_middleware(Audited, audit=services.access.audit)
    answers = Answers(services.database, services.vault)
    answers.forget_unanswered()
    app.add_middleware(Idempotent, answers=answers)
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(TokenRate, per_minute=settings.rate_per_minute)
    proxied = frozenset(settings.allowed_hosts)
    app.add_middleware(
        Authenticate,
        access=services.access,
        auth=settings.auth,
        public_metrics=settings.public_metrics,
        proxied=proxied,
    )
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.request_timeout_s)
    app.add_middleware(
        AddressRate, per_minute=settings.rate_per_address_per_minute, logins_per_minute=settings.login_rate_per_minute
    )
    app.add_middleware(HostCheck, only_loopback=loopback, names=proxied | {host})
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    app.add_middleware(ErrorBoundary)
    app.add_middleware(Measured, metrics=services.metrics)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A route and who may use it. ``role`` None: metrics. ``open``: no authentication."""

    path: str
    methods: frozenset[str]
    role: Role | None
    open: bool


def guarded_routes(app: FastAPI) -> list[Guarded]:
    """Every route of the application with its guard. Raises RuntimeError for one that has none."""
    return [_guarded(context) for context in iter_route_contexts(app.routes)]


def _guarded(context: RouteContext) -> Guarded:
    path, methods = context.path or "", frozenset(context.methods or {"GET"})
    found = [call for call in _calls(getattr(context, "dependant", None)) if call in GUARDS]
    is_open = all((method, path) in OPEN for method in methods)
    if len(found) != (0 if is_open else 1):
        raise RuntimeError(f"{' '.join(sorted(methods))} {path} needs one guard, not {len(found)}")
    return Guarded(path, methods, None if is_open else GUARDS[found[0]], is_open)


def _calls(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies if dependant is not None else ():
        yield inner.call
        yield from _calls(inner)
