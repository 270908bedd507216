"""Prints that the user said yes to: one ``host:port PRINT`` a line, the form that govc reads and writes too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from hypersdk.errors import UsageError
from hypersdk.vsphere.certificate import normal_print, show_print

MAX_FILE_BYTES: Final = 4 * 1024 * 1024


def default_known_hosts(environ: Mapping[str, str]) -> Path:
    """``$XDG_CONFIG_HOME/hypersdk/known_hosts``."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "hypersdk" / "known_hosts"


def remembered_print(files: Iterable[Path], host: str, port: int) -> str | None:
    """The print of the last line for ``host:port`` (without port: 443) in the first file that has one; lines that are
    none are skipped.

    Raises UsageError when a file exists and cannot be read.
    """
    for path in files:
        found = [print_ for name, print_ in _entries(path) if name == _key(host, port)]
        if found:
            return found[-1]
    return None


def remember_host(path: Path, host: str, port: int, thumbprint: str) -> None:
    """Writes the print of ``host:port`` down, in place of an older one. The file is replaced as a whole, readable by
    its owner only."""
    kept = [f"{name} {show_print(digits)}" for name, digits in _entries(path) if name != _key(host, port)]
    lines = [*kept, f"{_key(host, port)} {show_print(normal_print(thumbprint))}"]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


def _key(host: str, port: int) -> str:
    name = host.strip("[]").lower()
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _entries(path: Path) -> list[tuple[str, str]]:
    """``(host:port, digits)`` of each valid line; a missing file has none."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise UsageError(f"the known-hosts file {path} cannot be read: {exc.strerror}") from exc
    return [entry for line in text.splitlines() if (entry := _entry(line)) is not None]


def _entry(line: str) -> tuple[str, str] | None:
    name, _, text = line.strip().partition(" ")
    if not text or name.startswith("#"):
        return None
    host, port = _split(name)
    try:
        return _key(host, port), normal_print(text)
    except UsageError:
        return None


def _split(name: str) -> tuple[str, int]:
    """``host`` and port of ``host``, ``host:port`` or ``[v6]:port``; 443 where none is named."""
    host, colon, port = name.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host, int(port)
    return name, 443
