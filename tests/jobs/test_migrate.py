"""Jobs of the kind `migrate`: from the simulator of vCenter onto a real libvirtd, by worker processes that may die."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Callable
from typing import Any, Final

import pytest

from hypersdk.access.faults import Conflict
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState, JobStateError
from hypersdk.simulator.config import DiskSpec
from hypersdk.units import MiB
from tests.support.guestconversions import MARK, MARK_AT, guest_bytes
from tests.support.guests.guest import MARKER
from tests.support.moving import Moving, steps
from tests.support.seeds import SEED
from tests.support.simulator import lift_rate_limit

pytestmark = pytest.mark.waits

PROVED: Final[dict[str, Any]] = {"prove": True, "prove_marker": MARKER}
STARTED: Final[dict[str, Any]] = {"start": True, "options": {"source": "power-off"}}
PARTS: Final = 3
PART: Final = 14
"""A move has at least so many moments, in so many parts (``programs.worker``): in each one is drawn."""


def test_a_machine_is_moved_in_one_job_that_is_paused(moving: Callable[..., Moving]) -> None:
    """The pause waits for the end of the step, and the source stays off."""
    moved = moving()
    go_on = moved.site.folder / "go-on"
    moved.site.start("one", 0, f"marking-until={go_on}")
    job = moved.submit(convert=True, **PROVED, **STARTED)
    assert list(steps(job)) == ["copy", "publish", "convert", "land", "prove", "start"]
    moved.until_step(job, "convert", "running")
    moved.site.store.pause(job.id)
    moved.site.until(lambda: b"pauses when this step has ended" in moved.site.store.read_log(job.id)[0])
    go_on.touch()
    paused = moved.site.until_state(job, JobState.PAUSED)
    assert [name for name, state in steps(paused).items() if state == "done"] == ["copy", "publish", "convert"]
    assert (moved.libvirtd.domains(), moved.power()) == ([], "poweredOff")
    moved.site.store.resume(job.id)
    now = moved.ended(job)
    assert now.result is not None
    assert set(steps(now).values()) == {"done"}
    assert (now.result["uuid"], now.result["domain"]["name"]) == (
        moved.libvirtd.virsh("domuuid", "web-01").strip(),
        "web-01",
    )
    assert (now.result["proof"]["verdict"], now.result["converted"], now.result["started"]) == ("marker", True, True)
    assert (moved.running(), moved.power(), now.source_changes) == (["web-01"], "poweredOff", 0)
    digests = {artifact["name"]: artifact["sha256"] for artifact in now.result["artifacts"]}
    assert digests["web-01.ovf"] == hashlib.sha256((moved.root / "web-01" / "web-01.ovf").read_bytes()).hexdigest()
    again = moved.submit(convert=True, **PROVED, **STARTED)
    assert moved.ended(again).result["uuid"] == now.result["uuid"], "what is moved is not moved again"  # type: ignore[index]
    moved.libvirtd.virsh("destroy", "web-01")
    (image,) = (moved.root / "web-01").glob("*.qcow2")
    assert guest_bytes(image, "qcow2", moved.site.folder)[MARK_AT : MARK_AT + len(MARK)] == MARK


def test_a_landing_that_fails_leaves_nothing_and_its_retry_needs_no_vcenter(moving: Callable[..., Moving]) -> None:
    moved = moving(rate_bytes_s=MiB // 4, disks=(DiskSpec(24 * MiB, allocated_bytes=8 * MiB),))
    before = moved.site.simulator.state()
    moved.site.worker()
    job = moved.submit()
    moved.site.copied(job, 1)
    moved.libvirtd.virsh("net-destroy", "lan")
    lift_rate_limit(moved.site.simulator)
    failed = moved.ended(job, JobState.FAILED)
    assert failed.error is not None
    assert failed.error["code"] == "network_inactive"
    assert steps(failed) == {"copy": "done", "publish": "done", "land": "failed"}
    assert (moved.libvirtd.domains(), moved.site.simulator.state()) == ([], before)
    moved.libvirtd.virsh("net-start", "lan")
    moved.site.simulator.stop()
    moved.site.store.retry(job.id)
    assert steps(moved.ended(job))["land"] == "done"
    assert moved.libvirtd.domains() == ["web-01"]


def test_a_source_that_was_given_back_is_copied_again_before_its_machine_starts(moving: Callable[..., Moving]) -> None:
    moved = moving(rate_bytes_s=MiB // 4, disks=(DiskSpec(24 * MiB, allocated_bytes=8 * MiB),))
    before = moved.site.simulator.state()
    moved.site.worker()
    job = moved.submit(**STARTED)
    moved.site.copied(job, 1)
    assert moved.power() == "poweredOff"
    moved.libvirtd.virsh("net-destroy", "lan")
    lift_rate_limit(moved.site.simulator)
    moved.ended(job, JobState.FAILED)
    assert moved.site.simulator.state() == before
    moved.libvirtd.virsh("net-start", "lan")
    moved.site.store.retry(job.id)
    failed = moved.ended(job, JobState.FAILED)
    assert failed.error is not None
    assert (failed.error["code"], steps(failed)["start"]) == ("export_outdated", "failed")
    assert (moved.libvirtd.domains(), moved.power(), failed.source_changes) == ([], "poweredOn", 0)
    moved.site.store.retry(job.id, discard=True)
    moved.ended(job)
    assert (moved.running(), moved.power()) == (["web-01"], "poweredOff")


@pytest.mark.parametrize("moment", ["convert", "prove"])
def test_a_cancel_undoes_the_target_and_then_the_source(moving: Callable[..., Moving], moment: str) -> None:
    moved = moving()
    before = moved.site.simulator.state()
    moved.site.start("one", 0, "marking-for-long")
    proof: dict[str, Any] = {"prove": True, "prove_marker": "never printed", "prove_timeout": 300}
    job = moved.submit(convert=moment == "convert", **proof, **STARTED)
    moved.until_step(job, moment, "running")
    if moment == "convert":
        moved.site.until(lambda: (moved.root / "web-01" / "virt-v2v.log").exists())
    moved.site.store.cancel(job.id)
    now = moved.ended(job, JobState.CANCELLED)
    assert (moved.libvirtd.domains(), moved.site.simulator.state(), now.source_changes) == ([], before, 0)
    assert not moved.landing().open_changes
    assert list((moved.root / "web-01").glob("*overlay*")) == []
    assert (moved.root / "web-01" / "artifact-manifest.json").exists(), "the export stays"


def test_what_a_failed_job_left_at_a_target_that_was_gone_is_undone_by_a_cancel(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.site.worker()
    job = moved.submit(prove=True, prove_marker="never printed", prove_timeout=300)
    moved.until_step(job, "prove", "running")
    moved.site.until(lambda: moved.site.store.get(job.id).progress["phase"] == "proving")
    away = moved.libvirtd.socket.rename(moved.libvirtd.socket.with_suffix(".away"))
    moved.site.store.cancel(job.id)
    failed = moved.ended(job, JobState.FAILED)
    assert failed.error is not None
    assert (failed.target_changes, failed.source_changes) == (1, 0)
    with pytest.raises(Conflict, match=job.id):
        moved.site.services.endpoints.delete("kvm")
    with pytest.raises(JobStateError, match="1 change at its target"):
        moved.site.store.delete(job.id)
    assert "not undone at the target: 1 change" in moved.site.service.explain(failed).message
    away.rename(moved.libvirtd.socket)
    moved.site.store.cancel(job.id)
    now = moved.ended(job, JobState.CANCELLED)
    assert (now.target_changes, moved.libvirtd.domains()) == (0, [])
    moved.site.services.endpoints.delete("kvm")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cancel_after_a_kill_at_the_start_leaves_one_of_the_two_running(
    moving: Callable[..., Moving], moment: str
) -> None:
    """The source is given back where the landed machine was not started; one that was started is the job's result."""
    moved = moving()
    before = moved.site.simulator.state()
    dying = moved.site.start("one", 0, f"die-at-start={moment}")
    job = moved.submit(**STARTED)
    assert dying.process.wait(120) == -signal.SIGKILL, moved.site.told()
    moved.site.store.cancel(job.id)
    moved.site.start("one", 1)
    now = moved.ended(job, JobState.CANCELLED if moment == "before" else JobState.COMPLETED)
    assert now.source_changes == 0
    if moment == "before":
        assert (moved.libvirtd.domains(), moved.site.simulator.state()) == ([], before)
        return
    assert (moved.running(), moved.power()) == (["web-01"], "poweredOff")
    assert now.result is not None
    uuid = moved.libvirtd.virsh("domuuid", "web-01").strip()
    assert (now.result["started"], now.result["uuid"], now.result["success"]) == (True, uuid, True)
    files = moved.root / "web-01"
    assert {artifact["name"]: artifact["size_bytes"] for artifact in now.result["artifacts"]} == {
        name: (files / name).stat().st_size for name in now.result["files"]
    }


