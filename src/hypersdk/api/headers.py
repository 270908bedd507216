"""Headers of every response, and the check of the request's Host."""

from __future__ import annotations

import logging
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk.access.faults import Forbidden
from hypersdk.api.problems import answer, internal
from hypersdk.errors import HyperSDKError, register
from hypersdk.net.address import is_loopback_name, normal_host, split_host_port

LOG: Final = logging.getLogger(__name__)
HOST_REFUSED: Final = register(
    "host_refused",
    "The Host header names another host. On loopback, web pages reach local services in this way (DNS rebinding).",
    "Use http://localhost or the address that the daemon listens on; behind a proxy, add the name that it serves to"
    " `allowed_hosts` in the daemon's configuration.",
)
CSP: Final = "default-src 'self'; object-src 'none'; frame-ancestors 'none'"
SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
HSTS: Final = "max-age=31536000"


class ErrorBoundary:
    """Adds headers to every response, and handles all errors of the layers inside.

    A HyperSDKError becomes an error response, any other exception a response 500 and a traceback in the log. If the
    response has already begun, the connection is closed. A client that disconnected while it sent its body gets none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _add_headers(MutableHeaders(scope=message), scope)
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except HyperSDKError as error:
            if begun:
                raise
            await answer(scope["path"], error)(scope, receive, with_headers)
        except ClientDisconnect:
            return
        except Exception:
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise
            await internal(scope["path"])(scope, receive, with_headers)


def _add_headers(headers: MutableHeaders, scope: Scope) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if scope.get("scheme") == "https":
        headers.setdefault("strict-transport-security", HSTS)


class HostCheck:
    """Refuses a foreign Host header when listening on loopback. ``names`` are accepted besides loopback's own."""

    def __init__(self, app: ASGIApp, *, only_loopback: bool, names: frozenset[str]) -> None:
        self._app = app
        self._only_loopback = only_loopback
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) > 1 or (self._only_loopback and not (hosts and self._is_ours(hosts[0]))):
            raise Forbidden("the Host header does not match this daemon", code=HOST_REFUSED)
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return is_loopback_name(name) or name in self._names


def host_name(host: str) -> str:
    """The name of ``host``, ``host:port`` or ``[v6]:port``, in lower case."""
    return normal_host(split_host_port(host)[0])
