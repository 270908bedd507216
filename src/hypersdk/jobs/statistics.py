"""Statistics of the whole daemon, read in one transaction for ``/metrics`` and the history.

Their size does not depend on how many users, machines or jobs there ever were: only on states, codes, workers and ESXi
hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.jobs.heartbeat import TAKE_OVER_S
from hypersdk.jobs.records import WORKERS, WorkerInfo
from hypersdk.jobs.states import ENDED, HELD, JobState
from hypersdk.jobs.store import count_states
from hypersdk.state.database import Database
from hypersdk.state.pages import EVERYTHING, ListConditions, Listing, PageRequest, PageResult
from hypersdk.state.tables import attempts, counters, jobs, nfc_hosts, nfc_streams, samples, workers

MAX_HELD: Final = 10_000
"""Running jobs whose progress is added up."""
MAX_HOSTS: Final = 500
LIVING: Final = PageRequest(WORKERS.sort)
"""Alive ones first."""
MAX_ENDED: Final = 2000
"""Attempts of the last hour that durations are taken from."""
DURATION_WINDOW_S: Final = 3600.0
KEEP_MINUTES: Final = 60 * 24 * 30
"""How long samples are kept."""


@dataclass(frozen=True, slots=True)
class HostStreams:
    """Streams of one ESXi host: those in use, and how many it gives."""

    site: str
    host: str
    used: int
    allowed: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """How the daemon stands. Durations are of what ended within the last hour, sorted, in seconds."""

    states: Mapping[JobState, int]
    waiting: Mapping[str, int]
    """Queued jobs by the code of what they wait for; empty text: for a free worker."""
    oldest_queued_s: float
    transferred_bytes: int
    """Of the jobs that workers have now."""
    total_bytes: int
    rate_bytes_s: float
    oldest_lease_s: float
    stalled: int
    not_restored: int
    """Jobs that no worker has and whose source is not restored: failed ones, and paused ones with a snapshot to resume
    from."""
    workers_alive: int
    workers: Mapping[str, int]
    hosts: tuple[HostStreams, ...]
    queue_waits_s: tuple[float, ...]
    attempts_s: Mapping[str, tuple[float, ...]]
    """By outcome."""
    submitted: int
    downloaded_bytes: int
    """By all jobs, ever, gone ones too."""
    revision: int
    now: float


def read_statistics(database: Database, *, take_over_s: float = TAKE_OVER_S) -> Statistics:
    """Raises DatabaseError."""
    with database.read() as connection:
        now = database.now(connection)
        moving = _moving(connection)
        oldest = connection.execute(
            sa.select(sa.func.min(jobs.c.updated_at)).where(jobs.c.state == JobState.QUEUED.value)
        ).scalar()
        counted = {row.name: row.value for row in connection.execute(sa.select(counters.c.name, counters.c.value))}
        alive, by_state = _workers(connection, now, take_over_s)
        return Statistics(
            states=count_states(connection),
            waiting=_waiting(connection),
            oldest_queued_s=0.0 if oldest is None else max(0.0, now - oldest),
            transferred_bytes=sum(job.get("bytes_downloaded") or 0 for job in moving),
            total_bytes=sum(job.get("total_bytes") or 0 for job in moving),
            rate_bytes_s=sum(job.get("rate_bytes_s") or 0 for job in moving),
            oldest_lease_s=max((job.get("lease_age_s") or 0 for job in moving), default=0.0),
            stalled=sum(bool(job.get("stalled")) for job in moving),
            not_restored=_not_restored(connection),
            workers_alive=alive,
            workers=by_state,
            hosts=_hosts(connection, now),
            queue_waits_s=_queue_waits(connection, now),
            attempts_s=_attempts(connection, now),
            submitted=int(counted.get("job", 0)),
            downloaded_bytes=int(counted.get("bytes", 0)),
            revision=int(counted.get("revision", 0)),
            now=now,
        )


def _waiting(connection: sa.Connection) -> dict[str, int]:
    query = (
        sa.select(jobs.c.waiting, sa.func.count()).where(jobs.c.state == JobState.QUEUED.value).group_by(jobs.c.waiting)
    )
    return {str(code or ""): count for code, count in connection.execute(query)}


def _moving(connection: sa.Connection) -> list[Mapping[str, Any]]:
    query = sa.select(jobs.c.progress).where(jobs.c.state.in_([state.value for state in HELD])).limit(MAX_HELD)
    return list(connection.execute(query).scalars())


def _not_restored(connection: sa.Connection) -> int:
    idle = (*ENDED, JobState.PAUSED)
    query = sa.select(sa.func.count()).where(
        jobs.c.state.in_([state.value for state in idle]), jobs.c.source_changes > 0
    )
    return int(connection.execute(query).scalar_one())


def _workers(connection: sa.Connection, now: float, take_over_s: float) -> tuple[int, dict[str, int]]:
    found: dict[str, int] = {"alive": 0, "draining": 0, "dead": 0}
    beating = 0
    for state, beat in connection.execute(sa.select(workers.c.state, workers.c.beat)):
        found[state] = found.get(state, 0) + 1
        beating += state == "alive" and now - beat < take_over_s
    return beating, found


def _hosts(connection: sa.Connection, now: float) -> tuple[HostStreams, ...]:
    taken = (
        sa.select(nfc_streams.c.site, nfc_streams.c.host, sa.func.count())
        .where(nfc_streams.c.expires > now)
        .group_by(nfc_streams.c.site, nfc_streams.c.host)
    )
    used = {(site, host): count for site, host, count in connection.execute(taken)}
    query = sa.select(nfc_hosts.c.site, nfc_hosts.c.host, nfc_hosts.c.allowed).order_by(
        nfc_hosts.c.site, nfc_hosts.c.host
    )
    return tuple(
        HostStreams(site, host, used.get((site, host), 0), allowed)
        for site, host, allowed in connection.execute(query.limit(MAX_HOSTS))
    )


def _queue_waits(connection: sa.Connection, now: float) -> tuple[float, ...]:
    """From submit to the first start."""
    query = (
        sa.select(jobs.c.started_at - jobs.c.created_at)
        .where(jobs.c.started_at >= now - DURATION_WINDOW_S)
        .order_by(jobs.c.started_at.desc())
        .limit(MAX_ENDED)
    )
    return tuple(sorted(max(0.0, float(value)) for value in connection.execute(query).scalars()))


def _attempts(connection: sa.Connection, now: float) -> dict[str, tuple[float, ...]]:
    query = (
        sa.select(attempts.c.outcome, attempts.c.ended_at - attempts.c.started_at)
        .where(attempts.c.ended_at >= now - DURATION_WINDOW_S)
        .order_by(attempts.c.ended_at.desc())
        .limit(MAX_ENDED)
    )
    found: dict[str, list[float]] = {}
    for outcome, seconds in connection.execute(query):
        found.setdefault(str(outcome), []).append(max(0.0, float(seconds)))
    return {outcome: tuple(sorted(values)) for outcome, values in found.items()}


def quantile(ordered: tuple[float, ...], share: float) -> float:
    """The value that ``share`` of the sorted values do not pass; 0 without values."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def workers_alive(database: Database, *, take_over_s: float = TAKE_OVER_S) -> int:
    """Workers with a recent heartbeat that take jobs. Raises DatabaseError."""
    query = sa.select(sa.func.count()).where(workers.c.state == "alive", workers.c.beat > database.clock - take_over_s)
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def list_workers(
    database: Database, where: ListConditions = EVERYTHING, part: PageRequest = LIVING
) -> PageResult[WorkerInfo]:
    """Worker processes. Raises UsageError ``list_query``, DatabaseError."""
    age_s = database.clock - workers.c.beat
    mine = sa.and_(jobs.c.worker_id == workers.c.id, jobs.c.state.in_([state.value for state in HELD]))
    held = sa.select(sa.func.count()).select_from(jobs).where(mine).correlate(workers).scalar_subquery()
    listing = Listing(WORKERS, workers, age_s=sa.case((age_s > 0, age_s), else_=0.0), jobs=held)
    with database.read() as connection:
        return listing.page(connection, listing.select(), listing.conditions(where), part)


