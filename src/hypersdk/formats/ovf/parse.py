"""Parses a descriptor: the files of the disks, their order, and the machine that they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from hypersdk.formats.names import names_in_href
from hypersdk.formats.ovf.document import attribute, child_text, children, malformed, parse_document, unsafe, within
from hypersdk.formats.ovf.hardware import (
    DiskAddress,
    OvfHardware,
    Placement,
    Resources,
    place_disks,
    quantity_bytes,
    read_hardware,
)
from hypersdk.formats.ovf.layout import MAX_DISKS, MAX_EMPTY_DISK_BYTES
from hypersdk.formats.ovf.machine import EnvelopeNic, OvfSystem, only_system, read_nics, read_system
from hypersdk.formats.ovf.values import Warnings, amount, shown

_PROPERTY: Final = re.compile(r"\$\{([^{}]{1,200})\}")


@dataclass(frozen=True, slots=True)
class EnvelopeFile:
    """One file reference. ``href`` and ``size_bytes`` are as written in the descriptor.

    ``compression`` is the name of a method, None where the file is stored as it is. With ``chunk_bytes`` it is stored
    in parts ``NAME.000000000``, ``NAME.000000001`` and so on, of that size each but the last.
    """

    id: str
    href: str
    size_bytes: int | None
    compression: str | None = None
    chunk_bytes: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Possible names of the file on disk or in the archive, best first: see ``names_in_href``.

        Empty for a file elsewhere (``http://...``), which a disk may not have, but for example an ISO image.
        """
        return names_in_href(self.href)


@dataclass(frozen=True, slots=True)
class EnvelopeDisk:
    """One disk. ``file`` is ``None`` for a disk that starts empty; it always has a capacity. ``bus`` and ``controller``
    are as in ``model.Disk``, ``controller_key`` is the InstanceID of the controller; None when no item tells where
    the disk is attached."""

    id: str
    file: EnvelopeFile | None
    capacity_bytes: int | None
    populated_bytes: int | None
    format: str | None
    label: str
    bus: str | None = None
    bus_number: int | None = None
    unit_number: int | None = None
    controller: str = ""
    controller_key: int | None = None


@dataclass(frozen=True, slots=True)
class OvfEnvelope:
    """A descriptor. ``disks`` are in the order in which firmware numbers them: bus, number of the controller, unit;
    those without a hardware item come last. ``configuration`` is the one in use, where there are several.
    ``warnings`` tell what was left out or not understood.
    """

    files: tuple[EnvelopeFile, ...]
    disks: tuple[EnvelopeDisk, ...]
    nics: tuple[EnvelopeNic, ...]
    networks: tuple[str, ...]
    system: OvfSystem
    configuration: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedOvf:
    """A descriptor with its elements, to be changed. ``disk_of`` has the disk of every hardware item that is one."""

    envelope: OvfEnvelope
    hardware: OvfHardware
    resources: Resources
    disk_of: Mapping[etree._Element, str]


def parse_ovf(data: bytes) -> OvfEnvelope:
    """Parses a descriptor. Raises IntegrityError ``ovf_unsafe`` or ``bad_format``; does not open any file."""
    warnings = Warnings()
    return read_envelope(parse_document(data, warnings), warnings).envelope


def read_envelope(root: etree._Element, warnings: Warnings) -> ParsedOvf:
    """Reads a document of ``parse_document``.

    Raises IntegrityError where the content of a disk is ambiguous; anything else that is wrong is ignored with a
    warning.
    """
    files = _read_files(root)
    for element in within(root, "References", "File"):
        if (size := attribute(element, "size")) is not None and amount(size, None) is None:
            warnings.add(
                f"the size {shown(size)} of the file {shown(attribute(element, 'href'))} is not a number and is ignored"
            )
    system = only_system(root)
    hardware = read_hardware(root, system, warnings)
    source = _DiskSource(_disk_elements(root), files, _properties(root, hardware.configuration), warnings)
    placement = place_disks(hardware, source.resources, warnings)
    disks = tuple(source.disks(placement))
    if len(disks) > MAX_DISKS:
        raise unsafe(f"the descriptor attaches {len(disks)} disks, more than {MAX_DISKS}")
    items = {disk.id: placement.placed[disk.id].item for disk in disks if disk.id in placement.placed}
    facts = OvfEnvelope(
        files=tuple(files.values()),
        disks=disks,
        nics=read_nics(hardware.items),
        networks=tuple(
            name for network in within(root, "NetworkSection", "Network") if (name := attribute(network, "name"))
        ),
        system=read_system(system, hardware.items, items, warnings),
        configuration=hardware.configuration,
        warnings=warnings.all(),
    )
    return ParsedOvf(facts, hardware, source.resources, placement.disk_of)


# --- references and disks --------------------------------------------------------------------------------------------


def _read_files(root: etree._Element) -> dict[str, EnvelopeFile]:
    files: dict[str, EnvelopeFile] = {}
    for element in within(root, "References", "File"):
        file_id, href = _required(element, "id"), _required(element, "href")
        if file_id in files:
            raise malformed(f"the file id '{file_id[:60]}' is given twice")
        compression = (attribute(element, "compression") or "identity").lower()
        files[file_id] = EnvelopeFile(
            file_id,
            href,
            amount(attribute(element, "size"), None),
            None if compression == "identity" else compression,
            amount(attribute(element, "chunkSize"), None) or None,
        )
    if len({file.href for file in files.values()}) != len(files):
        raise malformed("two file references name the same file")
    return files


