"""``Idempotency-Key``: a write that is retried because its response was lost is not executed twice.

::

    same key, same request          the first response again, also after a restart   (Idempotency-Replayed: true)
    same key, other request         422
    first request still running     409

If a process dies before it stores the response, the key remains claimed; after ``STALE_S`` (on SQLite: at the next
start) the request is executed again. For submits that changes nothing: the ids of the jobs are derived from the key and
the time when it was first seen, and the row keeps that time for as long as the request may be repeated. After
``KEEP_S`` a key counts as new, and creates new jobs.

Keys are per user, role and scope: a token with fewer rights never gets a response that one with more rights received;
its request is executed and meets the route's guard. Responses are stored encrypted, because one may contain the secret
of a new token. A response that means "not now" (401, 408, 429, 5xx) is not stored.
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
from hypersdk.api.refusals import with_status
from hypersdk.api.security import READS, identity_of
from hypersdk.errors import UsageError, register
from hypersdk.state.database import Database
from hypersdk.state.tables import idempotency

KEY_INVALID: Final = register(
    "idempotency_key",
    "The Idempotency-Key is invalid.",
    "Send 1 to 128 letters, digits and . _ -; a UUID is best.",
)
KEY_REUSED: Final = with_status(
    422,
    register(
        "idempotency_reused",
        "The Idempotency-Key was already used for another request.",
        "Use a new key for each new request.",
    ),
)
KEY_RUNNING: Final = with_status(
    409,
    register(
        "idempotency_running",
        "The first request with that Idempotency-Key is still being processed.",
        "Repeat it in a moment.",
    ),
)
HEADER: Final = "idempotency-key"
KEEP_S: Final = 22 * 3600.0
"""Less than the 23 hours of a day when the clock is set forward: a script that runs every night with the same key
submits its jobs every night."""
STALE_S: Final = 120.0
"""A first request without a response after this time (twice the time that a response may take) is taken for lost with
its process; the next one with its key is executed."""
KEPT_HEADERS: Final = frozenset({b"content-type", b"location", b"etag"})
_NOTHING_DONE: Final = frozenset({401, 425, 429})
_KEY: Final = re.compile(r"^[A-Za-z0-9._-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A complete response."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


def idempotency_key(request: Request) -> str | None:
    """The key of the request with its owner and the time when it was first seen: a unique name for what the request
    creates."""
    found = request.scope.get("state", {}).get("idempotency_key")
    return None if found is None else str(found)


class Answers:
    """The stored responses, in the database. Thread-safe."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def forget_unanswered(self) -> None:
        """At the start, on SQLite: a request that the previous process did not finish may be repeated. On PostgreSQL
        another process may still be executing it."""
        if self._database.is_sqlite:
            with self._database.write() as connection:
                unanswered = sa.update(idempotency).where(idempotency.c.status.is_(None))
                connection.execute(unanswered.values(taken_at=None))

    def begin(self, key: str, request: str) -> StoredAnswer | float:
        """Returns the stored response to the request with that digest. If there is none, claims ``key`` for the caller,
        who executes the request, and returns the time when the key was first seen.

        Raises UsageError ``idempotency_reused`` and ``idempotency_running``.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(sa.delete(idempotency).where(idempotency.c.at < now - KEEP_S))
            query = sa.select(idempotency).where(idempotency.c.key == key)
            found = connection.execute(query).first()
            if found is None:
                try:
                    with connection.begin_nested():
                        connection.execute(
                            sa.insert(idempotency).values(
                                key=key, request=request, status=None, answer=None, taken_at=now, at=now
                            )
                        )
                    return now
                except sa.exc.IntegrityError:  # another node inserted it a moment ago
                    found = connection.execute(query).first()
            elif found.request == request and found.status is None and _claim_again(connection, key, found, now):
                return float(found.at)
        if found is None or found.request != request:
            raise UsageError("the Idempotency-Key was used for another request", code=KEY_REUSED)
        if found.status is None:
            message = "the first request with that Idempotency-Key is still being processed"
            raise UsageError(message, code=KEY_RUNNING, retry_after_s=1)
        return _unpacked(self._vault.open_bytes(found.answer, _purpose(key)))

    def keep(self, key: str, answer: StoredAnswer) -> None:
        """Stores the response; one that means "not now" frees the key."""
        same = idempotency.c.key == key
        if answer.status in _NOTHING_DONE:
            change: sa.Delete | sa.Update = sa.delete(idempotency).where(same)
        elif answer.status >= 500 or answer.status == 408:
            change = sa.update(idempotency).where(same).values(taken_at=None)
        else:
            sealed = self._vault.seal_bytes(_packed(answer), _purpose(key))
            change = sa.update(idempotency).where(same).values(status=answer.status, answer=sealed, taken_at=None)
        with self._database.write() as connection:
            connection.execute(change)

    def free(self, key: str) -> None:
        """Allows the same request to be repeated. How much of it was done is not known, so the row with its time is
        kept."""
        with self._database.write() as connection:
            connection.execute(sa.update(idempotency).where(idempotency.c.key == key).values(taken_at=None))


def _claim_again(connection: sa.Connection, key: str, found: Any, now: float) -> bool:
    """Claims the row ``found``, which has no response. False if its first request is still running, or another caller
    claimed it at the same time."""
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
    """ASGI middleware around ``Audited`` and the routes."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = identity_of(scope)
        given = Headers(scope=scope).get(HEADER)
        if given is None or found is None or scope["method"] in READS:
            await self._app(scope, receive, send)
            return
        if not _KEY.match(given):
            raise UsageError("the Idempotency-Key is empty, too long, or holds other characters", code=KEY_INVALID)
        body = await Request(scope, receive).body()
        key = _key_of(found[0], given)
        first = await run_in_threadpool(self._answers.begin, key, _digest(scope, body))
        if isinstance(first, StoredAnswer):
            await _send(send, first)
            return
        scope.setdefault("state", {})["idempotency_key"] = f"{key}:{first!r}"
        await self._answered(key, body, scope, receive, send)

    async def _answered(self, key: str, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def catch(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, _replay(body, receive), catch)
            answer = _answer_of(messages)
        except Exception:
            # Not for CancelledError: after a timeout the request may still be executed in its thread, and the key
            # remains claimed for STALE_S.
            await run_in_threadpool(self._answers.free, key)
            raise
        await run_in_threadpool(self._answers.keep, key, answer)
        await _send(send, answer)


def _answer_of(messages: Sequence[Message]) -> StoredAnswer:
    """Responses to writes are short: the limit of a request's size bounds what they list."""
    start, *parts = messages
    headers = [(bytes(name).lower(), bytes(value)) for name, value in start["headers"]]
    return StoredAnswer(int(start["status"]), headers, b"".join(part.get("body", b"") for part in parts))


def _replay(body: bytes, receive: Receive) -> Receive:
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
    """Role and scope are part of the key: the response to an administrator's token may contain what a read-only token
    of the same user must not see.

    Only the given key may be long, so that the whole fits into its column: an id has less than 20 characters, a role or
    scope less than 10.
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
