"""Foreign text on its way to a terminal: names of machines, folders and files come from others and may hold anything."""

from __future__ import annotations

import re
from typing import Final

_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls: an escape sequence in a name must not reach the terminal
    "\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # invisible and bidirectional controls: they reorder what is shown
    "\ud800-\udfff]"  # lone surrogates cannot be encoded
)


def clean(text: str, limit: int = 4096) -> str:
    """``text`` in one line without control characters; ``limit`` bounds what a hostile server can make us print."""
    shown = _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def count(number: int, noun: str) -> str:
    """``1 disk``, ``2 disks``, ``1,234 machines``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
