"""The progress of one migration: that of its export, then the phase of each step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.model import MAX_UNFINISHED_FRACTION, ExportProgress, Phase


class MigrationProgress:
    """Thread-safe. ``exporting`` is the progress of the export; of one that was finished before, it is empty."""

    def __init__(self, exporting: Callable[[], ExportProgress], clock: Callable[[], float] = time.monotonic) -> None:
        self._exporting = exporting
        self._clock = clock
        self._lock = threading.Lock()
        self._step: tuple[Phase, str] | None = None
        self._began: float | None = None
        self._ended: float | None = None

    def begin(self) -> None:
        """From now on time passes."""
        self._began = self._clock()

    def enter(self, phase: Phase, note: str = "") -> None:
        """The export is finished, and a step is in this phase; ``note`` is one line for users."""
        with self._lock:
            self._step = phase, note

    def end(self, error: HyperSDKError | None) -> None:
        """Time stands still."""
        self._ended = self._clock()
        if error is None:
            self.enter(Phase.DONE)
        else:
            self.enter(Phase.CANCELLED if isinstance(error, Cancelled) else Phase.FAILED, error.message)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return 0.0 if self._began is None else (self._ended or self._clock()) - self._began

    def snapshot(self) -> ExportProgress:
        """The current state. The bar is that of the copy: how long a step takes is not known."""
        now = self._exporting()
        with self._lock:
            step = self._step
        if step is None:
            return replace(now, phase=Phase.LANDING) if now.phase is Phase.DONE else now
        phase, note = step
        return replace(
            now,
            phase=phase,
            note=note,
            fraction=1.0 if phase is Phase.DONE else min(now.fraction, MAX_UNFINISHED_FRACTION),
            elapsed_s=self.elapsed_s,
            rate_bytes_s=None,
            eta_s=None,
            lease_age_s=None,
        )
