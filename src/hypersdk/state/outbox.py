"""The outbox: what happened to an object, written in the transaction that made it happen.

Whoever acts on changes (the event stream, notifications, workflows) reads rows behind the revision that it has seen. A
row is there exactly when the change is, so nothing is told that did not happen, and nothing that happened is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.state.tables import outbox

REMOVED: Final = "removed"
"""The event of an object whose row is gone."""
FOLLOWED: Final = 1000
"""Clients that were away can catch up on so many revisions: the events of these are kept."""
KEEP_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``topic`` is the kind of object (``jobs``, ``endpoints``), ``data`` what only the event knows: for a
    job the states that it led from and to."""

    revision: int
    topic: str
    id: str
    event: str
    data: Mapping[str, Any]


def write_events(connection: sa.Connection, now: float, events: Sequence[Event]) -> None:
    """Adds events to the outbox; ``now`` is the database's clock."""
    if events:
        connection.execute(
            sa.insert(outbox),
            [
                {
                    "revision": event.revision,
                    "topic": event.topic,
                    "id": event.id,
                    "event": event.event,
                    "data": dict(event.data),
                    "at": now,
                }
                for event in events
            ],
        )


def events_since(connection: sa.Connection, revision: int, *, limit: int) -> list[Event]:
    """Events behind ``revision``, oldest first."""
    columns = (outbox.c.revision, outbox.c.topic, outbox.c.id, outbox.c.event, outbox.c.data)
    query = sa.select(*columns).where(outbox.c.revision > revision).order_by(outbox.c.revision).limit(limit)
    return [Event(*row) for row in connection.execute(query)]


def prune_events(connection: sa.Connection, now: float, revision: int) -> None:
    """Removes events that are older than a day and that no client that was away catches up on."""
    old = (outbox.c.at < now - KEEP_S, outbox.c.revision < revision - FOLLOWED)
    connection.execute(sa.delete(outbox).where(*old))
