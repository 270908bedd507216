"""What a job changed at its source is undone, or known and asked for: no job is forgotten while only its record
knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from hypersdk.access.roles import Role
from hypersdk.api.allowed import job_permissions
from hypersdk.errors import LookupFailed
from hypersdk.jobs.states import JobState, JobStateError
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.state.tables import jobs, runs
from hypersdk.units import KiB, MiB
from tests.support.exportchecks import assert_finished, expected_raw
from tests.support.simulator import lift_rate_limit, limit_rate
from tests.support.site import SLOW, SiteFactory, assert_exported, machines, source

pytestmark = pytest.mark.waits

STUCK = Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None)
RUNNING = "web-1"
"""The running one of the machines: its export makes a temporary snapshot."""


def test_a_snapshot_that_stays_is_told_and_a_cancel_removes_it(site: SiteFactory) -> None:
    """The files are published before: they stay, and the job is completed once its source is as it was found."""
    made = site(machines=machines(2), options={"take_over_s": 2.0, "retention_days": 1})
    before = source(made)
    made.simulator.set_faults(STUCK)
    made.worker()
    (failed,) = made.until_ended(made.submit({"vm_path": RUNNING}))
    assert (failed.state, failed.source_changes) == (JobState.FAILED, 1)
    assert failed.error is not None
    assert (failed.error["code"], "hyperctl cancel" in failed.error["next_step"]) == ("not_restored", True)
    told = made.service.explain(failed)
    assert "not undone" in told.message
    assert source(made) != before
    permitted = job_permissions(failed, Role.OPERATOR)
    assert permitted["cancel"].allowed
    assert permitted["delete"].code == "source_not_restored"
    with pytest.raises(JobStateError) as caught:
        made.store.delete(failed.id)
    assert caught.value.code == "source_not_restored"
    made.simulator.set_faults()
    made.store.cancel(failed.id)
    (ended,) = made.until_ended([failed])
    assert (ended.state, ended.source_changes) == (JobState.COMPLETED, 0), made.told()
    assert ended.result is not None
    assert ended.result["restored"] is True
    assert source(made) == before
    assert_finished(made.root / RUNNING)
    made.store.delete(failed.id)


def test_a_failed_job_is_cancelled_only_for_what_it_left(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=SLOW)
    before = source(made)
    corrupt = Fault(FaultKind.CORRUPT, after_bytes=2 * MiB, times=None)
    made.simulator.set_faults(corrupt, STUCK)
    made.worker()
    (failed,) = made.until_ended(made.submit({"vm_path": RUNNING}))
    assert (failed.state, failed.source_changes) == (JobState.FAILED, 1), made.told()
    assert failed.error is not None
    assert len(failed.error["not_undone"]) == 1
    assert "hyperctl cancel ID" in failed.error["next_step"]
    made.simulator.set_faults()
    made.store.cancel(failed.id)
    (ended,) = made.until_ended([failed])
    assert (ended.state, ended.source_changes) == (JobState.CANCELLED, 0), made.told()
    assert source(made) == before
    assert list((made.root / RUNNING).iterdir()) == []
    made.simulator.set_faults(corrupt)
    (again,) = made.until_ended(made.submit({"vm_path": "web-0"}))
    assert (again.state, again.source_changes) == (JobState.FAILED, 0)
    with pytest.raises(JobStateError, match="no change at its source or target is left"):
        made.store.cancel(again.id)


def test_what_is_known_of_a_source_outlives_the_retention(site: SiteFactory) -> None:
    made = site(machines=machines(2), options={"take_over_s": 2.0, "retention_days": 1})
    made.simulator.set_faults(STUCK)
    worker = made.worker()
    left, whole = made.until_ended(made.submit({"vm_path": RUNNING}, {"vm_path": "web-0"}))
    assert [left.state, whole.state] == [JobState.FAILED, JobState.COMPLETED], made.told()
    worker.end()
    with made.database.write() as connection:
        connection.execute(sa.update(jobs).values(completed_at=jobs.c.completed_at - 2 * 86_400))
    seen = made.store.revision()
    made.worker()
    made.until(lambda: made.removed_since(seen))
    assert made.removed_since(seen) == [whole.id]
    assert made.store.get(left.id).source_changes == 1


def test_the_snapshot_of_a_long_pause_is_removed_and_resume_begins_anew(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=SLOW, options={"take_over_s": 2.0})
    before = source(made)
    expected = expected_raw(made.simulator, RUNNING, made.folder / "expected")
    worker = made.worker()
    job = made.submit({"vm_path": RUNNING})[0]
    made.copied(job, MiB)
    made.store.pause(job.id)
    paused = made.until_state(job, JobState.PAUSED)
    assert paused.source_changes == 1
    assert source(made) != before
    worker.end()
    _grow_old(made.database.write, job.id, timedelta(hours=25))
    made.worker()
    made.until(lambda: made.store.get(job.id).source_changes == 0)
    assert made.until_state(job, JobState.PAUSED).attempt == 2
    assert source(made) == before
    lift_rate_limit(made.simulator)
    made.store.resume(job.id)
    made.until_ended([job])
    assert_exported(made, job, expected)
    assert source(made) == before


def test_a_source_that_does_not_answer_leaves_the_job_paused(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=SLOW, options={"take_over_s": 2.0})
    worker = made.worker()
    job = made.submit({"vm_path": RUNNING})[0]
    made.copied(job, MiB)
    made.store.pause(job.id)
    made.until_state(job, JobState.PAUSED)
    worker.end()
    made.simulator.set_faults(STUCK)
    _grow_old(made.database.write, job.id, timedelta(hours=25))
    made.worker()
    made.until(lambda: b"not undone at the source" in made.store.read_log(job.id)[0])
    now = made.until_state(job, JobState.PAUSED)
    assert (now.attempt, now.source_changes) == (2, 1)


def test_what_a_failed_job_left_is_undone_later_by_itself(site: SiteFactory) -> None:
    """The commonest failure is a vCenter that is away, which defeats the undo, too. Nobody need ask for it."""
    made = site(machines=machines(2), rate_bytes_s=SLOW)
    before = source(made)
    made.simulator.set_faults(Fault(FaultKind.CORRUPT, after_bytes=2 * MiB, times=None), STUCK)
    worker = made.worker()
    (failed,) = made.until_ended(made.submit({"vm_path": RUNNING}))
    assert (failed.state, failed.source_changes) == (JobState.FAILED, 1)
    worker.end()
    made.simulator.set_faults()
    _grow_old(made.database.write, failed.id, timedelta(hours=25))
    made.worker()
    made.until(lambda: made.store.get(failed.id).source_changes == 0)
    now = made.store.get(failed.id)
    assert (now.state, now.error, now.attempt) == (JobState.FAILED, failed.error, failed.attempt)
    assert source(made) == before
    made.until(lambda: b"checking what is left" in made.store.read_log(failed.id)[0])  # written when all is done
    lift_rate_limit(made.simulator)
    made.store.retry(failed.id)
    (ended,) = made.until_ended([failed])
    assert ended.state is JobState.COMPLETED, made.told()


def test_a_published_job_is_completed_later_by_itself(site: SiteFactory) -> None:
    made = site(machines=machines(2))
    before = source(made)
    made.simulator.set_faults(STUCK)
    worker = made.worker()
    (failed,) = made.until_ended(made.submit({"vm_path": RUNNING}))
    assert (failed.error or {})["code"] == "not_restored"
    worker.end()
    made.simulator.set_faults()
    _grow_old(made.database.write, failed.id, timedelta(hours=2))
    made.worker()
    made.until_state(failed, JobState.COMPLETED)
    assert source(made) == before


def test_a_queued_job_keeps_no_old_snapshot(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=SLOW, options={"jobs_per_worker": 1})
    before = source(made)
    expected = expected_raw(made.simulator, RUNNING, made.folder / "expected")
    worker = made.worker()
    job = made.submit({"vm_path": RUNNING})[0]
    made.copied(job, MiB)
    worker.end()
    assert made.store.get(job.id).state is JobState.QUEUED
    made.submit({"vm_path": "web-0"})
    with made.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(priority=-5))
    _grow_old(made.database.write, job.id, timedelta(hours=25))
    lift_rate_limit(made.simulator)
    made.worker()
    made.until(lambda: made.store.get(job.id).source_changes == 0)
    made.until_ended([job])
    assert_exported(made, job, expected)
    assert source(made) == before


def test_a_cancel_does_not_wait_for_a_place_in_the_queue(site: SiteFactory) -> None:
    """One place, which another job has for long: the paused one is undone beside it."""
    made = site(machines=machines(3), rate_bytes_s=MiB, options={"jobs_per_worker": 1})
    before = source(made)
    made.worker()
    paused = made.submit({"vm_path": RUNNING})[0]
    made.copied(paused, MiB // 2)
    made.store.pause(paused.id)
    made.until_state(paused, JobState.PAUSED)
    running = made.submit({"vm_path": "web-0"})[0]
    made.copied(running, MiB // 2)
    limit_rate(made.simulator, 32 * KiB)
    made.store.cancel(paused.id)
    (ended,) = made.until_ended([paused])
    assert (ended.state, ended.source_changes) == (JobState.CANCELLED, 0), made.told()
    assert made.store.get(running.id).state is JobState.RUNNING
    made.store.cancel(running.id)
    made.until_ended([running])
    assert source(made) == before


def _grow_old(write: Callable[[], object], job_id: str, age: timedelta) -> None:
    """As if the run had begun, and the job been paused, so long ago."""
    with write() as connection:  # type: ignore[attr-defined]
        record = json.loads(connection.execute(sa.select(runs.c.record).where(runs.c.job_id == job_id)).scalar_one())
        record["started_at"] = (datetime.now(UTC) - age).isoformat()
        del record["checksum"]  # as an earlier release wrote it: what was written by this one is not changed unseen
        connection.execute(sa.update(runs).where(runs.c.job_id == job_id).values(record=json.dumps(record)))
        old = jobs.c.updated_at - age.total_seconds()
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(updated_at=old))


def test_what_is_gone_for_good_can_be_given_up(site: SiteFactory) -> None:
    made = site(machines=machines(2))
    made.simulator.set_faults(STUCK)
    made.worker()
    (failed,) = made.until_ended(made.submit({"vm_path": RUNNING}))
    assert failed.source_changes == 1
    with pytest.raises(JobStateError, match="not undone"):
        made.store.delete(failed.id)
    changed = source(made)
    made.store.delete(failed.id, give_up=True)
    with pytest.raises(LookupFailed):
        made.store.get(failed.id)
    made.simulator.set_faults()
    (again,) = made.until_ended(made.submit({"vm_path": "web-0"}))
    assert again.state is JobState.COMPLETED
    assert source(made) == changed, "nobody undoes it any more"
