"""How much and how often: token buckets per address and per caller, the size of a request, the time that it may take.

The buckets are those of this process: with N API nodes behind one address a caller gets N times the rate.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk.access.faults import TooMany
from hypersdk.api.security import address_of, identity_of
from hypersdk.errors import HyperSDKError, UsageError, register

RATE_LIMITED: Final = register(
    "rate_limited",
    "The caller or its address sent more requests than the limit allows.",
    "Wait for the time given in Retry-After. Follow jobs with /api/v1/events instead of polling, and submit many jobs"
    " in one request.",
)
BODY_TOO_LARGE: Final = register(
    "body_too_large", "The request's body is larger than the limit `max_body_bytes`.", "Split it."
)
BODY_AMBIGUOUS: Final = register(
    "body_ambiguous", "The request has both Content-Length and Transfer-Encoding.", "Send one of them."
)
REQUEST_SLOW: Final = register(
    "request_slow", "The request's body was not received in time.", "Send it faster, or in smaller parts."
)
REQUEST_TIMEOUT: Final = register(
    "request_timeout",
    "The daemon did not answer in time. The request may still have been carried out.",
    "Check whether it was before you repeat it. A submit can be repeated with the same Idempotency-Key without"
    " creating its jobs twice.",
)
LOGIN_PATH: Final = "/api/v1/auth/login"
MAX_BUCKETS: Final = 10_000
EXEMPT: Final = frozenset({"/health", "/ready"})


class BodyTooLarge(UsageError):  # noqa: N818 - these read as what happened
    """413."""

    http_status: Final = 413
    default_code = BODY_TOO_LARGE


class RequestSlow(UsageError):  # noqa: N818
    """408."""

    http_status: Final = 408
    default_code = REQUEST_SLOW


class BodyAmbiguous(UsageError):  # noqa: N818
    """400. RFC 9112, 6.1: a length beside a transfer coding is how requests are smuggled past a proxy."""

    default_code = BODY_AMBIGUOUS


class RequestTimeout(HyperSDKError):  # noqa: N818
    """504."""

    http_status: Final = 504
    exit_status = 12
    default_code = REQUEST_TIMEOUT


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rate:
    """Token buckets by key: ``per_minute`` on average, a quarter of a minute's worth at once. For one thread (the event
    loop)."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_minute / 60
        self._burst = max(1.0, per_minute / 4)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> None:
        """Counts one request. Raises TooMany ``rate_limited`` with ``retry_after_s``."""
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now)
            while len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)  # the one that asked longest ago
        self._buckets.move_to_end(key)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.left < 1:
            wait = (1 - bucket.left) / self._per_s
            raise TooMany("too many requests", code=RATE_LIMITED, retry_after_s=max(1, round(wait + 0.5)))
        bucket.left -= 1


def network_of(address: str) -> str:
    """What one caller can have of its own: an address of IPv4, and of IPv6 the /64 that a host chooses its addresses
    from (RFC 4291, 2.5.4)."""
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


class AddressRate:
    """Per address, before anything is looked up; logins have a lower rate of their own. Health checks are free."""

    def __init__(self, app: ASGIApp, *, per_minute: int, logins_per_minute: int) -> None:
        self._app = app
        self._all = Rate(per_minute)
        self._logins = Rate(logins_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in EXEMPT:
            network = network_of(address_of(scope))
            self._all.take(network)
            if scope["path"] == LOGIN_PATH:
                self._logins.take(network)
        await self._app(scope, receive, send)


class TokenRate:
    """Per token; the sessions of one user share one."""

    def __init__(self, app: ASGIApp, *, per_minute: int) -> None:
        self._app = app
        self._rate = Rate(per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = identity_of(scope)
        if found is not None and found[1] != "local":
            self._rate.take(found[0].token_id or found[0].user_id)
        await self._app(scope, receive, send)


@dataclass(slots=True)
class _Body:
    """How far the body of one request has come. ``awaited``: the application waits for more of it."""

    size: int = 0
    whole: bool = False
    awaited: bool = False
    too_large: bool = False


class BodyLimit:
    """Bytes and seconds of one request.

    The body must be there ``timeout_s`` after the head, the answer must begin ``timeout_s`` after that, and a client
    that takes nothing of the answer for ``timeout_s`` is dropped. An answer that has begun may last: event streams,
    logs.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._check_announced(scope)
        limit = asyncio.timeout(self._timeout_s)
        body = _Body()
        try:
            async with limit:
                await self._app(scope, self._counted(receive, limit, body), self._timed(send, limit))
        except TimeoutError as error:
            if not limit.expired():
                raise
            if body.too_large:
                raise self._too_large() from error
            if body.awaited:
                raise RequestSlow(
                    f"the request's body did not come within {self._timeout_s:g} s", close=True
                ) from error
            raise RequestTimeout(f"no answer within {self._timeout_s:g} s", close=True) from error

    def _check_announced(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        text = headers.get("content-length")
        if text is not None and "transfer-encoding" in headers:
            raise BodyAmbiguous("the request gives its length in two ways", close=True)
        if text is not None and int(text) > self._max_bytes:  # h11 lets nothing but digits through
            raise self._too_large()

    def _counted(self, receive: Receive, limit: asyncio.Timeout, body: _Body) -> Receive:
        async def counted() -> Message:
            if body.whole:  # from here on it is only told when the client goes away
                return await receive()
            body.awaited = True  # stays so where the time is over before it has come
            message = await receive()
            body.awaited = False
            body.size += len(message.get("body", b""))
            loop = asyncio.get_running_loop()
            if body.size > self._max_bytes:
                # Not raised here: the framework answers "400, error parsing the body" to any error while it reads one.
                body.too_large = True
                limit.reschedule(loop.time())
                await loop.create_future()
            if message["type"] == "http.request" and not message.get("more_body", False):
                body.whole = True
                if limit.when() is not None:
                    limit.reschedule(loop.time() + self._timeout_s)
            return message

        return counted

    def _timed(self, send: Send, limit: asyncio.Timeout) -> Send:
        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                limit.reschedule(None)
            async with asyncio.timeout(self._timeout_s):
                await send(message)

        return timed

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._max_bytes} bytes", max_bytes=self._max_bytes)
