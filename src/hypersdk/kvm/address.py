"""Addresses of libvirt, as its URIs: which daemon, and how it is reached.

libvirt takes many things from the query of a URI, and some of them run programs or read files: ``command=`` and
``netcat=`` name programs, ``keyfile=`` and ``pkipath=`` files, ``no_verify=`` switches the checks of the server's
identity off. A URI may come from a job file or a request, so only what is listed here is accepted. All of it can be set
for a host by whoever owns the machine, in ``~/.ssh/config`` and in libvirt's own configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from hypersdk.errors import UsageError, register
from hypersdk.net.address import host_port, is_loopback_name, normal_host
from hypersdk.text import clean

LIBVIRT_ADDRESS: Final = register(
    "libvirt_address",
    "The address of libvirt cannot be used.",
    "Write it like qemu:///system, qemu+ssh://user@host/system or qemu+tls://host/system. What a host needs beyond"
    " that (a key, a port, a jump host) belongs into ~/.ssh/config.",
)
LIBVIRT_PLAIN_TCP: Final = register(
    "libvirt_plain_tcp",
    "qemu+tcp:// sends everything unencrypted and without a check of the server's identity.",
    "Use qemu+ssh:// or qemu+tls://. Only this machine itself is reached by qemu+tcp://.",
)
MAX_ADDRESS: Final = 1024
"""Characters of a URI."""

_PARAMETERS: Final[Mapping[str, Mapping[str, re.Pattern[str]]]] = {
    "unix": {"socket": re.compile(r"/[^\0\n]{1,107}"), "mode": re.compile("auto|direct|legacy")},
    "ssh": {"proxy": re.compile("auto|netcat|native"), "mode": re.compile("auto|direct|legacy")},
    "tls": {},
    "tcp": {},
}
"""Parameters of each transport and their values. 107 characters are what a socket's name may have (unix(7))."""
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,15})?")
"""A name never begins with a dash: ssh would take it for an option."""


@dataclass(frozen=True, slots=True)
class LibvirtAddress:
    """``driver`` is ``qemu`` or ``test``; ``transport`` is ``unix ssh tls tcp``, and ``unix`` where none is named;
    ``path`` is ``/system``, ``/session``, or ``/default`` of the test driver."""

    driver: str
    transport: str
    user: str | None
    host: str | None
    port: int | None
    path: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the hypervisor opens the files that we see: only where its socket is a file here. A loopback address
        may be the end of a tunnel."""
        return self.transport == "unix"

    @property
    def is_session(self) -> bool:
        """Whether it is a user's own libvirt, whose guests run as that user."""
        return self.path == "/session"

    @property
    def simulated(self) -> bool:
        """Whether it is libvirt's test driver, which keeps all it has in memory and runs no guest."""
        return self.driver == "test"

    @property
    def is_here(self) -> bool:
        """Whether its guests use the files that we see."""
        return self.is_local and not self.simulated

    def __str__(self) -> str:
        """The canonical form: two spellings of one address are equal as texts."""
        plain = self.transport == "unix" and not self.parameters
        scheme = self.driver if plain or self.simulated else f"{self.driver}+{self.transport}"
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        where = f"{user}{host_port(self.host, self.port)}" if self.host else ""
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in self.parameters)
        return f"{scheme}://{where}{self.path}" + (f"?{query}" if query else "")

    @property
    def uri(self) -> str:
        """For libvirt: ssh is told not to ask for a password, because nobody would see the question."""
        text = str(self)
        return f"{text}{'&' if self.parameters else '?'}no_tty=1" if self.transport == "ssh" else text


def parse_libvirt_address(text: str, *, plain_tcp: bool = False) -> LibvirtAddress:
    """Reads a libvirt URI. ``plain_tcp`` allows ``qemu+tcp://`` to other machines.

    Raises UsageError ``libvirt_address``, ``libvirt_plain_tcp``.
    """
    if len(text) > MAX_ADDRESS or not text.isprintable():
        raise _refused(text, "it is too long, or has characters that cannot be printed")
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise _refused(text, "it is not a URI") from error
    driver, plus, transport = parts.scheme.partition("+")
    host = normal_host(unquote(parts.hostname)) if parts.hostname else None
    if not plus:
        transport = "tls" if host else "unix"  # as libvirt reads it
    address = LibvirtAddress(
        driver, transport, _user(text, parts), host, port, parts.path.rstrip("/"), _parameters(text, parts, transport)
    )
    _check(text, address, parts)
    if transport == "tcp" and not plain_tcp and not is_loopback_name(host or ""):
        raise UsageError(f"{clean(text, 200)} is not encrypted", code=LIBVIRT_PLAIN_TCP)
    return address


def _check(text: str, address: LibvirtAddress, parts: SplitResult) -> None:
    if address.driver not in ("qemu", "test"):
        raise _refused(text, f"'{clean(address.driver, 40)}' is not a driver of KVM guests: it begins with qemu")
    if parts.fragment or parts.password is not None:
        raise _refused(text, "a libvirt URI has neither a password nor a fragment")
    if address.simulated:
        if address.host or address.path != "/default" or parts.scheme != "test":
            raise _refused(text, "libvirt's test driver is test:///default")
        return
    if address.path not in ("/system", "/session"):
        raise _refused(text, "its path is /system or /session")
    if address.transport not in _PARAMETERS:
        raise _refused(text, f"'{clean(address.transport, 40)}' is not one of the transports unix, ssh, tls and tcp")
    if (address.transport == "unix") != (address.host is None):
        raise _refused(text, "a host belongs to the transports ssh, tls and tcp, and only to them")
    if address.host is not None and not _HOST.fullmatch(address.host):
        raise _refused(text, "it names no host")


def _user(text: str, parts: SplitResult) -> str | None:
    if not parts.username:
        return None
    user = unquote(parts.username)
    if not _USER.fullmatch(user) or not parts.scheme.endswith("+ssh"):
        raise _refused(text, "a user name belongs to the transport ssh, and has letters, digits, dots and dashes")
    return user


def _parameters(text: str, parts: SplitResult, transport: str) -> tuple[tuple[str, str], ...]:
    try:
        found = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=8)
    except ValueError as error:
        raise _refused(text, "its parameters cannot be read") from error
    known = _PARAMETERS.get(transport, {})
    for name, value in found:
        if name not in known:
            raise _refused(text, f"the parameter '{clean(name, 40)}' is not accepted here")
        if not known[name].fullmatch(value):
            raise _refused(text, f"'{clean(value, 80)}' is not a value of '{name}'")
    if len(dict(found)) != len(found):
        raise _refused(text, "a parameter stands in it twice")
    return tuple(sorted(found))


_PASSWORD: Final = re.compile(r"(?<=:)(?!//)[^/@]*(?=@)")


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"'{clean(_PASSWORD.sub('...', text), 200)}' is not an address of libvirt: {why}", code=LIBVIRT_ADDRESS
    )
