"""Servers on 127.0.0.1 with real sockets: a TLS server whose answers are scripts (exact bytes, pauses and resets, as no
well-behaved server sends them), one that does not speak TLS, and a proxy that tunnels.

Fixture: ``tls_server`` starts TLS servers and ends them after the test. A script gets the ``Exchange`` and may do
anything to it; ``answering`` makes one of a function from the request's bytes to the answer's.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

import pytest

from hypersdk.net.certificate import TlsPolicy
from hypersdk.vsphere.endpoint import Endpoint
from tests.support.tls import Authority, Identity

PEER = "tls-peer"
"""Name of the threads of these servers: one that serves a whole module outlives a test."""
SLICE_S = 0.1
"""How soon they notice that they should end."""


@dataclass(slots=True)
class Request:
    """A request as it came; header names in lower case. ``data`` are its bytes, body included."""

    target: str
    headers: dict[str, str]
    data: bytes


class Exchange:
    """One connection to the server, from the side of a script."""

    def __init__(self, sock: ssl.SSLSocket, stopping: threading.Event, received: bytearray) -> None:
        self.sock = sock
        self._stopping = stopping
        self._received = received
        self._rest = b""

    def request(self) -> Request | None:
        """The next request; None when the client hung up."""
        while b"\r\n\r\n" not in self._rest:
            if not self._receive():
                return None
        head, _, _ = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = len(head) + 4 + int(headers.get("content-length", 0))
        while len(self._rest) < size:
            if not self._receive():
                return None
        data, self._rest = self._rest[:size], self._rest[size:]
        return Request(first.split(" ")[1], headers, data)

    def _receive(self) -> bool:
        """False at the end of the connection and of the server."""
        while not (self.sock.pending() or select.select([self.sock], [], [], SLICE_S)[0]):
            if self._stopping.is_set():
                return False
        data = self.sock.recv(65536)
        self._received += data
        self._rest += data
        return bool(data)

    def send(self, *parts: str | bytes) -> None:
        """Sends all parts as they are; a text may have plain newlines."""
        for part in parts:
            self.sock.sendall(part.replace("\n", "\r\n").encode() if isinstance(part, str) else part)

    def send_pieces(self, pieces: Iterator[bytes]) -> None:
        """Sends the pieces until they, the client or the server end."""
        for piece in pieces:
            if self._stopping.is_set():
                return
            self.sock.sendall(piece)

    def hang_up(self) -> NoReturn:
        """Ends the script and the connection."""
        raise ConnectionAbortedError

    def reset(self) -> NoReturn:
        """Ends the script, and the connection with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        raise ConnectionAbortedError

    def pause(self, seconds: float) -> None:
        """Waits, or ends the script when the server is stopped meanwhile."""
        if self._stopping.wait(seconds):
            raise ConnectionAbortedError

    def end_tls(self) -> None:
        """Says close_notify: the proper end of a TLS connection."""
        self.sock.setblocking(True)
        self.sock.unwrap()


Script = Callable[[Exchange, Request], None]


def answering(answer: Callable[[bytes], bytes | Iterator[bytes]]) -> Script:
    """Answers each request with ``answer(request bytes)`` (raw HTTP). The connection ends after an answer that says
    ``Connection: close``, or (without announcing it in HTTP's words) ``X-Hang-Up: 1``, and after one in pieces."""

    def script(exchange: Exchange, request: Request) -> None:
        reply = answer(request.data)
        if not isinstance(reply, bytes):
            exchange.send_pieces(reply)
            exchange.hang_up()
        else:
            exchange.send(reply)
            if b"connection: close" in reply.lower() or b"x-hang-up: 1" in reply.lower():
                exchange.hang_up()

    return script


class LoopbackServer:
    """A listener on a free port; each connection is served by its own thread; all threads end with the block."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SLICE_S)
        self.host = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name=PEER)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection of the test server did not end"

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            sock.settimeout(10)
            thread = threading.Thread(target=self._guarded, args=(sock,), name=PEER)
            self._threads.append(thread)
            thread.start()

    def _guarded(self, sock: socket.socket) -> None:
        with sock:
            try:
                self.serve(sock)
            except OSError:
                return  # the client went away, as many tests make it

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError


class TlsServer(LoopbackServer):
    """Runs ``script`` for each request. ``requests`` keeps the requests, ``received`` the decrypted bytes of all
    connections."""

    def __init__(self, certificate: Identity, script: Script) -> None:
        super().__init__()
        self.certificate = certificate
        self.requests: list[Request] = []
        self.received = bytearray()
        self.script = script
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.pem)

    def url(self, path: str = "/nfc/1/disk-0.vmdk") -> str:
        """``https`` URL of ``path``."""
        return f"https://{self.host}:{self.port}{path}"

    def endpoint(self) -> Endpoint:
        """An endpoint that pins this server."""
        return Endpoint(self.host, self.port, "user", None, TlsPolicy(thumbprint=self.certificate.sha256))

    def serve(self, sock: socket.socket) -> None:
        with self._context.wrap_socket(sock, server_side=True) as tls:
            exchange = Exchange(tls, self._ending, self.received)
            while (request := exchange.request()) is not None:
                self.requests.append(request)
                self.script(exchange, request)


def http_answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole HTTP answer with its length."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


class PlainServer(LoopbackServer):
    """Says ``greeting`` to whoever connects, waits for one answer and closes the connection; it does not speak TLS."""

    def __init__(self, greeting: bytes) -> None:
        super().__init__()
        self._greeting = greeting

    def serve(self, sock: socket.socket) -> None:
        sock.sendall(self._greeting)
        sock.recv(65536)


class ConnectProxy(LoopbackServer):
    """A proxy that tunnels with CONNECT; ``requests`` are the heads it was sent. ``authorization`` is demanded where
    given.

    With ``target`` all tunnels lead there, whatever host was asked for.
    """

    def __init__(self, authorization: str | None = None, target: tuple[str, int] | None = None) -> None:
        super().__init__()
        self._target = target
        self.requests: list[str] = []
        self._authorization = authorization

    def serve(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        text = head.decode("latin-1")
        self.requests.append(text)
        if self._authorization is not None and f"Proxy-Authorization: {self._authorization}\r\n" not in text:
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = text.split()[1].rpartition(":")
        with socket.create_connection(self._target or (host.strip("[]"), int(port)), 10) as upstream:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(upstream, sock))
            back.start()
            _pump(sock, upstream)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copies until one side ends, then hangs up on both."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@pytest.fixture(scope="session")
def tls_certificate(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """One certificate for the whole run."""
    return Authority(tmp_path_factory.mktemp("tls")).identity("server", "127.0.0.1")


@pytest.fixture
def tls_server(tls_certificate: Identity) -> Iterator[Callable[[Script], TlsServer]]:
    """Starts scripted servers."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(TlsServer(tls_certificate, script))
