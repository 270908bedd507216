"""What a daemon is told: defaults, a TOML file, flags. An unknown key is an error that names it.

::

    addr = "localhost:8080"
    export_roots = ["/var/lib/hypersdk/exports", "/srv/images"]
    database_url = "postgresql://hypersdk@db.example.com/hypersdk"
    jobs_per_worker = 4
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from hypersdk.config.folders import state_folder
from hypersdk.errors import UsageError, register
from hypersdk.net.address import normal_host
from hypersdk.units import KiB, MiB, parse_size

DAEMON_CONFIG: Final = register(
    "daemon_config",
    "The daemon's configuration holds something that cannot be used.",
    "Correct it; `hypervisord --show-config` prints all keys with their values.",
)
MAX_CONFIG_BYTES: Final = 256 * KiB
ROLES: Final = frozenset({"api", "worker"})
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
LogFormat = Literal["auto", "text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """Sizes in bytes, times in seconds. ``database_url`` may hold a password and is shown without it.

    ``allowed_hosts`` are names without a port, in lower case, that a Host header may hold although the daemon listens
    on loopback: those of a reverse proxy. ``trusted_proxies`` are addresses and networks whose word is taken for who
    asks (X-Forwarded-For, X-Forwarded-Proto). ``max_jobs`` 0 is no limit over all workers; ``jobs_per_site`` is per
    vCenter or ESXi host. ``allowed_endpoints`` are ``host`` or ``host:port`` that submitted jobs may name although they
    are loopback or link-local. ``endpoint_config`` is a ``config.toml`` of hyper2kvm whose ``[connection]`` is the
    default endpoint.
    """

    addr: str = "localhost:8080"
    state_dir: Path = field(default_factory=lambda: state_folder(os.environ))
    database_url: str | None = field(default=None, repr=False)
    roles: frozenset[str] = ROLES
    workers: int = 1
    jobs_per_worker: int = 4
    max_jobs: int = 0
    jobs_per_site: int = 8
    export_roots: tuple[Path, ...] = ()
    auth: bool = True
    public_metrics: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_self_signed: bool = False
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    allowed_endpoints: tuple[str, ...] = ()
    endpoint_config: Path | None = None
    key_file: Path | None = None
    rate_per_minute: int = 600
    rate_per_address_per_minute: int = 1200
    login_rate_per_minute: int = 20
    max_body_bytes: int = 4 * MiB
    header_timeout_s: float = 10.0
    request_timeout_s: float = 60.0
    session_hours: float = 12.0
    retention_days: int = 90
    log_format: LogFormat = "auto"
    streams_per_host: int = 8
    streams_per_vcenter: int = 32
    bandwidth_limit: int | None = None
    datastore_floor_percent: float = 10.0
    datastore_floor_bytes: int = 20 * 1024 * MiB
    space_wait_s: float = 600.0
    take_over_s: float = 30.0
    drain_s: float = 60.0

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'state.sqlite3'}"

    @property
    def roots(self) -> tuple[Path, ...]:
        """The export roots; without any given: /tmp, the home and ``exports`` in the state directory. In a systemd unit
        with a state directory of its own only the last: its private /tmp would hide what is written there."""
        if self.export_roots:
            return self.export_roots
        own = self.state_dir / "exports"
        if "STATE_DIRECTORY" in os.environ:
            return (own,)
        return (own, Path("/tmp"), Path.home())  # noqa: S108 - a root that users choose, opened without following links

    def shown(self) -> dict[str, Any]:
        """All keys with their values, without any secret: for `--show-config`."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["database_url"] = _without_password(self.url)
        values["export_roots"] = [str(root) for root in self.roots]
        values["roles"] = sorted(self.roles)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def as_toml(self) -> str:
        """The same as a file that can be read again; what is not set stands in comments."""
        return "\n".join(_toml_line(name, value) for name, value in self.shown().items()) + "\n"


