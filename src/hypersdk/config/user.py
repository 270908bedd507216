"""The user's configuration file, ``$XDG_CONFIG_HOME/hypersdk/config.toml``.

Two tables: ``[connection]`` has the address and login of vSphere, ``[export]`` has defaults of ``hyper2kvm export``.
An unknown key is an error that names it. The order of precedence is flag, environment, file, built-in default.

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

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from hypersdk.config.folders import config_folder
from hypersdk.config.toml import TomlFile, table, unknown
from hypersdk.config.values import Flag, Size, Takes, Text, whole
from hypersdk.errors import UsageError, register
from hypersdk.remedies import First, NameConfiguration, Retry
from hypersdk.units import KiB

CONFIG_BAD: Final = register(
    "config_invalid",
    "The configuration file is invalid.",
    First("correct the file"),
    Retry(),
    NameConfiguration(),
)
CONFIG_EXPOSED: Final = register(
    "config_exposed",
    "The file holds a password and other users of this host can read it.",
    "Run `chmod 600` on it, or move the password to a file of its own and set `password_file`.",
)

MAX_CONFIG_BYTES: Final = 64 * KiB
"""A configuration is a page of text; a larger file was given by mistake."""
MAX_RETRIES: Final = 1024
"""Limit of the retries of a failed stream, by flag and by configuration; 0 is none."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """``[connection]``; None: not set. ``password`` is not part of the repr."""

    url: Text | None = None
    username: Text | None = None
    password: Text | None = field(default=None, repr=False)
    password_file: Text | None = None
    thumbprint: Text | None = None
    ca_bundle: Text | None = None
    insecure: Flag = False
    datacenter: Text | None = None
    known_hosts: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportDefaults:
    """``[export]``; None: not set. Sizes are in bytes."""

    output_dir: Text | None = None
    format: Literal["qcow2", "raw", "ovf", "ova", "vmdk"] | None = None
    compress: Literal["none", "checked", "unchecked", "repack"] | None = None
    source: Literal["auto", "lease", "datastore"] | None = None
    file_hash: Literal["tree", "sha256", "none"] | None = None
    parallel: Annotated[int, whole(1, 1024)] | None = None
    max_machines: Annotated[int, whole(1, 1024)] | None = None
    streams_per_host: Annotated[int, whole(1, 1024)] | None = None
    streams_per_vcenter: Annotated[int, whole(1, 1024)] | None = None
    bandwidth_limit: Size | None = None
    retries: Annotated[int, whole(0, MAX_RETRIES)] | None = None
    space_wait_s: Annotated[int, Takes("seconds, from 0 to 2592000", {"ge": 0, "le": 30 * 86_400})] | None = None

    def given(self) -> dict[str, object]:
        """The values that the file sets, by key."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. ``path`` is None where there is none."""

    connection: Connection = Connection()
    export: ExportDefaults = ExportDefaults()
    path: Path | None = None


def load_config(environ: Mapping[str, str], named: Path | None = None) -> Config:
    """Reads ``named``, which must exist, or else the user's own file, which is optional. Raises UsageError for an
    invalid file."""
    path = named or config_folder(environ) / "config.toml"
    file = TomlFile(path, CONFIG_BAD, MAX_CONFIG_BYTES)
    content = file.read()
    if content is None:
        if named is None:
            return Config()
        raise UsageError(f"there is no configuration file {path}", code=CONFIG_BAD)
    for name, values in content.document.items():
        if name not in ("connection", "export"):
            raise unknown(name, ["connection", "export"], code=CONFIG_BAD, where=str(path), what="table")
        if not isinstance(values, dict):
            raise file.error(f"has a value where the table [{name}] should be")

    def read(shape: type[T], name: str) -> T:
        values = content.document.get(name, {})
        return table(shape, values, code=CONFIG_BAD, where=str(path), of=f" in [{name}]")

    config = Config(read(Connection, "connection"), read(ExportDefaults, "export"), path)
    if config.connection.password is not None and content.exposed:
        raise UsageError(f"{path} holds a password and has mode {content.mode:04o}", code=CONFIG_EXPOSED)
    return config
