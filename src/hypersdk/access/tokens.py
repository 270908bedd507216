"""API tokens: ``hst_`` and 256 random bits, shown once. The database stores the SHA-256, which is sufficient for a
random value of that length."""

from __future__ import annotations

import hashlib
import re
import secrets
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.access.faults import (
    TOKEN_ABOVE,
    TOKEN_INVALID,
    TOKEN_OUTLIVES,
    TOKEN_UNKNOWN,
    USER_UNKNOWN,
    Forbidden,
    Unauthenticated,
    known_form,
)
from hypersdk.access.records import TOKENS, ApiToken
from hypersdk.access.roles import METRICS, SCOPES, Identity, Role
from hypersdk.errors import LookupFailed, UsageError
from hypersdk.secret import Secret
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.pages import EVERYTHING, ListConditions, Listing, PageRequest, PageResult
from hypersdk.state.tables import api_tokens, users

PREFIX: Final = "hst_"
"""Secret scanners recognise a token by it."""
MAX_TOKENS: Final = 100
"""Per user."""
MAX_LIFE_S: Final = 10 * 366 * 86_400.0
USED_EVERY_S: Final = 60.0
"""``used_at`` is written at most this often: a poll every second is not a write every second."""
NEWEST: Final = PageRequest(TOKENS.sort)
TOKEN_LIST: Final = Listing(TOKENS, api_tokens, user=users.c.name)
_FORM: Final = re.compile(r"^hst_[A-Za-z0-9_-]{43}\Z")


class TokenStore:
    """Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        # Executed for every request, so the statement is built once.
        self._by_digest: Final = (
            sa.select(
                api_tokens.c.id,
                api_tokens.c.scope,
                api_tokens.c.used_at,
                api_tokens.c.expires_at,
                users.c.id.label("user_id"),
                users.c.name,
                users.c.role,
                database.clock.label("now"),
            )
            .join(users, users.c.id == api_tokens.c.user_id)
            .where(
                api_tokens.c.digest == sa.bindparam("digest"),
                users.c.disabled.is_(False),
                sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > database.clock),
            )
        )

    def create(
        self,
        user_id: str,
        label: str,
        scope: str,
        *,
        lifetime_s: float | None = None,
        maker: str | None = None,
        shorten: bool = False,
    ) -> tuple[ApiToken, Secret]:
        """Creates a token and returns it with its secret, which is not stored. ``maker`` is the id of the creating
        token, if any: the new token may not outlive it, and its lifetime is cut to that with ``shorten``.

        Raises UsageError ``token_invalid``, LookupFailed ``user_unknown``, Forbidden ``token_outlives``.
        """
        _check(label, scope, lifetime_s)
        with self._database.write() as connection:
            user = connection.execute(sa.select(users.c.id).where(users.c.id == user_id)).first()
            if user is None:
                raise LookupFailed(f"there is no user '{user_id[:128]}'", code=USER_UNKNOWN)
            of_user = sa.select(sa.func.count()).select_from(api_tokens).where(api_tokens.c.user_id == user_id)
            if connection.execute(of_user).scalar_one() >= MAX_TOKENS:
                raise UsageError(f"the user has {MAX_TOKENS} tokens; revoke one first", code=TOKEN_INVALID)
            now = self._database.now(connection)
            left_s = None if maker is None else _left_s(connection, now, maker)
            if left_s is not None and (lifetime_s is None or lifetime_s > left_s):
                if not shorten:
                    raise Forbidden("the token would outlive the one that creates it", code=TOKEN_OUTLIVES)
                lifetime_s = left_s
            token_id, text = insert_token(connection, now, user_id, label, scope, lifetime_s)
            return TOKEN_LIST.record(connection.execute(_query().where(api_tokens.c.id == token_id)).one()), text

    def page(
        self, user_id: str | None = None, where: ListConditions = EVERYTHING, part: PageRequest = NEWEST
    ) -> PageResult[ApiToken]:
        """A page of the tokens of one user, or of all. Raises UsageError ``list_query``."""
        conditions = TOKEN_LIST.conditions(where)
        if user_id is not None:
            conditions.append(api_tokens.c.user_id == user_id)
        with self._database.read() as connection:
            return TOKEN_LIST.page(connection, _query(), conditions, part)

    def get(self, token_id: str) -> ApiToken:
        """Raises LookupFailed ``token_unknown``."""
        row = None
        if known_form(token_id):
            with self._database.read() as connection:
                row = connection.execute(_query().where(api_tokens.c.id == token_id)).first()
        if row is None:
            raise LookupFailed(f"there is no token {token_id[:128]!a}", code=TOKEN_UNKNOWN)
        return TOKEN_LIST.record(row)

    def revoke(self, token_id: str) -> None:
        """Takes effect immediately. Raises LookupFailed ``token_unknown``."""
        with self._database.write() as connection:
            if not connection.execute(sa.delete(api_tokens).where(api_tokens.c.id == token_id)).rowcount:
                raise LookupFailed(f"there is no token '{token_id[:128]}'", code=TOKEN_UNKNOWN)

    def use(self, text: Secret) -> Identity | None:
        """The identity of a token; None if it is unknown or expired, or its user is disabled. A token never has more
        rights than its user."""
        if not _FORM.match(text.reveal()):
            return None
        with self._database.read() as connection:
            row = connection.execute(self._by_digest, {"digest": digest_of(text)}).first()
        if row is None:
            return None
        if row.used_at is None or row.now - row.used_at > USED_EVERY_S:
            note_use(self._database, sa.update(api_tokens).where(api_tokens.c.id == row.id).values(used_at=row.now))
        role = None if row.scope == METRICS else Role(min(row.role, row.scope, key=SCOPES.index))
        return Identity(row.user_id, row.name, role, row.scope, token_id=row.id, expires_at=row.expires_at)


def note_use(database: Database, change: sa.Update) -> None:
    """Records the time of use, if the database can be written: a full disk does not block reading."""
    if database.outage.fault is not None:
        return
    with suppress(DatabaseError), database.write() as connection:  # the database logs it
        connection.execute(change)


def insert_token(
    connection: sa.Connection, now: float, user_id: str, label: str, scope: str, lifetime_s: float | None
) -> tuple[str, Secret]:
    """Writes the row; returns its id and the token's text."""
    token_id, text = f"token-{secrets.token_hex(6)}", Secret(PREFIX + secrets.token_urlsafe(32))
    connection.execute(
        sa.insert(api_tokens).values(
            id=token_id,
            user_id=user_id,
            label=label,
            digest=digest_of(text),
            scope=scope,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
            used_at=None,
        )
    )
    return token_id, text


