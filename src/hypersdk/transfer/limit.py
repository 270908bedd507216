"""Bandwidth limit: a token bucket that all streams of a run share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB

CREDIT_S: Final = 0.05
"""How much unused time may be made up for: short enough that no second exceeds the limit by 5 %."""
_STEP_S: Final = 0.1
_STEP_MIN: Final = 16 * KiB
_STEP_MAX: Final = 4 * MiB


class BandwidthLimit:
    """Limits all callers of ``take`` together to ``bytes_s`` bytes per second.

    Bytes are accounted for after they were read: each ``take`` reserves the next free interval and sleeps until its
    end. The sender is slowed down by its full socket.
    """

    def __init__(self, bytes_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        if bytes_s <= 0:
            raise ValueError(f"a limit of {bytes_s} bytes/s")
        self.bytes_s = bytes_s
        self._clock = clock
        self._lock = threading.Lock()
        self._booked_until = clock()

    @property
    def step_bytes(self) -> int:
        """Most bytes of one read, for an even flow: those of a tenth of a second."""
        return max(_STEP_MIN, min(int(self.bytes_s * _STEP_S), _STEP_MAX))

    def book(self, count: int) -> float:
        """Reserves time for ``count`` bytes and returns the seconds until its end."""
        with self._lock:
            now = self._clock()
            self._booked_until = max(self._booked_until, now - CREDIT_S) + count / self.bytes_s
            return self._booked_until - now

    def take(self, count: int, cancel: CancelToken) -> None:
        """Reserves time for ``count`` bytes and waits until its end. Raises Cancelled as soon as it is cancelled."""
        wait_s = self.book(count)
        if wait_s > 0:
            cancel.sleep(wait_s)
