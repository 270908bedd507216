"""Where a submitted job may make the daemon connect to.

Whoever may submit a job may name a vCenter, and the daemon sits where the submitter may not: beside its own host's services and, in a cloud, beside
the metadata service that hands out credentials. So an endpoint that a job names is resolved, judged by its addresses, and connected to by the very
address that was judged: a name that resolves to something else a moment later (DNS rebinding) gains nothing. It is judged again at each connection:
the host may have got other addresses meanwhile. An address that leads back here only through another device (NAT) cannot be told from outside.

Endpoints from the environment (``GOVC_*``), from the configuration, or made by an administrator are trusted and not judged.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hypersdk.errors import ConnectError, UsageError, register

LOG: Final = logging.getLogger(__name__)
ENDPOINT_REFUSED: Final = register(
    "endpoint_refused",
    "A job may not name an endpoint on the daemon's own host (by any of its addresses), on a link-local or on a cloud's metadata address.",
    "Have an administrator make the endpoint, or list it as allowed_endpoints in the daemon's configuration.",
)
ENDPOINT_UNRESOLVED: Final = register(
    "endpoint_unresolved", "The endpoint's name has no address.", "Check the name and the daemon's DNS."
)
MAX_ADDRESSES: Final = 32
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], list[str]]

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


def check_submitted(host: str, port: int, allowed: Iterable[str], *, resolve: Resolve | None = None) -> str:
    """The address to connect to for an endpoint that a job names: numeric, one that was judged.

    ``allowed`` are ``host`` or ``host:port`` (IPv6 in brackets where a port follows) that are not judged. Where any of a name's addresses is refused,
    the name is. Raises UsageError ``endpoint_refused``, ConnectError ``endpoint_unresolved``.
    """
    addresses = (resolve or _resolve)(host, port)
    _judge(host, port, addresses, allowed)
    return addresses[0]


def _judge(host: str, port: int, addresses: Iterable[str], allowed: Iterable[str]) -> None:
    if _listed(host, port, allowed):
        return
    for address in addresses:
        if (why := refusal(ipaddress.ip_address(address.partition("%")[0]))) is not None:
            raise UsageError(f"the endpoint {host[:253]} is {why}", code=ENDPOINT_REFUSED, host=host[:253])


def refusal(address: Address) -> str | None:
    """Why a submitted job may not connect there; None where it may."""
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
        return "no address of a single host"
    return None


def _is_local(address: Address) -> bool:
    """Whether the kernel would deliver to this host itself: the source address of a way to a local address is that address (ip-route(8), table
    ``local``; RFC 6724, rule 1). Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), _ANY_PORT))
            if ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address:
                return True
    except OSError:
        return False  # no way there, or no such protocol here: nor can there be a connection
    return isinstance(address, ipaddress.IPv6Address) and _is_routed_here(address)


def _is_routed_here(address: ipaddress.IPv6Address) -> bool:
    """Whether a route of the type ``local`` or ``anycast`` covers it. Of IPv6, such a block need not hold its own source addresses: a whole network
    that a proxy serves (``ip -6 route add local``), the routers' anycast address (RFC 4291, 2.6.1)."""
    try:
        with open("/proc/net/ipv6_route", encoding="ascii") as routes:
            for line in routes:
                network, length, *_, flags, _device = line.split()
                if int(flags, 16) & _DELIVERED_HERE:
                    shift = 128 - int(length, 16)
                    if int(network, 16) >> shift == int(address) >> shift:
                        return True
    except (OSError, ValueError):  # no IPv6, or no /proc
        LOG.debug("the routes of IPv6 cannot be read")
    return False


_DELIVERED_HERE: Final = 0x8000_0000 | 0x0010_0000
"""RTF_LOCAL and RTF_ANYCAST of the kernel's ipv6_route.h."""

_ANY_PORT: Final = 443
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")


def _inner_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, compatible, 6to4, NAT64 (RFC 6052)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")


@dataclass(slots=True)
class EndpointGuard:
    """``check_submitted`` for all connections of one job: each host is resolved once, and judged at each connection. Also for the ESXi hosts
    that a vCenter named by a job hands out, which are as little trusted as it is. Thread-safe."""

    allowed: tuple[str, ...] = ()
    resolve: Resolve | None = None
    _known: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, host: str, port: int) -> str:
        """The address to connect to. Raises as ``check_submitted``."""
        key = (host.lower(), port)
        with self._lock:
            if key not in self._known:
                if len(self._known) >= 1024:
                    raise UsageError("the endpoint names too many hosts", code=ENDPOINT_REFUSED, host=host[:253])
                self._known[key] = (self.resolve or _resolve)(host, port)
            addresses = self._known[key]
        _judge(host, port, addresses, self.allowed)
        return addresses[0]


def is_loopback_name(host: str) -> bool:
    """Whether ``host`` is this machine by its form: ``localhost`` or a loopback address. Nothing is resolved."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _listed(host: str, port: int, allowed: Iterable[str]) -> bool:
    name = host.strip("[]").rstrip(".").lower()
    forms = {name, f"[{name}]", f"{name}:{port}" if ":" not in name else f"[{name}]:{port}"}
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
