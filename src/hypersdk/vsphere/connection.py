"""One HTTPS connection to vSphere: proxy, certificate check and stale sockets, the same for API and data."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from hypersdk.net.certificate import (
    PeerCertificate,
    TlsPolicy,
    peer_certificate,
    ssl_context,
    unknown_error,
)
from hypersdk.net.proxy import CONNECT_TIMEOUT_S, Proxy, dial
from hypersdk.net.tlsstream import TlsStream
from hypersdk.vsphere.answers import UNKNOWN_SERVER, Answer
from hypersdk.vsphere.endpoint import Endpoint, http_proxy_for

Tls = TypeVar("Tls", ssl.SSLSocket, TlsStream)


class TrustedConnection(http.client.HTTPConnection):
    """An ``http.client`` connection whose ``connect`` verifies the certificate before anything is sent.

    ``connect`` raises ConnectError (``certificate_unknown``, ``certificate_changed``) or OSError. A kept-alive socket
    that the server has closed is replaced before the next request instead of failing it.
    """

    default_port = 443

    def __init__(
        self,
        host: str,
        port: int,
        tls: TlsPolicy,
        *,
        proxy: Proxy | None = None,
        connect_to: Callable[[], str] | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """``connect_to`` is called before each connection and returns the address to use instead of resolving ``host``;
        it raises where a connection is not allowed. The certificate is still verified for ``host``. ``limits`` are
        those of the next response."""
        super().__init__(host, port)
        self.limits = UNKNOWN_SERVER
        self._tls = tls
        self._proxy = proxy
        self._address = connect_to or (lambda: host)
        self._connect_timeout_s = connect_timeout_s
        self._handshaking: socket.socket | None = None
        self._aborted = False

    def connect(self) -> None:
        """Connects, performs the TLS handshake and verifies the certificate."""
        self.sock = self._verified(_wrapped)
        self.sock.settimeout(self.limits.silence_s)
        self._check_aborted()

    def open_stream(self) -> TlsStream:
        """As ``connect``, for large amounts of data. The stream belongs to the caller, not to this object."""
        return self._verified(TlsStream)

    def abort(self) -> None:
        """Fails calls of other threads on this connection at once. It cannot be used afterwards."""
        self._aborted = True
        sock = self.sock or self._handshaking
        if sock is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown, which removes the TLS layer while another thread reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def request(self, *args: object, **kwargs: object) -> None:
        """As ``http.client``; a socket that the server has closed is dropped first (``auto_open`` then makes a new
        one)."""
        if self.sock is not None and _has_ended(self.sock):
            self.close()
        if self.sock is not None:
            self.sock.settimeout(self.limits.silence_s)
        self.response_class = partial(Answer, limits=self.limits)  # type: ignore[assignment]
        super().request(*args, **kwargs)  # type: ignore[arg-type]

    def _verified(self, wrap: Callable[[ssl.SSLContext, socket.socket, str], Tls]) -> Tls:
        try:
            return self._handshake(self._tls, wrap)
        except ssl.SSLCertVerificationError as exc:
            if self._tls.known is None:
                raise unknown_error(self.host, exc.verify_message, self._shown()) from exc
            return self._handshake(TlsPolicy(thumbprint=self._tls.known), wrap)

    def _handshake(self, tls: TlsPolicy, wrap: Callable[[ssl.SSLContext, socket.socket, str], Tls]) -> Tls:
        sock = dial(self._address(), self.port, proxy=self._proxy, timeout_s=self._connect_timeout_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            wrapped = wrap(ssl_context(tls), sock, self.host)
            if isinstance(wrapped, ssl.SSLSocket):
                sock = wrapped  # the other one gave its descriptor away
            self._handshaking = sock
            self._check_aborted()
            wrapped.do_handshake()
        except BaseException:
            sock.close()
            raise
        finally:
            self._handshaking = None
        return wrapped

    def _check_aborted(self) -> None:
        """Raises after an ``abort`` that came while there was no socket to shut down."""
        if self._aborted:
            raise ConnectionAbortedError("the connection was aborted")

    def _shown(self) -> PeerCertificate | None:
        """The untrusted certificate, fetched once more for the message; None where that fails."""
        try:
            return peer_certificate(self._address(), self.port, proxy=self._proxy, timeout_s=self._connect_timeout_s)
        except OSError:
            return None


def _wrapped(context: ssl.SSLContext, sock: socket.socket, host: str) -> ssl.SSLSocket:
    return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)


def _has_ended(sock: socket.socket) -> bool:
    """Whether an idle connection is readable: it was closed, or holds data that no request asked for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def open_connection(
    endpoint: Endpoint,
    *,
    host: str | None = None,
    port: int | None = None,
    pin: str | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> TrustedConnection:
    """A connection (not yet open) to the endpoint, or to an ESXi ``host`` behind it.

    The endpoint's own pin and known fingerprint do not apply to another host: that one is verified by the ``pin``
    from the lease, else by the CA bundle.
    """
    name, number = host or endpoint.host, port or endpoint.port
    tls = endpoint.tls
    if (name, number) != (endpoint.host, endpoint.port):
        tls = TlsPolicy(insecure=tls.insecure, ca_bundle=tls.ca_bundle)
    if pin is not None:
        tls = replace(tls, thumbprint=pin)
    judge = endpoint.judge
    return TrustedConnection(
        name,
        number,
        tls,
        proxy=http_proxy_for(endpoint, name, number),
        connect_to=None if judge is None else lambda: judge(name, number),
        connect_timeout_s=connect_timeout_s,
    )
