"""Adapts the descriptor of a server to the exported files.

The server knows more of the machine than we do (vApp properties, extra configuration), so its text is used. What
changes: file names, sizes, capacities, the format, and how items refer to disks; disks and other files that are not
part of the export are removed, with all references to them. Of several configurations only the one in use remains: the
others may need disks that are not exported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import count
from typing import Final, TypeVar
from urllib.parse import unquote

from lxml import etree

from hypersdk.errors import IntegrityError, register
from hypersdk.formats.names import href_of
from hypersdk.formats.ovf.document import attribute, child, child_text, children, parse_document, within
from hypersdk.formats.ovf.hardware import RESOURCE, is_disk, is_drive
from hypersdk.formats.ovf.layout import FORMAT_URIS, RASD, OvfDisk
from hypersdk.formats.ovf.parse import EnvelopeDisk, ParsedOvf, read_envelope
from hypersdk.formats.ovf.values import Warnings

OVF_DISK_UNKNOWN = register(
    "ovf_disk_unknown",
    "The server's descriptor and the exported disks cannot be matched without guessing.",
    "Nothing needs to be done: HyperSDK writes its own descriptor instead. If that one is not suitable, report it with"
    " the descriptor.",
)

_PLACE: Final = re.compile(r"([A-Za-z]{1,60})(\d{1,3}):(\d{1,3})")
_KEY_BUSES: Final = (("ide", "ide"), ("ahci", "sata"), ("sata", "sata"), ("nvme", "nvme"))
"""Part of the controller's class name -> bus; all others (LsiLogic, ParaVirtualSCSI, BusLogic) are SCSI."""


def adapt_ovf(server_descriptor: bytes, disks: Sequence[OvfDisk]) -> bytes:
    """Returns ``server_descriptor`` adapted to ``disks``.

    A disk is found by its id in the descriptor where that is known, else by its file name, else by controller and unit,
    else by a capacity that no other disk has. Raises IntegrityError ``ovf_disk_unknown`` when none of these is unique,
    ``ovf_unsafe`` or ``bad_format`` when the text is not a usable OVF: the caller then writes its own with
    ``build_ovf``.
    """
    root = parse_document(server_descriptor)
    reading = read_envelope(root, Warnings())
    theirs = {disk.id: disk for disk in reading.envelope.disks}
    matched = _match(reading.envelope.disks, disks)
    _keep_one_configuration(root, reading)
    _fit_hardware(root, reading, matched)
    parts = _Parts(root)
    for disk_id, disk in matched.items():
        parts.rewrite(theirs[disk_id], disk)
    parts.remove_others(matched)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8") + b"\n"


def resize_files(descriptor: bytes, sizes: Mapping[str, int]) -> bytes:
    """Returns our own ``descriptor`` with the new ``sizes`` of files, in bytes by name. Raises as ``adapt_ovf``."""
    root = parse_document(descriptor)
    for file in within(root, "References", "File"):
        if (size := sizes.get(unquote(attribute(file, "href") or ""))) is not None:
            _set(file, "size", str(size))
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8") + b"\n"


# --- which of the server's disks is which of ours
# -----------------------------------------------------------------------


