"""Delays after wrong passwords: per user in the database, per address and per unknown name in this process.

::

    failures   1..4   5    6    7    8    9   10   11 ...
    wait         0    2 s  4 s  8 s 16 s 32 s 64 s 128 s, no more than 5 minutes

The longest delay is short on purpose: anyone who knows a name could otherwise lock its owner out. Tokens and sessions
are not touched. An unknown name is locked like a known one, so a lock does not reveal whether a user exists.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from hypersdk.state.database import Database
from hypersdk.state.tables import users

FREE_FAILURES: Final = 4
FREE_FAILURES_OF_ADDRESS: Final = 19
"""Several users may share an address."""
MAX_WAIT_S: Final = 300.0
MAX_KEYS: Final = 10_000
FORGET_S: Final = 3600.0
_KEY: Final = secrets.token_bytes(32)


def wait_s(failures: int, free: int = FREE_FAILURES) -> float:
    """The delay after so many consecutive failures, in seconds."""
    return 0.0 if failures <= free else min(MAX_WAIT_S, 2.0 ** min(failures - free, 16))


@dataclass(slots=True)
class _Count:
    failures: int
    until: float
    last: float


class Lockout:
    """Thread-safe. ``clock`` is monotonic, in seconds."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def remaining_s(self, name: str, address: str) -> float:
        """Seconds until a login with that name from that address is accepted; 0: now."""
        now = self._clock()
        with self._lock:
            found = [self._counts.get(key) for key in (_name(name), _address(address))]
        waits = [count.until - now for count in found if count is not None]
        query = sa.select(users.c.locked_until - self._database.clock).where(
            users.c.name == name, users.c.locked_until.is_not(None)
        )
        with self._database.read() as connection:
            waits.extend(connection.execute(query).scalars())
        return max([0.0, *waits])

    def failed(self, name: str, address: str) -> None:
        """Records a wrong password, or an unknown name."""
        self._count(_name(name), FREE_FAILURES)
        self._count(_address(address), FREE_FAILURES_OF_ADDRESS)
        with self._database.write() as connection:
            bump = (
                sa.update(users)
                .where(users.c.name == name)
                .values(failures=users.c.failures + 1)
                .returning(users.c.failures)
            )
            failures = connection.execute(bump).scalar_one_or_none()
            if failures is not None and (wait := wait_s(failures)):
                until = self._database.now(connection) + wait
                connection.execute(sa.update(users).where(users.c.name == name).values(locked_until=until))

    def succeeded(self, name: str, user_id: str) -> None:
        """Resets the user's count after the right password. The address's count stays, or an attacker with an account
        could reset it."""
        with self._lock:
            self._counts.pop(_name(name), None)
        with self._database.write() as connection:
            condition = sa.and_(users.c.id == user_id, users.c.failures > 0)
            connection.execute(sa.update(users).where(condition).values(failures=0, locked_until=None))

    def _count(self, key: str, free: int) -> None:
        now = self._clock()
        with self._lock:
            count = self._counts.pop(key, None)
            failures = 1 if count is None or now - count.last > FORGET_S else count.failures + 1
            self._counts[key] = _Count(failures, now + wait_s(failures, free), now)
            while len(self._counts) > MAX_KEYS:
                self._counts.popitem(last=False)


def _name(name: str) -> str:
    """Hashed with a key of this process: a name that was typed may be a password and is not stored."""
    return f"name {hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), key=_KEY).hexdigest()}"


def _address(address: str) -> str:
    return f"address {address[:64]}"
