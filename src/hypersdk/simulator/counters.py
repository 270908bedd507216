"""Counts of what the simulator served, so that tests can check that clients do no needless work."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Thread-safe counts since the start or the last reset.

    ``calls`` by API method; ``stream_bytes`` body bytes by ``machine:index`` for NFC; ``opened`` how often each NFC
    file was opened; ``ranges`` the ``(offset, length)`` served of each ``/folder`` file; ``streams_now`` and
    ``streams_peak`` NFC streams by host name; ``range_streams_now`` and ``range_streams_peak`` the same for
    ``/folder``; ``via_vcenter`` NFC streams of a host that came through vCenter's address; ``connections`` accepted TCP
    connections.

    Bytes are counted when they are handed to the network, and a stream counts as closed before its last byte is sent:
    a client that has read a whole response finds it in the counters.
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
        """Sets all counts to zero; open streams stay counted as open."""
        with self.lock:
            for counter in (self.calls, self.stream_bytes, self.opened, self.via_vcenter):
                counter.clear()
            self.ranges.clear()
            for peak, now in (
                (self.streams_peak, self.streams_now),
                (self.range_streams_peak, self.range_streams_now),
            ):
                peak.clear()
                peak.update({host: count for host, count in now.items() if count})
            self.connections = 0

    def call(self, method: str) -> None:
        """One API call."""
        with self.lock:
            self.calls[method] += 1

    def connected(self) -> None:
        """One TCP connection accepted."""
        with self.lock:
            self.connections += 1

    def open_stream(self, host: str, file: str, *, via_vcenter: bool) -> OpenStream:
        """Counts an NFC stream of ``host`` until it is closed."""
        with self.lock:
            self.opened[file] += 1
            self.via_vcenter[host] += via_vcenter
        return OpenStream(self, host, file, self.streams_now, self.streams_peak)


class OpenStream:
    """One stream that is being sent. ``number`` is how many were open on its host when it began, itself included."""

    def __init__(self, counters: Counters, host: str, file: str, now: Counter[str], peak: Counter[str]) -> None:
        self._counters = counters
        self._host = host
        self._file = file
        self._now = now
        self._open = True
        with counters.lock:
            now[host] += 1
            self.number = now[host]
            peak[host] = max(peak[host], self.number)

    def sent(self, count: int) -> None:
        """Counts ``count`` more body bytes."""
        with self._counters.lock:
            self._counters.stream_bytes[self._file] += count

    def close(self) -> None:
        """Ends the count of the stream. Idempotent."""
        with self._counters.lock:
            if self._open:
                self._open = False
                self._now[self._host] -= 1


class OpenRange(OpenStream):
    """One answer of ``/folder`` that is being sent."""

    def __init__(self, counters: Counters, host: str, file: str, offset: int) -> None:
        super().__init__(counters, host, file, counters.range_streams_now, counters.range_streams_peak)
        self._offset = offset
        self._sent = 0
        with counters.lock:
            self._served = counters.ranges[file]
            self._place = len(self._served)
            self._served.append((offset, 0))

    def sent(self, count: int) -> None:
        """Counts ``count`` more body bytes."""
        self._sent += count
        with self._counters.lock:
            self._served[self._place] = (self._offset, self._sent)
