"""pyVmomi on a simulator: what it reads, what it does, and by which class it raises."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import SoapStubAdapter, vim, vmodl
from pyVmomi.VmomiSupport import newestVersions

from hypersdk.simulator import DiskSpec, Fault, FaultKind, MachineSpec, Simulator
from hypersdk.simulator.managed import Managed
from hypersdk.simulator.storage import datastores
from hypersdk.units import MiB
from tests.support.simulatorclients import (
    done,
    export,
    find,
    get,
    login,
    ready,
    simulated,
    soap_login,
    trust,
)
from tests.support.waiting import eventually

MACHINES = (
    MachineSpec("off", (DiskSpec(4 * MiB), DiskSpec(2 * MiB))),
    MachineSpec("on", power="poweredOn", snapshots=("first", "second")),
    MachineSpec("iso", (DiskSpec(MiB),), iso="[iso-library] tools/virtio-win.iso"),
    MachineSpec("gone", (DiskSpec(MiB),), iso="[iso-library] not/there.iso"),
)


@pytest.fixture(scope="module", params=["vcenter", "esxi"])
def server(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with simulated(
        machines=MACHINES,
        esxi=request.param == "esxi",
        denied_privileges=frozenset({"VirtualMachine.Interact.Suspend"}),
    ) as running:
        yield running


@pytest.fixture
def instance(server: Simulator, instance: Any) -> Iterator[Any]:
    yield instance
    server.set_faults()


def test_every_property_of_every_object_reads(server: Simulator, instance: Any) -> None:
    """pyVmomi fetches each attribute by itself and refuses whatever is typed wrongly."""
    content = instance.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.ManagedEntity], True)
    seen = set()
    for entity in view.view:
        for info in entity._GetPropertyList():
            if info.name in server.platform.world.get(_ref(entity), Managed).schema.properties:
                getattr(entity, info.name)
                seen.add((type(entity).__name__, info.name))
    view.DestroyView()
    assert {
        ("vim.VirtualMachine", name) for name in ("config", "summary", "runtime", "guest", "layoutEx", "snapshot")
    } <= seen
    assert ("vim.HostSystem", "config") in seen
    for name in ("sessionManager", "eventManager", "taskManager", "authorizationManager", "searchIndex"):
        manager = getattr(content, name)
        for info in manager._GetPropertyList():
            if info.name in server.platform.world.get(_ref(manager), Managed).schema.properties:
                getattr(manager, info.name)


def _ref(entity: Any) -> Any:
    from hypersdk.simulator.values import Ref

    return Ref("", entity._moId)


def test_objects_read_by_a_container_view(server: Simulator, instance: Any) -> None:
    content = instance.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    spec = vmodl.query.PropertyCollector
    traverse = spec.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
    filter_spec = spec.FilterSpec(
        objectSet=[spec.ObjectSpec(obj=view, skip=True, selectSet=[traverse])],
        propSet=[spec.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "config.hardware.device", "snapshot"])],
    )
    found = {
        {p.name: p.val for p in entry.propSet}["name"]: {p.name: p.val for p in entry.propSet}
        for entry in content.propertyCollector.RetrieveContents([filter_spec])
    }
    assert set(found) == {"off", "on", "iso", "gone"}
    assert "snapshot" not in found["off"], "what is unset is absent"
    tree = found["on"]["snapshot"].rootSnapshotList[0]
    assert (tree.name, tree.childSnapshotList[0].name) == ("first", "second")
    disks = [d for d in found["off"]["config.hardware.device"] if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [disk.capacityInBytes for disk in disks] == [4 * MiB, 2 * MiB]


def test_power_and_snapshots(server: Simulator, instance: Any) -> None:
    before = server.state()
    machine = find(instance, server, "off")
    done(machine.PowerOn())
    assert machine.runtime.powerState == "poweredOn"
    snapshot = done(machine.CreateSnapshot(name="s", description="d", memory=False, quiesce=True))
    assert machine.snapshot.currentSnapshot == snapshot
    assert machine.snapshot.rootSnapshotList[0].quiesced
    done(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert machine.snapshot is None
    done(machine.PowerOff())
    assert server.state() == before


def test_task_names_are_the_wire_methods(server: Simulator, instance: Any) -> None:
    task = find(instance, server, "off").PowerOn()
    assert task.info.name is vim.VirtualMachine.PowerOn
    done(task)
    done(find(instance, server, "off").PowerOff())


def test_waiting_tells_changes_and_only_them(server: Simulator, instance: Any) -> None:
    collector = (
        instance.RetrieveContent().propertyCollector.CreatePropertyCollector()
    )  # WaitForTask uses the default one
    machine = find(instance, server, "iso")
    spec = vmodl.query.PropertyCollector
    watch = collector.CreateFilter(
        spec.FilterSpec(
            objectSet=[spec.ObjectSpec(obj=machine)],
            propSet=[spec.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState", "name"])],
        ),
        True,
    )
    first = collector.WaitForUpdatesEx("", None)
    assert {c.name: c.val for c in first.filterSet[0].objectSet[0].changeSet} == {
        "runtime.powerState": "poweredOff",
        "name": "iso",
    }
    began = time.monotonic()
    none = collector.WaitForUpdatesEx(first.version, spec.WaitOptions(maxWaitSeconds=1))
    assert none is None
    assert 0.9 < time.monotonic() - began < 60
    server.power_cycle("iso")
    done(machine.PowerOn())
    second = collector.WaitForUpdatesEx(first.version, None)
    assert [c.name for c in second.filterSet[0].objectSet[0].changeSet] == ["runtime.powerState"]
    watch.DestroyPropertyFilter()
    collector.DestroyPropertyCollector()
    done(machine.PowerOff())


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_export_with_manifest(server: Simulator, instance: Any, algorithm: str) -> None:
    with export(instance, server, "off") as lease:
        if algorithm == "sha256":
            pairs = [vim.KeyValue(key=url.key, value="sha256") for url in lease.info.deviceUrl]
            lease.HttpNfcLeaseSetManifestChecksumType(pairs)
        bodies = {url.key: get(server, url.url).body for url in lease.info.deviceUrl}
        assert [url.disk for url in lease.info.deviceUrl] == [True, True, False]
        entries = {entry.key: entry for entry in lease.HttpNfcLeaseGetManifest()}
        assert set(entries) == set(bodies)
        for key, body in bodies.items():
            assert entries[key].sha1 == hashlib.sha1(body).hexdigest()
            assert entries[key].checksumType == algorithm
            assert entries[key].checksum == hashlib.new(algorithm, body).hexdigest()
            assert entries[key].size == len(body)
        lease.HttpNfcLeaseComplete()
        assert lease.state == "done"


def test_an_iso_is_exported_too_and_fails_when_it_is_gone(server: Simulator, instance: Any) -> None:
    with export(instance, server, "iso") as lease:
        (url,) = [url for url in lease.info.deviceUrl if url.targetId.endswith(".iso")]
        body = get(server, url.url).body
        assert len(body) == url.fileSize == 8 * MiB
    with pytest.raises(vim.fault.FileNotFound):
        find(instance, server, "gone").ExportVm()
    assert server.vm("gone").lease is None


def test_descriptor(server: Simulator, instance: Any) -> None:
    content = instance.RetrieveContent()
    machine = find(instance, server, "off")
    with export(instance, server, "off") as lease:
        files = [
            vim.OvfManager.OvfFile(deviceId=url.key, path=f"d{n}.vmdk", size=n + 1)
            for n, url in enumerate(lease.info.deviceUrl)
            if url.disk
        ]
    params = vim.OvfManager.CreateDescriptorParams(ovfFiles=files, name="named <&>")
    text = content.ovfManager.CreateDescriptor(machine, params).ovfDescriptor
    assert 'ovf:href="d1.vmdk"' in text
    assert "named &lt;&amp;&gt;" in text


def test_logout_ends_the_session(server: Simulator) -> None:
    with login(server) as instance:
        manager = instance.RetrieveContent().sessionManager
        key = manager.currentSession.key
        assert key in [session.key for session in manager.sessionList]
        manager.Logout()
        assert server.platform.sessions.by_key(key) is None
        with pytest.raises(vim.fault.NotAuthenticated):
            find(instance, server, "off").PowerOn()


def test_objects_of_a_session_are_its_own(server: Simulator, instance: Any) -> None:
    content = instance.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    with login(server) as other:
        foreign = vim.view.ContainerView(view._moId, other._stub)
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            _ = foreign.view
    assert len(view.view) == len(MACHINES)


def test_faults_come_by_their_class(server: Simulator, instance: Any) -> None:
    stub = SoapStubAdapter(
        server.host, server.port, path="/sdk", version=newestVersions.GetName("vim"), sslContext=trust(server)
    )
    stranger = vim.ServiceInstance("ServiceInstance", stub)
    with pytest.raises(vim.fault.InvalidLogin):
        stranger.content.sessionManager.Login("x", "y")  # type: ignore[call-arg]
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = find(stranger, server, "on").name
    stub.DropConnections()
    machine = find(instance, server, "on")
    with pytest.raises(vim.fault.NoPermission) as denied:
        machine.Suspend()
    assert denied.value.privilegeId == "VirtualMachine.Interact.Suspend"
    assert denied.value.object == machine
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as missing:
        vim.VirtualMachine("vm-999", instance._stub).PowerOn()  # type: ignore[call-arg]
    assert missing.value.obj._moId == "vm-999"
    with pytest.raises(vim.fault.InvalidPowerState) as state:
        machine.PowerOn()
    assert (state.value.existingState, state.value.requestedState) == ("poweredOn", "poweredOff")
    assert "Powered on" in state.value.msg


def test_a_machine_does_one_thing_at_a_time(server: Simulator, instance: Any) -> None:
    with export(instance, server, "off"), pytest.raises(vim.fault.TaskInProgress) as busy:
        find(instance, server, "off").PowerOn()
    assert busy.value.task.info.name is vim.VirtualMachine.ExportVm


def test_a_fault_in_a_task(server: Simulator, instance: Any) -> None:
    browser = datastores(server.platform.world)[0].browser.ref.moref
    task = vim.host.DatastoreBrowser(browser, instance._stub).SearchDatastore_Task("[nvme-prod-01] nowhere")
    with pytest.raises(vim.fault.FileNotFound, match="nowhere was not found"):
        done(task)


def test_a_call_can_be_made_to_fail(server: Simulator, instance: Any) -> None:
    server.set_faults(Fault(FaultKind.CALL, method="ExportVm", fault="TaskInProgress"))
    with pytest.raises(vim.fault.TaskInProgress):
        find(instance, server, "off").ExportVm()
    lease = find(instance, server, "off").ExportVm()  # the fault was applied once
    ready(lease)
    lease.HttpNfcLeaseAbort()
    assert server.faults.applied[FaultKind.CALL] == 1


def test_every_fault_that_can_be_ordered_arrives_as_itself(server: Simulator, instance: Any) -> None:
    """The table's faults all exist in pyVmomi by that name, with the members that it knows."""
    from hypersdk.simulator.schema import data_types

    names = [
        name for name, type_ in data_types().items() if type_.lineage & {"VimFault", "RuntimeFault", "MethodFault"}
    ]
    assert len(names) > 20
    for name in names:
        server.set_faults(Fault(FaultKind.CALL, method="CurrentTime", fault=name))
        with pytest.raises(vmodl.MethodFault) as caught:
            instance.CurrentTime()
        assert type(caught.value).__name__.rpartition(".")[2] == name


def test_sessions_end_others_and_idle_ones(server: Simulator, instance: Any) -> None:
    manager = instance.RetrieveContent().sessionManager
    cookie = soap_login(server)
    other = server.platform.sessions.by_cookie(cookie)
    assert other is not None
    manager.TerminateSession([other.key])
    assert server.platform.sessions.by_cookie(cookie) is None
    with pytest.raises(vim.fault.NotFound):
        manager.TerminateSession([other.key])


def test_an_idle_session_ends() -> None:
    with simulated(machines=MACHINES[:1], session_idle_s=0.5) as server, login(server) as instance:
        machine = find(instance, server, "off")
        for _ in range(4):  # activity keeps it
            time.sleep(0.2)
            assert machine.name == "off"
        lease = machine.ExportVm()
        ready(lease)
        eventually(lambda: server.platform.sessions.all() == [])
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = machine.name
        assert server.vm("off").lease is None, "the lease goes with its session"
