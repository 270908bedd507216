"""The queue as a whole, from the rows of its jobs."""

from __future__ import annotations

from typing import Any

import pytest

from hypersdk.jobs.claims import Claim, Claims, Unsaved
from hypersdk.jobs.heartbeat import Heartbeat
from hypersdk.jobs.queue import NO_WORKER_TEXT, QueueWatch, read_queue
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobEvent
from hypersdk.jobs.store import JobStore
from hypersdk.model import ExportProgress, Phase, job_object, read_job_object
from hypersdk.units import GiB
from tests.support.clock import Clock
from tests.support.jobrecords import new_job, submit


@pytest.fixture
def claims(store: JobStore) -> Claims:
    """Those of a worker."""
    return Claims(store.database, "worker-1")


def add(store: JobStore, count: int, first: int = 0) -> list[JobRecord]:
    return [
        submit(store, new_job(name=f"web-{number}", subject=f"/data/vm/web-{number}", target=f"/srv/{number}"))
        for number in range(first, first + count)
    ]


def progress(**values: Any) -> dict[str, Any]:
    return job_object(ExportProgress(**values))


def start(claims: Claims, job: JobRecord, **values: Any) -> Claim:
    claim = claims.claim(job.id, job.attempt)
    assert claim is not None
    claims.save(Unsaved(claim, progress(**values)))
    return claim


def test_an_empty_database_has_an_empty_queue(store: JobStore) -> None:
    queue = read_queue(store.database)
    assert (queue.jobs, queue.open_jobs, queue.eta_s, queue.reason) == (0, 0, None, "")


def test_ended_jobs_belong_to_it_until_it_was_empty(store: JobStore, claims: Claims) -> None:
    """The first two jobs end before the others are submitted."""
    for job in add(store, 2):
        claims.end(start(claims, job), JobEvent.FINISH)
    assert (read_queue(store.database).jobs, read_queue(store.database).percent_complete) == (2, 100.0)
    first, second, third, _ = add(store, 4, first=2)
    claims.end(start(claims, first, fraction=0.5), JobEvent.FAIL, error={"code": "x", "message": ""})
    claims.end(start(claims, second), JobEvent.FINISH)
    start(claims, third, fraction=0.5)
    queue = read_queue(store.database)
    assert (queue.jobs, queue.completed, queue.failed, queue.running, queue.waiting) == (4, 1, 1, 1, 1)
    assert queue.percent_complete == pytest.approx(100 * 2.5 / 4)
    assert queue.added == 0
    add(store, 3, first=6)
    queue = read_queue(store.database)
    assert (queue.jobs, queue.added) == (7, 3)


def test_a_paused_job_is_counted_and_does_not_keep_the_queue_open(store: JobStore, claims: Claims) -> None:
    paused, other = add(store, 2)
    store.pause(paused.id)
    claims.end(start(claims, other), JobEvent.FINISH)
    queue = read_queue(store.database)
    assert (queue.jobs, queue.completed, queue.aside, queue.eta_s) == (2, 1, 1, None)
    add(store, 1, first=2)
    queue = read_queue(store.database)
    assert (queue.jobs, queue.aside, queue.waiting) == (1, 0, 1), "the paused job is of an earlier queue"


def test_the_eta_is_that_of_all_jobs_and_needs_a_worker(store: JobStore, claims: Claims) -> None:
    first, second, *_ = add(store, 10)
    copying = {"expected_bytes": GiB, "fraction": 0.5, "copy_s": 10.0, "eta_s": 10.0, "rate_bytes_s": 1e6}
    start(claims, first, **copying)
    start(claims, second, **copying)
    alone = read_queue(store.database)
    assert (alone.eta_s, alone.reason) == (None, NO_WORKER_TEXT)
    with Heartbeat(store.database, "worker-1", ["root"]):
        queue = read_queue(store.database)
    assert queue.eta_s == pytest.approx(10 + 4 * 20, rel=0.05)
    assert (queue.about, queue.rate_bytes_s) == (True, 2e6)


def test_two_machines_of_a_datastore_are_copied_at_a_time(store: JobStore, claims: Claims) -> None:
    copying = {"expected_bytes": GiB, "fraction": 0.5, "copy_s": 10.0, "eta_s": 10.0, "snapshots_on": ("nvme-1",)}
    first, second, third, *_ = add(store, 9)
    start(claims, first, **copying)
    start(claims, second, **copying)
    start(claims, third, expected_bytes=GiB, phase=Phase.PREPARING, snapshots_on=("nvme-1",), turn_s=5.0)
    with Heartbeat(store.database, "worker-1", ["root"]):
        queue = read_queue(store.database)
    assert queue.eta_s == pytest.approx(10 + 4 * 20, rel=0.05), "seven more, two at a time, not three"


def test_a_stalled_queue_has_no_eta_and_says_why(store: JobStore, claims: Claims) -> None:
    first, _ = add(store, 2)
    start(
        claims, first, fraction=0.5, copy_s=10.0, eta_s=10.0, stalled="no byte for 2 m 00 s: the source sends nothing"
    )
    with Heartbeat(store.database, "worker-1", ["root"]):
        queue = read_queue(store.database)
    assert (queue.eta_s, queue.reason) == (None, "no byte for 2 m 00 s: the source sends nothing")


def test_the_percentage_does_not_fall_when_sizes_become_known(store: JobStore, claims: Claims) -> None:
    clock = Clock()
    watch = QueueWatch(store.database, clock=clock)
    first, second = add(store, 2)
    claims.end(start(claims, first, expected_bytes=GiB), JobEvent.FINISH)
    assert watch.look().percent_complete == 50
    start(claims, second, expected_bytes=9 * GiB)
    clock.pass_(2)
    assert read_queue(store.database).percent_complete == 10
    assert watch.look().percent_complete == 50
    add(store, 1, first=2)
    clock.pass_(2)
    assert watch.look().percent_complete < 50, "there is more work"


def test_a_retried_job_goes_on_from_its_percentage_unless_it_starts_over(store: JobStore, claims: Claims) -> None:
    for discard, kept in ((False, 0.4), (True, 0.0)):
        (job,) = add(store, 1, first=int(discard))
        claim = start(claims, job, fraction=0.4, expected_bytes=GiB)
        claims.write_run(claim, "{}", source_changes=0)
        claims.end(claim, JobEvent.FAIL, error={"code": "x", "message": ""}, progress=progress(fraction=0.4))
        again = read_job_object(store.retry(job.id, discard=discard).progress)
        assert again.fraction == kept


def test_a_job_whose_data_was_removed_starts_over(store: JobStore, claims: Claims) -> None:
    (job,) = add(store, 1)
    claim = start(claims, job, fraction=0.4)
    store.cancel(job.id)
    claims.end(claim, JobEvent.CANCELLED, progress=progress(fraction=0.4))
    assert store.get(job.id).progress["percent_complete"] == 40
    assert store.retry(job.id).progress["percent_complete"] == 0
