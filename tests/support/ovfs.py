"""OVF packages made from nothing, in the dialects of the writers that are about: for tests that ask where every disk
ends up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree

from hypothesis import strategies as st

from hypersdk.units import KiB, MiB

OVF_1: Final = "http://schemas.dmtf.org/ovf/envelope/1"
OVF_09: Final = "http://www.vmware.com/schema/ovf/1/envelope"
RASD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
BUSES: Final = ("ide", "scsi", "sata", "nvme")
"""In the order in which vSphere numbers the disks of a machine."""
_TYPES: Final = {
    "ide": (5, None),
    "scsi": (6, "lsilogic"),
    "sata": (20, "AHCI"),
    "nvme": (20, "vmware.nvme.controller"),
}
_POINTERS: Final = (
    "ovf:/disk/{}",
    "ovf:disk/{}",
    "ovf://disk/{}",
    "//disk/{}",
    "/disk/{}",
    "disk/{}",
    "OVF:/Disk/{}",
    "{}",
    "\n ovf:/disk/{} \n",
)
_SIZES: Final = (
    (1, None),
    (1, "byte"),
    (KiB, "byte * 2^10"),
    (KiB, "byte*2^10"),
    (KiB, "KB"),
    (KiB, "KiloBytes"),
    (MiB, "byte * 1024 * 1024"),
    (MiB, "MegaBytes"),
)


@dataclass(frozen=True)
class PackedDisk:
    """One disk of a package. ``content`` is the number of its file, None for a disk that starts empty.
    ``configuration`` is the one that its item belongs to, None for all; ``place`` is bus, number of the controller,
    unit."""

    id: str
    place: tuple[str, int, int]
    content: int | None
    capacity_bytes: int
    configuration: str | None
    pointer: str
    unit: tuple[int, str | None]

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts disks as they are to be numbered."""
        bus, number, unit = self.place
        return BUSES.index(bus), number, unit


@dataclass(frozen=True)
class Package:
    """A machine. ``listing`` shuffles what the descriptor lists; ``default`` is the configuration that holds, where
    there are several."""

    disks: tuple[PackedDisk, ...]
    listing: tuple[int, ...]
    old: bool
    configurations: tuple[str, ...]
    default: str | None
    memory: tuple[str, str]
    encoding: str = "utf-8"
    instances: Mapping[tuple[str, int], int] = field(default_factory=dict)

    @property
    def held(self) -> list[PackedDisk]:
        """The disks of the configuration that holds, in their order."""
        return sorted(
            (disk for disk in self.disks if disk.configuration in (None, self.default)), key=lambda disk: disk.order
        )

    def _shuffled(self, parts: Sequence[str]) -> str:
        keyed = zip(
            (self.listing[number % len(self.listing)] for number in range(len(parts))),
            range(len(parts)),
            parts,
            strict=True,
        )
        return "\n".join(part for _, _, part in sorted(keyed))

    def descriptor(self, file_of: Mapping[int, str], *, parents_first: bool = False) -> bytes:
        """The descriptor; ``file_of`` has the file names of the contents. Some readers want the controllers before
        their disks."""
        files = [f'<File ovf:id="f{n}" ovf:href="{name}"/>' for n, name in file_of.items()]
        text = f"""<?xml version="1.0" encoding="{self.encoding}"?>
<Envelope xmlns="{OVF_09 if self.old else OVF_1}" xmlns:ovf="{OVF_09 if self.old else OVF_1}" xmlns:rasd="{RASD}"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<References>{self._shuffled(files)}</References>
{self._section("DiskSection", "<Info/>" + self._shuffled([self._disk(disk) for disk in self.disks]))}
{self._options()}
{self._system(parents_first)}
</Envelope>"""
        return text.encode(self.encoding)

    def _section(self, name: str, inside: str, attributes: str = "") -> str:
        if not self.old:
            return f"<{name}{attributes}>{inside}</{name}>"
        tag = "Content" if name == "VirtualSystem" else "Section"
        return f'<{tag} xsi:type="ovf:{name}_Type"{attributes}>{inside}</{tag}>'

    def _disk(self, disk: PackedDisk) -> str:
        factor, word = disk.unit if disk.capacity_bytes % disk.unit[0] == 0 else (1, None)
        unit = f' ovf:capacityAllocationUnits="{word}"' if word else ""
        file = "" if disk.content is None else f' ovf:fileRef="f{disk.content}"'
        return f'<Disk ovf:diskId="{disk.id}" ovf:capacity="{disk.capacity_bytes // factor}"{unit}{file}/>'

    def _options(self) -> str:
        if self.default is None:
            return ""
        marks = "".join(
            f'<Configuration ovf:id="{name}" ovf:default="{str(name == self.default).lower()}"/>'
            for name in self.configurations
        )
        return self._section("DeploymentOptionSection", marks)

    def _system(self, parents_first: bool) -> str:
        quantity, unit = self.memory
        items = [
            self._item(1, "cpu", 3, VirtualQuantity="2"),
            self._item(2, "memory", 4, VirtualQuantity=quantity, AllocationUnits=unit),
            *(self._controller(*key) for key in self.instances),
        ]
        disks = [self._disk_item(number, disk) for number, disk in enumerate(self.disks)]
        listed = self._shuffled(items) + self._shuffled(disks) if parents_first else self._shuffled([*items, *disks])
        product = self._section("ProductSection", '<Info/><Property ovf:key="hostname" ovf:type="string"/>')
        system = self._section("OperatingSystemSection", "<Info/><Description>Än OS</Description>", ' ovf:id="101"')
        hardware = self._section("VirtualHardwareSection", "<Info/>" + listed)
        return self._section("VirtualSystem", f"<Info/>{product}{system}{hardware}", ' ovf:id="vm"')

    def _controller(self, bus: str, number: int) -> str:
        kind, subtype = _TYPES[bus]
        names = {"BusNumber" if self.old else "Address": str(number)}
        return self._item(self.instances[bus, number], f"{bus} {number}", kind, ResourceSubType=subtype, **names)

    def _disk_item(self, number: int, disk: PackedDisk) -> str:
        attribute = f' ovf:configuration="{disk.configuration}"' if disk.configuration else ""
        bus, controller, unit = disk.place
        return self._item(
            900 + number,
            f"disk {disk.id}",
            17,
            attribute,
            Parent=str(self.instances[bus, controller]),
            AddressOnParent=str(unit),
            HostResource=disk.pointer.format(disk.id),
        )

    def _item(self, instance: int, label: str, kind: int, attribute: str = "", **values: str | None) -> str:
        names = ("Caption", "InstanceId") if self.old else ("ElementName", "InstanceID")
        rows = {names[0]: label, names[1]: str(instance), "ResourceType": str(kind), **values}
        return (
            f"<Item{attribute}>"
            + "".join(f"<rasd:{key}>{text}</rasd:{key}>" for key, text in sorted(rows.items()) if text)
            + "</Item>"
        )


