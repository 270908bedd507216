"""Several workers on one database: one dies, sleeps or cannot see the files, and the others do what is right.

Real processes, a real PostgreSQL where two hosts need one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState
from hypersdk.units import MiB
from tests.support.databases import administration
from tests.support.exportchecks import expected_raw
from tests.support.simulator import lift_rate_limit
from tests.support.site import SLOW, Site, SiteFactory, assert_exported, machines, source

pytestmark = pytest.mark.waits


@pytest.mark.slow
def test_a_killed_worker_is_replaced_by_the_other_and_limits_hold(site: SiteFactory) -> None:
    """Two hosts on one PostgreSQL: the other takes over after the take-over time; never more streams of a host than
    allowed.

    That time is longer here than the simulator needs to see that a stream's reader was killed, which it counts until
    then.
    """
    made = site(
        machines=machines(6),
        rate_bytes_s=SLOW,
        postgres=True,
        options={"take_over_s": 8.0, "jobs_per_worker": 3, "streams_per_host": 3},
    )
    before = source(made)
    expected = {f"web-{n}": expected_raw(made.simulator, f"web-{n}", made.folder / f"expected-{n}") for n in range(6)}
    first = made.worker("one")
    made.worker("two")
    jobs = made.submit(*({"vm_path": f"web-{number}"} for number in range(6)))
    made.until(lambda: len({made.store.get(job.id).worker_id for job in jobs} - {None}) == 2)
    made.until(lambda: any(_has(made, job, first_of(made, "one")) for job in jobs))
    lost = [job for job in jobs if made.store.get(job.id).worker_id == first_of(made, "one")]
    first.end(signal.SIGKILL)
    made.until_ended(jobs, 240)
    for job in jobs:
        assert_exported(made, job, expected[job.subject])
    for job in lost:
        assert made.store.attempts(job.id)[0].worker_id == first_of(made, "one")
        assert made.store.get(job.id).epoch == 2
    counters = made.simulator.counters
    peaks = {"streams": dict(counters.streams_peak), "ranges": dict(counters.range_streams_peak)}
    assert all(count <= 3 for peak in peaks.values() for count in peak.values()), f"{peaks} {made.told()}"
    assert source(made) == before


def first_of(site: Site, host: str) -> str:
    """Identity of the worker of a host."""
    return (site.folder / host / "workers" / "0.id").read_text().split()[0]


def _has(site: Site, job: JobRecord, worker_id: str) -> bool:
    now = site.store.get(job.id)
    return now.worker_id == worker_id and now.progress["bytes_downloaded"] > MiB


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["off", "running"])
def test_a_worker_that_slept_through_the_take_over_touches_nothing_again(site: SiteFactory, number: int) -> None:
    """SIGSTOP for longer than the take-over time, then SIGCONT: no call to vSphere, not a byte into the job's files."""
    made = site(machines=machines(2), rate_bytes_s=SLOW, postgres=True, options={"take_over_s": 8.0})
    name = f"web-{number}"
    before = source(made)
    expected = expected_raw(made.simulator, name, made.folder / "expected")
    stale = made.worker("one")
    job = made.submit({"vm_path": name})[0]
    made.copied(job, MiB)
    stale.send(signal.SIGSTOP)
    sessions = made.simulator.platform.sessions.all
    theirs = {session.key for session in sessions()}
    with written_by(made.root / name) as their_files:
        assert their_files()
        made.worker("two")
        made.until(lambda: made.store.get(job.id).epoch == 2)
        made.copied(job, MiB)
        calls = {session.key: session.call_count for session in sessions() if session.key in theirs}
        left = their_files()
        stale.send(signal.SIGCONT)
        assert stale.process.wait(90) == 0, stale.log.read_text()  # it learned that it was declared dead, and ended
        made.until_ended([job], 120)
        assert their_files() == left
    for session in sessions():
        assert session.call_count == calls.get(session.key, session.call_count)
    assert_exported(made, job, expected)
    assert [attempt.outcome for attempt in made.store.attempts(job.id)] == [None, "finish"]
    assert source(made) == before


@pytest.mark.slow
def test_a_job_whose_worker_sleeps_is_cancelled_by_another(site: SiteFactory) -> None:
    """The sleeper still holds the lock of the folder; its files go all the same, and the source is put back."""
    made = site(machines=machines(2), rate_bytes_s=SLOW, postgres=True, options={"take_over_s": 4.0})
    before = source(made)
    stale = made.worker("one")
    job = made.submit({"vm_path": "web-1"})[0]
    made.copied(job, MiB)
    stale.send(signal.SIGSTOP)
    made.store.cancel(job.id)
    made.worker("two")
    (ended,) = made.until_ended([job])
    assert ended.state is JobState.CANCELLED, made.told()
    assert source(made) == before
    stale.send(signal.SIGCONT)
    assert stale.process.wait(90) == 0, stale.log.read_text()
    assert list((made.root / "web-1").iterdir()) == []
    assert source(made) == before


