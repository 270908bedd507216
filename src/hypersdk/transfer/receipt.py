"""The facts of a finished disk, for manifests and verification."""

from __future__ import annotations

from dataclasses import dataclass

from hypersdk.transfer.source import StreamDigests


@dataclass(frozen=True, slots=True)
class Receipt:
    """One disk, written. ``content`` is the hex BLAKE3 tree digest of the guest's bytes (``transfer.digest``), ``None``
    when grains were passed through unchecked. ``stream`` has the digests of the last complete pass; None for ranges.
    Counts are of 64 KiB blocks: ``blocks_written`` in this run, ``blocks_skipped`` found in the ledger and in the
    image, ``blocks_damaged`` found in the ledger and not in the image, ``blocks_zero`` not written because they are
    zero."""

    label: str
    capacity_bytes: int
    content: str | None
    stream: StreamDigests | None
    wire_bytes: int
    written_bytes: int
    data_bytes: int
    blocks_written: int
    blocks_skipped: int
    blocks_zero: int
    attempts: int
    elapsed_s: float
    route: str
    blocks_damaged: int = 0
