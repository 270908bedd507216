"""Where a submitted job may connect, and endpoints that an administrator makes, against the simulator over TLS."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa

from hypersdk.access.endpoints import EndpointConflict, EndpointStore, NewEndpoint
from hypersdk.access.kinds import KINDS
from hypersdk.access.kinds.base import CertificateNotTrusted, EndpointLogin
from hypersdk.access.vault import Vault
from hypersdk.errors import AccessError, ConnectError, HyperSDKError, LookupFailed, UsageError
from hypersdk.jobs.remedies import next_step
from hypersdk.net.address import is_loopback_name
from hypersdk.net.certificate import TlsPolicy
from hypersdk.net.guard import EndpointGuard, check_submitted
from hypersdk.secret import Secret
from hypersdk.simulator import Simulator
from hypersdk.state.database import Database
from hypersdk.state.pages import EVERYTHING, PageRequest
from hypersdk.state.tables import endpoints as table
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.session import About
from tests.support.simulator import SimulatorFactory

REFUSED = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "0.1.2.3",
    "::1",
    "::",
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%lo",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "::127.0.0.1",
    "224.0.0.1",
    "ff02::1",
]
ALLOWED = ["192.0.2.10", "10.0.0.5", "192.168.1.1", "172.16.0.1", "2001:db8::1", "fd12:3456::1", "64:ff9b::c000:20a"]


@pytest.mark.parametrize("address", REFUSED)
def test_a_job_may_not_lead_us_to_ourselves_or_to_metadata(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_submitted("vcenter.example.com", 443, (), resolve=lambda *_: [address])
    assert caught.value.code == "endpoint_refused"
    with pytest.raises(UsageError):
        check_submitted("vcenter.example.com", 443, (), resolve=lambda *_: ["192.0.2.10", address])
    assert (
        check_submitted("vcenter.example.com", 443, ("vcenter.example.com",), resolve=lambda *_: [address]) == address
    )


@pytest.mark.parametrize("address", ALLOWED)
def test_a_job_may_lead_us_elsewhere(address: str) -> None:
    assert check_submitted("vcenter.example.com", 443, (), resolve=lambda *_: [address]) == address


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "localhost."],
)
def test_every_spelling_of_loopback_is_refused(host: str) -> None:
    with pytest.raises(HyperSDKError) as caught:
        check_submitted(host, 443, ())
    assert caught.value.code in ("endpoint_refused", "endpoint_unresolved")


@pytest.mark.parametrize(
    ("allowed", "host", "port", "fine"),
    [
        ("localhost", "localhost", 443, True),
        ("localhost:8989", "localhost", 8989, True),
        ("localhost:8989", "localhost", 8990, False),
        ("LOCALHOST", "localhost", 1, True),
        ("127.0.0.1", "localhost", 443, False),
        ("[::1]:443", "::1", 443, True),
        ("::1", "[::1]", 443, True),
    ],
)
def test_what_is_listed_is_allowed(allowed: str, host: str, port: int, fine: bool) -> None:
    if fine:
        assert check_submitted(host, port, (allowed,))
    else:
        with pytest.raises(UsageError):
            check_submitted(host, port, (allowed,))


ASK_OF_ALL = """
import ipaddress, json, socket, sys
from hypersdk.net.guard import refusal
print(json.dumps({text: refusal(ipaddress.ip_address(text)) for text in json.load(sys.stdin)}))
"""
HERE = ["10.9.8.1", "10.9.8.3", "192.0.2.77", "203.0.113.5", "2001:db8::77", "fd12:3456::1"]
ROUTED_HERE = ["198.51.100.1", "198.51.100.254", "198.18.0.9", "2001:db8:1::9"]
ELSEWHERE = ["10.9.8.2", "192.0.2.78", "198.51.101.1", "2001:db8::78", "fd12:3456::2"]


def refusals(addresses: list[str], *commands: str) -> dict[str, str | None]:
    """What is refused in a network namespace of its own, where ``commands`` have been run."""
    prepared = "; ".join([*commands, f"exec {sys.executable} -c '{ASK_OF_ALL}'"])
    shell = ["unshare", "--net", "--map-root-user", "sh", "-ec", prepared]
    ended = subprocess.run(shell, input=json.dumps(addresses), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str | None] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("nonlocal_bind", [0, 1])
def test_no_address_of_the_hosts_interfaces_is_an_endpoint(nonlocal_bind: int) -> None:
    """Two interfaces with addresses of both kinds, one with two of one network, and blocks that the kernel takes for
    its own without an interface that has them. Also where sockets may be bound to any address, as on a host with
    keepalived. A transparent proxy's table is none of that."""
    mapped = [f"::ffff:{text}" for text in HERE if ":" not in text]
    found = refusals(
        HERE + ROUTED_HERE + mapped + ELSEWHERE,
        "ip link set lo up",
        "ip link add side0 type veth peer name side1",
        f"echo {nonlocal_bind} > /proc/sys/net/ipv4/ip_nonlocal_bind",
        "ip address add 10.9.8.1/24 dev side0",
        "ip address add 10.9.8.3/24 dev side0",
        "ip address add 192.0.2.77/24 dev side1",
        "ip address add 203.0.113.5/32 dev lo",
        "ip address add 2001:db8::77/64 dev side0 nodad",
        "ip address add fd12:3456::1/64 dev side1 nodad",
        "ip link set side0 up",
        "ip link set side1 up",
        "ip route add local 198.51.100.0/24 dev lo",
        "ip route add local 198.18.0.0/15 dev lo src 10.9.8.1",
        "ip -6 route add local 2001:db8:1::/64 dev lo",
        "ip route add 198.51.101.0/24 dev side0",
        "ip route add local default dev lo table 100",
        "ip -6 route add local default dev lo table 100",  # as for a transparent proxy
    )
    assert {text: why for text, why in found.items() if why is None} == dict.fromkeys(ELSEWHERE)


