"""The hardware of a machine: the items in use, the controllers, and where each disk is attached.

::

    Item(controller: InstanceID, Address) <── Parent ── Item(disk: AddressOnParent) ── HostResource ──> Disk
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Final
from urllib.parse import unquote

from lxml import etree

from hypersdk.formats.ovf.document import attribute, child_text, child_texts, children, malformed, within
from hypersdk.formats.ovf.layout import CONTROLLER_SUBTYPES, ResourceType
from hypersdk.formats.ovf.values import Warnings, amount, shown, small_number

RESOURCE: Final = re.compile(r"(?:ovf:)?/{0,3}(disk|file)/(.{1,256})", re.IGNORECASE)
"""DSP0243 has ``ovf:/disk/ID``; OVF 0.9, VirtualBox and others omit or repeat parts of the prefix."""
_BUSES: Final = {ResourceType.IDE: "ide", ResourceType.SCSI: "scsi", ResourceType.OTHER_STORAGE: "sata"}
_DISKS: Final = (ResourceType.DISK, ResourceType.STORAGE_EXTENT, ResourceType.LOGICAL_DISK, ResourceType.STORAGE_VOLUME)
_DRIVES: Final = (ResourceType.FLOPPY, ResourceType.CD, ResourceType.DVD)
_BUS_ORDER: Final = ("ide", "scsi", "sata", "nvme")
"""The order of vSphere's own controller keys (200, 1000, 15000, 31000), in which an export numbers its disks too."""
_SUBTYPE_NAMES: Final = {subtype.lower(): name for name, subtype in CONTROLLER_SUBTYPES.items()}


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller. ``key`` is its InstanceID, ``kind`` the short name as in ``model.Disk``, empty for an unknown sub
    type."""

    key: int
    bus: str
    number: int
    kind: str
    position: int

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sorts controllers as firmware numbers them, whatever order they are listed in."""
        return _BUS_ORDER.index(self.bus), self.number, self.position


@dataclass(frozen=True, slots=True)
class DiskAddress:
    """Where a disk is attached: its hardware item, controller and unit; None where the descriptor does not say, or has
    an invalid value."""

    item: etree._Element
    label: str
    controller: Controller | None
    unit: int | None


@dataclass(frozen=True, slots=True)
class OvfHardware:
    """``items`` are those of the configuration in use, ``others`` all that are not; of these, ``dropped`` belong to
    another configuration. ``configuration`` is None where there is only one."""

    items: tuple[etree._Element, ...]
    others: tuple[etree._Element, ...]
    dropped: tuple[etree._Element, ...]
    configuration: str | None


# --- items in use
# ----------------------------------------------------------------------------------------------------


def read_hardware(root: etree._Element, system: etree._Element, warnings: Warnings) -> OvfHardware:
    """Returns the items of the first hardware section that belong to the default configuration. Raises IntegrityError
    where there is no section."""
    sections = list(children(system, "VirtualHardwareSection"))
    if not sections:
        raise malformed("the descriptor has no VirtualHardwareSection")
    if len(sections) > 1:
        warnings.add(f"the descriptor has {len(sections)} hardware sections; the first one is used")
    every = [item for section in sections for item in children(section, "Item", "StorageItem", "EthernetPortItem")]
    chosen = _configuration(root, every, warnings)
    first = [item for item in every if item.getparent() is sections[0]]
    holding = [item for item in first if attribute(item, "bound") in (None, "normal") and _holds(item, chosen)]
    items, replaced = _merged(holding) if chosen is not None else (holding, [])
    taken, gone = set(items), set(replaced)
    others = [item for item in every if item not in taken]
    dropped = [item for item in others if item in gone or not _holds(item, chosen)]
    return OvfHardware(tuple(items), tuple(others), tuple(dropped), chosen)


def _merged(items: Sequence[etree._Element]) -> tuple[list[etree._Element], list[etree._Element]]:
    """Returns the items, and those that were merged into a later one.

    Items of one instance number are one item: a child of an earlier one is used where no later one has a child of its
    name (DSP0243 9.8). Items without a configuration that share a number by mistake are not merged.
    """
    groups: dict[str, list[etree._Element]] = {}
    for item in items:
        if instance := child_text(item, "InstanceID"):
            groups.setdefault(instance, []).append(item)
    replaced: list[etree._Element] = []
    for group in groups.values():
        if len(group) > 1 and any(map(_configurations, group)):
            _merge(group)
            replaced += group[:-1]
    gone = set(replaced)
    return [item for item in items if item not in gone], replaced


def _merge(group: Sequence[etree._Element]) -> None:
    """Adds to the last item the children that it does not have."""
    last = group[-1]
    present = {etree.QName(child).localname for child in last.iterchildren(tag=etree.Element)}
    for item in reversed(group[:-1]):
        missing = [
            child for child in item.iterchildren(tag=etree.Element) if etree.QName(child).localname not in present
        ]
        last.extend(missing)
        present.update(etree.QName(child).localname for child in missing)