@contextmanager
def written_by(folder: Path) -> Iterator[Callable[[], dict[str, tuple[int, int]]]]:
    """What the sleeper had open, also once it has no name any more: a function that tells size and time of the last
    write of each."""
    handles = {
        path.name: os.open(path, os.O_RDONLY)
        for path in folder.glob("*.partial*")
        if path.name.endswith((".partial", ".partial.blocks"))
    }

    def told() -> dict[str, tuple[int, int]]:
        found = {name: os.fstat(handle) for name, handle in handles.items()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}

    try:
        yield told
    finally:
        for handle in handles.values():
            os.close(handle)


def test_a_job_waits_for_a_worker_that_sees_its_root(site: SiteFactory) -> None:
    made = site(machines=machines(1), options={"take_over_s": 2.0})
    blind = made.worker("two", root=made.folder / "elsewhere")
    job = made.submit({"vm_path": "web-0"})[0]
    made.until(lambda: made.store.get(job.id).waiting == "no_worker_for_root")
    assert made.store.get(job.id).state is JobState.QUEUED
    told = made.service.explain(made.store.get(job.id))
    assert told.code == "no_worker_for_root"
    assert "mounted" in told.next_step
    made.worker("one")
    (ended,) = made.until_ended([job])
    assert ended.state is JobState.COMPLETED, made.told()
    assert ended.waiting is None
    assert [attempt.worker_id for attempt in made.store.attempts(job.id)] == [first_of(made, "one")]
    assert blind.process.poll() is None


@pytest.mark.slow
def test_a_running_job_whose_root_nobody_else_sees_waits_and_is_not_shown_as_running(site: SiteFactory) -> None:
    made = site(machines=machines(1), rate_bytes_s=SLOW, options={"take_over_s": 3.0})
    expected = expected_raw(made.simulator, "web-0", made.folder / "expected")
    seeing = made.worker("one")
    made.worker("two", root=made.folder / "elsewhere")
    job = made.submit({"vm_path": "web-0"})[0]
    made.copied(job, MiB)
    seeing.end(signal.SIGKILL)
    made.until(lambda: made.store.get(job.id).waiting == "no_worker_for_root")
    now = made.store.get(job.id)
    assert (now.state, now.worker_id) == (JobState.QUEUED, None)
    assert (now.progress["phase"], now.progress["rate_bytes_s"], now.progress["eta_s"]) == ("queued", None, None)
    assert made.service.explain(now).code == "no_worker_for_root"
    lift_rate_limit(made.simulator)
    made.worker("one")
    (ended,) = made.until_ended([job])
    assert_exported(made, ended, expected)


def test_who_asks_while_no_worker_is_alive_is_told(site: SiteFactory) -> None:
    made = site(machines=machines(1), rate_bytes_s=SLOW, options={"take_over_s": 2.0})
    job = made.submit({"vm_path": "web-0"})[0]
    assert made.service.explain(made.store.get(job.id)).code == "no_worker"
    worker = made.worker()
    made.copied(job, MiB)
    assert made.service.explain(made.store.get(job.id)).code == "running"
    worker.end(signal.SIGKILL)
    made.until(lambda: made.service.explain(made.store.get(job.id)).code == "no_worker")
    assert "start" in made.service.explain(made.store.get(job.id)).next_step.lower()


@pytest.mark.slow
def test_a_database_that_goes_away_costs_no_job(site: SiteFactory) -> None:
    """Its connections are cut and none are let in for longer than a worker may go on without a sign of life."""
    made = site(machines=machines(2), rate_bytes_s=SLOW, postgres=True, options={"take_over_s": 6.0})
    before = source(made)
    expected = {f"web-{n}": expected_raw(made.simulator, f"web-{n}", made.folder / f"expected-{n}") for n in range(2)}
    worker = made.worker()
    jobs = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"})
    for job in jobs:
        made.copied(job, MiB)
    _cut_off(made.database_url, 8.0)
    made.until_ended(jobs, 180)
    for job in jobs:
        assert_exported(made, job, expected[job.subject])
    assert worker.process.poll() is None
    assert source(made) == before


def _cut_off(url: str, seconds: float) -> None:
    server, _, name = url.rpartition("/")
    with administration(server).connect() as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
            time.sleep(0.2)
        connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
