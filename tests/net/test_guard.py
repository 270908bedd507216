"""Addresses that a submitted job must not reach."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys

import pytest

from hypersdk.errors import ConnectError, HyperSDKError, UsageError
from hypersdk.net.address import is_loopback_name
from hypersdk.net.certificate import TlsPolicy
from hypersdk.net.guard import EndpointGuard
from hypersdk.secret import Secret
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.endpoint import Endpoint

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


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Names resolve to these addresses, one answer after the other; the last one stays."""
    rest = itertools.chain(answers, itertools.repeat(answers[-1]))
    monkeypatch.setattr("hypersdk.net.guard._resolve", lambda *_: next(rest))


@pytest.mark.parametrize("address", REFUSED)
def test_a_job_may_not_lead_us_to_ourselves_or_to_metadata(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, [address])
    with pytest.raises(UsageError) as caught:
        EndpointGuard()("vcenter.example.com", 443)
    assert caught.value.code == "endpoint_refused"
    assert EndpointGuard(("vcenter.example.com",))("vcenter.example.com", 443) == address
    resolving(monkeypatch, ["192.0.2.10", address])
    with pytest.raises(UsageError):
        EndpointGuard()("vcenter.example.com", 443)


@pytest.mark.parametrize("address", ALLOWED)
def test_a_job_may_lead_us_elsewhere(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, [address])
    assert EndpointGuard()("vcenter.example.com", 443) == address


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "localhost."],
)
def test_every_spelling_of_loopback_is_refused(host: str) -> None:
    with pytest.raises(HyperSDKError) as caught:
        EndpointGuard()(host, 443)
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
        assert EndpointGuard((allowed,))(host, port)
    else:
        with pytest.raises(UsageError):
            EndpointGuard((allowed,))(host, port)


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
            EndpointGuard()(address, 443)
    with pytest.raises(UsageError):
        EndpointGuard()(socket.gethostname(), 443)


def test_an_address_that_becomes_the_hosts_own_is_refused_at_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[str] = []

    def unreachable(host: str, *_: object, **__: object) -> socket.socket:
        dialled.append(host)
        raise ConnectionRefusedError

    monkeypatch.setattr("hypersdk.vsphere.connection.dial", unreachable)
    resolving(monkeypatch, ["192.0.2.10"])
    guard = EndpointGuard()
    endpoint = Endpoint("vcenter.example.com", 443, "user", Secret("x"), TlsPolicy(insecure=True), judge=guard)
    connection = open_connection(endpoint)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()
    monkeypatch.setattr("hypersdk.net.guard._is_local", lambda _: True)
    with pytest.raises(UsageError) as caught:
        connection.connect()
    assert dialled == ["192.0.2.10"]
    assert caught.value.code == "endpoint_refused"


def test_a_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["192.0.2.10"], ["127.0.0.1"])
    guard = EndpointGuard()
    assert guard("vcenter.example.com", 443) == "192.0.2.10"
    assert guard("VCENTER.example.com", 443) == "192.0.2.10", "resolved once"
    with pytest.raises(UsageError):
        guard("esxi1.example.com", 443)


def test_a_name_without_an_address() -> None:
    for host in ("name.invalid", "a" * 300, "\udcff"):
        with pytest.raises(ConnectError) as caught:
            EndpointGuard()(host, 443)
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
