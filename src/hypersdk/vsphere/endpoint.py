"""Address, login and trust of a vCenter or ESXi host, from flags, the ``GOVC_*`` environment and the configuration
file, in this order of precedence."""

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
from hypersdk.net.address import HTTPS_PORT, host_port
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

    ``judge`` returns the address to connect to for every host, including the ESXi hosts that a lease names, and raises
    where a connection is not allowed; so a name cannot resolve to another address after it was checked.
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
        """``host``, with the port where it is not 443."""
        return host_port(self.host, self.port, default=HTTPS_PORT)


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL in any of govc's forms: host, port, and credentials where it contains them."""

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
    """The endpoint from flags (keywords), environment and configuration; each value is taken from the first that has
    it.

    User name, password, pin and ``insecure`` of the configuration are for its own host only. ``GOVC_URL`` takes every
    form that govc takes: a bare host, ``user:password@``, with or without ``/sdk``; ``GOVC_USERNAME`` and
    ``GOVC_PASSWORD`` override the URL and may name a file, as for govc. Raises UsageError; a
    missing password is not an error (the caller may ask for it).
    """
    config = config or Connection()
    text = url or environ.get("GOVC_URL") or config.url
    if not text:
        raise UsageError("no vCenter or ESXi host was given", code=NO_ENDPOINT)
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

    A user name may contain ``@``, as in ``name@vsphere.local@host``; other delimiters of a URL must be escaped, because
    programs would differ in which part is the host. Raises UsageError, which quotes nothing of the URL: it may contain
    a password.
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
    # Here and below: the URL may contain a password, so neither our message nor that of urllib may quote it.
    if not text.isprintable() or " " in text:  # urllib would drop some of them silently
        raise UsageError("the vSphere address contains characters that are not valid in a URL", next_step=_ESCAPES)
    try:
        url = urlsplit(text if _SCHEME.match(text) else f"https://{text}")
    except ValueError:
        raise UsageError(
            "the vSphere address is not a valid URL", next_step="Write it as https://vcenter.example.com."
        ) from None
    if "@" in f"{url.path}{url.query}{url.fragment}":
        raise UsageError("the vSphere address has an @ after its host", next_step=_ESCAPES)
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
    """The value of a GOVC variable, or the content of the file that it names."""
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
    """From the environment, else from the configuration."""
    text = environ.get("GOVC_INSECURE")
    if text is None:
        return own.insecure
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise UsageError(f"GOVC_INSECURE is neither true nor false: '{text[:20]}'")
    return word in _TRUE


def known_hosts_file(environ: Mapping[str, str], config: Connection) -> Path:
    """The file of the fingerprints that the user accepted: ``$XDG_CONFIG_HOME/hypersdk/known_hosts``, unless the
    configuration names another file."""
    own = config.known_hosts
    return Path(own).expanduser() if own else config_folder(environ) / "known_hosts"


def _known_hosts(environ: Mapping[str, str], config: Connection) -> list[Path]:
    listed = [Path(name) for name in environ.get("GOVC_TLS_KNOWN_HOSTS", "").split(os.pathsep) if name]
    return [*listed, known_hosts_file(environ, config)]


def _for_host(config: Connection, address: Address) -> Connection:
    """The configuration if it is for this host; an empty one if its ``url`` names another."""
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
