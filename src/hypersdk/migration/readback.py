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
from hypersdk.transfer.treehash import tree_digest

REPORT_INTERVAL_S: Final = 0.1

Observer = Callable[[DiskProgress], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads files with progress, until ``cancel`` is set. ``observer`` is called at most ten times a second."""

    cancel: CancelToken
    observer: Observer | None = None

    def pieces(self, descriptor: int, label: str, region: range) -> Iterator[memoryview]:
        """The bytes of ``region``, or as many as exist. Holes are not read (``transfer.holes``)."""
        shown = _Shown(self.observer, label, len(region))
        for piece in pieces(descriptor, region):
            self.cancel.check()
            yield piece
            shown.add(len(piece))

    def tree(self, descriptor: int, label: str) -> str:
        """Hex tree digest of the whole file. Raises OSError and Cancelled."""
        return tree_digest(descriptor, self.cancel, _Shown(self.observer, label, os.fstat(descriptor).st_size).add)


class _Shown:
    """The progress of one file."""

    def __init__(self, observer: Observer | None, label: str, total: int) -> None:
        self._observer, self._label, self._total = observer, label, total
        self._began = self._last = time.monotonic()
        self._done = 0
        self._report(0.0)

    def add(self, count: int) -> None:
        """Counts bytes; reports them when it is time."""
        self._done += count
        now = time.monotonic()
        if self._done == self._total or now - self._last >= REPORT_INTERVAL_S:
            self._last = now
            self._report(now - self._began)

    def _report(self, elapsed_s: float) -> None:
        if self._observer is None:
            return
        done, total = self._done, self._total
        rate = done / elapsed_s if elapsed_s and done else None
        self._observer(
            DiskProgress(
                label=self._label,
                file_name=self._label,
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
