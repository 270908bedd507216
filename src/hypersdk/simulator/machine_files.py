"""The files of a machine, as they lie on its datastores."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from hypersdk.simulator.disks import DiskState, unit_number
from hypersdk.simulator.storage import Datastore, StoredFile
from hypersdk.simulator.stream import content_id, descriptor
from hypersdk.units import SECTOR, MiB

if TYPE_CHECKING:
    from hypersdk.simulator.machine import Machine

NVRAM_BYTES: Final = 8684
"""What a BIOS machine's nvram file is long."""


def machine_files(machine: Machine, datastore: Datastore) -> list[StoredFile]:
    """All files of the machine on that datastore."""
    files: list[StoredFile] = []
    if datastore is machine.home:
        files += _home_files(machine)
    for disk in machine.disks:
        if disk.datastore is datastore:
            files += disk_files(machine, disk)
    return files


def _home_files(machine: Machine) -> list[StoredFile]:
    stem = f"{machine.folder_name}/{machine.folder_name}"
    suffix = "vmtx" if machine.template else "vmx"
    files = [
        _small(machine, f"{stem}.{suffix}", "template" if machine.template else "vmx", vmx_text(machine).encode()),
        _small(machine, f"{stem}.nvram", "nvram", nvram(machine)),
        _small(machine, f"{stem}.vmsd", "snapshot", vmsd_text(machine).encode()),
        _small(machine, f"{machine.folder_name}/vmware.log", "log", f"Log for {machine.name}\n".encode()),
    ]
    if machine.power == "poweredOn":
        swap = machine.memory_mb * MiB
        files.append(_file(machine, f"{stem}.vswp", "file", swap, swap, None))
    return files


def nvram(machine: Machine) -> bytes:
    """The nvram file: bytes of no meaning, fixed for the machine."""
    return machine.uuid.encode().ljust(NVRAM_BYTES, b"\xff")


def _small(machine: Machine, path: str, kind: str, data: bytes) -> StoredFile:
    return _file(machine, path, kind, len(data), len(data), data)


def _file(
    machine: Machine, path: str, kind: str, size: int, used: int, content: Any, written: datetime | None = None, **more: Any
) -> StoredFile:  # fmt: skip
    modified = max(machine.reconfigured, written) if written else machine.reconfigured
    return StoredFile(path, size, used, modified, kind, content, machine=machine.name, host=machine.host.name, **more)


def disk_files(machine: Machine, disk: DiskState) -> list[StoredFile]:
    """Descriptor and data of each layer. A file that a running machine writes is locked."""
    files: list[StoredFile] = []
    running = machine.power != "poweredOff"
    for place, layer in enumerate(disk.layers):
        stem = f"{disk.folder}/{layer.name}"
        used = disk.layer_bytes(place, machine.delta_growth() if place == len(disk.layers) - 1 else 0)
        files.append(_small(machine, f"{stem}.vmdk", "vmdk", disk_descriptor(disk, place).encode()))
        if layer.delta:
            files.append(_file(machine, f"{stem}-sesparse.vmdk", "extent", used, used, None))
        elif not disk.spec.backing.startswith("rdm"):
            size = disk.spec.capacity_bytes
            locked = running and len(disk.layers) == 1
            files.append(
                _file(
                    machine,
                    f"{stem}-flat.vmdk",
                    "extent",
                    size,
                    used,
                    disk.base_content(),
                    written=disk.written if len(disk.layers) == 1 else None,
                    locked=locked,
                    disk_index=disk.index,
                )
            )
    return files


def disk_descriptor(disk: DiskState, place: int) -> str:
    """Text of a layer's ``.vmdk``."""
    layer = disk.layers[place]
    sectors = disk.spec.capacity_bytes // SECTOR
    if layer.delta:
        extent, kind = f'RW {sectors} SESPARSE "{layer.name}-sesparse.vmdk"', "seSparse"
    else:
        extent, kind = f'RW {sectors} VMFS "{layer.name}-flat.vmdk"', "vmfs"
    return descriptor(disk.spec.capacity_bytes, extent, kind=kind, content_id=content_id(disk.image))


_VMX_CONTROLLER: Final = {
    "pvscsi": ("scsi", "pvscsi"),
    "lsilogic": ("scsi", "lsilogic"),
    "lsilogic-sas": ("scsi", "lsisas1068"),
}
_VMX_GUEST: Final = {"debian12_64Guest": "debian12-64", "ubuntu64Guest": "ubuntu-64", "rhel9_64Guest": "rhel9-64"}


def vmx_text(machine: Machine) -> str:
    """The configuration file: what libvirt makes its domain from."""
    pairs: list[tuple[str, str]] = [
        (".encoding", "UTF-8"), ("config.version", "8"), ("virtualHW.version", "19"), ("displayName", machine.spec.name),
        ("guestOS", _VMX_GUEST.get(machine.spec.guest_id, "other-64")), ("memSize", str(machine.memory_mb)),
        ("numvcpus", str(machine.cpus)), ("uuid.bios", _vmx_uuid(machine.uuid)), ("vc.uuid", _vmx_uuid(machine.instance_uuid)),
        ("nvram", f"{machine.folder_name}.nvram"), ("firmware", machine.spec.firmware), ("annotation", machine.annotation),
    ]  # fmt: skip
    for kind in dict.fromkeys(disk.spec.controller for disk in machine.disks):
        bus, model = _VMX_CONTROLLER.get(kind, ({"ahci": "sata", "nvme": "nvme"}.get(kind, "ide"), ""))
        pairs.append((f"{bus}0.present", "TRUE"))
        if model:
            pairs.append((f"{bus}0.virtualDev", model))
    for disk in machine.disks:
        pairs += _vmx_disk(machine, disk)
    for index, network in enumerate(machine.networks):
        pairs += [
            (f"ethernet{index}.present", "TRUE"), (f"ethernet{index}.virtualDev", "vmxnet3"),
            (f"ethernet{index}.networkName", network.name), (f"ethernet{index}.addressType", "vpx"),
            (f"ethernet{index}.generatedAddress", machine.platform.mac(f"{machine.ref.moref}/{index}")),
        ]  # fmt: skip
    return "".join(f'{key} = "{_vmx_quote(value)}"\n' for key, value in pairs)


def _vmx_disk(machine: Machine, disk: DiskState) -> list[tuple[str, str]]:
    bus = {"ahci": "sata", "nvme": "nvme", "ide": "ide"}.get(disk.spec.controller, "scsi")
    name = f"{bus}0:{unit_number(disk)}"
    file = f"{disk.layers[-1].name}.vmdk"
    if disk.datastore is not machine.home:
        file = f"{disk.datastore.url.removeprefix('ds://')}{disk.folder}/{file}"
    return [(f"{name}.present", "TRUE"), (f"{name}.deviceType", "scsi-hardDisk"), (f"{name}.fileName", file)]


def _vmx_uuid(uuid: str) -> str:
    digits = uuid.replace("-", "")
    pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
    return " ".join(pairs[:8]) + "-" + " ".join(pairs[8:])


def _vmx_quote(text: str) -> str:
    """Quotes and line ends as ``|22`` and ``|0A``; a bar itself as ``|7C``."""
    return "".join(f"|{ord(c):02X}" if c in '"|\n\r' else c for c in text)


def vmsd_text(machine: Machine) -> str:
    """The snapshot list file."""
    count = len(machine.snapshots)
    return f'.encoding = "UTF-8"\nsnapshot.numSnapshots = "{count}"\n'
