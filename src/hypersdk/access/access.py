"""Login with a password, and the first administrator. Tokens and sessions are in modules of their own."""

from __future__ import annotations

import hmac
import itertools
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.access.audit import Audit
from hypersdk.access.faults import LOGIN_LOCKED, LOGIN_WRONG, TooMany, Unauthenticated
from hypersdk.access.files import write_private
from hypersdk.access.lockout import Lockout
from hypersdk.access.logins import NewLogin, SessionStore
from hypersdk.access.passwords import check_password, hash_password, outdated
from hypersdk.access.records import User
from hypersdk.access.roles import Role
from hypersdk.access.tokens import TokenStore, insert_token
from hypersdk.access.users import UserStore, insert_user
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import users

ADMIN_TOKEN: Final = "admin.token"  # noqa: S105 - the name of a file
FIRST_USER: Final = "admin"
UNKNOWN_USER: Final = "(unknown user)"
"""In the audit trail, for a name that no user has. It is not a valid user name."""


class Access:
    """Users, tokens, sessions, lock-out and audit trail of one database. Thread-safe."""

    def __init__(self, database: Database, *, session_s: float = 12 * 3600.0) -> None:
        self._database: Final = database
        self.users: Final = UserStore(database)
        self.tokens: Final = TokenStore(database)
        self.logins: Final = SessionStore(database, session_s)
        self.lockout: Final = Lockout(database)
        self.audit: Final = Audit(database)

    def login(self, name: str, password: Secret, address: str) -> tuple[User, NewLogin]:
        """Starts a session. Raises Unauthenticated ``login_wrong`` and TooMany ``login_locked``; message and timing are
        the same for a wrong password, an unknown user and a disabled user. The audit trail contains the name only if
        such a user exists: people type passwords into the wrong field."""
        user = self.users.get(self._check(name, password, address, "login"))
        login = self.logins.begin(user.id)
        self.audit.write(name, address, "login")
        return user, login

    def change_password(self, name: str, current: Secret, new: Secret, address: str) -> None:
        """Changes the caller's own password; its sessions end. Raises as ``login``, and UsageError ``user_invalid``."""
        user_id = self._check(name, current, address, "password.change")
        self.users.change(user_id, password=new)
        self.audit.write(name, address, "password.change")

    def _check(self, name: str, password: Secret, address: str, action: str) -> str:
        """The id of the user whose password was checked. Continuing with the name could find another user: names can
        look like ids."""
        found = self._stored(name)
        actor = UNKNOWN_USER if found is None else name
        if (wait := self.lockout.remaining_s(name, address)) > 0:
            self.audit.write(actor, address, action, outcome=LOGIN_LOCKED)
            raise TooMany("too many wrong passwords", code=LOGIN_LOCKED, retry_after_s=int(wait) + 1)
        right = check_password(None if found is None else found.password, password)
        if found is None or not right or found.disabled:
            self.lockout.failed(name, address)
            self.audit.write(actor, address, action, outcome=LOGIN_WRONG)
            raise Unauthenticated("the name or the password is wrong", code=LOGIN_WRONG)
        self.lockout.succeeded(name, found.id)
        if outdated(found.password):
            hashed = hash_password(password)
            with self._database.write() as connection:
                connection.execute(sa.update(users).where(users.c.id == found.id).values(password=hashed))
        return str(found.id)

    def first_start(self, state_dir: Path) -> Path | None:
        """On a database without an administrator: creates one and its token, which is written to a file that only its
        owner can read.

        Returns the path of the file, or None where there was an administrator. The file is written before the row is
        committed, so that a crash in between loses no access: the next start creates both again.
        """
        with self._database.write() as connection:
            known = connection.execute(sa.select(users.c.name, users.c.role, users.c.disabled)).all()
            if any(user.role == Role.ADMIN.value and not user.disabled for user in known):
                return None
            now, names = self._database.now(connection), {user.name for user in known}
            free = (f"{FIRST_USER}-{number}" for number in itertools.count(2))
            name = FIRST_USER if FIRST_USER not in names else next(name for name in free if name not in names)
            try:
                user_id = insert_user(connection, now, name, Role.ADMIN, None)
            except sa.exc.IntegrityError:
                return None  # another API process on the same database was first
            _, text = insert_token(connection, now, user_id, "first start", Role.ADMIN.value, None)
            path = state_dir / ADMIN_TOKEN
            write_private(path, text.reveal() + "\n")
            return path

    def _stored(self, name: str) -> Any:
        query = sa.select(users.c.id, users.c.password, users.c.disabled).where(users.c.name == name)
        with self._database.read() as connection:
            return connection.execute(query).first()


def same_secret(left: str, right: Secret) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "surrogateescape"), right.reveal().encode())
