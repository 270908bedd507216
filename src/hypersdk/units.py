"""Sizes and durations: parsing and formatting. Numbers carry their unit in this code base: ``4 * MiB``, ``timeout_s``,
``length_bytes``."""

from __future__ import annotations

import re
from typing import Final

from hypersdk.errors import UsageError

SECTOR: Final = 512
KiB: Final = 1024
MiB: Final = 1024 * KiB
GiB: Final = 1024 * MiB
TiB: Final = 1024 * GiB

_SUFFIXES: Final = {
    "": 1, "b": 1,
    "k": KiB, "kib": KiB, "kb": 1000,
    "m": MiB, "mib": MiB, "mb": 1000**2,
    "g": GiB, "gib": GiB, "gb": 1000**3,
    "t": TiB, "tib": TiB, "tb": 1000**4,
}  # fmt: skip
_SIZE: Final = re.compile(r"^\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})(?:/s)?\s*$")


def parse_size(text: str) -> int:
    """Bytes named by ``text``: ``20M`` and ``20MiB`` are 20 * 2**20, ``20MB`` is 20 * 10**6; a trailing ``/s`` is
    allowed.

    Raises UsageError when the text is not a size.
    """
    match = _SIZE.match(text)
    factor = _SUFFIXES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"'{text[:40]}' is not a size", next_step="Write it like 20M, 1.5GiB or 500MB.")
    return int(float(match[1]) * factor)


def format_size(size_bytes: float) -> str:
    """``size_bytes`` for users, in binary units: ``1.5 GiB``, ``512 B``."""
    if abs(size_bytes) < KiB:
        return f"{int(size_bytes)} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if abs(value) < 999.95 or unit == "PiB":
            break
    return f"{value:.1f} {unit}"


def format_rate(bytes_s: float) -> str:
    """Bytes a second for users: ``1.5 GiB/s``."""
    return f"{format_size(bytes_s)}/s"


def format_duration(seconds: float) -> str:
    """``seconds`` for users: ``0.4 s``, ``12 s``, ``3 m 05 s``, ``2 h 07 m``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def align_up(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step
