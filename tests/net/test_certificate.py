"""Trust, with real TLS servers: who is believed, what is shown, and that nothing is said to the others."""

from __future__ import annotations

import datetime
import select
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli import remedies as programs
from hypersdk.errors import CODES, ConnectError, UsageError
from hypersdk.jobs import remedies as daemon
from hypersdk.net.certificate import TlsPolicy, format_fingerprint, peer_certificate, read_certificate, ssl_context
from hypersdk.net.proxy import Proxy
from hypersdk.vsphere.connection import TrustedConnection, open_connection
from hypersdk.vsphere.endpoint import Endpoint
from tests.support.tls import Authority, Identity
from tests.support.tlsserver import ConnectProxy, PlainServer, TlsServer, answering, http_answer

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.identity("localhost", "127.0.0.1")


@pytest.fixture
def server(identity: Identity) -> Iterator[TlsServer]:
    with TlsServer(identity, answering(lambda _: http_answer(b"hello"))) as running:
        yield running


def _get(server: TlsServer, tls: TlsPolicy, **options: object) -> bytes:
    connection = TrustedConnection("127.0.0.1", server.port, tls, **options)  # type: ignore[arg-type]
    try:
        connection.request("GET", "/", headers={"Cookie": "secret=1"})
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_certificate_of_the_given_authority_is_trusted(server: TlsServer, authority: Authority) -> None:
    assert _get(server, TlsPolicy(ca_bundle=authority.bundle)) == b"hello"


def test_the_servers_own_certificate_may_be_the_bundle(server: TlsServer, identity: Identity) -> None:
    assert _get(server, TlsPolicy(ca_bundle=identity.pem)) == b"hello"


def test_an_unknown_certificate_is_refused_before_a_byte_is_sent(server: TlsServer, identity: Identity) -> None:
    with pytest.raises(ConnectError) as caught:
        _get(server, TlsPolicy())
    assert caught.value.code == "certificate_unknown"
    assert caught.value.fields["sha256"] == format_fingerprint(identity.sha256)
    assert caught.value.fields["sha1"] == format_fingerprint(identity.sha1)
    shown = format_fingerprint(identity.sha256)
    for face, way in (
        (programs, f"--thumbprint {shown}"),
        (daemon, f"hyperctl endpoints add NAME URL --pin {shown}"),
        (daemon, "GOVC_TLS_KNOWN_HOSTS"),
    ):
        assert way in face.next_step(caught.value)
        assert way.partition(shown)[0].strip() in face.next_step(CODES["certificate_unknown"])
    assert caught.value.fields["subject"] == "CN=localhost"
    assert not server.received


def test_another_authority_does_not_help(server: TlsServer, tmp_path: Path) -> None:
    with pytest.raises(ConnectError) as caught:
        _get(server, TlsPolicy(ca_bundle=Authority(tmp_path, "Other").bundle))
    assert caught.value.code == "certificate_unknown"


def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    with TlsServer(
        authority.identity("vc.example.com", "vc.example.com"), answering(lambda _: http_answer(b""))
    ) as other:
        with pytest.raises(ConnectError) as caught:
            _get(other, TlsPolicy(ca_bundle=authority.bundle))
        assert caught.value.code == "certificate_unknown"
        assert "127.0.0.1" in caught.value.message
        assert not other.received


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_the_pinned_certificate_is_trusted_whoever_signed_it(server: TlsServer, identity: Identity, kind: str) -> None:
    assert _get(server, TlsPolicy(thumbprint=getattr(identity, kind))) == b"hello"


@pytest.mark.parametrize(("pin", "own"), [("ab" * 32, "sha256"), ("ab" * 20, "sha1")])
def test_a_changed_certificate_is_refused_even_when_insecure_or_vouched_for(
    server: TlsServer, identity: Identity, authority: Authority, pin: str, own: str
) -> None:
    for tls in (
        TlsPolicy(thumbprint=pin),
        TlsPolicy(thumbprint=pin, insecure=True),
        TlsPolicy(thumbprint=pin, ca_bundle=authority.bundle),
    ):
        with pytest.raises(ConnectError) as caught:
            _get(server, tls)
        assert caught.value.code == "certificate_changed"
        assert caught.value.fields["expected"] == format_fingerprint(pin)
        assert format_fingerprint(pin) in caught.value.message
        assert format_fingerprint(getattr(identity, own)) in caught.value.message
    assert not server.received


