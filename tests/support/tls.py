"""Certificates made on the spot, a TLS server that serves what a test scripts, and a proxy that tunnels: all real
sockets on 127.0.0.1."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEER = "tls-peer"
"""Name of the threads of these servers: one that serves a whole module outlives a test."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, on disk in one PEM file, and the DER of the certificate."""

    pem: Path
    der: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.der).hexdigest()


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _certificate(self._name, self._name, self._key.public_key(), self._key, ca=True)
        self.bundle = folder / "ca.pem"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def identity(self, name: str, *names: str) -> Identity:
        """A server certificate for these DNS names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _certificate(subject, self._name, key.public_key(), self._key, names=names)
        pem = self._folder / f"{name}-{certificate.serial_number:x}.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return Identity(pem, certificate.public_bytes(serialization.Encoding.DER))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    names: tuple[str, ...] = (),
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
    return builder.sign(key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class _Server:
    """A listener on a free port; each connection is served by a thread of its own; all of them end with the block."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self.host = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name=PEER)

    def __enter__(self):
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


class TlsServer(_Server):
    """Answers each request with ``answer(request bytes)`` (raw HTTP) and hangs up after an answer that says
    ``Connection: close``, or (without announcing it in HTTP's words) ``X-Hang-Up: 1``. An answer in pieces is sent
    until it or the client ends.

    ``received`` collects the decrypted bytes of all connections.
    """

    def __init__(self, identity: Identity, answer: Callable[[bytes], bytes | Iterator[bytes]]) -> None:
        super().__init__()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.pem)
        self._answer = answer
        self.received = bytearray()

    def serve(self, sock: socket.socket) -> None:
        with self._context.wrap_socket(sock, server_side=True) as tls:
            while not self._ending.is_set():
                request = self._request(tls)
                if not request:
                    return
                reply = self._answer(request)
                if not isinstance(reply, bytes):
                    for piece in reply:
                        if self._ending.is_set():
                            return
                        tls.sendall(piece)
                    return
                tls.sendall(reply)
                if b"connection: close" in reply.lower() or b"x-hang-up: 1" in reply.lower():
                    return

    def _request(self, tls: ssl.SSLSocket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _content_length(data):
            chunk = tls.recv(65536)
            if not chunk:
                return b""
            self.received += chunk
            data += chunk
        return data


def _content_length(head: bytes) -> int:
    for line in head.partition(b"\r\n\r\n")[0].splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def http_answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole HTTP answer with its length."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


class PlainServer(_Server):
    """Says ``greeting`` to whoever connects, waits for one answer and hangs up: anything but TLS."""

    def __init__(self, greeting: bytes) -> None:
        super().__init__()
        self._greeting = greeting

    def serve(self, sock: socket.socket) -> None:
        sock.sendall(self._greeting)
        sock.recv(65536)


class ConnectProxy(_Server):
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
