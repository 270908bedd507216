"""TLS from memory, against a TLS server whose ciphertext arrives in any pieces, is cut off, or is damaged; and against
``openssl s_server`` for what happens inside a running connection."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import ConnectError
from hypersdk.net.certificate import TlsPolicy, ssl_context
from hypersdk.net.tlsstream import TlsStream
from tests.support.seeds import examples
from tests.support.tls import Identity
from tests.support.tlsserver import PEER
from tests.support.tools import requires

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DATA = random.Random(11).randbytes(200_000)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

Deliver = Callable[[socket.socket, "Server"], None]


class Server:
    """The other end, which hands over its ciphertext instead of sending it."""

    def __init__(self, tls_certificate: Identity, version: ssl.TLSVersion) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls_certificate.pem)
        context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self, sock: socket.socket) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self._outgoing.read())
                data = sock.recv(65536)
                if not data:
                    raise ConnectionAbortedError from None
                self._incoming.write(data)
        sock.sendall(self._outgoing.read())

    def encrypt(self, parts: Sequence[bytes], *, close: bool = False) -> bytes:
        """Each part in records of its own; with ``close`` a close_notify follows."""
        for part in parts:
            self._tls.write(part)
        if close:
            with pytest.raises(ssl.SSLWantReadError):
                self._tls.unwrap()
        return self._outgoing.read()

    def alert(self) -> bytes:
        """The fatal alert that a damaged record from the client provokes."""
        self._incoming.write(b"\x17\x03\x03\x00\x40" + bytes(64))
        with pytest.raises(ssl.SSLError):
            self._tls.read(1)
        return self._outgoing.read()


@contextmanager
def connection(
    tls_certificate: Identity, deliver: Deliver, version: ssl.TLSVersion = VERSIONS[1], tls: TlsPolicy | None = None
) -> Iterator[TlsStream]:
    """A stream to a server that calls ``deliver`` after the handshake and then hangs up."""
    here, there = socket.socketpair()

    def serve() -> None:
        with there:
            try:
                server = Server(tls_certificate, version)
                server.handshake(there)
                deliver(there, server)
            except OSError:
                return  # the client went away

    thread = threading.Thread(target=serve, name=PEER)
    thread.start()
    here.settimeout(5)
    stream = TlsStream(ssl_context(tls or TlsPolicy(thumbprint=tls_certificate.sha256)), here, "127.0.0.1")
    try:
        stream.do_handshake()
        yield stream
    finally:
        stream.close()
        thread.join(10)
        assert not thread.is_alive()


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """``data`` in pieces of the given sizes, over and over."""
    at, turn = 0, 0
    while at < len(data):
        yield data[at : at + sizes[turn % len(sizes)]]
        at, turn = at + sizes[turn % len(sizes)], turn + 1


def received(stream: TlsStream, sizes: Sequence[int] = (65536,)) -> tuple[bytes, OSError | None]:
    """All that arrives, and the error that ended it; None for close_notify."""
    got, turn = bytearray(), 0
    while True:
        view = memoryview(bytearray(sizes[turn % len(sizes)]))
        try:
            count = stream.read(view)
        except OSError as error:
            return bytes(got), error
        if not count:
            assert stream.read(view) == 0  # the end stays the end
            return bytes(got), None
        got += view[:count]
        turn += 1


QUICK = examples(60)
SIZES = st.lists(st.integers(1, 40_000), min_size=1, max_size=6)


@QUICK
@given(records=SIZES, pieces=SIZES, views=SIZES, closed=st.booleans(), version=st.sampled_from(VERSIONS))
def test_everything_arrives_however_it_is_cut(
    tls_certificate: Identity,
    records: list[int],
    pieces: list[int],
    views: list[int],
    closed: bool,
    version: ssl.TLSVersion,
) -> None:
    def deliver(sock: socket.socket, server: Server) -> None:
        cipher = server.encrypt(list(cut(DATA, [max(records[0], 5000), *records])), close=closed)
        for piece in cut(cipher, [max(pieces[0], 5000), *pieces]):
            sock.sendall(piece)

    with connection(tls_certificate, deliver, version) as stream:
        got, error = received(stream, [max(views[0], 5000), *views])
    assert got == DATA
    assert error is None if closed else isinstance(error, ssl.SSLEOFError)


@QUICK
@given(end=st.integers(0, 200_000), version=st.sampled_from(VERSIONS))
def test_a_connection_that_drops_gives_its_whole_records_and_an_error(
    tls_certificate: Identity, end: int, version: ssl.TLSVersion
) -> None:
    """Never an end, and never a loop: ``received`` would not return."""
    with connection(
        tls_certificate, lambda sock, server: sock.sendall(server.encrypt(list(cut(DATA, [1000])))[:end]), version
    ) as stream:
        got, error = received(stream)
    assert isinstance(error, ssl.SSLEOFError)
    assert got == DATA[: len(got)]
    assert len(got) >= (end // 1100) * 1000, "a record that arrived whole is not lost"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_damaged_record_is_an_error_that_stays(tls_certificate: Identity, version: ssl.TLSVersion) -> None:
    def deliver(sock: socket.socket, server: Server) -> None:
        good, damaged = server.encrypt([DATA[:50_000]]), bytearray(server.encrypt([DATA[50_000:60_000]]))
        damaged[len(damaged) // 2] ^= 1
        sock.sendall(good + damaged + server.encrypt([DATA[60_000:]]))
        sock.recv(1000)  # the client's alert, or its end

    with connection(tls_certificate, deliver, version) as stream:
        got, error = received(stream)
        assert got == DATA[:50_000]
        assert isinstance(error, ssl.SSLError)
        for _ in range(3):
            with pytest.raises(OSError):
                stream.read(memoryview(bytearray(1000)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1000, 65536])
def test_a_fatal_alert_is_an_error_that_stays(tls_certificate: Identity, version: ssl.TLSVersion, size: int) -> None:
    """OpenSSL tells it once, and then calls it the end."""
    with connection(
        tls_certificate, lambda sock, server: sock.sendall(server.encrypt([DATA[:50_000]]) + server.alert()), version
    ) as stream:
        got, error = received(stream, [size])
        assert got == DATA[:50_000]
        assert isinstance(error, ssl.SSLError)
        for _ in range(3):
            with pytest.raises(ssl.SSLError):
                stream.read(memoryview(bytearray(1000)))


def test_a_drip_of_bytes_that_are_no_record_is_silence(tls_certificate: Identity) -> None:
    def deliver(sock: socket.socket, server: Server) -> None:
        for byte in cut(server.encrypt([DATA[:10_000]]), [1]):
            sock.sendall(byte)
            time.sleep(0.02)

    with connection(tls_certificate, deliver) as stream:
        stream.settimeout(0.2)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            stream.read(memoryview(bytearray(10)))
        assert time.monotonic() - started < 5


def test_what_arrived_before_a_reset_is_read_first(tls_certificate: Identity) -> None:
    def deliver(sock: socket.socket, server: Server) -> None:
        sock.sendall(server.encrypt([DATA[:100_000]]))

    with connection(tls_certificate, deliver) as stream:
        parts = [bytearray(30_000) for _ in range(3)]
        assert [stream.read(memoryview(part)) for part in parts] == [30_000] * 3
        assert b"".join(parts) == DATA[:90_000]


def test_another_certificate_than_the_pinned_one_ends_the_handshake_unanswered(tls_certificate: Identity) -> None:
    seen: list[bytes] = []

    def deliver(sock: socket.socket, _: Server) -> None:
        seen.append(sock.recv(1000))

    with (
        pytest.raises(ConnectError) as caught,
        connection(tls_certificate, deliver, tls=TlsPolicy(thumbprint="ab" * 32)),
    ):
        pytest.fail("the handshake must not succeed")
    assert caught.value.code == "certificate_changed"
    assert not b"".join(seen)


def test_a_certificate_of_no_authority_is_refused_with_an_alert(tls_certificate: Identity) -> None:
    with pytest.raises(ssl.SSLCertVerificationError), connection(tls_certificate, lambda *_: None, tls=TlsPolicy()):
        pytest.fail("the handshake must not succeed")


def test_a_server_that_hangs_up_before_the_alert_does_not_hide_why(tls_certificate: Identity) -> None:
    class Broken(socket.socket):
        """Sends the client's first message only."""

        sent = 0

        def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
            self.sent += 1
            if self.sent > 1:
                raise BrokenPipeError
            return super().send(data, flags)

    here, there = socket.socketpair()
    with there, ThreadPoolExecutor(1) as pool, Broken(fileno=here.detach()) as broken:
        serving = pool.submit(Server(tls_certificate, VERSIONS[1]).handshake, there)
        stream = TlsStream(ssl_context(TlsPolicy()), broken, "127.0.0.1")
        with pytest.raises(ssl.SSLCertVerificationError):
            stream.do_handshake()
        assert broken.sent > 1, "an alert was tried"
        stream.close()
        with pytest.raises(ConnectionAbortedError):
            serving.result(10)


