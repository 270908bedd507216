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
_GUESTS: Final = {
    "debian12_64Guest": "debian12-64",
    "ubuntu64Guest": "ubuntu-64",
    "rhel9_64Guest": "rhel9-64",
    "sles15_64Guest": "sles15-64",
    "windows2019srv_64Guest": "windows2019srv-64",
    "windows2022srvNext_64Guest": "windows2019srvNext-64",
    "windows11_64Guest": "windows11-64",
    "freebsd13_64Guest": "freebsd13-64",
}


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
        ("guestOS", _GUESTS.get(machine.spec.guest_id, "other-64")),
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


def _controllers(machine: MachineState) -> Pairs:
    for device in machine.device_list:
        bus = devices.bus_of(device)
        if (
            device.device
            and device.busNumber is not None
            and (bus != "scsi" or device.type in _SCSI_MODELS)
            and bus != "ide"
        ):
            yield f"{bus}{device.busNumber}.present", "TRUE"
            if device.type in _SCSI_MODELS:
                yield f"{bus}{device.busNumber}.virtualDev", _SCSI_MODELS[device.type]


def _disk(machine: MachineState, disk: DiskState) -> Pairs:
    bus = devices.CONTROLLERS[disk.spec.controller][2]
    name = f"{bus}0:{unit_number(disk)}"
    yield f"{name}.present", "TRUE"
    if bus in _DISK_TYPES:
        yield f"{name}.deviceType", _DISK_TYPES[bus]
    yield f"{name}.fileName", _file(machine, disk.path(disk.layers[-1]))


def _cdrom(machine: MachineState, device: Data) -> Pairs:
    controller = next(have for have in machine.device_list if have.key == device.controllerKey)
    name = f"{devices.bus_of(controller)}{controller.busNumber}:{device.unitNumber}"
    backing, connection = device.backing, device.connectable
    yield f"{name}.present", "TRUE"
    yield f"{name}.startConnected", str(bool(connection and connection.startConnected)).upper()
    if backing.fileName:
        yield f"{name}.deviceType", "cdrom-image"
        yield f"{name}.fileName", _file(machine, backing.fileName)
    elif backing.type == "VirtualCdromAtapiBackingInfo":
        yield f"{name}.deviceType", "atapi-cdrom"
        yield f"{name}.fileName", backing.deviceName or "auto detect"
    else:
        yield f"{name}.deviceType", "cdrom-raw"
        yield f"{name}.clientDevice", "TRUE"
        yield f"{name}.fileName", "emptyBackingString"


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
    yield f"{name}.present", "TRUE"
    yield f"{name}.virtualDev", "vmxnet3"
    yield f"{name}.startConnected", str(bool(device.connectable.startConnected)).upper()
    if device.backing.port is not None:
        port = device.backing.port
        yield f"{name}.dvs.switchId", spaced_uuid(port.switchUuid)
        yield f"{name}.dvs.portgroupId", port.portgroupKey
        yield f"{name}.dvs.portId", port.portKey
        yield f"{name}.dvs.connectionId", str(port.connectionCookie or 0)
    else:
        yield f"{name}.networkName", device.backing.deviceName
    yield f"{name}.addressType", "vpx"
    yield f"{name}.generatedAddress", device.macAddress


def _quote(text: str) -> str:
    """Quotes and line ends as ``|22`` and ``|0A``; a bar itself as ``|7C``."""
    return "".join(f"|{ord(c):02X}" if c in '"|\n\r' else c for c in text)
