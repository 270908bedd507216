"""Our own descriptor: the sections that DSP0243 requires, the values that importers read, names of any kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hypersdk.formats.ovf import OvfDisk, build_ovf, parse_ovf
from hypersdk.formats.ovf.build import NO_NETWORK, cim_os_type
from hypersdk.formats.ovf.layout import FORMAT_URIS, OVF, RASD, VMW
from hypersdk.model import Disk, Firmware, Machine, Nic
from hypersdk.units import GiB, MiB, TiB
from tests.support.machines import make_disk, make_machine

NS = {"ovf": OVF, "rasd": RASD, "vmw": VMW}


def file_of(disk: Disk, number: int = 1, **changes: object) -> OvfDisk:
    """A streamed VMDK of ``disk``."""
    entry = OvfDisk(disk.key, f"web-01-disk{number}.vmdk", 1000 + number, disk.capacity_bytes, 500, "vmdk-stream", None)
    return replace(entry, **changes)  # type: ignore[arg-type]


def built(machine: Machine) -> etree._Element:
    return etree.fromstring(build_ovf(machine, [file_of(disk, n) for n, disk in enumerate(machine.disks, 1)]))


def texts(root: etree._Element, path: str) -> list[str]:
    return [str(found) for found in root.xpath(path, namespaces=NS)]


THREE_BUSES = (
    make_disk(1, controller="lsilogic-sas", unit_number=0),
    make_disk(2, bus="sata", controller="ahci", controller_key=15000, unit_number=3),
    make_disk(3, bus="nvme", controller="nvme", controller_key=31000, unit_number=0),
    make_disk(4, bus="ide", controller="ide", controller_key=201, bus_number=1, unit_number=1),
    make_disk(5, controller="something new", controller_key=1001, bus_number=1, unit_number=15),
)


def test_required_sections_stand_where_the_specification_has_them() -> None:
    root = built(make_machine())
    assert [etree.QName(child).localname for child in root] == [
        "References",
        "DiskSection",
        "NetworkSection",
        "VirtualSystem",
    ]
    system = root.find("ovf:VirtualSystem", NS)
    assert system is not None
    assert [etree.QName(child).localname for child in system] == [
        "Info",
        "Name",
        "OperatingSystemSection",
        "VirtualHardwareSection",
    ]
    assert all(section[0].tag == f"{{{OVF}}}Info" for section in root.iter() if str(section.tag).endswith("Section"))


def test_what_virt_v2v_reads() -> None:
    """The paths are those that its OVF reader asks for."""
    root = built(make_machine(firmware=Firmware.EFI, secure_boot=True, cores_per_socket=2))
    hardware = "/ovf:Envelope/ovf:VirtualSystem/ovf:VirtualHardwareSection"
    item = hardware + "/ovf:Item[rasd:ResourceType/text()={}]"
    assert texts(root, "/ovf:Envelope/ovf:VirtualSystem/ovf:Name/text()") == ["web-01"]
    assert texts(root, item.format(4) + "/rasd:VirtualQuantity/text()") == ["4096"]
    assert texts(root, item.format(3) + "/rasd:VirtualQuantity/text()") == ["2"]
    assert texts(root, item.format(3) + "/vmw:CoresPerSocket/text()") == ["2"]
    assert texts(root, hardware + '/vmw:Config[@vmw:key="firmware"]/@vmw:value') == ["efi"]
    assert texts(root, item.format(17) + "/rasd:HostResource/text()") == ["ovf:/disk/vmdisk1"]
    assert texts(root, "/ovf:Envelope/ovf:DiskSection/ovf:Disk[@ovf:diskId='vmdisk1']/@ovf:fileRef") == ["file1"]
    assert texts(root, "/ovf:Envelope/ovf:References/ovf:File[@ovf:id='file1']/@ovf:href") == ["web-01-disk1.vmdk"]
    assert texts(root, item.format(10) + "/rasd:ResourceSubType/text()") == ["VmxNet3"]


@pytest.mark.parametrize(
    ("firmware", "secure", "expected"),
    [
        (Firmware.BIOS, False, {"firmware": "bios"}),
        (Firmware.BIOS, True, {"firmware": "bios"}),
        (Firmware.EFI, False, {"firmware": "efi", "bootOptions.efiSecureBootEnabled": "false"}),
        (Firmware.EFI, True, {"firmware": "efi", "bootOptions.efiSecureBootEnabled": "true"}),
    ],
)
def test_firmware_and_secure_boot(firmware: Firmware, secure: bool, expected: dict[str, str]) -> None:
    machine = make_machine(firmware=firmware, secure_boot=secure)
    config = {
        element.get(f"{{{VMW}}}key"): element.get(f"{{{VMW}}}value")
        for element in built(machine).iter(f"{{{VMW}}}Config")
    }
    assert config == expected
    system = parse_ovf(build_ovf(machine, [file_of(machine.disks[0])])).system
    assert (system.firmware, system.secure_boot) == (firmware, secure and firmware is Firmware.EFI)


def test_controllers_and_units_come_back_in_the_order_of_buses() -> None:
    machine = make_machine(disks=THREE_BUSES)
    files = [file_of(disk, number) for number, disk in enumerate(THREE_BUSES, start=1)]
    disks = parse_ovf(build_ovf(machine, files)).disks
    places = [(disk.file and disk.file.href, disk.bus, disk.bus_number, disk.unit_number) for disk in disks]
    assert places == [
        ("web-01-disk4.vmdk", "ide", 1, 1),
        ("web-01-disk1.vmdk", "scsi", 0, 0),
        ("web-01-disk5.vmdk", "scsi", 1, 15),
        ("web-01-disk2.vmdk", "sata", 0, 3),
        ("web-01-disk3.vmdk", "nvme", 0, 0),
    ]
    kinds = texts(built(machine), "//ovf:Item[rasd:Address and not(rasd:Connection)]/rasd:ResourceSubType/text()")
    assert kinds == ["lsilogicsas", "vmware.sata.ahci", "vmware.nvme.controller", "lsilogic"]


def test_instance_numbers_are_unique_and_parents_exist() -> None:
    root = built(make_machine(disks=THREE_BUSES))
    instances = texts(root, "//ovf:Item/rasd:InstanceID/text()")
    assert len(set(instances)) == len(instances)
    assert set(texts(root, "//rasd:Parent/text()")) <= set(instances)


def test_children_of_an_item_stand_in_the_order_of_the_schema() -> None:
    for item in built(make_machine(disks=THREE_BUSES)).iter(f"{{{OVF}}}Item"):
        names = [etree.QName(child).localname for child in item if child.tag.startswith(f"{{{RASD}}}")]
        assert names == sorted(names)


def test_excluded_disks_are_not_described() -> None:
    machine = make_machine(disks=THREE_BUSES)
    envelope = parse_ovf(build_ovf(machine, [file_of(THREE_BUSES[1], 2)]))
    assert [(disk.label, disk.bus) for disk in envelope.disks] == [("Hard disk 2", "sata")]
    assert len(envelope.files) == 1


@pytest.mark.parametrize("kind", ["vmdk-stream", "qcow2", "raw"])
def test_each_format_has_its_uri_and_capacity_in_bytes(kind: str) -> None:
    disk = make_disk(capacity_bytes=3 * TiB + 512)
    file = file_of(disk, format=kind, populated_bytes=None)
    envelope = parse_ovf(build_ovf(make_machine(disks=(disk,)), [file]))
    assert envelope.disks[0].format == FORMAT_URIS[kind]  # type: ignore[index]
    assert envelope.disks[0].capacity_bytes == 3 * TiB + 512
    assert envelope.disks[0].populated_bytes is None
    assert envelope.files[0].size_bytes == 1001


def test_cards_keep_mac_and_network_and_each_network_is_listed_once() -> None:
    nics = (
        Nic(4000, "Network adapter 1", "00:50:56:00:00:01", "VM Network", "vmxnet3", True),
        Nic(4001, "Network adapter 2", "00:50:56:00:00:02", "VM Network", "e1000e", False),
        Nic(4002, "Network adapter 3", None, None, "weird", True),
    )
    envelope = parse_ovf(build_ovf(make_machine(nics=nics), []))
    assert envelope.networks == ("VM Network", NO_NETWORK)
    assert [(nic.mac, nic.network, nic.adapter) for nic in envelope.nics] == [
        ("00:50:56:00:00:01", "VM Network", "VmxNet3"),
        ("00:50:56:00:00:02", "VM Network", "E1000e"),
        (None, NO_NETWORK, "weird"),
    ]


def test_odd_memory_is_rounded_up_to_a_whole_mib() -> None:
    machine = make_machine()
    machine = replace(machine, summary=replace(machine.summary, memory_bytes=GiB + 1))
    assert parse_ovf(build_ovf(machine, [])).system.memory_bytes == GiB + MiB


def test_a_disk_that_is_not_the_machines_is_a_bug() -> None:
    with pytest.raises(KeyError):
        build_ovf(make_machine(), [file_of(make_disk(), device_key=7)])


@pytest.mark.parametrize(
    ("guest_id", "expected"),
    [
        ("rhel9_64Guest", 80),
        ("rhel6Guest", 79),
        ("debian12_64Guest", 96),
        ("ubuntu64Guest", 94),
        ("sles15_64Guest", 85),
        ("windows7Server64Guest", 103),
        ("windows2019srv_64Guest", 102),
        ("otherLinux64Guest", 101),
        ("rockylinux_64Guest", 101),
        ("otherGuest", 1),
        (None, 1),
        ("", 1),
    ],
)
def test_guest_ids_have_the_numbers_of_cim(guest_id: str | None, expected: int) -> None:
    assert cim_os_type(guest_id) == expected


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.text(min_size=1, max_size=20))
def test_any_text_makes_a_descriptor_that_can_be_read(name: str, note: str, label: str, network: str) -> None:
    disk = make_disk(label=label)
    nic = Nic(4000, label, None, network, "vmxnet3", True)
    machine = make_machine(name, disks=(disk,), nics=(nic,), annotation=note, guest_id=name)
    envelope = parse_ovf(build_ovf(machine, [file_of(disk)]))
    assert len(envelope.disks) == len(envelope.files) == len(envelope.nics) == 1
    if name.isprintable() and name == name.strip() != "":
        assert envelope.system.name == name


# --- boot order


def boot_instances(root: etree._Element) -> list[str]:
    return texts(root, "//vmw:BootOrderSection[@vmw:type='disk']/@vmw:instanceId")


def test_the_boot_order_names_the_item_of_the_boot_disk() -> None:
    machine = make_machine(disks=THREE_BUSES, boot_order=("cdrom", "disk:2002", "disk:2000", "disk:9"))
    root = built(machine)
    (instance,) = boot_instances(root)
    (label,) = texts(root, f"//ovf:Item[rasd:InstanceID='{instance}']/rasd:ElementName/text()")
    assert label == "Hard disk 3"
    assert texts(root, "//vmw:BootOrderSection/@ovf:required") == ["false"], "a reader that does not know it goes on"
    assert parse_ovf(etree.tostring(root)).system.boot_disks == ("vmdisk3",)


def test_no_boot_order_is_made_up() -> None:
    assert boot_instances(built(make_machine(disks=THREE_BUSES))) == []
    assert boot_instances(built(make_machine(disks=THREE_BUSES, boot_order=("nic:4000", "disk:9")))) == []
    machine = make_machine(disks=THREE_BUSES, boot_order=("disk:2002", "disk:2000"))
    root = etree.fromstring(build_ovf(machine, [file_of(machine.disks[0])]))
    assert boot_instances(root) == [], "the boot disk is left out, and the next one does not become it"
