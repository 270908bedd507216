"""The route of the data: directly from the ESXi host that the lease names, or through the server that we are logged in
to.

::

    URL names *              the server that we are logged in to, host and port
    URL names an ESXi host   1. that host, its certificate pinned by the lease     fast, and spares vCenter
                             2. the same path on the server we are logged in to    where the host cannot be reached

The route that worked is kept for all streams of that host until it fails; then the other one is tried.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import ConnectError, HyperSDKError, SourceError, TransientError, register
from hypersdk.net.certificate import CERTIFICATE_CHANGED
from hypersdk.net.proxy import CONNECT_TIMEOUT_S
from hypersdk.remedies import Look
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import HTTPS_PORT, Endpoint
from hypersdk.vsphere.http import HTTP_REFUSED, STALL_TIMEOUT_S, HttpBody, SessionCookie, open_get, split_url

LOG: Final = logging.getLogger(__name__)

NO_ROUTE: Final = register(
    "no_route",
    "The disk cannot be read from the ESXi host itself, nor through vCenter.",
    "Open port 443 from this host to the ESXi host.",
    Look("connection"),
)

VIA: Final = " via "
"""Part of the name of a route that goes around its host."""
PROBE_TIMEOUT_S: Final = 5.0
"""How long a host may take to answer that another route goes around: a firewall that drops packets never does."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route to a file. ``text`` is for people."""

    url: str
    pin: str | None
    text: str


class Routes:
    """The routes to all files of a session's leases, and which of them work. Thread-safe."""

    def __init__(self, endpoint: Endpoint, *, stall_s: float = STALL_TIMEOUT_S) -> None:
        self._endpoint = endpoint
        self._stall_s = stall_s
        self._lock = threading.Lock()
        self._detour: set[str] = set()

    def host_of(self, url: str) -> str:
        """The host that serves ``url``, for people and for the budget. Raises SourceError for an invalid URL."""
        host, _, _ = split_url(url)
        return self._endpoint.host if host == "*" else host

    def ways(self, url: str, pin: str | None) -> list[Route]:
        """All routes to ``url``, the one to try first at the front."""
        host, port, target = split_url(url)
        here = self._endpoint
        if host == "*" or (host.lower(), port) == (here.host.lower(), here.port):
            return [Route(f"https://{here.address}{target}", None, here.address)]
        name = host if port == HTTPS_PORT else f"{host}:{port}"
        ways = [Route(url, pin, name), Route(f"https://{here.address}{target}", None, f"{name}{VIA}{here.address}")]
        with self._lock:
            return ways[::-1] if name in self._detour else ways

    def open(self, url: str, pin: str | None, *, cookie: SessionCookie, cancel: CancelToken) -> HttpBody:
        """GET by the first route that works. Raises TransientError ``no_route`` when none does, and the error of a
        route that answers.

        A certificate that is not the pinned one is an error at once: no other route is tried.
        """
        ways = self.ways(url, pin)
        failures: list[HyperSDKError] = []
        for way in ways:
            try:
                body = self._get(way, len(ways), cookie, cancel)
            except (ConnectError, SourceError) as error:
                if len(ways) == 1 or not _leads_nowhere(error):
                    raise
                LOG.info("%s: %s", way.text, error.message)
                failures.append(error)
            else:
                self._keep(url, way)
                body.route = way.text
                return body
        raise _no_route(ways, failures)

    def _get(self, way: Route, choices: int, cookie: SessionCookie, cancel: CancelToken) -> HttpBody:
        return open_get(
            way.url,
            self._endpoint,
            pin=way.pin,
            cookie=cookie,
            cancel=cancel,
            connect_timeout_s=PROBE_TIMEOUT_S if choices > 1 else CONNECT_TIMEOUT_S,
            stall_timeout_s=self._stall_s,
        )

    def _keep(self, url: str, way: Route) -> None:
        host, port, _ = split_url(url)
        name = host if port == HTTPS_PORT else f"{host}:{port}"
        with self._lock:
            if way.url == url:
                self._detour.discard(name)
            else:
                self._detour.add(name)


def _leads_nowhere(error: HyperSDKError) -> bool:
    """Whether another route may work: no answer, not trusted without a pin, or a server that does not know the path."""
    if isinstance(error, ConnectError):
        return error.code != CERTIFICATE_CHANGED
    return error.code == HTTP_REFUSED


def _no_route(ways: list[Route], failures: list[HyperSDKError]) -> HyperSDKError:
    """Where all that answered refused, the lease may have ended: the refusal decides. Else it is the network."""
    refusals = [error for error in failures if error.code == HTTP_REFUSED]
    if refusals and len(refusals) == len(failures):
        return refusals[0]
    causes = "; ".join(f"{way.text}: {error.message}" for way, error in zip(ways, failures, strict=True))
    return TransientError(
        f"no way to {ways[0].text} works",
        code=NO_ROUTE,
        cause=causes,
        status=refusals[0].fields["status"] if refusals else None,
    )
