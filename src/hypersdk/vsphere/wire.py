"""The receiving half of an HTTPS connection: time-outs, framing, and no copy of the data.

::

    TLS ──read──> caller's buffer             a body's data: all that has arrived, no copy
        └─read──> ahead, 128 KiB ──> lines    heads, chunk sizes, trailers; what data lies behind them is copied once

``http.client``'s own body reader is not used: it cannot continue after a time-out, so a cancel would be noticed only
after a whole stall. Here the wait is cut into slices. A stall is counted from the last byte, not over the transfer: a
slow stream is not an error.
"""

from __future__ import annotations

import http.client
import re
import time
from contextlib import suppress
from typing import Final

from hypersdk.errors import SourceError, TransientError, register
from hypersdk.net.tlsstream import TlsStream
from hypersdk.remedies import First, Resume
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB

SLICE_S: Final = 0.25
"""Longest wait between two checks of the cancel token."""
AHEAD_BYTES: Final = 128 * KiB
HEAD_BYTES: Final = 128 * KiB
"""Limit of all heads of one exchange together, interim answers included; the same for trailers."""
CHUNK_LINE_BYTES: Final = KiB

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")

CONNECTION_RESET: Final = register(
    "connection_reset",
    "The connection was closed by the server or by a device on the network path.",
    First("check the network path and firewalls with idle timeouts"),
    Resume(),
)
STREAM_STALLED: Final = register(
    "stream_stalled",
    "The server sent no data for too long.",
    First("check the load of the ESXi host and its datastore"),
    Resume(),
)
SHORT_BODY: Final = register(
    "short_body",
    "The server ended its answer before all announced data was sent.",
    Resume(),
    "If it happens again, check the ESXi host's hostd log.",
)
BAD_REPLY: Final = register(
    "bad_reply",
    "The answer is not valid for HTTP or vSphere.",
    "Check for a proxy that alters traffic between this host and vSphere.",
)


class Wire:
    """A TLS connection, read in slices of time."""

    def __init__(self, sock: TlsStream, peer: str, cancel: CancelToken, stall_s: float) -> None:
        sock.settimeout(min(SLICE_S, stall_s))
        self.peer = peer
        self.cancel = cancel
        self._sock = sock
        self._stall_s = stall_s
        self._ahead = bytearray(AHEAD_BYTES)
        self._ahead_view = memoryview(self._ahead)
        self._at = self._end = 0

    @property
    def drained(self) -> bool:
        """Whether all data that was read ahead has been consumed."""
        return self._at == self._end

    def read(self, view: memoryview, *, wait: bool = True) -> int:
        """Reads some bytes into ``view``, which is not empty.

        At least one; 0 at the end of the connection; -1 when ``wait`` is false and none came within a slice. Raises
        TransientError on reset and stall, Cancelled when cancelled.
        """
        if self._at < self._end:
            return self._take(view)
        return self._receive(view, wait=wait)

    def readline(self, limit: int) -> bytes:
        """Reads up to and including the next newline, at most ``limit`` bytes; without a newline at the end of the
        connection."""
        line = self._line_ahead(limit)
        while len(line) < limit and not line.endswith(b"\n") and self._read_ahead():
            line += self._line_ahead(limit - len(line))
        return line

    def sendall(self, data: bytes) -> None:
        """Sends a request's head; it fits into the socket's own buffer."""
        self.cancel.check()
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise broken(self.peer, error) from error

    def close(self) -> None:
        """Drops the connection."""
        with suppress(OSError):  # nothing is lost: all data has been read
            self._sock.close()

    def _take(self, view: memoryview) -> int:
        count = min(len(view), self._end - self._at)
        view[:count] = self._ahead_view[self._at : self._at + count]
        self._at += count
        return count

    def _line_ahead(self, limit: int) -> bytes:
        """The part of the next line that was read ahead."""
        start, stop = self._at, min(self._at + limit, self._end)
        self._at = self._ahead.find(b"\n", start, stop) + 1 or stop
        return bytes(self._ahead_view[start : self._at])

    def _read_ahead(self) -> bool:
        self._at = self._end = 0
        self._end = self._receive(self._ahead_view, wait=True)
        return self._end > 0

    def _receive(self, view: memoryview, *, wait: bool) -> int:
        """As ``read``, from the connection."""
        started: float | None = None
        while True:
            try:
                return self._sock.read(view)
            except TimeoutError as error:
                if not wait:
                    return -1
                started = started or time.monotonic() - SLICE_S
                self._check_stalled(started, error)
            except OSError as error:
                raise broken(self.peer, error) from error

    def _check_stalled(self, started: float, error: TimeoutError) -> None:
        """Raises when cancelled or stalled; for after a slice without a byte."""
        self.cancel.check()
        if time.monotonic() - started >= self._stall_s:
            raise TransientError(
                f"{self.peer} sent nothing for {self._stall_s:g} s", code=STREAM_STALLED, stall_s=self._stall_s
            ) from error