@st.composite
def packages(draw: st.DrawFn, contents: int, capacity_bytes: int) -> Package:
    """Machines with disks of the ``contents`` files, all of one capacity, which is no help to tell them apart."""
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(BUSES), st.integers(0, 3), st.integers(0, 6)),
            min_size=1,
            max_size=contents,
            unique=True,
        )
    )
    configurations = draw(st.sampled_from([(), (), ("small", "large"), ("large", "small")]))
    default = draw(st.sampled_from(configurations)) if configurations else None
    numbers = iter(draw(st.permutations(range(contents))))
    disks = []
    for number, place in enumerate(places):
        empty = draw(st.booleans()) and number > 0
        disks.append(
            PackedDisk(
                id=f"d{number}",
                place=place,
                content=None if empty else next(numbers),
                capacity_bytes=capacity_bytes,
                configuration=draw(st.sampled_from([None, *configurations])) if configurations and number > 0 else None,
                pointer=draw(st.sampled_from(_POINTERS)),
                unit=draw(st.sampled_from(_SIZES)),
            )
        )
    controllers = draw(st.permutations(sorted({place[:2] for place in places})))
    keys = draw(st.lists(st.integers(3, 899), min_size=len(controllers), max_size=len(controllers), unique=True))
    return Package(
        disks=tuple(disks),
        listing=tuple(draw(st.lists(st.integers(0, 9), min_size=5, max_size=5))),
        old=draw(st.booleans()),
        configurations=configurations,
        default=default,
        memory=draw(
            st.sampled_from(
                [
                    ("256", "MegaBytes"),
                    ("256", "byte * 2^20"),
                    ("262144", "KB"),
                    ("256", "byte * 1024 * 1024"),
                    ("1", "of plenty"),
                ]
            )
        ),
        encoding=draw(st.sampled_from(["utf-8", "utf-16", "iso-8859-1", "utf-8-sig"])),
        instances=dict(zip(controllers, keys, strict=True)),
    )


# --- reading what was made of one
# -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attached:
    """A disk of a written descriptor: the file behind it, if any, and its capacity."""

    href: str | None
    capacity_bytes: int


def attached_disks(descriptor: bytes) -> dict[tuple[str, int, int], Attached]:
    """Disks by bus, number and unit, read as strictly as DSP0243 has it and with nothing of ours."""
    ovf, rasd = f"{{{OVF_1}}}", f"{{{RASD}}}"
    root = ElementTree.fromstring(descriptor)
    files = {
        element.attrib[f"{ovf}id"]: element.attrib[f"{ovf}href"]
        for element in root.iterfind(f"{ovf}References/{ovf}File")
    }
    disks = {element.attrib[f"{ovf}diskId"]: element for element in root.iterfind(f"{ovf}DiskSection/{ovf}Disk")}
    items = list(root.iterfind(f"{ovf}VirtualSystem/{ovf}VirtualHardwareSection/{ovf}Item"))
    controllers = {}
    for item in items:
        kind, subtype = item.findtext(f"{rasd}ResourceType"), item.findtext(f"{rasd}ResourceSubType")
        bus = next((bus for bus, facts in _TYPES.items() if (str(facts[0]), facts[1]) == (kind, subtype)), None)
        if bus:
            controllers[item.findtext(f"{rasd}InstanceID")] = bus, int(item.findtext(f"{rasd}Address") or "")
    found = {}
    for item in items:
        if item.findtext(f"{rasd}ResourceType") != "17":
            continue
        scheme, _, disk_id = (item.findtext(f"{rasd}HostResource") or "").rpartition("/")
        assert scheme == "ovf:/disk"
        disk = disks.pop(disk_id)
        units = {None: 1, "byte": 1, "byte * 2^10": KiB, "byte*2^10": KiB, "byte * 1024 * 1024": MiB}
        capacity = int(disk.attrib[f"{ovf}capacity"]) * units[disk.get(f"{ovf}capacityAllocationUnits")]
        file = disk.get(f"{ovf}fileRef")
        place = (*controllers[item.findtext(f"{rasd}Parent")], int(item.findtext(f"{rasd}AddressOnParent") or ""))
        found[place] = Attached(files.pop(file) if file else None, capacity)
    assert not disks
    assert not files
    return found
