"""A server that means harm, at every call of a login and of a list: bombs, answers without an end, faults under another
status.

Each attack is met by a process of its own with 1 GB of address space. It has to end by itself, in bounded time, with an
error that has a code.
"""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.support.soapresponses import CONTENT, ENVELOPE, LOGIN, LOGOUT, OBJECT, VERSIONS
from tests.support.tls import Identity
from tests.support.tlsserver import TlsServer, answering, http_answer

ADDRESS_SPACE_BYTES: Final = 1_000_000_000
PATIENCE_S: Final = 60
STAGES: Final = ("versions", "content", "login", "view", "list")

CLIENT = """
import json, resource, sys, time
from hypersdk.errors import HyperSDKError
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from hypersdk.net.certificate import TlsPolicy
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.inventory import list_machines
from hypersdk.vsphere.session import Session
import hypersdk.vsphere.stub
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
for port in sys.argv[2:]:
    began, told = time.monotonic(), "it worked"
    try:
        endpoint = Endpoint("127.0.0.1", int(port), "user", Secret("s3cret"), TlsPolicy(insecure=True))
        with Session.connect(endpoint, cancel=CancelToken()) as session:
            list_machines(session, cancel=CancelToken())
    except HyperSDKError as error:
        told = error.code
    except BaseException as error:
        told = f"internal error: {error!r:.300}"
    print(json.dumps([told, time.monotonic() - began]), flush=True)
"""


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


def envelope(start: str) -> bytes:
    return ENVELOPE.partition("{}")[0].encode() + start.encode()


def without_end(start: bytes, piece: bytes) -> Iterator[bytes]:
    yield head("Connection: keep-alive") + start
    yield from itertools.repeat(piece * (65536 // len(piece)))


def in_zlib() -> Iterator[bytes]:
    bomb = gzip.compress(envelope("<x>") + bytes([120]) * 300_000_000, 9)
    yield head("Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + bomb


def with_entities() -> Iterator[bytes]:
    lines = [f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12)]
    text = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "xxxxxxxxxx">{"".join(lines)}]><x>&e12;</x>'
    yield http_answer(text.encode())


def head_without_end() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in itertools.count():
        yield b"X-%d: %s\r\n" % (number, b"x" * 60000)


def interim_without_end() -> Iterator[bytes]:
    yield from itertools.repeat(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1000)


def chunks_without_end() -> Iterator[bytes]:
    yield head("Transfer-Encoding: chunked")
    yield from itertools.repeat(b"1;x=y\r\n<\r\n" * 5000)


def many_objects() -> Iterator[bytes]:
    start = '<RetrievePropertiesExResponse xmlns="urn:vim25"><returnval>'
    return without_end(envelope(start), OBJECT.format("x").encode())


def fault_under_200(kind: str) -> Iterator[bytes]:
    detail = f'<detail><{kind}Fault xmlns="urn:vim25" xsi:type="{kind}"/></detail>'
    text = f"<e:Fault><faultcode>ServerFaultCode</faultcode><faultstring>said</faultstring>{detail}</e:Fault>"
    yield http_answer(ENVELOPE.format(text).encode())


def drops() -> Iterator[bytes]:
    yield head("Content-Length: 10000000")
    while True:
        time.sleep(0.5)
        yield b"<"


FAST: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "text": lambda: without_end(envelope("<x>"), b"x"),
    "elements": lambda: without_end(envelope("<x>"), b"<y/>"),
    "attributes": lambda: without_end(envelope("<x"), b' a="b"'),
    "comment": lambda: without_end(envelope("<!-- "), b"x"),
    "depth": lambda: without_end(envelope(""), b"<y>"),
    "objects": many_objects,
    "nothing but white space": lambda: without_end(b"", b" "),
    "zlib": in_zlib,
    "entities": with_entities,
    "head": head_without_end,
    "interim answers": interim_without_end,
    "chunks": chunks_without_end,
    "fault": lambda: fault_under_200("NotSupported"),
    "unknown fault": lambda: fault_under_200("InventedByNoOne"),
    "not authenticated": lambda: fault_under_200("NotAuthenticated"),
    "dynamic properties": lambda: without_end(
        envelope(CONTENT.partition("<about>")[0]), b"<dynamicProperty><name>a</name><val>b</val></dynamicProperty>"
    ),
}


