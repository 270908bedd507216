"""The event stream: one poll of the database per process, however many clients listen.

::

    database ──poll, at most every 0.5 s──> Feed: last change of each object, by revision ──> client: a revision
                                              │ at most MAX_ENTRIES objects, MAX_BYTES          │
                                              └ floor: highest revision that was dropped        └ below it: resync

A client has no queue, only a position in the shared log. Only the last change of an object is kept, so a client that is
slow, or was away, gets each object once in its current state; a client whose position was dropped meanwhile is told to
load everything again. The text of an event is made once. One job shows at most one change per poll: progress at most
twice a second.

Nobody listens: nothing is polled.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Send

from hypersdk.api.times import now_rfc3339
from hypersdk.api.views import JobView, progress_view
from hypersdk.errors import HyperSDKError, register
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.transition import TOPIC
from hypersdk.state.database import DatabaseError
from hypersdk.state.outbox import FOLLOWED, REMOVED, Event
from hypersdk.state.tables import endpoints
from hypersdk.units import MiB

LOG: Final = logging.getLogger(__name__)
POLL_S: Final = 0.5
PING_S: Final = 15.0
MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 16 * MiB
MAX_CLIENTS: Final = 4000
MAX_STREAM_S: Final = 900.0
"""Then the stream ends and the client reconnects at its position: its permissions are checked again."""
BATCH: Final = 200
"""Events that one client is sent at once."""

STREAMS_FULL: Final = register(
    "streams_full",
    "The daemon has reached its limit of open event streams.",
    "Close some, or follow single jobs with `GET /api/v1/jobs/{id}`.",
)


class StreamsFull(HyperSDKError):  # noqa: N818 - reads as what happened
    """No more event streams."""

    exit_status = 12
    http_status: Final = 503
    default_code = STREAMS_FULL


TOPICS: Final = ("jobs", "progress", "endpoints")


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """The last change of one object. ``covered``: a change of progress that came with a change of the job itself."""

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
        """Whether the client gets it."""
        if entry.topic not in self.topics or (self.ids and entry.id not in self.ids):
            return False
        return not (entry.covered and "jobs" in self.topics)


class ChangeLog:
    """The last change of each object in the order of revisions, bounded. Not thread-safe: it lives in the event
    loop."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], FeedEntry] = OrderedDict()
        self._size = 0
        self.floor = 0
        """A client that has seen less than this has missed something that is gone from here."""
        self.revision = 0

    def begin(self, floor: int) -> None:
        """Forgets everything: what came up to ``floor`` is not known."""
        self._entries.clear()
        self._size, self.floor, self.revision = 0, floor, floor

    def add(self, entry: FeedEntry) -> None:
        """Revisions never fall."""
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
        """Changes behind ``revision``, oldest first."""
        found: list[FeedEntry] = []
        for entry in reversed(self._entries.values()):
            if entry.revision <= revision:
                break
            found.append(entry)
        found.reverse()
        return found

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True, slots=True)
class _Changes:
    """The result of one poll, one transaction per table."""

    revision: int
    jobs: list[JobRecord]
    endpoints: list[tuple[int, str, Mapping[str, Any]]]
    events: list[Event]
    restored: bool = False
    """The database was restored from a backup: its revisions are behind what was seen."""


