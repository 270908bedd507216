"""Users: name, role, password hash."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.access.faults import (
    LAST_ADMIN,
    USER_EXISTS,
    USER_INVALID,
    USER_UNKNOWN,
    Conflict,
    known_form,
    looks_like_id,
)
from hypersdk.access.passwords import hash_password
from hypersdk.access.records import USERS, User
from hypersdk.access.roles import Role
from hypersdk.errors import LookupFailed, UsageError
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.pages import ListConditions, Listing, PageRequest, PageResult, by_id_first
from hypersdk.state.tables import logins, users

MAX_USERS: Final = 10_000
USER_LIST: Final = Listing(USERS, users, has_password=users.c.password.is_not(None))
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}\Z")


class UserStore:
    """Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def create(self, name: str, role: Role, password: Secret | None) -> User:
        """Raises UsageError ``user_invalid``, Conflict ``user_exists``."""
        if not _NAME.match(name):
            raise UsageError(
                "name: takes letters, digits and . _ @ -, begins with a letter or digit, up to 128", code=USER_INVALID
            )
        if looks_like_id(name):
            raise UsageError("name: looks like an id, and users are also looked up by id", code=USER_INVALID)
        hashed = None if password is None else hash_password(password)
        with self._database.write() as connection:
            if connection.execute(sa.select(sa.func.count()).select_from(users)).scalar_one() >= MAX_USERS:
                raise UsageError(f"there are {MAX_USERS} users already", code=USER_INVALID)
            try:
                user_id = insert_user(connection, self._database.now(connection), name, role, hashed)
            except sa.exc.IntegrityError:
                raise Conflict(f"there is a user '{name}'", code=USER_EXISTS, name=name) from None
            return _user(connection, user_id)

    def get(self, user_id: str) -> User:
        """By id or name; the id has precedence over another user's name. Raises LookupFailed."""
        with self._database.read() as connection:
            return _user(connection, user_id)

    def list(self) -> list[User]:
        """All users, sorted by name."""
        with self._database.read() as connection:
            return [USER_LIST.record(row) for row in connection.execute(USER_LIST.select().order_by(users.c.name))]

    def page(self, where: ListConditions, part: PageRequest) -> PageResult[User]:
        """A page of the list. Raises UsageError ``list_query``."""
        with self._database.read() as connection:
            return USER_LIST.page(connection, USER_LIST.select(), USER_LIST.conditions(where), part)

    def change(
        self, user_id: str, *, role: Role | None = None, password: Secret | None = None, disabled: bool | None = None
    ) -> User:
        """Changes the given values. A new password, role or disabling ends the user's sessions; a new password lifts
        the lock.

        Raises LookupFailed, Conflict ``last_admin``, UsageError ``user_invalid``.
        """
        changes: dict[str, Any] = {}
        if role is not None:
            changes["role"] = role.value
        if disabled is not None:
            changes["disabled"] = disabled
        if password is not None:
            changes |= {"password": hash_password(password), "failures": 0, "locked_until": None}
        with self._database.write() as connection:
            user = _user(connection, user_id)
            if changes:
                connection.execute(sa.update(users).where(users.c.id == user.id).values(**changes))
                connection.execute(sa.delete(logins).where(logins.c.user_id == user.id))
            _check_admin_left(connection, user)
            return _user(connection, user.id)

    def delete(self, user_id: str) -> User:
        """Deletes a user with all tokens and sessions. Raises LookupFailed, Conflict ``last_admin``."""
        with self._database.write() as connection:
            user = _user(connection, user_id)
            connection.execute(sa.delete(users).where(users.c.id == user.id))
            _check_admin_left(connection, user)
            return user


def insert_user(connection: sa.Connection, now: float, name: str, role: Role, hashed: str | None) -> str:
    """Writes the row and returns its id. Raises sqlalchemy's IntegrityError where the name is taken."""
    user_id = f"user-{secrets.token_hex(6)}"
    connection.execute(
        sa.insert(users).values(
            id=user_id,
            name=name,
            role=role.value,
            password=hashed,
            disabled=False,
            failures=0,
            locked_until=None,
            created_at=now,
        )
    )
    return user_id


def _check_admin_left(connection: sa.Connection, changed: User) -> None:
    """After a change of the user ``changed``, who was as given. Raises Conflict ``last_admin``."""
    if changed.role != Role.ADMIN.value or changed.disabled:
        return
    condition = sa.and_(users.c.role == Role.ADMIN.value, users.c.disabled.is_(False))
    # Rows are locked so that two administrators cannot remove each other at the same time.
    if not connection.execute(sa.select(users.c.id).where(condition).with_for_update()).all():
        raise Conflict("there must be an administrator who can log in", code=LAST_ADMIN)


def _user(connection: sa.Connection, key: str) -> User:
    """By id or name. Raises LookupFailed."""
    query = USER_LIST.select().where(sa.or_(users.c.id == key, users.c.name == key))
    found = connection.execute(query.order_by(by_id_first(users.c.id, key))).first() if known_form(key) else None
    if found is None:
        raise LookupFailed(f"there is no user {key[:128]!a}", code=USER_UNKNOWN)
    return USER_LIST.record(found)
