"""The source is restored: on its own server, and also if a change takes effect after the run stopped waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import HyperSDKError, TargetError
from hypersdk.migration import journal
from hypersdk.migration.disks import DiskSet
from hypersdk.migration.prepare import endpoint_name
from hypersdk.migration.publish import Publishing
from hypersdk.migration.runfile import FolderRuns, RunFile
from hypersdk.migration.runs import clean_up
from hypersdk.migration.spec import Compression, OutputFormat, ResumeMode, SourceState
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.space import SpaceLedger
from hypersdk.units import MiB
from hypersdk.vsphere import tasks
from hypersdk.vsphere.machine import read_machine
from tests.support.exportchecks import RUN_FILE, assert_finished
from tests.support.exporter import Engine, EngineFactory, succeeded

DISK: Final = DiskSpec(4 * MiB, allocated_bytes=2 * MiB)
ISO: Final = "[iso-library] tools/virtio-win.iso"
OFF: Final = MachineSpec("web-01", (DISK,))
ON: Final = MachineSpec("web-01", (DISK,), power="poweredOn")
CORRUPT: Final = Fault(FaultKind.CORRUPT, disk="web-01:0", times=None)


def cleaned(engine: Engine, folder: Path) -> tuple[str, ...]:
    """Runs a complete cleanup; what it undid."""
    with engine.log_in() as session:
        done = clean_up(
            session, folder, FolderRuns(engine.state), drop_snapshot=True, cancel=CancelToken(), note=lambda _: None
        )
    assert done.problems == ()
    return done.undone


def test_a_discard_undoes_nothing_on_another_server(engine: EngineFactory, tmp_path: Path) -> None:
    """Both servers have a machine of that id; the other one's is off because its owner wants it so."""
    folder = tmp_path / "out"
    stuck = Fault(FaultKind.CALL, method="PowerOnVM_Task", times=None)
    first, other = engine(machines=(ON,), faults=(CORRUPT, stuck)), engine(machines=(OFF,))
    assert first.simulator.vm("web-01").ref == other.simulator.vm("web-01").ref
    before, theirs = first.simulator.state(), other.simulator.state()
    failed = first.export("web-01", folder, state=SourceState.POWER_OFF)
    assert failed.error is not None
    assert "not_undone" in failed.error.fields
    record = (folder / RUN_FILE).read_bytes()

    refused = other.export("web-01", folder, resume=ResumeMode.DISCARD).error
    assert refused is not None
    assert (refused.code, refused.exit_status, refused.fields["left"]) == ("run_elsewhere", 6, ["power"])
    with first.log_in() as session:
        assert f"{session.endpoint.username}@{session.endpoint.host}:{session.endpoint.port}" in refused.message
    assert other.simulator.state() == theirs
    assert other.simulator.counters.calls["PowerOnVM_Task"] == 0
    assert (folder / RUN_FILE).read_bytes() == record

    first.simulator.set_faults()
    assert cleaned(first, folder) == ("power",)
    assert first.simulator.state() == before
    succeeded(other.export("web-01", folder, resume=ResumeMode.DISCARD))  # nothing is left to undo: it goes on
    assert_finished(folder)
    assert other.simulator.state() == theirs


@contextmanager
def cancelled_after(engine: Engine, method: str) -> Iterator[CancelToken]:
    """A token that is cancelled soon after the server was asked for ``method``."""
    cancel, over = CancelToken(), threading.Event()

    def watch() -> None:
        while not engine.simulator.counters.calls[method] and not over.wait(0.01):
            pass
        over.wait(0.2)
        cancel.cancel("test")

    watcher = threading.Thread(target=watch, name="Thread-cancel")
    watcher.start()
    try:
        yield cancel
    finally:
        over.set()
        watcher.join()


def failed(engine: Engine, folder: Path, **more: Any) -> HyperSDKError:
    """The error of an export that must fail."""
    outcome = engine.export("web-01", folder, **more)
    assert outcome.error is not None
    return outcome.error


def power(engine: Engine) -> str:
    with engine.simulator.platform.world.lock:
        return engine.simulator.vm("web-01").power


