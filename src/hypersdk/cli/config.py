"""The configuration file, ``$XDG_CONFIG_HOME/hypersdk/config.toml``.

Two tables. ``[connection]`` says where vSphere is and who asks, ``[export]`` sets defaults of ``hyper2kvm export``.
What is not known is an error that names it: a misspelt ``insecure`` must not be silently ignored. The order of
precedence is flag, environment, file, built-in default.

::

    [connection]
    url = "https://vcenter.example.com"
    username = "migration@vsphere.local"
    password_file = "/etc/hypersdk/password"
    thumbprint = "AA:BB:..."

    [export]
    output_dir = "/srv/images"
    format = "qcow2"
    bandwidth_limit = "200M"
"""

from __future__ import annotations

import difflib
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from hypersdk.config.folders import config_folder
from hypersdk.errors import UsageError, register
from hypersdk.units import KiB, parse_size

CONFIG_BAD: Final = register(
    "config_invalid",
    "The configuration file holds something that cannot be used.",
    "Correct the file, or pass another one with --config.",
)
CONFIG_EXPOSED: Final = register(
    "config_exposed",
    "The file holds a password and other users of this machine can read it.",
    "Run `chmod 600` on it, or move the password into a file of its own and name it as password_file.",
)

MAX_CONFIG_BYTES: Final = 64 * KiB
"""A configuration is a page of text; a larger file was named by mistake."""
MAX_RETRIES: Final = 1024
"""Of a broken stream, by flag and by configuration; 0 is none."""

Value: TypeAlias = str | bool | int
_Check: TypeAlias = Callable[[object], Value]


def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("a non-empty text")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024:
        return value
    raise ValueError("a whole number from 1 to 1024")


def _tries(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_RETRIES:
        return value
    raise ValueError(f"a whole number from 0 to {MAX_RETRIES}")


def _seconds(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 30 * 86_400:
        return value
    raise ValueError("seconds, from 0 to 2592000")


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        try:
            size = parse_size(value)
        except UsageError as error:
            raise ValueError("a size like 20M, 1.5GiB or 500MB") from error
        if size > 0:
            return size
    raise ValueError("a size like 20M, 1.5GiB or 500MB")


def _one_of(*choices: str) -> _Check:
    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError("one of " + ", ".join(choices))

    return check


CONNECTION_KEYS: Final[Mapping[str, _Check]] = {
    "url": _text,
    "username": _text,
    "password": _text,
    "password_file": _text,
    "thumbprint": _text,
    "ca_bundle": _text,
    "insecure": _flag,
    "datacenter": _text,
    "known_hosts": _text,
}
EXPORT_KEYS: Final[Mapping[str, _Check]] = {
    "output_dir": _text,
    "format": _one_of("qcow2", "raw", "ovf", "ova", "vmdk"),
    "compress": _one_of("none", "checked", "unchecked", "repack"),
    "source": _one_of("auto", "lease", "datastore"),
    "parallel": _count,
    "max_machines": _count,
    "streams_per_host": _count,
    "streams_per_vcenter": _count,
    "bandwidth_limit": _size,
    "retries": _tries,
    "space_wait_s": _seconds,
}
TABLES: Final[Mapping[str, Mapping[str, _Check]]] = {"connection": CONNECTION_KEYS, "export": EXPORT_KEYS}


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says; empty tables where there is none. Sizes are bytes, whatever way they were written."""

    connection: Mapping[str, Value] = field(default_factory=dict, repr=False)  # may hold a password
    export: Mapping[str, Value] = field(default_factory=dict)
    path: Path | None = None


def load_config(environ: Mapping[str, str], named: Path | None = None) -> Config:
    """Reads ``named``, which must exist, or else the user's own file, which need not. Raises UsageError for what is
    wrong in it."""
    path = named or config_folder(environ) / "config.toml"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError as error:
        if named is None:
            return Config()
        raise UsageError(f"there is no configuration file {path}", code=CONFIG_BAD) from error
    except OSError as error:
        raise UsageError(f"the configuration file {path} cannot be read: {error.strerror}", code=CONFIG_BAD) from error
    config = parse_config(data, path)
    if "password" in config.connection and mode & 0o077:
        raise UsageError(f"{path} holds a password and has mode {mode:04o}", code=CONFIG_EXPOSED)
    return config


def parse_config(data: bytes, path: Path) -> Config:
    """The tables in ``data``, checked. ``path`` is for the messages. Raises UsageError that names the key."""
    if len(data) > MAX_CONFIG_BYTES:
        raise _bad(path, f"is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad(path, f"is not valid TOML: {error}") from error
    except RecursionError as error:
        raise _bad(path, "is nested too deeply") from error
    tables = {name: _table(path, name, content) for name, content in document.items()}
    return Config(tables.get("connection", {}), tables.get("export", {}), path)


def _table(path: Path, name: str, content: object) -> dict[str, Value]:
    keys = TABLES.get(name)
    if keys is None:
        raise _unknown(path, name, list(TABLES), "table")
    if not isinstance(content, dict):
        raise _bad(path, f"has a value where the table [{name}] should be")
    return {key: _value(path, name, key, value) for key, value in content.items()}


def _value(path: Path, table: str, key: str, value: object) -> Value:
    check = TABLES[table].get(key)
    if check is None:
        raise _unknown(path, key, list(TABLES[table]), f"key in [{table}]")
    try:
        return check(value)
    except ValueError as error:
        raise _bad(path, f"has a wrong value for {key} in [{table}]: it takes {error}") from error


def _unknown(path: Path, name: str, known: list[str], what: str) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Known: " + ", ".join(known) + "."
    return UsageError(f"{path} has an unknown {what}: {name[:60]!r}", code=CONFIG_BAD, next_step=hint, key=name[:60])


def _bad(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} {what}", code=CONFIG_BAD)
