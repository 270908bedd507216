"""The outbox: events of objects, each written in the transaction of its change.

Consumers (the event stream, notifications, workflows) read the rows after the last revision that they have seen. A row
exists exactly if its change does: no event is false, and none is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.state.tables import outbox

REMOVED: Final = "removed"
"""The event of an object whose row was deleted."""
FOLLOWED: Final = 1000
"""The events of this many revisions are kept for clients that were disconnected."""
KEEP_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``topic`` is the kind of object (``jobs``, ``endpoints``); ``data`` are facts of the event alone, such
    as a job's former and new state."""

    revision: int
    topic: str
    id: str
    event: str
    data: Mapping[str, Any]


def write_events(connection: sa.Connection, now: float, events: Sequence[Event]) -> None:
    """Adds events to the outbox; ``now`` is the time by the database's clock."""
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
    """Events after ``revision``, oldest first."""
    columns = (outbox.c.revision, outbox.c.topic, outbox.c.id, outbox.c.event, outbox.c.data)
    query = sa.select(*columns).where(outbox.c.revision > revision).order_by(outbox.c.revision).limit(limit)
    return [Event(*row) for row in connection.execute(query)]


def prune_events(connection: sa.Connection, now: float, revision: int) -> None:
    """Removes events older than a day, except those of the last ``FOLLOWED`` revisions."""
    old = (outbox.c.at < now - KEEP_S, outbox.c.revision < revision - FOLLOWED)
    connection.execute(sa.delete(outbox).where(*old))