def guest_goes_down(engine: Engine) -> None:
    """The guest has shut down."""
    with engine.simulator.platform.world.lock:
        engine.simulator.vm("web-01").set_power(None, "poweredOff")


def test_a_guest_that_goes_down_after_the_time_out_is_powered_on_again(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(ON,), shutdown_s=1.5, settings={"shutdown_timeout_s": 0.2})
    before = ran.simulator.state()
    error = failed(ran, tmp_path / "out", state=SourceState.SHUTDOWN)
    assert error.code == "shutdown_timeout"
    assert "not_undone" not in error.fields
    assert ran.simulator.counters.calls["PowerOnVM_Task"] == 1
    assert ran.simulator.state() == before


def test_a_guest_that_goes_down_after_a_cancel_is_powered_on_again(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(ON,), shutdown_s=1.5)
    before = ran.simulator.state()
    with cancelled_after(ran, "ShutdownGuest") as cancel:
        error = failed(ran, tmp_path / "out", state=SourceState.SHUTDOWN, cancel=cancel)
    assert error.code == "cancelled"
    assert "not_undone" not in error.fields
    assert ran.simulator.counters.calls["PowerOnVM_Task"] == 1
    assert ran.simulator.state() == before


def test_a_power_off_whose_task_ends_after_a_cancel_is_undone(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(ON,), task_s=1)
    before = ran.simulator.state()
    with cancelled_after(ran, "PowerOffVM_Task") as cancel:
        error = failed(ran, tmp_path / "out", state=SourceState.POWER_OFF, cancel=cancel)
    assert error.code == "cancelled"
    time.sleep(1)  # a task that nobody waited for would end now
    assert ran.simulator.state() == before


def ejected(engine: Engine) -> bool:
    with engine.log_in() as session:
        return all(drive.iso is None for drive in read_machine(session, engine.simulator.vm("web-01").ref.moref).cdroms)


def test_an_eject_whose_task_ends_after_a_cancel_is_undone(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(replace(OFF, iso=ISO),), task_s=1)
    before = ran.simulator.state()
    with cancelled_after(ran, "ReconfigVM_Task") as cancel:
        error = failed(ran, tmp_path / "out", remove_cdrom=True, cancel=cancel)
    assert error.code == "cancelled"
    time.sleep(1)  # a task that nobody waited for would end now
    assert ran.simulator.state() == before
    assert ran.simulator.counters.calls["ReconfigVM_Task"] == 2


