"""The HTTPS side: listeners, one thread per connection, HTTP/1.1 with keep-alive and chunked bodies both ways."""

from __future__ import annotations

import contextlib
import errno
import http.server
import logging
import re
import select
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.units import KiB, format_size

HANDSHAKE_S: Final = 10
IDLE_S: Final = 120
"""A connection that does not finish a request (header and body) for so long is closed, however many bytes trickle
in."""
WATCH_S: Final = 1
"""How often such connections are checked."""
DRAIN_S: Final = 1
"""How long the rest of a refused body is read and discarded, so that the client can read the refusal."""
MAX_CONNECTIONS: Final = 512
MAX_TRAILERS: Final = 100
READ_STEP: Final = 64 * KiB
CHUNK_SIZE: Final = re.compile(rb"^[0-9A-Fa-f]{1,8}$")

log: Final = logging.getLogger("hypersdk.simulator")


class Refusal(Exception):  # noqa: N818
    """The request is answered with an error status and a short text."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Site:
    """One listening address. ``host`` is the moref of the ESXi host it stands for, ``None`` for vCenter itself."""

    address: str
    port: int
    context: ssl.SSLContext
    host: str | None


class ClientConnection(http.server.BaseHTTPRequestHandler):
    """One client connection. ``route`` answers its requests.

    A broken connection, by the client or on purpose, is an OSError, which ends the thread that serves it.
    """

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # requests that cannot be parsed get a status line too
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    server_version = "HyperSDK-Simulator"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: Listener  # type: ignore[assignment] # only what the base class really uses is there

    def __init__(self, request: ssl.SSLSocket, client: Any, listener: Listener, site: Site, route: Route) -> None:
        self.site = site
        self._route = route
        self._answering = False
        super().__init__(request, client, listener)  # type: ignore[arg-type] # see ``server``

    def do_GET(self) -> None:
        """Answers the request; every error of a request ends here."""
        self._answering = False
        try:
            self._route(self)
        except Refusal as error:
            self._refuse(error)
        except OSError:  # the client went away, or was too slow
            raise
        except Exception as error:
            log.exception("%s %s failed", self.command, self.path)
            if self._answering:
                raise ConnectionAbortedError from error
            self._refuse(Refusal(500, "The simulator failed; see its log."))
        finally:
            self.server.expect_request(self.connection)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the base class finds them by these names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: the counters show what was served."""

    # Reading

    def body(self, most: int) -> bytes:
        """The request's body. Raises Refusal for one that is longer than ``most`` bytes or not valid."""
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        whole = b"".join(self._chunks(most) if chunked else self._counted(most))
        self.server.request_read(self.connection)
        return whole

    def _counted(self, most: int) -> Iterator[bytes]:
        text = self.headers.get("Content-Length", "0")
        if not text.isdecimal() or len(text) > 15:
            raise bad_request("Content-Length is not a number")
        left = int(text)
        if left > most:
            raise _too_large(most)
        while left:
            data = self._exactly(min(left, READ_STEP))
            left -= len(data)
            yield data

    def _chunks(self, most: int) -> Iterator[bytes]:
        total = 0
        while size := self._chunk_size():
            total += size
            if total > most:
                raise _too_large(most)
            yield self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise bad_request("a chunk is longer than it says")
        for _ in range(MAX_TRAILERS):
            if not self.rfile.readline(1024).strip():
                return
        raise bad_request("too many trailers")

    def _chunk_size(self) -> int:
        text = self.rfile.readline(1024).split(b";")[0].strip()
        if CHUNK_SIZE.match(text) is None:
            raise bad_request("bad chunk size")
        return int(text, 16)

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) != size:
            raise ConnectionAbortedError
        return data

    def peer_gone(self) -> bool:
        """Whether the client hung up while its request is being worked on: only then is there anything to
        read."""
        poll = select.poll()  # unlike select(), for any number of open files
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(0))

    # Writing

    def reply(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        """A complete response."""
        self.head(status, {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_response(self, code: int, message: str | None = None) -> None:
        self._answering = True
        self.server.request_read(self.connection)
        super().send_response(code, message)

    def _refuse(self, refusal: Refusal) -> None:
        """Sends the refusal. The connection is closed: a body that was not read may follow."""
        self.close_connection = True
        self.reply(
            refusal.status,
            f"{refusal}\n".encode(),
            "text/plain; charset=utf-8",
            {"Connection": "close", **refusal.headers},
        )
        if self.command in ("POST", "PUT"):
            self._drain()

    def _drain(self) -> None:
        """Announces the end and reads on for a moment: closing with unread bytes would reset the connection before the
        client reads the answer."""
        until = time.monotonic() + DRAIN_S
        with contextlib.suppress(OSError):  # the client has its response already
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(DRAIN_S)
            while time.monotonic() < until and self.connection.recv(READ_STEP):
                pass

    def reset(self) -> None:
        """Resets the connection (RST). Raises ConnectionAbortedError."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()

    def drop(self) -> None:
        """Closes the connection without the end that HTTP announced. Raises ConnectionAbortedError."""
        self.close_connection = True
        raise ConnectionAbortedError


Route = Callable[[ClientConnection], None]


def bad_request(what: str) -> Refusal:
    """The request does not follow HTTP."""
    return Refusal(400, f"Bad request: {what}.")


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(413, f"The body exceeds the limit of {format_size(most_bytes)}.")


class Listener:
    """Accepts connections on several addresses and gives each a thread of its own."""

    def __init__(self, route: Route, on_connect: Callable[[], None]) -> None:
        self._route = route
        self._on_connect = on_connect
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._deadlines: dict[socket.socket, float] = {}  # of connections whose request is not complete
        self._closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._accept_all, name="simulator-accept", daemon=True)

    def start(self) -> None:
        """Starts accepting connections."""
        self._thread.start()

    def add(self, listening: socket.socket, site: Site) -> None:
        """Accepts connections on this socket too."""
        listening.setblocking(False)
        with self._lock:
            self._selector.register(listening, selectors.EVENT_READ, site)
        self._wake_out.send(b"x")

    def discard(self, listening: socket.socket) -> None:
        """Stops accepting on this socket; open connections stay."""
        with self._lock:
            self._selector.unregister(listening)
        listening.close()
        self._wake_out.send(b"x")

    def expect_request(self, connection: socket.socket) -> None:
        """The next request of the connection must be complete within ``IDLE_S``."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + IDLE_S

    def request_read(self, connection: socket.socket) -> None:
        """The request has been read: there is no deadline for the response."""
        with self._lock:
            self._deadlines.pop(connection, None)

    def stop(self) -> None:
        """Closes everything and waits for all threads. Has no effect when stopped already."""
        if self._closing:
            return
        self._closing = True
        self._wake_out.send(b"x")
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()
            threads = dict(self._open)
        self._wake_out.close()
        for connection in threads:
            _shut(connection)
        for thread in threads.values():
            thread.join()

    def _accept_all(self) -> None:
        while not self._closing:
            ready = self._selector.select(WATCH_S)
            self._close_overdue()
            for key, _ in ready:
                if key.data is None:
                    self._wake_in.recv(4096)
                elif isinstance(key.fileobj, socket.socket):
                    self._accept(key.fileobj, key.data)

    def _close_overdue(self) -> None:
        moment = time.monotonic()
        with self._lock:
            late = [connection for connection, deadline in self._deadlines.items() if deadline < moment]
        for connection in late:
            _shut(connection)

    def _accept(self, listening: socket.socket, site: Site) -> None:
        try:
            connection, client = listening.accept()
            secured = site.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # the client is gone already, or the listener was just discarded
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(0.05)  # it stays ready until some other file is closed
            return
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                secured.close()
                return
            thread = threading.Thread(
                target=self._serve, args=(secured, client, site), name=f"simulator-{client[1]}", daemon=True
            )
            self._open[secured] = thread
            self._deadlines[secured] = time.monotonic() + HANDSHAKE_S
        self._on_connect()
        thread.start()

    def _serve(self, secured: ssl.SSLSocket, client: Any, site: Site) -> None:
        """Answers the requests of one connection until either side closes it."""
        try:
            secured.settimeout(HANDSHAKE_S)
            secured.do_handshake()
            self.expect_request(secured)
            ClientConnection(secured, client, self, site, self._route)
        except OSError:
            pass  # the client does not trust the certificate, or went away
        finally:
            with self._lock:
                del self._open[secured]
                self._deadlines.pop(secured, None)
            secured.close()


def _shut(connection: socket.socket) -> None:
    """Shuts the socket of a connection that another thread serves, so that the thread's next read or write fails.
    The TLS state belongs to that thread."""
    with contextlib.suppress(OSError):  # gone already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def listen(address: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError when the address is in use or not local."""
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
