"""The route of the data: directly from the ESXi host that the lease names, or through the server of the session.

::

    URL names *              the server of the session, host and port
    URL names an ESXi host   1. that host, its certificate pinned by the lease     fast, and no load on vCenter
                             2. the same path on the server of the session         where the host cannot be reached

The route that worked is kept for all streams of that host until it fails; then the other one is tried.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import ConnectError, HyperSDKError, SourceError, TransientError, register
from hypersdk.net.address import HTTPS_PORT, host_port
from hypersdk.net.certificate import CERTIFICATE_CHANGED
from hypersdk.net.proxy import CONNECT_TIMEOUT_S
from hypersdk.remedies import Look
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.http import HTTP_REFUSED, STALL_TIMEOUT_S, HttpBody, SessionCookie, open_get, split_url

LOG: Final = logging.getLogger(__name__)

NO_ROUTE: Final = register(
    "no_route",
    "The disk cannot be read from the ESXi host itself, nor through vCenter.",
    "Open port 443 from this host to the ESXi host.",
    Look("connection"),
)

VIA: Final = " via "
"""Part of the name of a route that bypasses its host."""
PROBE_TIMEOUT_S: Final = 5.0
"""How long to wait for a host where there is another route: a firewall may drop packets silently."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route to a file. ``text`` is for display; ``detour_of`` names the host that it bypasses."""

    url: str
    pin: str | None
    text: str
    detour_of: str | None = None


class Routes:
    """The routes to all files of a session's leases. ``detours`` are the hosts that are currently bypassed; the set is
    shared by all leases of the session. Thread-safe."""

    def __init__(self, endpoint: Endpoint, detours: set[str], *, stall_s: float = STALL_TIMEOUT_S) -> None:
        self._endpoint = endpoint
        self._detours = detours
        self._stall_s = stall_s

    def host_of(self, url: str) -> str:
        """The host that serves ``url``, for display and for the budget. Raises SourceError for an invalid URL."""
        host, _, _ = split_url(url)
        return self._endpoint.host if host == "*" else host

    def candidates(self, url: str, pin: str | None) -> list[Route]:
        """All routes to ``url``, the one to try first at the front."""
        host, port, target = split_url(url)
        here = self._endpoint
        if host == "*" or (host.lower(), port) == (here.host.lower(), here.port):
            return [Route(f"https://{here.address}{target}", None, here.address)]
        name = host_port(host, port, default=HTTPS_PORT)
        direct = Route(url, pin, name)
        around = Route(f"https://{here.address}{target}", None, f"{name}{VIA}{here.address}", detour_of=name)
        return [around, direct] if name in self._detours else [direct, around]

    def open(self, url: str, pin: str | None, *, cookie: SessionCookie, cancel: CancelToken) -> HttpBody:
        """GET by the first route that works. Raises TransientError ``no_route`` when none does, and the error of a
        route that answers.

        A certificate that is not the pinned one is an error at once: no other route is tried.
        """
        routes = self.candidates(url, pin)
        failures: list[HyperSDKError] = []
        for route in routes:
            try:
                body = open_get(
                    route.url,
                    self._endpoint,
                    pin=route.pin,
                    cookie=cookie,
                    cancel=cancel,
                    connect_timeout_s=PROBE_TIMEOUT_S if len(routes) > 1 else CONNECT_TIMEOUT_S,
                    stall_timeout_s=self._stall_s,
                )
            except (ConnectError, SourceError) as error:
                if len(routes) == 1 or not _is_unusable(error):
                    raise
                LOG.info("%s: %s", route.text, error.message)
                failures.append(error)
                continue
            self._detours.discard(route.text)
            if route.detour_of is not None:
                self._detours.add(route.detour_of)
            body.route = route.text
            return body
        raise _no_route(routes, failures)


def _is_unusable(error: HyperSDKError) -> bool:
    """Whether another route may work: no answer, not trusted without a pin, or a server that does not know the path."""
    if isinstance(error, ConnectError):
        return error.code != CERTIFICATE_CHANGED
    return error.code == HTTP_REFUSED


def _no_route(routes: list[Route], failures: list[HyperSDKError]) -> HyperSDKError:
    """The refusal where all routes answered with one: the lease may have ended. Otherwise it is the network."""
    refusals = [error for error in failures if error.code == HTTP_REFUSED]
    if refusals and len(refusals) == len(failures):
        return refusals[0]
    causes = "; ".join(f"{route.text}: {error.message}" for route, error in zip(routes, failures, strict=True))
    return TransientError(
        f"no route to {routes[0].text} works",
        code=NO_ROUTE,
        cause=causes,
        status=refusals[0].fields["status"] if refusals else None,
    )
