"""The proof of a copy, where its blocks were not checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypersdk.migration.runfile import DiskRecord

PROVED: Final = "proved"
NOR_CHECKED: Final = ", and the blocks were not checked"


def with_checks(proof: str, disks: Sequence[DiskRecord], warn: Callable[[str], None]) -> str:
    """``proof`` as the manifest has it. Where it is ``unproved: ...`` and no block of a disk was looked at, nothing
    proves the copy: that is added to it, and is a warning."""
    unchecked = any(disk.receipt is not None and disk.receipt.content is None for disk in disks)
    if proof.startswith(PROVED) or not unchecked:
        return proof
    proof += NOR_CHECKED
    warn(f"nothing proves that the copy is intact; {proof}")
    return proof
