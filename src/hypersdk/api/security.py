"""Authentication and authorization of requests.

::

    Authorization: Bearer hst_...    programs
    Cookie: hypersdk_session=...     browsers; writes also send X-CSRF-Token and must be same-origin
    --no-auth                        every caller is the local administrator; on loopback only

``Authenticate`` refuses everything but the open paths, whether a route exists or not. Each route then declares the role
that it needs with one of ``viewer``, ``operator``, ``admin``, ``metrics_reader``; an application with a route that
declares none does not start (``app.guarded_routes``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from hypersdk.access.access import Access, same_secret
from hypersdk.access.faults import FORBIDDEN, Forbidden, Unauthenticated
from hypersdk.access.roles import Identity, Role
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
        *((method, path) for method in ("GET", "HEAD") for path in ("/", "/docs/style.css", "/health", "/ready")),
        ("POST", "/api/v1/auth/login"),
    }
)
"""Load balancers use HEAD for health checks."""
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL: Final = Identity("local", "local", Role.ADMIN, Role.ADMIN.value)


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller. ``scope`` is that of the token. ``user_id`` is ``local`` without authentication."""

    user_id: str
    name: str
    role: Role
    scope: str
    via: Literal["token", "cookie", "local"]
    address: str
    token_id: str | None = None
    csrf: Secret | None = None
    expires_at: float | None = None


class Authenticate:
    """ASGI middleware: adds the caller's identity to the scope, or refuses the request. ``proxied`` are the names that
    a proxy serves, which may terminate TLS."""

    def __init__(
        self, app: ASGIApp, access: Access, *, auth: bool, public_metrics: bool, proxied: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._access = access
        self._auth = auth
        self._proxied = proxied
        self._open = OPEN | ({("GET", "/metrics"), ("HEAD", "/metrics")} if public_metrics else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, headers = scope["method"], Headers(scope=scope)
        if method not in READS:
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
    """Refuses a write that a page of another site makes in a user's browser. Programs send neither header. Raises
    Forbidden ``csrf_refused``.

    For a name in ``proxied`` an https origin is accepted too: the proxy terminates TLS, and its own requests are plain
    HTTP.
    """
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("the request comes from a page of another site", code=CSRF_REFUSED)
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in _own_origins(scope, headers.get("host", "").lower(), proxied):
        raise Forbidden("the request comes from a page of another origin", code=CSRF_REFUSED)


def came_by_tls(scope: Scope) -> bool:
    """Whether the browser uses TLS, to the daemon or to a proxy. For writes that ``check_origin`` accepted."""
    return bool(scope["scheme"] == "https") or Headers(scope=scope).get("origin", "").lower().startswith("https://")


def _own_origins(scope: Scope, host: str, proxied: frozenset[str]) -> set[str]:
    own = {f"{scope['scheme']}://{host}"}
    if host_name(host) in proxied:
        own.add(f"https://{host.removesuffix(':443')}")  # an origin leaves out the port of its scheme, RFC 6454, 6.1
    return own


def _check_csrf(identity: Identity, headers: Headers) -> None:
    if identity.csrf is None or not same_secret(headers.get(CSRF_HEADER, ""), identity.csrf):
        raise Forbidden("the CSRF token is missing or wrong", code=CSRF_REFUSED)


def identity_of(scope: Scope) -> tuple[Identity, str] | None:
    """The caller's identity, and how it was proved; None for a request without authentication."""
    found: tuple[Identity, str] | None = scope.get("state", {}).get("identity")
    return found


def address_of(scope: Scope) -> str:
    """The client's IP address: the peer's, or the one that a proxy in ``trusted_proxies`` reports; ``unknown`` if that
    is not an address."""
    client = scope.get("client")
    if not client:
        return ""
    try:
        return str(ipaddress.ip_address(client[0]))
    except ValueError:
        return "unknown"


def _guard(needed: Role) -> Callable[[HTTPConnection], Awaitable[Caller]]:
    """A dependency of routes that admits callers with the role, and returns the caller."""

    async def guard(request: HTTPConnection) -> Caller:
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
        check_parameters(request)  # after the role: a caller without it learns nothing else
        return Caller(
            identity.user_id,
            identity.name,
            identity.role,
            identity.scope,
            via,  # type: ignore[arg-type] # one of the three, by Authenticate
            address_of(request.scope),
            identity.token_id,
            identity.csrf,
            identity.expires_at,
        )

    return guard


viewer: Final = _guard(Role.VIEWER)
"""Guard of routes that only read."""
operator: Final = _guard(Role.OPERATOR)
"""Guard of routes that change jobs."""
admin: Final = _guard(Role.ADMIN)
"""Guard of routes that change users and endpoints."""


async def metrics_reader() -> None:
    """Guard of ``/metrics``: any authenticated caller, the scope ``metrics`` too, or everyone if metrics are public."""


GUARDS: Final = {viewer: Role.VIEWER, operator: Role.OPERATOR, admin: Role.ADMIN, metrics_reader: None}
Viewer: TypeAlias = Annotated[Caller, Depends(viewer)]
Operator: TypeAlias = Annotated[Caller, Depends(operator)]
Admin: TypeAlias = Annotated[Caller, Depends(admin)]
