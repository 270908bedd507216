"""Receipts of copied disks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypersdk.transfer.receipt import Receipt
from hypersdk.units import MiB


def make_receipt(**changes: Any) -> Receipt:
    """Of a disk of 1 MiB that was copied without a hitch."""
    receipt = Receipt(
        label="Hard disk 1",
        capacity_bytes=MiB,
        content="c",
        stream=None,
        wire_bytes=0,
        written_bytes=0,
        data_bytes=0,
        blocks_written=0,
        blocks_skipped=0,
        blocks_zero=0,
        attempts=1,
        elapsed_s=1.0,
        route="memory",
    )
    return replace(receipt, **changes)
