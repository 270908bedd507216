"""Clients that are broken or hostile: none of them hangs the simulator, brings it down or keeps others from it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.simulator import MachineSpec, Simulator
from hypersdk.simulator import httpd as httpd_module
from hypersdk.simulator.decode import MAX_REQUEST_BYTES
from tests.support.seeds import examples
from tests.support.simulatorclients import call, get, raw, read_to_end, request, simulated, soap, soap_login
from tests.support.waiting import eventually

POST = b"POST /sdk HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with simulated(machines=(MachineSpec("vm"),)) as running:
        yield running


@pytest.fixture(autouse=True)
def still_answers(server: Simulator) -> Iterator[None]:
    yield
    began = time.monotonic()
    assert b"<apiType>" in soap(server, call("ServiceInstance", "ServiceInstance", "RetrieveServiceContent")).body
    assert get(server, "/sdk/vimServiceVersions.xml").status == 200
    assert time.monotonic() - began < 60


def answer(server: Simulator, sent: bytes) -> bytes:
    """Status line of what comes back for these bytes; empty when the connection is just closed."""
    with raw(server) as connection:
        connection.sendall(sent)
        return read_to_end(connection).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\0\x01\x02\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"BREW /sdk HTTP/1.1\r\n\r\n", b"501"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET http://[x HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (POST + b"Content-Length: x\r\n\r\n", b"400"),
        (POST + b"Content-Length: -1\r\n\r\n", b"400"),
        (POST + b"Content-Length: 999999999999\r\n\r\n", b"413"),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 1000, b"400"),
        (b"PUT /folder/x?dsName=iso-library HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"401"),
        (b"PUT /elsewhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"404"),
        (b"GET /folder/x HTTP/1.1\r\nAuthorization: Basic \xff\xfe\r\n\r\n", b"401"),
        (b"GET /folder/x HTTP/1.1\r\nAuthorization: Basic ////\r\n\r\n", b"401"),
        (b"GET /nfc/x/y HTTP/1.1\r\n\r\n", b"404"),
    ],
)
def test_bad_requests_are_refused(server: Simulator, sent: bytes, status: bytes) -> None:
    assert answer(server, sent).split(b" ")[1:2] == [status]


@examples(50)
@given(st.binary(max_size=300))
def test_any_bytes(server: Simulator, sent: bytes) -> None:
    with raw(server) as connection:
        connection.sendall(sent)


def test_a_refusal_can_be_read_though_the_body_was_not(server: Simulator) -> None:
    assert request(server, "PUT", "/folder/x?dsName=iso-library", body=b"x" * 4_000_000).status == 401
    assert request(server, "POST", "/nowhere", body=b"x" * 4_000_000).status == 404


def test_chunked_bodies_are_read(server: Simulator) -> None:
    body = (
        b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
        + call("ServiceInstance", "ServiceInstance", "RetrieveServiceContent").encode()
        + b"</e:Body></e:Envelope>"
    )
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    with raw(server) as connection:
        connection.sendall(
            POST + b"Connection: close\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunks + b"0\r\nA: b\r\n\r\n"
        )
        got = read_to_end(connection)
    assert got.startswith(b"HTTP/1.1 200")
    assert b"rootFolder" in got


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "'
    + "a" * 1000
    + '">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + ']><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><x'
    ' a="{attribute}">{text}</x></e:Body></e:Envelope>'
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<",
        b"not xml",
        b"<a/>",
        b"\xff\xfe\0",
        b"<a>" * 100_000,
        BOMB.replace("{attribute}", "").replace("{text}", "&j;").encode(),
        BOMB.replace("{attribute}", "&j;").replace("{text}", "").encode(),
        (
            b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><e:Envelope'
            b' xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><x/></e:Body></e:Envelope>'
        ),
        b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body/></e:Envelope>',
    ],
)
def test_bad_xml_is_a_fault_at_once(server: Simulator, body: bytes) -> None:
    began = time.monotonic()
    got = request(server, "POST", "/sdk", body=body)
    assert got.status == 500
    assert b"InvalidRequestFault" in got.body
    assert len(got.body) < 5000
    assert time.monotonic() - began < 60


def test_a_body_at_the_limit_is_read_and_behind_it_is_not(server: Simulator) -> None:
    assert request(server, "POST", "/sdk", body=b" " * MAX_REQUEST_BYTES).status == 500
    assert request(server, "POST", "/sdk", body=b" " * (MAX_REQUEST_BYTES + 1)).status == 413


@pytest.mark.parametrize(
    "inner",
    [
        call("ServiceInstance", "ServiceInstance", "Nothing"),
        '<CurrentTime xmlns="urn:vim25"/>',
        call("Folder", "nope", "CurrentTime"),
        call("PropertyCollector", "propertyCollector", "RetrievePropertiesEx", "<unknown/>"),
        call("PropertyCollector", "propertyCollector", "RetrievePropertiesEx"),
        call("PropertyCollector", "propertyCollector", "ContinueRetrievePropertiesEx", "<token>x</token>"),
        call("PropertyCollector", "propertyCollector", "WaitForUpdatesEx", "<version>77</version>"),
        call(
            "PropertyCollector",
            "propertyCollector",
            "CreateFilter",
            '<spec xsi:type="Bogus"/><partialUpdates>x</partialUpdates>',
        ),
        call(
            "ViewManager",
            "ViewManager",
            "CreateContainerView",
            '<container type="Folder">nope</container><recursive>true</recursive>',
        ),
        call(
            "SearchIndex",
            "SearchIndex",
            "FindByDatastorePath",
            '<datacenter type="Datacenter">x</datacenter><path>no</path>',
        ),
    ],
)
def test_bad_calls_are_faults(server: Simulator, inner: str) -> None:
    got = soap(server, inner, soap_login(server))
    assert got.status == 500
    assert b"<faultcode>ServerFaultCode</faultcode>" in got.body
    assert b"SystemErrorFault" not in got.body


def test_long_lists_and_many_selections_take_no_time(server: Simulator) -> None:
    cookie = soap_login(server)
    began = time.monotonic()
    many = "".join(f'<obj type="VirtualMachine">vm-{n}</obj>' for n in range(100_000))
    assert soap(server, call("ViewManager", "ViewManager", "CreateListView", many), cookie).status == 200
    steps = '<selectSet xsi:type="SelectionSpec"><name>s</name></selectSet>' * 2000
    spec = (
        '<specSet><propSet><type>Folder</type></propSet><objectSet><obj type="Folder">group-d1</obj><selectSet'
        ' xsi:type="TraversalSpec">'
        f"<name>s</name><type>Folder</type><path>childEntity</path>{steps}</selectSet></objectSet></specSet><options/>"
    )
    got = soap(server, call("PropertyCollector", "propertyCollector", "RetrievePropertiesEx", spec), cookie)
    assert b"more than 1000 selections" in got.body
    assert time.monotonic() - began < 60


def test_slow_clients_are_hung_up_on(server: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd_module, "IDLE_S", 0.5)
    monkeypatch.setattr(httpd_module, "HANDSHAKE_S", 0.5)
    with raw(server) as header, raw(server) as body, socket.create_connection((server.host, server.port)) as silent:
        header.sendall(b"GET / HTTP/1.1\r\n")
        body.sendall(POST + b"Content-Length: 100000\r\n\r\n")
        ended = time.monotonic() + 10
        with pytest.raises(OSError):  # noqa: PT012 - byte by byte, until it is over
            while time.monotonic() < ended:
                header.sendall(b"A")
                body.sendall(b"<")
                time.sleep(0.05)
        silent.settimeout(10)
        assert silent.recv(1) == b""
        assert time.monotonic() < ended


def test_an_idle_connection_lives_on_between_requests(server: Simulator) -> None:
    with raw(server) as connection:
        for pause_s in (0, 1.3):  # longer than the time between two checks of the server
            time.sleep(pause_s)
            connection.sendall(b"GET /sdk/vimServiceVersions.xml HTTP/1.1\r\nHost: x\r\n\r\n")
            got = b""
            while b"</namespaces>" not in got:
                got += connection.recv(65536)
            assert got.startswith(b"HTTP/1.1 200")


def test_it_stops_at_once_whatever_clients_do() -> None:
    before = set(threading.enumerate())
    with simulated(machines=(MachineSpec("vm"),)) as running, ThreadPoolExecutor(1) as pool:
        cookie = soap_login(running)
        with socket.create_connection((running.host, running.port)), raw(running) as half:
            half.sendall(b"GET / HT")
            wait = call("PropertyCollector", "propertyCollector", "WaitForUpdatesEx")
            waiting = pool.submit(soap, running, wait, cookie)
            eventually(lambda: running.counters.calls["WaitForUpdatesEx"] == 1)
            began = time.monotonic()
            running.stop()
            assert time.monotonic() - began < httpd_module.IDLE_S / 2, "it waited for its clients"
            assert waiting.exception(5) is not None or b"RequestCanceled" in waiting.result().body
        running.stop()  # once more does nothing
    assert set(threading.enumerate()) <= before