def test_no_address_of_this_very_host_is_an_endpoint() -> None:
    named = {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), 443)}
    listed = {
        info.split()[0] for info in subprocess.check_output(["hostname", "-I"], text=True).splitlines() if info.strip()
    }
    for address in named | listed:
        with pytest.raises(UsageError, match="endpoint"):
            check_submitted(address, 443, ())
    with pytest.raises(UsageError):
        check_submitted(socket.gethostname(), 443, ())


def test_an_address_that_becomes_the_hosts_own_is_refused_at_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[str] = []

    def unreachable(host: str, *_: object, **__: object) -> socket.socket:
        dialled.append(host)
        raise ConnectionRefusedError

    monkeypatch.setattr("hypersdk.vsphere.connection.dial", unreachable)
    guard = EndpointGuard(resolve=lambda *_: ["192.0.2.10"])
    endpoint = Endpoint("vcenter.example.com", 443, "user", Secret("x"), TlsPolicy(insecure=True), judge=guard)
    connection = open_connection(endpoint)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()
    monkeypatch.setattr("hypersdk.net.guard._is_local", lambda _: True)
    with pytest.raises(UsageError) as caught:
        connection.connect()
    assert dialled == ["192.0.2.10"]
    assert caught.value.code == "endpoint_refused"


def test_a_name_that_changes_its_address_gains_nothing() -> None:
    answers = itertools.chain([["192.0.2.10"]], itertools.repeat(["127.0.0.1"]))
    guard = EndpointGuard(resolve=lambda *_: next(answers))
    assert guard("vcenter.example.com", 443) == "192.0.2.10"
    assert guard("VCENTER.example.com", 443) == "192.0.2.10", "resolved once"
    with pytest.raises(UsageError):
        guard("esxi1.example.com", 443)


