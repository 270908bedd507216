"""A virtual machine: its state and the operations on it. How the state looks through the API is in ``machine_view``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hypersdk.simulator import devices, machine_view
from hypersdk.simulator.config import MachineSpec
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.disks import DiskState, Layer, content_of
from hypersdk.simulator.entities import Entity, Folder, Host, Network, escape_name
from hypersdk.simulator.fault import MethodFault, invalid_power_state
from hypersdk.simulator.machine_files import machine_files
from hypersdk.simulator.managed import Call, operation, prop
from hypersdk.simulator.reconfigure import reconfigure
from hypersdk.simulator.storage import Datastore, StoredFile
from hypersdk.simulator.values import Data, Ref
from hypersdk.simulator.world import World, now
from hypersdk.units import MiB

if TYPE_CHECKING:
    from hypersdk.simulator.lease import Lease
    from hypersdk.simulator.platform import Platform
    from hypersdk.simulator.snapshot import Snapshot
    from hypersdk.simulator.tasks import Task

_UNSAFE: Final = re.compile(r'[/\\:*?"<>|%]')


class Machine(Entity):
    """A VirtualMachine."""

    wsdl = "VirtualMachine"
    cached = True

    def __init__(
        self,
        world: World,
        moref: str,
        platform: Platform,
        spec: MachineSpec,
        folder: Folder,
        host: Host,
        datastore: Datastore,
        networks: list[Network],
    ) -> None:
        self.spec = spec
        self.host = host
        self.home = datastore
        self.networks = networks
        self.power: str = spec.power
        self.template = spec.template
        self.cpus, self.memory_mb = spec.cpus, spec.memory_mb
        self.annotation = spec.annotation
        self.cbt = spec.cbt
        self.extra: dict[str, str] = {}
        stores = {datastore, *(platform.datastore_named(disk.datastore, datastore) for disk in spec.disks)}
        self.folder_name = _folder_name(stores, spec.name)
        self.uuid = platform.uuid("bios", moref)
        self.instance_uuid = platform.uuid("instance", moref)
        self.made = platform.started
        self.booted = platform.started if spec.power == "poweredOn" else None
        self.reconfigured = platform.started
        self.changes = 0
        self.snapshots: list[Snapshot] = []  # roots
        self.current: Snapshot | None = None
        self.deltas = 0
        self.lease: Lease | None = None
        self.busy: Task | None = None
        self.consolidation_needed = False
        self._devices: list[Data] | None = None
        super().__init__(world, moref, platform, escape_name(spec.name), folder)
        self.disks = self._make_disks()
        datastore.machines[self.folder_name] = self
        for disk in self.disks:
            disk.datastore.machines.setdefault(self.folder_name, self)
        host.machines.append(self)
        folder.put(self)

    def _make_disks(self) -> list[DiskState]:
        made = []
        numbers: dict[str, int] = {}
        for index, spec in enumerate(self.spec.disks):
            bus = devices.CONTROLLERS[spec.controller][2]
            place = numbers.get(bus, 0)
            numbers[bus] = place + 1
            store = self.platform.datastore_named(spec.datastore, self.home)
            image = DiskImage(content_of(spec, f"{self.platform.config.seed}/{self.ref.moref}/{index}"))
            name = self.folder_name + (f"_{index}" if index else "")
            layer = Layer(name, image, time.monotonic(), delta=False)
            key = devices.FIRST_DISK[bus] + place
            made.append(DiskState(key, index, spec, store, self.folder_name, image, (layer,)))
        return made

    # Looks

    @property
    def device_list(self) -> list[Data]:
        """``config.hardware.device``. Worked out from the specification until it is first changed."""
        return self._devices if self._devices is not None else machine_view.devices_of(self)

    @device_list.setter
    def device_list(self, changed: list[Data]) -> None:
        self._devices = changed

    def refresh_disk_devices(self) -> None:
        """Makes changed device lists follow the disks' files."""
        if self._devices is not None:
            disks = {device.key: device for device in machine_view.disk_devices(self)}
            self._devices = [disks.get(device.key, device) for device in self._devices]

    def volatile(self) -> bool:
        return self.power == "poweredOn" and self.current is not None and self.platform.config.delta_bytes_s > 0

    def used_on(self, datastore: Datastore) -> int:
        """Space taken on that datastore."""
        growth = self.delta_growth()
        disks = [disk for disk in self.disks if disk.datastore is datastore]
        used = sum(disk.layer_bytes(place, growth) for disk in disks for place in range(len(disk.layers)))
        swap = self.memory_mb * MiB if self.power == "poweredOn" and datastore is self.home else 0
        return used + swap

    def delta_growth(self) -> float:
        """How fast the newest delta of each disk grows."""
        return self.platform.config.delta_bytes_s if self.power == "poweredOn" else 0

    def datastores(self) -> list[Datastore]:
        """Where its files lie."""
        return list(dict.fromkeys([self.home, *(disk.datastore for disk in self.disks)]))

    def files_on(self, datastore: Datastore) -> list[StoredFile]:
        """Its files on that datastore."""
        return machine_files(self, datastore)

    @property
    def tools_run(self) -> bool:
        """Whether VMware Tools answer."""
        return self.spec.tools and self.power == "poweredOn"

    def changed_config(self) -> None:
        """Call it after each change of the configuration."""
        self.changes += 1
        self.reconfigured = now()
        self.touch()

    @prop("config")
    def _config(self) -> Data:
        return machine_view.config_info(self)

    @prop("runtime")
    def _runtime(self) -> Data:
        return machine_view.runtime_info(self)

    @prop("guest")
    def _guest(self) -> Data:
        return machine_view.guest_info(self)

    @prop("summary")
    def _summary(self) -> Data:
        return machine_view.summary(self)

    @prop("layoutEx")
    def _layout(self) -> Data:
        return machine_view.layout_ex(self)

    @prop("storage")
    def _storage(self) -> Data:
        return machine_view.storage_info(self)

    @prop("snapshot")
    def _snapshot(self) -> Data | None:
        return machine_view.snapshot_info(self)

    @prop("rootSnapshot")
    def _root_snapshot(self) -> list[Ref]:
        return [snapshot.ref for snapshot in self.snapshots]

    @prop("datastore")
    def _datastore(self) -> list[Ref]:
        return [datastore.ref for datastore in self.datastores()]

    @prop("network")
    def _network(self) -> list[Ref]:
        return list(dict.fromkeys(network.ref for network in self.networks))

    @prop("resourcePool")
    def _resource_pool(self) -> Ref | None:
        return None if self.template else self.host.resource.pool.ref

    @prop("resourceConfig")
    def _resource_config(self) -> Data:
        return machine_view.resource_config(self)

    @prop("capability")
    def _capability(self) -> Data:
        return machine_view.capability()

    @prop("guestHeartbeatStatus")
    def _heartbeat(self) -> str:
        return "green" if self.tools_run else "gray"

    # Guards

    def check_idle(self) -> None:
        """Raises MethodFault (TaskInProgress) while a task or a lease holds the machine."""
        holder = self.busy if self.busy is not None and self.busy.running else None
        if holder is None and self.lease is not None:
            holder = self.lease.task
        if holder is not None:
            raise MethodFault.of(
                "TaskInProgress",
                "The operation is not allowed in the current state: another task is already in progress.",
                task=holder.ref,
            )

    def check_power_on(self) -> None:
        """Raises MethodFault when it cannot be powered on now."""
        self.check_idle()
        if self.template:
            raise MethodFault.of("NotSupported", "A template cannot be powered on.")
        if self.power == "poweredOn":
            raise invalid_power_state("poweredOn", "poweredOff", "Powered on")

    def start_task(self, call: Call, work: Callable[[], Any], *, seconds: float | None = None) -> Ref:
        """Runs a task that holds the machine."""
        self.check_idle()
        ref = self.platform.tasks.run(call, self, work, seconds=seconds)
        self.busy = self.platform.task(ref)
        return ref

    # Power

    def set_power(self, call: Call | None, state: str, event: str, text: str) -> None:
        """The new power state, and its event. A machine that goes on connects what starts connected; one that goes off
        connects nothing."""
        before, self.power = self.power, state
        if state == "poweredOn":
            self.booted = now()
            self.changes += 1
            self.reconfigured = now()
        elif state == "poweredOff":
            self.booted = None
        if state != before and "poweredOff" in (state, before):
            on = state == "poweredOn"
            self._devices = [devices.with_power(device, on=on) for device in self.device_list]
        self.touch()
        self.host.touch()
        self.platform.events.post(event, text, call=call, machine=self)

    def set_power_on(self, call: Call | None) -> None:
        """Powers it on."""
        self.home.need(self.memory_mb * MiB)
        self.set_power(call, "poweredOn", "VmPoweredOnEvent", f"{self.name} on {self.host.name} is powered on")

    @operation("PowerOnVM_Task", privilege="VirtualMachine.Interact.PowerOn")
    def _power_on(self, call: Call) -> Ref:
        self.check_power_on()
        return self.start_task(call, lambda: self.set_power_on(call))

    @operation("PowerOffVM_Task", privilege="VirtualMachine.Interact.PowerOff")
    def _power_off(self, call: Call) -> Ref:
        if self.power == "poweredOff":
            raise invalid_power_state("poweredOff", "poweredOn", "Powered off")
        return self.start_task(call, lambda: self._set_power_off(call))

    def _set_power_off(self, call: Call | None) -> None:
        self.set_power(call, "poweredOff", "VmPoweredOffEvent", f"{self.name} on {self.host.name} is powered off")

    @operation("SuspendVM_Task", privilege="VirtualMachine.Interact.Suspend")
    def _suspend(self, call: Call) -> Ref:
        self._need_power("poweredOn")
        text = f"{self.name} on {self.host.name} is suspended"
        return self.start_task(call, lambda: self.set_power(call, "suspended", "VmSuspendedEvent", text))

    @operation("ResetVM_Task", privilege="VirtualMachine.Interact.Reset")
    def _reset(self, call: Call) -> Ref:
        self._need_power("poweredOn")
        text = f"{self.name} on {self.host.name} is reset"
        return self.start_task(call, lambda: self.set_power(call, "poweredOn", "VmResettingEvent", text))

    def _need_power(self, state: str) -> None:
        if self.power != state:
            raise invalid_power_state(
                self.power, state, {"poweredOff": "Powered off", "suspended": "Suspended"}.get(self.power, "Powered on")
            )

    @operation("ShutdownGuest", privilege="VirtualMachine.Interact.PowerOff")
    def _shutdown_guest(self, call: Call) -> None:
        self._need_tools()
        self.platform.events.post(
            "VmGuestShutdownEvent", f"Guest OS shut down for {self.name}", call=call, machine=self
        )
        self.world.later(self.platform.config.shutdown_s, lambda: self._guest_is_down(call))

    def _guest_is_down(self, call: Call) -> None:
        if self.power == "poweredOn":
            self._set_power_off(call)

    @operation("RebootGuest", privilege="VirtualMachine.Interact.Reset")
    def _reboot_guest(self, call: Call) -> None:
        self._need_tools()
        self.world.later(self.platform.config.shutdown_s, lambda: self._guest_is_up_again(call))

    def _guest_is_up_again(self, call: Call) -> None:
        if self.power == "poweredOn":
            self.set_power(call, "poweredOn", "VmGuestRebootEvent", f"Guest OS reboot for {self.name}")

    def _need_tools(self) -> None:
        self._need_power("poweredOn")
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
        for disk in self.disks:
            disk.datastore.need(MiB)

        def work() -> Ref:
            for disk in self.disks:
                disk.datastore.need(MiB)
            memory = bool(args.memory) and self.power == "poweredOn"
            quiesced = bool(args.quiesce) and not memory and self.tools_run
            return self.platform.snapshot(self, args.name, args.description or "", quiesced=quiesced, memory=memory).ref

        return self.start_task(call, work)

    @operation("RevertToCurrentSnapshot_Task", privilege="VirtualMachine.State.RevertToSnapshot")
    def _revert_to_current(self, call: Call) -> Ref:
        current = self.current
        if current is None:
            raise MethodFault.of("NotFound", "The virtual machine has no snapshot.")
        return self.start_task(call, lambda: current.revert(suppress_power_on=bool(call.args.suppressPowerOn)))

    @operation("RemoveAllSnapshots_Task", privilege="VirtualMachine.State.RemoveSnapshot")
    def _remove_all_snapshots(self, call: Call) -> Ref:
        def work() -> None:
            for snapshot in list(self.snapshots):
                snapshot.remove(children=True)

        return self.start_task(call, work)

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
            self.platform.events.post(
                "VmReconfiguredEvent", f"Reconfigured {self.name}", call=call, machine=self, configSpec=spec
            )

        return self.start_task(call, work)

    @operation("MarkAsTemplate", privilege="VirtualMachine.Provisioning.MarkAsTemplate")
    def _mark_as_template(self, _call: Call) -> None:
        self.check_idle()
        self._need_power("poweredOff")
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
        return self.platform.clone(call, self)

    @operation("Destroy_Task", privilege="VirtualMachine.Inventory.Delete")
    def _destroy(self, call: Call) -> Ref:
        if self.power != "poweredOff":
            raise invalid_power_state(self.power, "poweredOff", "Powered on")

        def work() -> None:
            self.platform.forget_machine(self)

        return self.start_task(call, work)

    # Export

    @operation("ExportVm", privilege="VApp.Export")
    def _export(self, call: Call) -> Ref:
        if self.power != "poweredOff":
            raise invalid_power_state(self.power, "poweredOff", "Powered on")
        return self.platform.open_lease(call, self, None)

    @operation("QueryChangedDiskAreas", privilege="VirtualMachine.Provisioning.DiskRandomRead")
    def _changed_areas(self, call: Call) -> Data:
        return machine_view.changed_areas(self, call.args)


def _folder_name(datastores: set[Datastore], name: str) -> str:
    """A folder for the machine that no other machine has, on any of its datastores."""
    plain = _UNSAFE.sub("_", name)[:70]
    folder, number = plain, 0
    while any(folder in datastore.machines for datastore in datastores):
        number += 1
        folder = f"{plain}_{number}"
    return folder
