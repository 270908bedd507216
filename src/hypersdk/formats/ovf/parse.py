"""Reads a descriptor: which files hold which disks, in which order, and what machine they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lxml import etree

from hypersdk.errors import IntegrityError
from hypersdk.formats.names import names_in_href
from hypersdk.formats.ovf.document import attribute, child, child_text, children, malformed, parse_document, unsafe
from hypersdk.formats.ovf.layout import MAX_CAPACITY_BYTES, ResourceType
from hypersdk.model import Firmware
from hypersdk.units import GiB, KiB, MiB, TiB

_UNIT: Final = re.compile(r"bytes?(?:\s*\*\s*(?:(2|10)\s*\^\s*(\d{1,2})|(\d{1,18})))?", re.IGNORECASE)
_UNIT_WORDS: Final = {"kilobytes": KiB, "megabytes": MiB, "gigabytes": GiB, "terabytes": TiB}
"""OVF 0.9 and old VMware products write the unit as a word."""

_HOST_RESOURCE: Final = re.compile(r"(?:ovf:)?/disk/(.{1,256})")
_BUSES: Final = {ResourceType.IDE: "ide", ResourceType.SCSI: "scsi", ResourceType.OTHER_STORAGE: "sata"}


@dataclass(frozen=True, slots=True)
class EnvelopeFile:
    """One file reference. ``href`` is as the descriptor writes it; ``size_bytes`` as announced there.

    ``compression`` is the name of a method, None where the file is stored as it is. With ``chunk_bytes`` it is stored in parts
    ``NAME.000000000``, ``NAME.000000001`` and so on, of that size each but the last.
    """

    id: str
    href: str
    size_bytes: int | None
    compression: str | None = None
    chunk_bytes: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Candidates for the name of the file on disk or in the archive, best first: see ``names_in_href``.

        None for a file elsewhere (``http://...``), which no disk may have: an ISO image that stayed where it was.
        """
        return names_in_href(self.href)


@dataclass(frozen=True, slots=True)
class EnvelopeDisk:
    """One disk. ``file`` is ``None`` for a disk that starts empty. ``bus`` is as in ``model.Disk``; ``None`` when no item names the disk."""

    id: str
    file: EnvelopeFile | None
    capacity_bytes: int
    populated_bytes: int | None
    format: str | None
    label: str
    bus: str | None
    bus_number: int | None
    unit_number: int | None


@dataclass(frozen=True, slots=True)
class EnvelopeNic:
    """One network card."""

    label: str
    mac: str | None
    network: str | None
    adapter: str | None


@dataclass(frozen=True, slots=True)
class OvfSystem:
    """The machine; ``None`` where the descriptor does not say."""

    name: str | None
    os_id: int | None
    os_type: str | None
    os_name: str | None
    cpus: int | None
    cores_per_socket: int | None
    memory_bytes: int | None
    firmware: Firmware
    secure_boot: bool


@dataclass(frozen=True, slots=True)
class OvfEnvelope:
    """A descriptor. ``disks`` are in the order of controllers, then units; those without a hardware item come last."""

    files: tuple[EnvelopeFile, ...]
    disks: tuple[EnvelopeDisk, ...]
    nics: tuple[EnvelopeNic, ...]
    networks: tuple[str, ...]
    system: OvfSystem


def parse_ovf(data: bytes) -> OvfEnvelope:
    """What ``data`` describes. Raises IntegrityError ``ovf_unsafe`` or ``bad_format``; never looks at a file."""
    root = parse_document(data)
    files = _read_files(root)
    disks = _read_disks(root, files)
    system = _only_system(root)
    items = _hardware_items(root, system)
    return OvfEnvelope(
        files=tuple(files.values()),
        disks=_placed(disks, items),
        nics=tuple(_read_nic(item) for item in items if _resource_type(item) == ResourceType.ETHERNET),
        networks=tuple(name for section in children(root, "NetworkSection") for name in _network_names(section)),
        system=_read_system(system, items),
    )


# --- references and disks --------------------------------------------------------------------------------------------


def _read_files(root: etree._Element) -> dict[str, EnvelopeFile]:
    files: dict[str, EnvelopeFile] = {}
    for element in _within(root, ("References",), "File"):
        file_id, href = _required(element, "id"), _required(element, "href")
        if file_id in files:
            raise malformed(f"the file id '{file_id[:60]}' is given twice")
        compression = (attribute(element, "compression") or "identity").lower()
        files[file_id] = EnvelopeFile(
            file_id,
            href,
            _long_number(attribute(element, "size")),
            None if compression == "identity" else compression,
            _long_number(attribute(element, "chunkSize")) or None,
        )
    if len({file.href for file in files.values()}) != len(files):
        raise malformed("two file references name the same file")
    return files