@pytest.mark.parametrize("left", [True, False], ids=["busy for longer", "ends"])
def test_after_a_crash_an_eject_that_is_under_way_is_waited_for(
    left: bool, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between its request and the end of the task: nothing it could do was done."""
    folder = tmp_path / "out"
    ran = engine(machines=(replace(OFF, iso=ISO),), task_s=1)
    before = ran.simulator.state()
    folder.mkdir()
    with ran.log_in() as session:
        machine = read_machine(session, ran.simulator.vm("web-01").ref.moref)
        run = RunFile.create(
            folder,
            FolderRuns(ran.state),
            endpoint=endpoint_name(session),
            moref=machine.moref,
            machine="web-01",
            format=OutputFormat.QCOW2,
            compress=Compression.NONE,
        )
        with monkeypatch.context() as died:
            died.setattr(tasks, "wait_for_task", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                journal.SourceJournal(session, run, note=lambda _: None).eject_isos(machine, CancelToken())
    assert [change.made for change in run.record.open_changes] == [False]
    if left:
        monkeypatch.setattr(journal, "LATE_S", 0)
        with ran.log_in() as session:
            undone = clean_up(
                session, folder, FolderRuns(ran.state), drop_snapshot=True, cancel=CancelToken(), note=lambda _: None
            )
        assert [problem.error.code for problem in undone.problems] == ["busy"]
        monkeypatch.undo()
    assert cleaned(ran, folder) == ("cdrom",)
    assert ran.simulator.state() == before
    assert not ejected(ran)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The undo gives a guest up at once that still runs."""
    monkeypatch.setattr(journal, "LATE_S", 0.2)


def pending(engine: EngineFactory, folder: Path) -> Engine:
    """A guest that was asked to shut down, and may still do so: reported as not undone."""
    ran = engine(machines=(ON,), shutdown_s=600, settings={"shutdown_timeout_s": 0.2})
    error = failed(ran, folder, state=SourceState.SHUTDOWN)
    not_undone = error.fields["not_undone"]
    assert isinstance(not_undone, list)
    (problem,) = not_undone
    assert "cannot be cancelled" in problem
    assert "`hyper2kvm cleanup`" in next_step(error)
    assert power(ran) == "poweredOn"
    return ran


@pytest.mark.usefixtures("patience")
def test_a_guest_that_still_runs_stays_open_until_it_is_down(engine: EngineFactory, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    ran = pending(engine, folder)
    before = ran.simulator.state()
    with ran.log_in() as session:
        store = FolderRuns(ran.state)
        done = clean_up(session, folder, store, drop_snapshot=True, cancel=CancelToken(), note=lambda _: None)
    assert [problem.error.code for problem in done.problems] == ["shutdown_timeout"]
    assert failed(ran, folder, resume=ResumeMode.RESUME).code == "not_restored"
    guest_goes_down(ran)
    assert cleaned(ran, folder) == ("power",)
    assert ran.simulator.state() == before


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("why", ["it was on again meanwhile", "an hour has passed"])
def test_a_guest_is_not_waited_for_for_ever(
    why: str, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = pending(engine, tmp_path / "out")
    if why == "an hour has passed":
        monkeypatch.setattr(journal, "GUEST_GOES_S", -1)
    else:
        guest_goes_down(ran)
        with ran.simulator.platform.world.lock:
            ran.simulator.vm("web-01").set_power_on(None)
    assert cleaned(ran, tmp_path / "out") == ("power",)
    assert power(ran) == "poweredOn"
    assert ran.simulator.counters.calls["PowerOnVM_Task"] == 0


@pytest.mark.usefixtures("patience")
def test_a_resume_takes_a_guest_that_went_down_as_it_is(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is powered on once, at the end; also where the resume ends before it copies anything."""
    ran = pending(engine, tmp_path / "full")
    guest_goes_down(ran)
    full = TargetError("full", code="no_space")
    with monkeypatch.context() as patched:
        patched.setattr(SpaceLedger, "reserve", lambda *_: (_ for _ in ()).throw(full))
        assert failed(ran, tmp_path / "full", state=SourceState.SHUTDOWN, resume=ResumeMode.RESUME) is full
    assert power(ran) == "poweredOn"

    ran = pending(engine, tmp_path / "out")
    guest_goes_down(ran)
    succeeded(ran.export("web-01", tmp_path / "out", state=SourceState.SHUTDOWN, resume=ResumeMode.RESUME))
    assert power(ran) == "poweredOn"
    assert ran.simulator.counters.calls["PowerOnVM_Task"] == 1
    assert ran.simulator.counters.calls["ShutdownGuest"] == 1


def test_a_guest_that_cannot_be_asked_is_not_waited_for(engine: EngineFactory, tmp_path: Path) -> None:
    refusal = Fault(FaultKind.CALL, method="ShutdownGuest", fault="ToolsUnavailable")
    ran = engine(machines=(ON,), faults=(refusal,))
    before, began = ran.simulator.state(), time.monotonic()
    error = failed(ran, tmp_path / "out", state=SourceState.SHUTDOWN)
    assert error.code == "tools_unavailable"
    assert "not_undone" not in error.fields
    assert time.monotonic() - began < journal.GRACE_S
    assert ran.simulator.state() == before


@pytest.mark.parametrize("place", [(DiskSet, "wait"), (Publishing, "publish")], ids=["hashing", "publishing"])
def test_what_is_not_undone_is_told_where_the_end_fails_too(
    place: tuple[type, str], engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None)
    ran = engine(machines=(ON,), faults=(stuck,))
    before = ran.simulator.state()
    with monkeypatch.context() as patched:
        patched.setattr(*place, Mock(side_effect=TargetError("full", code="no_space")))
        error = failed(ran, tmp_path / "out")
    assert error.code == "no_space"
    not_undone = error.fields["not_undone"]
    assert isinstance(not_undone, list)
    (problem,) = not_undone
    assert "remove the temporary snapshot" in problem
    assert "`hyper2kvm cleanup --drop-snapshots`" in next_step(error)
    ran.simulator.set_faults()
    assert cleaned(ran, tmp_path / "out") == ("snapshot",)
    assert ran.simulator.state() == before


def connected(engine: Engine) -> dict[str, tuple[bool, bool]]:
    """Label of each device that can be connected -> whether it is now, and whether it starts so."""
    with engine.simulator.platform.world.lock:
        devices = engine.simulator.vm("web-01").device_list
        return {
            one.deviceInfo.label: (one.connectable.connected, one.connectable.startConnected)
            for one in devices
            if one.connectable
        }


def with_connection(engine: Engine, label: str, **changed: Any) -> None:
    """Changes how one device is connected, as an administrator would."""
    with engine.simulator.platform.world.lock:
        machine = engine.simulator.vm("web-01")
        machine.device_list = [
            one.replace(connectable=one.connectable.replace(**changed)) if one.deviceInfo.label == label else one
            for one in machine.device_list
        ]
        machine.touch()


def cut_off(engine: Engine, label: str) -> None:
    with_connection(engine, label, connected=False, status="untried")


@pytest.mark.parametrize("state", [SourceState.POWER_OFF, SourceState.SHUTDOWN])
@pytest.mark.parametrize("remove_cdrom", [True, False])
@pytest.mark.parametrize("iso_connected", [True, False], ids=["connected", "cut off by hand"])
def test_a_power_cycle_leaves_every_device_as_it_was_connected(
    state: SourceState, remove_cdrom: bool, iso_connected: bool, engine: EngineFactory, tmp_path: Path
) -> None:
    ran = engine(machines=(replace(ON, iso=ISO, iso_connected=iso_connected, nics=2),))
    cut_off(ran, "Network adapter 2")
    before, found = ran.simulator.state(), connected(ran)
    assert found["CD/DVD drive 1"] == (iso_connected, True)
    assert found["Network adapter 2"] == (False, True)
    succeeded(ran.export("web-01", tmp_path / "out", state=state, remove_cdrom=remove_cdrom))
    assert ran.simulator.counters.calls["PowerOnVM_Task"] == 1
    assert connected(ran) == found
    assert ran.simulator.state() == before


def test_a_drive_connected_by_hand_is_connected_again(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(replace(ON, iso=ISO),))
    with_connection(ran, "CD/DVD drive 1", startConnected=False)
    before = ran.simulator.state()
    assert connected(ran)["CD/DVD drive 1"] == (True, False)
    succeeded(ran.export("web-01", tmp_path / "out", state=SourceState.POWER_OFF, remove_cdrom=True))
    assert ran.simulator.state() == before


def test_nothing_is_reconfigured_where_a_power_cycle_changes_no_connection(
    engine: EngineFactory, tmp_path: Path
) -> None:
    ran = engine(machines=(replace(ON, iso=ISO),))
    before = ran.simulator.state()
    succeeded(ran.export("web-01", tmp_path / "out", state=SourceState.POWER_OFF))
    assert ran.simulator.counters.calls["ReconfigVM_Task"] == 0
    assert ran.simulator.state() == before


def test_an_account_that_may_not_connect_devices_is_told(
    engine: EngineFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran = engine(machines=(ON,), denied_privileges=frozenset({"VirtualMachine.Config.EditDevice"}))
    cut_off(ran, "Network adapter 1")
    succeeded(ran.export("web-01", tmp_path / "out", state=SourceState.POWER_OFF))
    assert "Network adapter 1 was not connected" in caplog.text
    assert "VirtualMachine.Config.EditDevice" in caplog.text
    assert power(ran) == "poweredOn"
