"""Address, login and trust of a vCenter or ESXi host: flags over the ``GOVC_*`` environment over the configuration
file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from hypersdk.config.folders import config_folder
from hypersdk.config.user import Connection
from hypersdk.errors import UsageError, register
from hypersdk.net.address import host_port
from hypersdk.net.certificate import TlsPolicy, parse_fingerprint
from hypersdk.net.knownhosts import known_fingerprint
from hypersdk.net.proxy import Proxy, proxy_from_environ
from hypersdk.remedies import NameServer
from hypersdk.secret import Secret

NO_ENDPOINT: Final = register(
    "no_endpoint",
    "No vCenter or ESXi host was given.",
    NameServer(),
)

HTTPS_PORT: Final = 443
MAX_SECRET_BYTES: Final = 64 * 1024
_SCHEME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z"  # labels: RFC 1035, section 2.3.4
    r"|(?=[^:]*:)[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?\Z"
)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One vCenter or ESXi host. ``datacenter`` is the default for relative names. No repr shows a password.

    ``judge`` returns the address to connect to for every host, the ESXi hosts that a lease names among them, and raises
    where there must be no connection; so a name cannot resolve to something else after it was checked.
    """

    host: str
    port: int
    username: str
    password: Secret | None
    tls: TlsPolicy
    datacenter: str | None = None
    proxy: Proxy | None = None
    judge: Callable[[str, int], str] | None = None

    @property
    def address(self) -> str:
        """``host`` for people, with the port where it is unusual."""
        return host_port(self.host, self.port, default=HTTPS_PORT)


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL in any of govc's forms says: host, port, and credentials where it holds them."""

    host: str = ""
    port: int = HTTPS_PORT
    username: str | None = None
    password: Secret | None = None

    @property
    def url(self) -> str:
        """The same without credentials and path."""
        return f"https://{host_port(self.host, self.port, default=HTTPS_PORT)}"


def resolve_endpoint(
    environ: Mapping[str, str],
    config: Connection | None,
    *,
    url: str | None = None,
    username: str | None = None,
    password: Secret | None = None,
    insecure: bool | None = None,
    thumbprint: str | None = None,
    ca_bundle: Path | None = None,
    datacenter: str | None = None,
) -> Endpoint:
    """The endpoint that flags (keywords), environment and configuration name together; each value from the first that
    has it.

    User name, password, pin and ``insecure`` of the configuration are for its own host only. ``GOVC_URL`` takes every
    form that govc takes: a bare host, ``user:password@``, with or without ``/sdk``; ``GOVC_USERNAME`` and
    ``GOVC_PASSWORD`` override what the URL holds and may name a file, as they may for govc. Raises UsageError; a
    missing password is not an error (the caller may ask for it).
    """
    config = config or Connection()
    text = url or environ.get("GOVC_URL") or config.url
    if not text:
        raise UsageError("no vCenter or ESXi host was named", code=NO_ENDPOINT)
    address = parse_address(text)
    own = _for_host(config, address)
    bundle = ca_bundle or environ.get("GOVC_TLS_CA_CERTS") or config.ca_bundle
    pin = thumbprint or own.thumbprint
    given = _from_env(environ, "GOVC_PASSWORD")
    return Endpoint(
        host=address.host,
        port=address.port,
        username=username or _from_env(environ, "GOVC_USERNAME") or address.username or own.username or "",
        password=password or (Secret(given) if given else address.password) or _password(own),
        tls=TlsPolicy(
            insecure=_insecure(environ, own) if insecure is None else insecure,
            ca_bundle=Path(bundle).expanduser() if bundle else None,
            thumbprint=parse_fingerprint(pin) if pin else None,
            known=known_fingerprint(_known_hosts(environ, config), address.host, address.port),
        ),
        datacenter=datacenter or environ.get("GOVC_DATACENTER") or config.datacenter,
        proxy=proxy_from_environ(environ),
    )


def http_proxy_for(endpoint: Endpoint, host: str, port: int = HTTPS_PORT) -> Proxy | None:
    """The proxy for a connection to ``host`` (the endpoint itself or an ESXi host behind it), or None for a direct
    one."""
    proxy = endpoint.proxy
    return None if proxy is None or proxy.bypassed_for(host, port) else proxy