@pytest.mark.parametrize("right", [True, False])
def test_a_pin_holds_inside_the_tls_of_a_proxy(server: TlsServer, identity: Identity, right: bool) -> None:
    """httpx wraps no socket there, but a pair of buffers."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl_context(TlsPolicy(thumbprint=identity.sha256 if right else "ab" * 32))
    inner = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

    def handshake(raw: socket.socket) -> None:
        while True:
            try:
                inner.do_handshake()
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
            else:
                return

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        if right:
            handshake(raw)
        else:
            with pytest.raises(ConnectError) as caught:
                handshake(raw)
            assert caught.value.code == "certificate_changed"


def test_the_pin_of_a_lease_goes_before_the_policy(server: TlsServer, identity: Identity) -> None:
    for tls in (TlsPolicy(thumbprint="ab" * 32), TlsPolicy(insecure=True)):
        for host, port in ((None, None), ("localhost", server.port)):
            endpoint = Endpoint("127.0.0.1", server.port, "u", None, tls)
            connection = open_connection(endpoint, host=host, port=port, pin=identity.sha1)
            connection.connect()
            connection.close()
            with pytest.raises(ConnectError) as caught:
                open_connection(endpoint, host=host, port=port, pin="ab" * 20).connect()
            assert caught.value.code == "certificate_changed"
    assert not server.received


def test_a_remembered_print_counts_where_no_authority_vouches(
    server: TlsServer, identity: Identity, authority: Authority
) -> None:
    assert _get(server, TlsPolicy(known=identity.sha256)) == b"hello"
    assert _get(server, TlsPolicy(known="ab" * 32, ca_bundle=authority.bundle)) == b"hello"
    with pytest.raises(ConnectError) as caught:
        _get(server, TlsPolicy(known="ab" * 32))
    assert caught.value.code == "certificate_changed"


def test_insecure_takes_anyone(server: TlsServer) -> None:
    assert _get(server, TlsPolicy(insecure=True)) == b"hello"


def test_authorities_are_read_again_when_their_file_changes(
    server: TlsServer, authority: Authority, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    bundle = tmp_path / "bundle.pem"
    tls = TlsPolicy(ca_bundle=bundle)
    bundle.write_bytes(Authority(other).bundle.read_bytes())
    with pytest.raises(ConnectError) as caught:
        _get(server, tls)
    assert caught.value.code == "certificate_unknown"
    bundle.write_bytes(authority.bundle.read_bytes())
    assert _get(server, tls) == b"hello"
    assert ssl_context(tls) is ssl_context(TlsPolicy(ca_bundle=bundle, known="ab" * 32))


def test_the_endpoints_pin_says_nothing_about_another_host(
    server: TlsServer, identity: Identity, authority: Authority
) -> None:
    endpoint = Endpoint(
        "vc.example.com", 443, "u", None, TlsPolicy(thumbprint="ab" * 32, known="cd" * 32, ca_bundle=authority.bundle)
    )
    connection = open_connection(endpoint, host="127.0.0.1", port=server.port)
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.getpeercert(binary_form=True) == identity.der
    connection.close()


def test_an_unusable_bundle_is_named(tmp_path: Path, server: TlsServer) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(UsageError, match=name):
            _get(server, TlsPolicy(ca_bundle=tmp_path / name))


def test_everything_holds_through_a_proxy(server: TlsServer, identity: Identity) -> None:
    with ConnectProxy() as way:
        proxy = Proxy("127.0.0.1", way.port)
        assert _get(server, TlsPolicy(thumbprint=identity.sha256), proxy=proxy) == b"hello"
        with pytest.raises(ConnectError) as caught:
            _get(server, TlsPolicy(), proxy=proxy)
        assert caught.value.fields["sha256"] == format_fingerprint(identity.sha256)
        assert len(way.requests) == 3  # the last one fetched the certificate for the message


def test_a_connection_that_the_server_closed_is_replaced_not_failed(identity: Identity) -> None:
    with TlsServer(identity, answering(lambda _: http_answer(b"hello", "200 OK", "X-Hang-Up: 1"))) as server:
        connection = TrustedConnection("127.0.0.1", server.port, TlsPolicy(insecure=True))
        for _ in range(3):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hello"
            assert select.select([connection.sock], [], [], 10)[0]  # the server has hung up
        assert server.connections == 3
        connection.close()


def test_peer_certificate_shows_and_says_nothing(server: TlsServer, identity: Identity) -> None:
    shown = peer_certificate("127.0.0.1", server.port)
    assert (shown.sha256, shown.sha1) == (identity.sha256, identity.sha1)
    assert not server.received


def test_a_port_without_tls_is_an_os_error() -> None:
    with PlainServer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as plain, pytest.raises(OSError):
        peer_certificate("127.0.0.1", plain.port)


def _made(subject: x509.Name, start: datetime.datetime, serial: int = 2**159 - 1) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(x509.Name([]), subject, key.public_key(), serial)
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=7300))
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        ([(NameOID.ORGANIZATION_NAME, "Größe"), (NameOID.COMMON_NAME, "vc.example.com")], "CN=vc.example.com, O=Größe"),
        ([(NameOID.ORGANIZATION_NAME, "Example, Inc.")], r"O=Example\, Inc."),
        ([(NameOID.COMMON_NAME, "a\x1b[31m\u202eb\n")], "CN=a?[31m?b?"),
        ([(NameOID.EMAIL_ADDRESS, "vmca@example.com")], "emailAddress=vmca@example.com"),
        ([(NameOID.DOMAIN_COMPONENT, "local"), (NameOID.DOMAIN_COMPONENT, "vsphere")], "DC=vsphere, DC=local"),
        ([], "(no name)"),
    ],
)
def test_names_are_shown_to_people(attributes: list[tuple[x509.ObjectIdentifier, str]], shown: str) -> None:
    subject = x509.Name([x509.NameAttribute(kind, text) for kind, text in attributes])
    found = read_certificate(_made(subject, NOW).public_bytes(serialization.Encoding.DER))
    assert (found.subject, found.issuer) == (shown, "(no name)")


@pytest.mark.parametrize("year", [1950, 1999, 2049, 2050])
def test_times_are_in_utc(year: int) -> None:
    start = datetime.datetime(year, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    found = read_certificate(_made(x509.Name([]), start).public_bytes(serialization.Encoding.DER))
    assert (found.not_before, found.not_after) == (start, start + datetime.timedelta(days=7300))


@given(st.binary(max_size=400))
def test_bytes_that_are_not_a_certificate_are_an_error(data: bytes) -> None:
    with pytest.raises(ConnectError) as caught:
        read_certificate(data)
    assert caught.value.code == "tls_failed"


def test_a_certificate_of_any_length_is_not_read(identity: Identity) -> None:
    with pytest.raises(ConnectError, match="65536"):
        read_certificate(identity.der + bytes(65536))


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_a_damaged_certificate_is_read_or_refused_never_more(
    identity: Identity, position: int, value: int, cut: int
) -> None:
    damaged = bytearray(identity.der)
    damaged[position % len(damaged)] = value
    codes = set()
    for data in (bytes(damaged), bytes(identity.der[: cut % len(identity.der)])):
        try:
            read_certificate(data)
        except ConnectError as error:
            codes.add(error.code)
    assert codes <= {"tls_failed"}


ASK = """
import sys
from hypersdk.errors import ConnectError
from hypersdk.net.certificate import TlsPolicy
from hypersdk.vsphere.connection import TrustedConnection
connection = TrustedConnection("127.0.0.1", int(sys.argv[1]), TlsPolicy(thumbprint=sys.argv[2]))
try:
    connection.connect()
except ConnectError as error:
    print(error.code)
print("cryptography" in sys.modules)
"""


def test_a_pinned_connection_does_not_load_the_library(server: TlsServer, identity: Identity) -> None:
    """It takes longer to import than the whole of ``hyper2kvm --help``."""
    for pin, said in ((identity.sha256, "False"), ("ab" * 32, "certificate_changed\nFalse")):
        command = [sys.executable, "-c", ASK, str(server.port), pin]
        assert subprocess.check_output(command, text=True, timeout=60).strip() == said
