"""Following jobs: by the event stream if available, else by polling.

::

    load (revision r) ──> stream behind r ──job, progress──> update
        ▲                     │ breaks: again behind the last event, with longer and longer pauses
        ├────── resync ───────┤
        └── poll every 2 s <──┘ the daemon has no stream (for us), or has too many
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hypersdk.client.errors import WAIT_OVER, DaemonError
from hypersdk.client.records import ENDED_STATES, Job, Page, decode, take
from hypersdk.client.stream import EventDecoder, StreamEvent
from hypersdk.client.transport import STREAM_SILENCE_S, Transport
from hypersdk.errors import AccessError, ConnectError, HyperSDKError, LookupFailed, TransientError
from hypersdk.jobs.states import LEGACY_STATUS

EVENTS: Final = "/api/v1/events"
POLL_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
MAX_IDS: Final = 100
"""Ids that one request for the list may name."""
MAX_STREAM_IDS: Final = 200
"""Limit of ids in the filter of a stream. To follow more, the stream of all jobs is filtered here."""
PATIENCE_S: Final = 120.0
"""How long a daemon may be unreachable, for a restart or an upgrade, before waiting fails."""

_STATUS_WORDS: Final = {state.value: word for state, word in LEGACY_STATUS.items()}

T = TypeVar("T")


class _NoStream(Exception):  # noqa: N818
    """The event stream is not available; jobs are polled."""


@dataclass
class Patience:
    """Waits between attempts to reach a daemon that restarts: longer each time, ``PATIENCE_S`` in all."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.reached()

    def reached(self) -> None:
        """The daemon was reached: the waiting times start again."""
        self._reached_at, self._pause_s = self.clock(), FIRST_PAUSE_S

    def wait(self, error: HyperSDKError, longest_s: float = LONGEST_PAUSE_S) -> None:
        """Sleeps until the next attempt. Raises ``error`` after ``PATIENCE_S``, or if it is about a certificate, which
        does not change by waiting."""
        if self.clock() - self._reached_at > PATIENCE_S or error.code.startswith("certificate"):
            raise error
        self.sleep(min(self._pause_s, longest_s))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def retry_until_back(ask: Callable[[], T], patience: Patience | None = None) -> T:
    """Returns the result of ``ask``; retries while the daemon is unreachable."""
    patience = patience or Patience()
    while True:
        try:
            return ask()
        except (ConnectError, DaemonError) as error:
            patience.wait(error)


