"""Reads finished files back: opened safely, with bounded memory, with progress."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.model import Basis, DiskProgress, Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import open_regular
from hypersdk.transfer.holes import pieces

REPORT_INTERVAL_S: Final = 0.1

Observer = Callable[[DiskProgress], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads files with progress, until ``cancel`` is set. ``observer`` is called at most ten times a second."""

    cancel: CancelToken
    observer: Observer | None = None

    def pieces(self, descriptor: int, label: str, region: range) -> Iterator[memoryview]:
        """The bytes of ``region``, or as many as exist. Holes are not read (``transfer.holes``)."""
        began = shown = time.monotonic()
        self._report(label, 0, len(region), 0.0)
        done = 0
        for piece in pieces(descriptor, region):
            self.cancel.check()
            yield piece
            done += len(piece)
            now = time.monotonic()
            if done == len(region) or now - shown >= REPORT_INTERVAL_S:
                shown = now
                self._report(label, done, len(region), now - began)

    def _report(self, label: str, done: int, total: int, elapsed_s: float) -> None:
        if self.observer is None:
            return
        rate = done / elapsed_s if elapsed_s and done else None
        self.observer(
            DiskProgress(
                label=label,
                file_name=label,
                phase=Phase.DONE if done == total else Phase.VERIFYING,
                capacity_bytes=total,
                wire_bytes=done,
                fraction=done / total if total else 1.0,
                basis=Basis.BYTES_READ,
                rate_bytes_s=rate,
                eta_s=(total - done) / rate if rate else None,
            )
        )


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Opens ``path`` for the block, see ``open_regular``."""
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> bytes:
    """At most ``limit + 1`` bytes of a file: one more than allowed lets the caller refuse it."""
    with opened(path) as descriptor:
        return os.pread(descriptor, limit + 1, 0)


def digests_of(pieces: Iterable[bytes | memoryview], algorithms: Iterable[str]) -> dict[str, str]:
    """Hex digests of ``pieces``, by algorithm (``SHA256``)."""
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    for piece in pieces:
        for hasher in hashers.values():
            hasher.update(piece)
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}
