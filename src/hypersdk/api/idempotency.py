"""``Idempotency-Key``: a write that is retried because its response was lost is not executed twice.

::

    same key, same request       the first answer again, also after a restart   (Idempotency-Replayed: true)
    same key, other request      422
    the first is still running   409

A process that dies between doing and keeping leaves the key taken; after ``STALE_S`` (on SQLite: at the next start) the
request is done again. For submits that changes nothing: the ids of the jobs come from the key and the time when it was
first seen, and the row keeps that time for as long as the request may be asked again. After ``KEEP_S`` a key is new,
and so are the jobs.

Keys are per user, and per what the caller may: a token of less scope never sees an answer that one of more got, it asks
anew and meets the route's guard. Answers are kept sealed: one may hold a token that is shown once. An answer that says
"not now" (401, 408, 429, 5xx) is not kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk.access.roles import Identity
from hypersdk.access.vault import Vault
from hypersdk.api.security import READS, identity_of
from hypersdk.errors import HyperSDKError, UsageError, register
from hypersdk.state.database import Database
from hypersdk.state.tables import idempotency

KEY_INVALID: Final = register(
    "idempotency_key",
    "The Idempotency-Key is invalid.",
    "Send 1 to 128 letters, digits and . _ -; a UUID is best.",
)
KEY_REUSED: Final = register(
    "idempotency_reused",
    "The Idempotency-Key was already used for another request.",
    "Use a new key for each new request.",
)
KEY_RUNNING: Final = register(
    "idempotency_running",
    "The first request with that Idempotency-Key is still being processed.",
    "Repeat it in a moment.",
)
HEADER: Final = "idempotency-key"
KEEP_S: Final = 22 * 3600.0
"""Less than the 23 hours between two nights when the clock is set forward: a script that runs every night with one key
does something every night."""
STALE_S: Final = 120.0
"""A first request without an answer for so long (twice the time that an answer may take) died with its process; a
repeat of it is let through."""
KEPT_HEADERS: Final = frozenset({b"content-type", b"location", b"etag"})
_PASSING: Final = frozenset({408})
_NOTHING_DONE: Final = frozenset({401, 425, 429})
_KEY: Final = re.compile(r"^[A-Za-z0-9._-]{1,128}\Z")


class KeyReused(UsageError):  # noqa: N818
    """422."""

    http_status: Final = 422
    default_code = KEY_REUSED


class KeyRunning(HyperSDKError):  # noqa: N818
    """409."""

    http_status: Final = 409
    exit_status = 2
    default_code = KEY_RUNNING


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A whole answer."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """The request is the caller's to do. ``since`` is the time when its key was first seen, by the process that does it
    now or by one that died."""

    since: float


def idempotency_key(request: Request) -> str | None:
    """The key that the request came with, with whose it is and when it was first seen: what is made under it is made
    once."""
    found = request.scope.get("state", {}).get("idempotency_key")
    return None if found is None else str(found)


class Answers:
    """The first answers, in the database. Thread-safe."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def forget_unanswered(self) -> None:
        """On SQLite, where no other process answers: what was being answered when the last one died will not be, and
        may be asked again."""
        if self._database.is_sqlite:
            with self._database.write() as connection:
                unanswered = sa.update(idempotency).where(idempotency.c.status.is_(None))
                connection.execute(unanswered.values(taken_at=None))

    def begin(self, key: str, request: str) -> StoredAnswer | KeyClaim:
        """Claims ``key`` for the request with that digest, or finds the answer that was given before.

        Raises KeyReused and KeyRunning.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(sa.delete(idempotency).where(idempotency.c.at < now - KEEP_S))
            found = self._read(connection, key)
            if found is None:
                try:
                    with connection.begin_nested():
                        connection.execute(
                            sa.insert(idempotency).values(
                                key=key, request=request, status=None, answer=None, taken_at=now, at=now
                            )
                        )
                    return KeyClaim(now)
                except sa.exc.IntegrityError:  # another node was first, a moment ago
                    found = self._read(connection, key)
            elif found.request == request and found.status is None and _take_up(connection, key, found, now):
                return KeyClaim(float(found.at))
        if found is None or found.request != request:
            raise KeyReused("the Idempotency-Key was used for another request")
        if found.status is None:
            raise KeyRunning("the first request with that Idempotency-Key is still being answered", retry_after_s=1)
        return _unpacked(self._vault.open_bytes(found.answer, _purpose(key)))

    def keep(self, key: str, answer: StoredAnswer) -> None:
        """The answer to give again; one that says "not now" frees the key."""
        if answer.status in _NOTHING_DONE:
            with self._database.write() as connection:
                connection.execute(sa.delete(idempotency).where(idempotency.c.key == key))
            return
        if answer.status >= 500 or answer.status in _PASSING:
            self.free(key)
            return
        sealed = self._vault.seal_bytes(_packed(answer), _purpose(key))
        with self._database.write() as connection:
            same = sa.update(idempotency).where(idempotency.c.key == key)
            connection.execute(same.values(status=answer.status, answer=sealed, taken_at=None))

    def free(self, key: str) -> None:
        """Lets the same request be asked again. Nobody knows how much of it was done, so the row, and with it the time,
        stays."""
        with self._database.write() as connection:
            connection.execute(sa.update(idempotency).where(idempotency.c.key == key).values(taken_at=None))

    def _read(self, connection: sa.Connection, key: str) -> Any:
        return connection.execute(sa.select(idempotency).where(idempotency.c.key == key)).first()


def _take_up(connection: sa.Connection, key: str, found: Any, now: float) -> bool:
    """Whether the request of the row ``found``, which has no answer, is to be done once more: by one of all that ask at
    the same time."""
    if found.taken_at is not None and found.taken_at > now - STALE_S:
        return False
    unchanged = (
        idempotency.c.key == key,
        idempotency.c.status.is_(None),
        idempotency.c.taken_at.is_not_distinct_from(found.taken_at),
    )
    taken = connection.execute(sa.update(idempotency).where(*unchanged).values(taken_at=now))
    return taken.rowcount == 1


class Idempotent:
    """The layer before the routes."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = identity_of(scope)
        given = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if given is None or found is None or scope["method"] in READS:
            await self._app(scope, receive, send)
            return
        if not _KEY.match(given):
            raise UsageError("the Idempotency-Key is empty, too long, or holds other characters", code=KEY_INVALID)
        body = await _body(receive)
        if body is None:
            return
        key = _key_of(found[0], given)
        first = await run_in_threadpool(self._answers.begin, key, _digest(scope, body))
        if isinstance(first, StoredAnswer):
            await _send(send, first)
            return
        scope.setdefault("state", {})["idempotency_key"] = f"{key}:{first.since!r}"
        await self._answered(key, body, scope, receive, send)

    async def _answered(self, key: str, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        caught = _Caught()
        try:
            await self._app(scope, _again(body, receive), caught)
            answer = caught.answer()
        except (
            Exception
        ):  # not CancelledError: out of time, it may still be done in its thread, so the key stays taken for STALE_S
            await run_in_threadpool(self._answers.free, key)
            raise
        await run_in_threadpool(self._answers.keep, key, answer)
        await _send(send, answer)


class _Caught:
    """Takes the answer in place of the client. Answers to writes are short: the request's own limit bounds what they
    list."""

    def __init__(self) -> None:
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")

    def answer(self) -> StoredAnswer:
        """The whole of it."""
        assert self._start is not None, "the route did not answer"
        headers = [(bytes(name).lower(), bytes(value)) for name, value in self._start["headers"]]
        return StoredAnswer(int(self._start["status"]), headers, bytes(self._body))


async def _body(receive: Receive) -> bytes | None:
    """The whole body, bounded by ``BodyLimit``; None when the client went away."""
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        data += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(data)


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _send(send: Send, answer: StoredAnswer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": "http.response.body", "body": answer.body})


def _key_of(who: Identity, given: str) -> str:
    """The answer to an administrator's token may hold what the same user's token for reading must not see: role and
    scope are part of the key.

    Only the last part may be long, so that it fits: an id has less than 20 characters, a role or scope less than 10.
    """
    return f"{who.user_id}:{who.role or ''}:{who.scope}:{given}"


def _digest(scope: Scope, body: bytes) -> str:
    head = f"{scope['method']}\0{scope['path']}\0".encode() + bytes(scope.get("query_string", b"")) + b"\0"
    return hashlib.sha256(head + body).hexdigest()


def _packed(answer: StoredAnswer) -> bytes:
    headers = [
        [name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers if name in KEPT_HEADERS
    ]
    document = {"status": answer.status, "headers": headers, "body": base64.b64encode(answer.body).decode()}
    return json.dumps(document).encode()


def _unpacked(data: bytes) -> StoredAnswer:
    document = json.loads(data)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in document["headers"]]
    body = base64.b64decode(document["body"])
    headers += [(b"content-length", str(len(body)).encode()), (b"idempotency-replayed", b"true")]
    return StoredAnswer(document["status"], headers, body)


def _purpose(key: str) -> str:
    return f"idempotency:{key}"
