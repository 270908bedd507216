"""A proof's XML is that of the landed domain, and differs only where isolation needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from hypersdk.errors import TargetError
from hypersdk.kvm.proofxml import ProofDomain, nvram_holder, proof_domain

DOMAINS = sorted((Path(__file__).parent / "domains").glob("*.xml"))
UUID = "00000000-0000-4000-8000-000000000001"
STARTED = """<domain type='qemu' id='7'><name>web</name><uuid>11111111-1111-4111-8111-111111111111</uuid>
<sysinfo type='smbios'><system><entry name='uuid'>11111111-1111-4111-8111-111111111111</entry></system></sysinfo>
<os {choice}><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
<firmware><feature enabled='yes' name='secure-boot'/></firmware>
<loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.ms.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram></os>
<features><acpi/><smm state='on'/></features>
<devices><disk type='file' device='cdrom'><source file='/iso'/><target dev='sdb' bus='sata'/><readonly/></disk>
<serial type='unix'><source mode='bind' path='/s'/><log file='/l'/><target port='0'/></serial></devices></domain>"""
"""As libvirt tells of a domain that has been started: the firmware that it chose is in it."""


def proof(text: str) -> ProofDomain:
    return proof_domain(text, name="hypersdk-proof-1", uuid=UUID)


@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: str(path.stem))
def test_only_isolation_differs(path: Path) -> None:
    before, after = etree.fromstring(path.read_bytes()), etree.fromstring(proof(path.read_text()).xml.encode())
    differences = {
        (tag, line) for tag, line in set(lines(after)) ^ set(lines(before)) if not tag.startswith("graphics/listen")
    }
    assert {tag for tag, _ in differences} <= {
        "name", "uuid", "disk/transient", "interface/link", "graphics", "serial", "serial/target",
        "serial/target/model", "serial/address",
    }  # fmt: skip
    assert [disk.find("transient") is not None for disk in after.findall("devices/disk")] == [True] * len(
        after.findall("devices/disk")
    )
    assert {link.get("state") for link in after.findall("devices/interface/link")} <= {"down"}
    assert len(after.findall("devices/interface/link")) == len(after.findall("devices/interface"))
    assert [element.get("type") for element in after.findall("devices/graphics/listen")] == ["none"]


def lines(domain: Any) -> Iterator[tuple[str, str]]:
    """Each element with its place in the domain or among its devices, attributes and text."""
    for element in domain.iter():
        place = "/".join(parent.tag for parent in reversed([element, *element.iterancestors()]))
        short = place.removeprefix("domain/").removeprefix("devices/")
        yield short, f"{sorted(element.attrib.items())} {(element.text or '').strip()}"


def test_facts() -> None:
    found = proof((DOMAINS[0].parent / "bios-virtio.xml").read_text())
    assert (found.serial, found.debug, found.agent) == ("serial0", "serial1", True)
    efi = proof((DOMAINS[0].parent / "windows-secure-boot.xml").read_text())
    assert (efi.serial, efi.debug, efi.accelerated) == ("serial0", None, True)
    assert efi.disks == ("/images/web & co-disk1.qcow2",)


@pytest.mark.parametrize("choice", ["firmware='efi'", ""])
def test_the_variables_of_the_landed_domain_are_left_alone(choice: str) -> None:
    found = proof(STARTED.format(choice=choice))
    assert "web_VARS.fd" not in found.xml
    assert "11111111" not in found.xml
    domain = etree.fromstring(found.xml.encode())
    assert domain.get("id") is None
    chosen = domain.find("os/firmware") is not None
    assert chosen == bool(choice)
    assert (domain.find("os/loader") is None) == chosen
    assert domain.find("devices/disk/source") is None, "the CD-ROM drive is not empty"
    assert not {"/s", "/l"} & {value for element in domain.iter() for value in element.attrib.values()}
    assert domain.find("devices/serial").get("type") == "pty"


def test_the_holder_of_an_nvram() -> None:
    holder = nvram_holder(STARTED.format(choice=""))
    assert holder is not None
    domain = etree.fromstring(holder.encode())
    assert [child.tag for child in domain] == ["name", "uuid", "memory", "os", "features"]
    assert [child.tag for child in domain.find("os")] == ["type", "loader", "nvram"]
    assert nvram_holder((DOMAINS[0].parent / "bios-virtio.xml").read_text()) is None


@pytest.mark.parametrize("text", ["", "<domain/>", "<domain><devices/></domain>", "<network/>", "<domain"])
def test_what_is_no_domain(text: str) -> None:
    with pytest.raises(TargetError, match="libvirt's answer"):
        proof(text)
