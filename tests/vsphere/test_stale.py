"""Leases that nobody holds any more, freed by each means in turn."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from hypersdk.errors import Cancelled, SourceError
from hypersdk.simulator import Fault, FaultKind, Simulator
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere import nfc
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.stale import LeaseRecord, release_stale
from hypersdk.vsphere.tasks import running_tasks
from tests.support.leases import SMALL, held, moref_of
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.waiting import AT_ONCE_S

NO_CANCEL = Fault(FaultKind.CALL, method="CancelTask", fault="NotSupported", times=None)
NO_END = frozenset({"Sessions.TerminateSession"})


def open_lease(session: Session, server: Simulator) -> LeaseRecord:
    """An export whose process dies right after."""
    moref, now = moref_of(server), session.server_time().isoformat(timespec="seconds")
    lease = nfc.request_lease(session, moref, None)
    nfc.wait_until_ready(session, lease, cancel=CancelToken())
    (task,) = running_tasks(session, moref, cancel=CancelToken())
    assert task.exports
    return LeaseRecord(session.key, lease, task.moref, now, moref)


def release(session: Session, record: LeaseRecord, timeout_s: float = 10) -> list[str]:
    """What was waited for."""
    said: list[str] = []
    release_stale(session, record, cancel=CancelToken(), on_wait=said.append, timeout_s=timeout_s)
    return said


def test_our_own_session_aborts_it(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    record = open_lease(session, server)
    assert release(session, record) == []
    assert not held(server)
    assert (server.counters.calls["HttpNfcLeaseAbort"], server.counters.calls["CancelTask"]) == (1, 0)
    assert release(session, record) == []  # once more: nothing to do


def test_another_session_cancels_its_task(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    dead, session = log_in(server), log_in(server)
    record = open_lease(dead, server)
    assert nfc.lease_state(session, record.lease_moref, CancelToken()) is None
    release(session, record)
    assert not held(server)
    assert (server.counters.calls["CancelTask"], server.counters.calls["TerminateSession"]) == (1, 0)


def test_else_the_old_session_is_ended(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(NO_CANCEL,))
    dead, session = log_in(server), log_in(server)
    record = open_lease(dead, server)
    release(session, record)
    assert not held(server)
    assert server.counters.calls["TerminateSession"] == 1
    key = dead.key
    dead.server_time()
    dead.call(lambda: dead.ref("Folder", dead.content.rootFolder._moId).name)
    assert dead.key != key


@pytest.mark.parametrize("fault", ["NotSupported", "NotFound"])
def test_else_it_is_waited_out_and_counted_down(simulator: SimulatorFactory, log_in: LogIn, fault: str) -> None:
    end = Fault(FaultKind.CALL, method="TerminateSession", fault=fault, times=None)
    server = simulator(machines=(SMALL,), faults=(NO_CANCEL, end), lease_timeout_s=1.2)
    dead, session = log_in(server), log_in(server)
    record = open_lease(dead, server)
    said = release(session, record)
    assert not held(server)
    assert said
    assert said[0].endswith("times out in at most 10 s")
    assert len(said) == len(set(said))


def test_without_the_privilege_it_is_waited_out(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(NO_CANCEL,), denied_privileges=NO_END, lease_timeout_s=1)
    dead, session = log_in(server), log_in(server)
    record = open_lease(dead, server)
    assert release(session, record)
    assert not held(server)


def test_one_that_does_not_time_out_is_said(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(NO_CANCEL,), denied_privileges=NO_END)
    dead, session = log_in(server), log_in(server)
    record = open_lease(dead, server)
    with pytest.raises(SourceError) as caught:
        release(session, record, timeout_s=0.5)
    assert caught.value.code == "lease_held"
    assert held(server)


def test_cancel_ends_the_wait(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(NO_CANCEL,), denied_privileges=NO_END)
    dead, session = log_in(server), log_in(server)
    record, cancel = open_lease(dead, server), CancelToken()
    timer = threading.Timer(0.4, cancel.cancel, ["test"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        release_stale(session, record, cancel=cancel, on_wait=lambda _: None)
    assert 0.3 < time.monotonic() - started < AT_ONCE_S
    timer.join()


def test_a_request_without_an_answer_is_found_by_its_time(simulator: SimulatorFactory, log_in: LogIn) -> None:
    """The process died between the request and the note of its answer."""
    server = simulator(machines=(SMALL,))
    dead, session = log_in(server), log_in(server)
    record = replace(open_lease(dead, server), lease_moref="", task_moref=None)
    release(session, record)
    assert not held(server)
    assert (server.counters.calls["CancelTask"], server.counters.calls["TerminateSession"]) == (1, 0)


@pytest.mark.parametrize("opened_at", ["2020-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"])
def test_somebody_elses_export_is_left_alone(simulator: SimulatorFactory, log_in: LogIn, opened_at: str) -> None:
    """An old record without a task, and an export that began at another time."""
    server = simulator(machines=(SMALL,))
    other, session = log_in(server), log_in(server)
    record = replace(
        open_lease(other, server), lease_moref="", task_moref=None, session_key="gone", opened_at=opened_at
    )
    assert release(session, record) == []
    assert held(server)
    assert not {"CancelTask", "TerminateSession", "HttpNfcLeaseAbort"} & server.counters.calls.keys()


def test_an_export_of_another_account_is_not_cancelled(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,), lease_timeout_s=1)
    other, session = log_in(server), log_in(server)
    record = replace(open_lease(other, server), lease_moref="", task_moref=None, session_key="gone")
    monkeypatch.setattr(session, "user", "EXAMPLE\\somebody-else")
    assert release(session, record)  # waited out: it may be ours, under another name
    assert server.counters.calls["CancelTask"] == 0


def test_a_machine_that_is_gone_is_not_held(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    record = LeaseRecord("gone", "", None, "2026-01-01T00:00:00+00:00", "vm-9999")
    assert release(session, record) == []
    assert release(session, replace(record, task_moref="task-9999")) == []