class Watch:
    """Follows ``ids``, or all jobs if it is empty. ``get`` and ``page`` fetch one job and a page of jobs."""

    def __init__(
        self,
        get: Callable[[str], Job],
        page: Callable[[Sequence[str]], Page],
        transport: Transport,
        ids: tuple[str, ...],
        timeout_s: float | None,
    ) -> None:
        self._get = get
        self._page = page
        self._transport = transport
        self._ids = ids
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._patience = Patience()
        self._jobs: dict[str, Job] = {}
        self._last_id = ""

    def updates(self) -> Iterator[Job]:
        """Each job as it is, then whenever it changes; ends when all of ``ids`` have finished, never if it is empty.

        Raises LookupFailed for a job that does not exist or was deleted, ConnectError if the daemon was unreachable for
        too long, TransientError ``wait_over`` at the deadline.
        """
        self._patience.reached()
        yield from self._retry_until_back(self._load)
        while not self._done:
            try:
                yield from self._retry_until_back(self._streamed)
            except _NoStream:
                yield from self._retry_until_back(self._polled)

    @property
    def _done(self) -> bool:
        return bool(self._ids) and not self._unfinished()

    def _unfinished(self) -> list[str]:
        return [job_id for job_id in self._ids if job_id not in self._jobs or not self._jobs[job_id].ended]

    def _retry_until_back(self, step: Callable[[], Iterator[Job]]) -> Iterator[Job]:
        """Runs ``step`` until it returns; retries while the daemon is unreachable."""
        while True:
            try:
                yield from step()
                return
            except (ConnectError, DaemonError) as error:
                self._patience.wait(error, self._left_s())

    # Loading

    def _load(self) -> Iterator[Job]:
        found: dict[str, Job] = {}
        revisions: list[int] = []
        for at in range(0, max(len(self._ids), 1), MAX_IDS):
            page = self._page(self._ids[at : at + MAX_IDS])
            found |= {job.id: job for job in page.jobs}
            revisions.append(page.revision)
        for job_id in self._ids:
            if job_id not in found and job_id not in self._jobs:
                found[job_id] = self._get(job_id)  # says that it does not exist
        self._last_id = str(min(revisions))
        self._patience.reached()
        self._forget_removed(found)
        yield from (job for job in found.values() if self._changed(job))

    def _forget_removed(self, found: Mapping[str, Job]) -> None:
        for job_id in self._ids:
            if job_id not in found:
                raise _removed(job_id)
        if not self._ids:
            self._jobs = {key: job for key, job in self._jobs.items() if key in found}

    def _changed(self, job: Job) -> bool:
        before = self._jobs.get(job.id)
        self._jobs[job.id] = job
        return before is None or _shown(before) != _shown(job)

    def _polled(self) -> Iterator[Job]:
        while not self._done:
            time.sleep(min(POLL_S, self._left_s()))
            yield from self._load()

    # Streaming

    def _streamed(self) -> Iterator[Job]:
        params: dict[str, Any] = {"topics": ["jobs", "progress"]}
        if len(self._ids) <= MAX_STREAM_IDS:
            params["ids"] = list(self._ids)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self._last_id}
        decoder = EventDecoder()
        silence_s = max(0.05, min(STREAM_SILENCE_S, self._left_s()))
        with _stream(self._transport, params, headers, silence_s) as chunks:
            for chunk in chunks:
                self._patience.reached()
                for event in decoder.feed(chunk):
                    yield from self._event(event)
                    if self._done:
                        return
                self._left_s()  # raises at the deadline

    def _event(self, event: StreamEvent) -> Iterator[Job]:
        self._last_id = event.id or self._last_id
        if event.name == "job":
            job = decode(Job, event.json())
            if (not self._ids or job.id in self._ids) and self._changed(job):
                yield job
        elif event.name == "progress":
            yield from self._progress(event.json())
        elif event.name == "removed":
            gone = str(event.json().get("id"))
            self._jobs.pop(gone, None)
            if gone in self._ids:
                raise _removed(gone)
        elif event.name == "resync":
            yield from self._load()

    def _progress(self, facts: Mapping[str, Any]) -> Iterator[Job]:
        job_id = take(facts, "id", str)
        if self._ids and job_id not in self._ids:
            return
        before = self._jobs.get(job_id)
        if before is None:
            job = self._get(job_id)
        else:
            state = take(facts, "state", str)
            raw = {
                **before.raw,
                "state": state,
                "status": _STATUS_WORDS.get(state, before.status),  # a newer daemon may have other states
                "progress": facts.get("progress"),
            }
            # A finished job is fetched, to have its result.
            job = self._get(job_id) if state in ENDED_STATES else decode(Job, raw)
        if self._changed(job):
            yield job

    # Time

    def _left_s(self) -> float:
        """Seconds until the deadline. Raises TransientError ``wait_over`` when it has passed."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            waiting = self._unfinished()
            message = f"{', '.join(waiting[:5]) or 'the job'} did not finish in time"
            raise TransientError(message, code=WAIT_OVER, jobs=waiting)
        return left_s


@contextmanager
def _stream(
    transport: Transport, params: Mapping[str, Any], headers: Mapping[str, str], silence_s: float
) -> Iterator[Iterator[bytes]]:
    """Opens the event stream. Raises _NoStream if it is refused for a reason that waiting does not change."""
    with ExitStack() as opened:
        try:
            chunks = opened.enter_context(transport.stream(EVENTS, params=params, headers=headers, silence_s=silence_s))
        except (ConnectError, AccessError):
            raise
        except HyperSDKError as error:
            if isinstance(error, DaemonError) and error.fields.get("http_status") in (500, 502, 504):
                raise
            raise _NoStream from error
        yield chunks


def _shown(job: Job) -> Mapping[str, Any]:
    """The values whose change is reported: without the permissions, which only some responses have, the revision and
    the time of the last change."""
    return {key: value for key, value in job.raw.items() if key not in ("permissions", "revision", "updated_at")}


def _removed(job_id: str) -> LookupFailed:
    return LookupFailed(
        f"job '{job_id}' was deleted",
        cause="It was deleted by a user, or removed by the daemon's retention.",
        next_step="`hyperctl query -all` lists the jobs that are there.",
    )
