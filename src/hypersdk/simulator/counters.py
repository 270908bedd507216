"""What the simulator served: so that tests can prove economy."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Thread-safe counts since the start or the last reset.

    ``calls`` by API method; ``stream_bytes`` body bytes by ``machine:index`` for NFC; ``opened`` how often each NFC file was
    opened; ``ranges`` the ``(offset, length)`` served of each ``/folder`` file; ``streams_now`` and ``streams_peak`` NFC streams by host
    name; ``range_streams_peak`` the same for ``/folder``; ``connections`` accepted TCP connections.
    """

    calls: Counter[str] = field(default_factory=Counter)
    stream_bytes: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    ranges: defaultdict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    streams_now: Counter[str] = field(default_factory=Counter)
    streams_peak: Counter[str] = field(default_factory=Counter)
    range_streams_now: Counter[str] = field(default_factory=Counter)
    range_streams_peak: Counter[str] = field(default_factory=Counter)
    via_vcenter: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Back to zero; streams that are open stay counted as open."""
        with self.lock:
            for counter in (self.calls, self.stream_bytes, self.opened, self.via_vcenter):
                counter.clear()
            self.ranges.clear()
            self.streams_peak = Counter(self.streams_now)
            self.range_streams_peak = Counter(self.range_streams_now)
            self.connections = 0

    def call(self, method: str) -> None:
        """One API call."""
        with self.lock:
            self.calls[method] += 1

    def connected(self) -> None:
        """One TCP connection accepted."""
        with self.lock:
            self.connections += 1

    def sent(self, file: str, count: int) -> None:
        """``count`` body bytes of an NFC file."""
        with self.lock:
            self.stream_bytes[file] += count

    def served(self, file: str, offset: int, length: int) -> None:
        """A range of a ``/folder`` file, as far as it was sent."""
        with self.lock:
            self.ranges[file].append((offset, length))

    @contextmanager
    def nfc_stream(self, host: str, file: str, *, via_vcenter: bool) -> Iterator[int]:
        """Counts an NFC stream while it is open; gives how many are open on the host, this one included."""
        with self.lock:
            self.opened[file] += 1
            self.via_vcenter[host] += via_vcenter
            self.streams_now[host] += 1
            self.streams_peak[host] = max(self.streams_peak[host], self.streams_now[host])
            now = self.streams_now[host]
        try:
            yield now
        finally:
            with self.lock:
                self.streams_now[host] -= 1

    @contextmanager
    def range_stream(self, host: str) -> Iterator[None]:
        """Counts a ``/folder`` answer while it is being sent."""
        with self.lock:
            self.range_streams_now[host] += 1
            self.range_streams_peak[host] = max(self.range_streams_peak[host], self.range_streams_now[host])
        try:
            yield
        finally:
            with self.lock:
                self.range_streams_now[host] -= 1
