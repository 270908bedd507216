"""HTTPS GET for the data plane: large reads into the caller's buffer; a body ends only where the protocol confirms it.

::

    open_get(url) ──> DataConnection ── connection.py: proxy, TLS, certificate check
                           └─ get(path) ──> HttpBody.readinto(buffer) <── wire.py: time-outs, framing

``http.client`` writes the request and parses the head of the answer. No redirect is followed; the session cookie goes
to the session's own host and to no other. A reset, a stall, a body shorter than announced and the answers 408, 425,
429, 500, 502, 503 and 504 raise TransientError; everything read before the body is bounded.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, cast
from urllib.parse import urlsplit

from hypersdk.errors import SourceError, TransientError, register
from hypersdk.net.address import HTTPS_PORT, host_port
from hypersdk.net.proxy import CONNECT_TIMEOUT_S
from hypersdk.net.tlsstream import TlsStream
from hypersdk.remedies import First, Look, Resume
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB
from hypersdk.vsphere.connection import TrustedConnection, open_connection
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.faults import NFC_EXHAUSTED, clean_text, rule_for, translate
from hypersdk.vsphere.wire import (
    BAD_REPLY,
    ChunkedBody,
    Head,
    PlainBody,
    Wire,
    broken,
    short_body,
)

STALL_TIMEOUT_S: Final = 60.0
"""A data stream that sends nothing for this long is ended and retried."""
LINGER_S: Final = 1.0
"""A slow stream returns the data it has after this long, so that progress is updated."""
ERROR_TEXT_BYTES: Final = 4 * KiB
RETRY_AFTER_MAX_S: Final = 300.0
LENGTH_MAX_BYTES: Final = 1 << 60

SERVER_BUSY: Final = register(
    "server_busy",
    "The server answered that it is too busy.",
    First("wait until the server is less busy"),
    Resume(),
)
HTTP_REFUSED: Final = register(
    "http_refused",
    "The server answered the request with an error.",
    "Check the status in the message.",
    Look("connection"),
)
REDIRECT_REFUSED: Final = register(
    "redirect_refused",
    "The server answered with a redirect. Redirects are not followed: data and cookies go to no other host.",
    "Check for a captive portal or a gateway between this host and vSphere.",
)

UNAUTHORIZED: Final = 401
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_DIGITS: Final = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The session cookie for the data plane, and the only server it is sent to."""

    host: str
    port: int
    value: Secret

    def headers_for(self, host: str, port: int) -> dict[str, str]:
        """The Cookie header of a request to ``host``: none unless that is the session's own host and port."""
        if (host.lower(), port) != (self.host.lower(), self.port):
            return {}
        return {"Cookie": f"vmware_soap_session={self.value.reveal()}"}


def split_url(url: str) -> tuple[str, int, str]:
    """``(host, port, path and query)`` of an https URL that a server gave. Raises SourceError for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port or HTTPS_PORT
    except ValueError as error:
        raise SourceError("the server gave a URL that cannot be read", code=BAD_REPLY) from error
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise SourceError("the server gave a URL that is not plain https", code=BAD_REPLY)
    path = parts.path or "/"
    return parts.hostname, port, f"{path}?{parts.query}" if parts.query else path


class HttpBody(AbstractContextManager["HttpBody"]):
    """A ``ByteStream``: the body of one answer, read while it arrives. It must be closed; if it was not read to its
    end, that ends its connection."""

    def __init__(
        self, response: http.client.HTTPResponse, wire: Wire, release: Callable[[bool], None], route: str
    ) -> None:
        self.status = response.status
        self.route = route
        self._headers = response.msg
        self.length_bytes = self._content_length()
        self._wire = wire
        self._release: Callable[[bool], None] | None = release
        self._reusable = not response.will_close
        self._reader = self._framing()

    def header(self, name: str) -> str | None:
        """A header of the answer; several of one name are joined with commas."""
        found = self._headers.get_all(name)
        return ", ".join(found) if found else None

    def readinto(self, buffer: memoryview) -> int:
        """Fills ``buffer`` with the bytes that arrive within about a second; waits for the first; 0 at the confirmed
        end.

        Raises TransientError on reset, stall or a short body, Cancelled when cancelled.
        """
        self._wire.cancel.check()
        read, filled, size = self._reader.read, 0, len(buffer)
        until = time.monotonic() + LINGER_S
        while filled < size:
            count = read(buffer[filled:], wait=not filled)
            if count <= 0:
                break
            filled += count
            if time.monotonic() > until:
                break
        return filled

    def fill(self, buffer: memoryview) -> None:
        """Fills the whole ``buffer``; raises TransientError when the body ends before."""
        filled = 0
        while filled < len(buffer):
            count = self.readinto(buffer[filled:])
            if not count:
                raise short_body(f"{len(buffer) - filled} bytes of the range are missing")
            filled += count

    def text(self) -> str:
        """The beginning of the body, cleaned for display: the server's explanation of an error, if any."""
        buffer = memoryview(bytearray(ERROR_TEXT_BYTES))
        try:
            count = self.readinto(buffer)
        except SourceError:
            return ""  # the status alone decides; the text only explains
        return clean_text(bytes(buffer[:count]).decode("utf-8", "replace"))

    def close(self) -> None:
        """Ends the exchange; the connection stays usable when the body was read to its end."""
        release, self._release = self._release, None
        if release is not None:
            release(self._reusable and self._reader.ended)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _content_length(self) -> int | None:
        text = self.header("Content-Length")
        if text is None:
            return None
        if not _DIGITS.fullmatch(text) or int(text) > LENGTH_MAX_BYTES:
            raise SourceError(f"the length of the answer is '{clean_text(text[:40])}'", code=BAD_REPLY)
        return int(text)

    def _framing(self) -> PlainBody | ChunkedBody:
        transfer = (self.header("Transfer-Encoding") or "identity").strip().lower()
        content = (self.header("Content-Encoding") or "identity").strip().lower()
        if transfer not in ("identity", "chunked") or content != "identity":
            raise SourceError(f"the answer is encoded: '{clean_text(f'{transfer} {content}'[:40])}'", code=BAD_REPLY)
        if transfer == "chunked":
            self.length_bytes = None  # RFC 9112, section 6.3: chunks overrule a length
            return ChunkedBody(self._wire)
        return PlainBody(self._wire, self.length_bytes)


