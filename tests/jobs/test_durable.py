"""Jobs survive: kill -9 of their worker at any moment, drains, pauses, cancels; the source is as it was found afterwards.

Real processes, real sockets. The moments are drawn from a seed (HYPERSDK_KILL_SEED).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Final

import pytest

from hypersdk.jobs.states import ENDED, JobState
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.e2e.judge import assert_finished, assert_holds, content_in_manifest, expected_raw
from tests.support.site import Site

SiteFactory = Callable[..., Site]
SEED: Final = int(os.environ.get("HYPERSDK_KILL_SEED", "20"))
DISKS: Final = (DiskSpec(24 * MiB, allocated_bytes=16 * MiB), DiskSpec(16 * MiB, allocated_bytes=12 * MiB))
SLOW: Final = 3 * MiB
"""Bytes a second of each stream: a disk takes seconds."""


def machines(count: int, **changes: object) -> tuple[MachineSpec, ...]:
    """``count`` machines on two hosts, every other one running."""
    return tuple(
        MachineSpec(
            f"web-{number}", DISKS, host=number % 2, power="poweredOn" if number % 2 else "poweredOff", **changes
        )  # type: ignore[arg-type]
        for number in range(count)
    )


def source(site: Site) -> dict[str, object]:
    """What of the source must be as it was found."""
    return site.simulator.state()


def test_a_cancel_stops_the_bytes_frees_the_lease_and_takes_the_files_away(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=SLOW)
    before = source(made)
    made.worker()
    running = made.submit({"vm_path": "web-1"})[0]
    made.until(lambda: made.store.get(running.id).progress["bytes_downloaded"] > MiB)
    made.service.cancel(running.id)
    asked = time.monotonic()
    made.until(lambda: made.simulator.counters.streams_now.total() == 0)
    assert time.monotonic() - asked < 2.5  # the promise is 2 s; the rest is for a busy machine
    (ended,) = made.until_ended([running])
    assert ended.state is JobState.CANCELLED
    assert source(made) == before
    assert [path.name for path in (made.root / "web-1").iterdir()] == []


def test_a_pause_keeps_its_place_and_resume_fetches_no_finished_disk_again(site: SiteFactory) -> None:
    made = site(machines=machines(1), rate_bytes_s=SLOW)
    before = source(made)
    expected = expected_raw(made.simulator, "web-0", made.folder / "expected")
    made.worker()
    job = made.submit({"vm_path": "web-0", "options": {"parallel_downloads": 1}})[0]
    made.until(
        lambda: (
            [disk["bytes_downloaded"] > 2 * MiB for disk in made.store.get(job.id).progress["disks"]] == [True, True]
        )
    )
    made.service.pause(job.id)
    made.until_state(job, JobState.PAUSED)
    assert source(made) == before
    made.simulator.reset_counters()
    made.service.resume(job.id)
    (ended,) = made.until_ended([job])
    assert ended.state is JobState.COMPLETED, ended.error
    assert ended.result is not None
    assert ended.result["blocks_skipped"] > 0
    assert made.simulator.counters.opened["web-0:0"] == 0
    folder = made.root / "web-0"
    assert_finished(folder)
    assert_holds(folder, expected, content_in_manifest(folder), made.folder / "scratch")
    assert source(made) == before


def test_a_drained_worker_hands_its_jobs_back(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=SLOW)
    before = source(made)
    worker = made.worker()
    jobs = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"})
    made.until(lambda: all(made.store.get(job.id).progress["bytes_downloaded"] > MiB for job in jobs))
    assert worker.end(signal.SIGTERM) == 0
    assert {made.store.get(job.id).state for job in jobs} == {JobState.QUEUED}
    assert made.simulator.counters.streams_now.total() == 0
    made.worker()
    assert {job.state for job in made.until_ended(jobs)} == {JobState.COMPLETED}
    assert source(made) == before


def test_a_job_submitted_while_nobody_works_is_done_once_somebody_does(site: SiteFactory) -> None:
    """The row comes first, the engine hears of it later: nothing depends on the process that took the submit."""
    made = site(machines=machines(1))
    job = made.submit({"vm_path": "web-0"})[0]
    made.worker()
    assert made.until_ended([job])[0].state is JobState.COMPLETED


def test_a_failed_job_says_why_and_a_retry_goes_on(site: SiteFactory) -> None:
    made = site(machines=(MachineSpec("web-0", (DiskSpec(16 * MiB, backing="rdm-physical"),)), *machines(2)[1:]))
    made.worker()
    refused, unknown = made.submit({"vm_path": "web-0"}, {"vm_path": "none", "output_path": str(made.root / "x")})
    codes = {
        job.id: (job.state, job.error["code"] if job.error else None) for job in made.until_ended([refused, unknown])
    }
    assert codes[unknown.id] == (JobState.FAILED, "not_found")
    assert codes[refused.id][0] is JobState.FAILED
    assert made.service.explain(made.store.get(unknown.id)).next_step
    made.simulator.add_machine(MachineSpec("none", DISKS))
    made.service.retry(unknown.id)
    assert made.until_ended([unknown])[0].state is JobState.COMPLETED
    assert len(made.store.attempts(unknown.id)) == 2


@pytest.mark.slow
def test_kill_9_at_random_moments_and_every_job_completes(site: SiteFactory) -> None:
    """20 kills while 8 jobs run. No disk that was finished is fetched again, no lease or snapshot is left."""
    count, kills = 8, 20
    made = site(machines=machines(count), rate_bytes_s=2 * MiB, options={"jobs_per_worker": 8, "take_over_s": 4.0})
    before = source(made)
    expected = {
        f"web-{n}": expected_raw(made.simulator, f"web-{n}", made.folder / f"expected-{n}") for n in range(count)
    }
    jobs = made.submit(*({"vm_path": f"web-{number}", "options": {"parallel_downloads": 1}} for number in range(count)))
    draw = random.Random(SEED)
    for _ in range(kills):
        worker = made.worker()
        time.sleep(draw.uniform(0.1, 3.0))
        worker.end(signal.SIGKILL)
    made.worker()
    ended = made.until_ended(jobs, 240)
    assert {job.state for job in ended} == {JobState.COMPLETED}, made.told()
    for name, raws in expected.items():
        folder = made.root / name
        assert_finished(folder)
        assert_holds(folder, raws, content_in_manifest(folder), made.folder / f"scratch-{name}")
    assert source(made) == before


@pytest.mark.slow
def test_a_killed_worker_is_replaced_by_the_other_and_limits_hold(site: SiteFactory) -> None:
    """Two hosts on one PostgreSQL: the other takes over within the take-over time; never more streams of a host than allowed."""
    made = site(
        machines=machines(6), rate_bytes_s=SLOW, postgres=True,
        options={"take_over_s": 3.0, "jobs_per_worker": 3, "streams_per_host": 3},
    )  # fmt: skip
    before = source(made)
    first = made.worker("one")
    made.worker("two")
    jobs = made.submit(*({"vm_path": f"web-{number}"} for number in range(6)))
    made.until(lambda: sum(made.store.get(job.id).progress["bytes_downloaded"] > MiB for job in jobs) >= 4)
    both = {made.store.get(job.id).worker_id for job in jobs} - {None}
    assert len(both) == 2
    first.end(signal.SIGKILL)
    ended = made.until_ended(jobs, 180)
    assert {job.state for job in ended} == {JobState.COMPLETED}, made.told()
    assert max(made.simulator.counters.streams_peak.values()) <= 3
    assert source(made) == before


@pytest.mark.slow
def test_a_worker_that_slept_through_the_take_over_touches_nothing_again(site: SiteFactory) -> None:
    """SIGSTOP for longer than the take-over time, then SIGCONT: no call to vSphere, not a byte into the job's files."""
    made = site(machines=machines(1), rate_bytes_s=SLOW, postgres=True, options={"take_over_s": 3.0})
    before = source(made)
    expected = expected_raw(made.simulator, "web-0", made.folder / "expected")
    stale = made.worker("one")
    job = made.submit({"vm_path": "web-0"})[0]
    made.until(lambda: made.store.get(job.id).progress["bytes_downloaded"] > MiB)
    old = {session.key: session.call_count for session in made.simulator.platform.sessions.all()}
    stale.send(signal.SIGSTOP)
    made.worker("two")
    made.until(lambda: made.store.get(job.id).epoch == 2)
    folder = made.root / "web-0"
    time.sleep(1)
    parts = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("*.partial")}
    assert parts
    files = {path: path.stat().st_ino for path in folder.glob("*.partial")}
    handles = {path: os.open(path, os.O_RDONLY) for path in files}
    written = {path: os.fstat(handle).st_mtime_ns for path, handle in handles.items()}
    stale.send(signal.SIGCONT)
    (ended,) = made.until_ended([job], 120)
    assert ended.state is JobState.COMPLETED, made.told()
    assert stale.process.wait(60) == 0  # it learned that it was declared dead, and ended
    assert {path: os.fstat(handle).st_mtime_ns for path, handle in handles.items()} == written
    for handle in handles.values():
        os.close(handle)
    for session in made.simulator.platform.sessions.all():
        assert session.call_count == old.get(session.key, session.call_count)
    assert_finished(folder)
    assert_holds(folder, expected, content_in_manifest(folder), made.folder / "scratch")
    assert source(made) == before


@pytest.mark.slow
def test_jobs_of_an_earlier_release_complete_under_a_later_one(site: SiteFactory) -> None:
    """Queued and running ones: the workflow's source has changed, the order of its steps has not."""
    made = site(machines=machines(3), rate_bytes_s=SLOW, options={"jobs_per_worker": 1, "take_over_s": 4.0})
    worker = made.worker()
    jobs = made.submit(*({"vm_path": f"web-{number}"} for number in range(3)))
    made.until(lambda: any(made.store.get(job.id).progress["bytes_downloaded"] > MiB for job in jobs))
    worker.end(signal.SIGKILL)
    assert sum(made.store.get(job.id).state in ENDED for job in jobs) == 0
    made.worker("one", 0, "edited")
    assert {job.state for job in made.until_ended(jobs, 180)} == {JobState.COMPLETED}, made.told()
