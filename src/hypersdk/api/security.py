"""Who is asking, and whether that caller may.

::

    Authorization: Bearer hst_...    programs
    Cookie: hypersdk_session=...     browsers; writes also show X-CSRF-Token and come from our own origin
    --no-auth                        everybody is the local administrator; on loopback only

``Authenticate`` lets nothing through but the open paths, whether a route exists or not. A route then names the role
that it needs with one of ``viewer``, ``operator``, ``admin``, ``metrics_reader``; one that names none does not start
(``app.check_guards``).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from hypersdk.access.access import Access, same_secret
from hypersdk.access.faults import FORBIDDEN, Forbidden, Unauthenticated
from hypersdk.access.roles import METRICS, Identity, Role
from hypersdk.api.headers import host_name
from hypersdk.api.parameters import check_parameters
from hypersdk.errors import register
from hypersdk.secret import Secret

CSRF_REFUSED: Final = register(
    "csrf_refused",
    "A write with a session cookie needs the session's CSRF token and must be same-origin.",
    "Send X-CSRF-Token with the value returned by login, or use an API token.",
)
COOKIE: Final = "hypersdk_session"
CSRF_HEADER: Final = "x-csrf-token"
OPEN: Final = frozenset(
    {
        *((method, path) for method in ("GET", "HEAD") for path in ("/health", "/ready")),
        ("POST", "/api/v1/auth/login"),
    }
)
"""Health checks of balancers ask with HEAD."""
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL: Final = Identity("local", "local", Role.ADMIN, Role.ADMIN.value)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking. ``scope`` is that of the token. ``user_id`` is ``local`` without authentication."""

    user_id: str
    name: str
    role: Role
    scope: str
    via: Literal["token", "cookie", "local"]
    address: str
    token_id: str | None = None
    csrf: Secret | None = None


class Authenticate:
    """Puts the caller into the scope, or refuses. ``proxied`` are the names that a proxy which may end TLS serves."""

    def __init__(
        self, app: ASGIApp, access: Access, *, auth: bool, public_metrics: bool, proxied: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._access = access
        self._auth = auth
        self._proxied = proxied
        self._open = OPEN | ({("GET", "/metrics"), ("HEAD", "/metrics")} if public_metrics else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            method, headers = scope.get("method", "GET"), Headers(scope=scope)
            if method not in READS or scope["type"] == "websocket":
                check_origin(scope, headers, self._proxied)
            if (method, scope["path"]) not in self._open:
                identity, via = await self._identify(headers)
                if via == "cookie" and method not in READS:
                    _check_csrf(identity, headers)
                scope.setdefault("state", {})["identity"] = (identity, via)
        await self._app(scope, receive, send)

    async def _identify(self, headers: Headers) -> tuple[Identity, str]:
        if not self._auth:
            return LOCAL, "local"
        if (authorization := headers.get("authorization")) is not None:
            kind, _, text = authorization.partition(" ")
            found = None
            if kind.lower() == "bearer":
                found = await run_in_threadpool(self._access.tokens.use, Secret(text.strip()))
            if found is None:
                raise Unauthenticated("the token is not valid")
            return found, "token"
        if cookie := cookie_parser(headers.get("cookie", "")).get(COOKIE):
            if (session := await run_in_threadpool(self._access.logins.use, Secret(cookie))) is None:
                raise Unauthenticated("the session has ended")
            return session, "cookie"
        raise Unauthenticated("no token was sent")


def check_origin(scope: Scope, headers: Headers, proxied: frozenset[str]) -> None:
    """Refuses a write that another site's page makes in a user's browser. Programs send neither header. Raises
    Forbidden ``csrf_refused``.

    For a name in ``proxied`` an origin of https is ours too: the proxy ends TLS, and what comes from it is plain.
    """
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("the request comes from a page of another site", code=CSRF_REFUSED)
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in _own_origins(scope, headers.get("host", "").lower(), proxied):
        raise Forbidden("the request comes from a page of another origin", code=CSRF_REFUSED)


def came_by_tls(scope: Scope) -> bool:
    """Whether the browser that wrote this speaks TLS, to us or to a proxy. For writes that ``check_origin`` let
    through."""
    return _scheme(scope) == "https" or Headers(scope=scope).get("origin", "").lower().startswith("https://")


def _own_origins(scope: Scope, host: str, proxied: frozenset[str]) -> set[str]:
    own = {f"{_scheme(scope)}://{host}"}
    if host_name(host) in proxied:
        own.add(f"https://{host.removesuffix(':443')}")  # an origin leaves out the port of its scheme, RFC 6454, 6.1
    return own


def _scheme(scope: Scope) -> str:
    return {"ws": "http", "wss": "https"}.get(scope["scheme"], str(scope["scheme"]))


def _check_csrf(identity: Identity, headers: Headers) -> None:
    if identity.csrf is None or not same_secret(headers.get(CSRF_HEADER, ""), identity.csrf):
        raise Forbidden("the CSRF token is missing or wrong", code=CSRF_REFUSED)


def identity_of(scope: Scope) -> tuple[Identity, str] | None:
    """Who is asking, where it is known already."""
    found: tuple[Identity, str] | None = scope.get("state", {}).get("identity")
    return found


def address_of(scope: Scope) -> str:
    """The client's address, without its port: the peer's, or what a proxy in ``trusted_proxies`` says. ``unknown``
    where that is no address."""
    client = scope.get("client")
    if not client:
        return ""
    try:
        return str(ipaddress.ip_address(client[0]))
    except ValueError:
        return "unknown"


def _caller(request: HTTPConnection, needed: Role) -> Caller:
    found = identity_of(request.scope)
    if found is None:
        raise Unauthenticated("no token was sent")
    identity, via = found
    if identity.role is None:
        raise Forbidden("the token may only read metrics", code=FORBIDDEN, needs=needed.value)
    if not identity.role.allows(needed):
        raise Forbidden(
            f"this needs the role {needed}; you have {identity.role}",
            code=FORBIDDEN,
            needs=needed.value,
            has=identity.role.value,
        )
    check_parameters(request)  # who may not is told that first
    return Caller(
        identity.user_id,
        identity.name,
        identity.role,
        identity.scope,
        via,  # type: ignore[arg-type] # one of the three, by Authenticate
        address_of(request.scope),
        identity.token_id,
        identity.csrf,
    )


async def viewer(request: HTTPConnection) -> Caller:
    """Guard of routes that only show."""
    return _caller(request, Role.VIEWER)


async def operator(request: HTTPConnection) -> Caller:
    """Guard of routes that change jobs."""
    return _caller(request, Role.OPERATOR)


async def admin(request: HTTPConnection) -> Caller:
    """Guard of routes that change users and endpoints."""
    return _caller(request, Role.ADMIN)


async def metrics_reader(request: HTTPConnection) -> None:
    """Guard of ``/metrics``: any role, the scope ``metrics``, or everybody where metrics are public."""
    found = identity_of(request.scope)
    if found is not None:
        assert found[0].role is not None or found[0].scope == METRICS


GUARDS: Final = {viewer: Role.VIEWER, operator: Role.OPERATOR, admin: Role.ADMIN, metrics_reader: None}
Viewer: TypeAlias = Annotated[Caller, Depends(viewer)]
Operator: TypeAlias = Annotated[Caller, Depends(operator)]
Admin: TypeAlias = Annotated[Caller, Depends(admin)]
