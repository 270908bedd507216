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
        self,
        world: World,
        moref: str,
        machine: Machine,
        name: str,
        description: str,
        *,
        quiesced: bool,
        power: str,
        serial: int,
    ) -> None:
        self.machine = machine
        self.name, self.description, self.quiesced, self.serial = name, description, quiesced, serial
        self.created = now()
        self.power = power  # what a revert brings back: poweredOff without memory
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

    def revert(self, *, suppress_power_on: bool = False) -> None:
        """Puts the machine back to this point; what was changed since is lost."""
        machine = self.machine
        kept = {disk.key: disk for disk in self.disks}
        for disk in machine.disks:
            if disk.key in kept:
                disk.image, disk.layers = kept[disk.key].image, kept[disk.key].layers
        machine.current = self
        power = "poweredOff" if suppress_power_on else self.power
        if machine.power != power:
            event = "VmPoweredOnEvent" if power == "poweredOn" else "VmPoweredOffEvent"
            machine.set_power(None, power, event, f"{machine.name} is {power} by a revert")
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
        _consolidate(machine)
        if machine.current is self:
            machine.current = self.parent
        self.world.remove(self)
        machine.refresh_disk_devices()
        machine.changed_config()

    @operation("RevertToSnapshot_Task", privilege="VirtualMachine.State.RevertToSnapshot")
    def _revert(self, call: Call) -> Ref:
        suppress = bool(call.args.suppressPowerOn)
        return self.machine.start_task(call, lambda: self.revert(suppress_power_on=suppress))

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


def _consolidate(machine: Machine) -> None:
    """Merges every delta into the layer below it that no snapshot freezes and on which no other branch stands."""
    frozen = [disk for one in machine_view.all_snapshots(machine) for disk in one.disks]
    for current in machine.disks:
        snapshots = [disk for disk in frozen if disk.key == current.key]
        while (spare := _spare_layer(current, snapshots)) is not None:
            place, holders = spare
            for disk in holders:
                disk.drop_layer(place)


def _spare_layer(current: DiskState, snapshots: list[DiskState]) -> tuple[int, list[DiskState]] | None:
    """Place of a delta that can be merged, and the chains that hold it."""
    chains = [current, *snapshots]
    for chain in chains:
        for place in range(1, len(chain.layers)):
            below = chain.layers[place - 1]
            on_it = [one for one in chains if len(one.layers) >= place and one.layers[place - 1] is below]
            needed = any(len(one.layers) == place for one in on_it)
            if not needed and len({one.layers[place].name for one in on_it}) == 1:
                return place, on_it
    return None
