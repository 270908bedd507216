"""The daemon's settings: defaults, a TOML file, flags. An unknown key is an error that names it.

::

    addr = "localhost:8080"
    export_roots = ["/var/lib/hypersdk/exports", "/srv/images"]
    database_url = "postgresql://hypersdk@db.example.com/hypersdk"
    jobs_per_worker = 4
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from hypersdk.config.folders import state_folder
from hypersdk.config.toml import TomlFile, quoted, table
from hypersdk.config.values import (
    FilePath,
    Flag,
    Line,
    Size,
    SizeOrNone,
    Takes,
    file_path,
    list_of,
    number,
    text_line,
    whole,
)
from hypersdk.errors import UsageError, register
from hypersdk.net.address import ip_address, normal_host
from hypersdk.remedies import Look
from hypersdk.units import KiB, MiB

DAEMON_CONFIG: Final = register(
    "daemon_config",
    "The daemon's configuration holds something invalid.",
    "Correct it.",
    Look("daemon_config"),
)
MAX_CONFIG_BYTES: Final = 256 * KiB
ROLES: Final = frozenset({"api", "worker"})
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
LogFormat = Literal["auto", "text", "json"]
_NETWORKS: Final = "a list of addresses and networks, such as 127.0.0.1, 2001:db8::1 or 192.0.2.0/24"


def _network(text: str) -> str:
    """An address or a network; not all addresses: then any client could claim to be another."""
    network = ipaddress.ip_network(text_line(text))
    if network.prefixlen == 0:
        raise ValueError("all addresses")
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _host(text: str) -> str:
    """A name or an address, normalized as ``host_name`` of the API normalizes a Host header."""
    name = normal_host(text_line(text))
    if (address := ip_address(name)) is not None:
        return str(address)
    if _HOST_NAME.fullmatch(name):
        return name
    raise ValueError("not a host name")


def _roles(value: Iterable[str]) -> frozenset[str]:
    roles = frozenset(value)
    if isinstance(value, str) or not roles or not roles <= ROLES:
        raise ValueError("not a list of roles")
    return roles


FORMER_KEYS: Final = {
    "datastore_floor_percent": "datastore_min_free_percent",
    "datastore_floor_bytes": "datastore_min_free_bytes",
}
"""Former names of keys."""
IGNORED_KEYS: Final = frozenset({"endpoint_config"})
"""Keys of earlier versions that never had an effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """Sizes in bytes, times in seconds. ``database_url`` may hold a password and is shown without it.

    ``allowed_hosts`` are further names, without a port and in lower case, that a Host header may hold while the daemon
    listens on loopback: those of a reverse proxy. ``trusted_proxies`` are addresses and networks whose X-Forwarded-For
    and X-Forwarded-Proto are trusted. ``max_jobs`` is for all workers together, 0 is no limit; ``jobs_per_site`` is per
    vCenter or ESXi host. ``allowed_endpoints`` are ``host`` or ``host:port`` that submitted jobs may name although they
    are loopback or link-local.
    """

    addr: Line = "localhost:8080"
    state_dir: FilePath = field(default_factory=lambda: state_folder(os.environ))
    database_url: Line | None = field(default=None, repr=False)
    roles: Annotated[frozenset[str], Takes("a list of api and worker", convert=_roles)] = ROLES
    workers: Annotated[int, whole(1, 64)] = 1
    jobs_per_worker: Annotated[int, whole(1, 256)] = 4
    max_jobs: Annotated[int, whole(0, 10_000)] = 0
    jobs_per_site: Annotated[int, whole(1, 10_000)] = 8
    conversions_per_worker: Annotated[int, whole(1, 64)] = 1
    export_roots: Annotated[tuple[Path, ...], list_of("a list of paths", file_path)] = ()
    import_roots: Annotated[tuple[Path, ...], list_of("a list of paths", file_path)] = ()
    auth: Flag = True
    public_metrics: Flag = False
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None
    tls_self_signed: Flag = False
    allowed_hosts: Annotated[tuple[str, ...], list_of("a list of host names, without scheme and port", _host)] = ()
    trusted_proxies: Annotated[tuple[str, ...], list_of(_NETWORKS, _network)] = ()
    allowed_endpoints: Annotated[tuple[str, ...], list_of("a list of texts", text_line)] = ()
    allowed_targets: Annotated[tuple[str, ...], list_of("a list of addresses of libvirt", text_line)] = ()
    key_file: FilePath | None = None
    rate_per_minute: Annotated[int, whole(1, 1_000_000)] = 600
    rate_per_address_per_minute: Annotated[int, whole(1, 1_000_000)] = 1200
    login_rate_per_minute: Annotated[int, whole(1, 10_000)] = 20
    max_body_bytes: Size = 4 * MiB
    header_timeout_s: Annotated[float, number(0.1, 600)] = 10.0
    request_timeout_s: Annotated[float, number(1, 3600)] = 60.0
    session_hours: Annotated[float, number(0.01, 24 * 365)] = 12.0
    retention_days: Annotated[int, whole(1, 36_500)] = 90
    log_format: LogFormat = "auto"
    streams_per_host: Annotated[int, whole(1, 1024)] = 8
    streams_per_vcenter: Annotated[int, whole(1, 1024)] = 32
    bandwidth_limit: Size | None = None
    datastore_min_free_percent: Annotated[float, number(0, 100)] = 10.0
    datastore_min_free_bytes: SizeOrNone = 20 * 1024 * MiB
    space_wait_s: Annotated[float, number(0, 30 * 86_400)] = 600.0
    take_over_s: Annotated[float, number(2, 3600)] = 30.0
    drain_s: Annotated[float, number(0, 3600)] = 60.0

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'state.sqlite3'}"

    @property
    def roots(self) -> tuple[Path, ...]:
        """The export roots; by default /tmp, the home directory and ``exports`` in the state directory. In a systemd
        unit with a state directory only the last, since others do not see what is in its private /tmp."""
        if self.export_roots:
            return self.export_roots
        own = self.state_dir / "exports"
        if "STATE_DIRECTORY" in os.environ:
            return (own,)
        return (own, Path("/tmp"), Path.home())  # noqa: S108 - a root that users choose, opened without following links

    def shown(self) -> dict[str, Any]:
        """All keys with their values, without secrets, for `--show-config`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["database_url"] = _without_password(self.url)
        values["export_roots"] = [str(root) for root in self.roots]
        values["import_roots"] = [str(root) for root in self.import_roots]
        values["roles"] = sorted(self.roles)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def as_toml(self) -> str:
        """``shown`` as a configuration file; keys that are not set are comments."""
        return "\n".join(_toml_line(name, value) for name, value in self.shown().items()) + "\n"


def load_settings(environ: Mapping[str, str], path: Path | None, overrides: Mapping[str, object]) -> DaemonSettings:
    """Settings from the file, which must exist if it is named, and ``overrides``, which take precedence unless None.

    Raises UsageError ``daemon_config`` that names the key.
    """
    values: dict[str, object] = {"state_dir": state_folder(environ)}
    if path is not None:
        values |= _read(path)
    values |= {key: value for key, value in overrides.items() if value is not None}
    values = {FORMER_KEYS.get(key, key): value for key, value in values.items() if key not in IGNORED_KEYS}
    settings = table(DaemonSettings, values, code=DAEMON_CONFIG, where="the daemon's configuration")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise UsageError("tls_cert and tls_key go together", code=DAEMON_CONFIG)
    return settings


def _read(path: Path) -> dict[str, object]:
    content = TomlFile(path, DAEMON_CONFIG, MAX_CONFIG_BYTES).read()
    if content is None:
        raise UsageError(f"there is no configuration file {path}", code=DAEMON_CONFIG)
    return content.document


def _without_password(url: str) -> str:
    from hypersdk.state.database import parse_url

    return parse_url(url).render_as_string(hide_password=True)


def _toml_line(name: str, value: object) -> str:
    """A value's JSON is TOML, too."""
    return f"# {name} =" if value is None else f"{name} = {quoted(value)}"
