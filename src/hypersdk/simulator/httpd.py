"""The HTTPS side: listeners, one thread per connection, HTTP/1.1 with keep-alive and chunked bodies both ways."""

from __future__ import annotations

import contextlib
import http.server
import select
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from hypersdk.units import KiB

if TYPE_CHECKING:
    from hypersdk.simulator.routes import Routes

HANDSHAKE_S: Final = 10
IDLE_S: Final = 120
"""A connection that sends no request for so long is closed."""
MAX_CONNECTIONS: Final = 512
READ_STEP: Final = 64 * KiB


class RequestTooLarge(Exception):  # noqa: N818
    """The body is larger than allowed."""


class BadRequest(Exception):  # noqa: N818
    """The request does not follow HTTP."""


class PeerLost(Exception):  # noqa: N818
    """The connection was broken, by the client or on purpose: nothing more can be said on it."""


@dataclass(frozen=True, slots=True)
class Site:
    """One listening address. ``host`` is the moref of the ESXi host it stands for, ``None`` for vCenter itself."""

    address: str
    port: int
    context: ssl.SSLContext
    host: str | None


class Connection(http.server.BaseHTTPRequestHandler):
    """One client connection. Methods are handed to ``routes``."""

    protocol_version = "HTTP/1.1"
    server_version = "HyperSDK-Simulator"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: Listener  # type: ignore[assignment] # only what the base class really uses is there

    def __init__(self, request: ssl.SSLSocket, client: Any, listener: Listener, site: Site, routes: Routes) -> None:
        self.site = site
        self._routes = routes
        super().__init__(request, client, listener)  # type: ignore[arg-type] # see ``server``

    def do_GET(self) -> None:  # noqa: N802 - called by this name
        self._routes.get(self)

    def do_HEAD(self) -> None:  # noqa: N802
        self._routes.get(self)

    def do_POST(self) -> None:  # noqa: N802
        self._routes.post(self)

    def do_PUT(self) -> None:  # noqa: N802
        self._routes.put(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: counters tell what was served."""

    # Reading

    def body(self, most: int) -> bytes:
        """The request's body. Raises RequestTooLarge or BadRequest."""
        parts = (
            self._chunks(most)
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower()
            else self._counted(most)
        )
        return b"".join(parts)

    def _counted(self, most: int) -> Iterator[bytes]:
        text = self.headers.get("Content-Length", "0")
        if not text.isdecimal() or len(text) > 15:
            raise BadRequest("Content-Length is not a number")
        left = int(text)
        if left > most:
            raise RequestTooLarge
        while left:
            data = self._exactly(min(left, READ_STEP))
            left -= len(data)
            yield data

    def _chunks(self, most: int) -> Iterator[bytes]:
        total = 0
        while size := self._chunk_size():
            total += size
            if total > most:
                raise RequestTooLarge
            yield self._exactly(size)
            self._exactly(2)
        while self.rfile.readline(READ_STEP).strip():  # trailers
            pass

    def _chunk_size(self) -> int:
        text = self.rfile.readline(1024).split(b";")[0].strip()
        try:
            return int(text, 16) if len(text) <= 8 else -1
        except ValueError as error:
            raise BadRequest("bad chunk size") from error

    def _exactly(self, size: int) -> bytes:
        if size < 0:
            raise BadRequest("bad chunk size")
        data = self.rfile.read(size)
        if len(data) != size:
            raise PeerLost
        return data

    def peer_gone(self) -> bool:
        """Whether the client hung up while its request is being worked on: then, and only then, there is something to read."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable)

    # Writing

    def reply(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """A short text with an error status. The connection is closed: a body that was not read may follow."""
        self.close_connection = True
        self.reply(
            status, f"{text}\n".encode(), "text/plain; charset=utf-8", {"Connection": "close", **(headers or {})}
        )

    def transmit(self, data: bytes | memoryview) -> None:
        """Body bytes. Raises PeerLost."""
        try:
            self.connection.sendall(data)
        except OSError as error:
            raise PeerLost from error

    def reset(self) -> None:
        """Breaks the connection with RST. Raises PeerLost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()

    def drop(self) -> None:
        """Closes the connection without the end that HTTP announced. Raises PeerLost."""
        self.close_connection = True
        raise PeerLost


class Listener:
    """Accepts connections on several addresses and gives each a thread of its own."""

    def __init__(self, routes: Routes, on_connect: Callable[[], None]) -> None:
        self._routes = routes
        self._on_connect = on_connect
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._accept_all, name="simulator-accept", daemon=True)

    def start(self) -> None:
        """Begins to accept."""
        self._thread.start()

    def add(self, listening: socket.socket, site: Site) -> None:
        """Also accepts here."""
        listening.setblocking(False)
        with self._lock:
            self._selector.register(listening, selectors.EVENT_READ, site)
        self._wake_out.send(b"x")

    def discard(self, listening: socket.socket) -> None:
        """No longer accepts here; what is open stays."""
        with self._lock:
            self._selector.unregister(listening)
        listening.close()
        self._wake_out.send(b"x")

    def stop(self) -> None:
        """Closes everything and waits for all threads."""
        self._closing = True
        self._wake_out.send(b"x")
        self._thread.join()
        with self._lock:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()
            threads = dict(self._open)
        self._wake_out.close()
        for connection in threads:
            with contextlib.suppress(OSError):  # gone already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads.values():
            thread.join()

    def _accept_all(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._wake_in.recv(4096)
                elif isinstance(key.fileobj, socket.socket):
                    self._accept(key.fileobj, key.data)

    def _accept(self, listening: socket.socket, site: Site) -> None:
        try:
            connection, client = listening.accept()
        except OSError:
            return  # the client was faster, or the listener has just been discarded
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                connection.close()
                return
            thread = threading.Thread(
                target=self._serve, args=(connection, client, site), name=f"simulator-{client[1]}", daemon=True
            )
            self._open[connection] = thread
        self._on_connect()
        thread.start()

    def _serve(self, connection: socket.socket, client: Any, site: Site) -> None:
        try:
            connection.settimeout(HANDSHAKE_S)
            with site.context.wrap_socket(connection, server_side=True) as secured:
                with self._lock:
                    self._open[secured] = self._open.pop(connection)
                try:
                    self._converse(secured, client, site)
                finally:
                    with self._lock:
                        del self._open[secured]
        except (OSError, PeerLost):
            pass  # the client does not trust us, or went away: its loss
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()

    def _converse(self, secured: ssl.SSLSocket, client: Any, site: Site) -> None:
        """Answers requests until one side has had enough."""
        Connection(secured, client, self, site, self._routes)


def listen(address: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError when the address is in use or not ours."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening


NOT_FOUND: Final = HTTPStatus.NOT_FOUND
