"""Where the daemon listens, and what that requires: TLS and authentication on any address but loopback."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from hypersdk.errors import HyperSDKError, UsageError, register
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.net.address import is_loopback_address
from hypersdk.remedies import Configure

LISTEN_ADDRESS: Final = register(
    "listen_address", "The daemon cannot listen on that address.", "Write it as host:port, [v6]:port or :port."
)
ADDRESS_TAKEN: Final = register(
    "address_taken",
    "Another program uses the port, or this user may not listen on it.",
    "Stop the other program, or choose another address.",
    Configure("addr"),
)
ADDRESS_ABSENT: Final = register(
    "address_absent",
    "This host does not have that address, or not yet: its network may still be starting.",
    "Choose an address of this host; `ip address` lists them.",
    Configure("addr"),
)
BACKLOG: Final = 1024
"""Connections that wait to be accepted."""
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
TLS_REQUIRED: Final = register(
    "tls_required",
    "On an address that other hosts can reach, tokens would cross the network unencrypted.",
    "Set `tls_cert` and `tls_key`, or `tls_self_signed`; or listen on localhost behind a proxy that terminates TLS.",
)
NO_AUTH_PUBLIC: Final = register(
    "no_auth_public",
    "Without authentication everybody who can reach the address could export any machine.",
    "Listen on localhost, or leave authentication switched on.",
)


class ListenError(HyperSDKError):
    """The daemon cannot listen now; a later attempt may succeed."""

    exit_status = 12
    default_code = ADDRESS_TAKEN


def split_address(addr: str) -> tuple[str, int]:
    """``host:port``, ``[v6]:port`` or ``:port`` (all addresses; host is then empty). Raises UsageError
    ``listen_address``."""
    host, colon, port = addr.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not bracketed):
        raise UsageError(f"'{addr[:100]}' is not an address to listen on", code=LISTEN_ADDRESS)
    return host.strip("[]"), int(port)


def listens_on(addr: str) -> tuple[str, bool]:
    """The host's name, and whether only this machine can reach it."""
    host, _ = split_address(addr)
    # A name counts by what it resolves to on this machine, localhost too.
    loopback = bool(host) and all(is_loopback_address(address) for _, address in addresses_of(host, 0))
    return host.rstrip(".").lower(), loopback


def check_exposure(settings: DaemonSettings) -> None:
    """Raises UsageError ``no_auth_public`` and ``tls_required``, ListenError ``address_absent``."""
    _, loopback = listens_on(settings.addr)
    if loopback:
        if settings.allowed_hosts and not settings.auth:
            raise UsageError(
                "allowed_hosts names hosts, and there is no authentication",
                code=NO_AUTH_PUBLIC,
                cause="Whoever reaches the proxy could export any machine.",
                next_step="Leave out `no_auth`, or `allowed_hosts`.",
            )
        return
    if not settings.auth:
        raise UsageError(f"{settings.addr} is not a loopback address", code=NO_AUTH_PUBLIC)
    if not settings.tls_self_signed and not (settings.tls_cert and settings.tls_key):
        raise UsageError(f"{settings.addr} is not a loopback address and has no TLS", code=TLS_REQUIRED)


def addresses_of(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """All addresses of ``host``: ``localhost`` is 127.0.0.1 and ::1. Raises ListenError ``address_absent``."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"'{host[:100]}' is not an address of this host", code=ADDRESS_ABSENT) from error
    return list(dict.fromkeys((socket.AddressFamily(entry[0]), str(entry[4][0])) for entry in found))


def listen(addr: str) -> list[socket.socket]:
    """Listening sockets on every address that ``addr`` stands for, all on one port. Raises UsageError
    ``listen_address``, and ListenError."""
    host, port = split_address(addr)
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses_of(host, port):
            if (sock := _bind(family, address, port)) is not None:
                sockets.append(sock)
                port = port or sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ListenError(f"cannot listen on {addr}: {os.strerror(error.errno or 0)}") from error
    if not sockets:
        raise ListenError(f"{addr} is not an address of this host", code=ADDRESS_ABSENT)
    return sockets


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket | None:
    """None for an address that this host does not have, as ::1 where IPv6 is disabled. Raises OSError."""
    try:
        bound = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    # A socket object made from the descriptor knows its protocol. asyncio then sets TCP_NODELAY on accepted
    # connections; without it, each response would wait 40 ms for a delayed ACK.
    return socket.socket(fileno=bound.detach())
