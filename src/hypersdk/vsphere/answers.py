"""Responses of the API, bounded before they are decoded: in bytes on the wire, in XML elements, and in time.

::

    socket ── bytes, time ──> http.client ── elements, no DTD, not compressed ──> decoder (pyVmomi, lxml)

A job may name its own server, and a mistyped address may lead to any server. A decoded element takes a hundred times
its size on the wire, and a server that sends one byte per minute would block its caller forever.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.units import KiB, MiB
from hypersdk.vsphere.wire import HEAD_BYTES


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Limits of one response.

    ``wire_bytes`` counts the body with its framing; a head has ``HEAD_BYTES``, interim answers included. From its first
    byte on it may take ``whole_s`` seconds, and one more for each ``SLOWEST_BYTES_PER_S`` received; ``silence_s`` is
    how long that first byte, or any other, may be awaited.
    """

    wire_bytes: int
    elements: int
    silence_s: float
    whole_s: float = 45.0


SLOWEST_BYTES_PER_S: Final = 8 * KiB
"""A tenth of a slow WAN line."""
REPLY_TIMEOUT_S: Final = 180.0
"""A login against a slow directory server takes tens of seconds, and so does a call of a vCenter that is busy."""

UNKNOWN_SERVER: Final = AnswerLimits(256 * KiB, 10_000, silence_s=45.0, whole_s=30.0)
"""Before the server has answered like vSphere: a list of versions and the ServiceContent, each of some KiB."""
LOGIN: Final = AnswerLimits(256 * KiB, 10_000, silence_s=REPLY_TIMEOUT_S, whole_s=30.0)
CALL: Final = AnswerLimits(4 * MiB, 100_000, silence_s=REPLY_TIMEOUT_S)
"""Answers that pyVmomi decodes: one task, one lease, one descriptor, the changed areas of a part of a disk. Expat
before 2.6 parses a token again with each 2 KiB that arrive, so an endless one takes quadratic time in this limit."""
PROPERTIES: Final = AnswerLimits(512 * MiB, 1 << 62, silence_s=REPLY_TIMEOUT_S)
"""A page of objects, decoded one at a time: the size of one object is limited by ``soap``. 45,000 machines, the most
that a vCenter manages, with all their device lists, are 360 MiB."""


class Answer(http.client.HTTPResponse):
    """A response within its limits; raises HTTPException beyond them, and TimeoutError where it takes too long."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
        *,
        limits: AnswerLimits,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        received: Any = self.fp.detach()  # a BufferedReader over the socket
        self._received = _Received(received, sock, limits)
        self.fp = io.BufferedReader(self._received)
        self._elements_left = limits.elements
        self._tail = b""

    def begin(self) -> None:
        """Reads the head. A compressed body was not requested and is refused: its real size is known only after it is
        decompressed."""
        super().begin()
        self._received.head_ended()
        if (self.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
            raise http.client.HTTPException("the answer is compressed")

    def read(self, amt: int | None = None) -> bytes:
        """As ``HTTPResponse``."""
        data = super().read(amt)
        self._elements_left -= data.count(b"<") - data.count(b"</")
        if self._elements_left < 0:
            raise http.client.HTTPException("the answer has too many elements")
        if b"\0" in data:  # UTF-16 and others, in which neither elements nor a document type would be found here
            raise http.client.HTTPException("the answer is not UTF-8")
        seen = self._tail + data
        if _DOCTYPE in seen:  # SOAP 1.1, section 3: no DTD; entities are what XML bombs are made of
            raise http.client.HTTPException("the answer has a document type")
        self._tail = seen[-len(_DOCTYPE) :]
        return data


_DOCTYPE: Final = b"<!DOCTYPE"


class _Received(io.RawIOBase):
    """The bytes of a socket, counted and timed."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, limits: AnswerLimits) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._limits = limits
        self._left = HEAD_BYTES
        self._until: float | None = None

    def head_ended(self) -> None:
        """Applies the limit of the body to what follows."""
        self._left = self._limits.wire_bytes

    def readable(self) -> bool:
        """See RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See RawIOBase."""
        self._sock.settimeout(self._patience_s())
        count: int | None = self._raw.readinto(buffer)
        if self._until is None:
            self._until = time.monotonic() + self._limits.whole_s
        if count:
            self._left -= count
            self._until += count / SLOWEST_BYTES_PER_S
        if self._left < 0:
            raise http.client.HTTPException(f"the answer is larger than {self._limits.wire_bytes} bytes")
        return count

    def close(self) -> None:
        """Releases the socket."""
        self._raw.close()
        super().close()

    def _patience_s(self) -> float:
        if self._until is None:
            return self._limits.silence_s
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("its answer takes too long")
        return min(left, self._limits.silence_s)
