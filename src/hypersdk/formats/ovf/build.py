"""Builds the descriptor of a machine, with all that ovftool, virt-v2v, vSphere and govc need to create it again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, cast

from lxml import etree

from hypersdk.formats.names import href_of
from hypersdk.formats.ovf.layout import (
    CONTROLLER_SUBTYPES,
    CONTROLLER_TYPES,
    FORMAT_URIS,
    LINUX_WORDS,
    NIC_SUBTYPES,
    OS_LINUX,
    OS_OTHER,
    OS_TYPES,
    OVF,
    RASD,
    VMW,
    VSSD,
    XSI,
    OvfDisk,
    ResourceType,
)
from hypersdk.model import Disk, Firmware, Machine, Nic, named_boot_disks
from hypersdk.units import MiB, align_up

NO_NETWORK: Final = "No network"
"""A card without a network still needs a ``Connection``: importers refuse one without."""

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAMESPACES: Final[dict[str | None, str]] = {None: OVF, "ovf": OVF, "rasd": RASD, "vssd": VSSD, "vmw": VMW, "xsi": XSI}


def build_ovf(machine: Machine, disks: Sequence[OvfDisk]) -> bytes:
    """Returns the descriptor of ``machine`` with ``disks`` in the given order; other disks of the machine are left out.

    Instance numbers rise in that order, controllers come in the order of their first disk: a reader that follows
    the items finds the disks as they are numbered in the files. CD-ROM drives are left out, because no image is
    exported. Raises KeyError when a ``device_key`` is not one of the machine's disks.
    """
    envelope = etree.Element(_ovf("Envelope"), nsmap=cast("dict[str, str]", _NAMESPACES))
    _add_references(envelope, disks)
    _add_disk_section(envelope, disks)
    _add_network_section(envelope, machine.nics)
    system = _sub(envelope, "VirtualSystem", id=machine.name)
    _sub(system, "Info", "A virtual machine")
    _sub(system, "Name", machine.name)
    _add_operating_system(system, machine)
    instances = _add_hardware(system, machine, disks)
    _add_boot_order(system, [instances.get(key) for key in named_boot_disks(machine)])
    if machine.annotation:
        section = _sub(system, "AnnotationSection")
        _sub(section, "Info", "A human-readable annotation")
        _sub(section, "Annotation", machine.annotation)
    etree.indent(envelope)
    return etree.tostring(envelope, xml_declaration=True, encoding="UTF-8") + b"\n"


def _add_references(envelope: etree._Element, disks: Sequence[OvfDisk]) -> None:
    references = _sub(envelope, "References")
    for number, disk in enumerate(disks, start=1):
        if disk.file_name is not None:
            _sub(references, "File", href=href_of(disk.file_name), id=f"file{number}", size=str(disk.size_bytes))


def _add_disk_section(envelope: etree._Element, disks: Sequence[OvfDisk]) -> None:
    section = _sub(envelope, "DiskSection")
    _sub(section, "Info", "Virtual disk information")
    for number, disk in enumerate(disks, start=1):
        element = _sub(
            section,
            "Disk",
            capacity=str(disk.capacity_bytes),
            capacityAllocationUnits="byte",
            diskId=f"vmdisk{number}",
            format=FORMAT_URIS[disk.format],
        )
        if disk.file_name is not None:
            element.set(_ovf("fileRef"), f"file{number}")
        if disk.populated_bytes is not None:
            element.set(_ovf("populatedSize"), str(disk.populated_bytes))


def _add_network_section(envelope: etree._Element, nics: Sequence[Nic]) -> None:
    section = _sub(envelope, "NetworkSection")
    _sub(section, "Info", "The list of logical networks")
    for name in dict.fromkeys(nic.network or NO_NETWORK for nic in nics):
        network = _sub(section, "Network", name=name)
        _sub(
            network,
            "Description",
            f"The {name} network" if name != NO_NETWORK else "The card was attached to no network",
        )


def _add_operating_system(system: etree._Element, machine: Machine) -> None:
    section = _sub(system, "OperatingSystemSection", id=str(cim_os_type(machine.guest_id)))
    if machine.guest_id:
        section.set(f"{{{VMW}}}osType", _clean(machine.guest_id))
    _sub(section, "Info", "The kind of installed guest operating system")
    _sub(section, "Description", machine.guest.os_name or machine.summary.guest_name or "Unknown")


def cim_os_type(guest_id: str | None) -> int:
    """Returns the CIM ``OSType`` for a vSphere guest id (``rhel8_64Guest`` -> 80); Linux or other, by word size, where
    CIM has no number."""
    if not guest_id:
        return OS_OTHER[1]
    found = next((pair for prefix, pair in OS_TYPES if guest_id.startswith(prefix)), None)
    if found is None:
        found = OS_LINUX if any(word in guest_id.lower() for word in LINUX_WORDS) else OS_OTHER
    return found[0] if "64" in guest_id else found[1]


# --- hardware --------------------------------------------------------------------------------------------------------


class _Items:
    """Appends ``Item`` elements with rising instance numbers. The children of an item are in alphabetical order, as in
    CIM."""

    def __init__(self, section: etree._Element) -> None:
        self._section = section
        self._last = 0

    def add(self, resource: ResourceType, name: str, **values: str | None) -> tuple[etree._Element, int]:
        """Adds an item; values of ``None`` are left out. Returns it with its instance number."""
        self._last += 1
        item = _sub(self._section, "Item")
        values |= {"ElementName": name, "InstanceID": str(self._last), "ResourceType": str(int(resource))}
        for key in sorted(values):
            if (value := values[key]) is not None:
                etree.SubElement(item, f"{{{RASD}}}{key}").text = _clean(value)
        return item, self._last


def _add_hardware(system: etree._Element, machine: Machine, disks: Sequence[OvfDisk]) -> dict[int, int]:
    """Returns the instance number of each disk, by its key."""
    section = _sub(system, "VirtualHardwareSection")
    _sub(section, "Info", "Virtual hardware requirements")
    _add_family(section, machine)
    items = _Items(section)
    _add_cpu_and_memory(items, machine)
    by_key = {disk.key: disk for disk in machine.disks}
    instances = _add_disks(items, [by_key[disk.device_key] for disk in disks])
    for number, nic in enumerate(machine.nics):
        _add_nic(items, nic, number)
    for key, value in _firmware_settings(machine):
        attributes = {_ovf("required"): "false", f"{{{VMW}}}key": key, f"{{{VMW}}}value": value}
        etree.SubElement(section, f"{{{VMW}}}Config", attributes)
    return instances


def _add_boot_order(system: etree._Element, instances: Sequence[int | None]) -> None:
    """Adds the disk that boots first, as vCenter writes it; not required, so a reader that does not know the section
    ignores it."""
    if not instances or instances[0] is None:  # none is named, or it is not exported
        return
    attributes = {f"{{{VMW}}}instanceId": str(instances[0]), f"{{{VMW}}}type": "disk", _ovf("required"): "false"}
    section = etree.SubElement(system, f"{{{VMW}}}BootOrderSection", attributes)
    _sub(section, "Info", "Virtual hardware device boot order")


def _add_family(section: etree._Element, machine: Machine) -> None:
    family = _sub(section, "System")
    values = {
        "ElementName": "Virtual Hardware Family",
        "InstanceID": "0",
        "VirtualSystemIdentifier": machine.name,
        "VirtualSystemType": machine.hardware_version,
    }
    for key, value in values.items():
        if value is not None:
            etree.SubElement(family, f"{{{VSSD}}}{key}").text = _clean(value)


def _add_cpu_and_memory(items: _Items, machine: Machine) -> None:
    cpus, memory_mib = machine.summary.cpus, align_up(machine.summary.memory_bytes, MiB) // MiB
    cpu, _ = items.add(
        ResourceType.CPU,
        f"{cpus} virtual CPU(s)",
        AllocationUnits="hertz * 10^6",
        Description="Number of Virtual CPUs",
        VirtualQuantity=str(cpus),
    )
    cores = etree.SubElement(cpu, f"{{{VMW}}}CoresPerSocket", {_ovf("required"): "false"})
    cores.text = str(machine.cores_per_socket)
    items.add(
        ResourceType.MEMORY,
        f"{memory_mib}MB of memory",
        AllocationUnits="byte * 2^20",
        Description="Memory Size",
        VirtualQuantity=str(memory_mib),
    )


def _add_disks(items: _Items, disks: Sequence[Disk]) -> dict[int, int]:
    controllers: dict[int, int] = {}
    for disk in disks:
        if disk.controller_key not in controllers:
            controllers[disk.controller_key] = _add_controller(items, disk)
    instances: dict[int, int] = {}
    for number, disk in enumerate(disks, start=1):
        _, instances[disk.key] = items.add(
            ResourceType.DISK,
            disk.label,
            AddressOnParent=str(disk.unit_number),
            HostResource=f"ovf:/disk/vmdisk{number}",
            Parent=str(controllers[disk.controller_key]),
        )
    return instances


def _add_controller(items: _Items, disk: Disk) -> int:
    bus = disk.bus.lower()
    resource, default_subtype = CONTROLLER_TYPES[bus]
    known = CONTROLLER_SUBTYPES.get(re.sub(r"[^a-z0-9]", "", disk.controller.lower()))
    _, instance = items.add(
        resource,
        f"{bus.upper()} Controller {disk.bus_number}",
        Address=str(disk.bus_number),
        Description=f"{bus.upper()} Controller",
        ResourceSubType=None if bus == "ide" else known or default_subtype,
    )
    return instance


def _add_nic(items: _Items, nic: Nic, number: int) -> None:
    network = nic.network or NO_NETWORK
    items.add(
        ResourceType.ETHERNET,
        nic.label,
        Address=nic.mac,
        AddressOnParent=str(7 + number),
        AutomaticAllocation="true" if nic.connected else "false",
        Connection=network,
        Description=f"{nic.adapter} ethernet adapter on {network}",
        ResourceSubType=NIC_SUBTYPES.get(nic.adapter.lower(), nic.adapter),
    )


def _firmware_settings(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "firmware", machine.firmware.value
    if machine.firmware is Firmware.EFI:
        yield "bootOptions.efiSecureBootEnabled", "true" if machine.secure_boot else "false"


def _sub(parent: etree._Element, tag: str, text: str | None = None, /, **attributes: str) -> etree._Element:
    """A child in the OVF namespace with OVF attributes; characters that XML cannot hold become U+FFFD."""
    element = etree.SubElement(parent, _ovf(tag))
    for key, value in attributes.items():
        element.set(_ovf(key), _clean(value))
    if text is not None:
        element.text = _clean(text)
    return element


def _ovf(name: str) -> str:
    return f"{{{OVF}}}{name}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
