"""Fingerprints that the user accepted, one ``host:port FINGERPRINT`` per line, as govc reads and writes them too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hypersdk.errors import UsageError
from hypersdk.net.address import HTTPS_PORT, host_port, split_host_port
from hypersdk.net.certificate import format_fingerprint, parse_fingerprint

MAX_FILE_BYTES: Final = 4 * 1024 * 1024


def known_fingerprint(files: Iterable[Path], host: str, port: int) -> str | None:
    """The fingerprint in the last line for ``host:port`` (443 where a line has no port) of the first file that has
    one. Invalid lines are skipped.

    Raises UsageError when a file exists and cannot be read.
    """
    for path in files:
        found = [fingerprint for name, fingerprint in _entries(path) if name == _key(host, port)]
        if found:
            return found[-1]
    return None


def remember_host(path: Path, host: str, port: int, thumbprint: str) -> None:
    """Stores the fingerprint of ``host:port`` in place of an older one. The file is replaced as a whole, readable by
    its owner only."""
    kept = [f"{name} {format_fingerprint(digits)}" for name, digits in _entries(path) if name != _key(host, port)]
    lines = [*kept, f"{_key(host, port)} {format_fingerprint(parse_fingerprint(thumbprint))}"]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


def _key(host: str, port: int) -> str:
    return host_port(host.strip("[]").lower(), port)


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
    host, port = split_host_port(name)
    try:
        return _key(host, port or HTTPS_PORT), parse_fingerprint(text)
    except UsageError:
        return None