def _configuration(root: etree._Element, items: Iterable[etree._Element], warnings: Warnings) -> str | None:
    declared = list(within(root, "DeploymentOptionSection", "Configuration"))
    marked = [entry for entry in declared if (attribute(entry, "default") or "").lower() in ("true", "1")]
    names = [name for entry in (*marked, *declared) if (name := attribute(entry, "id"))]
    names += [name for item in items for name in _configurations(item)]
    if not names:
        return None
    others = [name for name in dict.fromkeys(names) if name != names[0]]
    if others:
        left = ", ".join(shown(name) for name in others[:5]) + (" and more" if len(others) > 5 else "")
        warnings.add(f"the configuration {shown(names[0])} of the descriptor is used; left out: {left}")
    return names[0]


def _configurations(item: etree._Element) -> list[str]:
    return (attribute(item, "configuration") or "").split()


def _holds(item: etree._Element, configuration: str | None) -> bool:
    names = _configurations(item)
    return not names or configuration in names


# --- where disks are attached
# ----------------------------------------------------------------------------------------------------


def resource_type(item: etree._Element) -> int | None:
    """Returns ``rasd:ResourceType``; None where it is not a number."""
    return small_number(child_text(item, "ResourceType"))


def label_of(item: etree._Element) -> str:
    """Returns the name of an item, on one line."""
    name = child_text(item, "ElementName") or child_text(item, "Caption") or child_text(item, "InstanceID")
    return " ".join((name or "?").split())[:200]


@dataclass(frozen=True, slots=True)
class Resources:
    """What items may refer to: the ids of the disks, and the id of the disk for each file of one."""

    disks: Collection[str]
    disk_of_file: Mapping[str, str]

    def new_id(self, preferred: str) -> str:
        """Returns ``preferred``, with a number if a disk has that id."""
        names = chain([preferred], (f"{preferred}-{number}" for number in count(2)))
        return next(name for name in names if name not in self.disks)

    def find(self, item: etree._Element) -> str | None:
        """Returns the first disk that ``item`` refers to; None where it refers to none."""
        texts = child_texts(item, "HostResource")
        return next((disk for text in texts if (disk := self._disk(text)) is not None), None)

    def of(self, item: etree._Element) -> str | None:
        """As ``find``. Raises IntegrityError for an item that refers to a disk or file that is not listed."""
        found = self.find(item)
        wrong = next((text for text in child_texts(item, "HostResource") if RESOURCE.fullmatch(text)), None)
        if found is None and wrong is not None:
            raise malformed(
                f"the hardware item {shown(label_of(item))} refers to a disk that is not listed: {shown(wrong)}"
            )
        return found

    def _disk(self, text: str) -> str | None:
        match = RESOURCE.fullmatch(text)
        names = (match[2], unquote(match[2])) if match else (text, text.rpartition("/")[2])
        if match and match[1].lower() == "file":
            return next((self.disk_of_file[name] for name in names if name in self.disk_of_file), None)
        return next((name for name in names if name in self.disks), None)


def is_disk(item: etree._Element) -> bool:
    """Whether the item is a hard disk."""
    return resource_type(item) in _DISKS


