"""The XML of a domain.

Facts of its elements: the *Domain XML format* page of libvirt's documentation. What is decided here and why stands in
docs/decisions/0047.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

from hypersdk.kvm.capabilities import Q35
from hypersdk.kvm.document import parsed
from hypersdk.kvm.osinfo import os_uri
from hypersdk.model import Firmware
from hypersdk.model.guestplan import DiskBus, GuestDisk, GuestNic, GuestPlan, disk_letters
from hypersdk.text import clean

METADATA: Final = "urn:hypersdk:domain:1.0"
"""Namespace of our metadata: a domain that carries it was landed by HyperSDK."""
_LIBOSINFO: Final = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
SPARE_PORTS: Final = 4
"""Free PCI Express ports: without one, no device can be added to a running guest."""
AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
_PREFIXES: Final = {DiskBus.VIRTIO: "vd", DiskBus.SCSI: "sd", DiskBus.SATA: "sd", DiskBus.IDE: "hd"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Kept with the domain. ``landing`` identifies one landing: by it a later run knows that the domain is its own.
    ``source`` is where the machine came from, as a user reads it."""

    landing: str
    source: str
    version: str


def domain_xml(plan: GuestPlan, *, uuid: str, origin: Origin) -> str:
    """Returns the definition of the domain, indented."""
    domain = etree.Element("domain", type=plan.virt_type)
    _sub(domain, "name", plan.name)
    _sub(domain, "uuid", uuid)
    if plan.title:
        _sub(domain, "title", plan.title)
    _sub(domain, "description", f"Landed by HyperSDK {origin.version} from {clean(origin.source, 1000)}")
    _metadata(domain, plan, origin)
    _sub(domain, "memory", str(plan.memory_bytes), unit="b")
    _sub(domain, "vcpu", str(plan.cpus), placement="static")
    _firmware(domain, plan)
    _features(domain, plan)
    _cpu(domain, plan)
    _clock(domain, plan)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _sub(domain, f"on_{event}", action)
    _devices(_sub(domain, "devices"), plan)
    etree.indent(domain)
    return etree.tostring(domain, encoding="unicode") + "\n"


def landing_of(domain_xml_text: str) -> str | None:
    """The id of the landing that made this domain; None for a domain that is not ours."""
    found = parsed(domain_xml_text).find(f"metadata/{{{METADATA}}}landing")
    return None if found is None else found.get("id")


def _metadata(domain: Any, plan: GuestPlan, origin: Origin) -> None:
    metadata = _sub(domain, "metadata")
    landing = etree.SubElement(metadata, f"{{{METADATA}}}landing", nsmap={"hypersdk": METADATA})
    landing.set("id", origin.landing)
    landing.set("version", origin.version)
    etree.SubElement(landing, f"{{{METADATA}}}source").text = clean(origin.source, 1000)
    if identifier := os_uri(plan.os_id):
        info = etree.SubElement(metadata, f"{{{_LIBOSINFO}}}libosinfo", nsmap={"libosinfo": _LIBOSINFO})
        etree.SubElement(info, f"{{{_LIBOSINFO}}}os").set("id", identifier)


def _firmware(domain: Any, plan: GuestPlan) -> None:
    """Secure boot is always said: libvirt's own choice is the firmware with secure boot and enrolled keys, which does
    not start an unsigned loader."""
    system = _sub(domain, "os")
    if plan.firmware is Firmware.EFI:
        system.set("firmware", "efi")
    _sub(system, "type", "hvm", arch="x86_64", machine=plan.machine_type)
    if plan.firmware is Firmware.EFI:
        firmware = _sub(system, "firmware")
        for feature in ("secure-boot", "enrolled-keys"):
            _sub(firmware, "feature", enabled=_yes(plan.secure_boot), name=feature)


def _features(domain: Any, plan: GuestPlan) -> None:
    features = _sub(domain, "features")
    _sub(features, "acpi")
    _sub(features, "apic")
    if plan.windows and plan.virt_type == "kvm":
        hyperv = _sub(features, "hyperv", mode="custom")
        _sub(hyperv, "relaxed", state="on")
        _sub(hyperv, "vapic", state="on")
        _sub(hyperv, "spinlocks", state="on", retries="8191")
    if plan.secure_boot:
        _sub(features, "smm", state="on")


