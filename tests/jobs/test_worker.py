"""One worker process: its identity, what a crash between two transactions leaves, what it writes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.errors import UsageError
from hypersdk.jobs.states import JobState
from hypersdk.jobs.worker import worker_id
from hypersdk.simulator.config import DiskSpec
from hypersdk.state.tables import job_log, jobs
from hypersdk.units import MiB
from tests.support.exportchecks import expected_raw
from tests.support.simulator import lift_rate_limit
from tests.support.site import SLOW, SiteFactory, assert_exported, machines, source

pytestmark = pytest.mark.waits


def test_an_identity_is_held_by_one_process_and_kept(tmp_path: Path) -> None:
    with worker_id(tmp_path, 0) as first:
        with pytest.raises(UsageError) as caught, worker_id(tmp_path, 0):
            pass
        assert caught.value.code == "worker_id_held"
        assert caught.value.fields["pid"] == str(os.getpid())
        with worker_id(tmp_path, 1) as second:
            assert second != first
    with worker_id(tmp_path, 0) as again:
        assert again == first


@pytest.mark.parametrize("text", ["", "\n", "../../x 1", "\0\0", "é 7"])
def test_a_damaged_identity_is_made_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "0.id").write_text(text)
    with worker_id(tmp_path, 0) as identity:
        assert identity.isalnum()


def test_a_second_process_on_one_identity_is_refused_with_the_pid_of_the_first(site: SiteFactory) -> None:
    made = site(machines=machines(1))
    first = made.worker()
    second = made.start()
    assert second.process.wait(60) != 0
    assert f"worker 0 runs already, as process {first.process.pid}" in second.log.read_text()
    assert first.process.poll() is None


def test_a_job_submitted_while_nobody_works_is_done_once_somebody_does(site: SiteFactory) -> None:
    """The row comes first, the engine hears of it later: nothing depends on the process that took the submit."""
    made = site(machines=machines(1))
    job = made.submit({"vm_path": "web-0"})[0]
    made.worker()
    assert made.until_ended([job])[0].state is JobState.COMPLETED


def test_priority_goes_first_and_then_the_order_of_submits(site: SiteFactory) -> None:
    made = site(machines=machines(1, (DiskSpec(MiB),)), options={"jobs_per_worker": 1})
    wanted = [{"vm_path": "web-0", "output_path": str(made.root / f"out-{n}"), "format": "qcow2"} for n in range(6)]
    jobs = [
        made.service.submit(json.dumps(one), "application/json", None, priority=7 if number == 4 else 0).accepted[0]
        for number, one in enumerate(wanted)
    ]
    made.worker()
    ended = made.until_ended(jobs)
    assert {job.state for job in ended} == {JobState.COMPLETED}, made.told()
    started = [job.started_at or 0.0 for job in ended]
    assert sorted(range(6), key=started.__getitem__) == [4, 0, 1, 2, 3, 5]


def test_a_kill_between_the_engines_transaction_and_ours_runs_the_attempt_once(site: SiteFactory) -> None:
    made = site(machines=machines(2))
    expected = [expected_raw(made.simulator, f"web-{n}", made.folder / f"expected-{n}") for n in range(2)]
    submitted = made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"})
    killed = made.start("one", 0, "die-after-enqueue")
    assert killed.process.wait(60) == -signal.SIGKILL
    assert [made.store.get(job.id).enqueued for job in submitted] == [0, 0]
    assert made.engine_rows("SELECT count(*) FROM workflow_status") == [(1,)]
    made.worker()
    made.until_ended(submitted)
    for job, raws in zip(submitted, expected, strict=True):
        assert_exported(made, job, raws)
        assert len(made.store.attempts(job.id)) == 1
    assert made.engine_rows("SELECT status, count(*) FROM workflow_status GROUP BY status") == [("SUCCESS", 2)]


def test_an_attempt_that_kills_its_worker_every_time_is_given_up_with_a_code(site: SiteFactory) -> None:
    made = site(machines=machines(1), rate_bytes_s=SLOW, options={"take_over_s": 2.0})
    before = source(made)
    worker = made.worker()
    job = made.submit({"vm_path": "web-0"})[0]
    made.copied(job, MiB)
    worker.end(signal.SIGKILL)
    made.engine_rows("UPDATE workflow_status SET recovery_attempts = 100000")  # so often was it begun
    made.worker()
    (ended,) = made.until_ended([job])
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "attempts_exhausted"
    assert "hyperctl retry" in made.service.explain(ended).next_step
    lift_rate_limit(made.simulator)
    made.store.retry(job.id)
    assert made.until_ended([job])[0].state is JobState.COMPLETED, made.told()
    assert source(made) == before


def test_an_attempt_that_the_engine_lost_is_made_good(site: SiteFactory) -> None:
    """A backup that was restored, or someone who tidied up: the job's row is the truth, the engine's is not."""
    made = site(machines=machines(1), rate_bytes_s=SLOW, options={"take_over_s": 2.0})
    worker = made.worker()
    job = made.submit({"vm_path": "web-0"})[0]
    made.copied(job, MiB)
    worker.end(signal.SIGKILL)
    made.engine_rows("DELETE FROM workflow_status")
    lift_rate_limit(made.simulator)
    made.worker()
    (ended,) = made.until_ended([job])
    assert ended.state is JobState.COMPLETED, made.told()
    assert ended.attempt == 2


def test_what_is_older_than_the_retention_goes_from_all_tables(site: SiteFactory) -> None:
    made = site(machines=machines(2), options={"take_over_s": 2.0, "retention_days": 30})
    worker = made.worker()
    old, young = made.until_ended(made.submit({"vm_path": "web-0"}, {"vm_path": "web-1"}))
    assert old.state is young.state is JobState.COMPLETED
    worker.end()
    month = 31 * 86_400
    with made.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == old.id).values(completed_at=jobs.c.completed_at - month))
    seen = made.store.revision()
    made.worker()
    made.until(lambda: made.removed_since(seen))
    assert made.removed_since(seen) == [old.id]
    made.until(lambda: made.engine_rows("SELECT workflow_uuid FROM workflow_status") == [(f"{young.id}/1",)])
    with made.database.read() as connection:
        assert set(connection.execute(sa.select(job_log.c.job_id)).scalars()) == {young.id}
    assert (made.root / "web-0").exists()  # the images are the user's


@pytest.mark.slow
def test_progress_is_written_at_a_bounded_rate(site: SiteFactory) -> None:
    """Four jobs, eight streams, thousands of blocks: one write a second for each job, and some for what happens."""
    disks = (DiskSpec(48 * MiB, allocated_bytes=32 * MiB),) * 2
    made = site(machines=machines(4, disks), rate_bytes_s=2 * MiB)
    made.worker()
    submitted = made.submit(*({"vm_path": f"web-{number}"} for number in range(4)))
    for job in submitted:
        made.copied(job, MiB)
    first, began = made.store.revision(), time.monotonic()
    time.sleep(5)
    writes, seconds = made.store.revision() - first, time.monotonic() - began
    print(f"{writes} writes of 4 jobs in {seconds:.1f} s")
    assert writes <= 4 * (seconds + 1) * 1.5
