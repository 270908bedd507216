"""An attempt that ends when all was copied: the next one publishes, and leaves the machine alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hypersdk.jobs.states import JobState, StepState
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.runfile import DiskRecord
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from tests.support.attempts import Hand
from tests.support.exportchecks import assert_left_alone, expected_raw
from tests.support.killed import Killed
from tests.support.site import RUNNING, SiteFactory, assert_exported, machines, source

pytestmark = pytest.mark.waits


@pytest.mark.parametrize("options", [{}, {"options": {"source": "power-off"}}], ids=["snapshot", "power-off"])
@pytest.mark.parametrize("why", ["pause", "drain", "killed"])
def test_an_attempt_ended_between_the_undo_and_the_names(
    why: str, options: dict[str, object], site: SiteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site(machines=machines(2))
    before, expected = source(made), expected_raw(made.simulator, RUNNING, made.folder / "expected")
    hand, job = Hand(made), made.submit({"vm_path": RUNNING, **options})[0]
    attempt = hand.attempt(job)

    def ends(files: DiskFiles, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """The last checksum, once the source is put back."""
        while not all(disk["receipt"] for disk in made.records(job)) or source(made) != before:
            cancel.sleep(0.02)
        if why == "killed":
            raise Killed
        if why == "pause":
            made.store.pause(job.id)
        attempt.stop(why)
        cancel.check()
        raise AssertionError("the attempt's cancel token does not reach its checksums")

    with monkeypatch.context() as patch:
        patch.setattr(DiskFiles, "tree", ends)
        if why == "killed":
            with pytest.raises(Killed):
                attempt.run()
        else:
            assert attempt.run() is {"pause": JobState.PAUSED, "drain": JobState.QUEUED}[why]
    if why == "pause":
        made.store.resume(job.id)
    made.simulator.reset_counters()
    assert hand.attempt(job).run() is JobState.COMPLETED
    assert_left_alone(made.simulator)
    assert_exported(made, job, expected)
    assert source(made) == before


def test_the_retry_of_a_published_job_only_puts_its_source_back(site: SiteFactory) -> None:
    made = site(machines=machines(2))
    before = source(made)
    hand, job = Hand(made), made.submit({"vm_path": RUNNING})[0]
    made.simulator.set_faults(Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None))
    assert hand.attempt(job).run() is JobState.FAILED
    first = made.store.get(job.id).result
    written = {path: path.stat().st_mtime_ns for path in Path(job.target).iterdir()}
    made.simulator.set_faults()
    made.simulator.reset_counters()
    made.store.retry(job.id)
    assert hand.attempt(job).run() is JobState.COMPLETED, made.told()
    assert_left_alone(made.simulator)
    assert {path: path.stat().st_mtime_ns for path in Path(job.target).iterdir()} == written
    last = made.store.get(job.id).result
    assert first is not None
    assert last is not None
    assert [last[key] for key in ("files", "artifacts", "proof")] == [
        first[key] for key in ("files", "artifacts", "proof")
    ]
    assert (first["restored"], last["restored"]) == (False, True)
    assert source(made) == before


@pytest.mark.parametrize("ended", [JobState.PAUSED, JobState.CANCELLED])
def test_no_step_begins_after_a_request(ended: JobState, site: SiteFactory) -> None:
    """The loop of a worker sees a request within a second: a step that ends before that is not followed by another."""
    made = site(machines=machines(2))
    hand, job = Hand(made), made.submit({"vm_path": RUNNING})[0]
    attempt = hand.attempt(job)
    (made.store.pause if ended is JobState.PAUSED else made.store.cancel)(job.id)
    assert attempt.run() is ended
    left = StepState.WAITING if ended is JobState.PAUSED else StepState.SKIPPED
    assert [step.state for step in made.store.get(job.id).steps] == [left] * 2
