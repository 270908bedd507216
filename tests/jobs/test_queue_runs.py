"""A queue of 27 jobs on a throttled source, whose worker is killed while it copies."""

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
from hypersdk.simulator.config import DiskSpec
from hypersdk.state.pages import PageRequest
from hypersdk.units import KiB, MiB
from tests.support.site import Site, SiteFactory, machines

COUNT: Final = 27
SLOTS: Final = 6
RATE: Final = 160 * KiB
"""Of each stream: the source sets the pace, not this machine."""
EVERY_S: Final = 0.5


@dataclass(frozen=True)
class Look:
    """The queue at one moment, with the percentage of each job; ``redone``: one does again what was done."""

    at: float
    queue: QueueProgress
    percent: Mapping[str, float]
    redone: bool


def look(made: Site, watch: QueueWatch) -> Look:
    rows = made.store.page(Filter(), PageRequest("number", limit=100)).rows
    percent = {job.id: float(job.progress["percent_complete"]) for job in rows}
    redone = any(job.progress["percent_redone"] is not None for job in rows)
    return Look(time.monotonic(), watch.look(), percent, redone)


def follow(made: Site, watch: QueueWatch, seen: list[Look], until_ended: int) -> None:
    """Looks until so many jobs have ended."""

    def enough() -> bool:
        seen.append(look(made, watch))
        time.sleep(EVERY_S)
        return seen[-1].queue.ended >= until_ended

    made.until(enough, 240)


@pytest.mark.slow
def test_the_eta_of_a_queue_is_right_and_nothing_falls_through_a_workers_death(site: SiteFactory) -> None:
    size = DiskSpec(4 * MiB, allocated_bytes=2 * MiB)
    made = site(
        machines=machines(COUNT, (size,)),
        rate_bytes_s=RATE,
        options={"jobs_per_worker": SLOTS, "streams_per_host": SLOTS},
    )
    watch = QueueWatch(made.database)
    worker = made.worker()
    # Of ranges, progress is seen by pieces of 4 MiB, which take half a minute at this rate.
    jobs = made.submit(*({"vm_path": f"web-{number}", "export_method": "lease"} for number in range(COUNT)))
    seen: list[Look] = []
    follow(made, watch, seen, 1)
    assert_sized(made)
    made.until(lambda: copying(made) >= 2)
    worker.end(signal.SIGKILL)
    seen.append(look(made, watch))
    killed = len(seen)
    made.worker()
    follow(made, watch, seen, COUNT)
    assert all(made.store.get(job.id).state is JobState.COMPLETED for job in jobs), made.told()
    assert_never_falling(seen)
    assert any(each.redone for each in seen[killed:]), "what is copied again is told"
    assert_near_the_truth(seen, killed)


def copying(made: Site) -> int:
    """Jobs that are in the middle of their copy."""
    rows = made.store.page(Filter(states=(JobState.RUNNING,))).rows
    return sum(10 < job.progress["percent_complete"] < 90 for job in rows)


def assert_sized(made: Site) -> None:
    """The machines of waiting jobs were looked up by those that started first."""
    waiting = made.store.page(Filter(states=(JobState.QUEUED,))).rows
    assert waiting
    assert {job.progress["expected_bytes"] for job in waiting} == {2 * MiB}


def assert_never_falling(seen: Sequence[Look]) -> None:
    for job_id in seen[0].percent:
        percents = [each.percent[job_id] for each in seen]
        assert percents == sorted(percents), job_id
    percents = [each.queue.percent_complete for each in seen]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert {each.queue.jobs for each in seen} == {COUNT}


def assert_near_the_truth(seen: Sequence[Look], killed: int) -> None:
    """From the first tenth on, and from when the jobs of the dead worker run again: it could not be foreseen."""
    end = seen[-1].at
    back = next(at for at in range(killed, len(seen)) if seen[at].queue.ended > seen[killed].queue.ended)
    whole_s = end - seen[0].at
    assert seen[back].at - seen[0].at < 0.6 * whole_s, "the death was late"
    for each in seen[back:-1]:
        left_s, eta_s = end - each.at, each.queue.eta_s
        assert eta_s is not None
        assert abs(eta_s - left_s) <= max(0.25 * left_s, 0.1 * whole_s), [
            (end - one.at, one.queue.eta_s) for one in seen
        ]
