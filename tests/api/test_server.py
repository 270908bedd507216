"""The server itself: half-open requests, TLS, signals, the gate, draining."""

from __future__ import annotations

import datetime
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from cryptography import x509
from fastapi import APIRouter, Depends, FastAPI

from hypersdk.access.roles import Role
from hypersdk.api.address import ListenError
from hypersdk.api.security import viewer
from hypersdk.api.server import MAX_HEAD_BYTES, ConnectionLimiter
from hypersdk.api.tls import fingerprint, self_signed
from hypersdk.errors import UsageError
from tests.support.servedapi import PASSWORD, ServeApi, ServedApi, served
from tests.support.tls import Authority
from tests.support.waiting import eventually

pytestmark = pytest.mark.waits

HALF_OPEN = 500
HALF_OPEN_S = 12.0


def connected(api: ServedApi) -> socket.socket:
    return socket.create_connection((api.host, api.port), 20)


@pytest.mark.slow
def test_500_half_open_requests_while_health_answers(serve_api: ServeApi) -> None:
    found = serve_api(header_timeout_s=HALF_OPEN_S)
    with ExitStack() as stack:
        sockets = [stack.enter_context(connected(found)) for _ in range(HALF_OPEN)]
        for number, sock in enumerate(sockets):
            sock.sendall(
                (
                    b"",
                    b"GET",
                    b"GET /health HTTP/1.1\r\nHost: localh",
                    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n",
                )[number % 4]
            )
        with found.client() as client:
            slowest = 0.0
            for _ in range(20):
                began = time.perf_counter()
                assert client.get("/health").status_code == 200
                slowest = max(slowest, time.perf_counter() - began)
        assert slowest < HALF_OPEN_S - 2, "it waited for them to end"
        for sock in sockets:
            sock.settimeout(60)
            data = sock.recv(4096)
            assert data.startswith(b"HTTP/1.1 408 "), data
            assert sock.recv(4096) == b""
        eventually(lambda: found.server.gate._open.total() <= 1)


def test_a_dripping_head_ends_in_time_and_a_late_second_one_too(serve_api: ServeApi) -> None:
    found = serve_api(header_timeout_s=1.0)
    with connected(found) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"healthy" in _answer(sock)
        time.sleep(1.5)  # idle between two requests is no half-open request
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"healthy" in _answer(sock)
        began = time.monotonic()
        data = b""
        while not data and time.monotonic() - began < 20:
            sock.sendall(b"G")
            if select.select([sock], [], [], 0.1)[0]:
                data = sock.recv(4096)
        assert data.startswith(b"HTTP/1.1 4")
        assert time.monotonic() - began < 10


