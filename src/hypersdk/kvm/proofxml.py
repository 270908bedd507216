"""The XML of a proof: the landed domain, changed only where its isolation needs it.

| what | change |
| --- | --- |
| name, UUID | its own |
| disks | ``<transient/>``: libvirt puts an overlay over each and deletes it when the domain ends |
| CD-ROM and floppy drives | empty |
| network cards | link down |
| NVRAM | a new one from the firmware's template |
| graphics | no listener |
| serial ports | pty, which is what a console is opened on; no log files |
| one more | a debug console at port 0x402, on which SeaBIOS says what it does |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

from hypersdk.errors import TargetError
from hypersdk.kvm.document import parsed
from hypersdk.kvm.domainxml import AGENT_CHANNEL
from hypersdk.kvm.library import LIBVIRT_FAILED

_DEBUG_PORT: Final = "0x402"
"""Where SeaBIOS writes its messages when QEMU has a debug console there (``Debugging.md`` in its documentation)."""


@dataclass(frozen=True, slots=True)
class ProofDomain:
    """What a proof is started from. ``serial`` and ``debug`` are devices of ``virDomainOpenConsole``; None where the
    domain has no serial port, or its firmware no debug console."""

    xml: str
    name: str
    serial: str | None
    debug: str | None
    agent: bool
    accelerated: bool
    disks: tuple[str, ...]


def proof_domain(landed_xml: str, *, name: str, uuid: str) -> ProofDomain:
    """The proof of the domain ``landed_xml``, which libvirt gave. Raises TargetError where that is not a domain."""
    domain = parsed(landed_xml)
    devices = domain.find("devices")
    if domain.tag != "domain" or devices is None or domain.find("os") is None:
        raise TargetError("libvirt's answer is not the XML of a domain", code=LIBVIRT_FAILED)
    _identity(domain, name, uuid)
    _variables(domain.find("os"))
    disks = tuple(path for disk in devices.findall("disk") if (path := _disk(disk)))
    for nic in devices.findall("interface"):
        _set(nic, "link", state="down")
    for graphics in devices.findall("graphics"):
        _unreachable(graphics)
    serial, debug = _consoles(devices, bios=not _is_efi(domain))
    return ProofDomain(
        xml=etree.tostring(domain, encoding="unicode"),
        name=name,
        serial=serial,
        debug=debug,
        agent=any(target.get("name") == AGENT_CHANNEL for target in devices.findall("channel/target")),
        accelerated=domain.get("type") == "kvm",
        disks=disks,
    )


def nvram_holder(running_xml: str) -> str | None:
    """A domain with the name, UUID and NVRAM of a running one, and nothing else; None without an NVRAM.

    Defined and undefined again while the other runs, it makes libvirt delete the file, which QEMU keeps open. The whole
    XML cannot be defined: libvirt 9 refuses its own answer, which has both the firmware's features and its path.
    """
    domain = parsed(running_xml)
    nvram, loader = domain.find("os/nvram"), domain.find("os/loader")
    if nvram is None or loader is None:
        return None
    holder = etree.Element("domain", type=domain.get("type"))
    holder.extend([domain.find("name"), domain.find("uuid")])
    etree.SubElement(holder, "memory").text = "1024"
    etree.SubElement(holder, "os").extend([domain.find("os/type"), loader, nvram])
    features = domain.find("features")
    if features is not None:  # secure boot needs SMM
        holder.append(features)
    return etree.tostring(holder, encoding="unicode")


def _identity(domain: Any, name: str, uuid: str) -> None:
    domain.attrib.pop("id", None)
    for tag, value in (("name", name), ("uuid", uuid)):
        _set(domain, tag).text = value
    for entry in domain.findall("sysinfo/system/entry[@name='uuid']"):  # must be the same
        entry.text = uuid


def _is_efi(domain: Any) -> bool:
    return domain.find("os").get("firmware") == "efi" or domain.find("os/loader") is not None


def _variables(system: Any) -> None:
    """A new NVRAM: its path and content belong to the landed domain. Where libvirt chooses the firmware it chooses
    again; a path beside the features of a choice, which it has itself written after the first start, it refuses."""
    chosen = system.get("firmware") is not None
    for tag in ("loader", "nvram") if chosen else ("firmware",):
        for child in system.findall(tag):
            system.remove(child)
    nvram = system.find("nvram")
    if nvram is not None:
        template = nvram.get("template")
        nvram.clear()
        if template:
            nvram.set("template", template)
        else:
            system.remove(nvram)


def _disk(disk: Any) -> str | None:
    """Makes the disk safe; returns the path of its file."""
    source = disk.find("source")
    if disk.get("device", "disk") != "disk":
        if source is not None:
            disk.remove(source)
        return None
    if disk.find("readonly") is None:
        _set(disk, "transient")
    return None if source is None else source.get("file")


def _unreachable(graphics: Any) -> None:
    for name in ("port", "tlsPort", "autoport", "websocket", "listen", "socket", "passwd", "passwdValidTo"):
        graphics.attrib.pop(name, None)
    for listen in graphics.findall("listen"):
        graphics.remove(listen)
    etree.SubElement(graphics, "listen", type="none")


def _consoles(devices: Any, *, bios: bool) -> tuple[str | None, str | None]:
    """libvirt names the serial ports ``serial0``, ``serial1`` ... in their order."""
    ports = devices.findall("serial")
    for port in (*ports, *devices.findall("console")):
        port.set("type", "pty")
        for tag in ("source", "log", "protocol"):
            for child in port.findall(tag):
                port.remove(child)
    if not bios:  # EDK II writes to its serial port
        return ("serial0" if ports else None), None
    debug = etree.SubElement(devices, "serial", type="pty")
    target = etree.SubElement(debug, "target", type="isa-debug", port=str(len(ports)))
    etree.SubElement(target, "model", name="isa-debugcon")
    etree.SubElement(debug, "address", type="isa", iobase=_DEBUG_PORT)
    return ("serial0" if ports else None), f"serial{len(ports)}"


def _set(parent: Any, tag: str, **attributes: str) -> Any:
    """The child ``tag``, made if it is missing, with the attributes."""
    child = parent.find(tag)
    if child is None:
        child = etree.SubElement(parent, tag)
    for name, value in attributes.items():
        child.set(name, value)
    return child
