"""The audit trail: who did what, from where, and with which outcome. It contains names, ids and codes, never bodies or
secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.access.records import AUDIT, AuditEntry
from hypersdk.errors import UsageError
from hypersdk.state.database import Database
from hypersdk.state.pages import EVERYTHING, LIST_QUERY, ListConditions, Listing, PageRequest, PageResult
from hypersdk.state.tables import audit
from hypersdk.text import clean

MAX_ROWS: Final = 200_000
"""The oldest beyond this are deleted; about 60 MB."""
PRUNE_EVERY: Final = 1000
NEWEST: Final = PageRequest(AUDIT.sort, limit=100)
AUDIT_LIST: Final = Listing(AUDIT, audit)


class Audit:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def write(
        self,
        actor: str,
        address: str,
        action: str,
        *,
        target: str = "",
        outcome: str = "ok",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an entry; it is durable when this returns."""
        with self._database.write() as connection:
            number = connection.execute(
                sa.insert(audit)
                .values(
                    at=self._database.now(connection),
                    actor=clean(actor, 200),
                    address=clean(address, 64),
                    action=clean(action, 64),
                    object=clean(target, 500),
                    outcome=clean(outcome, 32),
                    detail=dict(detail or {}),
                )
                .returning(audit.c.number)
            ).scalar_one()
        if number % PRUNE_EVERY == 0:
            self.prune()

    def page(
        self, where: ListConditions = EVERYTHING, part: PageRequest = NEWEST, *, before: int | None = None
    ) -> PageResult[AuditEntry]:
        """``before`` continues a list in descending order after that number. Raises UsageError ``list_query``."""
        if before is not None and part.sort != NEWEST.sort:
            raise UsageError(f"a cursor goes with sort={NEWEST.sort}", code=LIST_QUERY)
        beyond = None if before is None else audit.c.number < before
        with self._database.read() as connection:
            return AUDIT_LIST.page(connection, AUDIT_LIST.select(), AUDIT_LIST.conditions(where), part, beyond=beyond)

    def prune(self, max_rows: int = MAX_ROWS) -> int:
        """Deletes the oldest beyond ``max_rows``; returns how many."""
        with self._database.write() as connection:
            last = connection.execute(sa.select(sa.func.max(audit.c.number))).scalar_one()
            if last is None:
                return 0
            return connection.execute(sa.delete(audit).where(audit.c.number <= last - max_rows)).rowcount
