"""Restricts the servers that a submitted job may make the daemon connect to (protection against SSRF).

A user who may submit a job may name a vCenter, and the daemon can reach services that the user cannot: those on its own
host and, in a cloud, the metadata service that returns credentials. So an endpoint that a job names is resolved, its
addresses are checked, and the connection uses exactly the address that was checked, which prevents DNS rebinding. The
check is repeated for each connection, because the host's own addresses may change. An address that leads back to this
host through another device (NAT) cannot be recognized.

Endpoints from the environment (``GOVC_*``), from the configuration, or registered by an administrator are trusted and
not checked.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypersdk.errors import ConnectError, UsageError, register
from hypersdk.net.address import IpAddress, host_port, normal_host

ENDPOINT_REFUSED: Final = register(
    "endpoint_refused",
    "A job may not name an endpoint on the daemon's own host (at any of its addresses), at a link-local address or at"
    " a cloud's metadata address.",
    "Have an administrator register the endpoint, or add it to `allowed_endpoints` in the daemon's configuration.",
)
ENDPOINT_UNRESOLVED: Final = register(
    "endpoint_unresolved", "The endpoint's host name does not resolve.", "Check the name and the daemon's DNS."
)
MAX_ADDRESSES: Final = 32
MAX_HOSTS: Final = 1024

_METADATA: Final = tuple(
    ipaddress.ip_network(block)
    for block in (
        "169.254.0.0/16",  # most clouds' 169.254.169.254, RFC 3927
        "fd00:ec2::254/128",  # one cloud's IPv6 metadata service
        "fd20:ce::254/128",  # another's
        "100.100.100.200/32",  # another's, in shared address space
        "168.63.129.16/32",  # another's wire server
        "192.0.0.192/32",  # another's
    )
)


@dataclass(slots=True)
class EndpointGuard:
    """Checks the hosts of one job before each connection; each is resolved once. The ESXi hosts that the vCenter names
    are checked too. Thread-safe.

    ``allowed`` are ``host`` or ``host:port`` (IPv6 in brackets where a port follows) that are not checked.
    """

    allowed: tuple[str, ...] = ()
    _known: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, host: str, port: int) -> str:
        """The address to connect to: numeric, and checked. A name is refused where any of its addresses is. Raises
        UsageError ``endpoint_refused``, ConnectError ``endpoint_unresolved``."""
        key = (host.lower(), port)
        with self._lock:
            if key not in self._known:
                if len(self._known) >= MAX_HOSTS:
                    raise UsageError("the endpoint names too many hosts", code=ENDPOINT_REFUSED, host=host[:253])
                self._known[key] = _resolve(host, port)
            addresses = self._known[key]
        if not _listed(host, port, self.allowed):
            for address in addresses:
                if (why := refusal(ipaddress.ip_address(address.partition("%")[0]))) is not None:
                    raise UsageError(f"the endpoint {host[:253]} is {why}", code=ENDPOINT_REFUSED, host=host[:253])
        return addresses[0]


def refusal(address: IpAddress) -> str | None:
    """Why a submitted job may not connect to ``address``; None where it may."""
    if isinstance(address, ipaddress.IPv6Address) and (inner := _inner_ipv4(address)) is not None:
        return refusal(inner)
    if any(address in block for block in _METADATA):
        return "a metadata address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_unspecified:
        return "the unspecified address, which is this host"
    if _is_local(address):
        return "an address of the daemon's own host"
    if address.is_multicast or (isinstance(address, ipaddress.IPv4Address) and address in _THIS_NETWORK):
        return "not the address of a single host"
    return None


def _is_local(address: IpAddress) -> bool:
    """Whether the kernel would deliver to this host itself."""
    return _is_its_own_source(address) or (
        _is_in_table(address) if isinstance(address, ipaddress.IPv6Address) else _is_bindable(address)
    )


def _is_its_own_source(address: IpAddress) -> bool:
    """The source address of a route to a local address is that address (ip-route(8), table ``local``; RFC 6724, rule
    1). Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), _ANY_PORT))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:
        return False  # no route, or the protocol is not available here: a connection is not possible either


def _is_bindable(address: ipaddress.IPv4Address) -> bool:
    """Whether a socket can be bound to it. With IPv4, the source address for the second address of a network is the
    first one, but a socket can be bound to every local address and to no other; unless ``ip_nonlocal_bind`` is set, as
    for keepalived: then the kernel's routing table decides."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return False
    leaf = ""
    try:
        with _IPV4_TABLE.open() as lines:
            for line in lines:
                match line.split():
                    case ["|--", leaf]:
                        pass
                    case [prefix, _, "LOCAL", *_] if prefix != _ALL and address in ipaddress.ip_network(leaf + prefix):
                        return True
    except OSError:
        return True  # unknown: refuse it, an administrator can register the endpoint
    return False


def _is_in_table(address: ipaddress.IPv6Address) -> bool:
    """Whether it is in a block that is routed to this host without an interface that has the address, to which no
    socket can be bound."""
    try:
        with _IPV6_TABLE.open() as lines:
            for line in lines:
                block, prefix, *_, flags, _device = line.split()
                if not int(flags, 16) & _DELIVERED_HERE or prefix == _ALL_IPV6:
                    continue
                if (int(address) ^ int(block, 16)) >> (128 - int(prefix, 16)) == 0:
                    return True
    except OSError:
        pass  # the protocol is not available here
    return False


_IPV4_TABLE: Final = Path("/proc/net/fib_trie")
_IPV6_TABLE: Final = Path("/proc/net/ipv6_route")
_DELIVERED_HERE: Final = 0x8000_0000 | 0x0010_0000
"""RTF_LOCAL and RTF_ANYCAST (the routers' address of each network, RFC 4291, 2.6.1) of the kernel's
``ipv6_route.h``."""
_ALL, _ALL_IPV6 = "/0", "00"
"""Prefix of all addresses: a transparent proxy routes marked packets with it, in a table of its own."""
_ANY_PORT: Final = 443
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")


def _inner_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address embedded in an IPv6 address: mapped, compatible, 6to4, NAT64 (RFC 6052)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")


def _listed(host: str, port: int, allowed: Iterable[str]) -> bool:
    name = normal_host(host)
    forms = {name, f"[{name}]", host_port(name, port)}
    return any(entry.strip().lower() in forms for entry in allowed)


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(
            f"the name {host[:253]} has no address", code=ENDPOINT_UNRESOLVED, host=host[:253]
        ) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not 0 < len(addresses) <= MAX_ADDRESSES:
        raise ConnectError(f"the name {host[:253]} has too many addresses", code=ENDPOINT_UNRESOLVED, host=host[:253])
    return addresses
