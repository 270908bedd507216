"""Property paths: what the API knows and the simulator does not model is unset; only a name that the API does not know
is a fault."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import VmomiSupport, vim, vmodl

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.simulator.managed import EMPTY_LISTS
from hypersdk.simulator.schema import Kind, data_types, in_wsdl, managed_types
from hypersdk.units import MiB
from tests.support import schemapaths
from tests.support.simulatorclients import call, find, soap, soap_login

Spec = vmodl.query.PropertyCollector
MACHINES = (MachineSpec("vm", (DiskSpec(MiB),)), MachineSpec("on", power="poweredOn", snapshots=("one",)))


def read(instance: Any, entity: Any, paths: list[str]) -> dict[str, Any]:
    """What one RetrieveProperties tells of one object."""
    wanted = Spec.FilterSpec(
        objectSet=[Spec.ObjectSpec(obj=entity)], propSet=[Spec.PropertySpec(type=type(entity), pathSet=paths)]
    )
    (content,) = instance.RetrieveContent().propertyCollector.RetrieveContents([wanted])
    return {prop.name: prop.val for prop in content.propSet}


def test_the_table_of_paths_is_what_pyvmomi_says() -> None:
    committed = Path(schemapaths.__file__).parents[2] / "src/hypersdk/simulator/schema_paths.py"
    assert committed.read_text() == schemapaths.table(), "make it again: see the module's first lines"


def test_what_is_modelled_is_known() -> None:
    """The two tables agree."""
    for managed in managed_types().values():
        for name, field in managed.properties.items():
            assert in_wsdl(managed, name), (managed.name, name)
            if field.kind is Kind.DATA and not field.many:
                for member in data_types()[field.type].by_name:
                    assert in_wsdl(managed, f"{name}.{member}"), (managed.name, name, member)


def entities(server: Simulator, instance: Any) -> list[Any]:
    """One object of each kind in the inventory."""
    content = instance.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.ManagedEntity], True)
    found = {type(entity): entity for entity in view.view}
    view.DestroyView()
    assert {vim.VirtualMachine, vim.HostSystem, vim.ClusterComputeResource, vim.Datastore, vim.Datacenter} <= set(found)
    return [*found.values(), find(instance, server, "on").snapshot.currentSnapshot]


def paths_below(entity: Any) -> Iterator[str]:
    """All paths of one and two names that pyVmomi has for an object, by its own description of the types, up to
    8.0.3."""
    for info in entity._GetPropertyList():
        if not VmomiSupport.IsChildVersion(schemapaths.NEWEST, info.version):
            continue
        yield info.name
        if issubclass(info.type, VmomiSupport.DataObject):
            for below in info.type._GetPropertyList():
                if VmomiSupport.IsChildVersion(schemapaths.NEWEST, below.version):
                    yield f"{info.name}.{below.name}"


def test_every_path_of_the_api_may_be_asked_for(server: Simulator, instance: Any) -> None:
    """All in one query for each kind of object, as an inventory tool sends it."""
    asked = 0
    for entity in entities(server, instance):
        paths = list(paths_below(entity))
        got = read(instance, entity, paths)
        assert set(got) <= set(paths)
        asked += len(paths)
    assert asked > 900


def test_what_is_not_modelled_has_no_value(server: Simulator, instance: Any) -> None:
    machine = find(instance, server, "on")
    unset = [
        "runtime.question",
        "layout",
        "config.ftInfo.role",
        "config.vAppConfig.eula",
        "parentVApp",
        "guest.guestKernelCrashed",
    ]
    assert read(instance, machine, ["name", *unset]) == {"name": "on"}
    assert machine.layout is None
    assert machine.runtime.question is None


def test_a_member_of_an_heir_may_be_asked_for(server: Simulator, instance: Any) -> None:
    """What lies behind a declared type may be one of its heirs: ``info`` of some other datastore would be a
    NasDatastoreInfo."""
    (store,) = [datastore for datastore in find(instance, server, "vm").datastore if datastore.name == "nvme-prod-01"]
    assert set(read(instance, store, ["info.name", "info.vmfs.uuid", "info.nas.remoteHost"])) == {
        "info.name",
        "info.vmfs.uuid",
    }


@pytest.mark.parametrize("name", sorted(EMPTY_LISTS))
def test_lists_that_a_vcenter_always_sends_are_empty(server: Simulator, instance: Any, name: str) -> None:
    machine = find(instance, server, "vm")
    assert read(instance, machine, [name]) == {name: []}
    assert getattr(machine, name) == []


@pytest.mark.parametrize(
    "path",
    [
        "bogus",
        "name.x",
        "config.bogus",
        "config.hardware.device.key",
        "runtime.question.bogus",
        "layout.bogus.disk",
        "config.hardware..x",
        "",
        ".",
    ],
)
def test_a_path_that_the_api_does_not_know_is_refused(server: Simulator, path: str) -> None:
    moref = server.vm("vm").ref.moref
    spec = (
        f"<specSet><propSet><type>VirtualMachine</type><pathSet>name</pathSet><pathSet>{path}</pathSet></propSet>"
        f"<objectSet><obj type='VirtualMachine'>{moref}</obj></objectSet></specSet>"
    )
    cookie = soap_login(server)
    answer = soap(server, call("PropertyCollector", "propertyCollector", "RetrieveProperties", spec), cookie)
    assert answer.status == 500
    (named,) = re.findall(r"<InvalidPropertyFault [^>]*><name>([^<]*)</name>", answer.body.decode())
    assert named == path
    fetched = soap(server, call("VirtualMachine", moref, "Fetch", f"<prop>{path}</prop>"), cookie)
    assert fetched.status == 500


def test_an_item_of_a_list_by_its_key(server: Simulator, instance: Any) -> None:
    machine = find(instance, server, "on")
    device, backing, none = (f"config.hardware.device[{end}" for end in ("2000]", "2000].backing.fileName", "4711]"))
    option = 'config.extraConfig["svga.present"]'
    got = read(instance, machine, ["name", device, backing, none, option])
    (disk,) = [device for device in machine.config.hardware.device if device.key == 2000]
    assert isinstance(got[device], vim.vm.device.VirtualDisk)
    assert (got[device].backing.uuid, got[backing]) == (disk.backing.uuid, disk.backing.fileName)
    assert got[option].value == "TRUE"
    assert none not in got
    (store,) = machine.datastore
    moref = store.host[0].key._moId
    assert read(instance, store, [f"host[{moref}].mountInfo.accessible"]) == {
        f"host[{moref}].mountInfo.accessible": True
    }


@pytest.mark.parametrize(
    "path",
    [
        "config[1]",
        "name[1]",
        "config.hardware.device[2000].bogus",
        "config.hardware.device[2000",
        "config.hardware.device[]",
        "bogus[1]",
        "config.hardware.device[2000]x",
        "config.hardware.device[2000]..key",
        "[2000]",
        'config.extraConfig["a&b"]',
        "datastore[1]",
    ],
)
def test_a_key_where_there_is_none_is_refused(server: Simulator, instance: Any, path: str) -> None:
    with pytest.raises(vmodl.query.InvalidProperty):
        read(instance, find(instance, server, "on"), [path])


def test_a_path_that_goes_round_and_round_is_refused() -> None:
    task = managed_types()["Task"]
    assert in_wsdl(task, "info.error.fault.faultCause.fault.faultCause.localizedMessage")
    assert in_wsdl(task, "info.error.dynamicType")
    assert not in_wsdl(task, "dynamicType")
    assert not in_wsdl(task, "info.error" + ".fault.faultCause" * 100_000)
