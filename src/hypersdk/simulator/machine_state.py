"""What a virtual machine and its snapshots are: hardware, power, disks, and the tree of snapshots.

Views, files, reconfiguration, snapshots and exports read and change this state; ``machine`` adds the calls of the API.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from hypersdk.simulator import devices
from hypersdk.simulator.config import MachineSpec
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.disks import DiskState, Layer, content_of, disk_device, merge_spare_layers
from hypersdk.simulator.entities import Entity, Folder, escape_name
from hypersdk.simulator.hosts import Host, Network
from hypersdk.simulator.managed import Call, Managed
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.storage import Datastore, datastore_named, datastore_of_path
from hypersdk.simulator.tasks import Task
from hypersdk.simulator.values import Data, MethodFault, Ref, invalid_power_state
from hypersdk.simulator.world import now
from hypersdk.units import MiB

_POWER_EVENTS: Final = {
    "poweredOn": ("VmPoweredOnEvent", "powered on"),
    "poweredOff": ("VmPoweredOffEvent", "powered off"),
    "suspended": ("VmSuspendedEvent", "suspended"),
}
_UNSAFE: Final = re.compile(r'[/\\:*?"<>|%]')


class MachineState(Entity, api_type="VirtualMachine"):
    """A VirtualMachine without its calls."""

    cached = True

    def __init__(
        self,
        platform: Platform,
        moref: str,
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
        stores = {datastore, *(datastore_named(disk.datastore, datastore) for disk in spec.disks)}
        self.folder_name = _folder_name(stores, spec.name)
        self.uuid = platform.uuid("bios", moref)
        self.instance_uuid = platform.uuid("instance", moref)
        self.booted = platform.started if spec.power == "poweredOn" else None
        self.reconfigured = platform.started
        self.changes = 0
        self.snapshots: list[SnapshotState] = []  # roots
        self.current: SnapshotState | None = None
        self.deltas = 0
        self.busy: Task | None = None
        """The last task that had the machine for itself, an export included."""
        self.consolidation_needed = False
        self._devices: list[Data] | None = None
        super().__init__(platform, moref, escape_name(spec.name), folder)
        self.disks = self._make_disks()

    def _make_disks(self) -> list[DiskState]:
        made = []
        units: dict[str, int] = {}
        for index, spec in enumerate(self.spec.disks):
            bus = devices.CONTROLLERS[spec.controller][2]
            unit = units.get(bus, 0)
            units[bus] = unit + 1
            image = DiskImage(content_of(spec, f"{self.platform.config.seed}/{self.ref.moref}/{index}"))
            name = self.folder_name + (f"_{index}" if index else "")
            disk = DiskState(
                key=devices.FIRST_DISK[bus] + unit,
                index=index,
                spec=spec,
                datastore=datastore_named(spec.datastore, self.home),
                folder=self.folder_name,
                uuid=self.platform.uuid("disk", f"{self.ref.moref}/{index}"),
                change_uuid=self.platform.uuid("cbt", f"{self.ref.moref}/{index}"),
                image=image,
                layers=(Layer(name, image, time.monotonic()),),
            )
            made.append(disk)
        return made

    @property
    def encrypted(self) -> bool:
        """Whether its own files are, as with a virtual TPM."""
        return self.spec.encrypted or self.spec.tpm

    # Devices

    @property
    def device_list(self) -> list[Data]:
        """``config.hardware.device``. Computed from the disks and the specification until it is first changed."""
        return self._specified_devices() if self._devices is None else self._devices

    @device_list.setter
    def device_list(self, changed: list[Data]) -> None:
        self._devices = changed

    def _specified_devices(self) -> list[Data]:
        made = [*devices.base_devices(), *self._controllers(), *self._disk_devices()]
        if self.spec.cdrom:
            made.append(self._cdrom())
        connected = self.power == "poweredOn"
        made += [
            devices.nic(index, self.mac(index), network, connected=connected)
            for index, network in enumerate(self.networks)
        ]
        if self.spec.tpm:
            made.append(
                devices.described("VirtualTPM", 11000, "Virtual TPM", "Trusted Platform Module", controllerKey=100)
            )
        return made

    def _controllers(self) -> list[Data]:
        by_kind: dict[str, list[int]] = {}
        for disk in self.disks:
            by_kind.setdefault(disk.spec.controller, []).append(disk.key)
        return [devices.controller(kind, 0, keys) for kind, keys in by_kind.items() if kind != "ide"]

    def _disk_devices(self) -> list[Data]:
        return [disk_device(disk, change_tracking=self.cbt) for disk in self.disks]

    def _cdrom(self) -> Data:
        iso = self.spec.iso
        datastore = datastore_of_path(iso, self) if iso else None
        connected = self.spec.iso_connected and self.power == "poweredOn"
        unit = sum(1 for disk in self.disks if disk.spec.controller == "ide")
        return devices.cdrom(
            devices.FIRST_DISK["ide"] + unit,
            devices.IDE,
            unit,
            "CD/DVD drive 1",
            iso,
            datastore.ref if datastore else None,
            connected=connected,
        )

    def mac(self, card: int) -> str:
        """The MAC address of a network card."""
        return self.platform.mac(f"{self.ref.moref}/{card}")

    def refresh_disk_devices(self) -> None:
        """Call it after each change of the disks' files: a changed device list follows them."""
        if self._devices is not None:
            disks = {device.key: device for device in self._disk_devices()}
            self._devices = [disks.get(device.key, device) for device in self._devices]
        self.touch()

    # Space

    def volatile(self) -> bool:
        return self.power == "poweredOn" and self.current is not None and self.platform.config.delta_bytes_s > 0

    def used_on(self, datastore: Datastore) -> int:
        """Space taken on that datastore."""
        growth = self.delta_growth()
        disks = [disk for disk in self.disks if disk.datastore is datastore]
        used = sum(disk.layer_bytes(position, growth) for disk in disks for position in range(len(disk.layers)))
        swap = self.memory_mb * MiB if self.power == "poweredOn" and datastore is self.home else 0
        return used + swap

    def delta_growth(self) -> float:
        """How fast the newest delta of each disk grows, in bytes per second."""
        return self.platform.config.delta_bytes_s if self.power == "poweredOn" else 0

    def datastores(self) -> list[Datastore]:
        """The datastores that hold its files."""
        return list(dict.fromkeys([self.home, *(disk.datastore for disk in self.disks)]))

    # Changes

    def changed_config(self) -> None:
        """Call it after each change of the configuration."""
        self.changes += 1
        self.reconfigured = now()
        self.touch()

    def check_idle(self) -> None:
        """Raises MethodFault (TaskInProgress) while a task or an export has the machine."""
        if self.busy is not None and self.busy.running:
            raise MethodFault.of(
                "TaskInProgress",
                "The operation is not allowed in the current state: another task is already in progress.",
                task=self.busy.ref,
            )

    def require_power(self, state: str) -> None:
        """Raises MethodFault (InvalidPowerState) unless the machine is in that power state."""
        if self.power != state:
            raise invalid_power_state(self.power, state)

    def start_task(self, call: Call, work: Callable[[], Any]) -> Ref:
        """Starts a task that has the machine for itself."""
        self.check_idle()
        self.busy = self.platform.tasks.run(call, self, work)
        return self.busy.ref

    def set_power(self, call: Call | None, state: str) -> None:
        """Sets the power state and posts its event. A machine that goes on connects what starts connected; one that
        goes off connects nothing."""
        event, shown = _POWER_EVENTS[state]
        before, self.power = self.power, state
        if state == "poweredOff":
            self.booted = None
        if state != before and "poweredOff" in (state, before):
            on = state == "poweredOn"
            self.device_list = [devices.with_power(device, on=on) for device in self.device_list]
        text = f"{self.name} on {self.host.name} is {shown}"
        if state == "poweredOn":
            self.restart(call, event, text)
        else:
            self._power_changed(call, event, text)

    def restart(self, call: Call | None, event: str, text: str) -> None:
        """The guest boots; posts the event."""
        self.booted = self.reconfigured = now()
        self.changes += 1
        self._power_changed(call, event, text)

    def _power_changed(self, call: Call | None, event: str, text: str) -> None:
        self.touch()
        self.host.touch()
        self.post_event(event, text, call)

    def post_event(self, type_: str, text: str, call: Call | None = None, **more: Any) -> None:
        """An event about the machine."""
        datacenter, resource, host = self.datacenter(), self.host.resource, self.host
        self.platform.events.post(
            type_,
            text,
            call=call,
            datacenter=Data("DatacenterEventArgument", name=datacenter.name, datacenter=datacenter.ref),
            computeResource=Data("ComputeResourceEventArgument", name=resource.name, computeResource=resource.ref),
            host=Data("HostEventArgument", name=host.name, host=host.ref),
            vm=Data("VmEventArgument", name=self.name, vm=self.ref),
            template=self.template,
            **more,
        )

    @property
    def tools_run(self) -> bool:
        """Whether VMware Tools answer."""
        return self.spec.tools and self.power == "poweredOn"

    def all_snapshots(self) -> list[SnapshotState]:
        """All snapshots, parents before children."""
        return [snapshot for root in self.snapshots for snapshot in root.tree()]

    def remove_snapshots(self) -> None:
        """Removes all snapshots."""
        for snapshot in list(self.snapshots):
            snapshot.remove(children=True)