def test_a_body_that_nobody_reads_must_end_too(serve_api: ServeApi) -> None:
    found = serve_api(header_timeout_s=1.0)
    with connected(found) as sock:
        sock.sendall(b"POST /jobs/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert b" 401 " in _answer(sock)
        began = time.monotonic()
        try:
            while time.monotonic() - began < 15:
                sock.sendall(b"x")
                time.sleep(0.05)
        except ConnectionError:
            return
        raise AssertionError("the connection stays for as long as its sender likes")


@pytest.mark.parametrize("head", ["", "Idempotency-Key: k\r\n"])
@pytest.mark.parametrize("path", ["/jobs/submit", "/jobs/query", "/api/v1/jobs", "/api/v1/jobs/bulk"])
def test_a_client_that_leaves_while_it_sends_is_no_error_of_the_daemon(
    path: str, head: str, serve_api: ServeApi, caplog: pytest.LogCaptureFixture
) -> None:
    found = serve_api()
    start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {found.admin}\r\n{head}"
    for rest in ("Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
        with connected(found) as sock:
            sock.sendall(f"{start}Content-Type: application/json\r\n{rest}".encode())
            time.sleep(0.2)  # until its route waits for the body
    eventually(lambda: not found.server.gate._open)
    with found.client(found.admin) as client:
        assert client.get("/status").status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_requests_sent_ahead_are_all_answered(serve_api: ServeApi) -> None:
    found = serve_api(header_timeout_s=1.0)
    with connected(found) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
        data = b""
        sock.settimeout(5)
        while data.count(b"healthy") < 5:
            data += sock.recv(65536)
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        data = b""
        while not data.endswith(b"\r\n\r\n") or b" 408 " not in data:
            part = sock.recv(65536)
            assert part, data
            data += part


def test_a_head_that_is_too_large_or_none(serve_api: ServeApi) -> None:
    found = serve_api()
    for data in (
        b"GET /" + b"a" * (MAX_HEAD_BYTES * 4),
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 100_000 + b"x",
    ):
        with connected(found) as sock:
            try:
                sock.sendall(data + b"\r\n\r\n")
                answer = sock.recv(4096)
            except ConnectionError:
                continue
            assert answer == b"" or answer.split(b" ")[1][:1] == b"4", data[:20]
    with found.client() as client:
        assert client.get("/health").status_code == 200


def test_smuggling_is_refused(serve_api: ServeApi) -> None:
    found = serve_api()
    for head in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: a\r\n b: c\r\n\x00: d\r\n",
    ):
        with connected(found) as sock:
            sock.sendall(
                b"POST /jobs/submit HTTP/1.1\r\nHost: localhost\r\n"
                + head
                + b"\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            assert b"healthy" not in _answer(sock), head


def test_the_gate_counts_by_address() -> None:
    gate = ConnectionLimiter(most=5, per_address=2)
    assert [gate.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    gate.leave("192.0.2.1")
    assert gate.enter("192.0.2.1")
    assert [gate.enter("127.0.0.1") for _ in range(4)] == [
        True,
        True,
        True,
        False,
    ], "loopback has only the limit of all"
    assert gate.refused == 2


def test_a_connection_too_many_is_told_to_come_later(serve_api: ServeApi) -> None:
    found = serve_api(gate=ConnectionLimiter(most=3))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(found))
        eventually(lambda: found.server.gate._open.total() == 3)
        with connected(found) as sock:
            sock.settimeout(10)
            assert sock.recv(4096).startswith(b"HTTP/1.1 503 ")
    eventually(lambda: not found.server.gate._open)
    with found.client() as client:
        assert client.get("/health").status_code == 200


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _shown(api: ServedApi, context: ssl.SSLContext | None = None) -> bytes:
    """The DER of the certificate that a new connection is shown."""
    context = context or ssl._create_unverified_context()
    with connected(api) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        return tls.getpeercert(binary_form=True) or b""


def test_tls_with_files_and_a_reload_that_drops_nothing(
    serve_api: ServeApi, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (
        authority.identity("localhost", "localhost", "127.0.0.1"),
        authority.identity("localhost", "localhost", "127.0.0.1"),
    )
    live = tmp_path / "live.pem"
    live.write_bytes(first.pem.read_bytes())
    found = serve_api(tls_cert=live, tls_key=live)
    assert found.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=str(authority.bundle))
    trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with httpx.Client(
        base_url=found.url, verify=trusting, headers={"Authorization": f"Bearer {found.admin}"}
    ) as client:
        assert client.get("/health").headers["strict-transport-security"]
        assert _shown(found) == first.der
        live.write_bytes(second.pem.read_bytes())
        found.server.reload()
        assert _shown(found) == second.der
        assert client.get("/status").status_code == 200, "the old connection goes on"
        live.write_text("broken")
        found.server.reload()
        assert "the old one stays" in caplog.text
        assert _shown(found) == second.der
        body = {"username": found.user(Role.VIEWER), "password": PASSWORD}
        cookie = client.post("/api/v1/auth/login", json=body).headers["set-cookie"]
        assert "secure" in cookie.lower()


def test_a_reload_to_another_kind_of_key(serve_api: ServeApi, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    live = tmp_path / "live.pem"
    live.write_text(self_signed(["localhost"]))
    found = serve_api(tls_cert=live, tls_key=live)
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    live.write_bytes(private + certificate.public_bytes(pem))
    found.server.reload()
    assert _shown(found) == certificate.public_bytes(serialization.Encoding.DER)


def test_old_versions_of_tls_are_refused(serve_api: ServeApi) -> None:
    found = serve_api(tls_self_signed=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert _shown(found, context)
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(OSError):
        _shown(found, context)


def test_self_signed_is_made_once_and_private(tmp_path: Path) -> None:
    with served(tmp_path, tls_self_signed=True) as found:
        path = found.services.settings.state_dir / "tls.pem"
        assert path.stat().st_mode & 0o777 == 0o600
        first = fingerprint(path)
        certificate = x509.load_der_x509_certificate(_shown(found))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "localhost" in names.get_values_for_type(x509.DNSName)
        assert "127.0.0.1" in [str(one) for one in names.get_values_for_type(x509.IPAddress)]
        with httpx.Client(verify=ssl.create_default_context(cadata=_pem(certificate))) as client:
            assert client.get(f"https://localhost:{found.port}/health").status_code == 200
    with served(tmp_path, tls_self_signed=True):
        assert fingerprint(path) == first
    path.write_text(self_signed(["localhost"], now=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=380)))
    with served(tmp_path, tls_self_signed=True):
        assert fingerprint(path) != first, "renewed before it ends"


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def test_half_open_handshakes_end(serve_api: ServeApi) -> None:
    found = serve_api(tls_self_signed=True, header_timeout_s=1.0)
    with ExitStack() as stack:
        sockets = [stack.enter_context(connected(found)) for _ in range(50)]
        assert _shown(found)
        for sock in sockets:
            sock.settimeout(20)
            try:
                assert sock.recv(100) == b""
            except ConnectionError:
                continue


def test_files_that_are_none(tmp_path: Path, authority: Authority) -> None:
    broken, other = tmp_path / "broken.pem", tmp_path / "other.pem"
    broken.write_text("no")
    other.write_text(self_signed(["other"]))
    good = authority.identity("localhost").pem
    for cert, key in ((broken, broken), (tmp_path / "absent", good), (good, other)):
        with pytest.raises(UsageError) as caught, served(tmp_path, tls_cert=cert, tls_key=key):
            pass
        assert caught.value.code == "tls_files"


def test_a_public_address_with_tls_serves(tmp_path: Path) -> None:
    with served(tmp_path, addr="0.0.0.0:0", tls_self_signed=True) as found, httpx.Client(verify=False) as client:
        url = f"https://127.0.0.1:{found.port}/health"
        assert client.get(url, headers={"Host": "exports.example.com"}).status_code == 200
        assert client.get(f"https://127.0.0.1:{found.port}/status").status_code == 401


def test_localhost_is_both_loopback_addresses(tmp_path: Path) -> None:
    with served(tmp_path, addr="localhost:0") as found:
        ports = {sock.getsockname()[1] for sock in found.server.sockets}
        assert len(ports) == 1
        for sock in found.server.sockets:
            with socket.create_connection(sock.getsockname()[:2], 10) as each:
                each.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert b"healthy" in _answer(each)


def test_an_address_in_use(tmp_path: Path, serve_api: ServeApi) -> None:
    found = serve_api()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ListenError) as caught, served(other, addr=f"127.0.0.1:{found.port}"):
        pass
    assert (caught.value.code, caught.value.exit_status) == ("address_taken", 12)


def test_an_address_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        with pytest.raises(ListenError) as caught, served(tmp_path, addr="192.0.2.1:0", tls_self_signed=True):
            pass
        assert (caught.value.code, caught.value.exit_status) == ("address_absent", 12)

    absent()
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror(-2, "Name or service not known")))
    absent()