def stage_of(request: bytes) -> str | None:
    marks = {
        "versions": b"vimServiceVersions",
        "content": b"<RetrieveServiceContent",
        "login": b"<Login ",
        "view": b"<CreateContainerView",
        "list": b"RetrievePropertiesEx",
    }
    return next((stage for stage, mark in marks.items() if mark in request), None)


def server(tls_certificate: Identity, attacked: str, attack: Callable[[], Iterator[bytes]]) -> TlsServer:
    """Answers as a vCenter does up to the stage that is attacked."""

    def answer(request: bytes) -> bytes | Iterator[bytes]:
        stage = stage_of(request)
        if stage == attacked:
            return attack()
        if stage == "versions":
            return http_answer(VERSIONS)
        texts = {
            "content": CONTENT.replace(
                "</returnval>", '<viewManager type="ViewManager">ViewManager</viewManager></returnval>'
            ),
            "login": LOGIN.format(1),
            "view": (
                '<CreateContainerViewResponse xmlns="urn:vim25"><returnval'
                ' type="ContainerView">v</returnval></CreateContainerViewResponse>'
            ),
        }
        cookie = ['Set-Cookie: vmware_soap_session="c"; Path=/'] if stage == "login" else []
        return http_answer(ENVELOPE.format(texts.get(stage or "", LOGOUT)).encode(), "200 OK", *cookie)

    return TlsServer(tls_certificate, answering(answer))


def met_by_a_client(ports: list[int]) -> list[tuple[str, float]]:
    """How the client fared at each of the servers: the code of its error, and how long it took."""
    command = [sys.executable, "-c", CLIENT, str(ADDRESS_SPACE_BYTES), *map(str, ports)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * len(ports), check=False)
    assert "s3cret" not in ended.stdout + ended.stderr
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(told) == len(ports), f"it died at attack {len(told)}: {ended.stderr[-2000:]}"
    return [(code, seconds) for code, seconds in told]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_no_answer_takes_more_memory_or_time_than_an_answer_may(tls_certificate: Identity, stage: str) -> None:
    servers = {name: server(tls_certificate, stage, attack) for name, attack in FAST.items()}
    for one in servers.values():
        one.__enter__()
    try:
        fared = dict(zip(servers, met_by_a_client([one.port for one in servers.values()]), strict=True))
    finally:
        for one in servers.values():
            one.__exit__(None, None, None)
    print(stage, fared)
    wrong = {name: told for name, told in fared.items() if told[0].startswith("i") or told[1] > PATIENCE_S}
    assert not wrong
    if stage not in ("versions", "content"):
        assert fared["fault"][0] == "not_supported", "a fault is told as itself, whatever its status"


@pytest.mark.slow
@pytest.mark.waits
def test_a_byte_now_and_then_keeps_nobody(tls_certificate: Identity) -> None:
    """At all stages at once: each client waits for its own answer."""
    with ThreadPoolExecutor(len(STAGES)) as pool:
        servers = [server(tls_certificate, stage, drops) for stage in STAGES]
        for one in servers:
            one.__enter__()
        try:
            fared = list(pool.map(lambda one: met_by_a_client([one.port])[0], servers))
        finally:
            for one in servers:
                one.__exit__(None, None, None)
    assert [code for code, _ in fared] == ["connect_timeout"] * len(STAGES)
    assert max(seconds for _, seconds in fared) < PATIENCE_S


def test_the_client_meets_an_honest_server(tls_certificate: Identity, tmp_path: Path) -> None:
    """The control: without an attack the same client works, so that what the attacks meet is the real thing."""
    with server(
        tls_certificate,
        "list",
        lambda: iter(
            [
                http_answer(
                    ENVELOPE.format(
                        '<RetrievePropertiesExResponse xmlns="urn:vim25"><returnval/></RetrievePropertiesExResponse>'
                    ).encode()
                )
            ]
        ),
    ) as honest:
        assert met_by_a_client([honest.port])[0][0] == "it worked"