def digest_of(text: Secret) -> str:
    """The digest of a token or a session cookie that the database stores: SHA-256, in hex."""
    return hashlib.sha256(text.reveal().encode()).hexdigest()


def check_revocable(token: ApiToken, scope: str, token_id: str) -> None:
    """Whether the token ``token_id`` of ``scope`` may revoke ``token``. Raises Forbidden ``token_above``."""
    if token.id != token_id and SCOPES.index(token.scope) > SCOPES.index(scope):
        raise Forbidden(f"the token has the scope {token.scope}, yours has {scope}", code=TOKEN_ABOVE)


def _left_s(connection: sa.Connection, now: float, token_id: str) -> float | None:
    """The remaining lifetime of a token; None: it does not expire. Raises Unauthenticated if it was revoked or has
    expired meanwhile."""
    row = connection.execute(sa.select(api_tokens.c.expires_at).where(api_tokens.c.id == token_id)).first()
    if row is None or (row.expires_at is not None and row.expires_at <= now):
        raise Unauthenticated("the token is not valid")
    return None if row.expires_at is None else float(row.expires_at - now)


def _check(label: str, scope: str, lifetime_s: float | None) -> None:
    if not 1 <= len(label) <= 200 or not label.isprintable():
        raise UsageError("label: takes 1 to 200 printable characters", code=TOKEN_INVALID)
    if scope not in SCOPES:
        raise UsageError(f"scope: one of {', '.join(SCOPES)}", code=TOKEN_INVALID)
    if lifetime_s is not None and not 1 <= lifetime_s <= MAX_LIFE_S:
        raise UsageError("lifetime: from one second to ten years", code=TOKEN_INVALID)


def _query() -> sa.Select[Any]:
    return TOKEN_LIST.select().join(users, users.c.id == api_tokens.c.user_id)
