"""The event stream: one poll of the database per process, however many clients are connected.

::

    database ──poll, at most every 0.5 s──> Feed: last change of each object, by revision ──> client: a revision
                                              │ at most MAX_ENTRIES objects, MAX_BYTES          │
                                              └ floor: highest revision that was dropped        └ below it: resync

A client has no queue, only a position in the shared log. The log holds only the last change of each object, so a client
that is slow or was disconnected receives each object once, in its current state. A client whose position was dropped
from the log is told to load everything again. An event is encoded once for all clients. A job has at most one change
per poll: progress at most twice a second.

Without clients the database is not polled.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from hypersdk.api.refusals import Unavailable, with_status
from hypersdk.api.times import now_rfc3339
from hypersdk.api.views import JobView, ProgressView
from hypersdk.errors import register
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.transition import TOPIC
from hypersdk.state.database import DatabaseError
from hypersdk.state.outbox import FOLLOWED, REMOVED
from hypersdk.state.tables import endpoints
from hypersdk.units import MiB

LOG: Final = logging.getLogger(__name__)
POLL_S: Final = 0.5
PING_S: Final = 15.0
MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 16 * MiB
MAX_CLIENTS: Final = 4000
MAX_STREAM_S: Final = 900.0
"""After this time the stream ends. The client reconnects at its position, and its permissions are checked again."""
BATCH: Final = 200
"""Events that are sent to a client at once."""

STREAMS_FULL: Final = with_status(
    503,
    register(
        "streams_full",
        "The daemon has reached its limit of open event streams.",
        "Close some, or follow single jobs with `GET /api/v1/jobs/{id}`.",
    ),
)
TOPICS: Final = ("jobs", "progress", "endpoints")


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """The last change of one object. ``covered``: a change of progress that is part of a change of the job itself."""

    revision: int
    topic: str
    id: str
    text: bytes
    covered: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """The filter of one client; empty ``ids``: all."""

    topics: frozenset[str]
    ids: frozenset[str] = frozenset()

    def takes(self, entry: FeedEntry) -> bool:
        """Whether the client receives the entry."""
        if entry.topic not in self.topics or (self.ids and entry.id not in self.ids):
            return False
        return not (entry.covered and "jobs" in self.topics)


class ChangeLog:
    """The last change of each object, ordered by revision and bounded. Not thread-safe: used in the event loop only."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], FeedEntry] = OrderedDict()
        self._size = 0
        self.floor = 0
        """Changes up to this revision may have been dropped: a client behind it must load everything again."""
        self.revision = 0

    def begin(self, floor: int) -> None:
        """Clears the log; changes up to ``floor`` are not in it."""
        self._entries.clear()
        self._size, self.floor, self.revision = 0, floor, floor

    def add(self, entry: FeedEntry) -> None:
        """Adds a change. Revisions never decrease."""
        key = (entry.topic, entry.id)
        if (old := self._entries.pop(key, None)) is not None:
            self._size -= len(old.text)
        self._entries[key] = entry
        self._size += len(entry.text)
        self.revision = max(self.revision, entry.revision)
        while len(self._entries) > self._max_entries or self._size > self._max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self._size -= len(dropped.text)
            self.floor = max(self.floor, dropped.revision)

    def after(self, revision: int) -> list[FeedEntry]:
        """Changes after ``revision``, oldest first."""
        found: list[FeedEntry] = []
        for entry in reversed(self._entries.values()):
            if entry.revision <= revision:
                break
            found.append(entry)
        found.reverse()
        return found

    def __len__(self) -> int:
        return len(self._entries)


