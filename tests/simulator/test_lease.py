"""A lease holds its machine, belongs to its session, and is freed in each of the ways there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.units import MiB
from tests.support.simulatorclients import done, export, find, get, login, ready, simulated
from tests.support.waiting import eventually

MACHINES = (
    MachineSpec("vm", (DiskSpec(2 * MiB),)),
    MachineSpec("rdm", (DiskSpec(2 * MiB, backing="rdm-physical"),)),
    MachineSpec("locked", (DiskSpec(2 * MiB),), encrypted=True),
)


def test_it_holds_the_machine(server: Simulator, instance: Any) -> None:
    machine = find(instance, server, "vm")
    with export(instance, server, "vm") as lease:
        assert server.state()["machines"]["/Amsterdam/vm/vm"]["lease_open"]
        for refused in (
            machine.ExportVm,
            machine.PowerOn,
            machine.Destroy,
            lambda: machine.CreateSnapshot(name="s", memory=False, quiesce=False),
        ):
            with pytest.raises(vim.fault.TaskInProgress):
                refused()
        datacenter = instance.RetrieveContent().rootFolder.childEntity[0]
        with pytest.raises(vim.fault.TaskInProgress):
            done(datacenter.PowerOnMultiVM_Task([machine]))
        assert lease.info.entity == machine
        assert lease.info.totalDiskCapacityInKB >= 2048


def test_it_belongs_to_its_session(server: Simulator, instance: Any) -> None:
    with export(instance, server, "vm") as lease:
        assert lease._moId.startswith(f"session[{instance.RetrieveContent().sessionManager.currentSession.key}]")
        with login(server) as other:
            foreign = vim.HttpNfcLease(lease._moId, other._stub)
            with pytest.raises(vmodl.fault.ManagedObjectNotFound):
                foreign.HttpNfcLeaseAbort()
            with pytest.raises(vim.fault.TaskInProgress):
                find(other, server, "vm").ExportVm()
        assert lease.state == "ready"


def _cancel(server: Simulator, instance: Any, _lease: Any) -> None:
    (task,) = [task for task in find(instance, server, "vm").recentTask if task.info.state == "running"]
    assert task.info.cancelable
    task.CancelTask()
    assert isinstance(task.info.error, vmodl.fault.RequestCanceled)


def _terminate(server: Simulator, instance: Any, _lease: Any) -> None:
    key = instance.RetrieveContent().sessionManager.currentSession.key
    with login(server) as other:
        other.RetrieveContent().sessionManager.TerminateSession([key])


WAYS: list[Callable[[Simulator, Any, Any], None]] = [
    lambda _server, _instance, lease: lease.HttpNfcLeaseComplete(),
    lambda _server, _instance, lease: lease.HttpNfcLeaseAbort(),
    lambda _server, _instance, lease: lease.HttpNfcLeaseAbort(vmodl.fault.SystemError(reason="why")),
    _cancel,
    _terminate,
    lambda _server, instance, _lease: instance.RetrieveContent().sessionManager.Logout(),
    lambda server, _instance, _lease: server.end_sessions(),
]


@pytest.mark.parametrize(
    "end", WAYS, ids=["complete", "abort", "abort-fault", "cancel", "terminate", "logout", "restart"]
)
def test_it_is_freed(server: Simulator, end: Callable[[Simulator, Any, Any], None]) -> None:
    before = server.state()
    with login(server) as instance:
        lease = find(instance, server, "vm").ExportVm()
        url = ready(lease).deviceUrl[0].url
        assert server.state() != before
        end(server, instance, lease)
        assert server.state() == before
        assert get(server, url).status == 404, "its ticket is void"
    with login(server) as instance, export(instance, server, "vm") as lease:
        assert lease.state == "ready"


def test_its_task_tells_how_it_ended(server: Simulator, instance: Any) -> None:
    def run(end: Callable[[Any], None]) -> Any:
        with export(instance, server, "vm") as lease:
            (task,) = [task for task in find(instance, server, "vm").recentTask if task.info.state == "running"]
            lease.HttpNfcLeaseProgress(40)
            assert task.info.progress == 40
            end(lease)
            return task.info

    assert run(lambda lease: lease.HttpNfcLeaseComplete()).state == "success"
    assert run(lambda lease: lease.HttpNfcLeaseAbort()).state == "error"


def test_what_cannot_be_exported(server: Simulator, instance: Any) -> None:
    for name in ("rdm", "locked"):
        with pytest.raises(vmodl.fault.NotSupported):
            find(instance, server, name).ExportVm()
        assert server.vm(name).lease is None


def test_a_free_licence_exports_nothing() -> None:
    with simulated(machines=MACHINES, esxi=True, free_licence=True) as server, login(server) as instance:
        with pytest.raises(vim.fault.RestrictedVersion):
            find(instance, server, "vm").ExportVm()
        assert server.vm("vm").lease is None


def test_checksums_that_are_not_there() -> None:
    with (
        simulated(machines=MACHINES, manifest="sha1") as server,
        login(server) as instance,
        export(instance, server, "vm") as lease,
    ):
        key = lease.info.deviceUrl[0].key
        with pytest.raises(vmodl.fault.NotSupported):
            lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=key, value="sha256")])
        get(server, lease.info.deviceUrl[0].url)
        (entry,) = lease.HttpNfcLeaseGetManifest()
        assert entry.checksumType == "sha1"
    with (
        simulated(machines=MACHINES, manifest="absent") as server,
        login(server) as instance,
        export(instance, server, "vm") as lease,
    ):
        get(server, lease.info.deviceUrl[0].url)
        assert not lease.HttpNfcLeaseGetManifest()


def test_a_snapshot_lease_serves_its_point_in_time() -> None:
    machines = (MachineSpec("run", (DiskSpec(2 * MiB),), power="poweredOn", snapshots=("then",)),)
    with simulated(machines=machines, delta_bytes_s=MiB) as server, login(server) as instance:
        snapshot = find(instance, server, "run").snapshot.currentSnapshot
        lease = snapshot.ExportSnapshot()
        url = ready(lease).deviceUrl[0].url
        before = get(server, url).body
        server.change_disk("run")
        assert get(server, url).body == before
        lease.HttpNfcLeaseComplete()
        layout = find(instance, server, "run").layoutEx
        size = max(f.size for f in layout.file if f.name.endswith("-sesparse.vmdk"))
        eventually(
            lambda: (
                max(f.size for f in find(instance, server, "run").layoutEx.file if f.name.endswith("-sesparse.vmdk"))
                > size
            )
        )
