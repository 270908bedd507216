"""Following jobs: by the event stream if available, else by polling.

::

    load (revision r) ──> stream behind r ──job, progress──> update
        ▲                     │ breaks: again behind the last event, with longer and longer pauses
        ├────── resync ───────┤
        └── poll every 2 s <──┘ the daemon has no stream (for us), or has too many
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from hypersdk.client.errors import WAIT_OVER, DaemonError
from hypersdk.client.records import Job, Page, decode, take
from hypersdk.client.stream import EventDecoder, StreamEvent
from hypersdk.client.transport import STREAM_SILENCE_S, Transport
from hypersdk.errors import AccessError, ConnectError, HyperSDKError, LookupFailed, TransientError
from hypersdk.jobs.states import LEGACY_STATUS, JobState

EVENTS: Final = "/api/v1/events"
POLL_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
CHUNK: Final = 200
"""Jobs of one page."""
MAX_STREAM_IDS: Final = 200
"""That a stream can be narrowed to; for more, it carries all jobs and the others are left out here."""
PATIENCE_S: Final = 120.0
"""How long a daemon may be unreachable, for a restart or an upgrade, before waiting fails."""

T = TypeVar("T")


class Source(Protocol):
    """What is needed of the client."""

    def get(self, job_id: str) -> Job:
        """One job."""
        ...

    def page(self, *, ids: Sequence[str] = ()) -> Page:
        """Those of ``ids``, or the newest jobs."""
        ...


class _NoStream(Exception):  # noqa: N818
    """The event stream is not available; jobs are polled."""


@dataclass
class Watch:
    """Follows ``ids``, or all jobs where it is empty. ``clock`` and ``sleep`` are passed in."""

    source: Source
    transport: Transport
    ids: tuple[str, ...]
    deadline: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _jobs: dict[str, Job] = field(default_factory=dict)
    _last_id: str = ""
    _alive: float = 0.0

    def updates(self) -> Iterator[Job]:
        """Each job as it is, then whenever it changes; ends when all of ``ids`` have ended, never where it is empty.

        Raises LookupFailed for a job that is not there (any more), ConnectError when the daemon was away for too long,
        TransientError ``wait_over`` at the deadline.
        """
        self._alive = self.clock()
        yield from self._retry_until_back(self._load)
        while not self._done:
            try:
                yield from self._retry_until_back(self._streamed)
            except _NoStream:
                yield from self._retry_until_back(self._polled)

    @property
    def _done(self) -> bool:
        return bool(self.ids) and all(job_id in self._jobs and self._jobs[job_id].ended for job_id in self.ids)

    def _retry_until_back(self, step: Callable[[], Iterator[Job]]) -> Iterator[Job]:
        """Runs ``step`` until it returns; retries while the daemon is unreachable."""
        pause_s = FIRST_PAUSE_S
        while True:
            begun = self._alive
            try:
                yield from step()
                return
            except (ConnectError, DaemonError) as error:
                self._check_deadline()
                if self.clock() - self._alive > PATIENCE_S or not _may_pass(error):
                    raise
            if self._alive > begun:
                pause_s = FIRST_PAUSE_S
            self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # Loading

    def _load(self) -> Iterator[Job]:
        found: dict[str, Job] = {}
        revisions: list[int] = []
        for at in range(0, max(len(self.ids), 1), CHUNK):
            page = self.source.page(ids=self.ids[at : at + CHUNK])
            found |= {job.id: job for job in page.jobs}
            revisions.append(page.revision)
        for job_id in self.ids:
            if job_id not in found and job_id not in self._jobs:
                found[job_id] = self.source.get(job_id)  # says that it does not exist
        self._last_id = str(min(revisions))
        self._alive = self.clock()
        self._forget_removed(found)
        yield from (job for job in found.values() if self._changed(job))

    def _forget_removed(self, found: Mapping[str, Job]) -> None:
        for job_id in self.ids:
            if job_id not in found:
                raise _removed(job_id)
        if not self.ids:
            self._jobs = {key: job for key, job in self._jobs.items() if key in found}

    def _changed(self, job: Job) -> bool:
        before = self._jobs.get(job.id)
        self._jobs[job.id] = job
        return before is None or _shown(before) != _shown(job)

    def _polled(self) -> Iterator[Job]:
        while not self._done:
            self._pause(POLL_S)
            yield from self._load()

    # Streaming

    def _streamed(self) -> Iterator[Job]:
        params: dict[str, Any] = {"topics": ["jobs", "progress"]}
        if len(self.ids) <= MAX_STREAM_IDS:
            params["ids"] = list(self.ids)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self._last_id}
        decoder = EventDecoder()
        with self._opened(params, headers) as chunks:
            for chunk in chunks:
                self._alive = self.clock()
                for event in decoder.feed(chunk):
                    yield from self._event(event)
                    if self._done:
                        return
                self._check_deadline()

    def _opened(self, params: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        silence_s = (
            STREAM_SILENCE_S
            if self.deadline is None
            else max(0.05, min(STREAM_SILENCE_S, self.deadline - self.clock()))
        )
        return _Stream(self.transport, params, headers, silence_s)

    def _event(self, event: StreamEvent) -> Iterator[Job]:
        self._last_id = event.id or self._last_id
        if event.name == "job":
            job = decode(Job, _object(event))
            if (not self.ids or job.id in self.ids) and self._changed(job):
                yield job
        elif event.name == "progress":
            yield from self._progress(_object(event))
        elif event.name == "removed":
            gone = str(_object(event).get("id"))
            self._jobs.pop(gone, None)
            if gone in self.ids:
                raise _removed(gone)
        elif event.name == "resync":
            yield from self._load()

    def _progress(self, facts: Mapping[str, Any]) -> Iterator[Job]:
        job_id = take(facts, "id", str)
        if self.ids and job_id not in self.ids:
            return
        before = self._jobs.get(job_id)
        if before is None:
            job = self.source.get(job_id)
        else:
            state = take(facts, "state", str)
            raw = {
                **before.raw,
                "state": state,
                "status": _legacy_status(state, before.status),
                "progress": facts.get("progress"),
            }
            # Of a job that has ended the whole is wanted, with its result.
            job = self.source.get(job_id) if raw["state"] in ("completed", "failed", "cancelled") else decode(Job, raw)
        if self._changed(job):
            yield job

    # Time

    def _pause(self, pause_s: float) -> None:
        self._check_deadline()
        left_s = pause_s if self.deadline is None else min(pause_s, self.deadline - self.clock())
        self.sleep(max(left_s, 0.0))

    def _check_deadline(self) -> None:
        if self.deadline is not None and self.clock() >= self.deadline:
            waiting = [job_id for job_id in self.ids if job_id not in self._jobs or not self._jobs[job_id].ended]
            raise TransientError(
                f"{', '.join(waiting[:5]) or 'the job'} did not end in time", code=WAIT_OVER, jobs=waiting
            )


def retry_until_back(
    ask: Callable[[], T], clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Returns what ``ask`` returns; retries while the daemon is unreachable."""
    begun, pause_s = clock(), FIRST_PAUSE_S
    while True:
        try:
            return ask()
        except (ConnectError, DaemonError) as error:
            if clock() - begun > PATIENCE_S or not _may_pass(error):
                raise
        sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _may_pass(error: HyperSDKError) -> bool:
    """A certificate does not change by waiting."""
    return not error.code.startswith("certificate")


