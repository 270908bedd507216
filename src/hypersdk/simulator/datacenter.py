"""Datacenters: the roots of the folders for machines, hosts, datastores and networks."""

from __future__ import annotations

from typing import Final

from hypersdk.simulator.entities import Entity, Folder, descendants, escape_name
from hypersdk.simulator.hosts import Host
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.simulator.managed import Call, operation, prop
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.values import Data, Ref

MACHINE_FOLDER: Final = ["Folder", "VirtualMachine", "VirtualApp"]
"""What a folder of machines may hold."""


class Datacenter(
    Entity,
    api_type="Datacenter",
    references={
        "vmFolder": "vm_folder",
        "hostFolder": "host_folder",
        "datastoreFolder": "datastore_folder",
        "networkFolder": "network_folder",
    },
):
    """A datacenter with its four folders."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Folder) -> None:
        super().__init__(platform, moref, name, parent)
        self.vm_folder = self._make_folder("vm", "group-v", MACHINE_FOLDER)
        self.host_folder = self._make_folder("host", "group-h", ["Folder", "ComputeResource"])
        self.datastore_folder = self._make_folder("datastore", "group-s", ["Folder", "Datastore", "StoragePod"])
        self.network_folder = self._make_folder("network", "group-n", ["Folder", "Network", "DistributedVirtualSwitch"])
        self.hosts: list[Host] = []
        self._folders = {"": self.vm_folder}  # by path below ``vm``
        parent.put(self)

    def _make_folder(self, name: str, prefix: str, kinds: list[str]) -> Folder:
        moref = self.platform.moref(prefix, f"ha-folder-{name}")
        return Folder(self.platform, moref, name, self, kinds)

    def folder(self, path: str) -> Folder:
        """The folder of that path below ``vm``, created if needed."""
        if path not in self._folders:
            parent, _, name = path.rpartition("/")
            above = self.folder(parent)
            moref = self.world.number("group-v")
            self._folders[path] = Folder(self.platform, moref, escape_name(name), above, MACHINE_FOLDER)
        return self._folders[path]

    def children(self) -> list[Entity]:
        return [self.vm_folder, self.host_folder, self.datastore_folder, self.network_folder]

    @prop("datastore")
    def _datastore(self) -> list[Ref]:
        return [entity.ref for entity in descendants(self.datastore_folder, recursive=True) if entity.is_a("Datastore")]

    @prop("network")
    def _network(self) -> list[Ref]:
        return [entity.ref for entity in descendants(self.network_folder, recursive=True) if entity.is_a("Network")]

    @operation("PowerOnMultiVM_Task", privilege="VirtualMachine.Interact.PowerOn")
    def _power_on_multi(self, call: Call) -> Ref:
        machines = [self.world.get(ref, SimulatedMachine) for ref in call.args.vm]
        for machine in machines:
            machine.check_power_on()

        def work() -> Data:
            for machine in machines:
                machine.set_power_on(call)
            return Data("ClusterPowerOnVmResult")

        task = self.platform.tasks.run(call, self, work)
        for machine in machines:
            machine.busy = task
        return task.ref
