"""A virtual machine and its snapshots as the API has them: properties and calls on the state of ``machine_state``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypersdk.simulator import machine_view
from hypersdk.simulator.config import MachineSpec
from hypersdk.simulator.entities import Folder, escape_name
from hypersdk.simulator.hosts import Host, Network
from hypersdk.simulator.lease import ExportLease, open_lease, open_leases
from hypersdk.simulator.machine_files import machine_files
from hypersdk.simulator.machine_state import MachineState, SnapshotState
from hypersdk.simulator.managed import Call, operation, prop
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.reconfigure import reconfigure
from hypersdk.simulator.storage import Datastore, StoredFile
from hypersdk.simulator.values import Data, MethodFault, Ref, invalid_power_state
from hypersdk.units import MiB


class SimulatedMachine(MachineState, references={"rootSnapshot": "snapshots"}, computed=machine_view.PROPERTIES):
    """A VirtualMachine."""

    def files_on(self, datastore: Datastore) -> list[StoredFile]:
        """Its files on that datastore."""
        return machine_files(self, datastore)

    @property
    def lease(self) -> ExportLease | None:
        """The export of it that is open."""
        return next((lease for lease in open_leases(self.world) if lease.machine is self), None)

    @prop("datastore")
    def _datastore(self) -> list[Ref]:
        return [datastore.ref for datastore in self.datastores()]

    @prop("network")
    def _network(self) -> list[Ref]:
        return list(dict.fromkeys(network.ref for network in self.networks))

    @prop("resourcePool")
    def _resource_pool(self) -> Ref | None:
        return None if self.template else self.host.resource.pool.ref

    @operation("RefreshStorageInfo")
    def _refresh(self, _call: Call) -> None:
        """Does nothing: the sizes of files are always current."""

    # Power

    def check_power_on(self) -> None:
        """Raises MethodFault when it cannot be powered on now."""
        self.check_idle()
        if self.template:
            raise MethodFault.of("NotSupported", "A template cannot be powered on.")
        if self.power == "poweredOn":
            raise invalid_power_state(self.power, "poweredOff")

    def set_power_on(self, call: Call | None) -> None:
        """Powers it on."""
        self.home.require_space(self.memory_mb * MiB)
        self.set_power(call, "poweredOn")

    @operation("PowerOnVM_Task", privilege="VirtualMachine.Interact.PowerOn")
    def _power_on(self, call: Call) -> Ref:
        self.check_power_on()
        return self.start_task(call, lambda: self.set_power_on(call))

    @operation("PowerOffVM_Task", privilege="VirtualMachine.Interact.PowerOff")
    def _power_off(self, call: Call) -> Ref:
        if self.power == "poweredOff":
            raise invalid_power_state(self.power, "poweredOn")
        return self.start_task(call, lambda: self.set_power(call, "poweredOff"))

    @operation("SuspendVM_Task", privilege="VirtualMachine.Interact.Suspend")
    def _suspend(self, call: Call) -> Ref:
        self.require_power("poweredOn")
        return self.start_task(call, lambda: self.set_power(call, "suspended"))

    @operation("ResetVM_Task", privilege="VirtualMachine.Interact.Reset")
    def _reset(self, call: Call) -> Ref:
        self.require_power("poweredOn")
        text = f"{self.name} on {self.host.name} is reset"
        return self.start_task(call, lambda: self.restart(call, "VmResettingEvent", text))

    @operation("ShutdownGuest", privilege="VirtualMachine.Interact.PowerOff")
    def _shutdown_guest(self, call: Call) -> None:
        self._require_tools()
        self.post_event("VmGuestShutdownEvent", f"Guest OS shut down for {self.name}", call)
        self._later_if_running(lambda: self.set_power(call, "poweredOff"))

    @operation("RebootGuest", privilege="VirtualMachine.Interact.Reset")
    def _reboot_guest(self, call: Call) -> None:
        self._require_tools()
        text = f"Guest OS reboot for {self.name}"
        self._later_if_running(lambda: self.restart(call, "VmGuestRebootEvent", text))

    def _later_if_running(self, work: Callable[[], None]) -> None:
        """Runs the work after the guest's shutdown time, if the machine is still on."""
        self.world.later(self.platform.config.shutdown_s, lambda: work() if self.power == "poweredOn" else None)

    def _require_tools(self) -> None:
        self.require_power("poweredOn")
        if not self.spec.tools:
            raise MethodFault.of(
                "ToolsUnavailable",
                "Cannot complete operation because VMware Tools is not running in this virtual machine.",
            )

    # Snapshots

    @operation("CreateSnapshot_Task", privilege="VirtualMachine.State.CreateSnapshot")
    def _create_snapshot(self, call: Call) -> Ref:
        args = call.args
        if self.template:
            raise MethodFault.of("NotSupported", "A template has no snapshots.")

        def work() -> Ref:
            for disk in self.disks:
                disk.datastore.require_space(MiB)
            memory = bool(args.memory) and self.power == "poweredOn"
            quiesced = bool(args.quiesce) and not memory and self.tools_run
            return take_snapshot(self, args.name, args.description or "", quiesced=quiesced, memory=memory).ref

        return self.start_task(call, work)

    @operation("RevertToCurrentSnapshot_Task", privilege="VirtualMachine.State.RevertToSnapshot")
    def _revert_to_current(self, call: Call) -> Ref:
        current = self.current
        if current is None:
            raise MethodFault.of("NotFound", "The virtual machine has no snapshot.")
        return self.start_task(call, lambda: current.revert(suppress_power_on=bool(call.args.suppressPowerOn)))

    @operation("RemoveAllSnapshots_Task", privilege="VirtualMachine.State.RemoveSnapshot")
    def _remove_all_snapshots(self, call: Call) -> Ref:
        return self.start_task(call, self.remove_snapshots)

    @operation("ConsolidateVMDisks_Task", privilege="VirtualMachine.State.RemoveSnapshot")
    def _consolidate(self, call: Call) -> Ref:
        def work() -> None:
            self.consolidation_needed = False
            self.touch()

        return self.start_task(call, work)

    # Configuration

    @operation("ReconfigVM_Task", privilege="VirtualMachine.Config.EditDevice")
    def _reconfigure(self, call: Call) -> Ref:
        spec = call.args.spec

        def work() -> None:
            reconfigure(self, spec)
            self.post_event("VmReconfiguredEvent", f"Reconfigured {self.name}", call, configSpec=spec)

        return self.start_task(call, work)

    @operation("MarkAsTemplate", privilege="VirtualMachine.Provisioning.MarkAsTemplate")
    def _mark_as_template(self, _call: Call) -> None:
        self.check_idle()
        self.require_power("poweredOff")
        self.template = True
        self.changed_config()

    @operation("MarkAsVirtualMachine", privilege="VirtualMachine.Provisioning.MarkAsVM")
    def _mark_as_machine(self, _call: Call) -> None:
        if not self.template:
            raise MethodFault.of("InvalidState", "It is not a template.")
        self.template = False
        self.changed_config()

    @operation("CloneVM_Task", privilege="VirtualMachine.Provisioning.Clone")
    def _clone(self, call: Call) -> Ref:
        if self.platform.esxi:
            raise MethodFault.of("NotSupported", "An ESXi host does not clone.")
        name, spec = call.args.name, call.args.spec
        folder = self.world.get(call.args.folder, Folder)
        folder.check_name_free(escape_name(name) if "%" not in name else name)
        host = self.world.get(spec.location.host, Host) if spec.location.host else self.host
        store = self.world.get(spec.location.datastore, Datastore) if spec.location.datastore else self.home
        snapshot = self.world.get(spec.snapshot, Snapshot) if spec.snapshot else None
        made = replace(self.spec, name=name, template=bool(spec.template), power="poweredOff", snapshots=())

        def work() -> Ref:
            store.require_space(sum(disk.image.allocated_bytes() for disk in self.disks))
            clone = add_machine(self.platform, made, folder, host, store, self.networks)
            for disk, origin in zip(clone.disks, snapshot.disks if snapshot else self.disks, strict=False):
                disk.image = origin.image
            if spec.powerOn:
                clone.set_power_on(call)
            return clone.ref

        return self.start_task(call, work)

    @operation("Destroy_Task", privilege="VirtualMachine.Inventory.Delete")
    def _destroy(self, call: Call) -> Ref:
        self.require_power("poweredOff")
        return self.start_task(call, self._delete)

    def _delete(self) -> None:
        """Removes it from the inventory, with its files."""
        self.remove_snapshots()
        for store in self.datastores():
            store.machines.pop(self.folder_name, None)
        self.host.machines.remove(self)
        if isinstance(self.parent, Folder):
            self.parent.take(self)
        self.world.remove(self)
        self.post_event("VmRemovedEvent", f"Removed {self.name} on {self.host.name}")

    # Export

    @operation("ExportVm", privilege="VApp.Export")
    def _export(self, call: Call) -> Ref:
        self.require_power("poweredOff")
        return open_lease(call, self, self.disks).ref

    @operation("QueryChangedDiskAreas", privilege="VirtualMachine.Provisioning.DiskRandomRead")
    def _changed_areas(self, call: Call) -> Data:
        return machine_view.changed_areas(self, call.args)


class Snapshot(SnapshotState, references={"vm": "machine", "childSnapshot": "children"}):
    """A VirtualMachineSnapshot."""

    @operation("RevertToSnapshot_Task", privilege="VirtualMachine.State.RevertToSnapshot")
    def _revert(self, call: Call) -> Ref:
        return self.machine.start_task(call, lambda: self.revert(suppress_power_on=bool(call.args.suppressPowerOn)))

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


def add_machine(
    platform: Platform, spec: MachineSpec, folder: Folder, host: Host, store: Datastore, networks: list[Network]
) -> SimulatedMachine:
    """A new machine in the inventory."""
    machine = SimulatedMachine(platform, platform.world.number("vm-"), spec, folder, host, store, networks)
    for used in machine.datastores():
        used.machines[machine.folder_name] = machine
    host.machines.append(machine)
    folder.put(machine)
    for name in spec.snapshots:
        take_snapshot(machine, name, f"{name}, taken for the simulator")
    return machine