# Ending


def test_what_was_asked_is_answered_before_it_ends(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def add(app: FastAPI) -> None:
        router = APIRouter(dependencies=[Depends(viewer)])

        @router.get("/wait")
        def wait() -> str:
            begun.set()
            go.wait(20)
            return "done"

        app.include_router(router)

    answers: list[httpx.Response] = []
    with served(tmp_path, change=add) as found:

        def ask() -> None:
            with found.client(found.admin) as client:
                answers.append(client.get("/wait"))

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(20)
        found.server.stop()
        time.sleep(0.5)
        with pytest.raises(OSError):
            connected(found).close()
        go.set()
        asking.join(20)
    assert answers[0].json() == "done"


PROGRAM = """
import os, sys
from pathlib import Path
from hypersdk.api.process import run_api
from hypersdk.jobs.settings import load_settings

folder, tls = map(Path, sys.argv[1:])
overrides = {"state_dir": folder, "export_roots": [str(folder)], "tls_cert": tls, "tls_key": tls}
settings = load_settings(os.environ, None, {"addr": "127.0.0.1:0", **overrides})
run_api(settings, os.environ, lambda server: print(server.url, flush=True))
print("ended", flush=True)
"""


@pytest.mark.slow
def test_signals_of_a_real_process(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.identity("localhost", "127.0.0.1"), authority.identity("localhost", "127.0.0.1")
    live = tmp_path / "live.pem"
    live.write_bytes(first.pem.read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "state", live],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("https://127.0.0.1:"), process.stderr.read() if process.stderr else ""
        port = int(url.rpartition(":")[2])
        with httpx.Client(base_url=url, verify=False) as client:
            assert client.get("/health").status_code == 200
            live.write_bytes(second.pem.read_bytes())
            os.kill(process.pid, signal.SIGHUP)
            eventually(lambda: ssl.get_server_certificate(("127.0.0.1", port)) == ssl.DER_cert_to_PEM_cert(second.der))
            assert client.get("/health").status_code == 200
            os.kill(process.pid, signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert out.strip() == "ended"
        assert process.returncode == 0
        token = (tmp_path / "state" / "admin.token").read_text().strip()
        assert token not in err
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _answer(sock: socket.socket) -> bytes:
    """What comes until nothing does for a moment."""
    data = b""
    sock.settimeout(5)
    try:
        while part := sock.recv(65536):
            data += part
            sock.settimeout(0.3)
    except (TimeoutError, ConnectionError):
        return data
    return data