def _folder_name(stores: set[Datastore], name: str) -> str:
    """A folder for the machine that no other machine has, on any of its datastores."""
    plain = _UNSAFE.sub("_", name)[:70]
    folder, number = plain, 0
    while any(folder in store.machines for store in stores):
        number += 1
        folder = f"{plain}_{number}"
    return folder


class SnapshotState(Managed, api_type="VirtualMachineSnapshot"):
    """A VirtualMachineSnapshot without its calls: the machine's disks and configuration as they were. ``power`` is what
    a revert brings back: ``poweredOff`` without memory."""

    def __init__(
        self, machine: MachineState, name: str, description: str, *, quiesced: bool, power: str, config: Data
    ) -> None:
        moref = machine.world.number("snapshot-")
        self.machine = machine
        self.name, self.description, self.quiesced, self.power = name, description, quiesced, power
        self.serial = int(moref.rpartition("-")[2])
        self.created = now()
        self.parent = machine.current
        self.children: list[SnapshotState] = []
        self.disks = [replace(disk) for disk in machine.disks if not disk.spec.independent]
        super().__init__(machine.world, moref, config=config)
        self._siblings().append(self)
        machine.current = self
        self._next_deltas()

    def tree(self) -> list[SnapshotState]:
        """The snapshot and all below it, parents before children."""
        return [self, *(snapshot for child in self.children for snapshot in child.tree())]

    def _siblings(self) -> list[SnapshotState]:
        return self.parent.children if self.parent else self.machine.snapshots

    def _next_deltas(self) -> None:
        machine = self.machine
        machine.deltas += 1
        for disk in machine.disks:
            if not disk.spec.independent:
                disk.add_delta(machine.deltas)
        machine.refresh_disk_devices()
        machine.changed_config()

    def revert(self, *, suppress_power_on: bool = False) -> None:
        """Returns the machine to this point; later changes are lost."""
        machine = self.machine
        kept = {disk.key: disk for disk in self.disks}
        for disk in machine.disks:
            if disk.key in kept:
                disk.image, disk.layers = kept[disk.key].image, kept[disk.key].layers
        machine.current = self
        power = "poweredOff" if suppress_power_on else self.power
        if machine.power != power:
            machine.set_power(None, power)
        self._next_deltas()

    def remove(self, *, children: bool) -> None:
        """Removes the snapshot and merges its delta into the layer below; ``children`` go with it."""
        if children:
            for child in list(self.children):
                child.remove(children=True)
        machine, siblings = self.machine, self._siblings()
        position = siblings.index(self)
        siblings[position : position + 1] = self.children
        for child in self.children:
            child.parent = self.parent
        frozen = [disk for snapshot in machine.all_snapshots() for disk in snapshot.disks]
        for current in machine.disks:
            merge_spare_layers(current, [disk for disk in frozen if disk.key == current.key])
        if machine.current is self:
            machine.current = self.parent
        self.world.remove(self)
        machine.refresh_disk_devices()
        machine.changed_config()
