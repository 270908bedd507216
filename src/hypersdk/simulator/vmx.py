"""A machine's configuration file (``.vmx``). libvirt, and so virt-v2v, takes disks, drives and network cards from
this file alone.

Keys as ESXi writes them. A BIOS machine has no ``firmware`` line: ``efi`` is its only value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hypersdk.simulator import devices
from hypersdk.simulator.disks import DiskState, unit_number
from hypersdk.simulator.machine_state import MachineState
from hypersdk.simulator.machine_view import guest_names
from hypersdk.simulator.storage import datastore_of_path, datastores, spaced_uuid, split_path
from hypersdk.simulator.values import Data

Pairs = Iterator[tuple[str, str]]

_SCSI_MODELS: Final = {
    "ParaVirtualSCSIController": "pvscsi",
    "VirtualLsiLogicController": "lsilogic",
    "VirtualLsiLogicSASController": "lsisas1068",
}
_DISK_TYPES: Final = {"scsi": "scsi-hardDisk", "ide": "ata-hardDisk"}
"""``deviceType`` of a disk, by bus; SATA and NVMe write none."""


def vmx_text(machine: MachineState) -> str:
    """The file's text. A name stands in it as in the inventory, ``/`` and ``%`` escaped."""
    pairs = [*_machine(machine), *_controllers(machine)]
    for disk in machine.disks:
        pairs += _disk(machine, disk)
    for device in machine.device_list:
        if device.type == "VirtualCdrom":
            pairs += _cdrom(machine, device)
        elif device.macAddress is not None:
            pairs += _nic(device)
    return "".join(f'{key} = "{_quote(value)}"\n' for key, value in pairs)


def _machine(machine: MachineState) -> Pairs:
    yield from (
        (".encoding", "UTF-8"),
        ("config.version", "8"),
        ("virtualHW.version", "19"),
        ("displayName", machine.name),
        ("guestOS", guest_names(machine)[2]),
        ("memSize", str(machine.memory_mb)),
        ("numvcpus", str(machine.cpus)),
        ("cpuid.coresPerSocket", "1"),
        ("uuid.bios", spaced_uuid(machine.uuid)),
        ("vc.uuid", spaced_uuid(machine.instance_uuid)),
        ("nvram", f"{machine.folder_name}.nvram"),
        ("floppy0.present", "FALSE"),
    )
    if machine.spec.firmware == "efi":
        yield "firmware", "efi"
        if machine.spec.secure_boot:
            yield "uefi.secureBoot.enabled", "TRUE"
    if machine.annotation:
        yield "annotation", machine.annotation


def _keys(name: str, **values: str) -> Pairs:
    """The keys of one device."""
    for key, value in values.items():
        yield f"{name}.{key}", value


def _controllers(machine: MachineState) -> Pairs:
    for device in machine.device_list:
        bus = devices.bus_of(device)
        if device.device and bus not in (None, "ide"):
            yield from _keys(f"{bus}{device.busNumber}", present="TRUE")
            if device.type in _SCSI_MODELS:
                yield from _keys(f"{bus}{device.busNumber}", virtualDev=_SCSI_MODELS[device.type])


def _disk(machine: MachineState, disk: DiskState) -> Pairs:
    bus = devices.CONTROLLERS[disk.spec.controller][2]
    name = f"{bus}0:{unit_number(disk)}"
    yield from _keys(name, present="TRUE", fileName=_file(machine, disk.path(disk.layers[-1])))
    if bus in _DISK_TYPES:
        yield from _keys(name, deviceType=_DISK_TYPES[bus])


def _cdrom(machine: MachineState, device: Data) -> Pairs:
    controller = next(have for have in machine.device_list if have.key == device.controllerKey)
    name = f"{devices.bus_of(controller)}{controller.busNumber}:{device.unitNumber}"
    backing, connection = device.backing, device.connectable
    yield from _keys(name, present="TRUE", startConnected=str(bool(connection and connection.startConnected)).upper())
    if backing.fileName:
        yield from _keys(name, deviceType="cdrom-image", fileName=_file(machine, backing.fileName))
    elif backing.type == "VirtualCdromAtapiBackingInfo":
        yield from _keys(name, deviceType="atapi-cdrom", fileName=backing.deviceName or "auto detect")
    else:
        yield from _keys(name, deviceType="cdrom-raw", clientDevice="TRUE", fileName="emptyBackingString")


def _file(machine: MachineState, path: str) -> str:
    """``[datastore] folder/file`` as the file names it: bare beside it, else with the path where hosts mount the
    datastore."""
    name, rest = split_path(path, [store.name for store in datastores(machine.world, machine.datacenter())])
    if name == machine.home.name and rest.rpartition("/")[0] == machine.folder_name:
        return rest.rpartition("/")[2]
    store = datastore_of_path(path, machine)
    return f"{store.mount_path if store else '/vmfs/volumes/' + name}/{rest}"


def _nic(device: Data) -> Pairs:
    name = f"ethernet{device.key - devices.FIRST_NIC}"
    yield from _keys(
        name,
        present="TRUE",
        virtualDev="vmxnet3",
        startConnected=str(bool(device.connectable.startConnected)).upper(),
        addressType="vpx",
        generatedAddress=device.macAddress,
    )
    port = device.backing.port
    if port is not None:
        yield from _keys(
            f"{name}.dvs",
            switchId=spaced_uuid(port.switchUuid),
            portgroupId=port.portgroupKey,
            portId=port.portKey,
            connectionId=str(port.connectionCookie or 0),
        )
    else:
        yield from _keys(name, networkName=device.backing.deviceName)


def _quote(text: str) -> str:
    """Quotes and line ends as ``|22`` and ``|0A``; a bar itself as ``|7C``."""
    return "".join(f"|{ord(c):02X}" if c in '"|\n\r' else c for c in text)
