"""Big inventories, pages, traversals by other clients' shapes, and space that fills."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.units import GiB, MiB
from tests.support.simulatorclients import call, done, find, login, simulated, soap, soap_login
from tests.support.waiting import eventually

NINE = (
    "name",
    "runtime.powerState",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.guestFullName",
    "guest.ipAddress",
    "runtime.host",
    "summary.storage.committed",
    "config.instanceUuid",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with simulated(vms=45, page_objects=20, datacenters=2) as running:
        yield running


def retrieve(server: Simulator, cookie: str, paths: tuple[str, ...], options: str = "") -> Iterator[str]:
    """Pages of all machines by a container view."""
    view = soap(
        server,
        call(
            "ViewManager",
            "ViewManager",
            "CreateContainerView",
            '<container type="Folder">group-d1</container><type>VirtualMachine</type><recursive>true</recursive>',
        ),
        cookie,
    )
    (moref,) = re.findall(r">(session\[[^<]*view-[^<]*)<", view.body.decode())
    sets = "".join(f"<pathSet>{path}</pathSet>" for path in paths)
    spec = (
        f"<specSet><propSet><type>VirtualMachine</type>{sets}</propSet><objectSet><obj"
        f" type='ContainerView'>{moref}</obj><skip>true</skip>"
        "<selectSet"
        " xsi:type='TraversalSpec'><type>ContainerView</type><path>view</path><skip>false</skip></selectSet>"
        "</objectSet></specSet>"
        f"<options>{options}</options>"
    )
    got = soap(server, call("PropertyCollector", "propertyCollector", "RetrievePropertiesEx", spec), cookie)
    while True:
        assert got.status == 200, got.body
        text = got.body.decode()
        yield text
        token = re.search(r"<token>([^<]*)</token>", text)
        if token is None:
            return
        got = soap(
            server,
            call(
                "PropertyCollector", "propertyCollector", "ContinueRetrievePropertiesEx", f"<token>{token[1]}</token>"
            ),
            cookie,
        )


@pytest.mark.parametrize(
    ("options", "sizes"),
    [("", [20, 20, 5]), ("<maxObjects>15</maxObjects>", [15, 15, 15]), ("<maxObjects>999</maxObjects>", [20, 20, 5])],
)
def test_pages(server: Simulator, options: str, sizes: list[int]) -> None:
    server.reset_counters()
    pages = list(retrieve(server, soap_login(server), ("name",), options))
    assert [page.count("<objects>") for page in pages] == sizes
    names = re.findall(r'<val xsi:type="xsd:string">([^<]*)</val>', "".join(pages))
    assert len(set(names)) == 45
    assert server.counters.calls["ContinueRetrievePropertiesEx"] == len(sizes) - 1


def test_a_token_is_good_once_and_for_its_session(server: Simulator) -> None:
    cookie = soap_login(server)
    token = re.findall(r"<token>([^<]*)<", next(retrieve(server, cookie, ("name",))))[0]
    ask = call("PropertyCollector", "propertyCollector", "ContinueRetrievePropertiesEx", f"<token>{token}</token>")
    assert b"InvalidArgumentFault" in soap(server, ask, soap_login(server)).body
    token = re.findall(r"<token>([^<]*)<", next(retrieve(server, cookie, ("name",))))[0]
    ask = call("PropertyCollector", "propertyCollector", "ContinueRetrievePropertiesEx", f"<token>{token}</token>")
    assert soap(server, ask, cookie).status == 200
    assert b"InvalidArgumentFault" in soap(server, ask, cookie).body


def test_a_property_that_does_not_exist_is_named(server: Simulator) -> None:
    with login(server) as instance:
        collector = instance.RetrieveContent().propertyCollector
        spec = vmodl.query.PropertyCollector
        wanted = spec.FilterSpec(
            objectSet=[spec.ObjectSpec(obj=instance.content.rootFolder)],
            propSet=[spec.PropertySpec(type=vim.Folder, pathSet=["name", "nope.x"])],
        )
        with pytest.raises(vmodl.query.InvalidProperty) as caught:
            collector.RetrieveContents([wanted])
        assert caught.value.name == "nope.x"


def test_every_value_is_typed_and_every_moref_too(server: Simulator) -> None:
    """The wire rules that all clients need, by the letter."""
    text = "".join(
        retrieve(server, soap_login(server), (*NINE, "config.hardware.device", "datastore", "snapshot", "recentTask"))
    )
    assert not re.findall(r"<val>", text)
    assert not re.findall(r"<ManagedObjectReference(?![^>]*xsi:type)[^>]*>", text)
    assert not re.findall(r"<ManagedObjectReference(?![^>]* type=)[^>]*>", text)
    assert not re.findall(
        r"<(\w+)[^>]*></\1>", re.sub(r"<(deviceName|useAutoDetect|val[^>]*ArrayOf\w+)[^>]*></", "", text)
    ), "unset is absent"
    assert set(re.findall(r'<val xsi:type="(xsd:\w+)"', text)) == {"xsd:string", "xsd:int", "xsd:long"}


def test_names_are_found_however_odd(server: Simulator) -> None:
    with login(server) as instance:
        index = instance.RetrieveContent().searchIndex
        for machine in server.platform.world.all(SimulatedMachine):
            path = machine.path()
            assert index.FindByInventoryPath(path)._moId == machine.ref.moref
            assert index.FindByUuid(None, machine.instance_uuid, True, True)._moId == machine.ref.moref
        assert index.FindByInventoryPath("/Amsterdam/vm/none") is None


def test_space_fills_and_comes_back() -> None:
    disk = DiskSpec(64 * MiB, allocated_bytes=64 * MiB)
    machines = (MachineSpec("vm", (disk,), power="poweredOn", memory_mb=1),)
    with simulated(machines=machines, datastore_bytes=GiB, delta_bytes_s=40 * MiB) as server, login(server) as instance:
        machine = find(instance, server, "vm")
        (store,) = [datastore for datastore in machine.datastore if datastore.name == "nvme-prod-01"]
        before = store.summary.freeSpace
        assert GiB - 66 * MiB <= before <= GiB - 64 * MiB
        done(machine.CreateSnapshot(name="s", memory=False, quiesce=False))
        eventually(lambda: store.summary.freeSpace < before - 20 * MiB)
        done(machine.RemoveAllSnapshots())
        assert store.summary.freeSpace == before


def test_the_state_is_equal_until_something_is_left_behind(server: Simulator) -> None:
    before = server.state()
    with login(server) as instance:
        machine = find(instance, server, "web-02")
        snapshot = done(machine.CreateSnapshot(name="t", memory=False, quiesce=False))
        assert server.state() != before
        done(snapshot.RemoveSnapshot_Task(removeChildren=False))
        assert server.state() == before
    server.change_disk("web-02")
    assert server.state() != before


def test_machines_can_be_added_to_an_empty_place() -> None:
    with simulated() as server, login(server) as instance:
        server.add_machine(MachineSpec("late", datastore="nfs-archive"))
        assert find(instance, server, "late").name == "late"
        assert find(instance, server, "late").datastore[0].name == "nfs-archive"
        with pytest.raises(KeyError, match="0 machines are named 'none'"):
            server.vm("none")


@pytest.mark.slow
def test_five_thousand_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """No quadratic walk: each machine is worked out for each of its paths once, and not again while nothing changes."""
    worked_out: Counter[str] = Counter()
    resolve = SimulatedMachine.resolve

    def counted(machine: SimulatedMachine, path: str, read: dict[str, Any] | None = None) -> Any:
        worked_out[path] += 1
        return resolve(machine, path, read)

    monkeypatch.setattr(SimulatedMachine, "resolve", counted)
    with simulated(vms=5000) as server:
        cookie = soap_login(server)
        for _ in range(2):
            assert sum(page.count("<objects>") for page in retrieve(server, cookie, NINE)) == 5000
            assert worked_out == dict.fromkeys(NINE, 5000)


def test_delta_chains_collapse_once_nothing_stands_on_them() -> None:
    with simulated(machines=(MachineSpec("vm", (DiskSpec(2 * MiB),)),)) as server, login(server) as instance:
        machine: Any = find(instance, server, "vm")

        def take(name: str) -> Any:
            return done(machine.CreateSnapshot(name=name, memory=False, quiesce=False))

        before = server.state()
        one, two = take("one"), take("two")
        server.change_disk("vm", 0, [0])
        newest = server.disk_image("vm").block(0)
        done(one.RevertToSnapshot_Task())
        assert server.disk_image("vm").block(0) != newest
        take("branch")
        for snapshot in (one, two):
            done(snapshot.RemoveSnapshot_Task(removeChildren=False))
        done(machine.RemoveAllSnapshots())
        assert server.state() == before