def _disk_elements(root: etree._Element) -> dict[str, etree._Element]:
    elements: dict[str, etree._Element] = {}
    for element in within(root, "DiskSection", "Disk"):
        disk_id = _required(element, "diskId")
        if disk_id in elements:
            raise malformed(f"the disk {shown(disk_id)} is listed twice")
        elements[disk_id] = element
    return elements


class _DiskSource:
    """Creates the disks from ``Disk`` elements, from files that an item refers to, and from items that have a size."""

    def __init__(
        self,
        elements: Mapping[str, etree._Element],
        files: Mapping[str, EnvelopeFile],
        properties: Mapping[str, str],
        warnings: Warnings,
    ) -> None:
        self._elements = elements
        self._files = files
        self._properties = properties
        self._warnings = warnings
        listed = {file_id: disk for disk, element in elements.items() if (file_id := attribute(element, "fileRef"))}
        bare = Resources(elements, {})
        self._of_files = {bare.new_id(file_id): file for file_id, file in files.items() if file_id not in listed}
        self.resources = Resources(elements, {**{file.id: disk for disk, file in self._of_files.items()}, **listed})

    def disks(self, placement: Placement) -> Iterator[EnvelopeDisk]:
        """Yields the disks in use, in order; adds warnings for the others."""
        for disk in placement.left_out:
            self._warnings.add(f"the disk {shown(disk)} belongs to a configuration that is not used; it is left out")
        for disk in placement.images:
            self._warnings.add(
                f"{shown(disk)} is an image in a CD or floppy drive; it is left out, the drive stays empty"
            )
        for disk in placement.unnamed:
            if attribute(self._elements[disk], "fileRef"):
                self._warnings.add(f"no hardware item attaches the disk {shown(disk)}")
        for disk in (*placement.placed, *placement.unnamed):
            place = placement.placed.get(disk)
            found = self._disk(disk, placement.original.get(disk, disk), place)
            if found.file is not None or (place and 0 < (found.capacity_bytes or 0) <= MAX_EMPTY_DISK_BYTES):
                yield found
                continue
            why = "no usable size" if place else "no hardware item"
            self._warnings.add(f"the disk {shown(found.label)} has no file in the package and {why}; it is left out")

    def _disk(self, disk_id: str, listed_as: str, place: DiskAddress | None) -> EnvelopeDisk:
        element = self._elements.get(listed_as)
        controller = place.controller if place else None
        file = self._of_files.get(listed_as) if element is None else self._file(disk_id, element)
        if file is not None and not file.names:
            raise unsafe(f"a file reference leaves the descriptor's folder: {shown(file.href)}")
        return EnvelopeDisk(
            id=disk_id,
            file=file,
            capacity_bytes=self._capacity(disk_id, element, place),
            populated_bytes=self._number(element, "populatedSize") if element is not None else None,
            format=attribute(element, "format") if element is not None else None,
            label=place.label if place else disk_id,
            bus=controller.bus if controller else None,
            bus_number=controller.number if controller else None,
            unit_number=place.unit if place else None,
            controller=controller.kind if controller else "",
            controller_key=controller.key if controller else None,
        )

    def _file(self, disk_id: str, element: etree._Element) -> EnvelopeFile | None:
        file_id = attribute(element, "fileRef")
        if attribute(element, "parentRef"):
            raise malformed(f"disk {shown(disk_id)} is a delta to another disk; only complete disks are supported")
        if file_id is not None and file_id not in self._files:
            raise malformed(f"disk {shown(disk_id)} refers to the file {shown(file_id)}, which is not listed")
        return self._files[file_id] if file_id is not None else None

    def _capacity(self, disk_id: str, element: etree._Element | None, place: DiskAddress | None) -> int | None:
        """Returns the bytes of the guest's disk. The image in a file has its own capacity, whatever this one is."""
        if element is None:
            # An item that refers to something else, such as a device of the host, is not an empty disk.
            return quantity_bytes(place.item) if place and child_text(place.item, "HostResource") is None else None
        text, unit = attribute(element, "capacity"), attribute(element, "capacityAllocationUnits")
        match = _PROPERTY.fullmatch(text or "")
        capacity = amount(self._properties.get(match[1]) if match else text, unit)
        if capacity is None:
            self._warnings.add(
                f"the capacity {shown(text)} in {shown(unit or 'byte')} of the disk {shown(disk_id)} cannot be read"
            )
        return capacity

    def _number(self, element: etree._Element, name: str) -> int | None:
        text = attribute(element, name)
        number = amount(text, None)
        if text is not None and number is None:
            self._warnings.add(f"{name} {shown(text)} of a disk is not a number of bytes")
        return number


def _properties(root: etree._Element, configuration: str | None) -> dict[str, str]:
    """Returns the values of the product's properties, by their name in ``${name}`` (DSP0243 9.5)."""
    values: dict[str, str] = {}
    for section in root.iter(f"{{{etree.QName(root).namespace}}}ProductSection"):
        class_, instance = attribute(section, "class"), attribute(section, "instance")
        for element in children(section, "Property"):
            name = ".".join(part for part in (class_, attribute(element, "key"), instance) if part)
            special = [
                entry for entry in children(element, "Value") if attribute(entry, "configuration") == configuration
            ]
            value = attribute(special[0] if special else element, "value")
            if value is not None:
                values[name] = value
    return values


# --- values ----------------------------------------------------------------------------------------------------------


def _required(element: etree._Element, name: str) -> str:
    value = attribute(element, name)
    if value is None:
        raise malformed(f"a {etree.QName(element).localname} element has no '{name}'")
    return value