def broken(peer: str, error: OSError) -> TransientError:
    """The error for a connection to ``peer`` that ended with ``error``."""
    # Not the error's own text: some carry address tuples and source lines.
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return TransientError(f"the connection to {peer} broke: {reason}", code=CONNECTION_RESET)


class Head:
    """The file that ``http.client`` reads an answer's head from. Its total size is limited, so that endless interim
    answers end too."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._left = HEAD_BYTES

    def makefile(self, _mode: str) -> Head:
        """The reader, for ``http.client.HTTPResponse``."""
        return self

    def readline(self, limit: int) -> bytes:
        """One line; LineTooLong (of ``http.client``) when the head does not end."""
        line = self._wire.readline(min(limit, self._left))
        self._left -= len(line)
        if not self._left:
            raise http.client.LineTooLong("head")
        return line

    def flush(self) -> None:
        """Does nothing: it is only read from."""

    def close(self) -> None:
        """Does nothing: the connection outlives the head."""


class PlainBody:
    """A body of ``length`` bytes (Content-Length); without a length it ends with TLS's close_notify, and a connection
    that merely drops has raised before. ``ended``: the end is confirmed."""

    def __init__(self, wire: Wire, length: int | None) -> None:
        self._wire = wire
        self._left = length
        self.ended = length == 0

    def read(self, view: memoryview, *, wait: bool) -> int:
        """As ``Wire.read``, with 0 for the confirmed end. Raises TransientError ``short_body`` when the connection ends
        before the body."""
        if self.ended:
            return 0
        count = self._wire.read(view[: self._left], wait=wait)
        if self._left is None:
            self.ended = count == 0
            return count
        if count == 0:
            raise short_body(f"{self._left} bytes are missing")
        self._left -= max(count, 0)
        self.ended = self._left == 0
        return count


class ChunkedBody:
    """Transfer-Encoding: chunked (RFC 9112, section 7.1)."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._left = 0
        self._first = True
        self.ended = False

    def read(self, view: memoryview, *, wait: bool) -> int:
        """As ``PlainBody.read``."""
        if self.ended or (not self._left and not self._next_chunk()):
            return 0
        count = self._wire.read(view[: self._left], wait=wait)
        if count == 0:
            raise short_body("the last chunk is missing")
        self._left -= max(count, 0)
        return count

    def _next_chunk(self) -> bool:
        """Reads the next chunk's size; False after the last one and its trailers."""
        if not self._first and self._line():
            raise SourceError("a chunk of the answer is longer than announced", code=BAD_REPLY)
        self._first = False
        size = _CHUNK_SIZE.match(self._line())
        if size is None:
            raise SourceError("a chunk of the answer has no valid size", code=BAD_REPLY)
        self._left = int(size[1], 16)
        if not self._left:
            self._skip_trailers()
            self.ended = True
        return not self.ended

    def _skip_trailers(self) -> None:
        left = HEAD_BYTES
        while line := self._line():
            left -= len(line)
            if left < 0:
                raise SourceError("the answer's trailers do not end", code=BAD_REPLY)

    def _line(self) -> bytes:
        line = self._wire.readline(CHUNK_LINE_BYTES)
        if line.endswith(b"\n"):
            return line.rstrip(b"\r\n")
        if len(line) == CHUNK_LINE_BYTES:
            raise SourceError("a chunk line of the answer does not end", code=BAD_REPLY)
        raise short_body("the last chunk is missing")


def short_body(what: str) -> TransientError:
    """The error for a body that ended too early; ``what`` says what is missing."""
    return TransientError(f"the answer is short: {what}", code=SHORT_BODY)