def _match(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """Returns our disk by disk id. Each rule only gets the disks that the earlier ones did not match, and matches
    nothing where it is ambiguous."""
    known = {disk.id for disk in theirs}
    matched = _unique((disk.disk_id, disk) for disk in ours if disk.disk_id is not None and disk.disk_id in known)
    open_theirs = [disk for disk in theirs if disk.file is not None and disk.id not in matched]
    open_ours = [disk for disk in ours if disk not in matched.values()]
    for rule in (_by_name, _by_place, _by_capacity):
        found = rule(open_theirs, [disk for disk in open_ours if disk.disk_id is None])
        matched |= found
        open_theirs = [disk for disk in open_theirs if disk.id not in found]
        open_ours = [disk for disk in open_ours if disk not in found.values()]
    if open_ours:
        raise _unknown(f"'{open_ours[0].file_name or open_ours[0].disk_id}' is not in it")
    return matched


def _by_name(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """Matches by file name, or by lease key, which a server may use as file id or (its last part) as file name."""
    known = {
        name: disk for disk in ours for name in (disk.file_name, disk.lease_key, _last_part(disk.lease_key)) if name
    }
    return _unique(
        (disk.id, known[name])
        for disk in theirs
        if disk.file is not None
        for name in (*disk.file.names, disk.file.id)
        if name in known
    )


def _by_place(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """Matches by controller and unit, which are in the lease key."""
    places: dict[tuple[str | None, int | None, int | None], OvfDisk] = dict(
        _unique((place, disk) for disk in ours if (place := place_in_key(disk.lease_key)) is not None)
    )
    found = ((disk.id, places.get((disk.bus, disk.bus_number, disk.unit_number)), disk) for disk in theirs)
    return _unique((key, our) for key, our, their in found if our and our.capacity_bytes == their.capacity_bytes)


def _by_capacity(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """Matches by capacity, where it is unique on both sides."""
    return _unique((their.id, our) for their in theirs for our in ours if their.capacity_bytes == our.capacity_bytes)


_Key = TypeVar("_Key", bound=Hashable)


def _unique(pairs: Iterable[tuple[_Key, OvfDisk]]) -> dict[_Key, OvfDisk]:
    """Returns the pairs whose key and disk are in no other pair."""
    all_pairs = set(pairs)
    keys, disks = Counter(key for key, _ in all_pairs), Counter(disk for _, disk in all_pairs)
    return {key: disk for key, disk in all_pairs if keys[key] == disks[disk] == 1}


def _last_part(lease_key: str | None) -> str | None:
    return lease_key.rpartition("/")[2] if lease_key else None


def place_in_key(lease_key: str | None) -> tuple[str, int, int] | None:
    """Returns bus, bus number and unit of ``/vm-42/ParaVirtualSCSIController0:3``; None for a key of another form."""
    match = _PLACE.fullmatch(_last_part(lease_key) or "")
    if match is None:
        return None
    kind = match[1].lower()
    bus = next((bus for word, bus in _KEY_BUSES if word in kind), "scsi")
    return bus, int(match[2]), int(match[3])


# --- changing the text
# --------------------------------------------------------------------------------------------------


def _keep_one_configuration(root: etree._Element, reading: ParsedOvf) -> None:
    if (chosen := reading.envelope.configuration) is None:
        return
    for element in (*reading.hardware.dropped, *children(root, "DeploymentOptionSection")):
        _remove(element)
    for element in list(root.iter(tag=etree.Element)):
        names = (attribute(element, "configuration") or "").split()
        if not names:
            continue
        _unset(element, "configuration")
        owner = element.getparent()
        if etree.QName(element).localname == "Value" and owner is not None and chosen in names:
            _set(owner, "value", attribute(element, "value") or "")  # of a property
            _remove(element)
        elif chosen not in names:
            _remove(element)


def _fit_hardware(root: etree._Element, reading: ParsedOvf, matched: Collection[str]) -> None:
    """Removes the items of disks that are not exported, and boot orders that name them; the other items get the
    reference of DSP0243 to their disk."""
    gone = set()
    for item in (*reading.hardware.items, *reading.hardware.others):
        if is_disk(item):
            disk = reading.disk_of.get(item)
            if disk in matched:
                _point_to(item, f"ovf:/disk/{disk}")
            else:
                gone.add(child_text(item, "InstanceID"))
                _remove(item)
        elif is_drive(item) and (image := reading.resources.find(item)) is not None and image not in matched:
            for resource in list(children(item, "HostResource")):
                _remove(resource)
    for section in [
        found for found in root.iter(tag=etree.Element) if etree.QName(found).localname == "BootOrderSection"
    ]:
        if gone.intersection((attribute(section, "instanceId") or "").split()):
            _remove(section)


def _point_to(item: etree._Element, resource: str) -> None:
    present = list(children(item, "HostResource"))
    for element in present[1:]:
        _remove(element)
    if present:
        present[0].text = resource
        return
    namespace = next((etree.QName(found).namespace for found in children(item, "InstanceID", "ResourceType")), RASD)
    element = etree.Element(f"{{{namespace}}}HostResource")
    element.text = resource
    later = (place for place, found in enumerate(item) if etree.QName(found).localname > "HostResource")
    item.insert(next(later, len(item)), element)


class _Parts:
    """The files and disks of a descriptor."""

    def __init__(self, root: etree._Element) -> None:
        self._root = root
        self._references = self._section("References", 0)
        self._disk_section = self._section("DiskSection", root.index(self._references) + 1)
        self._files = {attribute(element, "id") or "": element for element in within(root, "References", "File")}
        self._disks = {attribute(element, "diskId") or "": element for element in within(root, "DiskSection", "Disk")}
        self._used_files: set[str] = set()

    def _section(self, name: str, place: int) -> etree._Element:
        found = child(self._root, name)
        if found is None:
            found = self._root.makeelement(f"{{{etree.QName(self._root).namespace}}}{name}")
            self._root.insert(place, found)
        return found

    def rewrite(self, theirs: EnvelopeDisk, disk: OvfDisk) -> None:
        """Describes ``theirs`` as the exported ``disk``."""
        element = self._disks.get(theirs.id)
        if element is None:
            element = self._disks[theirs.id] = self._added(self._disk_section, "Disk", diskId=theirs.id)
        if attribute(element, "capacity") is None or theirs.capacity_bytes != disk.capacity_bytes or _in_words(element):
            _set(element, "capacity", str(disk.capacity_bytes))
            _set(element, "capacityAllocationUnits", "byte")
        if disk.file_name is None:
            return
        file = self._files.get(theirs.file.id) if theirs.file is not None else None
        if file is None or attribute(file, "id") in self._used_files:
            file = self._add_file()  # for an empty disk, or the copy of one that has a file already
        file_id = attribute(file, "id") or ""
        self._used_files.add(file_id)
        _set(file, "href", href_of(disk.file_name))
        for name in ("compression", "chunkSize"):  # the exported file is complete and uncompressed
            _unset(file, name)
        _set(file, "size", str(disk.size_bytes))
        _set(element, "fileRef", file_id)
        _set(element, "format", FORMAT_URIS[disk.format])
        if disk.populated_bytes is not None:
            _set(element, "populatedSize", str(disk.populated_bytes))

    def _add_file(self) -> etree._Element:
        name = next(name for name in map("file{}".format, count(1)) if name not in self._files)
        self._files[name] = self._added(self._references, "File", id=name)
        return self._files[name]

    def _added(self, section: etree._Element, name: str, **attributes: str) -> etree._Element:
        element = etree.SubElement(section, f"{{{etree.QName(self._root).namespace}}}{name}")
        for key, value in attributes.items():
            _set(element, key, value)
        return element

    def remove_others(self, exported: Collection[str]) -> None:
        """Removes the disks that are not ``exported``, files (ISO images, NVRAM) that belong to no disk, and every
        reference to them: a drive remains, empty."""
        for disk_id, element in self._disks.items():
            if disk_id not in exported:
                _remove(element)
        gone = {file_id: element for file_id, element in self._files.items() if file_id not in self._used_files}
        for element in gone.values():
            _remove(element)
        for element in list(self._root.iter()):
            if _file_reference(element.text) in gone or any(
                _file_reference(str(value)) in gone for value in element.attrib.values()
            ):
                _remove(element)


def _in_words(element: etree._Element) -> bool:
    """Whether the unit of the capacity is not one of DSP0004."""
    return not (attribute(element, "capacityAllocationUnits") or "byte").startswith("byte")


def _file_reference(text: str | None) -> str | None:
    match = RESOURCE.fullmatch((text or "").strip())
    return match[2] if match and match[1].lower() == "file" else None


def _remove(element: etree._Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _unset(element: etree._Element, name: str) -> None:
    for key in list(element.attrib):
        if str(key).rpartition("}")[2] == name:
            del element.attrib[key]


def _set(element: etree._Element, name: str, value: str) -> None:
    """Sets the attribute of that local name if there is one, else adds it in the element's own namespace."""
    for key in element.attrib:
        if str(key).rpartition("}")[2] == name:
            element.set(key, value)
            return
    element.set(etree.QName(etree.QName(element).namespace, name), value)


def _unknown(why: str) -> IntegrityError:
    return IntegrityError(f"the server's descriptor does not match the exported disks: {why}", code=OVF_DISK_UNKNOWN)
