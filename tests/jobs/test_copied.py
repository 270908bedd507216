"""An attempt that ends when all was copied: the next one publishes, and leaves the machine alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hypersdk.access.endpoints import Endpoints
from hypersdk.access.vault import Vault
from hypersdk.jobs.attempt import AttemptContext, JobAttempt
from hypersdk.jobs.claims import Claims
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.records import Job
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.states import JobState
from hypersdk.migration.outputs import DiskFiles
from hypersdk.migration.runfile import DiskRecord
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from tests.e2e.judge import expected_raw
from tests.e2e.test_copied import Killed, assert_left_alone
from tests.jobs.test_durable import SiteFactory, assert_exported, machines, source
from tests.support.site import Site

RUNNING = "web-1"


@dataclass
class Hand:
    """Does the attempts of a site's jobs in this process."""

    site: Site
    workshop: AttemptContext = field(init=False)

    def __post_init__(self) -> None:
        site, settings = self.site, RunSettings(state=self.site.folder / "hand")
        shared, vault = RunResources(settings), Vault.load(site.settings, site.environ, site.database)
        self.workshop = AttemptContext(
            Claims(site.database, "hand"),
            EndpointResolver(site.store, vault, Endpoints(site.database, vault), site.settings, site.environ),
            ExportRoots(site.settings.roots),
            lambda: None,
            settings,
            lambda _: shared,
            lambda _: True,
        )

    def attempt(self, job: Job) -> JobAttempt:
        """The one that is due."""
        claim = self.workshop.claims.claim(job.id, self.site.store.get(job.id).attempt)
        assert claim is not None
        return JobAttempt(self.workshop, claim, CancelToken())


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
            made.service.pause(job.id)
        attempt.stop(why)
        cancel.check()
        raise AssertionError("the attempt's cancel token does not reach its checksums")

    with monkeypatch.context() as patch:
        patch.setattr(DiskFiles, "sha256", ends)
        if why == "killed":
            with pytest.raises(Killed):
                attempt.run()
        else:
            assert attempt.run() is {"pause": JobState.PAUSED, "drain": JobState.QUEUED}[why]
    if why == "pause":
        made.service.resume(job.id)
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
    written = {path: path.stat().st_mtime_ns for path in Path(job.output_path).iterdir()}
    made.simulator.set_faults()
    made.simulator.reset_counters()
    made.service.retry(job.id)
    assert hand.attempt(job).run() is JobState.COMPLETED, made.told()
    assert_left_alone(made.simulator)
    assert {path: path.stat().st_mtime_ns for path in Path(job.output_path).iterdir()} == written
    last = made.store.get(job.id).result
    assert first is not None
    assert last is not None
    assert [last[key] for key in ("files", "artifacts", "proof")] == [
        first[key] for key in ("files", "artifacts", "proof")
    ]
    assert (first["restored"], last["restored"]) == (False, True)
    assert source(made) == before