def _read_disks(root: etree._Element, files: Mapping[str, EnvelopeFile]) -> dict[str, EnvelopeDisk]:
    disks: dict[str, EnvelopeDisk] = {}
    used: set[str] = set()
    for element in _within(root, ("DiskSection", "Section"), "Disk"):
        disk = _read_disk(element, files)
        if disk.id in disks or (disk.file and disk.file.id in used):
            raise malformed(f"disk '{disk.id[:60]}', or its file, is listed twice")
        if disk.file:
            used.add(disk.file.id)
        disks[disk.id] = disk
    return disks


def _read_disk(element: etree._Element, files: Mapping[str, EnvelopeFile]) -> EnvelopeDisk:
    disk_id, file_id = _required(element, "diskId"), attribute(element, "fileRef")
    if attribute(element, "parentRef"):
        raise malformed(f"disk '{disk_id[:60]}' is the difference to another disk; only whole disks are read")
    if file_id is not None and file_id not in files:
        raise malformed(f"disk '{disk_id[:60]}' refers to the file '{file_id[:60]}', which is not listed")
    if file_id is not None and not files[file_id].names:
        raise unsafe(f"a file reference leaves the descriptor's folder: {files[file_id].href[:100]!r}")
    return EnvelopeDisk(
        id=disk_id,
        file=files[file_id] if file_id is not None else None,
        capacity_bytes=disk_capacity(element),
        populated_bytes=_optional_number(element, "populatedSize"),
        format=attribute(element, "format"),
        label=disk_id,
        bus=None,
        bus_number=None,
        unit_number=None,
    )


def disk_capacity(element: etree._Element) -> int:
    """Bytes of the guest's disk that a ``Disk`` element describes."""
    return _amount(_required(element, "capacity"), attribute(element, "capacityAllocationUnits"), "capacity")


def _placed(disks: Mapping[str, EnvelopeDisk], items: Sequence[etree._Element]) -> tuple[EnvelopeDisk, ...]:
    """The disks with what their hardware items say, in the order of controllers and units."""
    controllers = {
        instance: (position, item)
        for position, item in enumerate(items)
        if _resource_type(item) in _BUSES and (instance := child_text(item, "InstanceID"))
    }
    found: list[tuple[tuple[int, int, int], EnvelopeDisk]] = []
    for position, item in enumerate(items):
        if _resource_type(item) != ResourceType.DISK:
            continue
        disk = disks.get(_disk_reference(item))
        if disk is None:
            raise malformed(f"the hardware item '{_label(item)}' refers to a disk that is not listed")
        place, controller = controllers.get(child_text(item, "Parent") or "", (len(items), None))
        unit = _small_number(child_text(item, "AddressOnParent"))
        found.append(
            ((place, len(items) if unit is None else unit, position), _with_place(disk, item, controller, unit))
        )
    ordered = [disk for _, disk in sorted(found, key=lambda entry: entry[0])]
    if len({disk.id for disk in ordered}) != len(ordered):
        raise malformed("two hardware items refer to the same disk")
    named = {disk.id for disk in ordered}
    return (*ordered, *(disk for disk in disks.values() if disk.id not in named))


def _disk_reference(item: etree._Element) -> str:
    """The disk id in ``ovf:/disk/ID``. An item with another kind of resource (a file, a pass-through device) is refused."""
    match = _HOST_RESOURCE.fullmatch(child_text(item, "HostResource") or "")
    if match is None:
        raise malformed(f"the hardware item '{_label(item)}' is a disk without a disk of this descriptor behind it")
    return match[1]


def _with_place(
    disk: EnvelopeDisk, item: etree._Element, controller: etree._Element | None, unit: int | None
) -> EnvelopeDisk:
    bus = number = None
    if controller is not None:
        bus = _BUSES[ResourceType(_resource_type(controller) or 0)]
        if bus == "sata" and "nvme" in (child_text(controller, "ResourceSubType") or "").lower():
            bus = "nvme"
        number = _small_number(child_text(controller, "Address"))
    return EnvelopeDisk(
        disk.id, disk.file, disk.capacity_bytes, disk.populated_bytes, disk.format, _label(item), bus, number, unit
    )  # fmt: skip


# --- the machine -----------------------------------------------------------------------------------------------------


def _only_system(root: etree._Element) -> etree._Element:
    systems = [*children(root, "VirtualSystem", "Content")]
    for collection in children(root, "VirtualSystemCollection"):
        systems += children(collection, "VirtualSystem", "Content")
    if len(systems) != 1:
        raise malformed(f"the descriptor holds {len(systems)} machines; exactly one is read")
    return systems[0]


def _hardware_items(root: etree._Element, system: etree._Element) -> list[etree._Element]:
    """The items of the first hardware section that hold in the default configuration."""
    hardware = next(children(system, "VirtualHardwareSection"), None)
    if hardware is None:
        raise malformed("the descriptor has no VirtualHardwareSection")
    default = _default_configuration(root)
    return [
        item
        for item in children(hardware, "Item", "StorageItem", "EthernetPortItem")
        if attribute(item, "bound") in (None, "normal")
        and (attribute(item, "configuration") is None or default in (attribute(item, "configuration") or "").split())
    ]


