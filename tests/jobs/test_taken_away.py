"""A job's folder is removed, moved, replaced or taken: the job fails with its code, its source is as it was found, and
it is never ``completed`` with a path that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.jobs.states import JobState
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.runfile import LOCK_FILE, locked_folder
from tests.support.attempts import Hand
from tests.support.exportchecks import expected_raw
from tests.support.site import RUNNING, SiteFactory, assert_exported, machines, source
from tests.support.takeaway import (
    CODES,
    MOMENTS,
    Act,
    at,
    linked,
    moved,
    moved_place,
    nothing_left_open,
    others_in,
    removed,
)

pytestmark = pytest.mark.waits


@pytest.mark.parametrize("act", list(CODES), ids=lambda act: act.__name__)
@pytest.mark.parametrize("moment", MOMENTS[1:])
def test_a_job_whose_folder_is_taken_away_fails_with_a_code_and_goes_on(
    moment: str, act: Act, site: SiteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site(machines=machines(2))
    before, expected = source(made), expected_raw(made.simulator, RUNNING, made.folder / "expected")
    hand, job = Hand(made), made.submit({"vm_path": RUNNING, "options": {"parallel_downloads": 1}})[0]
    folder, left = Path(job.target), {}

    def happens() -> None:
        act(folder)
        left.update(others_in(folder))

    attempt = hand.attempt(job)
    with monkeypatch.context() as patch:
        came = at(moment, patch, happens)
        state = attempt.run()
    assert came()
    ended = made.store.get(job.id)
    assert (state, ended.state) == (JobState.FAILED, JobState.FAILED)
    assert ended.error is not None
    assert ended.error["code"] == CODES[act]
    assert "hyperctl retry ID" in ended.error["next_step"]
    assert "/proc/" not in f"{ended.error}"
    assert source(made) == before
    assert others_in(folder) == left
    assert not (folder / MANIFEST_NAME).exists()
    if folder.is_symlink():
        folder.unlink()
    if act in (moved, linked):
        moved_place(folder).rename(folder)
    elif act is not removed:
        removed(folder)
    made.store.retry(job.id)
    assert hand.attempt(job).run() is JobState.COMPLETED, made.told()
    assert_exported(made, job, expected)
    assert source(made) == before


@pytest.mark.parametrize("moment", ["during the copy", "before publishing", "after the manifest"])
def test_a_link_in_the_path_is_not_followed_at_the_end_either(
    moment: str, site: SiteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder above the job's own becomes a link that leads to it: nobody could read the files through the daemon."""
    made = site(machines=machines(2))
    folder = made.root / "team" / "web"
    hand, job = Hand(made), made.submit({"vm_path": RUNNING, "output_path": str(folder)})[0]

    def happens() -> None:
        folder.parent.rename(made.root / "other")
        folder.parent.symlink_to("other")

    with monkeypatch.context() as patch, nothing_left_open(made.root):
        came = at(moment, patch, happens)
        assert hand.attempt(job).run() is JobState.FAILED
    assert came()
    error = made.store.get(job.id).error
    assert error is not None
    assert error["code"] == "folder_moved"
    assert str(made.root / "other" / "web") in error["message"]


@pytest.mark.parametrize("owner", ["process 1", "job another"])
def test_another_run_in_the_folder_of_a_failed_job_is_not_taken_for_an_earlier_attempt(
    owner: str, site: SiteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt works beside one that was declared dead and still has the lock. A stranger is waited for."""
    made = site(machines=machines(2))
    expected = expected_raw(made.simulator, RUNNING, made.folder / "expected")
    hand, job = Hand(made), made.submit({"vm_path": RUNNING})[0]
    folder = Path(job.target)
    with monkeypatch.context() as patch:
        at("during the copy", patch, lambda: removed(folder))
        assert hand.attempt(job).run() is JobState.FAILED
    folder.mkdir()
    (folder / "theirs.qcow2.partial").write_bytes(b"theirs")
    made.store.retry(job.id)
    with locked_folder(folder, owner=owner):
        assert hand.attempt(job).run() is JobState.FAILED
        assert (made.store.get(job.id).error or {})["code"] == "run_active"
        assert sorted(path.name for path in folder.iterdir()) == [LOCK_FILE, "theirs.qcow2.partial"]
    made.store.retry(job.id)
    assert hand.attempt(job).run() is JobState.COMPLETED, made.told()
    (folder / "theirs.qcow2.partial").unlink()
    assert_exported(made, job, expected)
