"""Limits of NFC streams per ESXi host and site, shared by all workers: rows that expire, instead of counters.

A host that reports its NFC memory as exhausted gets half as many streams at once, and one more for each minute without
another such report.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.tables import nfc_hosts, nfc_streams
from hypersdk.transfer.budget import GROW_AFTER_S, SETTLE_S, HostUse, StreamBudget
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.progress import Waiting, unseen

LOG: Final = logging.getLogger(__name__)
EXPIRES_S: Final = 90.0
RENEW_S: Final = 20.0
LOOK_S: Final = 1.0


class SharedBudget(StreamBudget):
    """The budget of one site (vCenter or standalone host). ``renew`` is to be called often."""

    def __init__(self, database: Database, worker_id: str, site: str, per_host: int, per_vcenter: int) -> None:
        super().__init__(per_host, per_vcenter)
        self._database = database
        self._worker_id = worker_id
        self._site = site
        self._most_per_host = per_host
        self._most = per_vcenter
        self._held: dict[str, str] = {}
        self._owed: set[str] = set()
        """Tokens that could not be released: until they are, or expire, they count as streams."""
        self._next_renewal = time.monotonic()
        self._guard = threading.Lock()

    @contextmanager
    def stream(self, host: str, cancel: CancelToken, waiting: Waiting = unseen) -> Iterator[None]:
        """See StreamBudget."""
        token = self._take(host)
        if token is None:
            with waiting(f"waiting for a free stream on {host}"):
                while (token := self._take(host)) is None:
                    cancel.sleep(LOOK_S)
        try:
            cancel.check()
            yield
        finally:
            self._release(token)

    def exhausted(self, host: str) -> None:
        """See StreamBudget."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            allowed, running = self._look(connection, host, now)
            refused = sa.select(nfc_hosts.c.refused_at).where(*self._of(nfc_hosts, host))
            changes = {"quiet_since": now}
            if now - float(connection.execute(refused).scalar_one()) >= SETTLE_S:
                changes |= {"allowed": max(1, min(allowed, running) // 2), "refused_at": now}
            connection.execute(sa.update(nfc_hosts).where(*self._of(nfc_hosts, host)).values(**changes))

    def use(self, host: str) -> HostUse:
        """See StreamBudget."""
        with self._database.write() as connection:
            allowed, running = self._look(connection, host, self._database.now(connection))
        return HostUse(running, allowed)

    def renew(self) -> None:
        """Every ``RENEW_S``, keeps the worker's streams from expiring; at once, gives back those that could not be
        given back before. Raises DatabaseError."""
        with self._guard:
            held, owed = list(self._held), list(self._owed)
        is_due = time.monotonic() >= self._next_renewal
        if is_due:
            self._next_renewal = time.monotonic() + RENEW_S
        if owed or (held and is_due):
            with self._database.write() as connection:
                connection.execute(sa.delete(nfc_streams).where(nfc_streams.c.id.in_(owed)))
                until = self._database.now(connection) + EXPIRES_S
                connection.execute(sa.update(nfc_streams).where(nfc_streams.c.id.in_(held)).values(expires=until))
            with self._guard:
                self._owed.difference_update(owed)

    def _take(self, host: str) -> str | None:
        """A token, or None while all are in use."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            allowed, running = self._look(connection, host, now)
            everywhere = sa.select(sa.func.count()).where(nfc_streams.c.site == self._site)
            if running >= allowed or connection.execute(everywhere).scalar_one() >= self._most:
                return None
            token = secrets.token_hex(16)
            connection.execute(
                sa.insert(nfc_streams).values(
                    id=token, site=self._site, host=host, worker_id=self._worker_id, expires=now + EXPIRES_S
                )
            )
        with self._guard:
            self._held[token] = host
        return token

    def _release(self, token: str) -> None:
        with self._guard:
            self._held.pop(token, None)
        try:
            with self._database.write() as connection:
                connection.execute(sa.delete(nfc_streams).where(nfc_streams.c.id == token))
        except DatabaseError as error:  # the stream was read successfully
            LOG.debug("a stream could not be released yet: %s", error.message)
            with self._guard:
                self._owed.add(token)

    def _look(self, connection: sa.Connection, host: str, now: float) -> tuple[int, int]:
        """The numbers of allowed and of running streams of the host. Locks the site until the transaction ends."""
        self._database.serialize(connection, f"streams of {self._site}")
        connection.execute(sa.delete(nfc_streams).where(nfc_streams.c.site == self._site, nfc_streams.c.expires < now))
        running = sa.select(sa.func.count()).where(*self._of(nfc_streams, host))
        return self._allowed(connection, host, now), int(connection.execute(running).scalar_one())

    def _allowed(self, connection: sa.Connection, host: str, now: float) -> int:
        """The number of allowed streams: one more for each minute without a refusal. Inserts a new host."""
        query = sa.select(nfc_hosts.c.allowed, nfc_hosts.c.quiet_since).where(*self._of(nfc_hosts, host))
        row = connection.execute(query).one_or_none()
        if row is None:
            values = {"allowed": self._most_per_host, "quiet_since": now, "refused_at": now - SETTLE_S}
            connection.execute(sa.insert(nfc_hosts).values(site=self._site, host=host, **values))
            return self._most_per_host
        quiet_min = int((now - row.quiet_since) // GROW_AFTER_S)
        allowed = min(self._most_per_host, int(row.allowed) + quiet_min)
        if quiet_min and allowed != row.allowed:
            values = {"allowed": allowed, "quiet_since": row.quiet_since + quiet_min * GROW_AFTER_S}
            connection.execute(sa.update(nfc_hosts).where(*self._of(nfc_hosts, host)).values(**values))
        return allowed

    def _of(self, table: sa.Table, host: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
        return table.c.site == self._site, table.c.host == host