# --- history ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """How the daemon stood in one minute. ``minute`` counts from 1970; ``submitted`` is of all time."""

    minute: int
    rate_bytes_s: float
    submitted: int
    queued: int
    running: int
    paused: int
    completed: int
    failed: int
    cancelled: int
    workers: int
    streams: int


def take_sample(database: Database, statistics: Statistics) -> bool:
    """Writes this minute's sample down, unless another process did; forgets those that are too old. Raises
    DatabaseError."""
    minute = int(statistics.now // 60)
    row = {
        "minute": minute,
        "rate_bytes_s": statistics.rate_bytes_s,
        "submitted": statistics.submitted,
        "queued": statistics.states[JobState.QUEUED],
        "running": sum(statistics.states[state] for state in HELD),
        "paused": statistics.states[JobState.PAUSED],
        "completed": statistics.states[JobState.COMPLETED],
        "failed": statistics.states[JobState.FAILED],
        "cancelled": statistics.states[JobState.CANCELLED],
        "workers": statistics.workers_alive,
        "streams": sum(host.used for host in statistics.hosts),
    }
    try:
        with database.write() as connection:
            connection.execute(sa.insert(samples).values(row))
            connection.execute(sa.delete(samples).where(samples.c.minute < minute - KEEP_MINUTES))
            return True
    except sa.exc.IntegrityError:  # another process has written it
        return False


def read_samples(database: Database, since_minute: int, until_minute: int, *, limit: int) -> list[Sample]:
    """Samples of ``since_minute <= minute < until_minute``, thinned out evenly to at most ``limit``, oldest first."""
    step = max(1, -(-(until_minute - since_minute) // limit))
    columns = [samples.c[name] for name in Sample.__dataclass_fields__]
    query = (
        sa.select(*columns)
        .where(samples.c.minute >= since_minute, samples.c.minute < until_minute, samples.c.minute % step == 0)
        .order_by(samples.c.minute)
        .limit(limit)
    )
    with database.read() as connection:
        return [Sample(*row) for row in connection.execute(query)]
