"""How many streams may run at once: per ESXi host and per vCenter.

An ESXi host has one small pool for the buffers of all its NFC streams (48 MB in version 7, 96 MB in 8), shared with
backups. When a host reports that the pool is exhausted, the number of our streams there is halved, and raised by one
for each minute without another such report.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.progress import Waiting, unseen

EXHAUSTED_CODE: Final = "nfc_exhausted"
"""Code of the TransientError of a host that has no memory for another stream."""
PER_HOST: Final = 8
PER_VCENTER: Final = 40
"""vCenter relays about 52 NFC connections; other programs need some of them."""
GROW_AFTER_S: Final = 60.0
SETTLE_S: Final = 5.0
"""Streams that fail within this time count as one refusal."""
_POLL_S: Final = 0.2


@dataclass(slots=True)
class _Host:
    allowed: int
    quiet_since: float
    running: int = 0
    refused_at: float = -SETTLE_S


@dataclass(frozen=True, slots=True)
class HostUse:
    """Streams of one host: ``running`` now, ``allowed`` at the moment."""

    running: int
    allowed: int


class StreamBudget:
    """Shared by all disks of all machines of one vCenter (or standalone ESXi host). Thread-safe."""

    def __init__(
        self,
        per_host: int = PER_HOST,
        per_vcenter: int = PER_VCENTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if per_host < 1 or per_vcenter < 1:
            raise ValueError(f"a budget of {per_host} streams per host and {per_vcenter} in all")
        self._per_host = per_host
        self._per_vcenter = per_vcenter
        self._clock = clock
        self._changed = threading.Condition()
        self._hosts: dict[str, _Host] = {}
        self._running = 0

    @contextmanager
    def stream(self, host: str, cancel: CancelToken, waiting: Waiting = unseen) -> Iterator[None]:
        """Reserves a stream of ``host`` while the block runs. Waits until one is free; raises Cancelled."""
        with self._changed:
            known = self._host(host)
            if not self._has_room(known):
                with waiting(f"waiting for a free stream on {host}"):
                    while not self._has_room(known):
                        cancel.check()
                        self._changed.wait(_POLL_S)
            cancel.check()
            known.running += 1
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                known.running -= 1
                self._running -= 1
                self._changed.notify_all()

    def exhausted(self, host: str) -> None:
        """Halves the streams of ``host``, which refused one for lack of memory."""
        with self._changed:
            known, now = self._host(host), self._clock()
            known.quiet_since = now
            if now - known.refused_at >= SETTLE_S:
                known.allowed = max(1, min(known.allowed, known.running) // 2)
                known.refused_at = now

    def use(self, host: str) -> HostUse:
        """Returns the current use of ``host``."""
        with self._changed:
            known = self._host(host)
            return HostUse(known.running, known.allowed)

    def _has_room(self, known: _Host) -> bool:
        self._grow(known)
        return known.running < known.allowed and self._running < self._per_vcenter

    def _grow(self, known: _Host) -> None:
        now = self._clock()
        while known.allowed < self._per_host and now - known.quiet_since >= GROW_AFTER_S:
            known.allowed += 1
            known.quiet_since += GROW_AFTER_S

    def _host(self, host: str) -> _Host:
        return self._hosts.setdefault(host, _Host(self._per_host, self._clock()))
