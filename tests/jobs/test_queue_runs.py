"""A queue of 27 jobs on a throttled source: with one worker, and with one that is killed while it copies."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from hypersdk.jobs.queue import QueueWatch
from hypersdk.jobs.states import JobState
from hypersdk.jobs.store import Filter
from hypersdk.model.eta import QueueProgress
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


def run_queue(site: SiteFactory, *, killed: bool) -> list[Look]:
    """All looks at the queue. Two of three machines run: they wait for their turn to have a snapshot."""
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
    assert all(made.store.get(job.id).state is JobState.COMPLETED for job in jobs), made.told()
    return seen


@pytest.mark.slow
def test_the_eta_of_a_queue_is_right_from_the_first_tenth_on(site: SiteFactory) -> None:
    seen = run_queue(site, killed=False)
    assert_never_falling(seen)
    whole_s = seen[-1].at - seen[0].at
    assert_near_the_truth(seen, next(at for at, each in enumerate(seen) if each.at - seen[0].at >= whole_s / 10))


@pytest.mark.slow
def test_the_eta_is_right_again_and_nothing_falls_after_a_workers_death(site: SiteFactory) -> None:
    """It could not be foreseen: from when the jobs of the dead worker run again."""
    seen = run_queue(site, killed=True)
    assert_never_falling(seen)
    again = next(at for at, each in enumerate(seen) if each.again)
    assert seen[again].at - seen[0].at < 0.6 * (seen[-1].at - seen[0].at), "the death was late"
    assert any(each.redone for each in seen[again:]), "what is copied again is told"
    assert_near_the_truth(seen, again)


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


def assert_near_the_truth(seen: Sequence[Look], first: int) -> None:
    """From look ``first`` on."""
    end = seen[-1].at
    told = [(end - each.at, each.queue.eta_s) for each in seen]
    for left_s, eta_s in told[first:-1]:
        assert eta_s is not None, told
        assert abs(eta_s - left_s) <= max(0.25 * left_s, SLACK_S), told
