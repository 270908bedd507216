"""Browser sessions, stored on the server. The cookie is 256 random bits; the database has its SHA-256."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from hypersdk.access.faults import known_form
from hypersdk.access.roles import Identity, Role
from hypersdk.access.tokens import digest_of, note_use
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import logins, users

IDLE_S: Final = 60 * 60.0
"""Idle timeout of a session. An open dashboard polls."""
USED_EVERY_S: Final = 60.0
MAX_SESSIONS: Final = 20
"""Per user; the oldest session ends when another one starts."""


@dataclass(frozen=True, slots=True)
class NewLogin:
    """A new session: the value of the cookie, and the CSRF token that writes must carry."""

    cookie: Secret
    csrf: Secret
    expires_at: float


class SessionStore:
    """Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, lifetime_s: float) -> None:
        self._database: Final = database
        self._lifetime_s: Final = lifetime_s

    def begin(self, user_id: str) -> NewLogin:
        """Starts a session; deletes expired ones and those over ``MAX_SESSIONS``."""
        cookie, csrf = Secret(secrets.token_urlsafe(32)), Secret(secrets.token_urlsafe(32))
        with self._database.write() as connection:
            now = self._database.now(connection)
            ended = sa.or_(logins.c.expires_at <= now, logins.c.used_at <= now - IDLE_S)
            connection.execute(sa.delete(logins).where(ended))
            of_user = sa.select(logins.c.digest).where(logins.c.user_id == user_id).order_by(logins.c.used_at.desc())
            surplus = list(connection.execute(of_user.offset(MAX_SESSIONS - 1)).scalars())
            if surplus:
                connection.execute(sa.delete(logins).where(logins.c.digest.in_(surplus)))
            expires = now + self._lifetime_s
            connection.execute(
                sa.insert(logins).values(
                    digest=digest_of(cookie),
                    user_id=user_id,
                    csrf=csrf.reveal(),
                    created_at=now,
                    used_at=now,
                    expires_at=expires,
                )
            )
        return NewLogin(cookie, csrf, expires)

    def use(self, cookie: Secret) -> Identity | None:
        """The identity of a session; None if it is unknown or expired, or its user is disabled."""
        if not known_form(cookie.reveal()):
            return None
        digest = digest_of(cookie)
        query = (
            sa.select(logins, users.c.name, users.c.role, self._database.clock.label("now"))
            .join(users, users.c.id == logins.c.user_id)
            .where(logins.c.digest == digest, users.c.disabled.is_(False))
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None or row.expires_at <= row.now or row.used_at + IDLE_S <= row.now:
            return None
        if row.now - row.used_at > min(USED_EVERY_S, IDLE_S / 2):
            note_use(self._database, sa.update(logins).where(logins.c.digest == digest).values(used_at=row.now))
        csrf = Secret(row.csrf)
        return Identity(row.user_id, row.name, Role(row.role), row.role, csrf=csrf, expires_at=row.expires_at)

    def end(self, cookie: Secret) -> None:
        """Ends a session; no error where there is none."""
        if not known_form(cookie.reveal()):
            return
        with self._database.write() as connection:
            connection.execute(sa.delete(logins).where(logins.c.digest == digest_of(cookie)))