def parse_address(text: str) -> Address:
    """Host, port and credentials of a URL in any of govc's forms. The path is dropped: the API is always at ``/sdk``.

    A user name may hold ``@``, as ``name@vsphere.local@host`` does; nothing else that divides a URL may stand in it
    unescaped, for then programs differ in which part is the host. Raises UsageError, which shows nothing of the URL: it
    may hold a password.
    """
    url = _split(text.strip())
    if url.scheme.lower() != "https":
        raise UsageError(
            f"vSphere is reached over https only, not '{url.scheme}'", next_step="Write the address as https://host."
        )
    port = _port(url)
    if not url.hostname or not _HOST.match(url.hostname):
        raise UsageError(
            "the vSphere address has no valid host name", next_step="Write it as https://vcenter.example.com."
        )
    return Address(
        url.hostname,
        port,
        unquote(url.username) if url.username else None,
        Secret(unquote(url.password)) if url.password else None,
    )


_ESCAPES: Final = "Write /, ?, # and : in the user name or password as %2F, %3F, %23 and %3A."


def _split(text: str) -> SplitResult:
    # Here and below: the URL may hold a password, so it is shown neither by us nor by the chained message of urllib.
    if not text.isprintable() or " " in text:  # urllib would drop some of them silently
        raise UsageError("the vSphere address holds characters that no URL has", next_step=_ESCAPES)
    try:
        url = urlsplit(text if _SCHEME.match(text) else f"https://{text}")
    except ValueError:
        raise UsageError(
            "the vSphere address is not a valid URL", next_step="Write it as https://vcenter.example.com."
        ) from None
    if "@" in f"{url.path}{url.query}{url.fragment}":
        raise UsageError("the vSphere address has an @ behind its host", next_step=_ESCAPES)
    return url


def _port(url: SplitResult) -> int:
    try:
        port = HTTPS_PORT if url.port is None else url.port
    except ValueError:
        port = 0
    if not port:
        raise UsageError("the vSphere address has no valid port", next_step=_ESCAPES)
    return port


def _from_env(environ: Mapping[str, str], name: str) -> str | None:
    """A GOVC value; one that names a readable file stands for the file's content."""
    value = environ.get(name)
    if not value:
        return None
    try:
        with open(value, "rb") as file:
            return file.read(MAX_SECRET_BYTES).decode("utf-8", "replace").strip()
    except PermissionError as exc:
        raise UsageError(f"the file named by {name} cannot be read") from exc
    except (OSError, ValueError):  # not a file: the value itself (a NUL byte makes open raise ValueError)
        return value


def _insecure(environ: Mapping[str, str], own: Connection) -> bool:
    """As the environment or the configuration says."""
    text = environ.get("GOVC_INSECURE")
    if text is None:
        return own.insecure
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise UsageError(f"GOVC_INSECURE is neither true nor false: '{text[:20]}'")
    return word in _TRUE


def known_hosts_file(environ: Mapping[str, str], config: Connection) -> Path:
    """Where fingerprints that the user accepted are kept: in ``$XDG_CONFIG_HOME/hypersdk/known_hosts``, unless the
    configuration names another file."""
    own = config.known_hosts
    return Path(own).expanduser() if own else config_folder(environ) / "known_hosts"


def _known_hosts(environ: Mapping[str, str], config: Connection) -> list[Path]:
    listed = [Path(name) for name in environ.get("GOVC_TLS_KNOWN_HOSTS", "").split(os.pathsep) if name]
    return [*listed, known_hosts_file(environ, config)]


def _for_host(config: Connection, address: Address) -> Connection:
    """The configuration, if its credentials are meant for this host; an empty one if its ``url`` names another."""
    if config.url is None:
        return config
    own = parse_address(config.url)
    return config if (own.host, own.port) == (address.host, address.port) else Connection()


def _password(config: Connection) -> Secret | None:
    if config.password_file is None:
        return Secret(config.password) if config.password else None
    try:
        with Path(config.password_file).expanduser().open("rb") as file:
            return Secret(file.read(MAX_SECRET_BYTES).decode("utf-8").strip("\r\n"))
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"the password file {config.password_file} cannot be read") from exc