@pytest.mark.parametrize("moment", ["convert", "prove"])
def test_a_worker_that_is_stopped_in_a_step_is_ended_by_its_successor(
    moving: Callable[..., Moving], moment: str
) -> None:
    """It still has the folder, and could go on at any time: with another domain, or another commit."""
    moved = moving()
    stopped = moved.site.start("one", 0, f"marking-until={moved.site.folder / 'never'}" if moment == "convert" else "")
    proof: dict[str, Any] = {
        "prove": True,
        "prove_marker": MARKER if moment == "convert" else "never printed",
        "prove_timeout": 20,
    }
    job = moved.submit(convert=moment == "convert", **proof)
    moved.until_step(job, moment, "running")
    if moment == "convert":
        moved.site.until(lambda: list((moved.root / "web-01").glob(".*overlay")) != [])
    else:
        moved.site.until(lambda: len(moved.running()) == 1)
    stopped.process.send_signal(signal.SIGSTOP)
    moved.site.start("one", 1, "marking")
    now = moved.ended(job, JobState.COMPLETED if moment == "convert" else JobState.FAILED)
    assert stopped.process.wait(60) == -signal.SIGKILL, moved.site.told()
    assert f"ended the process {stopped.process.pid}" in moved.site.store.read_log(job.id)[0].decode()
    if moment == "prove":
        assert now.error is not None
        assert now.error["code"] == "boot_unproved", "by the successor, which took the time that it has"
    assert moved.libvirtd.domains() == (["web-01"] if moment == "convert" else [])
    assert list((moved.root / "web-01").glob(".*overlay")) == []


