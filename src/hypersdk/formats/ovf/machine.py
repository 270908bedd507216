"""The machine in a descriptor, without its disks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lxml import etree

from hypersdk.formats.ovf.document import attribute, child, child_text, children, malformed, within
from hypersdk.formats.ovf.hardware import label_of, resource_type
from hypersdk.formats.ovf.layout import VBOX, ResourceType
from hypersdk.formats.ovf.values import Warnings, amount, shown, small_number
from hypersdk.model import Firmware


@dataclass(frozen=True, slots=True)
class EnvelopeNic:
    """One network card."""

    label: str
    mac: str | None
    network: str | None
    adapter: str | None


@dataclass(frozen=True, slots=True)
class OvfSystem:
    """The machine; None where the descriptor has no value."""

    name: str | None
    os_id: int | None
    os_type: str | None
    os_name: str | None
    cpus: int | None
    cores_per_socket: int | None
    memory_bytes: int | None
    firmware: Firmware
    secure_boot: bool
    hardware_version: str | None = None
    annotation: str | None = None
    boot_disks: tuple[str, ...] = ()
    """Ids of the disks that the boot order names, in that order."""


def only_system(root: etree._Element) -> etree._Element:
    """Returns the machine. Raises IntegrityError with their names where there are several."""
    systems = list(_systems(root))
    if len(systems) != 1:
        names = ", ".join(shown(_name(system)) for system in systems[:10])
        raise malformed(
            f"the descriptor holds {len(systems)} machines; exactly one is supported" + (f": {names}" if names else "")
        )
    return systems[0]


def _systems(parent: etree._Element) -> Iterator[etree._Element]:
    for element in children(parent, "VirtualSystem", "VirtualSystemCollection"):
        if etree.QName(element).localname == "VirtualSystem":
            yield element
        else:
            yield from _systems(element)


def _name(system: etree._Element) -> str | None:
    return child_text(system, "Name") or attribute(system, "id")


def read_system(
    system: etree._Element,
    items: Sequence[etree._Element],
    disks: Mapping[str, etree._Element],
    warnings: Warnings,
) -> OvfSystem:
    """Reads the machine. ``items`` are the hardware items in use, ``disks`` those of the disks, by their ids."""
    os_section, family = child(system, "OperatingSystemSection"), child(system, "VirtualHardwareSection")
    family = child(family, "System") if family is not None else None
    annotation = child(system, "AnnotationSection")
    cpu, memory = _first(items, ResourceType.CPU), _first(items, ResourceType.MEMORY)
    settings = dict(_settings(system))

    def count(text: str | None, what: str) -> int | None:
        number = small_number(text)
        if text is not None and number is None:
            warnings.add(f"the {what} {shown(text)} is not a number and is ignored")
        return number

    return OvfSystem(
        name=_name(system),
        os_id=count(attribute(os_section, "id"), "kind of operating system") if os_section is not None else None,
        os_type=attribute(os_section, "osType") if os_section is not None else None,
        os_name=child_text(os_section, "Description") if os_section is not None else None,
        cpus=count(child_text(cpu, "VirtualQuantity"), "number of CPUs") if cpu is not None else None,
        cores_per_socket=count(child_text(cpu, "CoresPerSocket"), "number of cores") if cpu is not None else None,
        memory_bytes=_memory_bytes(memory, warnings) if memory is not None else None,
        firmware=_firmware(system, settings),
        secure_boot=settings.get("bootOptions.efiSecureBootEnabled", "").lower() == "true",
        hardware_version=child_text(family, "VirtualSystemType") if family is not None else None,
        annotation=child_text(annotation, "Annotation") if annotation is not None else None,
        boot_disks=tuple(_boot_disks(system, disks)),
    )


def _firmware(system: etree._Element, settings: Mapping[str, str]) -> Firmware:
    """Reads VMware's setting, else VirtualBox's section (``EFI``, ``EFI64`` ...)."""
    name = settings.get("firmware")
    if name is None:
        found = next(system.iter(f"{{{VBOX}}}Firmware"), None)
        name = attribute(found, "type") if found is not None else None
    return Firmware.EFI if (name or "").lower().startswith("efi") else Firmware.BIOS


def _boot_disks(system: etree._Element, items: Mapping[str, etree._Element]) -> Iterator[str]:
    """Yields the disks in vCenter's ``BootOrderSection``. Unknown entries are ignored: they do not affect the disks."""
    by_instance = {child_text(item, "InstanceID"): disk for disk, item in items.items()}
    for section in children(system, "BootOrderSection"):
        for instance in (attribute(section, "instanceId") or "").split():
            if instance in by_instance:
                yield by_instance[instance]


def _settings(system: etree._Element) -> Iterator[tuple[str, str]]:
    """``vmw:Config`` key and value pairs of the hardware."""
    for element in within(system, "VirtualHardwareSection", "Config"):
        key, value = attribute(element, "key"), attribute(element, "value")
        if key and value:
            yield key, value


def _memory_bytes(item: etree._Element, warnings: Warnings) -> int | None:
    quantity, unit = child_text(item, "VirtualQuantity"), child_text(item, "AllocationUnits") or "byte * 2^20"
    size = amount(quantity, unit)
    if quantity is not None and size is None:
        warnings.add(f"the memory size {shown(quantity)} in {shown(unit)} cannot be read and is ignored")
    return size


def read_nics(items: Sequence[etree._Element]) -> tuple[EnvelopeNic, ...]:
    """Returns the network cards among the items in use."""
    return tuple(_nic(item) for item in items if resource_type(item) == ResourceType.ETHERNET)


def _nic(item: etree._Element) -> EnvelopeNic:
    address, network = child_text(item, "Address"), child_text(item, "Connection")
    return EnvelopeNic(label_of(item), address, network, child_text(item, "ResourceSubType"))


def _first(items: Sequence[etree._Element], resource: ResourceType) -> etree._Element | None:
    return next((item for item in items if resource_type(item) == resource), None)
