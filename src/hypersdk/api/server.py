"""Serving the API: sockets, TLS, and the deadlines of a connection that uvicorn does not have (docs/decisions/0010).

::

    accept ──> TLS handshake ──> head of a request ──> body, answer (limits.BodyLimit) ──> idle ──> next head
               header_timeout_s   header_timeout_s                                        KEEP_ALIVE_S

``HTTPServer.run`` returns after SIGTERM or SIGINT, when what was being answered is answered or ``drain_s`` is over.
SIGHUP reloads the certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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

from hypersdk.api.address import ADDRESS_ABSENT, ListenError, addresses_of, check_exposure, split_address
from hypersdk.api.tls import ReloadableTls, tls_of
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.net.address import host_port, is_loopback_address
from hypersdk.units import KiB

LOG: Final = logging.getLogger(__name__)
KEEP_ALIVE_S: Final = 75
MAX_HEAD_BYTES: Final = 32 * KiB
MAX_CONNECTIONS: Final = 8192
MAX_PER_ADDRESS: Final = 256
"""Of one address. Loopback is exempt: it is a proxy or a tunnel for many, or somebody who can stop the daemon
anyway."""
BACKLOG: Final = 1024
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"X-Content-Type-Options: nosniff\r\n\r\n"
)
_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class ConnectionLimiter:
    """Counts open connections, in all and by address. For one thread (the event loop)."""

    def __init__(self, *, most: int = MAX_CONNECTIONS, per_address: int = MAX_PER_ADDRESS) -> None:
        self._most = most
        self._per_address = per_address
        self._open: Counter[str] = Counter()
        self.refused = 0

    def enter(self, address: str) -> bool:
        """Whether one more may come from ``address``; it is counted then."""
        full = self._open.total() >= self._most
        if full or (self._open[address] >= self._per_address and not is_loopback_address(address)):
            self.refused += 1
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """The connection has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with a deadline for each request's head and a place at the gate."""

    gate: ConnectionLimiter
    header_timeout_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Counts the connection, or refuses it before a byte is read."""
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._counted = self.gate.enter(self._address)
        self._deadline: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if not self._counted:
            transport.write(_BUSY)
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._forget_head()
        self._forget_rest()
        if self._counted:
            self._counted = False
            self.gate.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The first byte after an idle time begins another head."""
        if not self._counted:
            return
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._expect_head()
        super().data_received(data)

    def handle_events(self) -> None:
        """As uvicorn; the deadline ends when a head is whole. A request that was sent ahead begins its own when its
        turn comes."""
        super().handle_events()
        if self.conn.their_state is not h11.SEND_BODY:
            self._forget_rest()
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self.conn.trailing_data[0] and self._deadline is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        """As uvicorn; what is left of a body that nobody read must come in time too: it is thrown away, and its sender
        may never end it."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._forget_rest()
            self._rest = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _forget_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _expect_head(self) -> None:
        self._forget_head()
        self._deadline = self.loop.call_later(self.header_timeout_s, self._head_is_late)

    def _forget_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        self.transport.write(_SLOW)
        self.transport.close()
        # A peer that does not read our answer must not keep the socket.
        self.loop.call_later(1.0, self.transport.abort)


class _Uvicorn(uvicorn.Server):
    """uvicorn with our listening sockets: a deadline for the TLS handshake too."""

    def __init__(
        self, config: uvicorn.Config, tls: ReloadableTls | None, handshake_s: float, closing: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._closing = closing
        self._tls = tls
        self._handshake_s = handshake_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, for sockets that are given."""
        assert sockets is not None
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start")
        loop = asyncio.get_running_loop()
        context = None if self._tls is None else self._tls.context
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=sock,
                ssl=context,
                backlog=BACKLOG,
                ssl_handshake_timeout=None if context is None else self._handshake_s,
                ssl_shutdown_timeout=None if context is None else 5.0,
            )
            for sock in sockets
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; event streams, which would never end by themselves, end first."""
        self._closing()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Signals are ``HTTPServer``'s."""
        yield


class HTTPServer:
    """One API process's listening sockets. They are bound when this is made, so that ``url`` is known before it
    serves."""

    def __init__(self, app: FastAPI, settings: DaemonSettings, *, gate: ConnectionLimiter | None = None) -> None:
        check_exposure(settings)
        self._settings = settings
        self._tls = tls_of(settings)
        self.gate: Final = gate or ConnectionLimiter()
        self.sockets: Final = listen(settings.addr)
        self._server = _Uvicorn(self._config(app), self._tls, settings.header_timeout_s, app.state.services.feed.close)
        self._loop: asyncio.AbstractEventLoop | None = None
        if not settings.auth:
            LOG.warning(
                "NO AUTHENTICATION: every local user is administrator and may export, cancel and delete."
                " For trials only."
            )

    @property
    def url(self) -> str:
        """Where it answers, with the real port."""
        host, _ = split_address(self._settings.addr)
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{host_port(host or socket.gethostname(), self.sockets[0].getsockname()[1])}"

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until ``stop`` or a signal. ``ready`` is called once connections are taken. In the main thread,
        signals are handled."""
        with asyncio.Runner() as runner:
            runner.run(self._serve(ready))

    def stop(self) -> None:
        """Takes no more connections, answers what was asked, and ends. From any thread."""
        self._server.should_exit = True

    def reload(self) -> None:
        """Reads certificate and key again. From any thread."""
        if self._tls is not None:
            self._tls.reload()

    async def _serve(self, ready: Callable[[], None]) -> None:
        self._handle_signals()
        serving = asyncio.create_task(self._server.serve(sockets=self.sockets))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        if self._server.started:
            ready()
        await serving

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        except (RuntimeError, ValueError):
            LOG.debug("not the main thread: signals are the caller's")

    def _config(self, app: FastAPI) -> uvicorn.Config:
        class Protocol(GuardedProtocol):
            gate = self.gate
            header_timeout_s = self._settings.header_timeout_s

        return uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(self._settings.drain_s)),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )


def listen(addr: str) -> list[socket.socket]:
    """Sockets on every address that ``addr`` stands for, all on one port. Raises UsageError ``listen_address``, and
    ListenError."""
    host, port = split_address(addr)
    _allow_many_files()
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses_of(host, port):
            sock = _bind(family, address, port)
            if sock is None:
                continue
            sockets.append(sock)
            port = port or sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ListenError(f"{addr} cannot be listened on: {error.strerror}") from error
    if not sockets:
        raise ListenError(f"{addr} is no address of this machine", code=ADDRESS_ABSENT)
    return sockets


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket | None:
    """None for an address that this machine does not have, as ::1 where IPv6 is switched off. Raises OSError."""
    try:
        # With the protocol named, asyncio sets TCP_NODELAY on accepted sockets; else each response waits 40 ms for a
        # delayed ACK.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError:
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)  # so that the port is ours from here on
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno in _ABSENT:
            return None
        raise
    return sock


def _allow_many_files() -> None:
    """The soft limit of open files is 1,024 on most systems, for the sake of select(); we do not use it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
