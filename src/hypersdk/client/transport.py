"""One request and its response: TLS, timeouts, retries, and a limit on the size of a response.

A write carries an ``Idempotency-Key``, so that it can be retried safely after a connection broke: the daemon repeats
its first response. Broken connections are retried while a daemon restarts; a daemon that was never reachable is an
error at once.
"""

from __future__ import annotations

import json
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from hypersdk import __version__
from hypersdk.client.address import DAEMON_ADDRESS, Target, is_loopback
from hypersdk.client.errors import (
    ANSWER_UNREADABLE,
    DAEMON_TIMEOUT,
    DAEMON_UNREACHABLE,
    DaemonError,
    bad_answer,
    error_of,
    json_object,
)
from hypersdk.errors import ConnectError, UsageError
from hypersdk.net.certificate import peer_certificate, ssl_context, unknown_error
from hypersdk.units import MiB

MAX_ANSWER_BYTES: Final = 64 * MiB
"""A page of 1,000 jobs with their definitions is about 4 MiB."""
CONNECT_TIMEOUT_S: Final = 10.0
RETRIES: Final = 5
FIRST_PAUSE_S: Final = 0.2
"""Doubled with each further attempt: about 6 s in all, enough for a daemon to restart."""
MAX_RETRY_AFTER_S: Final = 60.0
STILL_ANSWERED: Final = "idempotency_running"
"""The connection broke, or the daemon restarted, during the first attempt of this request."""
BUSY: Final = frozenset({429, 503})
STREAM_SILENCE_S: Final = 45.0
"""Three pings of 15 s: a stream that is silent for longer is taken for broken."""

Params = Mapping[str, str | int | bool | list[str]]


