"""Domains for guests of the tests, written by hand: independent of the XML that the product writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd

Bus = Literal["virtio", "scsi", "sata", "ide"]
TARGETS: Final[dict[Bus, str]] = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}


def domain_xml(guest: Guest, name: str, folder: Path, *, bus: Bus = "ide", secure_boot: bool = False) -> str:
    """A transient or persistent domain of ``guest``: software emulation, no network.

    Its serial port is the socket ``folder/NAME.serial``; what comes out of it is also in ``folder/NAME.log``.
    """
    return f"""\
<domain type='qemu'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{guest.memory_mb}</memory>
  <vcpu>1</vcpu>
  {_os(guest, bus, secure_boot)}
  <devices>
    {"".join(_disk(disk, number, bus) for number, disk in enumerate(guest.disks))}
    {"<controller type='scsi' model='virtio-scsi'/>" if bus == "scsi" else ""}
    <serial type='unix'>
      <source mode='bind' path={quoteattr(str(folder / f"{name}.serial"))}/>
      <log file={quoteattr(str(folder / f"{name}.log"))} append='off'/>
    </serial>
    <video><model type='vga'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def vmware_xml(guest: Guest) -> str:
    """The guest as virt-v2v takes it from ``-i libvirtxml``."""
    firmware = " firmware='efi'" if guest.firmware == "efi" else ""
    return f"""\
<domain type='vmware'>
  <name>{escape(guest.name)}</name>
  <memory unit='MiB'>{guest.memory_mb}</memory>
  <vcpu>1</vcpu>
  <os{firmware}><type arch='x86_64'>hvm</type></os>
  <devices>
    {"".join(_disk(disk, number, "scsi") for number, disk in enumerate(guest.disks))}
  </devices>
</domain>
"""


def _os(guest: Guest, bus: Bus, secure_boot: bool) -> str:
    machine = "pc" if bus == "ide" else "q35"
    type_ = f"<type arch='x86_64' machine='{machine}'>hvm</type>"
    if guest.firmware == "bios":
        return f"<os>{type_}</os><features><acpi/></features>"
    wanted = "yes" if secure_boot else "no"
    features = "".join(f"<feature enabled='{wanted}' name='{name}'/>" for name in ("secure-boot", "enrolled-keys"))
    smm = "<smm state='on'/>" if secure_boot else ""
    return f"<os firmware='efi'>{type_}<firmware>{features}</firmware></os><features><acpi/>{smm}</features>"


def _disk(image: Path, number: int, bus: Bus) -> str:
    return f"""
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file={quoteattr(str(image))}/>
      <target dev='{TARGETS[bus]}{"abcdefgh"[number]}' bus='{bus}'/>
      <boot order='{number + 1}'/>
    </disk>"""


def started(
    libvirtd: Libvirtd, guest: Guest, name: str, folder: Path, *, bus: Bus = "ide", secure_boot: bool = False
) -> Path:
    """Starts a transient domain; returns the file in which the output of its serial port appears."""
    definition = folder / f"{name}.xml"
    definition.write_text(domain_xml(guest, name, folder, bus=bus, secure_boot=secure_boot))
    libvirtd.virsh("create", "--validate", definition)
    return folder / f"{name}.log"


def serial_text(log: Path) -> str:
    """What a guest has printed so far."""
    return log.read_bytes().decode(errors="replace") if log.exists() else ""
