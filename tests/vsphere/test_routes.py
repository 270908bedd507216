"""The way of the data: straight from the host, round it, and never past a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hypersdk.errors import ConnectError, SourceError, TransientError
from hypersdk.net.certificate import TlsPolicy
from hypersdk.secret import Secret
from hypersdk.simulator import Fault, FaultKind, MachineSpec, Simulator
from hypersdk.simulator.hosts import Host
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.http import SessionCookie
from hypersdk.vsphere.routes import VIA, Routes
from tests.support.leases import SMALL, Book, lease_on, moref_of, read_all
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.tlsserver import Exchange, Request, Script, TlsServer

BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nKDMV"
ServerFactory = Callable[[Script], TlsServer]


def answer(text: bytes) -> Script:
    def script(exchange: Exchange, _request: Request) -> None:
        exchange.send(text)

    return script


def cookie_of(endpoint: Endpoint) -> SessionCookie:
    return SessionCookie(endpoint.host, endpoint.port, Secret("s3cret"))


def fetch(routes: Routes, endpoint: Endpoint, url: str, pin: str | None = None) -> tuple[bytes, str]:
    """Body and route."""
    buffer = memoryview(bytearray(16))
    with routes.open(url, pin, cookie=cookie_of(endpoint), cancel=CancelToken()) as body:
        return bytes(buffer[: body.readinto(buffer)]), body.route


# The ways there are


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint("vc.example.com", 443, "user", None, TlsPolicy())


def test_ways_of_a_host_behind_vcenter(endpoint: Endpoint) -> None:
    routes = Routes(endpoint, set())
    direct, around = routes.candidates("https://esx1/nfc/1/disk-0.vmdk?a=b", "ab" * 20)
    assert (direct.url, direct.pin, direct.text) == ("https://esx1/nfc/1/disk-0.vmdk?a=b", "ab" * 20, "esx1")
    assert (around.url, around.pin) == ("https://vc.example.com/nfc/1/disk-0.vmdk?a=b", None)
    assert around.text == f"esx1{VIA}vc.example.com"
    assert routes.host_of("https://esx1/nfc/1/disk-0.vmdk") == "esx1"


@pytest.mark.parametrize(
    "url", ["https://*/nfc/1/d.vmdk", "https://VC.example.com/nfc/1/d.vmdk", "https://vc.example.com:443/nfc/1/d.vmdk"]
)
def test_the_server_itself_has_one_way_and_its_own_rules_of_trust(endpoint: Endpoint, url: str) -> None:
    routes = Routes(endpoint, set())
    (route,) = routes.candidates(url, "ab" * 20)
    assert (route.url, route.pin) == ("https://vc.example.com/nfc/1/d.vmdk", None)
    assert routes.host_of(url).lower() == "vc.example.com"


def test_a_star_keeps_the_port_of_the_connection() -> None:
    (route,) = Routes(Endpoint("::1", 8989, "user", None, TlsPolicy()), set()).candidates(
        "https://*/nfc/1/d.vmdk", None
    )
    assert route.url == "https://[::1]:8989/nfc/1/d.vmdk"


@pytest.mark.parametrize(
    "url", ["http://esx1/nfc/1", "https://user@esx1/nfc/1", "ftp://esx1/x", "https://", "https://esx1:99999/x"]
)
def test_urls_that_no_host_has(endpoint: Endpoint, url: str) -> None:
    with pytest.raises(SourceError) as caught:
        Routes(endpoint, set()).candidates(url, None)
    assert caught.value.code == "bad_reply"


# What goes over them


def test_the_cookie_goes_to_the_session_s_host_only(tls_server: ServerFactory) -> None:
    vcenter, esx = tls_server(answer(BODY)), tls_server(answer(BODY))
    endpoint = vcenter.endpoint()
    routes = Routes(endpoint, set())
    assert fetch(routes, endpoint, esx.url(), esx.certificate.sha1) == (b"KDMV", f"127.0.0.1:{esx.port}")
    fetch(routes, endpoint, "https://*/nfc/1/disk-0.vmdk")
    assert "cookie" not in esx.requests[0].headers
    assert vcenter.requests[0].headers["cookie"] == "vmware_soap_session=s3cret"
    assert (len(esx.requests), len(vcenter.requests)) == (1, 1)


def test_no_redirect_is_followed_and_no_way_round_it(tls_server: ServerFactory) -> None:
    vcenter = tls_server(answer(BODY))
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {vcenter.url()}\r\nContent-Length: 0\r\n\r\n"
    esx = tls_server(answer(redirect.encode()))
    with pytest.raises(SourceError) as caught:
        fetch(Routes(vcenter.endpoint(), set()), vcenter.endpoint(), esx.url(), esx.certificate.sha256)
    assert caught.value.code == "redirect_refused"
    assert vcenter.requests == []


def test_a_wrong_pin_ends_it_and_nothing_is_tried_behind_its_back(tls_server: ServerFactory) -> None:
    vcenter, esx = tls_server(answer(BODY)), tls_server(answer(BODY))
    with pytest.raises(ConnectError) as caught:
        fetch(Routes(vcenter.endpoint(), set()), vcenter.endpoint(), esx.url(), "ab" * 20)
    assert caught.value.code == "certificate_changed"
    assert (esx.requests, vcenter.connections) == ([], 0)


def test_a_host_without_a_pin_is_not_trusted_but_led_round(tls_server: ServerFactory) -> None:
    vcenter, esx = tls_server(answer(BODY)), tls_server(answer(BODY))
    assert fetch(Routes(vcenter.endpoint(), set()), vcenter.endpoint(), esx.url())[1].endswith(
        f"{VIA}{vcenter.endpoint().address}"
    )
    assert esx.requests == []


def test_neither_way(tls_server: ServerFactory) -> None:
    vcenter = tls_server(answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(TransientError) as caught:
        fetch(Routes(vcenter.endpoint(), set()), vcenter.endpoint(), "https://127.0.0.1:1/nfc/1/d.vmdk", "ab" * 20)
    assert caught.value.code == "no_route"
    assert "Connection refused" in caught.value.cause
    assert "404" in caught.value.cause
    assert caught.value.fields["status"] == 404


def test_where_all_refuse_the_refusal_counts(tls_server: ServerFactory) -> None:
    gone = answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    vcenter, esx = tls_server(gone), tls_server(gone)
    with pytest.raises(SourceError) as caught:
        fetch(Routes(vcenter.endpoint(), set()), vcenter.endpoint(), esx.url(), esx.certificate.sha256)
    assert (caught.value.code, caught.value.fields["status"]) == ("http_refused", 404)
    assert (len(esx.requests), len(vcenter.requests)) == (1, 1)


def test_the_way_that_worked_is_kept_until_it_fails(tls_server: ServerFactory) -> None:
    refusing = True

    def script(exchange: Exchange, _request: Request) -> None:
        exchange.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" if refusing else BODY)

    vcenter = tls_server(answer(BODY))
    esx = tls_server(script)
    endpoint, pin = vcenter.endpoint(), esx.certificate.sha256
    routes = Routes(endpoint, set())
    for _ in range(3):
        assert VIA in fetch(routes, endpoint, esx.url(), pin)[1]
    assert len(esx.requests) == 1
    refusing = False
    vcenter.script = answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    for _ in range(3):
        assert VIA not in fetch(routes, endpoint, esx.url(), pin)[1]
    assert len(vcenter.requests) == 4


# With leases


def streamed(server: Simulator, log_in: LogIn) -> str:
    """Exports one disk; the route that it came by."""
    session = log_in(server)
    with lease_on(session, moref_of(server), Book()) as lease:
        (source,) = lease.sources
        with source.open(CancelToken()) as stream:
            route = stream.route
        read_all(source)
        lease.complete()
    return route


def test_a_host_that_cannot_be_reached(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(Fault(FaultKind.UNREACHABLE, times=None),))
    assert VIA in streamed(server, log_in)
    assert sum(server.counters.via_vcenter.values()) == 2


def test_a_host_that_can(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    assert streamed(server, log_in).startswith("127.0.0.2:")
    assert sum(server.counters.via_vcenter.values()) == 0


def test_a_lone_esxi_host_names_itself_with_a_star(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), esxi=True)
    assert streamed(server, log_in) == server.authority_part


def test_a_host_with_another_certificate_than_its_vcenter_says(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(MachineSpec("web"),))
    world = server.platform.world
    with world.lock:
        for host in world.all(Host):
            host.endpoint = replace(host.endpoint, thumbprint=":".join(["AB"] * 20))
    with pytest.raises(ConnectError) as caught:
        streamed(server, log_in)
    assert caught.value.code == "certificate_changed"
    assert not isinstance(caught.value, TransientError)
    assert sum(server.counters.opened.values()) == 0


def test_leases_of_a_session_share_what_they_know(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(Fault(FaultKind.UNREACHABLE, times=None),))
    one, two = log_in(server), log_in(server)
    with lease_on(one, moref_of(server), Book()) as lease:
        read_all(lease.sources[0])
    assert len(one.detours) == 1
    assert two.detours == set()
