"""TLS that is decrypted from memory, for streams of many gigabytes.

::

    socket ──recv_into, up to 1 MiB──> incoming ──TLS──> caller's buffer, record by record
    socket <──────send── outgoing <───────┘             answers of TLS itself: key updates, renegotiation, alerts

An ``ssl.SSLSocket`` makes two system calls for each record of 16 KiB. Here one fills the memory with as many records as
have arrived. The socket is only read when all that arrived before is decrypted, so what was received is never lost
behind an error of the socket.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from typing import Final

from hypersdk.units import MiB

RECEIVE_BYTES: Final = 1 * MiB
"""Bytes of one read of the socket, and of the ciphertext that is held."""


class TlsStream:
    """The client's end of one TLS connection. One thread at a time. It owns ``sock``, which has a time-out.

    All methods raise OSError, of which TimeoutError and ``ssl.SSLError`` are kinds.
    """

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, server_hostname: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._unsent = b""
        self._failed: ssl.SSLError | None = None

    def settimeout(self, seconds: float) -> None:
        """Limits each wait for the network."""
        self._sock.settimeout(seconds)

    def do_handshake(self) -> None:
        """Performs the handshake, which verifies the certificate as the context says."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
            except ssl.SSLError:
                with suppress(OSError):  # a server that hung up needs no alert, and the reason is this error
                    self._send()  # the alert that tells the server why
                raise
        self._send()

    def read(self, view: memoryview) -> int:
        """Fills ``view``, which is not empty, with what has arrived: at least one byte; 0 where TLS was closed in order
        (close_notify).

        Raises TimeoutError when nothing was decrypted within the time-out (a drip of bytes that are no whole record is
        nothing), and ``ssl.SSLEOFError`` when the connection ended without close_notify.
        """
        filled = self._first(view)
        while filled and filled < len(view):
            try:
                count = self._decrypt(view[filled:])
            except ssl.SSLError:  # no whole record left, or an error that the next call raises again
                break
            if not count:
                break
            filled += count
        return filled

    def sendall(self, data: bytes) -> None:
        """Sends ``data``."""
        self._tls.write(data)
        self._send()

    def close(self) -> None:
        """Drops the connection."""
        self._sock.close()

    def _first(self, view: memoryview) -> int:
        """Decrypts one record, and waits for it."""
        until: float | None = None
        while True:
            try:
                return self._decrypt(view)
            except ssl.SSLWantReadError:
                now = time.monotonic()
                until = until if until is not None else now + (self._sock.gettimeout() or 0)
                if now > until:
                    raise TimeoutError("no whole record arrived in time") from None
            self._exchange()

    def _decrypt(self, view: memoryview) -> int:
        """Decrypts one record, or what is left of it. An error stays the end: after a fatal alert, OpenSSL itself
        reports the next read as an end in order."""
        if self._failed is not None:
            raise self._failed
        try:
            count: int = self._tls.read(len(view), view)  # type: ignore[assignment]  # typeshed leaves the count out
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            self._failed = error
            raise
        return count

    def _exchange(self) -> None:
        """Sends what TLS has to say, then reads the socket once."""
        self._send()
        if self._incoming.eof:  # reading again would be an endless loop
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection ended without close_notify")
        count = self._sock.recv_into(self._received)
        if count:
            self._incoming.write(self._received[:count])
        else:
            self._incoming.write_eof()

    def _send(self) -> None:
        """Sends what TLS has to say; what does not fit now is kept for the next call."""
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