@contextmanager
def openssl_server(tls_certificate: Identity, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], TlsStream]]:
    """``openssl s_server``, which obeys letters on its standard input and sends lines that are no command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command: list[str | Path] = [requires("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", *flags]
    command += ["-cert", tls_certificate.pem, "-key", tls_certificate.pem]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline().strip() != b"ACCEPT":
                assert process.poll() is None
            context = ssl_context(TlsPolicy(thumbprint=tls_certificate.sha256))
            stream = TlsStream(context, socket.create_connection(("127.0.0.1", port), 5), "127.0.0.1")
            stream.do_handshake()
            yield process, stream
            stream.close()
        finally:
            process.kill()


def line(stream: TlsStream) -> bytes:
    """The next line that the server sends."""
    got, view = bytearray(), memoryview(bytearray(1))
    while not got.endswith(b"\n"):
        assert stream.read(view)
        got += view
    return bytes(got)


@pytest.mark.parametrize(
    ("flags", "commands"),
    [(["-tls1_3"], [b"K\n", b"k\n", b"K\n"]), (["-tls1_2"], [b"r\n"])],
    ids=["key update", "renegotiation"],
)
def test_tls_is_answered_while_data_is_read(tls_certificate: Identity, flags: list[str], commands: list[bytes]) -> None:
    """The server asks for new keys; it goes on only when the client has answered, and reads what the client sends with
    them."""
    with openssl_server(tls_certificate, *flags) as (process, stream):
        assert process.stdin is not None
        assert process.stdout is not None
        for number, command in enumerate(commands):
            process.stdin.write(command)
            process.stdin.flush()
            stream.settimeout(0.3)
            with pytest.raises(TimeoutError):
                stream.read(memoryview(bytearray(1)))  # nothing but TLS's own messages, which it answers
            stream.settimeout(5)
            stream.sendall(b"from the client %d\n" % number)
            while (said := process.stdout.readline()) and b"from the client %d" % number not in said:
                assert b"error" not in said.lower()
            assert said, "the server ended"
            process.stdin.write(b"from the server %d\n" % number)
            process.stdin.flush()
            assert line(stream) == b"from the server %d\n" % number
