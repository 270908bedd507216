"""The HTTP server: sockets, TLS, and deadlines for connections that uvicorn does not have (docs/decisions/0010).

::

    accept ──> TLS handshake ──> request head ──> body, response (limits.BodyLimit) ──> idle ──> next head
               header_timeout_s  header_timeout_s                                       KEEP_ALIVE_S

``HTTPServer.run`` returns after SIGTERM or SIGINT, once all pending responses are sent or ``drain_s`` has passed.
SIGHUP reloads the certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from hypersdk.api.address import BACKLOG, check_exposure, listen, split_address
from hypersdk.api.background import background
from hypersdk.api.context import Services
from hypersdk.api.tls import ReloadableTls, tls_of
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.net.address import host_port, is_loopback_address
from hypersdk.units import KiB

LOG: Final = logging.getLogger(__name__)
KEEP_ALIVE_S: Final = 75
MAX_HEAD_BYTES: Final = 32 * KiB
MAX_CONNECTIONS: Final = 8192
MAX_PER_ADDRESS: Final = 256
"""Connections from one address. Loopback is exempt: it is a proxy or a tunnel for many clients, or a local user."""
_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"X-Content-Type-Options: nosniff\r\n\r\n"
)
_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class ConnectionLimiter:
    """Counts open connections, in total and by address. Not thread-safe: used in the event loop only."""

    def __init__(self, *, most: int = MAX_CONNECTIONS, per_address: int = MAX_PER_ADDRESS) -> None:
        self._most = most
        self._per_address = per_address
        self._open: Counter[str] = Counter()
        self.refused = 0

    def enter(self, address: str) -> bool:
        """Counts a connection from ``address``. False if it is refused: a limit is reached."""
        full = self._open.total() >= self._most
        if full or (self._open[address] >= self._per_address and not is_loopback_address(address)):
            self.refused += 1
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Ends a connection that was counted."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with limits on the number of connections and on the time that a client may take to send."""

    def __init__(self, gate: ConnectionLimiter, header_timeout_s: float, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._gate = gate
        self._header_timeout_s = header_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._timed_state: type[h11.IDLE | h11.SEND_BODY] | None = None
        """The client's state in which the timer runs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Counts the connection, or refuses it before a byte is read."""
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._counted = self._gate.enter(self._address)
        super().connection_made(transport)
        if self._counted:
            self._expect_head()
        else:
            transport.write(_BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the count of the connection."""
        self._stop_timer()
        if self._counted:
            self._counted = False
            self._gate.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The first byte after an idle time begins the next head."""
        if not self._counted:
            return
        if self._timer is None and self.conn.their_state is h11.IDLE:
            self._expect_head()
        super().data_received(data)

    def handle_events(self) -> None:
        """As uvicorn; the timer stops when the head or the body is complete. The timer of a pipelined request starts
        when it is its turn."""
        super().handle_events()
        if self.conn.their_state is not self._timed_state:
            self._stop_timer()
        if self._timer is None and self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_head()

    def on_response_complete(self) -> None:
        """As uvicorn; the rest of a body that the application did not read must arrive in time too: it is discarded,
        and its sender might never end it."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._start_timer(h11.SEND_BODY, self.transport.close)

    def _expect_head(self) -> None:
        self._start_timer(h11.IDLE, self._head_is_late)

    def _start_timer(self, state: type[h11.IDLE | h11.SEND_BODY], action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timed_state = state
        self._timer = self.loop.call_later(self._header_timeout_s, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(_SLOW)
        self.transport.close()
        # A client that does not read the response must not keep the socket open.
        self.loop.call_later(1.0, self.transport.abort)


class _Uvicorn(uvicorn.Server):
    """uvicorn with our protocol and listening sockets, and a deadline for the TLS handshake too. ``ready`` is called
    when it accepts connections."""

    def __init__(
        self, config: uvicorn.Config, settings: DaemonSettings, tls: ReloadableTls | None, gate: ConnectionLimiter
    ) -> None:
        super().__init__(config)
        self._header_timeout_s = settings.header_timeout_s
        self._tls = tls
        self._gate = gate
        self.ready: Callable[[], None] = lambda: None
        self.closing: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, for the given sockets."""
        loop = asyncio.get_running_loop()
        context = None if self._tls is None else self._tls.context
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=sock,
                ssl=context,
                backlog=BACKLOG,
                ssl_handshake_timeout=None if context is None else self._header_timeout_s,
                ssl_shutdown_timeout=None if context is None else 5.0,
            )
            for sock in sockets or ()
        ]
        self.started = True
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn; event streams, which have no end of their own, are ended first."""
        self.closing()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        return GuardedProtocol(
            self._gate,
            self._header_timeout_s,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Signals are handled by ``HTTPServer``."""
        yield


class HTTPServer:
    """The server of one API process. The sockets are bound by the constructor, so that ``url`` is known before it
    accepts connections."""

    def __init__(self, app: FastAPI, settings: DaemonSettings, *, gate: ConnectionLimiter | None = None) -> None:
        check_exposure(settings)
        self._settings = settings
        self._services: Services = app.state.services
        self._tls = tls_of(settings)
        self.gate: Final = gate or ConnectionLimiter()
        _allow_many_files()
        self.sockets: Final = listen(settings.addr)
        self._server = _Uvicorn(_config(app, settings), settings, self._tls, self.gate)
        self._server.closing = self._services.feed.close
        if not settings.auth:
            LOG.warning(
                "NO AUTHENTICATION: every local user is administrator and may export, cancel and delete."
                " For trials only."
            )

    @property
    def url(self) -> str:
        """The URL of the server, with the actual port."""
        host, _ = split_address(self._settings.addr)
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{host_port(host or socket.gethostname(), self.sockets[0].getsockname()[1])}"

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until ``stop`` or a signal. ``ready`` is called once connections are accepted. Signals are handled in
        the main thread only."""
        self._server.ready = ready
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Stops accepting connections, sends the pending responses, and ends. Thread-safe."""
        self._server.should_exit = True

    def reload(self) -> None:
        """Reloads certificate and key. Thread-safe."""
        if self._tls is not None:
            self._tls.reload()

    async def _serve(self) -> None:
        self._handle_signals()
        services = self._services
        async with background(services.feed, services.database, take_over_s=self._settings.take_over_s):
            await self._server.serve(sockets=self.sockets)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        except (RuntimeError, ValueError):
            LOG.debug("not in the main thread: no signal is handled")


def _config(app: FastAPI, settings: DaemonSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


def _allow_many_files() -> None:
    """Raises the soft limit of open files: on most systems it is 1,024, because of select(), which is not used here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
