"""One request: retries that do nothing twice, answers that are bounded, certificates."""

from __future__ import annotations

import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.client import Client, DaemonError
from hypersdk.client import transport as module
from hypersdk.client.address import AddressOptions, find_target
from hypersdk.client.errors import DaemonUnavailable
from hypersdk.client.transport import Transport
from hypersdk.errors import (
    AccessError,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    Refused,
    SourceError,
    TransientError,
    UsageError,
)
from tests.support.apiserver import running_api

Play = Callable[[socket.socket, bytes], None]


def answer(status: str, body: object = None, *headers: str) -> Play:
    data = b"" if body is None else json.dumps(body).encode()

    def play(sock: socket.socket, _request: bytes) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers])
        sock.sendall(head.encode() + b"\r\n\r\n" + data)

    return play


def hang_up(sock: socket.socket, _request: bytes) -> None:
    """Reads the request and goes: nobody knows whether it was done."""


@contextmanager
def playing(*plays: Play) -> Iterator[tuple[str, list[bytes]]]:
    """A server that plays one part for each connection; its address, and the requests that came."""
    requests: list[bytes] = []

    def serve() -> None:
        for play in plays:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(10)
                requests.append(_whole(sock))
                play(sock, requests[-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _whole(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    length = re.search(rb"content-length: (\d+)", data, re.IGNORECASE)
    wanted = data.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
    while len(data) < wanted:
        data += sock.recv(65536)
    return data


@contextmanager
def transport(url: str, slept: list[float] | None = None, timeout_s: float = 10) -> Iterator[Transport]:
    found = Transport(
        find_target(AddressOptions(url), {"HOME": "/nonexistent"}),
        timeout_s,
        sleep=([] if slept is None else slept).append,
    )
    try:
        yield found
    finally:
        found.close()


def keys(requests: Sequence[bytes]) -> set[bytes]:
    return {re.search(rb"idempotency-key: (\w+)", one, re.IGNORECASE)[1] for one in requests}  # type: ignore[index]


def test_a_write_whose_connection_breaks_is_sent_again_with_the_same_key() -> None:
    slept: list[float] = []
    with playing(hang_up, hang_up, answer("201 Created", {"id": 1})) as (url, requests), transport(url, slept) as used:
        assert used.request("POST", "/x", json_body={"a": 1}) == {"id": 1}
        assert used.request is not None
    assert len(requests) == 3
    assert len(keys(requests)) == 1
    assert all(b'{"a":1}' in one for one in requests)
    assert slept == [0.2, 0.4]


def test_two_writes_have_two_keys() -> None:
    done = answer("200 OK", {})
    with playing(done, done) as (url, requests), transport(url) as used:
        used.request("POST", "/x")
        used.request("POST", "/x")
    assert len(keys(requests)) == 2


def test_a_daemon_that_is_not_there_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    slept: list[float] = []
    with transport(f"http://127.0.0.1:{port}", slept) as used, pytest.raises(ConnectError) as raised:
        used.request("GET", "/status")
    assert raised.value.code == "daemon_unreachable"
    assert slept == []


def test_a_connection_that_keeps_breaking_is_given_up() -> None:
    with playing(*[hang_up] * 7) as (url, requests), transport(url) as used, pytest.raises(ConnectError):
        used.request("GET", "/status")
    assert len(requests) == module.RETRIES + 1


def test_a_daemon_that_asks_to_wait_is_obeyed() -> None:
    slept: list[float] = []
    busy = answer("429 Too Many Requests", {"detail": "slow down", "code": "rate_limited"}, "Retry-After: 3")
    with playing(busy, answer("200 OK", {"ok": True})) as (url, _), transport(url, slept) as used:
        assert used.request("GET", "/x") == {"ok": True}
    assert slept == [3.0]


def test_a_daemon_that_still_answers_the_first_request_is_asked_again() -> None:
    slept: list[float] = []
    still = answer("409 Conflict", {"detail": "still being answered", "code": "idempotency_running"}, "Retry-After: 1")
    with playing(still, answer("200 OK", {"ok": True})) as (url, _), transport(url, slept) as used:
        assert used.request("POST", "/x") == {"ok": True}
    assert slept == [1.0]


def test_one_that_asks_to_wait_for_very_long_is_told() -> None:
    busy = answer("429 Too Many Requests", {"detail": "slow down", "code": "rate_limited"}, "Retry-After: 3600")
    with playing(busy) as (url, _), transport(url) as used, pytest.raises(TransientError) as raised:
        used.request("GET", "/x")
    assert raised.value.code == "rate_limited"
    assert raised.value.message == "slow down"


def test_an_answer_that_takes_too_long_is_no_lost_connection() -> None:
    release = threading.Event()

    def wait(_sock: socket.socket, _request: bytes) -> None:
        release.wait(20)

    with playing(wait) as (url, requests), transport(url, timeout_s=0.3) as used:
        with pytest.raises(ConnectError) as raised:
            used.request("POST", "/x")
        release.set()
    assert raised.value.code == "daemon_timeout"
    assert len(requests) == 1


@pytest.mark.parametrize("value", ["S3CR3T\n", "S3CR3Tä", "S3CR3T\udce4"])
def test_a_header_that_cannot_be_sent_is_told_at_once_without_its_text(value: str) -> None:
    slept: list[float] = []
    with playing() as (url, _), transport(url, slept) as used:
        with pytest.raises(UsageError) as raised:
            used.request("GET", "/x", headers={"Authorization": value})
        with pytest.raises(UsageError), used.stream("/x", params={}, headers={"Authorization": value}):
            pass
    assert "S3CR3T" not in str(raised.value.as_dict()) + "".join(traceback.format_exception(raised.value))
    assert slept == []


@pytest.mark.parametrize("path", ["/" + "x" * 70_000, "/a\x01", "/\udce4"])
def test_a_path_that_no_url_can_hold_is_told_at_once(path: str) -> None:
    with transport("http://127.0.0.1:1") as used, pytest.raises(UsageError):
        used.request("GET", path)


@pytest.mark.parametrize("url", ["http://\u00e4..x", "http://ho\x7fst"])
def test_an_address_that_is_no_url_is_told(url: str) -> None:
    with pytest.raises(UsageError) as raised, transport(url):
        pass
    assert raised.value.code == "daemon_address"


def test_an_answer_that_is_packed_wrongly_is_told_at_once() -> None:
    slept: list[float] = []
    broken = answer("200 OK", "no gzip", "Content-Encoding: gzip")
    with playing(broken) as (url, _), transport(url, slept) as used, pytest.raises(ConnectError) as raised:
        used.request("GET", "/x")
    assert raised.value.code == "answer_unreadable"
    assert slept == []


def test_a_wait_that_was_asked_for_does_not_count_as_a_slow_answer() -> None:
    def wait(sock: socket.socket, request: bytes) -> None:
        threading.Event().wait(0.6)
        answer("200 OK", {"ok": True})(sock, request)

    with playing(wait) as (url, _), transport(url, timeout_s=0.3) as used:
        assert used.request("GET", "/x", timeout_s=10.5) == {"ok": True}


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1 << 20)

    def flood(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        try:
            while True:
                sock.sendall(b"x" * 65536)
        except OSError:
            return

    with playing(flood) as (url, _), transport(url) as used, pytest.raises(DaemonError) as raised:
        used.request("GET", "/x")
    assert raised.value.code == "answer_unreadable"


def test_what_is_no_daemon_is_told_as_such() -> None:
    with playing(answer("200 OK")) as (url, _), transport(url) as used, pytest.raises(DaemonError) as raised:
        used.request("GET", "/status")
    assert raised.value.code == "answer_unreadable"


@pytest.mark.parametrize(
    ("status", "document", "family", "code"),
    [
        (
            "400 Bad Request",
            {"detail": "d", "code": "job_unreadable", "cause": "c", "next_step": "n"},
            UsageError,
            "job_unreadable",
        ),
        (
            "401 Unauthorized",
            {"error": "no", "code": "unauthenticated", "timestamp": "t"},
            AccessError,
            "unauthenticated",
        ),
        ("403 Forbidden", None, AccessError, "forbidden"),
        ("404 Not Found", {"detail": "d", "code": "job_unknown"}, LookupFailed, "job_unknown"),
        ("409 Conflict", {"detail": "d", "code": "code_of_a_newer_daemon"}, Refused, "code_of_a_newer_daemon"),
        ("409 Conflict", {"detail": "d", "code": "x", "exit_status": 3}, ConnectError, "x"),
        ("500 Internal Server Error", "no object", DaemonError, "daemon_failed"),
        ("599 Strange", None, DaemonError, "daemon_failed"),
        ("502 Bad Gateway", None, DaemonError, "daemon_failed"),
        ("502 Bad Gateway", {"error": "e", "code": "x"}, SourceError, "x"),
        (
            "503 Service Unavailable",
            {"detail": "d", "code": "database_down", "exit_status": 12},
            DaemonUnavailable,
            "database_down",
        ),
        ("503 Service Unavailable", {"error": "e", "code": "database_down"}, DaemonUnavailable, "database_down"),
        ("504 Gateway Timeout", {"detail": "d", "code": "x", "exit_status": 12}, DaemonUnavailable, "x"),
        ("409 Conflict", {"detail": "d", "code": "x", "exit_status": 13}, DaemonError, "x"),
        (
            "429 Too Many Requests",
            {"detail": "d", "code": "login_locked", "exit_status": 4},
            TransientError,
            "login_locked",
        ),
        ("302 Found", None, UsageError, "usage"),
    ],
)
def test_an_answer_that_says_no_is_an_error_of_its_family(
    status: str, document: object, family: type[HyperSDKError], code: str
) -> None:
    with playing(answer(status, document)) as (url, _), transport(url) as used, pytest.raises(family) as raised:
        used.request("GET", "/x")
    assert type(raised.value) is family
    assert raised.value.code == code
    assert raised.value.fields["http_status"] == int(status[:3])
    if isinstance(document, dict) and "cause" in document:
        assert (raised.value.message, raised.value.cause, next_step(raised.value)) == ("d", "c", "n")


def test_a_certificate_is_shown_pinned_and_held_to(tmp_path: Path) -> None:
    with running_api(tmp_path, tls_self_signed=True) as api:
        token = api.tokens["viewer"]
        with Client(api.url, token=token, environ={}) as client, pytest.raises(ConnectError) as raised:
            client.status()
        assert raised.value.code == "certificate_unknown"
        assert "endpoints add" not in next_step(raised.value), "it is the daemon's own certificate"
        shown = str(raised.value.fields["sha256"])
        with Client(api.url, token=token, thumbprint=shown, environ={}) as client:
            assert client.status().total_jobs == 0
        with Client(api.url, token=token, insecure=True, environ={}) as client:
            assert client.health()["status"] == "healthy"
        with (
            Client(api.url, token=token, thumbprint="ab" * 32, environ={}) as client,
            pytest.raises(ConnectError) as raised,
        ):
            client.status()
        assert raised.value.code == "certificate_changed"
