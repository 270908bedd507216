"""Login sessions. What belongs to a session (collectors, views, leases) ends with it."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from hypersdk.simulator.config import SimulatorConfig
from hypersdk.simulator.values import Data, MethodFault
from hypersdk.simulator.world import World, WorldObject, now

MAX_SESSIONS: Final = 1000
"""vCenter allows about 2,000; bounds memory when clients never log out."""


@dataclass(slots=True, eq=False)
class SessionRecord:
    """One login. ``cookie`` is what the client sends, ``key`` the name under which others may end it."""

    key: str
    cookie: str
    user: str
    login_time: datetime
    last_active: datetime
    active_at: float
    calls_in_progress: int = 0
    call_count: int = 0
    ended: bool = False
    belongings: list[WorldObject] = field(default_factory=list)

    def as_data(self) -> Data:
        """The API's ``UserSession``."""
        return Data(
            "UserSession",
            key=self.key,
            userName=self.user,
            fullName=self.user,
            loginTime=self.login_time,
            lastActiveTime=self.last_active,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress="127.0.0.1",
            userAgent="",
            callCount=self.call_count,
        )


class SimulatedSessions:
    """All sessions of the server. ``on_end`` is called for each session that ends, for whatever reason."""

    def __init__(self, world: World, config: SimulatorConfig) -> None:
        self.world = world
        self.config = config
        self.on_login: Callable[[SessionRecord], None] = lambda _session: None
        self.on_end: Callable[[SessionRecord], None] = lambda _session: None
        self.caller: SessionRecord | None = None
        """Who makes the call that is being answered; set by the dispatcher, under the lock."""
        self._by_cookie: dict[str, SessionRecord] = {}

    def log_in(self, user: str, password: str) -> SessionRecord:
        """A new session. Raises MethodFault (InvalidLogin)."""
        if not self.accepts(user, password):
            raise MethodFault.of("InvalidLogin", "Cannot complete login due to an incorrect user name or password.")
        if len(self._by_cookie) >= MAX_SESSIONS:
            self.end(min(self._by_cookie.values(), key=lambda session: session.active_at))
        moment = now()
        session = SessionRecord(str(uuid.uuid4()), secrets.token_hex(20), user, moment, moment, time.monotonic())
        self._by_cookie[session.cookie] = session
        self.on_login(session)
        return session

    def accepts(self, user: str, password: str) -> bool:
        """Whether the credentials are correct."""
        if self.config.any_login:
            return bool(user and password)
        return self.knows(user) and password == self.config.password.reveal()

    def knows(self, user: str) -> bool:
        """Whether there is such a user."""
        return bool(user) if self.config.any_login else user.lower() == self.config.username.lower()

    def by_cookie(self, cookie: str | None) -> SessionRecord | None:
        """The live session of a cookie value; using it counts as activity."""
        session = self._by_cookie.get(cookie or "")
        if session is None or self._expire(session):
            return None
        session.active_at, session.last_active = time.monotonic(), now()
        return session

    def by_key(self, key: str) -> SessionRecord | None:
        """The live session of that key."""
        return next((session for session in self._by_cookie.values() if session.key == key), None)

    def all(self) -> list[SessionRecord]:
        """All live sessions."""
        return list(self._by_cookie.values())

    def end(self, session: SessionRecord) -> None:
        """Ends a session and all that belongs to it."""
        with self.world.lock:
            if self._by_cookie.pop(session.cookie, None) is None:
                return
            session.ended = True
            self.on_end(session)
            for managed in session.belongings:
                self.world.remove(managed)
            self.world.changed.notify_all()

    def sweep(self) -> None:
        """Ends the sessions that have been idle for too long."""
        for session in self.all():
            self._expire(session)

    def _expire(self, session: SessionRecord) -> bool:
        idle = time.monotonic() - session.active_at > self.config.session_idle_s and not session.calls_in_progress
        if idle:
            self.end(session)
        return idle
