"""Numbers, units and warnings of descriptors. Invalid values are None: the caller adds a warning, or raises where the
content of a disk depends on it."""

from __future__ import annotations

import re
from typing import Final

from hypersdk.formats.ovf.layout import MAX_CAPACITY_BYTES
from hypersdk.units import GiB, KiB, MiB, TiB

_UNIT_WORDS: Final = {
    "byte": 1, "bytes": 1, "b": 1,
    "kilobyte": KiB, "kilobytes": KiB, "kb": KiB, "kib": KiB,
    "megabyte": MiB, "megabytes": MiB, "mb": MiB, "mib": MiB,
    "gigabyte": GiB, "gigabytes": GiB, "gb": GiB, "gib": GiB,
    "terabyte": TiB, "terabytes": TiB, "tb": TiB, "tib": TiB,
}  # fmt: skip
"""OVF 0.9 and many later tools use a word where DSP0004 has ``byte * 2^20``."""
_FACTOR: Final = re.compile(r"(\d{1,18})(?:\s*\^\s*(\d{1,2}))?")
_MAX_FACTORS: Final = 8
MAX_WARNINGS: Final = 50


class Warnings:
    """Warnings about a descriptor: each once, and at most ``MAX_WARNINGS``."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Adds ``text``; names in it that come from the descriptor must be quoted by ``shown``."""
        self._texts[text] = None

    def all(self) -> tuple[str, ...]:
        """Returns them in the order in which they were added."""
        texts = tuple(self._texts)
        more = len(texts) - MAX_WARNINGS
        return texts if more <= 0 else (*texts[:MAX_WARNINGS], f"{more} more warnings about the descriptor")


def shown(text: str | None) -> str:
    """A value of the descriptor, quoted, on one line and short enough for a message."""
    return f"'{' '.join((text or '').split())[:60]}'"


def small_number(text: str | None) -> int | None:
    """Parses a count or an address; None for anything but a number of up to nine digits."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def amount(text: str | None, unit: str | None) -> int | None:
    """Returns ``text`` times ``unit`` in bytes; None for a fraction, a ``${property}``, an unknown unit, or 2^63 bytes
    and more."""
    if not (text and text.isascii() and text.isdigit() and len(text) < 20):
        return None
    factor = unit_bytes(unit or "byte")
    value = None if factor is None else int(text) * factor
    return value if value is not None and value <= MAX_CAPACITY_BYTES else None


def unit_bytes(unit: str) -> int | None:
    """Returns the bytes of a unit: ``byte * 2^20`` (DSP0004), ``byte * 1024 * 1024``, ``MegaBytes``, ``MB``; None for
    another one."""
    word, *factors = (part.strip() for part in unit.split("*", _MAX_FACTORS))
    value = _UNIT_WORDS.get(word.lower())
    for factor in factors:
        match = _FACTOR.fullmatch(factor)
        if match is None or value is None:
            return None
        base = int(match[1])
        if match[2] is None:
            value *= base
        elif base in (2, 10):
            value *= base ** int(match[2])
        else:
            return None
    return value
