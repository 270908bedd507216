"""A clock for progress: asks for the state at a bounded rate, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hypersdk.model import ExportProgress


@contextmanager
def ticking(
    snapshots: Sequence[Callable[[], ExportProgress]],
    observer: Callable[[Sequence[ExportProgress]], None],
    interval_s: float,
) -> Iterator[None]:
    """Calls ``observer`` with all ``snapshots`` every ``interval_s`` while the block runs, and once more at its end."""
    stopped = threading.Event()

    def tick() -> None:
        while not stopped.wait(interval_s):
            observer([snapshot() for snapshot in snapshots])

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        observer([snapshot() for snapshot in snapshots])
