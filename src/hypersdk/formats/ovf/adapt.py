"""Fits the descriptor that a server wrote to the files that we wrote.

The server knows the machine better than we do (vApp properties, extra configuration), so its text is kept. What changes: file
names, sizes, capacities, the format; disks and other files that are not part of the export go, with all that refers to them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from lxml import etree

from hypersdk.errors import IntegrityError, register
from hypersdk.formats.names import href_of
from hypersdk.formats.ovf.document import attribute, child, child_text, children, parse_document
from hypersdk.formats.ovf.layout import FORMAT_URIS, OvfDisk
from hypersdk.formats.ovf.parse import EnvelopeDisk, disk_capacity, parse_ovf

OVF_DISK_UNKNOWN = register(
    "ovf_disk_unknown",
    "The server's descriptor and the exported disks cannot be matched without guessing.",
    "None: HyperSDK writes its own descriptor instead. Report it with the descriptor if that one does not suit you.",
)

_FILE_RESOURCE: Final = re.compile(r"(?:ovf:)?/file/(.{1,256})")
_DISK_RESOURCE: Final = re.compile(r"(?:ovf:)?/disk/(.{1,256})")

_PLACE: Final = re.compile(r"([A-Za-z]{1,60})(\d{1,3}):(\d{1,3})")
_KEY_BUSES: Final = (("ide", "ide"), ("ahci", "sata"), ("sata", "sata"), ("nvme", "nvme"))
"""Word in the controller's class name -> bus; all others (LsiLogic, ParaVirtualSCSI, BusLogic) are SCSI."""


def adapt_ovf(server_descriptor: bytes, disks: Sequence[OvfDisk]) -> bytes:
    """``server_descriptor`` for ``disks``.

    A disk is found by its file name, else by controller and unit, else by a capacity that no other disk has. Raises
    IntegrityError ``ovf_disk_unknown`` when that does not settle it, ``ovf_unsafe`` or ``bad_format`` when the text is not an
    OVF that can be read: the caller then writes its own with ``build_ovf``.
    """
    root = parse_document(server_descriptor)
    references, section = child(root, "References"), child(root, "DiskSection")
    if references is None or section is None:
        raise _unknown("it has no References or no DiskSection")
    files = {attribute(element, "id") or "": element for element in children(references, "File")}
    elements = {attribute(element, "diskId") or "": element for element in children(section, "Disk")}
    matched = _match(parse_ovf(server_descriptor).disks, disks)
    for disk_id, disk in matched.items():
        _rewrite(elements[disk_id], files[attribute(elements[disk_id], "fileRef") or ""], disk)
    kept_files = {attribute(elements[disk_id], "fileRef") for disk_id in matched}
    _drop_disks(root, {key: element for key, element in elements.items() if key not in matched})
    _drop_files(root, {key: element for key, element in files.items() if key not in kept_files})
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8") + b"\n"


# --- which of the server's disks is which of ours -----------------------------------------------------------------------