def load_settings(environ: Mapping[str, str], path: Path | None, overrides: Mapping[str, object]) -> DaemonSettings:
    """Settings from the file (which must exist when it is named) under ``overrides``; values of None are not given.

    Raises UsageError ``daemon_config`` that names the key.
    """
    values: dict[str, object] = {"state_dir": state_folder(environ)}
    if path is not None:
        values |= _read(path)
    values |= {key: value for key, value in overrides.items() if value is not None}
    checked = {key: _checked(key, value) for key, value in values.items()}
    settings = DaemonSettings(**checked)
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise _bad("tls_cert and tls_key go together")
    return settings


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise _bad(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise _bad(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(f"{path} is not valid TOML: {error}") from error


def _checked(key: str, value: object) -> Any:
    check = _CHECKS.get(key)
    if check is None:
        near = difflib.get_close_matches(key, _CHECKS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(_CHECKS)}."
        raise UsageError(f"unknown key '{key[:60]}'", code=DAEMON_CONFIG, next_step=hint, key=key[:60])
    try:
        return check(value)
    except (ValueError, UsageError) as error:
        raise _bad(f"{key} takes {error}", key=key) from error


def _bad(message: str, key: str | None = None) -> UsageError:
    return UsageError(message, code=DAEMON_CONFIG, key=key)


def _text(value: object) -> str:
    if isinstance(value, str) and value and value.isprintable():
        return value
    raise ValueError("a text")


def _path(value: object) -> Path:
    return Path(value if isinstance(value, Path) else _text(value)).expanduser()


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _number(least: float, most: float, *, whole: bool) -> Callable[[object], float]:
    def check(value: object) -> float:
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if fits and least <= value <= most:  # type: ignore[operator] # a number, by the line above
            return value if whole else float(value)  # type: ignore[return-value, arg-type]
        raise ValueError(f"a{' whole' if whole else ''} number from {least:g} to {most:g}")

    return check


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    try:
        return parse_size(_text(value))
    except UsageError as error:
        raise ValueError("a size like 200M or 20GiB") from error


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list | tuple | frozenset | set):
        return tuple(_text(item) for item in value)
    raise ValueError("a list of texts")


def _hosts(value: object) -> tuple[str, ...]:
    return tuple(_host(text) for text in _texts(value))


def _networks(value: object) -> tuple[str, ...]:
    """Addresses and networks; never all there are: then everybody would say who it is."""
    wanted = "a list of addresses and networks, such as 127.0.0.1, 2001:db8::1 or 192.0.2.0/24"
    try:
        found = [ipaddress.ip_network(text) for text in _texts(value)]
    except ValueError:
        raise ValueError(wanted) from None
    if any(one.prefixlen == 0 for one in found):
        raise ValueError(wanted)
    return tuple(str(one.network_address) if one.num_addresses == 1 else str(one) for one in found)


def _host(text: str) -> str:
    """A name or a numeric address, as ``host_name`` of the API makes it of a Host header."""
    name = normal_host(text)
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        if _HOST_NAME.fullmatch(name):
            return name
    raise ValueError("a list of host names, without scheme and port")


def _roles(value: object) -> frozenset[str]:
    roles = frozenset(_texts(value))
    if roles and roles <= ROLES:
        return roles
    raise ValueError(f"a list of {' and '.join(sorted(ROLES))}")


def _format(value: object) -> str:
    if value in ("auto", "text", "json"):
        return str(value)
    raise ValueError("auto, text or json")


_CHECKS: Final[Mapping[str, Callable[[object], Any]]] = {
    "addr": _text, "state_dir": _path, "database_url": _text, "roles": _roles,
    "workers": _number(1, 64, whole=True), "jobs_per_worker": _number(1, 256, whole=True),
    "max_jobs": _number(0, 10_000, whole=True), "jobs_per_site": _number(1, 10_000, whole=True),
    "export_roots": lambda value: tuple(_path(item) for item in value) if isinstance(value, list | tuple) else _texts(value),
    "auth": _flag, "public_metrics": _flag, "tls_cert": _path, "tls_key": _path, "tls_self_signed": _flag, "allowed_hosts": _hosts,
    "trusted_proxies": _networks,
    "allowed_endpoints": _texts, "endpoint_config": _path, "key_file": _path,
    "rate_per_minute": _number(1, 1_000_000, whole=True), "rate_per_address_per_minute": _number(1, 1_000_000, whole=True),
    "login_rate_per_minute": _number(1, 10_000, whole=True), "max_body_bytes": _size,
    "header_timeout_s": _number(0.1, 600, whole=False), "request_timeout_s": _number(1, 3600, whole=False),
    "session_hours": _number(0.01, 24 * 365, whole=False), "retention_days": _number(1, 36_500, whole=True), "log_format": _format,
    "streams_per_host": _number(1, 1024, whole=True), "streams_per_vcenter": _number(1, 1024, whole=True),
    "bandwidth_limit": _size, "datastore_floor_percent": _number(0, 100, whole=False), "datastore_floor_bytes": _size,
    "space_wait_s": _number(0, 30 * 86_400, whole=False), "take_over_s": _number(2, 3600, whole=False),
    "drain_s": _number(0, 3600, whole=False),
}  # fmt: skip
assert set(_CHECKS) == {one.name for one in fields(DaemonSettings)}, "a key without a check, or a check without a key"
assert all(one.default is not MISSING or one.default_factory is not MISSING for one in fields(DaemonSettings))


def _without_password(url: str) -> str:
    from hypersdk.state.database import parse_url

    return parse_url(url).render_as_string(hide_password=True)


def _toml_line(name: str, value: object) -> str:
    if value is None:
        return f"# {name} ="
    if isinstance(value, bool):
        return f"{name} = {'true' if value else 'false'}"
    if isinstance(value, int | float):
        return f"{name} = {value}"
    if isinstance(value, list | tuple):
        return f"{name} = [{', '.join(_quoted(str(item)) for item in value)}]"
    return f"{name} = {_quoted(str(value))}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