def _cpu(domain: Any, plan: GuestPlan) -> None:
    cpu = _sub(domain, "cpu")
    if plan.cpu_mode:
        cpu.set("mode", plan.cpu_mode)
    sockets = plan.cpus // plan.cores_per_socket
    _sub(cpu, "topology", sockets=str(sockets), cores=str(plan.cores_per_socket), threads="1")
    if plan.cpu_mode == "maximum" and plan.virt_type == "qemu":
        # Five-level paging slows emulation down, and kernels and loaders that do not know it hang.
        _sub(cpu, "feature", policy="disable", name="la57")


def _clock(domain: Any, plan: GuestPlan) -> None:
    clock = _sub(domain, "clock", offset="localtime" if plan.windows else "utc")
    _sub(clock, "timer", name="rtc", tickpolicy="catchup")
    _sub(clock, "timer", name="pit", tickpolicy="delay")
    _sub(clock, "timer", name="hpet", present="no")
    if plan.windows and plan.virt_type == "kvm":
        _sub(clock, "timer", name="hypervclock", present="yes")


def _devices(devices: Any, plan: GuestPlan) -> None:
    _controllers(devices, plan)
    for number, disk in enumerate(plan.disks):
        _disk(devices, number, disk)
    for nic in plan.nics:
        _nic(devices, nic)
    _sub(_sub(devices, "serial", type="pty"), "target", port="0")
    _sub(_sub(devices, "console", type="pty"), "target", type="serial", port="0")
    if plan.agent:
        _sub(_sub(devices, "channel", type="unix"), "target", type="virtio", name=AGENT_CHANNEL)
    _sub(devices, "input", type="tablet", bus="usb")
    if plan.tpm:
        tpm = _sub(devices, "tpm", model="tpm-crb" if plan.firmware is Firmware.EFI else "tpm-tis")
        _sub(tpm, "backend", type="emulator", version="2.0")
    graphics = _sub(devices, "graphics", type="vnc", port="-1", autoport="yes")
    _sub(graphics, "listen", type="address", address="127.0.0.1")
    _sub(_sub(devices, "video"), "model", type=plan.video)
    _sub(devices, "memballoon", model="virtio" if plan.balloon else "none")
    if plan.rng:
        _sub(_sub(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")


def _controllers(devices: Any, plan: GuestPlan) -> None:
    if plan.machine_type == Q35:
        _sub(devices, "controller", type="pci", model="pcie-root", index="0")
        for index in range(1, _ports(plan) + SPARE_PORTS + 1):
            _sub(devices, "controller", type="pci", model="pcie-root-port", index=str(index))
    if any(disk.bus is DiskBus.SCSI for disk in plan.disks):
        _sub(devices, "controller", type="scsi", model="virtio-scsi", index="0")


def _ports(plan: GuestPlan) -> int:
    """PCI Express ports that the devices of ``plan`` take: each virtio disk, each card, and one for each of the USB and
    SCSI controllers, the agent's channel, the balloon and the random number generator."""
    virtio_disks = sum(disk.bus is DiskBus.VIRTIO for disk in plan.disks)
    scsi = any(disk.bus is DiskBus.SCSI for disk in plan.disks)
    return virtio_disks + len(plan.nics) + 1 + scsi + plan.agent + plan.balloon + plan.rng


def _disk(devices: Any, number: int, disk: GuestDisk) -> None:
    """``type='file'`` also for a volume of a pool: external snapshots of ``type='volume'`` fail. Space that the guest
    frees goes back to the file system."""
    element = _sub(devices, "disk", type="file", device="disk")
    _sub(element, "driver", name="qemu", type=disk.image_format, discard="unmap")
    _sub(element, "source", file=str(disk.file))
    _sub(element, "target", dev=f"{_PREFIXES[disk.bus]}{disk_letters(number)}", bus=disk.bus)
    _sub(element, "boot", order=str(number + 1))
    if disk.bus is DiskBus.SCSI:
        _sub(element, "address", type="drive", controller="0", bus="0", target=str(number), unit="0")


def _nic(devices: Any, nic: GuestNic) -> None:
    kind = "bridge" if nic.bridge else "network"
    element = _sub(devices, "interface", type=kind)
    if nic.mac:
        _sub(element, "mac", address=nic.mac)
    _sub(element, "source", **{kind: nic.target})
    _sub(element, "model", type=nic.model)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _sub(parent: Any, tag: str, text: str | None = None, **attributes: str) -> Any:
    element = etree.SubElement(parent, tag, attributes)
    element.text = text
    return element
