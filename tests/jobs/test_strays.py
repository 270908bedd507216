"""``hyper2kvm cleanup`` beside jobs of a daemon: what a job needs is never taken away, and a job that lost its snapshot
never says that it is proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.access.roles import Role
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState
from hypersdk.jobs.store import JobSnapshot
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from hypersdk.vsphere.endpoint import resolve_endpoint
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import find_snapshots
from tests.support.cli.hyper2kvm import Program
from tests.support.exportchecks import expected_raw
from tests.support.servedapi import served
from tests.support.simulator import remove_snapshots
from tests.support.site import Site, SiteFactory, assert_exported, machines, source

RUNNING = "web-1"
pytestmark = [pytest.mark.slow, pytest.mark.waits]
RATE = MiB
CRAWL = MiB // 2
"""Bytes a second of each stream: a few commands are run meanwhile."""


def snapshots(site: Site) -> list[str]:
    """Names of our snapshots."""
    with Session.connect(resolve_endpoint(site.environ, None), cancel=CancelToken()) as session:
        return [found.name for found in find_snapshots(session, "hypersdk-")]


def with_snapshot(site: Site, method: str = "auto") -> JobRecord:
    """A job of a running machine that copies from its temporary snapshot."""
    (job,) = site.submit({"vm_path": RUNNING, "export_method": method})
    site.copied(job, MiB // 2)
    assert len(snapshots(site)) == 1
    return job


def by_register(site: Site) -> Program:
    """The same user, with a state directory that the daemon's is not."""
    return Program(site.folder, site.simulator)


def as_a_stranger(site: Site) -> Program:
    """Another user, for whom nothing here is readable."""
    return Program(site.folder / "stranger", site.simulator, more_env={"HYPERVISORD_URL": "http://127.0.0.1:9"})


def test_a_running_jobs_snapshot_is_in_use(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=CRAWL)
    before = source(made)
    expected = expected_raw(made.simulator, RUNNING, made.folder / "expected")
    made.worker()
    job = with_snapshot(made)
    (name,) = snapshots(made)
    ended = by_register(made).run("cleanup", "--stray")
    assert (ended.status, "in use, left alone" in ended.err) == (0, True), ended.explain()
    assert f"hypervisord, job {job.id}" in ended.err
    named = by_register(made).run("cleanup", "--snapshot", name, "--json")
    assert (named.status, named.error["code"]) == (6, "snapshot_used")
    (shown,) = by_register(made).run("status", "--json").seen
    assert (shown["type"], shown["job"], shown["active"], shown["snapshot"]) == ("other_run", job.id, True, name)
    assert snapshots(made) == [name]
    made.until_ended([job])
    assert_exported(made, job, expected)
    assert source(made) == before
    assert by_register(made).run("status", "--json").seen == []


def test_whoever_cannot_see_the_register_needs_the_exact_name(site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=CRAWL)
    made.worker()
    job = with_snapshot(made, "datastore")  # under a lease vSphere keeps it until the lease's end
    (name,) = snapshots(made)
    ended = as_a_stranger(made).run("cleanup", "--stray", "--json")
    assert (ended.status, ended.error["code"]) == (6, "snapshot_unclaimed")
    assert name in ended.error["message"]
    (warning,) = [event["message"] for event in ended.seen if event["type"] == "warning"]
    assert f"hypervisord, job {job.id}" in warning, "the snapshot says whose it is"
    assert " old, owner: " in warning
    assert snapshots(made) == [name]
    removed = as_a_stranger(made).run("cleanup", "--snapshot", name, "--json")
    assert removed.status == 0, removed.explain()
    assert snapshots(made) == []
    (failed,) = made.until_ended([job])
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "snapshot_gone", failed.error
    assert "hyperctl retry" in failed.error["next_step"]
    assert "proved" not in str(failed.result)


def test_a_daemon_that_answers_says_which_are_its_jobs(site: SiteFactory) -> None:
    """A paused job: nobody works on it, and nothing but the daemon knows that it is to go on."""
    made = site(machines=machines(2), rate_bytes_s=RATE)
    worker = made.worker()
    job = with_snapshot(made)
    (name,) = snapshots(made)
    made.store.pause(job.id)
    made.until_state(job, JobState.PAUSED)
    worker.end()
    assert made.store.snapshots() == [
        JobSnapshot(name, job.id, job.name, JobState.PAUSED, made.store.get(job.id).site, RUNNING)
    ]
    (made.folder / "api").mkdir()
    with served(made.folder / "api", database_url=made.database_url, key_file=made.folder / "key") as api:
        stranger = as_a_stranger(made)
        stranger.more_env |= {"HYPERVISORD_URL": api.url, "HYPERVISORD_TOKEN": api.token(Role.VIEWER)}
        ended = stranger.run("cleanup", "--stray")
        assert (ended.status, "in use, left alone" in ended.err) == (0, True), ended.explain()
        assert f"job {job.id} (paused) of {api.url}" in ended.err
        named = stranger.run("cleanup", "--snapshot", name, "--json")
        assert (named.status, named.error["code"]) == (6, "snapshot_used")
    assert snapshots(made) == [name]
    without = by_register(made).run("cleanup", "--stray", "--json")
    assert (without.status, without.error["code"]) == (6, "snapshot_unclaimed"), (
        "the register knows a job, and not that it is over"
    )
    assert snapshots(made) == [name]


@pytest.mark.parametrize("method", ["lease", "datastore"])
def test_a_job_whose_snapshot_is_removed_fails_with_its_code(method: str, site: SiteFactory) -> None:
    made = site(machines=machines(2), rate_bytes_s=RATE)
    before = source(made)
    expected = expected_raw(made.simulator, RUNNING, made.folder / "expected")
    made.worker()
    (job,) = made.submit({"vm_path": RUNNING, "export_method": method})
    made.copied(job, MiB)
    remove_snapshots(made.simulator, RUNNING)
    (failed,) = made.until_ended([job])
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "snapshot_gone", failed.error
    assert not (Path(job.target) / "artifact-manifest.json").exists()
    assert source(made) == before
    made.store.retry(job.id)
    made.until_ended([job])
    assert_exported(made, job, expected)
