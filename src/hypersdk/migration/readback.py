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
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """Cancellation and progress of reading: ``observer`` is called at most ten times a second."""

    cancel: CancelToken
    observer: Observer | None = None
    clock: Clock = time.monotonic


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


def digests_of(
    descriptor: int, label: str, algorithms: Iterable[str], reading: Reading, *, start: int = 0, length: int
) -> dict[str, str]:
    """Hex digests, by algorithm (``SHA256``), of ``length`` bytes from ``start``, or of as many as exist.

    Holes are hashed but not read (``transfer.holes``).
    """
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    report = _Report(label, length, reading)
    done = 0
    report.show(done, last=length == 0)
    for piece in pieces(descriptor, range(start, start + length)):
        reading.cancel.check()
        for hasher in hashers.values():
            hasher.update(piece)
        done += len(piece)
        report.show(done, last=done == length)
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


class _Report:
    """Progress of one file, at a bounded rate; the end is always reported."""

    def __init__(self, label: str, total: int, reading: Reading) -> None:
        self._label = label
        self._total = total
        self._reading = reading
        self._began = self._shown = reading.clock()

    def show(self, done: int, *, last: bool) -> None:
        """Reports to the observer, unless it was called a moment ago."""
        observer = self._reading.observer
        now = self._reading.clock()
        if observer is None or (not last and done and now - self._shown < REPORT_INTERVAL_S):
            return
        self._shown = now
        rate = done / (now - self._began) if now > self._began and done else None
        observer(
            DiskProgress(
                label=self._label,
                file_name=self._label,
                phase=Phase.DONE if last else Phase.VERIFYING,
                capacity_bytes=self._total,
                wire_bytes=done,
                fraction=done / self._total if self._total else 1.0,
                basis=Basis.BYTES_READ,
                rate_bytes_s=rate,
                eta_s=(self._total - done) / rate if rate else None,
            )
        )