class DataConnection:
    """One connection to a server, used for one exchange after another. One thread at a time."""

    def __init__(self, trusted: TrustedConnection, *, cancel: CancelToken, stall_s: float = STALL_TIMEOUT_S) -> None:
        """Connects. Raises ConnectError (name, route, proxy, TLS, certificate) and Cancelled."""
        cancel.check()
        self.host, self.port = trusted.host, trusted.port
        self.name = host_port(self.host, self.port, default=HTTPS_PORT)
        self.alive = True
        self._last = False
        self._wire = Wire(_connected(trusted), self.name, cancel, stall_s)

    def get(
        self,
        target: str,
        *,
        cancel: CancelToken,
        cookie: SessionCookie | None = None,
        byte_range: range | None = None,
        last: bool = False,
    ) -> HttpBody:
        """Requests ``target`` (path and query), or a range of its bytes, and returns the open body of a 200 or 206;
        after the ``last`` one the connection ends.

        Raises TransientError (try again), SourceError ``http_refused`` with the field ``status``, ``redirect_refused``,
        ``bad_reply``.
        """
        self._wire.cancel = cancel
        self.alive = False  # until this exchange is complete
        self._last = last
        headers = {"Range": f"bytes={byte_range[0]}-{byte_range[-1]}"} if byte_range else {}
        headers |= cookie.headers_for(self.host, self.port) if cookie else {}
        headers |= {"Connection": "close"} if last else {}
        try:
            return _accepted(self._exchange(target, headers))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drops the connection."""
        self.alive = False
        self._wire.close()

    def _exchange(self, target: str, headers: Mapping[str, str]) -> HttpBody:
        request = http.client.HTTPConnection(self.host, self.port)
        request.default_port = HTTPS_PORT  # any other port is added to Host
        request.sock = self._wire
        try:
            request.request("GET", target, headers={"Accept": "*/*", **headers})  # adds Accept-Encoding: identity
        except (http.client.InvalidURL, UnicodeError) as error:
            raise SourceError("the server gave a URL with invalid characters", code=BAD_REPLY) from error
        return HttpBody(_head(self._wire), self._wire, self._release, self.name)

    def _release(self, usable: bool) -> None:
        """Called at the end of an exchange."""
        self.alive = usable and self._wire.drained and not self._last
        if not self.alive:
            self.close()


def open_get(
    url: str,
    endpoint: Endpoint,
    *,
    cancel: CancelToken,
    pin: str | None = None,
    cookie: SessionCookie | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> HttpBody:
    """GET of one ``url`` on a connection of its own, which ends with the body.

    ``endpoint`` gives proxy and trust; ``pin`` is the fingerprint (SHA-1 or SHA-256) that its vCenter gave for another
    host. Errors as ``DataConnection`` and its ``get``.
    """
    host, port, target = split_url(url)
    trusted = open_connection(endpoint, host=host, port=port, pin=pin, connect_timeout_s=connect_timeout_s)
    connection = DataConnection(trusted, cancel=cancel, stall_s=stall_timeout_s)
    return connection.get(target, cancel=cancel, cookie=cookie, last=True)


def _connected(trusted: TrustedConnection) -> TlsStream:
    try:
        return trusted.open_stream()
    except (OSError, http.client.HTTPException) as error:
        raise translate(error) from error


def _head(wire: Wire) -> http.client.HTTPResponse:
    """The head of the next answer, interim ones skipped; the body is left on the wire."""
    response = http.client.HTTPResponse(cast(socket.socket, Head(wire)), method="GET")
    try:
        response.begin()
    except http.client.RemoteDisconnected as error:
        raise broken(wire.peer, error) from error
    except http.client.HTTPException as error:
        raise SourceError(f"{wire.peer} did not answer in HTTP", code=BAD_REPLY) from error
    return response


def _accepted(body: HttpBody) -> HttpBody:
    """Returns ``body`` if the response is a success; otherwise raises the error for its status."""
    if body.status in (200, 206):
        return body
    if 300 <= body.status < 400:
        raise SourceError(f"{body.route} answered with a redirect", code=REDIRECT_REFUSED, status=body.status)
    text = body.text()
    message = f"{body.route} answered {body.status}" + (f": {text}" if text else "")
    if body.status not in _BUSY:
        raise SourceError(message, code=HTTP_REFUSED, status=body.status)
    code = NFC_EXHAUSTED if rule_for((), text)[1] == NFC_EXHAUSTED else SERVER_BUSY
    raise TransientError(message, code=code, status=body.status, retry_after_s=_retry_after(body))


def _retry_after(body: HttpBody) -> float | None:
    """The seconds of Retry-After (RFC 9110, section 10.2.3: a number or a date), limited; None without that header."""
    text = (body.header("Retry-After") or "").strip()
    if _DIGITS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_S)
    try:
        wait_s = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S)