class _Stream:
    """Opens the stream; a refusal that is no matter of time means that there is none."""

    def __init__(
        self, transport: Transport, params: Mapping[str, Any], headers: Mapping[str, str], silence_s: float
    ) -> None:
        self._opening = transport.stream(EVENTS, params=params, headers=headers, silence_s=silence_s)

    def __enter__(self) -> Iterator[bytes]:
        try:
            return self._opening.__enter__()
        except (ConnectError, AccessError):
            raise
        except DaemonError as error:
            if error.fields.get("http_status") in (500, 502, 504):
                raise
            raise _NoStream from error
        except HyperSDKError as error:
            raise _NoStream from error

    def __exit__(self, *exc: Any) -> None:
        self._opening.__exit__(*exc)


def _object(event: StreamEvent) -> Mapping[str, Any]:
    found = event.json()
    return found if isinstance(found, dict) else {}


def _shown(job: Job) -> Mapping[str, Any]:
    """What counts as a change: without the caller's permissions, which only some responses have, and without the write
    count of the row."""
    return {key: value for key, value in job.raw.items() if key not in ("permissions", "revision", "updated_at")}


def _legacy_status(state: str, otherwise: str) -> str:
    try:
        return LEGACY_STATUS[JobState(state)]
    except ValueError:
        return otherwise  # a state that only a newer daemon has


def _removed(job_id: str) -> LookupFailed:
    return LookupFailed(
        f"job '{job_id}' was deleted",
        cause="It was deleted by a user, or removed by the daemon's retention.",
        next_step="`hyperctl query -all` lists the jobs that are there.",
    )
