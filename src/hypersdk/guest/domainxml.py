"""The description of the source that virt-v2v-in-place reads (``-i libvirtxml``): libvirt's domain XML.

It needs the type ``vmware``, so that VMware's own programs are removed from the guest. The names of disks in the
guest's configuration (``/dev/sda``, ``/dev/hdb``) are translated by the position and bus given here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lxml import etree

from hypersdk.model import Firmware
from hypersdk.model.guestplan import SourceDisk, SourceGuest, SourceNic, disk_letters
from hypersdk.text import clean
from hypersdk.transfer.files import shown_path
from hypersdk.units import KiB

_PREFIX: Final = {"ide": "hd", "nvme": "nvme"}
_BUSES: Final = frozenset({"scsi", "sata", "ide", "nvme"})


def domain_xml(guest: SourceGuest) -> bytes:
    """The domain with the disks and network cards of ``guest``, in its order, as an XML document."""
    domain = etree.Element("domain", type="vmware")
    _text(domain, "name", clean(guest.name, 200) or "guest")
    _text(domain, "memory", str(max(1, guest.memory_bytes // KiB))).set("unit", "KiB")
    _text(domain, "vcpu", str(max(1, guest.cpus)))
    system = etree.SubElement(domain, "os")
    if guest.firmware is Firmware.EFI:
        system.set("firmware", "efi")
    _text(system, "type", "hvm")
    devices = etree.SubElement(domain, "devices")
    _add_disks(devices, guest.disks)
    for nic in guest.nics:
        _add_nic(devices, nic)
    return etree.tostring(domain, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _add_disks(devices: etree._Element, disks: Sequence[SourceDisk]) -> None:
    """Disks are named per prefix, as Linux does: ``sda`` is the first of all SCSI and SATA disks."""
    used: dict[str, int] = {}
    for disk in disks:
        bus = disk.bus if disk.bus in _BUSES else "scsi"
        prefix = _PREFIX.get(bus, "sd")
        index = used[prefix] = used.get(prefix, -1) + 1
        _add_disk(devices, disk, f"{prefix}{disk_letters(index)}", bus)


def _add_disk(devices: etree._Element, disk: SourceDisk, target: str, bus: str) -> None:
    element = etree.SubElement(devices, "disk", type="file", device="disk")
    etree.SubElement(element, "driver", name="qemu", type=disk.image_format)
    etree.SubElement(element, "source", file=str(shown_path(disk.file.absolute())))
    etree.SubElement(element, "target", dev=target, bus=bus)


def _add_nic(devices: etree._Element, nic: SourceNic) -> None:
    element = etree.SubElement(devices, "interface", type="network")
    if nic.mac is not None:
        etree.SubElement(element, "mac", address=nic.mac)
    etree.SubElement(element, "source", network=clean(nic.network, 200) or "default")
    etree.SubElement(element, "model", type=nic.adapter or "vmxnet3")


def _text(parent: etree._Element, tag: str, text: str) -> etree._Element:
    element = etree.SubElement(parent, tag)
    element.text = text
    return element
