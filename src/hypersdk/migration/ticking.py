"""Threads that repeat an action while a block runs: progress reports, checks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hypersdk.model import ExportProgress


@contextmanager
def repeated(action: Callable[[], None], interval_s: float, name: str) -> Iterator[None]:
    """Calls ``action`` every ``interval_s`` in a thread called ``name`` while the block runs."""
    stopped = threading.Event()

    def repeat() -> None:
        while not stopped.wait(interval_s):
            action()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def ticking(
    snapshots: Sequence[Callable[[], ExportProgress]],
    observer: Callable[[Sequence[ExportProgress]], None],
    interval_s: float,
) -> Iterator[None]:
    """Calls ``observer`` with all ``snapshots`` every ``interval_s`` while the block runs, and once more at its end."""

    def report() -> None:
        observer([snapshot() for snapshot in snapshots])

    try:
        with repeated(report, interval_s, "progress"):
            yield
    finally:
        report()