def test_a_name_without_an_address() -> None:
    for host in ("name.invalid", "a" * 300, "\udcff"):
        with pytest.raises(ConnectError) as caught:
            check_submitted(host, 443, ())
        assert caught.value.code == "endpoint_unresolved"


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.5.5.5", True),
        ("[::1]", True),
        ("localhost.", True),
        ("localhost.example.com", False),
        ("192.0.2.1", False),
        ("", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_loopback_names(name: str, fine: bool) -> None:
    assert is_loopback_name(name) is fine


# Endpoints


@pytest.fixture
def vcenter(simulator: SimulatorFactory) -> Simulator:
    return simulator(vms=1, username="user", password=Secret("planted-password"))


@pytest.fixture
def endpoints(sqlite: Database) -> EndpointStore:
    return EndpointStore(sqlite, Vault(bytes(32), environ={"VC_PASSWORD": "from-env"}))


def new(vcenter: Simulator, **more: object) -> NewEndpoint:
    values: dict[str, object] = {
        "name": "vc1",
        "url": vcenter.url,
        "username": "user",
        "password": Secret("planted-password"),
    }
    return NewEndpoint(**(values | more))


def test_a_certificate_that_is_not_trusted_wants_its_pin(
    endpoints: EndpointStore, vcenter: Simulator, sqlite: Database
) -> None:
    with pytest.raises(CertificateNotTrusted) as caught:
        endpoints.create(new(vcenter))
    assert caught.value.code == "certificate_unknown"
    pin = caught.value.fields["sha256"]
    assert str(pin) in next_step(caught.value)
    assert endpoints.page(EVERYTHING, PageRequest("name")).rows == ()
    made = endpoints.create(new(vcenter, thumbprint=pin))
    assert (made.thumbprint, made.has_password, made.is_default) == (pin, True, True)
    assert endpoints.login_of("vc1", kind="vsphere").password == Secret("planted-password")
    with sqlite.read() as connection:
        row = connection.execute(sa.select(table)).one()
    assert "planted-password" not in repr(row)
    assert b"planted-password" not in row.secret
    about = endpoints.probe(made.id)
    assert about.api_type == "VirtualCenter"


def test_another_certificate_than_the_pinned_one_is_refused(endpoints: EndpointStore, vcenter: Simulator) -> None:
    with pytest.raises(ConnectError) as caught:
        endpoints.create(new(vcenter, thumbprint="AA" * 32))
    assert caught.value.code == "certificate_changed"


def test_an_endpoint_keeps_no_password_in_its_url(endpoints: EndpointStore, vcenter: Simulator) -> None:
    address = vcenter.url.removeprefix("https://").removesuffix("/sdk").rpartition("@")[2]
    made = endpoints.create(
        new(vcenter, url=f"https://who:planted@{address}/sdk", username="", password=None, insecure=True)
    )
    assert made.username == "who"
    assert made.url == f"https://{address}"
    assert endpoints.login_of(made.id, kind="vsphere").password == Secret("planted")


def test_a_reference_is_followed_when_it_is_used(endpoints: EndpointStore, vcenter: Simulator) -> None:
    made = endpoints.create(new(vcenter, password=None, secret_ref="env:VC_PASSWORD", insecure=True))
    assert made.secret_ref == "env:VC_PASSWORD"
    assert endpoints.login_of(made.id, kind="vsphere").password == Secret("from-env")
    with pytest.raises(UsageError, match="contradicts password"):
        endpoints.create(new(vcenter, name="b", secret_ref="env:VC_PASSWORD", insecure=True))


def test_default_names_and_deletion(endpoints: EndpointStore, vcenter: Simulator, sqlite: Database) -> None:
    assert endpoints.default() is None
    first = endpoints.create(new(vcenter, insecure=True))
    second = endpoints.create(new(vcenter, name="vc2", insecure=True))
    assert not second.is_default
    with pytest.raises(EndpointConflict):
        endpoints.create(new(vcenter, insecure=True))
    endpoints.make_default("vc2")
    default = endpoints.default()
    assert default is not None
    assert default.name == "vc2"
    assert [one.is_default for one in endpoints.page(EVERYTHING, PageRequest("name")).rows] == [False, True]
    assert endpoints.get("vc1").revision > first.revision
    endpoints.delete(first.id)
    with pytest.raises(LookupFailed) as caught:
        endpoints.get(first.id)
    assert caught.value.code == "endpoint_unknown"


def test_an_id_wins_over_a_name(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.access.kinds.vsphere.Vsphere.check_trust", lambda *_: None)
    endpoints = EndpointStore(database, Vault(bytes(32)))
    first, second = (
        endpoints.create(NewEndpoint(name=name, url=f"https://{name}.example.com", insecure=True))
        for name in ("a", "b")
    )
    for low, high in ((first, second), (second, first)):
        with database.write() as connection:  # as an earlier version let it be named; whichever was made first
            connection.execute(sa.update(table).where(table.c.id == high.id).values(name=low.id))
            connection.execute(sa.update(table).where(table.c.id == low.id).values(name="c"))
        assert endpoints.get(low.id).id == low.id
    assert endpoints.make_default(second.id).id == second.id
    assert endpoints.login_of(second.id, kind="vsphere").url == "https://b.example.com"
    assert endpoints.delete(second.id).id == second.id
    assert endpoints.get(second.id).id == first.id, "now it is a name only"


def test_there_is_one_default_whoever_asks_at_the_same_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 8
    together = threading.Barrier(count)
    monkeypatch.setattr("hypersdk.access.kinds.vsphere.Vsphere.check_trust", lambda *_: together.wait(30))
    made = EndpointStore(database, Vault(bytes(32)))

    def defaults() -> int:
        return sum(one.is_default for one in made.page(EVERYTHING, PageRequest("name")).rows)

    def create(number: int) -> None:
        made.create(NewEndpoint(name=f"vc{number}", url=f"https://192.0.2.{number}", insecure=True))

    def choose(number: int) -> None:
        together.wait(30)
        made.make_default(f"vc{number}")

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(create, range(count)))
        assert defaults() == 1
        for _ in range(5):
            list(pool.map(choose, range(count)))
            assert defaults() == 1


@pytest.mark.parametrize(
    "more",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "../x"},
        {"name": "endpoint-0123456789ab"},
        {"name": "user-0123456789ab"},
        {"kind": "other"},
        {"url": "http://192.0.2.1"},
        {"url": "x" * 2000},
        {"secret_ref": "env:HYPERSDK_X"},
        {"thumbprint": "zz"},
        {"insecure": True, "thumbprint": "AA" * 32},
    ],
)
def test_what_cannot_be_an_endpoint(endpoints: EndpointStore, vcenter: Simulator, more: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        endpoints.create(new(vcenter, **more))


def test_nothing_answers(endpoints: EndpointStore, vcenter: Simulator) -> None:
    with pytest.raises(ConnectError):
        endpoints.create(new(vcenter, url="https://127.0.0.1:1", insecure=True))


def test_a_wrong_key_is_said_when_the_endpoint_is_used(
    endpoints: EndpointStore, vcenter: Simulator, sqlite: Database
) -> None:
    endpoints.create(new(vcenter, insecure=True))
    with pytest.raises(HyperSDKError) as caught:
        EndpointStore(sqlite, Vault(bytes(range(32)))).login_of("vc1", kind="vsphere")
    assert caught.value.code == "vault_wrong_key"


def test_a_login_that_vsphere_refuses(endpoints: EndpointStore, simulator: SimulatorFactory, tmp_path: Path) -> None:
    strict = simulator(vms=1, username="user", password=Secret("right"))
    endpoints.create(new(strict, insecure=True))
    with pytest.raises(AccessError) as caught:
        endpoints.probe("vc1")
    assert "planted-password" not in str(caught.value.as_dict())


class Libvirt:
    """Another kind, of which nothing but this is known."""

    name = "libvirt"
    asked: ClassVar[list[EndpointLogin]] = []

    def normalize(self, login: EndpointLogin) -> EndpointLogin:
        return replace(login, url=login.url.lower())

    def check_trust(self, login: EndpointLogin) -> None:
        self.asked.append(login)

    def probe(self, login: EndpointLogin) -> About:
        self.asked.append(login)
        return About("QEMU", "QEMU on kvm1", "10.1", "", "11.0", "libvirt", None)


def test_a_kind_is_one_object_in_the_registry(endpoints: EndpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "libvirt", Libvirt())
    made = endpoints.create(
        NewEndpoint(name="kvm1", url="QEMU+SSH://kvm1/system", kind="libvirt", password=Secret("planted"))
    )
    assert (made.kind, made.url, made.has_password) == ("libvirt", "qemu+ssh://kvm1/system", True)
    assert endpoints.probe("kvm1").version == "10.1"
    assert [login.password for login in Libvirt.asked] == [Secret("planted")] * 2
    with pytest.raises(UsageError, match="kind libvirt, not vsphere"):
        endpoints.login_of("kvm1", kind="vsphere")