class Transport:
    """Connections to one daemon, kept open between requests. Thread-safe."""

    def __init__(self, target: Target, timeout_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.target: Final = target
        self._timeout_s: Final = timeout_s
        self._sleep: Final = sleep
        headers = {"User-Agent": f"hypersdk/{__version__}", "Accept": "application/json"}
        if target.token is not None:
            headers["Authorization"] = f"Bearer {target.token.reveal()}"
        try:
            self._http: Final = httpx.Client(
                base_url=target.url,
                headers=headers,
                verify=target.url.startswith("https://") and ssl_context(target.tls),
                timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                trust_env=not is_loopback(target.url),  # a proxy is not asked for this machine
                follow_redirects=False,
            )
        except httpx.InvalidURL as error:
            raise UsageError("the daemon's address is not a valid URL", code=DAEMON_ADDRESS) from error

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json_body: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 0.0,
    ) -> dict[str, Any]:
        """Sends the request, with retries where that is safe. Returns the JSON object of the response, empty if there
        is none. ``timeout_s`` is for requests that may take longer than others.

        Raises HyperSDKError: the daemon's own, ConnectError or DaemonError.
        """
        sent = dict(headers or {})
        if method != "GET":
            sent.setdefault("Idempotency-Key", uuid.uuid4().hex)
        build: dict[str, Any] = {"params": dict(params or {}), "headers": sent}
        if json_body is not None:
            build["json"] = json_body
        elif body is not None:
            build["content"] = body
        connect_s = min(CONNECT_TIMEOUT_S, self._timeout_s)
        build["timeout"] = httpx.Timeout(max(self._timeout_s, timeout_s), connect=connect_s)
        with self._translated():
            return self._persist(lambda: self._once(method, path, build))

    def _persist(self, once: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        pause_s, connected = FIRST_PAUSE_S, False
        for left in reversed(range(RETRIES + 1)):
            try:
                return once()
            except _Busy as busy:
                if not left:
                    raise busy.error from None
                self._sleep(busy.after_s)
            except httpx.RequestError as error:
                connected = connected or not isinstance(error, httpx.ConnectError)
                if not left or not connected or _is_tls(error) or isinstance(error, _NOT_RETRIED):
                    raise
                self._sleep(pause_s)
                pause_s *= 2
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: str, build: Mapping[str, Any]) -> dict[str, Any]:
        with self._http.stream(method, path, **build) as response:
            body = _read(response)
        if not response.is_success:
            error = error_of(response.status_code, _document(body))
            busy = response.status_code in BUSY or error.code == STILL_ANSWERED
            if busy and (after_s := _retry_after(response)) is not None:
                raise _Busy(error, after_s)
            raise error
        return {} if response.status_code == httpx.codes.NO_CONTENT else json_object(body)

    @contextmanager
    def stream(
        self, path: str, *, params: Params, headers: Mapping[str, str], silence_s: float = STREAM_SILENCE_S
    ) -> Iterator[Iterator[bytes]]:
        """A response without end, in chunks as they arrive, without retries. Raises as ``request``, also while it is
        read.

        What the caller raises inside the block is not looked at: only reading is translated.
        """
        with self._opened(path, params, headers, silence_s) as response:
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise bad_answer("it is not an event stream")
            yield self._chunks(response.iter_bytes())

    @contextmanager
    def download(self, path: str, headers: Mapping[str, str]) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """A file of any size, in chunks as they arrive, as ``stream``. Raises DaemonError if it is encoded."""
        sent = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        with self._opened(path, {}, sent, self._timeout_s) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise bad_answer("the file is encoded")
            yield response, self._chunks(response.iter_raw())

    @contextmanager
    def _opened(
        self, path: str, params: Params, headers: Mapping[str, str], silence_s: float
    ) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, silence_s))
        with self._translated():
            request = self._http.build_request("GET", path, params=dict(params), headers=dict(headers), timeout=timeout)
            response = self._http.send(request, stream=True)
        try:
            with self._translated():
                if not response.is_success:
                    raise error_of(response.status_code, _document(_read(response)))
            yield response
        finally:
            response.close()

    def _chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        with self._translated():
            yield from chunks

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise self._timed_out(error) from error
        except _UNSENDABLE:
            raise _unsendable() from None
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def _timed_out(self, error: httpx.TimeoutException) -> ConnectError:
        if isinstance(error, httpx.ConnectTimeout):
            return self._unreachable(error)
        return ConnectError(f"{self.target.url} did not answer in time", code=DAEMON_TIMEOUT)

    def _unreachable(self, error: httpx.RequestError) -> ConnectError:
        if _is_tls(error):
            return self._untrusted(error)
        if isinstance(error, httpx.RemoteProtocolError | httpx.UnsupportedProtocol | httpx.DecodingError):
            return ConnectError(f"{self.target.url} does not answer like a daemon", code=ANSWER_UNREADABLE)
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        return ConnectError(f"{self.target.url} cannot be reached: {reason[:200]}", code=DAEMON_UNREACHABLE)

    def _untrusted(self, error: httpx.RequestError) -> ConnectError:
        """The error for an untrusted certificate, with its fingerprints if it can be fetched, for comparison."""
        parts = urlsplit(self.target.url)
        host, port = parts.hostname or "", parts.port or 443
        try:
            certificate = peer_certificate(host, port)
        except (OSError, ConnectError):
            certificate = None
        return unknown_error(f"{host}:{port}", _tls_reason(error), certificate, of_daemon=True)


_NOT_RETRIED: Final = (httpx.TimeoutException, httpx.LocalProtocolError, httpx.DecodingError)
_UNSENDABLE: Final = (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError)
"""The request cannot be expressed in HTTP; a retry would not change that."""


def path_part(text: str) -> str:
    """``text`` as one segment of a path; a slash in it is escaped. Raises UsageError."""
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise _unsendable() from None


def _unsendable() -> UsageError:
    """The error for a request that HTTP cannot express. The text of the original error may contain the token."""
    return UsageError(
        "the request cannot be sent",
        cause="A value in it has characters that HTTP does not allow, or is too long.",
        next_step="Correct the id, name, key or address that was given.",
    )


class _Busy(Exception):  # noqa: N818 - asks to come again
    def __init__(self, error: Exception, after_s: float) -> None:
        super().__init__("busy")
        self.error = error
        self.after_s = after_s


def _is_tls(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error)


def _tls_reason(error: BaseException) -> str:
    return str(error).partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it is not trusted here"


def _read(response: httpx.Response) -> bytes:
    found = bytearray()
    for chunk in response.iter_bytes():
        found += chunk
        if len(found) > MAX_ANSWER_BYTES:
            raise DaemonError(
                f"the daemon's answer is larger than {MAX_ANSWER_BYTES // MiB} MiB", code=ANSWER_UNREADABLE
            )
    return bytes(found)


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None  # an answer of something in between, a proxy perhaps; the status says enough


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds of Retry-After; None if there is none, or it is above ``MAX_RETRY_AFTER_S``."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and int(text) <= MAX_RETRY_AFTER_S else None
