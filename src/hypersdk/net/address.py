"""Hosts and ports as text, and whether they are this machine."""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

HTTPS_PORT: Final = 443
IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_port(host: str, port: int | None, *, default: int | None = None) -> str:
    """``host:port`` or ``[v6]:port``; without the port where it is None or the ``default``."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None or port == default else f"{name}:{port}"


def split_host_port(text: str) -> tuple[str, int | None]:
    """Host, without brackets, and port of ``host``, ``host:port``, ``[v6]:port``, ``[v6]`` or ``v6``."""
    host, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return text.strip("[]"), None


def ip_address(text: str) -> IpAddress | None:
    """``text`` as an address, without an IPv6 zone; None where it is a name."""
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def is_loopback_address(text: str) -> bool:
    """Whether ``text`` is a loopback address. A name is not, whatever it resolves to."""
    address = ip_address(text)
    return address is not None and address.is_loopback


def is_loopback_name(host: str) -> bool:
    """Whether ``host`` is this machine by its form: ``localhost``, a name below it (RFC 6761, section 6.3) or a
    loopback address. Nothing is resolved."""
    name = normal_host(host)
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name)


def normal_host(host: str) -> str:
    """The host in lower case, without brackets and the final dot, so that two spellings of one name are equal."""
    return host.strip("[]").rstrip(".").lower()
