"""HTTP proxies of the environment (HTTPS_PROXY, NO_PROXY), the same for API and data, and connecting through them."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from hypersdk.errors import UsageError
from hypersdk.net.address import IpAddress, ip_address, is_loopback_address, normal_host
from hypersdk.secret import Secret

CONNECT_TIMEOUT_S: Final = 15.0
_DEFAULT_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """A plain HTTP proxy that tunnels with CONNECT. ``authorization`` is the value of its header; ``no_proxy`` are the
    rules that bypass it."""

    host: str
    port: int
    authorization: Secret | None = None
    no_proxy: tuple[str, ...] = ()

    def bypassed_for(self, host: str, port: int) -> bool:
        """Whether ``NO_PROXY`` excludes the host from the proxy, by the rules that curl and Go share. Loopback always
        is."""
        name = normal_host(host)
        if name == "localhost" or is_loopback_address(name):
            return True
        return any(_rule_matches(rule, name, ip_address(name), port) for rule in self.no_proxy)


def proxy_from_environ(environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that ``HTTPS_PROXY`` names (``https_proxy`` first, as curl does). Raises UsageError for an
    unsupported kind."""
    text = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    if not text.strip():
        return None
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port
    except ValueError:  # its message may show the proxy's password
        raise UsageError(
            "HTTPS_PROXY is not a valid URL", next_step="Write it as http://proxy.example.com:3128."
        ) from None
    if url.scheme != "http" or not url.hostname:
        raise UsageError(
            f"HTTPS_PROXY names a proxy of the kind '{url.scheme}', which is not supported",
            next_step="Use an HTTP proxy (http://host:port), or list the vSphere hosts in NO_PROXY.",
        )
    rules = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return Proxy(
        url.hostname,
        port or _DEFAULT_PORT,
        None if url.username is None else _basic(url.username, url.password or ""),
        tuple(rule.strip().lower() for rule in rules.split(",") if rule.strip()),
    )


def _basic(username: str, password: str) -> Secret:
    pair = f"{unquote(username)}:{unquote(password)}"
    return Secret("Basic " + base64.b64encode(pair.encode()).decode("ascii"))


def _rule_matches(rule: str, name: str, address: IpAddress | None, port: int) -> bool:
    """One entry of NO_PROXY: ``*``, an address, a CIDR block, or a domain (itself and below; with a leading dot only
    below)."""
    if rule == "*":
        return True
    if address is not None:
        try:
            return address in ipaddress.ip_network(rule.strip("[]"), strict=False)
        except ValueError:
            return False
    domain, _, rule_port = rule.partition(":")
    if rule_port and rule_port != str(port):
        return False
    domain = domain.removeprefix("*").rstrip(".")
    return bool(domain) and (name == domain or name.endswith(domain if domain.startswith(".") else "." + domain))


def dial(host: str, port: int, *, proxy: Proxy | None, timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    """A TCP connection to ``host``, through ``proxy`` where given; for protocols in which the client speaks first, as
    in TLS.

    Raises OSError (a proxy's refusal too).
    """
    try:
        if proxy is None:
            return socket.create_connection((host, port), timeout_s)
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout_s)
        headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization.reveal()}
        connection.set_tunnel(host, port, headers)
        connection.connect()
    except UnicodeError as error:  # the resolver's encoding of names: an empty label, or one of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    sock: socket.socket = connection.sock
    return sock