def is_drive(item: etree._Element) -> bool:
    """Whether the item is a drive for floppies, CDs or DVDs. VirtualBox lists their images as disks."""
    return resource_type(item) in _DRIVES


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each disk is attached.

    ``placed`` is in the order in which firmware numbers disks; an item that refers to no listed disk has a new id
    there. So has every further item for one disk, because each gets a copy: ``original`` has the disk. ``unnamed`` are
    the disks that no item refers to, ``left_out`` those that only items of other configurations refer to, ``images``
    those in drives. ``disk_of`` has the disk of every hardware item, in any configuration."""

    placed: Mapping[str, DiskAddress]
    original: Mapping[str, str]
    unnamed: tuple[str, ...]
    left_out: tuple[str, ...]
    images: tuple[str, ...]
    disk_of: Mapping[etree._Element, str]


def place_disks(hardware: OvfHardware, resources: Resources, warnings: Warnings) -> Placement:
    """Assigns disks to hardware items. Raises IntegrityError where an item refers to a disk that is not listed."""
    controllers = _controllers(hardware.items, warnings)
    placed: dict[str, DiskAddress] = {}
    blank: list[DiskAddress] = []
    original: dict[str, str] = {}
    disk_of = {item: disk for item in hardware.others if is_disk(item) and (disk := resources.find(item)) is not None}
    elsewhere = set(disk_of.values())
    for item in filter(is_disk, hardware.items):
        place, disk = _place(item, controllers, warnings), resources.of(item)
        if disk is None:
            blank.append(place)
        elif disk in placed:
            copy = resources.new_id(f"{disk}-copy{len(original) + 1}")
            original[copy] = disk
            placed[copy] = place
        else:
            placed[disk] = place
    drives = [item for item in (*hardware.items, *hardware.others) if is_drive(item)]
    images = {disk for item in drives if (disk := resources.find(item)) is not None and disk not in placed}
    unnamed = [disk for disk in resources.disks if not (disk in placed or disk in elsewhere or disk in images)]
    unassigned = [place for place in blank if not child_texts(place.item, "HostResource")]
    if len(unnamed) == len(unassigned) == 1:
        warnings.add(
            f"the hardware item {shown(unassigned[0].label)} names no disk; {shown(unnamed[0])}, the only one left,"
            " is used"
        )
        placed[unnamed.pop()] = unassigned[0]
        blank.remove(unassigned[0])
    placed |= {resources.new_id(f"item{number}"): place for number, place in enumerate(blank, start=1)}
    _warn_of_shared_places(placed.values(), warnings)
    return Placement(
        placed=dict(sorted(placed.items(), key=_rank)),
        original=original,
        unnamed=tuple(unnamed),
        left_out=tuple(disk for disk in resources.disks if disk in elsewhere and disk not in placed),
        images=tuple(disk for disk in resources.disks if disk in images and disk not in elsewhere),
        disk_of=disk_of | {place.item: disk for disk, place in placed.items()},
    )


def _rank(entry: tuple[str, DiskAddress]) -> tuple[bool, tuple[int, ...], bool, int]:
    controller, unit = entry[1].controller, entry[1].unit
    return controller is None, controller.rank if controller else (), unit is None, unit or 0


def _place(item: etree._Element, controllers: Mapping[str, Controller], warnings: Warnings) -> DiskAddress:
    label, parent, address = label_of(item), child_text(item, "Parent"), child_text(item, "AddressOnParent")
    controller, unit = controllers.get(parent or ""), small_number(address)
    if controller is None:
        warnings.add(f"it is unknown what {shown(label)} is attached to: there is no controller {shown(parent)}")
    elif unit is None:
        warnings.add(f"the unit of {shown(label)} at its controller is unknown: {shown(address)} is not a number")
    return DiskAddress(item, label, controller, unit)


def _warn_of_shared_places(places: Collection[DiskAddress], warnings: Warnings) -> None:
    shared = Counter((place.controller, place.unit) for place in places)
    for (controller, unit), disks in shared.items():
        if controller is not None and unit is not None and disks > 1:
            warnings.add(f"{disks} disks are attached at {controller.bus} {controller.number}:{unit}")
    controllers = {place.controller for place in places if place.controller is not None}
    for (bus, number), alike in Counter((controller.bus, controller.number) for controller in controllers).items():
        if alike > 1:
            warnings.add(f"{alike} {bus} controllers with disks have the number {number}")


def _controllers(items: Sequence[etree._Element], warnings: Warnings) -> dict[str, Controller]:
    """Returns the controllers by instance number as written. One without a number on its bus gets the next free one."""
    found = [(position, item) for position, item in enumerate(items) if resource_type(item) in _BUSES]
    announced = {(_bus(item), small_number(child_text(item, "Address"))) for _, item in found}
    free = {bus: _free_numbers(bus, announced) for bus in _BUS_ORDER}
    keys = count(
        1 + max((number for item in items if (number := small_number(child_text(item, "InstanceID")))), default=0)
    )
    controllers: dict[str, Controller] = {}
    for position, item in found:
        instance, bus, number = child_text(item, "InstanceID"), _bus(item), small_number(child_text(item, "Address"))
        if instance is None or instance in controllers:
            warnings.add(
                f"the controller {shown(label_of(item))} has no instance number of its own; the disks attached to it"
                " are unknown"
            )
            continue
        key = small_number(instance)
        kind = _SUBTYPE_NAMES.get((child_text(item, "ResourceSubType") or "").lower(), "")
        controllers[instance] = Controller(
            key=next(keys) if key is None else key,
            bus=bus,
            number=next(free[bus]) if number is None else number,
            kind=kind,
            position=position,
        )
    return controllers


def _free_numbers(bus: str, announced: Collection[tuple[str, int | None]]) -> Iterator[int]:
    return (number for number in count() if (bus, number) not in announced)


def _bus(controller: etree._Element) -> str:
    subtype = (child_text(controller, "ResourceSubType") or "").lower()
    bus = _BUSES[ResourceType(resource_type(controller) or 0)]
    if bus != "sata":
        return bus
    return "nvme" if "nvme" in subtype else "scsi" if "virtio" in subtype else "sata"


def quantity_bytes(item: etree._Element) -> int | None:
    """Returns the size of the disk in the item (``rasd:VirtualQuantity``); None where it has none, or no unit."""
    unit = child_text(item, "VirtualQuantityUnits") or child_text(item, "AllocationUnits")
    return amount(child_text(item, "VirtualQuantity"), unit) if unit else None
