"""Folders of the XDG base directory specification. As it requires, a relative or empty path in one of its variables is
ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NAME: Final = "hypersdk"


def config_folder(environ: Mapping[str, str]) -> Path:
    """``$XDG_CONFIG_HOME/hypersdk``, else ``~/.config/hypersdk``."""
    return config_home(environ) / _NAME


def state_folder(environ: Mapping[str, str]) -> Path:
    """``$STATE_DIRECTORY`` (systemd.exec(5)), else ``$XDG_STATE_HOME/hypersdk``, else ``~/.local/state/hypersdk``."""
    return service_state(environ) or user_state(environ)


def service_state(environ: Mapping[str, str]) -> Path | None:
    """The first folder of ``$STATE_DIRECTORY``; None where systemd gives none."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else None


def user_state(environ: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/hypersdk``, else ``~/.local/state/hypersdk``."""
    return _base(environ, "XDG_STATE_HOME", ".local/state") / _NAME


def config_home(environ: Mapping[str, str]) -> Path:
    """``$XDG_CONFIG_HOME``, else ``~/.config``: the folder that all programs of the user share."""
    return _base(environ, "XDG_CONFIG_HOME", ".config")


def data_home(environ: Mapping[str, str]) -> Path:
    """``$XDG_DATA_HOME``, else ``~/.local/share``."""
    return _base(environ, "XDG_DATA_HOME", ".local/share")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """``$XDG_CACHE_HOME/hypersdk``, else ``~/.cache/hypersdk``: what is there may be removed at any time."""
    return _base(environ, "XDG_CACHE_HOME", ".cache") / _NAME


def _base(environ: Mapping[str, str], variable: str, default: str) -> Path:
    given = environ.get(variable, "")
    return Path(given) if given.startswith("/") else Path(environ.get("HOME") or Path.home()) / default