class Feed:
    """One per process. Used from the event loop only."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._log = ChangeLog()
        self._changed_jobs: set[str] = set()
        """Jobs with an event that was read, whose rows have not been sent since."""
        self._changed = asyncio.Event()
        self._listened = asyncio.Event()
        self._ready = asyncio.Event()
        self._closed = False
        self.clients = 0
        self.polls = 0
        """How often the database was polled, for the metrics."""
        self.resyncs = 0

    def close(self) -> None:
        """Ends all streams. May be called more than once, from the event loop."""
        self._closed = True
        self._wake()
        self._ready.set()

    async def run(self) -> None:
        """Polls the database while clients are connected, until ``close``. Ends all streams when it ends, so that no
        client waits for events that will not come."""
        try:
            while not self._closed:
                await self._listened.wait()
                try:
                    await self._poll()
                except DatabaseError as error:  # the next poll tries again; clients receive pings meanwhile
                    LOG.debug("the event stream cannot read the database: %s", error.message)
                if not self.clients:
                    self._listened.clear()
                    self._ready.clear()
                await asyncio.sleep(POLL_S)
        finally:
            self.close()

    async def _poll(self) -> None:
        if not self._ready.is_set():
            await self._begin()
        revision, entries = await run_in_threadpool(self._read, self._log.revision)
        self.polls += 1
        if revision < self._log.revision:  # the database was restored from a backup: every client loads everything
            self._begin_log(revision)
            self._wake()
        elif revision > self._log.revision:
            for entry in entries:
                self._log.add(entry)
            self._log.revision = revision
            self._wake()
        self._ready.set()

    async def _begin(self) -> None:
        """Clears the log if it is too far behind to catch up, as after a time without clients."""
        revision = await run_in_threadpool(self._store.revision)
        if not 0 <= revision - self._log.revision <= FOLLOWED or not self._log.revision:
            self._begin_log(max(0, revision - FOLLOWED))

    def _begin_log(self, revision: int) -> None:
        self._log.begin(revision)
        self._changed_jobs.clear()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # Reading: in a thread

    def _read(self, since: int) -> tuple[int, list[FeedEntry]]:
        """The changes after ``since``, ordered by revision, and the revision up to which they are complete. Without
        changes, one row is read."""
        revision = self._store.revision()
        if revision <= since:
            return revision, []
        events = self._store.events_since(since, limit=MAX_ENTRIES)
        jobs = self._store.changed_since(since, limit=MAX_ENTRIES)
        if len(events) == MAX_ENTRIES:
            revision = min(revision, events[-1].revision)
        if len(jobs) == MAX_ENTRIES:
            revision = min(revision, jobs[-1].revision)
        found = self._read_endpoints(since, revision)
        events = [change for change in events if change.revision <= revision]
        self._changed_jobs |= {change.id for change in events if change.topic == TOPIC}
        for job in jobs:
            if job.revision <= revision:
                found += _job_entries(job, own=job.id in self._changed_jobs)
                self._changed_jobs.discard(job.id)
        for change in events:
            if change.event == REMOVED:
                text = event("removed", {"topic": change.topic, "id": change.id}, change.revision)
                found.append(FeedEntry(change.revision, change.topic, change.id, text))
                self._changed_jobs.discard(change.id)
        return revision, sorted(found, key=lambda entry: entry.revision)

    def _read_endpoints(self, since: int, upto: int) -> list[FeedEntry]:
        query = (
            sa.select(endpoints.c.id, endpoints.c.name, endpoints.c.kind, endpoints.c.is_default, endpoints.c.revision)
            .where(endpoints.c.revision > since, endpoints.c.revision <= upto)
            .order_by(endpoints.c.revision)
            .limit(MAX_ENTRIES)
        )
        with self._store.database.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        found: list[FeedEntry] = []
        for row in rows:
            revision = row.pop("revision")
            found.append(FeedEntry(revision, "endpoints", row["id"], event("endpoint", row, revision)))
        return found

    # Listening

    def check_room(self) -> None:
        """Raises Unavailable ``streams_full`` at the limit of clients."""
        if self.clients >= MAX_CLIENTS:
            raise Unavailable(f"{self.clients} event streams are open", code=STREAMS_FULL)

    async def listen(self, wanted: Subscription, last: int | None) -> AsyncIterator[bytes]:
        """The events of one client: ``hello`` or ``resync``, then changes and pings, until the feed is closed or
        ``MAX_STREAM_S`` have passed. A slow client delays only itself.

        ``last`` is the last revision that the client has seen.
        """
        self.clients += 1
        self._listened.set()
        try:
            async for chunk in self._events(wanted, last):
                yield chunk
        finally:
            self.clients -= 1

    async def _events(self, wanted: Subscription, last: int | None) -> AsyncIterator[bytes]:
        await self._ready.wait()
        loop = asyncio.get_running_loop()
        end = loop.time() + MAX_STREAM_S
        place = self._log.revision if last is None else last
        if self._log.floor <= place <= self._log.revision:
            yield _position("hello", place)
        while not self._closed and loop.time() < end:
            changed = self._changed  # before reading the log: a later change wakes us
            if not self._log.floor <= place <= self._log.revision:
                place = self._log.revision
                self.resyncs += 1
                yield _position("resync", place)
            found = self._log.after(place)
            if found:
                batch = _whole_revisions(found)
                place = batch[-1].revision
                if data := b"".join(entry.text for entry in batch if wanted.takes(entry)):
                    yield data
                continue
            place = max(place, self._log.revision)
            try:
                await asyncio.wait_for(changed.wait(), PING_S)
            except TimeoutError:
                yield _position("ping", place)


def _job_entries(job: JobRecord, *, own: bool) -> Iterator[FeedEntry]:
    """The change of the job itself, if more than its progress changed, and the change of its progress."""
    if own:
        yield FeedEntry(
            job.revision, TOPIC, job.id, event("job", JobView.model_validate(job).model_dump(mode="json"), job.revision)
        )
    progress = ProgressView.model_validate(job.progress).model_dump(mode="json")
    data = {"id": job.id, "state": job.state.value, "progress": progress}
    yield FeedEntry(job.revision, "progress", job.id, event("progress", data, job.revision), covered=own)


def _whole_revisions(entries: list[FeedEntry]) -> list[FeedEntry]:
    """The first ``BATCH`` entries, and those with the same revision as the last one."""
    last = entries[:BATCH][-1].revision
    return list(takewhile(lambda entry: entry.revision <= last, entries))


def _position(name: str, revision: int) -> bytes:
    """An event that says how far the client has come."""
    return event(name, {"revision": revision, "timestamp": now_rfc3339()}, revision)


def event(name: str, data: Mapping[str, Any], revision: int) -> bytes:
    """One event in its encoding: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\nid: {revision}\ndata: {text}\n\n".encode()