@pytest.mark.kill
@pytest.mark.parametrize("part", range(PARTS))
def test_a_worker_that_is_killed_costs_nothing(moving: Callable[..., Moving], part: int) -> None:
    """Another worker goes on: no step that had ended is repeated, one domain runs, and nothing is left over."""
    moved = moving()
    moment = random.Random(f"{SEED}{part}").randrange(part * PART, (part + 1) * PART)
    dying = moved.site.start("one", 0, "marking", f"die-at={moment}")
    job = moved.submit(convert=True, **PROVED, **STARTED)
    assert dying.process.wait(120) == -signal.SIGKILL, moved.site.told()
    at_death = {step.name: step for step in moved.site.store.get(job.id).steps if step.state.value == "done"}
    assert not (moved.running() and moved.power() == "poweredOn")
    moved.site.start("one", 1, "marking")
    now = moved.ended(job)
    assert {name: step for name, step in _by_name(now).items() if name in at_death} == at_death, moment
    assert (moved.libvirtd.domains(), moved.running(), moved.power()) == (["web-01"], ["web-01"], "poweredOff")
    assert now.source_changes == 0
    assert moved.landing().finished
    left = [path.name for path in (moved.root / "web-01").iterdir() if "overlay" in path.name or "partial" in path.name]
    assert left == [], moment


def _by_name(job: JobRecord) -> dict[str, Any]:
    return {step.name: step for step in job.steps}
