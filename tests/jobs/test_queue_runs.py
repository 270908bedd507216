"""A queue of 27 jobs on a throttled source: with one worker, and with one that is killed while it copies."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import pytest

from hypersdk.jobs.queue import QueueWatch
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState
from hypersdk.jobs.store import Filter
from hypersdk.model.eta import RECENT, QueueProgress
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.state.pages import PageRequest
from hypersdk.units import MiB
from tests.support.site import SMALL, Site, SiteFactory

COUNT: Final = 27
SLOTS: Final = 4
DISK: Final = DiskSpec(32 * MiB, allocated_bytes=24 * MiB)
RATE: Final = 3 * MiB
"""Of each stream: the source sets the pace, not this machine."""
EVERY_S: Final = 0.5
SLACK_S: Final = 5.0
"""Near the end a quarter is less than is known: rows are written each second and read each second, workers look for
jobs each second, and a job of six seconds shows its progress in five steps."""


@dataclass(frozen=True)
class Look:
    """The queue at one moment, with the percentage of each job; ``redone``: one does again what was done; ``again``: a
    job runs for the second time."""

    at: float
    queue: QueueProgress
    percent: Mapping[str, float]
    redone: bool
    again: bool


def look(made: Site, watch: QueueWatch) -> Look:
    rows = [job for job in made.store.page(Filter(), PageRequest("number", limit=100)).rows if job.subject != "first"]
    percent = {job.id: float(job.progress["percent_complete"]) for job in rows}
    redone = any(job.progress["percent_redone"] is not None for job in rows)
    again = any(job.state is JobState.RUNNING and job.epoch > 1 for job in rows)
    return Look(time.monotonic(), watch.look(), percent, redone, again)


def follow(made: Site, watch: QueueWatch, seen: list[Look], until_ended: int) -> None:
    """Looks until so many jobs have ended."""

    def enough() -> bool:
        seen.append(look(made, watch))
        time.sleep(EVERY_S)
        return seen[-1].queue.ended >= until_ended

    made.until(enough, 240)


@dataclass(frozen=True)
class Run:
    """All looks at a queue. ``job_s`` is how long each job ran without waiting for its turn, in the order in which they
    ended; None for one of which two workers did a part."""

    seen: list[Look]
    job_s: Sequence[float | None]

    def change(self, ended: int) -> float:
        """How much longer the jobs ran that ended after ``ended`` others than those before them: a machine that gets
        busy later, or is no longer, decides no test."""
        before = [seconds for seconds in self.job_s[: max(ended, SLOTS)] if seconds is not None][-RECENT:]
        after = [seconds for seconds in self.job_s[ended:] if seconds is not None]
        return fmean(after) / fmean(before) if before and after else 1.0


def run_queue(site: SiteFactory, *, killed: bool) -> Run:
    """Two of three machines run: they wait for their turn to have a snapshot."""
    made = site(
        machines=(
            MachineSpec("first", (SMALL,)),
            *(
                MachineSpec(f"web-{number}", (DISK,), power="poweredOff" if number % 3 == 2 else "poweredOn")
                for number in range(COUNT)
            ),
        ),
        rate_bytes_s=RATE,
        options={"jobs_per_worker": SLOTS, "streams_per_host": SLOTS},
    )
    watch = QueueWatch(made.database)
    worker = made.worker()
    made.until_ended(made.submit({"vm_path": "first"}))  # the worker loads its modules: jobs on a new one take longer
    jobs = made.submit(*({"vm_path": f"web-{number}", "export_method": "lease"} for number in range(COUNT)))
    seen: list[Look] = []
    follow(made, watch, seen, 1)
    assert_sized(made)
    if killed:
        made.until(lambda: copying(made) >= 2)
        worker.end(signal.SIGKILL)
        made.worker()
    follow(made, watch, seen, COUNT)
    ended = [made.store.get(job.id) for job in jobs]
    assert all(job.state is JobState.COMPLETED for job in ended), made.told()
    return Run(seen, [own_s(job) for job in sorted(ended, key=lambda job: job.completed_at or job.created_at)])


def own_s(job: JobRecord) -> float | None:
    if job.epoch > 1 or job.started_at is None or job.completed_at is None:
        return None
    return (job.completed_at - job.started_at).total_seconds() - float(job.progress["turn_s"])


@pytest.mark.slow
@pytest.mark.waits
def test_the_eta_of_a_queue_is_right_from_the_first_tenth_on(site: SiteFactory) -> None:
    run = run_queue(site, killed=False)
    seen = run.seen
    assert_never_falling(seen)
    whole_s = seen[-1].at - seen[0].at
    assert_near_the_truth(run, next(at for at, each in enumerate(seen) if each.at - seen[0].at >= whole_s / 10))


@pytest.mark.slow
@pytest.mark.waits
def test_the_eta_is_right_again_and_nothing_falls_after_a_workers_death(site: SiteFactory) -> None:
    """It could not be foreseen: from when the jobs of the dead worker run again."""
    run = run_queue(site, killed=True)
    seen = run.seen
    assert_never_falling(seen)
    again = next(at for at, each in enumerate(seen) if each.again)
    assert seen[again].at - seen[0].at < 0.6 * (seen[-1].at - seen[0].at), "the death was late"
    assert any(each.redone for each in seen[again:]), "what is copied again is told"
    assert_near_the_truth(run, again)


def copying(made: Site) -> int:
    """Jobs that are in the middle of their copy."""
    rows = made.store.page(Filter(states=(JobState.RUNNING,))).rows
    return sum(10 < job.progress["percent_complete"] < 90 for job in rows)


def assert_sized(made: Site) -> None:
    """The machines of waiting jobs were looked up by those that started first."""
    waiting = made.store.page(Filter(states=(JobState.QUEUED,))).rows
    assert waiting
    assert {job.progress["expected_bytes"] for job in waiting} == {DISK.allocated_bytes}


def assert_never_falling(seen: Sequence[Look]) -> None:
    for job_id in seen[0].percent:
        percents = [each.percent[job_id] for each in seen]
        assert percents == sorted(percents), job_id
    percents = [each.queue.percent_complete for each in seen]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert {each.queue.jobs for each in seen} == {COUNT}


def assert_near_the_truth(run: Run, first: int) -> None:
    """From look ``first`` on. A turn that changes hands is in the rows of two jobs, of which one may be written a
    second after the other: one look of twenty may be off."""
    end = run.seen[-1].at
    told = [(end - look.at, look.queue.eta_s, run.change(look.queue.ended)) for look in run.seen]
    wrong = [
        (left_s, eta_s, change)
        for left_s, eta_s, change in told[first:-1]
        if eta_s is None or abs(eta_s * change - left_s) > max(0.25 * left_s, SLACK_S)
    ]
    assert len(wrong) <= len(told[first:-1]) / 20, (wrong, told)
