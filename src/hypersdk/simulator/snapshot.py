"""Snapshots: a machine's disks and configuration as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypersdk.simulator import machine_view
from hypersdk.simulator.disks import DiskState
from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.values import Data, Ref
from hypersdk.simulator.world import World, now

if TYPE_CHECKING:
    from hypersdk.simulator.machine import Machine


class Snapshot(Managed):
    """A VirtualMachineSnapshot."""

    wsdl = "VirtualMachineSnapshot"

    def __init__(
        self, world: World, moref: str, machine: Machine, name: str, description: str, *, quiesced: bool, serial: int
    ) -> None:
        self.machine = machine
        self.name, self.description, self.quiesced, self.serial = name, description, quiesced, serial
        self.created = now()
        self.power = "poweredOff"  # taken without memory: this is what a revert brings back
        self.parent: Snapshot | None = machine.current
        self.children: list[Snapshot] = []
        self.disks: list[DiskState] = [disk.frozen() for disk in machine.disks if not disk.spec.independent]
        self._config = machine_view.config_info(machine)
        super().__init__(world, moref)
        (self.parent.children if self.parent else machine.snapshots).append(self)
        machine.current = self
        self._next_deltas()

    def _next_deltas(self) -> None:
        machine = self.machine
        machine.deltas += 1
        for disk in machine.disks:
            if not disk.spec.independent:
                disk.add_delta(machine.deltas)
        machine.refresh_disk_devices()
        machine.changed_config()

    @prop("config")
    def _config_property(self) -> Data:
        return self._config

    @prop("vm")
    def _vm(self) -> Ref:
        return self.machine.ref

    @prop("childSnapshot")
    def _children(self) -> list[Ref]:
        return [child.ref for child in self.children]

    def depth(self) -> int:
        """How many layers lie below the point that this snapshot freezes: its place in each disk's chain."""
        return len(self.disks[0].layers) if self.disks else 0

    def revert(self) -> None:
        """Puts the machine back to this point; what was changed since is lost."""
        machine = self.machine
        kept = {disk.key: disk for disk in self.disks}
        for disk in machine.disks:
            if disk.key in kept:
                disk.image, disk.layers = kept[disk.key].image, kept[disk.key].layers
        machine.current = self
        if machine.power != "poweredOff":
            machine.set_power(None, "poweredOff", "VmPoweredOffEvent", f"{machine.name} is powered off by a revert")
        self._next_deltas()

    def remove(self, *, children: bool) -> None:
        """Takes the snapshot away and merges its delta into what lies below; ``children`` go with it."""
        if children:
            for child in list(self.children):
                child.remove(children=True)
        machine = self.machine
        siblings = self.parent.children if self.parent else machine.snapshots
        place = siblings.index(self)
        siblings[place : place + 1] = self.children
        for child in self.children:
            child.parent = self.parent
        self._merge_delta()
        if machine.current is self:
            machine.current = self.parent
        self.world.remove(self)
        machine.refresh_disk_devices()
        machine.changed_config()

    def _merge_delta(self) -> None:
        """Drops the layer that began here from every chain that has it, unless another branch still stands on this point."""
        machine = self.machine
        holders = [
            disk for one in machine_view.all_snapshots(machine) if one is not self for disk in one.disks
        ] + machine.disks
        for frozen in self.disks:
            place, last = len(frozen.layers), frozen.layers[-1]
            above = [
                d for d in holders if d.key == frozen.key and len(d.layers) > place and d.layers[place - 1] is last
            ]
            if len({d.layers[place].name for d in above}) == 1:
                for disk in above:
                    disk.drop_layer(place)

    @operation("RevertToSnapshot_Task", privilege="VirtualMachine.State.RevertToSnapshot")
    def _revert(self, call: Call) -> Ref:
        return self.machine.start_task(call, self.revert)

    @operation("RemoveSnapshot_Task", privilege="VirtualMachine.State.RemoveSnapshot")
    def _remove(self, call: Call) -> Ref:
        return self.machine.start_task(call, lambda: self.remove(children=call.args.removeChildren))

    @operation("RenameSnapshot", privilege="VirtualMachine.State.RenameSnapshot")
    def _rename(self, call: Call) -> None:
        self.name = call.args.name if call.args.name is not None else self.name
        self.description = call.args.description if call.args.description is not None else self.description
        self.machine.touch()

    @operation("ExportSnapshot", privilege="VApp.Export")
    def _export(self, call: Call) -> Ref:
        return self.machine.platform.open_lease(call, self.machine, self)