def _default_configuration(root: etree._Element) -> str | None:
    configurations = list(_within(root, ("DeploymentOptionSection",), "Configuration"))
    marked = [entry for entry in configurations if attribute(entry, "default") in ("true", "1")]
    chosen = next(iter(marked or configurations), None)
    return attribute(chosen, "id") if chosen is not None else None


def _read_system(system: etree._Element, items: Sequence[etree._Element]) -> OvfSystem:
    os_section = child(system, "OperatingSystemSection")
    cpu, memory = _first(items, ResourceType.CPU), _first(items, ResourceType.MEMORY)
    settings = dict(_settings(system))
    return OvfSystem(
        name=child_text(system, "Name") or attribute(system, "id"),
        os_id=_small_number(attribute(os_section, "id")) if os_section is not None else None,
        os_type=attribute(os_section, "osType") if os_section is not None else None,
        os_name=child_text(os_section, "Description") if os_section is not None else None,
        cpus=_small_number(child_text(cpu, "VirtualQuantity")) if cpu is not None else None,
        cores_per_socket=_small_number(child_text(cpu, "CoresPerSocket")) if cpu is not None else None,
        memory_bytes=_memory_bytes(memory) if memory is not None else None,
        firmware=Firmware.EFI if settings.get("firmware", "").lower() == "efi" else Firmware.BIOS,
        secure_boot=settings.get("bootOptions.efiSecureBootEnabled", "").lower() == "true",
    )


def _settings(system: etree._Element) -> Iterator[tuple[str, str]]:
    """``vmw:Config`` key and value pairs of the hardware."""
    for element in _within(system, ("VirtualHardwareSection",), "Config"):
        key, value = attribute(element, "key"), attribute(element, "value")
        if key and value:
            yield key, value


def _memory_bytes(item: etree._Element) -> int | None:
    quantity = child_text(item, "VirtualQuantity")
    return _amount(quantity, child_text(item, "AllocationUnits") or "byte * 2^20", "memory size") if quantity else None


def _read_nic(item: etree._Element) -> EnvelopeNic:
    return EnvelopeNic(
        _label(item), child_text(item, "Address"), child_text(item, "Connection"), child_text(item, "ResourceSubType")
    )


def _network_names(section: etree._Element) -> Iterator[str]:
    return (name for network in children(section, "Network") if (name := attribute(network, "name")))


# --- values ----------------------------------------------------------------------------------------------------------


def _within(root: etree._Element, sections: tuple[str, ...], name: str) -> Iterator[etree._Element]:
    for section in children(root, *sections):
        yield from children(section, name)


def _first(items: Sequence[etree._Element], resource: ResourceType) -> etree._Element | None:
    return next((item for item in items if _resource_type(item) == resource), None)


def _resource_type(item: etree._Element) -> int | None:
    return _small_number(child_text(item, "ResourceType"))


def _label(item: etree._Element) -> str:
    return (child_text(item, "ElementName") or child_text(item, "Caption") or child_text(item, "InstanceID") or "?")[
        :200
    ]


def _required(element: etree._Element, name: str) -> str:
    value = attribute(element, name)
    if value is None:
        raise malformed(f"a {etree.QName(element).localname} element has no '{name}'")
    return value


def _small_number(text: str | None) -> int | None:
    """A count or an address; ``None`` for anything that is not a number of up to nine digits."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _long_number(text: str | None) -> int | None:
    """Bytes of a file, which are told for information: ``None`` for anything that is not a number."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def _optional_number(element: etree._Element, name: str) -> int | None:
    text = attribute(element, name)
    return _amount(text, "byte", name) if text is not None else None


def _amount(text: str, unit: str | None, what: str) -> int:
    """``text`` times ``unit`` in bytes. A ``${property}`` reference, a fraction or more than 2^63 bytes is refused."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise malformed(f"the {what} '{text[:40]}' is not a whole number")
    value = int(text) * _unit_bytes(unit)
    if value > MAX_CAPACITY_BYTES:
        raise unsafe(f"the {what} of {text[:40]} {unit or 'byte'} is beyond any disk")
    return value


def _unit_bytes(unit: str | None) -> int:
    words = " ".join((unit or "byte").split())
    if words.lower() in _UNIT_WORDS:
        return _UNIT_WORDS[words.lower()]
    match = _UNIT.fullmatch(words)
    if match is None:
        raise _unknown_unit(words)
    base, exponent, factor = match.groups()
    if factor:
        return int(factor)
    return int(base) ** int(exponent) if base else 1


def _unknown_unit(words: str) -> IntegrityError:
    return malformed(f"the unit '{words[:60]}' is not one of bytes (like 'byte * 2^30')")
