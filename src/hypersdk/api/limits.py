"""Limits of requests: token buckets per address and per caller, the size of a body, the time that a request may take.

The buckets are per process: with N API nodes behind one address a caller gets N times the rate.
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
from hypersdk.api.refusals import Unavailable, with_status
from hypersdk.api.security import address_of, identity_of
from hypersdk.errors import UsageError, register

RATE_LIMITED: Final = register(
    "rate_limited",
    "The caller or its address sent more requests than the limit allows.",
    "Wait for the time given in Retry-After. Follow jobs with /api/v1/events instead of polling, and submit many jobs"
    " in one request.",
)
BODY_TOO_LARGE: Final = with_status(
    413, register("body_too_large", "The request's body is larger than the limit `max_body_bytes`.", "Split it.")
)
BODY_AMBIGUOUS: Final = register(
    "body_ambiguous", "The request has both Content-Length and Transfer-Encoding.", "Send one of them."
)
"""RFC 9112, 6.1: this is how requests are smuggled past a proxy."""
REQUEST_SLOW: Final = with_status(
    408,
    register("request_slow", "The request's body was not received in time.", "Send it faster, or in smaller parts."),
)
REQUEST_TIMEOUT: Final = with_status(
    504,
    register(
        "request_timeout",
        "The daemon did not answer in time. The request may still have been carried out.",
        "Check whether it was before you repeat it. A submit can be repeated with the same Idempotency-Key without"
        " creating its jobs twice.",
    ),
)
LOGIN_PATH: Final = "/api/v1/auth/login"
MAX_BUCKETS: Final = 10_000
EXEMPT: Final = frozenset({"/health", "/ready"})


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rate:
    """Token buckets by key: ``per_minute`` on average, in bursts of up to a quarter of that. Not thread-safe: used in
    the event loop only."""

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
                self._buckets.popitem(last=False)  # the one unused for longest
        self._buckets.move_to_end(key)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.left < 1:
            wait = (1 - bucket.left) / self._per_s
            raise TooMany("too many requests", code=RATE_LIMITED, retry_after_s=max(1, round(wait + 0.5)))
        bucket.left -= 1


def network_of(address: str) -> str:
    """The addresses that one client can use: an IPv4 address itself, and the /64 network of an IPv6 address, in which
    a host chooses its addresses (RFC 4291, 2.5.4)."""
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


class AddressRate:
    """Limits the requests of an address, before the database is used. Logins have a lower limit of their own; health
    checks have none."""

    def __init__(self, app: ASGIApp, *, per_minute: int, logins_per_minute: int) -> None:
        self._app = app
        self._all = Rate(per_minute)
        self._logins = Rate(logins_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in EXEMPT:
            network = network_of(address_of(scope))
            self._all.take(network)
            if scope["path"] == LOGIN_PATH:
                self._logins.take(network)
        await self._app(scope, receive, send)


class TokenRate:
    """Limits the requests of a token; the sessions of a user share one limit."""

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
    """How much of a request's body was received. ``awaited``: the application is waiting for more of it."""

    size: int = 0
    whole: bool = False
    awaited: bool = False
    too_large: bool = False


class BodyLimit:
    """Limits the size and the duration of a request.

    The body must be complete ``timeout_s`` after the head, and the response must begin ``timeout_s`` after that. A
    client that reads nothing of the response for ``timeout_s`` is disconnected. A response that has begun may take as
    long as it needs: event streams, downloads.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
                message = f"the request's body was not received within {self._timeout_s:g} s"
                raise UsageError(message, code=REQUEST_SLOW, close=True) from error
            raise Unavailable(f"no answer within {self._timeout_s:g} s", code=REQUEST_TIMEOUT, close=True) from error

    def _check_announced(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        text = headers.get("content-length")
        if text is not None and "transfer-encoding" in headers:
            raise UsageError("the request gives its length in two ways", code=BODY_AMBIGUOUS, close=True)
        if text is not None and int(text) > self._max_bytes:  # h11 accepts digits only
            raise self._too_large()

    def _counted(self, receive: Receive, limit: asyncio.Timeout, body: _Body) -> Receive:
        async def counted() -> Message:
            if body.whole:  # all that can follow is that the client disconnects
                return await receive()
            body.awaited = True  # remains true if the time runs out first
            message = await receive()
            body.awaited = False
            body.size += len(message.get("body", b""))
            loop = asyncio.get_running_loop()
            if body.size > self._max_bytes:
                # Not raised here: FastAPI answers "400, error parsing the body" to any error while it reads a body.
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

    def _too_large(self) -> UsageError:
        limit = self._max_bytes
        return UsageError(f"the body is larger than {limit} bytes", code=BODY_TOO_LARGE, max_bytes=limit)
