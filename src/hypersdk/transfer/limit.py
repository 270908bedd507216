"""Bandwidth limit: a bucket that all streams of a run share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB

CREDIT_S: Final = 0.05
"""How much unused time may be made up for: short enough that no second carries 5 % more than it may."""
_STEP_S: Final = 0.1
_STEP_MIN: Final = 16 * KiB
_STEP_MAX: Final = 4 * MiB


class BandwidthLimit:
    """At most ``bytes_s`` bytes in a second, over all who ``take``.

    Bytes are paid for after they were read: each ``take`` books the next free stretch of time and sleeps to its end.
    The sender is slowed down by its own full socket.
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
        """Read no more than this at a time, for an even flow: a tenth of a second's worth."""
        return max(_STEP_MIN, min(int(self.bytes_s * _STEP_S), _STEP_MAX))

    def book(self, count: int) -> float:
        """Books ``count`` bytes and returns the seconds to wait until they are paid for."""
        with self._lock:
            now = self._clock()
            self._booked_until = max(self._booked_until, now - CREDIT_S) + count / self.bytes_s
            return self._booked_until - now

    def take(self, count: int, cancel: CancelToken) -> None:
        """Books ``count`` bytes and waits until they are paid for. Raises Cancelled at once when cancelled."""
        wait_s = self.book(count)
        if wait_s > 0:
            cancel.sleep(wait_s)
