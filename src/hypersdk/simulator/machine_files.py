"""The files of a machine on its datastores."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from hypersdk.simulator import devices
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.disks import DiskState
from hypersdk.simulator.machine_state import MachineState
from hypersdk.simulator.storage import Datastore, StoredFile
from hypersdk.simulator.stream import content_id, descriptor
from hypersdk.simulator.values import Data
from hypersdk.simulator.vmx import vmx_text
from hypersdk.units import SECTOR, KiB, MiB

NVRAM_BYTES: Final = 8684
"""Length of a BIOS machine's nvram file."""


def machine_files(machine: MachineState, datastore: Datastore) -> list[StoredFile]:
    """All files of the machine on that datastore."""
    files: list[StoredFile] = []
    if datastore is machine.home:
        files += _home_files(machine)
    for disk in machine.disks:
        if disk.datastore is datastore:
            files += disk_files(machine, disk)
    return files


def _home_files(machine: MachineState) -> list[StoredFile]:
    stem = f"{machine.folder_name}/{machine.folder_name}"
    snapshots = f'.encoding = "UTF-8"\nsnapshot.numSnapshots = "{len(machine.snapshots)}"\n'
    files = [
        _file(machine, f"{stem}.{'vmtx' if machine.template else 'vmx'}", vmx_text(machine).encode()),
        _file(machine, f"{stem}.nvram", nvram(machine)),
        _file(machine, f"{stem}.vmsd", snapshots.encode()),
        _file(machine, f"{machine.folder_name}/vmware.log", f"Log for {machine.name}\n".encode()),
    ]
    if machine.power == "poweredOn":
        swap = machine.memory_mb * MiB
        files.append(_file(machine, f"{stem}.vswp", None, swap, swap))
    return files


def nvram(machine: MachineState) -> bytes:
    """The nvram file: meaningless bytes, fixed for the machine."""
    return machine.uuid.encode().ljust(NVRAM_BYTES, b"\xff")


def _file(
    machine: MachineState,
    path: str,
    content: bytes | DiskImage | None,
    size: int = 0,
    used: int = 0,
    written: datetime | None = None,
    **more: Any,
) -> StoredFile:
    """A file of the machine. ``size`` and ``used`` may be left out for bytes."""
    if isinstance(content, bytes):
        size = used = len(content)
    modified = max(machine.reconfigured, written) if written else machine.reconfigured
    return StoredFile(path, size, used, modified, content, machine=machine.name, host=machine.host.name, **more)


def disk_files(machine: MachineState, disk: DiskState) -> list[StoredFile]:
    """Descriptor and data of each layer. A file that a running machine writes is locked."""
    files: list[StoredFile] = []
    only = len(disk.layers) == 1
    for place, layer in enumerate(disk.layers):
        stem = f"{disk.folder}/{layer.name}"
        used = disk.layer_bytes(place, machine.delta_growth() if place == len(disk.layers) - 1 else 0)
        text = disk_descriptor(disk, place).encode()
        files.append(_file(machine, f"{stem}.vmdk", text, disk=_disk_info(disk), disk_uuid=disk.uuid))
        if place > 0:
            files.append(_file(machine, f"{stem}-sesparse.vmdk", None, used, used))
        elif not disk.spec.backing.startswith("rdm"):
            files.append(
                _file(
                    machine,
                    f"{stem}-flat.vmdk",
                    disk.base_content(),
                    disk.spec.capacity_bytes,
                    used,
                    written=disk.written if only else None,
                    locked=machine.power != "poweredOff" and only,
                    disk_index=disk.index,
                )
            )
    return files


def _disk_info(disk: DiskState) -> Data:
    return Data(
        "VmDiskFileInfo",
        diskType="VirtualDiskFlatVer2BackingInfo",
        capacityKb=disk.spec.capacity_bytes // KiB,
        hardwareVersion=19,
        controllerType=devices.CONTROLLERS[disk.spec.controller][0],
        thin=disk.spec.thin,
    )


def disk_descriptor(disk: DiskState, place: int) -> str:
    """Text of a layer's ``.vmdk``."""
    layer = disk.layers[place]
    sectors = disk.spec.capacity_bytes // SECTOR
    if place > 0:
        extent, kind = f'RW {sectors} SESPARSE "{layer.name}-sesparse.vmdk"', "seSparse"
    else:
        extent, kind = f'RW {sectors} VMFS "{layer.name}-flat.vmdk"', "vmfs"
    return descriptor(disk.spec.capacity_bytes, extent, kind=kind, content_id=content_id(disk.image))
