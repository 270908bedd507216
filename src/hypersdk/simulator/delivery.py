"""Sends a response body at a limited rate and with the active faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.httpd import ClientConnection
from hypersdk.simulator.stream import STAMP_IN_GRAIN
from hypersdk.units import KiB

STEP: Final = 64 * KiB
"""With a rate or a fault, bytes go out in steps of this size."""
POLL_S: Final = 0.05


class EndEarly(Exception):  # noqa: N818
    """The body ends here, well-formed but incomplete."""


class Delivery:
    """Sends one body, in chunks if ``chunked``. ``rate_bytes_s`` is asked again and again: it may change meanwhile.

    ``alive`` says whether the lease and the simulator are still active: if not, the connection is reset, as a host
    does. ``on_fault`` is called for faults that affect more than this connection, ``count`` with the number of bytes
    before they are sent. ``length`` is that of the body where it is known: ``ending`` is called before the last byte is
    sent.
    """

    def __init__(
        self,
        connection: ClientConnection,
        faults: Sequence[Fault],
        rate_bytes_s: Callable[[], float | None],
        *,
        alive: Callable[[], bool],
        on_fault: Callable[[Fault], None],
        count: Callable[[int], None],
        ending: Callable[[], None],
        length: int | None,
        chunked: bool = False,
    ) -> None:
        self._connection = connection
        self._chunked = chunked
        self._alive = alive
        self._on_fault = on_fault
        self._count = count
        self._ending = ending
        self._length = length
        self._rate_bytes_s = rate_bytes_s
        self._slow = [fault.rate for fault in faults if fault.kind is FaultKind.SLOW]
        self._corrupt = [fault for fault in faults if fault.kind is FaultKind.CORRUPT]
        others = (fault for fault in faults if fault.kind not in (FaultKind.SLOW, FaultKind.CORRUPT))
        self._pending = sorted(others, key=lambda fault: fault.after_bytes)
        self._began = time.monotonic()
        self.sent = 0

    def send(self, data: bytes, grain_starts: Iterable[int] = ()) -> None:
        """Sends more of the body. ``grain_starts`` are stream offsets at which a flipped bit is certain to be detected.

        Raises OSError when the connection is gone, EndEarly when a fault ends the body.
        """
        if not self._alive():
            self._connection.reset()
        if self._corrupt:
            data = self._corrupted(data, list(grain_starts))
        if self._rate() is None and not (self._pending and self._pending[0].after_bytes < self.sent + len(data)):
            self._put(data)
            return
        for start in range(0, len(data), STEP):
            self._step(data[start : start + STEP])

    def _step(self, piece: bytes) -> None:
        while self._pending and self._pending[0].after_bytes < self.sent + len(piece):
            fault = self._pending.pop(0)
            before = max(0, fault.after_bytes - self.sent)
            if before:
                self._put(piece[:before])
                piece = piece[before:]
            self._apply(fault)
        self._put(piece)
        while (rate := self._rate()) and (early_s := self._began + self.sent / rate - time.monotonic()) > 0:
            self._pause(early_s)

    def _rate(self) -> float | None:
        return min((rate for rate in (self._rate_bytes_s(), *self._slow) if rate), default=None)

    def _put(self, data: bytes) -> None:
        if data:
            self.sent += len(data)
            self._count(len(data))
            if self.sent == self._length:
                self._ending()
            self._connection.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _corrupted(self, data: bytes, grain_starts: list[int]) -> bytes:
        """Flips a bit for a CORRUPT fault that is due: in the first block from its offset on, else where it points."""
        for fault in list(self._corrupt):
            starts = [start + STAMP_IN_GRAIN for start in grain_starts if start >= fault.after_bytes]
            place = (starts[0] if starts else fault.after_bytes) - self.sent
            if (starts or not grain_starts) and 0 <= place < len(data):
                data = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
                self._corrupt.remove(fault)
        return data

    def _apply(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.RESET:
                self._connection.reset()
            case FaultKind.DISCONNECT:
                self._connection.drop()
            case FaultKind.SHORT:
                raise EndEarly
            case FaultKind.STALL:
                self._wait(fault.seconds)
            case _:
                self._on_fault(fault)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._pause(left)

    def _pause(self, seconds: float) -> None:
        """A part of a wait. Raises OSError when the client, the lease or the simulator has ended."""
        time.sleep(min(seconds, POLL_S))
        if not self._alive():
            self._connection.reset()
        if self._connection.peer_gone():
            self._connection.drop()
