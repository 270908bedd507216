"""The data plane's HTTP client against real TLS servers that behave badly."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import Cancelled, ConnectError, HyperSDKError, SourceError, TransientError
from hypersdk.net.certificate import TlsPolicy
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.http import DataConnection, HttpBody, SessionCookie, open_get, split_url
from tests.support.seeds import examples
from tests.support.tls import Identity
from tests.support.tlsserver import Exchange, Request, Script, TlsServer
from tests.support.waiting import AT_ONCE_S

Starter = Callable[[Script], TlsServer]

DATA = random.Random(7).randbytes(3 * MiB + 4321)


def get(server: TlsServer, **options: object) -> HttpBody:
    settings = {"cancel": CancelToken(), "stall_timeout_s": 5.0, "connect_timeout_s": 5.0, **options}
    return open_get(server.url(), server.endpoint(), **settings)  # type: ignore[arg-type]


def read_all(body: HttpBody, size: int = 256 * KiB) -> bytes:
    buffer, pieces = memoryview(bytearray(size)), []
    with body:
        while count := body.readinto(buffer):
            pieces.append(bytes(buffer[:count]))
        assert body.readinto(buffer) == 0  # the end stays the end
    return b"".join(pieces)


def failure(action: Callable[[], object]) -> HyperSDKError:
    with pytest.raises(HyperSDKError) as caught:
        action()
    return caught.value


def counted(data: bytes, announced: int | None = None) -> Script:
    length = len(data) if announced is None else announced
    return lambda exchange, _: exchange.send(f"HTTP/1.1 200 OK\nContent-Length: {length}\n\n", data)


def chunks(data: bytes, sizes: list[int]) -> bytes:
    """``data`` in chunks of the given sizes, over and over."""
    out, at, turn = [], 0, 0
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at, turn = at + len(piece), turn + 1
    return b"".join(out)


def chunked(*parts: bytes) -> Script:
    return lambda exchange, _: exchange.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", *parts)


def then_hang_up(script: Script) -> Script:
    """``script``, and the connection ends properly behind it."""

    def run(exchange: Exchange, request: Request) -> None:
        script(exchange, request)
        exchange.end_tls()

    return run


@pytest.mark.parametrize("size", [512, 65536, 1 * MiB, 4 * MiB])
def test_a_counted_body_arrives_whole(tls_server: Starter, size: int) -> None:
    body = get(tls_server(counted(DATA)))
    assert body.length_bytes == len(DATA)
    assert hashlib.sha256(read_all(body, size)).digest() == hashlib.sha256(DATA).digest()


@pytest.mark.parametrize("sizes", [[32768], [1, 70000, 3, 16384, 16383, 4096], [len(DATA)], [100_001]])
def test_a_chunked_body_arrives_whole(tls_server: Starter, sizes: list[int]) -> None:
    body = get(tls_server(chunked(chunks(DATA, sizes), b"0;last\r\nX-Trailer: 1\r\n\r\n")))
    assert body.length_bytes is None
    assert read_all(body, 100_000) == DATA


@pytest.fixture(scope="module")
def random_server(tls_certificate: Identity) -> Iterator[TlsServer]:
    """Answers ``/SEED/CUT``: some of DATA in chunks, sent in pieces, both as the seed has it; cut off so many bytes
    before its end."""

    def script(exchange: Exchange, request: Request) -> None:
        seed, missing = (int(part) for part in request.target.strip("/").split("/"))
        rng = random.Random(seed)
        sizes = [
            rng.choice([1, 100, 4090, 16384, 32768, 100_000]) + rng.randrange(3) for _ in range(rng.randint(1, 40))
        ]
        text = chunks(DATA[: rng.randrange(400_000)], [*sizes, 30_000])
        text += rng.choice([b"0\r\n\r\n", b"0;last\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n"])
        text = text[: max(len(text) - missing, 0)]
        exchange.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")
        while text:
            size = rng.choice([7, 4096, 16384, 50_000])
            exchange.send(text[:size])
            text = text[size:]
        exchange.end_tls()
        exchange.hang_up()

    with TlsServer(tls_certificate, script) as server:
        yield server


def read_by_http_client(server: TlsServer, target: str) -> bytes:
    """The body as the standard library reads it; the part that came where it is cut off."""
    context = ssl._create_unverified_context()
    with closing(http.client.HTTPSConnection(server.host, server.port, context=context, timeout=10)) as oracle:
        oracle.request("GET", target)
        try:
            return oracle.getresponse().read()
        except http.client.IncompleteRead as error:
            return error.partial


@examples(40)
@given(seed=st.integers(0, 1 << 32), missing=st.sampled_from([0, 0, 1, 2, 5, 30_000]), size=st.integers(1000, 1 << 20))
def test_chunks_are_read_as_http_client_reads_them(
    random_server: TlsServer, seed: int, missing: int, size: int
) -> None:
    target = f"/{seed}/{missing}"
    body = open_get(random_server.url(target), random_server.endpoint(), cancel=CancelToken())
    if missing:
        assert failure(lambda: read_all(body, size)).code == "short_body"
    else:
        assert read_all(body, size) == read_by_http_client(random_server, target)


def test_chunks_overrule_a_length(tls_server: Starter) -> None:
    head = "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n"
    body = get(tls_server(lambda exchange, _: exchange.send(head, chunks(DATA[:9000], [800]), b"0\r\n\r\n")))
    assert body.length_bytes is None
    assert read_all(body) == DATA[:9000]


@pytest.mark.parametrize(
    "script",
    [
        counted(DATA, len(DATA) + 1),
        counted(b"", 1),
        chunked(chunks(DATA, [32768])),
        chunked(chunks(DATA, [32768])[:-700]),
        chunked(chunks(DATA, [32768]), b"0"),
        chunked(chunks(DATA, [32768]), b"0\r\n"),
    ],
    ids=["counted", "nothing", "no last chunk", "inside a chunk", "inside the last line", "no end of trailers"],
)
def test_a_short_body_is_an_error_never_an_end(tls_server: Starter, script: Script) -> None:
    error = failure(lambda: read_all(get(tls_server(then_hang_up(script)))))
    assert isinstance(error, TransientError)
    assert error.code == "short_body"


def test_a_body_without_a_length_ends_with_close_notify_only(tls_server: Starter) -> None:
    def bare(exchange: Exchange, _: Request) -> None:
        exchange.send("HTTP/1.1 200 OK\n\n", DATA)

    assert read_all(get(tls_server(then_hang_up(bare)))) == DATA

    def dropped(exchange: Exchange, request: Request) -> None:
        bare(exchange, request)
        exchange.sock.shutdown(2)

    assert failure(lambda: read_all(get(tls_server(dropped)))).code == "connection_reset"


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_a_reset_is_transient(tls_server: Starter, after: int) -> None:
    def script(exchange: Exchange, _: Request) -> None:
        exchange.send(f"HTTP/1.1 200 OK\nContent-Length: {len(DATA)}\n\n", DATA[:after])
        exchange.pause(0.2)  # a reset overtakes what lies in the buffers
        exchange.reset()

    error = failure(lambda: read_all(get(tls_server(script))))
    assert isinstance(error, TransientError)
    assert error.code == "connection_reset"


def test_hanging_up_before_the_answer_is_transient(tls_server: Starter) -> None:
    assert failure(lambda: get(tls_server(lambda exchange, _: exchange.end_tls()))).code == "connection_reset"


def test_a_stall_ends_the_stream(tls_server: Starter) -> None:
    def script(exchange: Exchange, _: Request) -> None:
        exchange.send(f"HTTP/1.1 200 OK\nContent-Length: {len(DATA)}\n\n", DATA[:5000])
        exchange.pause(30)

    started = time.monotonic()
    error = failure(lambda: read_all(get(tls_server(script), stall_timeout_s=1.0)))
    assert isinstance(error, TransientError)
    assert error.code == "stream_stalled"
    assert 1.0 <= time.monotonic() - started < AT_ONCE_S


def test_no_answer_is_a_stall_too(tls_server: Starter) -> None:
    error = failure(lambda: get(tls_server(lambda exchange, _: exchange.pause(30)), stall_timeout_s=0.6))
    assert error.code == "stream_stalled"


def test_a_slow_stream_is_not_a_stalled_one(tls_server: Starter) -> None:
    """Twelve drops with 0.2 s between them take far longer than the stall time-out of 0.6 s."""

    def script(exchange: Exchange, _: Request) -> None:
        exchange.send("HTTP/1.1 200 OK\nContent-Length: 12\n\n")
        for drop in b"HYPERSDK-SLO":
            exchange.pause(0.2)
            exchange.send(bytes([drop]))

    body, counts = get(tls_server(script), stall_timeout_s=0.6), []
    buffer = memoryview(bytearray(4 * MiB))
    with body:
        while count := body.readinto(buffer):
            counts.append(count)
    assert sum(counts) == 12
    assert len(counts) >= 2, "what came must be handed over while the rest is on its way"


def test_cancel_ends_a_silent_stream_at_once(tls_server: Starter) -> None:
    def script(exchange: Exchange, _: Request) -> None:
        exchange.send("HTTP/1.1 200 OK\nContent-Length: 100\n\n", b"x")
        exchange.pause(30)

    cancel = CancelToken()
    timer = threading.Timer(0.3, cancel.cancel, ["test"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        read_all(get(tls_server(script), cancel=cancel, stall_timeout_s=60.0))
    timer.join()
    assert time.monotonic() - started < AT_ONCE_S


def answer(status: str, *headers: str, body: str = "") -> Script:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return lambda exchange, _: exchange.send("\n".join(lines) + "\n\n", body)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_worth_another_try(tls_server: Starter, status: int) -> None:
    error = failure(lambda: get(tls_server(answer(f"{status} Busy", body="try\x1b[2J later"))))
    assert isinstance(error, TransientError)
    assert (error.code, error.fields["status"]) == ("server_busy", status)
    assert "\x1b" not in error.message


@pytest.mark.parametrize(
    ("value", "expected"), [("7", 7.0), ("99999", 300.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_retry_after_is_told(tls_server: Starter, value: str, expected: float | None) -> None:
    error = failure(lambda: get(tls_server(answer("503 Busy", f"Retry-After: {value}"))))
    assert error.fields["retry_after_s"] == expected


def test_exhausted_nfc_memory_has_its_own_code(tls_server: Starter) -> None:
    error = failure(lambda: get(tls_server(answer("500 No", body="Failed to allocate NFC memory"))))
    assert isinstance(error, TransientError)
    assert error.code == "nfc_exhausted"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 416])
def test_a_refusal_is_final_and_names_its_status(tls_server: Starter, status: int) -> None:
    error = failure(lambda: get(tls_server(answer(f"{status} No"))))
    assert not isinstance(error, TransientError)
    assert (error.code, error.fields["status"]) == ("http_refused", status)


def test_no_redirect_is_followed(tls_server: Starter) -> None:
    elsewhere = tls_server(counted(DATA))
    error = failure(lambda: get(tls_server(answer("302 Found", f"Location: {elsewhere.url()}"))))
    assert error.code == "redirect_refused"
    assert elsewhere.connections == 0


def test_the_cookie_goes_to_the_session_host_only(tls_server: Starter) -> None:
    server = tls_server(counted(b"x"))
    read_all(get(server, cookie=SessionCookie("127.0.0.1", server.port, Secret("hunter2"))))
    read_all(get(server, cookie=SessionCookie("127.0.0.1", server.port + 1, Secret("hunter2"))))
    read_all(get(server, cookie=SessionCookie("vcenter.example.com", server.port, Secret("hunter2"))))
    assert [request.headers.get("cookie") for request in server.requests] == ["vmware_soap_session=hunter2", None, None]


def test_a_wrong_certificate_gets_no_request(tls_server: Starter) -> None:
    server = tls_server(counted(DATA))
    error = failure(lambda: get(server, pin="00" * 20))
    assert isinstance(error, ConnectError)
    assert error.code == "certificate_changed"
    endpoint = dataclasses.replace(server.endpoint(), tls=TlsPolicy())
    error = failure(lambda: open_get(server.url(), endpoint, cancel=CancelToken()))
    assert error.code == "certificate_unknown"
    assert server.requests == []


def test_the_pin_of_a_lease_overrides_the_policy(tls_server: Starter) -> None:
    server = tls_server(counted(b"x"))
    endpoint = dataclasses.replace(server.endpoint(), port=1, tls=TlsPolicy(thumbprint="11" * 32))
    with open_get(server.url(), endpoint, pin=server.certificate.sha1, cancel=CancelToken()) as body:
        assert body.status == 200


def endless(line: bytes, first: str) -> Script:
    def run(exchange: Exchange, _: Request) -> None:
        exchange.send(first)
        while True:
            exchange.send(line * 100)

    return run


@pytest.mark.parametrize(
    "script",
    [
        endless(b"HTTP/1.1 100 Continue\r\n\r\n", ""),
        endless(b"X-Filler: " + b"y" * 100 + b"\r\n", "HTTP/1.1 200 OK\n"),
        endless(b"z" * 1000, "HTTP/1.1 200 OK\nX-Long: "),
        lambda exchange, _: exchange.send("SSH-2.0-OpenSSH_9.2\n\n"),
        lambda exchange, _: exchange.send("HTTP/1.1 200 OK\nContent-Length: -1\n\n"),
        lambda exchange, _: exchange.send("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n\n"),
        lambda exchange, _: exchange.send("HTTP/1.1 200 OK\nContent-Length: 99999999999999999999\n\n"),
        lambda exchange, _: exchange.send("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 5\n\n12345"),
        lambda exchange, _: exchange.send("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n"),
    ],
    ids=["interim", "headers", "header", "ssh", "negative", "two lengths", "huge", "gzip", "gzip chunks"],
)
def test_heads_that_lie_are_refused_in_bounded_time(tls_server: Starter, script: Script) -> None:
    error = failure(lambda: get(tls_server(script)))
    assert isinstance(error, SourceError)
    assert error.code == "bad_reply"


@pytest.mark.parametrize(
    "framing",
    [
        b"5\r\n123456\r\n0\r\n\r\n",
        b"-1\r\n",
        b"0x5\r\n12345\r\n",
        b"\r\n",
        b"fffffffffffffffff\r\n",
        b"5" + b";x" * 1000 + b"\r\n",
    ],
    ids=["longer than said", "negative", "0x", "empty", "17 digits", "endless extension"],
)
def test_chunks_that_lie_are_refused(tls_server: Starter, framing: bytes) -> None:
    error = failure(lambda: read_all(get(tls_server(chunked(framing)))))
    assert error.code == "bad_reply"


def test_endless_trailers_are_refused(tls_server: Starter) -> None:
    head = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\n"
    assert failure(lambda: read_all(get(tls_server(endless(b"X: y\r\n", head))))).code == "bad_reply"


@pytest.mark.parametrize(
    "url",
    [
        "http://esx1.example.com/nfc/1",
        "https:///nfc/1",
        "https://u:p@esx1.example.com/x",
        "https://esx1.example.com:x/",
        "ftp://*/",
    ],
)
def test_urls_that_are_not_plain_https_are_refused(url: str) -> None:
    assert failure(lambda: split_url(url)).code == "bad_reply"


def test_control_characters_do_not_reach_the_request(tls_server: Starter) -> None:
    server = tls_server(counted(b"x"))
    connection = DataConnection(open_connection(server.endpoint()), cancel=CancelToken())
    assert failure(lambda: connection.get("/a b\r\nX: y", cancel=CancelToken())).code == "bad_reply"
    assert server.requests == []


def serve_range(exchange: Exchange, request: Request) -> None:
    first, last = (int(part) for part in request.headers["range"].removeprefix("bytes=").split("-"))
    part = DATA[first : last + 1]
    exchange.send(
        f"HTTP/1.1 206 Partial Content\nContent-Length: {len(part)}\nContent-Range: bytes"
        f" {first}-{last}/{len(DATA)}\n\n",
        part,
    )


def test_one_connection_serves_many_ranges(tls_server: Starter) -> None:
    server = tls_server(serve_range)
    connection = DataConnection(open_connection(server.endpoint()), cancel=CancelToken())
    for offset, length in [(0, 1), (5, 70_000), (len(DATA) - 3, 3)]:
        buffer = memoryview(bytearray(length))
        with connection.get("/x", cancel=CancelToken(), byte_range=range(offset, offset + length)) as body:
            assert body.header("content-range") == f"bytes {offset}-{offset + length - 1}/{len(DATA)}"
            body.fill(buffer)
        assert bytes(buffer) == DATA[offset : offset + length]
        assert connection.alive
    connection.close()
    assert server.connections == 1


def test_a_body_left_half_read_ends_its_connection(tls_server: Starter) -> None:
    server = tls_server(serve_range)
    connection = DataConnection(open_connection(server.endpoint()), cancel=CancelToken())
    with connection.get("/x", cancel=CancelToken(), byte_range=range(100)) as body:
        body.readinto(memoryview(bytearray(50)))
    assert not connection.alive


def test_filling_past_the_end_is_a_short_body(tls_server: Starter) -> None:
    with get(tls_server(counted(b"12345"))) as body:
        assert failure(lambda: body.fill(memoryview(bytearray(6)))).code == "short_body"


def test_a_closed_port_is_a_connect_error(tmp_path: object, tls_server: Starter) -> None:
    server = tls_server(counted(b""))
    endpoint = dataclasses.replace(server.endpoint(), port=1)
    assert isinstance(failure(lambda: open_get("https://127.0.0.1:1/x", endpoint, cancel=CancelToken())), ConnectError)
