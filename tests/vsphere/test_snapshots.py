"""Temporary snapshots where something goes wrong: the server lost half way, a delta that does not merge."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from hypersdk.errors import Cancelled, ConnectError, LookupFailed, NotRestored, SourceError
from hypersdk.simulator import Fault, FaultKind, Simulator
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere import tasks as tasks_module
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import create_snapshot, find_snapshots, remove_snapshot
from tests.support.leases import SMALL, moref_of
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.waiting import AT_ONCE_S


def make(session: Session, moref: str, cancel: CancelToken | None = None) -> str:
    return create_snapshot(
        session, moref, name="hypersdk-1", description="", quiesce=False, cancel=cancel or CancelToken()
    )


def names(session: Session) -> list[str]:
    return [found.name for found in find_snapshots(session, "hypersdk-")]


def test_a_removal_that_leaves_a_delta_behind_is_consolidated(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session, moref = log_in(server), moref_of(server)
    snapshot = make(session, moref)
    with server.platform.world.lock:
        server.vm("web").consolidation_needed = True
    remove_snapshot(session, snapshot, cancel=CancelToken())
    assert server.counters.calls["ConsolidateVMDisks_Task"] == 1
    assert not read_machine(session, moref).consolidation_needed


def test_a_removal_without_need_consolidates_nothing(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    remove_snapshot(session, make(session, moref_of(server)), cancel=CancelToken())
    assert server.counters.calls["ConsolidateVMDisks_Task"] == 0
    assert names(session) == []


def test_a_delta_that_does_not_merge_is_said(simulator: SimulatorFactory, log_in: LogIn) -> None:
    locked = Fault(FaultKind.CALL, method="ConsolidateVMDisks_Task", fault="FileLocked", times=None)
    server = simulator(machines=(SMALL,), faults=(locked,))
    session, moref = log_in(server), moref_of(server)
    snapshot = make(session, moref)
    with server.platform.world.lock:
        server.vm("web").consolidation_needed = True
    with pytest.raises(NotRestored) as caught:
        remove_snapshot(session, snapshot, cancel=CancelToken())
    assert caught.value.code == "consolidation_left"
    assert names(session) == []


def forget_tasks(monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    """The server was started anew: nothing is known of tasks any more, whether they had ``done`` their work or not."""
    real = tasks_module.wait_for_task

    def wait(*args: Any, **more: Any) -> None:
        if done:
            real(*args, **more)
        raise LookupFailed("Task task-1 is gone", code="object_gone")

    monkeypatch.setattr(tasks_module, "wait_for_task", wait)


def test_a_lost_task_is_not_taken_for_a_snapshot_that_is_gone(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,), task_s=0.5)
    session = log_in(server)
    snapshot = make(session, moref_of(server))
    forget_tasks(monkeypatch, done=False)
    with pytest.raises(SourceError) as caught:
        remove_snapshot(session, snapshot, cancel=CancelToken())
    assert caught.value.code == "snapshot_failed"


@pytest.mark.parametrize("merges", [True, False])
def test_after_a_lost_task_consolidation_is_looked_at(
    merges: bool, simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,))
    if not merges:
        server.set_faults(Fault(FaultKind.CALL, method="ConsolidateVMDisks_Task", fault="FileLocked", times=None))
    session, moref = log_in(server), moref_of(server)
    snapshot = make(session, moref)
    with server.platform.world.lock:
        server.vm("web").consolidation_needed = True
    forget_tasks(monkeypatch, done=True)
    if merges:
        remove_snapshot(session, snapshot, cancel=CancelToken())
    else:
        with pytest.raises(NotRestored):
            remove_snapshot(session, snapshot, cancel=CancelToken())
    assert names(session) == []
    assert read_machine(session, moref).consolidation_needed is not merges


def lose_first_answer(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is made, and its answer lost."""
    real = session.call
    lost: list[Any] = []

    def call(ask: Any) -> Any:
        answer = real(ask)
        if not lost:
            lost.append(answer)
            raise ConnectError("hung up")
        return answer

    monkeypatch.setattr(session, "call", call)


def test_a_lost_answer_is_waited_for_so_that_the_undo_finds_the_snapshot(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "LAST_POLL_S", 0.05)
    server = simulator(machines=(SMALL,), task_s=0.5)
    session = log_in(server)
    lose_first_answer(session, monkeypatch)
    with pytest.raises(ConnectError, match="hung up"):
        make(session, moref_of(server))
    assert names(session) == ["hypersdk-1"]


def test_a_server_lost_while_the_task_runs_is_waited_for(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,), task_s=0.5)
    session, real = log_in(server), tasks_module.wait_for_task
    lost: list[Any] = []

    def wait(*args: Any, **more: Any) -> Any:
        if not lost:
            lost.append(args)
            raise ConnectError("hung up")
        return real(*args, **more)

    monkeypatch.setattr(tasks_module, "wait_for_task", wait)
    with pytest.raises(ConnectError, match="hung up"):
        make(session, moref_of(server))
    assert names(session) == ["hypersdk-1"]


def busy(server: Simulator) -> bool:
    with server.platform.world.lock:
        task = server.vm("web").busy
        return task is not None and task.running


def test_a_cancel_is_a_cancel_even_if_the_task_may_not_be_cancelled(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), task_s=0.6)
    server.set_faults(Fault(FaultKind.CALL, method="CancelTask", fault="NoPermission", times=None))
    session, cancel = log_in(server), CancelToken()
    timer = threading.Timer(0.2, cancel.cancel, ["test"])
    timer.start()
    with pytest.raises(Cancelled):
        make(session, moref_of(server), cancel)
    timer.join()
    assert server.counters.calls["CancelTask"] == 1
    assert not busy(server)
    assert names(session) == ["hypersdk-1"]


def test_what_the_task_ends_with_is_raised_at_once(simulator: SimulatorFactory, log_in: LogIn) -> None:
    fault = Fault(FaultKind.CALL, method="CreateSnapshot_Task", fault="FileLocked")
    server = simulator(machines=(SMALL,), faults=(fault,))
    started = time.monotonic()
    with pytest.raises(SourceError) as caught:
        make(log_in(server), moref_of(server))
    assert caught.value.code == "file_locked"
    assert time.monotonic() - started < AT_ONCE_S
    assert not busy(server)
