"""Metrics for Prometheus: state from the database when it is asked, requests as they are answered.

Every label has a bounded number of values: routes by their template, states and codes from our own lists, workers'
states, ESXi hosts up to ``MAX_HOSTS``. No label holds a job, a machine, a user or a path.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk import __version__
from hypersdk.jobs.statistics import Statistics, quantile, read_statistics
from hypersdk.state.database import Database, DatabaseError

LOG: Final = logging.getLogger(__name__)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CACHED_S: Final = 1.0
"""Scrapes that come faster get the same figures."""
BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 60.0)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUANTILES: Final = (0.5, 0.95, 1.0)


class FeedFigures(Protocol):
    """The part of the event stream's feed that is counted."""

    clients: int
    polls: int
    resyncs: int


class Metrics:
    """Of one API process. Thread-safe."""

    def __init__(
        self,
        database: Database,
        feed: FeedFigures | None = None,
        *,
        take_over_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._started = clock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._latency = Histogram(
            "hypersdk_api_request_duration_seconds",
            "Time to answer, by route; streams are not in it.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._requests = Counter(
            "hypersdk_api_requests", "Requests answered, by class of status.", ["status"], registry=self._registry
        )
        self._registry.register(_State(database, feed, take_over_s, clock, self.uptime_s))

    def uptime_s(self) -> float:
        """Seconds since the API started."""
        return self._clock() - self._started

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        kind = f"{status // 100}xx"
        self._requests.labels(kind).inc()
        self._latency.labels(method if method in METHODS else "other", route, kind).observe(seconds)

    def exposition(self) -> bytes:
        """All of them as Prometheus reads them. Reads the database."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is true now, by the database."""

    def __init__(
        self,
        database: Database,
        feed: FeedFigures | None,
        take_over_s: float,
        clock: Callable[[], float],
        uptime_s: Callable[[], float],
    ) -> None:
        self._database = database
        self._feed = feed
        self._take_over_s = take_over_s
        self._clock = clock
        self._uptime_s = uptime_s
        self._lock = threading.Lock()
        self._figures: Statistics | None = None
        self._read_at = -CACHED_S

    def collect(self) -> Iterable[Metric]:
        figures = self._read()
        yield InfoMetricFamily("hypersdk", "The daemon.", {"version": __version__})
        yield GaugeMetricFamily("hypersdk_uptime_seconds", "Since the API started.", self._uptime_s())
        yield GaugeMetricFamily("hypersdk_database_up", "Whether the database answers.", float(figures is not None))
        if self._feed is not None:
            yield from _of_feed(self._feed)
        if figures is not None:
            yield from _of_jobs(figures)
            yield from _of_durations(figures)
            yield from _of_workers(figures)

    def _read(self) -> Statistics | None:
        with self._lock:
            if self._clock() - self._read_at >= CACHED_S:
                try:
                    self._figures = read_statistics(self._database, take_over_s=self._take_over_s)
                except DatabaseError as error:  # the rest is still worth knowing, and that it is down
                    LOG.debug("no figures from the database: %s", error.message)
                    self._figures = None
                self._read_at = self._clock()
            return self._figures


def _of_feed(feed: FeedFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily("hypersdk_event_streams", "Clients of the event stream.", feed.clients)
    yield CounterMetricFamily("hypersdk_event_polls", "Polls of the database for the event stream.", feed.polls)
    yield CounterMetricFamily("hypersdk_event_resyncs", "Clients that had to load everything anew.", feed.resyncs)


def _of_jobs(figures: Statistics) -> Iterator[Metric]:
    states = GaugeMetricFamily("hypersdk_jobs", "Jobs in the database, by state.", labels=["state"])
    for state, count in figures.states.items():
        states.add_metric([state.value], count)
    yield states
    yield CounterMetricFamily("hypersdk_jobs_submitted", "Jobs submitted, ever.", figures.submitted)
    yield CounterMetricFamily(
        "hypersdk_bytes_downloaded", "Bytes over the wire, of all jobs, ever.", figures.downloaded_bytes
    )
    waiting = GaugeMetricFamily(
        "hypersdk_queue_depth",
        "Queued jobs, by the code of what they wait for; none: a free worker.",
        labels=["waiting"],
    )
    for code, count in ({"": 0} | dict(figures.waiting)).items():
        waiting.add_metric([code or "none"], count)
    yield waiting
    for name, text, value in (
        ("queue_oldest_seconds", "How long the job that waits longest has been queued.", figures.oldest_queued_s),
        ("transferred_bytes", "Bytes over the wire of the jobs that run now.", figures.transferred_bytes),
        ("expected_bytes", "Bytes in all of the jobs that run now.", figures.total_bytes),
        ("rate_bytes_per_second", "Rate of all running jobs together.", figures.rate_bytes_s),
        ("lease_age_seconds", "Age of the oldest export lease.", figures.oldest_lease_s),
        ("jobs_stalled", "Running jobs in which nothing moves.", figures.stalled),
        ("jobs_not_restored", "Failed or paused jobs whose source is not as it was found.", figures.not_restored),
    ):
        yield GaugeMetricFamily(f"hypersdk_{name}", text, value)


def _of_durations(figures: Statistics) -> Iterator[Metric]:
    """Gauges, not a histogram: rows go away with the retention, and a counter must never fall."""
    durations = GaugeMetricFamily(
        "hypersdk_step_duration_seconds",
        "Of what ended within the last hour; percentile 100 is the longest.",
        labels=["step", "outcome", "percentile"],
    )
    counts = GaugeMetricFamily(
        "hypersdk_steps_ended", "Steps that ended within the last hour.", labels=["step", "outcome"]
    )
    measured = [("queue", "start", figures.queue_waits_s)]
    measured += [("export", outcome, values) for outcome, values in figures.attempts_s.items()]
    for step, outcome, values in measured:
        counts.add_metric([step, outcome], len(values))
        for share in QUANTILES:
            durations.add_metric([step, outcome, f"{share:.0%}".rstrip("%")], quantile(values, share))
    yield durations
    yield counts


def _of_workers(figures: Statistics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hypersdk_workers_alive", "Workers with a recent heartbeat that take jobs.", figures.workers_alive
    )
    states = GaugeMetricFamily("hypersdk_workers", "Workers by state.", labels=["state"])
    for state, count in figures.workers.items():
        states.add_metric([state], count)
    yield states
    used = GaugeMetricFamily("hypersdk_nfc_streams", "NFC streams in use, by ESXi host.", labels=["site", "host"])
    allowed = GaugeMetricFamily(
        "hypersdk_nfc_streams_allowed", "NFC streams that the host gives.", labels=["site", "host"]
    )
    for host in figures.hosts:
        used.add_metric([host.site, host.host], host.used)
        allowed.add_metric([host.site, host.host], host.allowed)
    yield used
    yield allowed


class Measured:
    """ASGI middleware: how long each answer took, from the request's head to the last byte, by the template of its
    route.

    Event streams are counted when they begin: how long they last says nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._clock()
        status = 500
        stream = False

        async def watched(message: Message) -> None:
            nonlocal status, stream
            if message["type"] == "http.response.start":
                status = message["status"]
                stream = any(
                    name == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message["headers"]
                )
                if stream:
                    self._metrics.observe(scope["method"], route_of(scope), status, self._clock() - began)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if not stream:
                self._metrics.observe(scope["method"], route_of(scope), status, self._clock() - began)


def route_of(scope: Scope) -> str:
    """The template of the route that took the request, or ``unmatched``: addresses that strangers try are no label."""
    route: BaseRoute | None = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "unmatched"
