from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from hypersdk.errors import Cancelled, LookupFailed, Refused, SourceError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere import tasks
from hypersdk.vsphere.inventory import list_machines
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.tasks import TaskState, cancel_task, read_task, wait_for_task
from tests.support.peers import Vcsim, running_vcsim
from tests.support.vsphere import connect
from tests.support.waiting import AT_ONCE_S


@pytest.fixture(scope="module")
def server() -> Iterator[Vcsim]:
    with running_vcsim(vm=1, autostart=False) as running:
        yield running


@pytest.fixture(scope="module")
def moref(session: Session) -> str:
    return list_machines(session, cancel=CancelToken())[0].moref


def test_the_result_of_a_snapshot_is_its_moref(session: Session, moref: str) -> None:
    task = session.call(lambda: session.ref("VirtualMachine", moref).CreateSnapshot("s", "", False, False))
    result = wait_for_task(session, task._moId, cancel=CancelToken())
    assert result is not None
    assert session.call(lambda: session.ref("VirtualMachineSnapshot", result).vm._moId) == moref
    state = read_task(session, task._moId, cancel=CancelToken())
    assert (state.state, state.result, state.error) == ("success", result, None)
    assert not cancel_task(session, task._moId)


def test_a_fault_in_a_task_is_translated(session: Session, moref: str) -> None:
    task = session.call(lambda: session.ref("VirtualMachine", moref).PowerOff())
    with pytest.raises(Refused) as caught:
        wait_for_task(session, task._moId, cancel=CancelToken())
    assert caught.value.code == "power_state"
    assert caught.value.fields["fault"] == "InvalidPowerState"


def test_a_task_that_vsphere_has_forgotten(session: Session) -> None:
    with pytest.raises(LookupFailed) as caught:
        wait_for_task(session, "task-999999", cancel=CancelToken())
    assert caught.value.code == "object_gone"
    assert not cancel_task(session, "task-999999")


def test_a_task_that_failed_without_a_fault_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    told = TaskState("error", "vm-1", None)
    monkeypatch.setattr(tasks, "read_task", lambda *_, **__: told)
    with pytest.raises(SourceError) as caught:
        wait_for_task(cast(Any, None), "task-1", cancel=CancelToken())
    assert caught.value.code == "vsphere_fault"


def test_cancel_ends_the_wait_at_once(server: Vcsim, session: Session, moref: str) -> None:
    server.govc("object.collect", "-s", f"VirtualMachine:{moref}", "name")  # the server answers
    with connect(server) as own:
        task = own.call(lambda: own.ref("VirtualMachine", moref).PowerOn())
        wait_for_task(own, task._moId, cancel=CancelToken())
    cancel = CancelToken()
    task = session.call(lambda: session.ref("VirtualMachine", moref).PowerOff())
    cancel.cancel("test")
    started = time.monotonic()
    with pytest.raises(Cancelled):
        wait_for_task(session, task._moId, cancel=cancel)
    assert time.monotonic() - started < AT_ONCE_S
    assert threading.active_count() >= 1
