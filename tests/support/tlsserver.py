"""A TLS server on 127.0.0.1 whose answers are scripts: exact bytes, pauses and resets, as no well-behaved server sends
them.

Fixture: ``tls_server`` starts servers and ends them after the test. A script gets the ``Exchange`` and may do anything
to it.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from hypersdk.net.certificate import TlsPolicy
from hypersdk.vsphere.endpoint import Endpoint
from tests.support.tls import Authority, Identity

ACCEPT_SLICE_S = 0.1


@dataclass(slots=True)
class Request:
    """The head of a request as it came; header names in lower case."""

    target: str
    headers: dict[str, str]


class Exchange:
    """One connection to the server, from the side of a script."""

    def __init__(self, sock: ssl.SSLSocket, stopping: threading.Event) -> None:
        self.sock = sock
        self._stopping = stopping
        self._rest = b""

    def request(self) -> Request | None:
        """The next request's head; None when the client hung up."""
        while b"\r\n\r\n" not in self._rest:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._rest += data
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return Request(first.split(" ")[1], {name.lower(): value for name, value in pairs})

    def send(self, *parts: str | bytes) -> None:
        """Sends all parts as they are; a text may have plain newlines."""
        for part in parts:
            self.sock.sendall(part.replace("\n", "\r\n").encode() if isinstance(part, str) else part)

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def pause(self, seconds: float) -> None:
        """Waits, or ends the script when the server is stopped meanwhile."""
        if self._stopping.wait(seconds):
            raise ConnectionAbortedError

    def end_tls(self) -> None:
        """Says close_notify: the proper end of a TLS connection."""
        self.sock.setblocking(True)
        self.sock.unwrap()


Script = Callable[[Exchange, Request], None]


@dataclass(slots=True)
class TlsServer:
    """Runs ``script`` for each request; keeps the requests."""

    script: Script
    certificate: Identity
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def url(self, path: str = "/nfc/1/disk-0.vmdk") -> str:
        """``https`` URL of ``path``."""
        return f"https://127.0.0.1:{self.port}{path}"

    def endpoint(self) -> Endpoint:
        """An endpoint that pins this server."""
        return Endpoint("127.0.0.1", self.port, "user", None, TlsPolicy(thumbprint=self.certificate.sha256))

    def __enter__(self) -> TlsServer:
        self._listener.settimeout(ACCEPT_SLICE_S)
        self._start(self._accept, "tls-server")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate.pem)
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                sock, _ = self._listener.accept()
                self.connections += 1
                self._start(lambda sock=sock: self._serve(sock, context), "tls-connection")  # type: ignore[misc]

    def _serve(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        plain.settimeout(20)
        with suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as sock:
            exchange = Exchange(sock, self._stopping)
            while (request := exchange.request()) is not None:
                self.requests.append(request)
                self.script(exchange, request)


@pytest.fixture(scope="session")
def tls_certificate(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """One certificate for the whole run."""
    return Authority(tmp_path_factory.mktemp("tls")).identity("server", "127.0.0.1")


@pytest.fixture
def tls_server(tls_certificate: Identity) -> Iterator[Callable[[Script], TlsServer]]:
    """Starts scripted servers."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(TlsServer(script, tls_certificate))
