"""Words for people."""

from __future__ import annotations

from hypersdk.text import clean

__all__ = ["clean", "count"]


def count(number: int, noun: str) -> str:
    """``1 disk``, ``2 disks``, ``1,234 machines``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
