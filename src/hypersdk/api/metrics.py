"""Metrics for Prometheus: state is read from the database on each scrape, requests are counted when answered.

Every label has a bounded number of values: routes by their template, states and codes from our own lists, workers'
states, ESXi hosts up to ``MAX_HOSTS``. No label holds a job, a machine, a user or a path.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk import __version__
from hypersdk.api.feed import Feed
from hypersdk.jobs.queue import QueueWatch
from hypersdk.jobs.statistics import Statistics, quantile, read_statistics
from hypersdk.model.eta import QueueProgress
from hypersdk.state.database import Database, DatabaseError

LOG: Final = logging.getLogger(__name__)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CACHED_S: Final = 1.0
"""More frequent scrapes get the same values."""
BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 60.0)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUANTILES: Final = (0.5, 0.95, 1.0)


class Metrics(Collector):
    """The metrics of one API process. Thread-safe."""

    def __init__(self, database: Database, feed: Feed, queue: QueueWatch, *, take_over_s: float) -> None:
        self._database = database
        self._feed = feed
        self._queue_watch = queue
        self._take_over_s = take_over_s
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._statistics: Statistics | None = None
        self._queue: QueueProgress | None = None
        self._read_at = -CACHED_S
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
        self._registry.register(self)

    def uptime_s(self) -> float:
        """Seconds since the API started."""
        return time.monotonic() - self._started

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request that was answered."""
        kind = f"{status // 100}xx"
        self._requests.labels(kind).inc()
        self._latency.labels(method if method in METHODS else "other", route, kind).observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format. Reads the database."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The metrics that are read from the database and the event stream."""
        statistics, queue = self._read()
        yield InfoMetricFamily("hypersdk", "The daemon.", {"version": __version__})
        yield GaugeMetricFamily("hypersdk_uptime_seconds", "Since the API started.", self.uptime_s())
        yield GaugeMetricFamily("hypersdk_database_up", "Whether the database answers.", float(statistics is not None))
        yield from _of_feed(self._feed)
        if statistics is not None:
            yield from _of_jobs(statistics)
            yield from _of_durations(statistics)
            yield from _of_workers(statistics)
        if queue is not None:
            yield from _of_queue(queue)

    def _read(self) -> tuple[Statistics | None, QueueProgress | None]:
        with self._lock:
            if time.monotonic() - self._read_at >= CACHED_S:
                try:
                    self._statistics = read_statistics(self._database, take_over_s=self._take_over_s)
                    self._queue = self._queue_watch.look()
                except DatabaseError as error:  # the other metrics are still useful, ``database_up`` above all
                    LOG.debug("no statistics from the database: %s", error.message)
                    self._statistics = self._queue = None
                self._read_at = time.monotonic()
            return self._statistics, self._queue


def _of_feed(feed: Feed) -> Iterator[Metric]:
    yield GaugeMetricFamily("hypersdk_event_streams", "Clients of the event stream.", feed.clients)
    yield CounterMetricFamily("hypersdk_event_polls", "Polls of the database for the event stream.", feed.polls)
    yield CounterMetricFamily("hypersdk_event_resyncs", "Clients that had to load everything again.", feed.resyncs)