def _match(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """Disk id -> our disk. Each rule only sees what the ones before it left, and settles nothing where it is ambiguous."""
    open_theirs = [disk for disk in theirs if disk.file is not None]
    open_ours = list(ours)
    matched: dict[str, OvfDisk] = {}
    for rule in (_by_name, _by_place, _by_capacity):
        found = rule(open_theirs, open_ours)
        matched |= found
        open_theirs = [disk for disk in open_theirs if disk.id not in found]
        open_ours = [disk for disk in open_ours if disk not in found.values()]
    if open_ours:
        raise _unknown(f"'{open_ours[0].file_name}' is not in it")
    return matched


def _by_name(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """By the file name, or by the lease key, which a server may use as file id or (its last part) as file name."""
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
    """By controller and unit, which stand in the lease key."""
    places: dict[tuple[str | None, int | None, int | None], OvfDisk] = dict(
        _unique((place, disk) for disk in ours if (place := place_in_key(disk.lease_key)) is not None)
    )
    found = ((disk.id, places.get((disk.bus, disk.bus_number, disk.unit_number)), disk) for disk in theirs)
    return _unique((key, our) for key, our, their in found if our and our.capacity_bytes == their.capacity_bytes)


def _by_capacity(theirs: Sequence[EnvelopeDisk], ours: Sequence[OvfDisk]) -> dict[str, OvfDisk]:
    """By the capacity, where each is the only one of its size on both sides."""
    return _unique((their.id, our) for their in theirs for our in ours if their.capacity_bytes == our.capacity_bytes)


_Key = TypeVar("_Key", bound=Hashable)


def _unique(pairs: Iterable[tuple[_Key, OvfDisk]]) -> dict[_Key, OvfDisk]:
    """Those pairs whose key and whose disk occur in no other pair."""
    all_pairs = set(pairs)
    keys, disks = Counter(key for key, _ in all_pairs), Counter(disk for _, disk in all_pairs)
    return {key: disk for key, disk in all_pairs if keys[key] == disks[disk] == 1}


def _last_part(lease_key: str | None) -> str | None:
    return lease_key.rpartition("/")[2] if lease_key else None


def place_in_key(lease_key: str | None) -> tuple[str, int, int] | None:
    """Bus, bus number and unit from ``/vm-42/ParaVirtualSCSIController0:3``; ``None`` for a key of another form."""
    match = _PLACE.fullmatch(_last_part(lease_key) or "")
    if match is None:
        return None
    kind = match[1].lower()
    bus = next((bus for word, bus in _KEY_BUSES if word in kind), "scsi")
    return bus, int(match[2]), int(match[3])


# --- changing the text --------------------------------------------------------------------------------------------------


def _rewrite(element: etree._Element, file: etree._Element, disk: OvfDisk) -> None:
    _set(file, "href", href_of(disk.file_name))
    _set(file, "size", str(disk.size_bytes))
    for name in ("compression", "chunkSize"):  # ours is whole and as it is
        _unset(file, name)
    _set(element, "format", FORMAT_URIS[disk.format])
    if disk_capacity(element) != disk.capacity_bytes:
        _set(element, "capacity", str(disk.capacity_bytes))
        _set(element, "capacityAllocationUnits", "byte")
    if disk.populated_bytes is not None:
        _set(element, "populatedSize", str(disk.populated_bytes))


def _drop_disks(root: etree._Element, gone: Mapping[str, etree._Element]) -> None:
    """Takes out Disk elements and the hardware items that stand for them."""
    for element in gone.values():
        _remove(element)
    for item in [
        item for item in root.iter(tag=etree.Element) if etree.QName(item).localname in ("Item", "StorageItem")
    ]:
        match = _DISK_RESOURCE.fullmatch(child_text(item, "HostResource") or "")
        if match and match[1] in gone:
            _remove(item)


def _drop_files(root: etree._Element, files: Mapping[str, etree._Element]) -> None:
    """Takes out File elements (ISO images, NVRAM) and every reference to them: a drive stays, empty."""
    for element in files.values():
        _remove(element)
    for element in list(root.iter()):
        if _file_reference(element.text) in files or any(
            _file_reference(str(value)) in files for value in element.attrib.values()
        ):
            _remove(element)


def _file_reference(text: str | None) -> str | None:
    match = _FILE_RESOURCE.fullmatch((text or "").strip())
    return match[1] if match else None


def _remove(element: etree._Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _set(element: etree._Element, name: str, value: str) -> None:
    """Sets the attribute of that local name where it is, else adds it in the element's own namespace."""
    for key in element.attrib:
        if etree.QName(str(key)).localname == name:
            element.set(key, value)
            return
    element.set(etree.QName(etree.QName(element).namespace, name), value)


def _unset(element: etree._Element, name: str) -> None:
    for key in [key for key in element.attrib if etree.QName(str(key)).localname == name]:
        del element.attrib[key]


def _unknown(why: str) -> IntegrityError:
    return IntegrityError(f"the server's descriptor does not fit the exported disks: {why}", code=OVF_DISK_UNKNOWN)
