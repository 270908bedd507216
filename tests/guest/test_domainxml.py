"""The domain that virt-v2v reads: it understands it, with any name and several disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from hypersdk.guest.domainxml import domain_xml
from hypersdk.model import Firmware
from tests.support.guestrequests import source_disk, source_guest
from tests.support.tools import run_tool


def test_virt_v2v_reads_it(tmp_path: Path) -> None:
    disks = [source_disk(tmp_path / name) for name in ("web 1, ü.qcow2", "data.qcow2")]
    for disk in disks:
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", disk.file, "1M")
    source = tmp_path / "source.xml"
    source.write_bytes(domain_xml(source_guest(*disks, name="web <1> & ü", firmware=Firmware.EFI)))
    shown = run_tool("virt-v2v-in-place", "--print-source", "-i", "libvirtxml", source)
    assert "web <1> & ü" in shown
    assert "hypervisor type: vmware" in shown
    assert "1073741824 (bytes)" in shown
    assert "firmware: uefi" in shown
    assert "vmxnet3" in shown or "VM Network" in shown


def test_disks_are_named_as_the_guest_saw_them() -> None:
    buses = ["scsi", "ide", "sata", "nvme", "ide", "strange"]
    xml = etree.fromstring(
        domain_xml(source_guest(*(source_disk(Path(f"/d{i}"), "raw", b) for i, b in enumerate(buses))))
    )
    targets = [(target.get("dev"), target.get("bus")) for target in xml.iter("target")]
    assert targets == [
        ("sda", "scsi"), ("hda", "ide"), ("sdb", "sata"), ("nvmea", "nvme"), ("hdb", "ide"), ("sdc", "scsi")
    ]  # fmt: skip
    assert [driver.get("type") for driver in xml.iter("driver")] == ["raw"] * 6
    assert xml.get("type") == "vmware"


@pytest.mark.parametrize("name", ["", "\x00", "a\nb\x1b[31m", "x" * 5000, "\ud800"])
def test_any_name_makes_a_document(name: str) -> None:
    xml = etree.fromstring(domain_xml(source_guest(source_disk(Path("/d")), name=name)))
    assert xml.findtext("name")
