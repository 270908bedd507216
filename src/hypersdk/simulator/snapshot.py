"""Snapshots: the calls of the API on them."""

from __future__ import annotations

from hypersdk.simulator import machine_view
from hypersdk.simulator.lease import open_lease
from hypersdk.simulator.machine_state import MachineState, SnapshotState
from hypersdk.simulator.managed import Call, operation, prop
from hypersdk.simulator.values import Ref


class Snapshot(SnapshotState):
    """A VirtualMachineSnapshot."""

    @prop("vm")
    def _vm(self) -> Ref:
        return self.machine.ref

    @prop("childSnapshot")
    def _children(self) -> list[Ref]:
        return [child.ref for child in self.children]

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
        return open_lease(call, self.machine, self.disks).ref


def take_snapshot(
    machine: MachineState, name: str, description: str, *, quiesced: bool = False, memory: bool = False
) -> Snapshot:
    """Takes a snapshot of the machine; with ``memory`` a revert to it brings back a running machine."""
    power = machine.power if memory else "poweredOff"
    config = machine_view.config_info(machine)
    return Snapshot(machine, name, description, quiesced=quiesced, power=power, config=config)