def _of_jobs(statistics: Statistics) -> Iterator[Metric]:
    states = GaugeMetricFamily("hypersdk_jobs", "Jobs in the database, by state.", labels=["state"])
    for state, count in statistics.states.items():
        states.add_metric([state.value], count)
    yield states
    yield CounterMetricFamily("hypersdk_jobs_submitted", "Jobs submitted, ever.", statistics.submitted)
    yield CounterMetricFamily(
        "hypersdk_bytes_downloaded", "Bytes over the wire, of all jobs, ever.", statistics.downloaded_bytes
    )
    waiting = GaugeMetricFamily(
        "hypersdk_queue_depth",
        "Queued jobs, by the code of what they wait for; none: a free worker.",
        labels=["waiting"],
    )
    for code, count in ({"": 0} | dict(statistics.waiting)).items():
        waiting.add_metric([code or "none"], count)
    yield waiting
    for name, text, value in (
        ("queue_oldest_seconds", "How long the job that waits longest has been queued.", statistics.oldest_queued_s),
        ("transferred_bytes", "Bytes over the wire of the jobs that run now.", statistics.transferred_bytes),
        ("expected_bytes", "Bytes in all of the jobs that run now.", statistics.total_bytes),
        ("rate_bytes_per_second", "Rate of all running jobs together.", statistics.rate_bytes_s),
        ("lease_age_seconds", "Age of the oldest export lease.", statistics.oldest_lease_s),
        ("jobs_stalled", "Running jobs in which nothing moves.", statistics.stalled),
        ("jobs_not_restored", "Failed or paused jobs whose source is not restored.", statistics.not_restored),
    ):
        yield GaugeMetricFamily(f"hypersdk_{name}", text, value)


def _of_queue(queue: QueueProgress) -> Iterator[Metric]:
    """Without ``eta_seconds`` where the remaining time is unknown: 0 would say that the queue is done."""
    for name, text, value in (
        ("jobs", "Jobs of the queue: unfinished ones, and those that ended since it was empty.", queue.jobs),
        ("jobs_ended", "Jobs of the queue that have ended.", queue.ended),
        ("complete_ratio", "How much of the queue is done, by expected bytes, 0 to 1.", queue.fraction),
        ("eta_seconds", "Until the last job of the queue ends, waiting ones included.", queue.eta_s),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"hypersdk_queue_{name}", text, value)


def _of_durations(statistics: Statistics) -> Iterator[Metric]:
    """Gauges, not a histogram: rows are removed by the retention, and a counter must never decrease."""
    durations = GaugeMetricFamily(
        "hypersdk_step_duration_seconds",
        "Of what ended within the last hour; percentile 100 is the longest.",
        labels=["step", "outcome", "percentile"],
    )
    counts = GaugeMetricFamily(
        "hypersdk_steps_ended", "Steps that ended within the last hour.", labels=["step", "outcome"]
    )
    measured = [("queue", "start", statistics.queue_waits_s)]
    measured += [("export", outcome, values) for outcome, values in statistics.attempts_s.items()]
    for step, outcome, values in measured:
        counts.add_metric([step, outcome], len(values))
        for share in QUANTILES:
            durations.add_metric([step, outcome, f"{share:.0%}".rstrip("%")], quantile(values, share))
    yield durations
    yield counts


def _of_workers(statistics: Statistics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hypersdk_workers_alive", "Workers with a recent heartbeat that take jobs.", statistics.workers_alive
    )
    states = GaugeMetricFamily("hypersdk_workers", "Workers by state.", labels=["state"])
    for state, count in statistics.workers.items():
        states.add_metric([state], count)
    yield states
    used = GaugeMetricFamily("hypersdk_nfc_streams", "NFC streams in use, by ESXi host.", labels=["site", "host"])
    allowed = GaugeMetricFamily(
        "hypersdk_nfc_streams_allowed", "NFC streams that the host gives.", labels=["site", "host"]
    )
    for host in statistics.hosts:
        used.add_metric([host.site, host.host], host.used)
        allowed.add_metric([host.site, host.host], host.allowed)
    yield used
    yield allowed


class Measured:
    """ASGI middleware: measures the time from the request's head to the last byte of the response, by the template of
    the route.

    Event streams are counted when they begin: their duration means nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
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
                    self._metrics.observe(scope["method"], route_of(scope), status, time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if not stream:
                self._metrics.observe(scope["method"], route_of(scope), status, time.perf_counter() - began)


def route_of(scope: Scope) -> str:
    """The template of the route of the request, or ``unmatched``: paths that clients make up must not become labels."""
    route: BaseRoute | None = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "unmatched"