class Feed:
    """One per process. Used from the event loop only; ``start`` and ``stop`` go around everything else."""

    def __init__(
        self, store: JobStore, *, poll_s: float = POLL_S, ping_s: float = PING_S, log: ChangeLog | None = None
    ) -> None:
        self._store = store
        self._poll_s = poll_s
        self._ping_s = ping_s
        self._log = log or ChangeLog()
        self._told: set[str] = set()
        """Jobs with an event that was read, whose rows have not been shown since: they may change in between."""
        self._changed = asyncio.Event()
        self._listened = asyncio.Event()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.clients = 0
        self.polls = 0
        """How often the database was asked, for the metrics."""
        self.resyncs = 0

    # Life

    def start(self) -> None:
        """Begins, in the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="feed")
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bug ended the poll: nobody is left waiting for events that will not come."""
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.critical("the event stream ended: there is none until the daemon is restarted", exc_info=error)
            self.close()

    def close(self) -> None:
        """Ends all streams, now; may be called more than once, from the loop."""
        self._stopped = True
        self._wake()
        self._ready.set()

    async def stop(self) -> None:
        """Ends all streams and the poll."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while not self._stopped:
            await self._listened.wait()
            try:
                await self._poll()
            except DatabaseError as error:  # the next poll finds it answering again; clients see pings meanwhile
                LOG.debug("the event stream cannot read the database: %s", error.message)
            if not self.clients:
                self._listened.clear()
                self._ready.clear()
            await asyncio.sleep(self._poll_s)

    async def _poll(self) -> None:
        if not self._ready.is_set():
            await self._begin()
        changes = await run_in_threadpool(self._read, self._log.revision)
        self.polls += 1
        if changes is not None:
            for entry in self._entries(changes):
                self._log.add(entry)
            self._log.revision = max(self._log.revision, changes.revision)
            self._wake()
        self._ready.set()

    async def _begin(self) -> None:
        """After a time without listeners everything between may be unknown: begins again, a little before now."""
        revision = await run_in_threadpool(self._store.revision)
        if not 0 <= revision - self._log.revision <= FOLLOWED or not self._log.revision:
            self._begin_log(max(0, revision - FOLLOWED))

    def _begin_log(self, revision: int) -> None:
        self._log.begin(revision)
        self._told.clear()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # Reading

    def _read(self, since: int) -> _Changes | None:
        """In a thread. None where nothing changed, which one read of one row tells."""
        revision = self._store.revision()
        if revision == since:
            return None
        if revision < since:
            return _Changes(revision, [], [], [], restored=True)
        limit = MAX_ENTRIES
        events = self._store.events_since(since, limit=limit)
        changed = self._store.changed_since(since, limit=limit)
        upto = min(
            changed[-1].revision if len(changed) == limit else revision,
            events[-1].revision if len(events) == limit else revision,
        )
        return _Changes(
            upto,
            [job for job in changed if job.revision <= upto],
            self._read_endpoints(since, upto),
            [event for event in events if event.revision <= upto],
        )

    def _read_endpoints(self, since: int, upto: int) -> list[tuple[int, str, Mapping[str, Any]]]:
        query = (
            sa.select(endpoints.c.revision, endpoints.c.id, endpoints.c.name, endpoints.c.kind, endpoints.c.is_default)
            .where(endpoints.c.revision > since, endpoints.c.revision <= upto)
            .order_by(endpoints.c.revision)
            .limit(MAX_ENTRIES)
        )
        with self._store.database.read() as connection:
            return [
                (row.revision, row.id, {"id": row.id, "name": row.name, "kind": row.kind, "is_default": row.is_default})
                for row in connection.execute(query)
            ]

    def _entries(self, changes: _Changes) -> Iterator[FeedEntry]:
        """In the order of revisions."""
        if changes.restored:
            self._begin_log(changes.revision)  # whoever listens is ahead of it now, and loads everything anew
            return
        found: list[FeedEntry] = []
        self._told |= {event.id for event in changes.events if event.topic == TOPIC}
        for job in changes.jobs:
            found += _job_entries(job, own=job.id in self._told)
            self._told.discard(job.id)
        for revision, object_id, shown in changes.endpoints:
            found.append(FeedEntry(revision, "endpoints", object_id, event("endpoint", shown, revision)))
        for gone in changes.events:
            if gone.event == REMOVED:
                text = event("removed", {"topic": gone.topic, "id": gone.id}, gone.revision)
                found.append(FeedEntry(gone.revision, gone.topic, gone.id, text))
                self._told.discard(gone.id)
        yield from sorted(found, key=lambda entry: entry.revision)

    # Listening

    def check_room(self) -> None:
        """Raises StreamsFull where no more clients are taken."""
        if self.clients >= MAX_CLIENTS:
            raise StreamsFull(f"{self.clients} event streams are open")

    async def serve(self, wanted: Subscription, last: int | None, receive: Receive, send: Send) -> None:
        """The body of an answer: events until the client goes. ``send`` waits for a client that is slow, and only its
        own place stands."""
        body = asyncio.ensure_future(self._send_all(wanted, last, send))
        try:
            while not body.done():
                heard = asyncio.ensure_future(receive())
                await asyncio.wait((body, heard), return_when=asyncio.FIRST_COMPLETED)
                if not heard.done():
                    heard.cancel()
                elif heard.result()["type"] == "http.disconnect":
                    return
            await body  # its error, if it ended with one
        finally:
            body.cancel()
            await asyncio.gather(body, return_exceptions=True)

    async def _send_all(self, wanted: Subscription, last: int | None, send: Send) -> None:
        async for chunk in self.listen(wanted, last):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def listen(self, wanted: Subscription, last: int | None) -> AsyncIterator[bytes]:
        """The events of one client: ``hello`` or ``resync``, then changes and pings, until the feed stops or
        ``MAX_STREAM_S`` are over.

        ``last`` is the revision that the client has seen.
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
            yield event("hello", {"revision": place, "timestamp": now_rfc3339()}, place)
        while not self._stopped and loop.time() < end:
            changed = self._changed  # before looking: a change from here on wakes us
            if not self._log.floor <= place <= self._log.revision:
                place = self._log.revision
                self.resyncs += 1
                yield event("resync", {"revision": place, "timestamp": now_rfc3339()}, place)
            found = self._log.after(place)
            if found:
                piece = _whole_revisions(found)
                place = piece[-1].revision
                if data := b"".join(entry.text for entry in piece if wanted.takes(entry)):
                    yield data
                continue
            place = max(place, self._log.revision)
            try:
                await asyncio.wait_for(changed.wait(), self._ping_s)
            except TimeoutError:
                yield event("ping", {"revision": place, "timestamp": now_rfc3339()}, place)


def _job_entries(job: JobRecord, *, own: bool) -> Iterator[FeedEntry]:
    """The job's own change, when anything but its progress changed, and that of its progress."""
    if own:
        yield FeedEntry(
            job.revision, TOPIC, job.id, event("job", JobView.model_validate(job).model_dump(mode="json"), job.revision)
        )
    progress = {"id": job.id, "state": job.state.value, "progress": progress_view(job).model_dump(mode="json")}
    yield FeedEntry(job.revision, "progress", job.id, event("progress", progress, job.revision), covered=own)


def _whole_revisions(entries: list[FeedEntry]) -> list[FeedEntry]:
    """The first ``BATCH``, and those that share the last one's revision."""
    if len(entries) <= BATCH:
        return entries
    last = entries[BATCH - 1].revision
    end = BATCH
    while end < len(entries) and entries[end].revision == last:
        end += 1
    return entries[:end]


def event(name: str, data: Mapping[str, Any], revision: int | None = None) -> bytes:
    """One event as it goes over the wire: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    head = f"event: {name}\n" if revision is None else f"event: {name}\nid: {revision}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
