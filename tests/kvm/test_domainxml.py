"""The XML of domains: as it was reviewed (``tests/kvm/domains``), and as a real libvirtd takes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from lxml import etree

from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.kvm.connection import open_connection
from hypersdk.kvm.domainxml import METADATA, SPARE_PORTS, Origin, domain_xml, landing_of
from hypersdk.model import Firmware
from hypersdk.model.guestplan import DiskBus, GuestDisk, GuestNic, GuestPlan, NicModel
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.libvirtd import Libvirtd

REVIEWED: Final = Path(__file__).parent / "domains"
UUID: Final = "8f0c2f4e-5a55-4c0f-9a51-0a8f2d8c1b11"
ORIGIN: Final = Origin("20260102-030405-abcdef", "vm-42 of vcenter.example.com", "1.0")


def disk(number: int, bus: DiskBus) -> GuestDisk:
    return GuestDisk(Path(f"/images/web & co-disk{number}.qcow2"), "qcow2", 8 * MiB, bus, f"Hard disk {number}")


BIOS: Final = GuestPlan(
    name="web-01",
    title="Web <01>",
    firmware=Firmware.BIOS,
    secure_boot=False,
    tpm=False,
    cpus=4,
    cores_per_socket=2,
    memory_bytes=3333 * MiB,
    machine_type="q35",
    cpu_mode="host-model",
    video="virtio",
    os_id="debian12",
    disks=(disk(1, DiskBus.VIRTIO), disk(2, DiskBus.VIRTIO)),
    nics=(GuestNic("00:50:56:aa:bb:cc", "br0", True, NicModel.VIRTIO), GuestNic(None, "lan", False, NicModel.VIRTIO)),
    rng=True,
    balloon=True,
)
WINDOWS: Final = replace(
    BIOS,
    title=None,
    firmware=Firmware.EFI,
    secure_boot=True,
    tpm=True,
    video="vga",
    os_id="win2k19",
    disks=(disk(1, DiskBus.SATA),),
    nics=(GuestNic("00:50:56:aa:bb:cc", "br0", True, NicModel.E1000E),),
    rng=False,
    balloon=False,
    windows=True,
)
EFI: Final = replace(
    BIOS,
    firmware=Firmware.EFI,
    virt_type="qemu",
    cpu_mode="maximum",
    disks=(disk(1, DiskBus.SCSI), disk(2, DiskBus.SCSI)),
)
IDE: Final = replace(
    BIOS,
    virt_type="qemu",
    cpu_mode="",
    machine_type="pc",
    os_id=None,
    disks=(disk(1, DiskBus.IDE),),
    nics=(GuestNic("00:50:56:aa:bb:cc", "lan", False, NicModel.E1000),),
    agent=False,
)
PLANS: Final = {"bios-virtio": BIOS, "windows-secure-boot": WINDOWS, "efi-scsi-emulated": EFI, "pc-ide-emulated": IDE}


def xml_of(plan: GuestPlan) -> str:
    return domain_xml(plan, uuid=UUID, origin=ORIGIN)


def parsed(plan: GuestPlan) -> Any:
    return etree.fromstring(xml_of(plan).encode())


@pytest.mark.parametrize("name", PLANS)
def test_as_reviewed(name: str) -> None:
    assert xml_of(PLANS[name]) == (REVIEWED / f"{name}.xml").read_text()


@pytest.mark.parametrize("name", PLANS)
def test_a_real_libvirtd_takes_it(libvirtd: Libvirtd, name: str) -> None:
    """Validated against libvirt's schema, and read back with all that was asked for; emulated and without a TPM, which
    not every machine has."""
    plan = replace(PLANS[name], virt_type="qemu", tpm=False)
    if plan.cpu_mode == "host-model":
        plan = replace(plan, cpu_mode="maximum")
    with open_connection(parse_libvirt_address(libvirtd.uri), cancel=CancelToken()) as connection:
        text = connection.call("cannot define", lambda raw: raw.defineXMLFlags(xml_of(plan), 1).XMLDesc())
    domain = etree.fromstring(text.encode())
    assert domain.findtext("memory") == str(plan.memory_bytes // 1024)
    assert [source.get("file") for source in domain.iterfind("devices/disk/source")] == [
        str(disk.file) for disk in plan.disks
    ]
    assert landing_of(text) == ORIGIN.landing
    assert domain.find("os/type").get("machine").startswith("pc-q35" if plan.machine_type == "q35" else "pc-i440fx")


def test_secure_boot_is_always_said() -> None:
    for plan, expected in ((WINDOWS, "yes"), (EFI, "no")):
        features = {feature.get("name"): feature.get("enabled") for feature in parsed(plan).iterfind("os/firmware/*")}
        assert features == {"secure-boot": expected, "enrolled-keys": expected}
    assert parsed(BIOS).find("os").get("firmware") is None


def test_free_ports_are_left_for_devices_that_are_added_later(libvirtd: Libvirtd) -> None:
    text = domain_xml(replace(EFI, virt_type="qemu"), uuid=UUID, origin=ORIGIN)
    with open_connection(parse_libvirt_address(libvirtd.uri), cancel=CancelToken()) as connection:
        found = connection.call("cannot define", lambda raw: raw.defineXMLFlags(text, 1).XMLDesc())
    domain = etree.fromstring(found.encode())
    ports = {int(port.get("index", "")) for port in domain.iterfind("devices/controller[@model='pcie-root-port']")}
    used = {int(address.get("bus", ""), 16) for address in domain.iterfind(".//address[@type='pci']")}
    assert len(ports - used) == SPARE_PORTS


def test_hostile_texts_stay_texts() -> None:
    hostile = "</title><devices><emulator>/tmp/evil</emulator></devices>\x00\x1b"
    text = domain_xml(replace(BIOS, title=None), uuid=UUID, origin=replace(ORIGIN, source=hostile))
    domain = etree.fromstring(text.encode())
    assert len(domain.findall("devices")) == 1
    assert domain.find("devices/emulator") is None
    assert "\\x1b" in str(domain.findtext("description"))


def test_a_foreign_domain_is_not_ours() -> None:
    assert landing_of("<domain><metadata><x:landing xmlns:x='urn:other' id='1'/></metadata></domain>") is None
    assert landing_of(f"<domain><metadata><x:landing xmlns:x='{METADATA}' id='1'/></metadata></domain>") == "1"
