"""A machine's virtual hardware, from its device list as XML.

Types and members: *VirtualDevice* and the types derived from it in the vSphere Web Services API reference. Unknown
types are classified by their members and are not an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypersdk.model import Backing, Cdrom, Disk, Nic
from hypersdk.vsphere.inventory import capacity_bytes, unit_order
from hypersdk.vsphere.soap import Element, child, child_text, children, kind_of, to_int

_CONTROLLERS: Final = {
    "ParaVirtualSCSIController": ("scsi", "pvscsi"),
    "VirtualLsiLogicController": ("scsi", "lsilogic"),
    "VirtualLsiLogicSASController": ("scsi", "lsilogicsas"),
    "VirtualBusLogicController": ("scsi", "buslogic"),
    "VirtualAHCIController": ("sata", "ahci"),
    "VirtualIDEController": ("ide", "ide"),
    "VirtualNVMEController": ("nvme", "nvme"),
}
_ADAPTERS: Final = {
    "VirtualVmxnet3": "vmxnet3",
    "VirtualVmxnet3Vrdma": "vmxnet3vrdma",
    "VirtualVmxnet2": "vmxnet2",
    "VirtualVmxnet": "vmxnet",
    "VirtualE1000": "e1000",
    "VirtualE1000e": "e1000e",
    "VirtualPCNet32": "pcnet32",
    "VirtualSriovEthernetCard": "sriov",
}
_BACKINGS: Final = {
    "VirtualDiskFlatVer1BackingInfo": Backing.FLAT,
    "VirtualDiskFlatVer2BackingInfo": Backing.FLAT,
    "VirtualDiskSeSparseBackingInfo": Backing.SESPARSE,
    "VirtualDiskSparseVer1BackingInfo": Backing.SPARSE,
    "VirtualDiskSparseVer2BackingInfo": Backing.SPARSE,
}
_BOOT_KINDS: Final = {
    "VirtualMachineBootOptionsBootableCdromDevice": "cdrom",
    "VirtualMachineBootOptionsBootableFloppyDevice": "floppy",
}
_MAX_CHAIN: Final = 256
_UNKNOWN_CONTROLLER: Final = ("scsi", "unknown")


@dataclass(frozen=True, slots=True)
class _Controller:
    bus: str
    name: str
    bus_number: int
    shared: bool


@dataclass(frozen=True, slots=True)
class VirtualDevices:
    """The devices that matter for a migration. Disks in unit order; ``boot_order`` as ``disk:2000``, ``nic:4000``,
    ``cdrom``, ``floppy``."""

    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    cdroms: tuple[Cdrom, ...]
    has_vtpm: bool


def read_hardware(
    devices: Sequence[Element], *, networks: Mapping[str, str], datastores: Mapping[str, str], used: Mapping[int, int]
) -> VirtualDevices:
    """Decodes ``config.hardware.device``. ``networks`` and ``datastores`` map morefs (and portgroup keys) to names;
    ``used`` disk keys to bytes."""
    controllers = {
        key: controller
        for device in devices
        if (controller := _controller(device)) and (key := _key(device)) is not None
    }
    disks = sorted((device for device in devices if kind_of(device) == "VirtualDisk"), key=unit_order)
    return VirtualDevices(
        disks=tuple(_disk(device, controllers, datastores, used) for device in disks),
        nics=tuple(_nic(device, networks) for device in devices if is_nic(device)),
        cdroms=tuple(_cdrom(device) for device in devices if kind_of(device) == "VirtualCdrom"),
        has_vtpm=any(kind_of(device) == "VirtualTPM" for device in devices),
    )


def boot_order(options: Element | None) -> tuple[str, ...]:
    """``config.bootOptions.bootOrder`` as in ``VirtualDevices``."""
    return tuple(word for entry in children(options, "bootOrder") if (word := _boot_device(entry)) is not None)


def _boot_device(entry: Element) -> str | None:
    kind, key = kind_of(entry), child_text(entry, "deviceKey")
    if kind.endswith("BootableDiskDevice"):
        return f"disk:{key}"
    if kind.endswith("BootableEthernetDevice"):
        return f"nic:{key}"
    return _BOOT_KINDS.get(kind)


def _key(device: Element) -> int | None:
    return to_int(child_text(device, "key"))


def is_nic(device: Element) -> bool:
    """Whether the device is a network card."""
    return kind_of(device) in _ADAPTERS or child(device, "macAddress") is not None


def label_of(device: Element) -> str:
    """The label that vCenter shows for a device."""
    return child_text(device, "deviceInfo", "label") or f"device {child_text(device, 'key')}"


def _controller(device: Element) -> _Controller | None:
    kind = kind_of(device)
    if kind not in _CONTROLLERS and "Controller" not in kind:
        return None
    bus, name = _CONTROLLERS.get(kind, _UNKNOWN_CONTROLLER)
    sharing = child_text(device, "sharedBus")
    return _Controller(bus, name, to_int(child_text(device, "busNumber")) or 0, sharing not in (None, "noSharing"))


def _disk(
    device: Element, controllers: Mapping[int, _Controller], datastores: Mapping[str, str], used: Mapping[int, int]
) -> Disk:
    key = _key(device) or 0
    controller_key = to_int(child_text(device, "controllerKey")) or 0
    controller = controllers.get(controller_key, _Controller(*_UNKNOWN_CONTROLLER, 0, False))
    backing = child(device, "backing")
    datastore = child_text(backing, "datastore")
    return Disk(
        key=key,
        label=label_of(device),
        capacity_bytes=capacity_bytes(device),
        bus=controller.bus,
        controller=controller.name,
        controller_key=controller_key,
        bus_number=controller.bus_number,
        unit_number=to_int(child_text(device, "unitNumber")) or 0,
        backing=_backing_kind(backing),
        file=child_text(backing, "fileName"),
        chain=_chain(backing),
        datastore=datastores.get(datastore) if datastore else None,
        thin={"true": True, "false": False}.get(child_text(backing, "thinProvisioned") or ""),
        independent=(child_text(backing, "diskMode") or "").startswith("independent"),
        shared=controller.shared or child_text(backing, "sharing") == "sharingMultiWriter",
        encrypted=child(backing, "keyId") is not None,
        change_id=child_text(backing, "changeId"),
        uuid=child_text(backing, "uuid"),
        used_bytes=used.get(key),
    )


def _backing_kind(backing: Element | None) -> Backing:
    kind = kind_of(backing)
    if kind.startswith("VirtualDiskRawDisk"):
        physical = child_text(backing, "compatibilityMode") != "virtualMode"
        return Backing.RDM_PHYSICAL if physical else Backing.RDM_VIRTUAL
    return _BACKINGS.get(kind, Backing.OTHER)


def _chain(backing: Element | None) -> tuple[str, ...]:
    """The backing's file, then its parents' down to the base."""
    files: list[str] = []
    while backing is not None and len(files) < _MAX_CHAIN:
        name = child_text(backing, "fileName")
        if name:
            files.append(name)
        backing = child(backing, "parent")
    return tuple(files)


def _nic(device: Element, networks: Mapping[str, str]) -> Nic:
    kind = kind_of(device)
    return Nic(
        key=_key(device) or 0,
        label=label_of(device),
        mac=child_text(device, "macAddress"),
        network=_network(child(device, "backing"), networks),
        adapter=_ADAPTERS.get(kind, kind.removeprefix("Virtual").lower()),
        connected=child_text(device, "connectable", "connected") == "true",
    )


def _network(backing: Element | None, networks: Mapping[str, str]) -> str | None:
    """The network's name: of a standard portgroup, a distributed one (by its key), or an opaque one (by its id)."""
    identity = (
        child_text(backing, "network")
        or child_text(backing, "port", "portgroupKey")
        or child_text(backing, "opaqueNetworkId")
        or ""
    )
    return networks.get(identity) or child_text(backing, "deviceName") or identity or None


def _cdrom(device: Element) -> Cdrom:
    backing = child(device, "backing")
    iso = child_text(backing, "fileName") if kind_of(backing) == "VirtualCdromIsoBackingInfo" else None
    return Cdrom(
        _key(device) or 0, label_of(device), iso or None, child_text(device, "connectable", "connected") == "true"
    )
