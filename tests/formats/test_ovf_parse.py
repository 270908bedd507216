"""Descriptors of others: what vSphere, VirtualBox and OVF 2 writers put there, and what only an attacker does."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.names import href_of, is_bare_name, is_inner_path, names_in_href
from hypersdk.formats.ovf import OvfEnvelope, parse_ovf
from hypersdk.formats.ovf.layout import MAX_DEPTH, MAX_ELEMENTS, MAX_OVF_BYTES
from hypersdk.model import Firmware
from hypersdk.units import GiB, KiB, MiB

NAMESPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
    'xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)
FILE = '<File ovf:href="a.vmdk" ovf:id="f1" ovf:size="77"/>'
DISK = '<Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d1" ovf:fileRef="f1"/>'
CONTROLLER = (
    "<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>"
    "<rasd:ResourceType>6</rasd:ResourceType></Item>"
)


def disk_item(
    disk: str = "d1", unit: str = "0", parent: str = "3", name: str = "Hard disk 1", attributes: str = ""
) -> str:
    return (
        f"<Item{attributes}><rasd:AddressOnParent>{unit}</rasd:AddressOnParent>"
        f"<rasd:ElementName>{name}</rasd:ElementName>"
        f"<rasd:HostResource>ovf:/disk/{disk}</rasd:HostResource><rasd:InstanceID>9</rasd:InstanceID>"
        f"<rasd:Parent>{parent}</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"
    )


def envelope(
    *,
    files: str = FILE,
    disks: str = DISK,
    items: str = CONTROLLER + disk_item(),
    before: str = "",
    systems: str | None = None,
    more: str = "",
) -> bytes:
    """A small descriptor, with its parts replaced."""
    system = (
        f'<VirtualSystem ovf:id="vm"><Info/><VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem>'
    )
    return (
        f"{before}<Envelope"
        f" {NAMESPACES}><References>{files}</References><DiskSection><Info/>{disks}</DiskSection>{more}"
        f"{system if systems is None else systems}</Envelope>"
    ).encode()


def refused(data: bytes) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        parse_ovf(data)
    return caught.value


# --- what other tools write ------------------------------------------------------------------------------------------


def test_the_small_descriptor_is_read() -> None:
    found = parse_ovf(envelope())
    disk = found.disks[0]
    assert (disk.capacity_bytes, disk.bus, disk.bus_number, disk.unit_number, disk.label) == (
        8 * GiB,
        "scsi",
        0,
        0,
        "Hard disk 1",
    )
    assert disk.file is not None
    assert (disk.file.href, disk.file.size_bytes) == ("a.vmdk", 77)
    assert (found.system.name, found.system.firmware, found.system.memory_bytes) == ("vm", Firmware.BIOS, None)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("byte", 1),
        ("bytes", 1),
        ("byte * 2^20", MiB),
        ("byte*2^20", MiB),
        ("byte * 2 ^ 30", GiB),
        ("byte * 10^9", 10**9),
        ("byte * 1024", KiB),
        ("MegaBytes", MiB),
        ("gigabytes", GiB),
    ],
)
def test_capacity_units(unit: str, factor: int) -> None:
    disks = DISK.replace("byte * 2^30", unit)
    assert parse_ovf(envelope(disks=disks)).disks[0].capacity_bytes == 8 * factor


def test_without_a_unit_capacity_is_in_bytes() -> None:
    disks = '<Disk ovf:capacity="512" ovf:diskId="d1" ovf:fileRef="f1"/>'
    assert parse_ovf(envelope(disks=disks)).disks[0].capacity_bytes == 512


def test_disks_come_in_the_order_of_controllers_and_units_not_of_elements() -> None:
    files = "".join(f'<File ovf:href="{name}.vmdk" ovf:id="f{name}"/>' for name in "abcd")
    disks = "".join(
        f'<Disk ovf:capacity="{n}" ovf:diskId="d{name}" ovf:fileRef="f{name}"/>' for n, name in enumerate("abcd", 1)
    )
    second = CONTROLLER.replace(">3<", ">4<").replace(">0<", ">1<")
    items = (
        CONTROLLER + second + disk_item("da", "10") + disk_item("db", "0", parent="4") + disk_item("dc", "2")
    )  # "dd" has no item
    found = parse_ovf(envelope(files=files, disks=disks, items=items))
    assert [disk.file.href[0] for disk in found.disks if disk.file] == ["c", "a", "b", "d"]
    assert [disk.bus_number for disk in found.disks] == [0, 0, 1, None]


def test_a_disk_without_a_file_starts_empty() -> None:
    disks = '<Disk ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d1"/>'
    disk = parse_ovf(envelope(files="", disks=disks)).disks[0]
    assert (disk.file, disk.capacity_bytes) == (None, GiB)


def test_only_the_default_configuration_counts() -> None:
    options = (
        '<DeploymentOptionSection><Configuration ovf:id="small"/><Configuration ovf:id="large"'
        ' ovf:default="true"/></DeploymentOptionSection>'
    )
    memory = (
        "<Item{}><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>"
        "<rasd:VirtualQuantity>{}</rasd:VirtualQuantity></Item>"
    )
    items = (
        memory.format(' ovf:configuration="small"', 1024)
        + memory.format(' ovf:configuration="large"', 8192)
        + memory.format(' ovf:bound="max" ovf:configuration="large"', 99)
        + CONTROLLER
        + disk_item()
    )
    assert parse_ovf(envelope(items=items, more=options)).system.memory_bytes == 8 * GiB


@pytest.mark.parametrize(
    "namespace", ["http://schemas.dmtf.org/ovf/envelope/2", "http://www.vmware.com/schema/ovf/1/envelope"]
)
def test_other_versions_of_the_namespace_are_read(namespace: str) -> None:
    data = envelope().replace(b"http://schemas.dmtf.org/ovf/envelope/1", namespace.encode())
    assert len(parse_ovf(data).disks) == 1


def test_ovf_2_items_and_a_collection_of_one_are_read() -> None:
    items = CONTROLLER + disk_item().replace("<Item>", "<StorageItem>").replace("</Item>", "</StorageItem>")
    system = f'<VirtualSystem ovf:id="vm"><VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem>'
    found = parse_ovf(envelope(systems=f"<VirtualSystemCollection>{system}</VirtualSystemCollection>"))
    assert found.disks[0].bus == "scsi"


def test_a_byte_order_mark_comments_and_instructions_do_not_hurt() -> None:
    before = '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<!-- made by hand --><?hint x?>\n'
    data = envelope(before=before, more="<!-- <!DOCTYPE no> --><?pi?>")
    assert len(parse_ovf(data).disks) == 1


def test_a_name_that_was_written_as_a_uri_has_both_spellings() -> None:
    found = parse_ovf(envelope(files=FILE.replace("a.vmdk", "my%20vm.vmdk")))
    assert found.files[0].names == ("my%20vm.vmdk", "my vm.vmdk")


# --- what does not touch a disk's bytes is unknown, and a warning
# -----------------------------------------------------------


def warned(data: bytes, *words: str) -> OvfEnvelope:
    """What ``data`` describes: one disk with its file, and exactly one warning, which has ``words`` in it."""
    found = parse_ovf(data)
    assert [disk.file.href for disk in found.disks if disk.file] == ["a.vmdk"]
    assert len(found.warnings) == 1
    assert all(word in found.warnings[0] for word in words)
    return found


def quantity(kind: int, amount: str, unit: str = "") -> str:
    unit = f"<rasd:AllocationUnits>{unit}</rasd:AllocationUnits>" if unit else ""
    return (
        f"<Item>{unit}<rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>{kind}</rasd:ResourceType>"
        f"<rasd:VirtualQuantity>{amount}</rasd:VirtualQuantity></Item>"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"8"', '"${size}"'),
        ('"8"', '"-8"'),
        ('"8"', '"8.5"'),
        ('"8"', '"' + "9" * 30 + '"'),
        ('"8"', '"9999999999999"'),
        ('"8"', '""'),
        ("2^30", "2^99"),
        ("2^30", "3^30"),
        ("2^30", "2^"),
        ("byte * 2^30", "furlong"),
        ("byte * 2^30", "byte" + "*2" * 99),
    ],
)
def test_a_capacity_that_is_not_understood(old: str, new: str) -> None:
    assert warned(envelope(disks=DISK.replace(old, new)), "capacity").disks[0].capacity_bytes is None


@pytest.mark.parametrize(
    ("amount", "unit", "expected"),
    [
        ("1024", "", GiB),
        ("1024", "MB", GiB),
        ("1024", "megabytes", GiB),
        ("1024", "byte * 1024 * 1024", GiB),
        ("1024", "byte*2^10*2^10", GiB),
        ("1", "GiB", GiB),
        ("1073741824", "Byte", GiB),
    ],
)
def test_memory_in_every_unit(amount: str, unit: str, expected: int) -> None:
    found = parse_ovf(envelope(items=quantity(4, amount, unit) + CONTROLLER + disk_item()))
    assert (found.system.memory_bytes, found.warnings) == (expected, ())


@pytest.mark.parametrize(
    ("amount", "unit"), [("1", "furlong"), ("much", "MB"), ("1.5", "GB"), ("9" * 19, "TB"), ("1", "byte * 7^3")]
)
def test_memory_that_is_not_understood(amount: str, unit: str) -> None:
    data = envelope(items=quantity(4, amount, unit) + CONTROLLER + disk_item())
    assert warned(data, "memory", amount[:60], unit).system.memory_bytes is None


def test_a_number_of_cpus_that_is_none() -> None:
    assert warned(envelope(items=quantity(3, "two") + CONTROLLER + disk_item()), "CPUs", "two").system.cpus is None


@pytest.mark.parametrize(
    ("items", "word"),
    [
        (CONTROLLER + disk_item(unit="zero"), "zero"),
        (CONTROLLER + disk_item(parent="7"), "7"),
        (CONTROLLER + disk_item().replace("<rasd:Parent>3</rasd:Parent>", ""), "attached"),
        (CONTROLLER.replace("<rasd:InstanceID>3</rasd:InstanceID>", "") + disk_item(parent="9"), "controller"),
    ],
)
def test_an_address_that_makes_no_sense(items: str, word: str) -> None:
    assert any(word in text for text in parse_ovf(envelope(items=items)).warnings)
    assert [disk.id for disk in parse_ovf(envelope(items=items)).disks] == ["d1"]


def test_sizes_of_files_and_of_data_that_are_not_understood() -> None:
    assert warned(envelope(files=FILE.replace('"77"', '"-77"')), "-77").files[0].size_bytes is None
    assert (
        warned(envelope(disks=DISK.replace("/>", ' ovf:populatedSize="x"/>')), "populatedSize").disks[0].populated_bytes
        is None
    )


def test_items_of_no_kind_are_passed_over() -> None:
    odd = "".join(
        f"<Item><rasd:InstanceID>{n}</rasd:InstanceID><rasd:ResourceType>{t}</rasd:ResourceType></Item>"
        for n, t in [(70, "1234"), (71, "x")]
    )
    assert parse_ovf(envelope(items=odd + CONTROLLER + disk_item())).warnings == ()


def test_warnings_are_bounded() -> None:
    many = "".join(disk_item("", name=f"Hard disk {n}", parent=f"x{n}").replace("ovf:/disk/", "") for n in range(300))
    warnings = parse_ovf(envelope(items=CONTROLLER + disk_item() + many)).warnings
    assert len(warnings) == 51
    assert "more warnings" in warnings[-1]


# --- dialects
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pointer",
    [
        "ovf:/disk/d1",
        "ovf:disk/d1",
        "ovf://disk/d1",
        "//disk/d1",
        "/disk/d1",
        "disk/d1",
        "OVF:/DISK/d1",
        "d1",
        "images/d1",
        " ovf:/disk/d1\n",
        "ovf:/disk/d%31",
        "ovf:/file/f1",
        "ovf:file/f1",
        "/file/f1",
        "",
        "other:thing</rasd:HostResource><rasd:HostResource>ovf:/disk/d1",
    ],
)
def test_how_items_point_to_their_disk(pointer: str) -> None:
    disk = parse_ovf(envelope(items=CONTROLLER + disk_item().replace("ovf:/disk/d1", pointer))).disks[0]
    assert (disk.id, disk.file and disk.file.href, disk.bus, disk.unit_number) == ("d1", "a.vmdk", "scsi", 0)


def test_a_file_without_a_disk_may_be_one() -> None:
    found = parse_ovf(envelope(disks="", items=CONTROLLER + disk_item().replace("ovf:/disk/d1", "ovf:/file/f1")))
    assert [(disk.file and disk.file.href, disk.capacity_bytes, disk.bus) for disk in found.disks] == [
        ("a.vmdk", None, "scsi")
    ]


def test_an_item_without_a_disk_is_an_empty_one_where_it_has_a_size() -> None:
    sized = (
        "<rasd:AllocationUnits>byte * 2^30</rasd:AllocationUnits><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>"
    )
    bare = disk_item(unit="1", name="data").replace("<rasd:HostResource>ovf:/disk/d1</rasd:HostResource>", "")
    found = parse_ovf(envelope(items=CONTROLLER + bare.replace("</Item>", sized) + disk_item()))
    assert [(disk.file is None, disk.capacity_bytes, disk.unit_number) for disk in found.disks] == [
        (False, 8 * GiB, 0),
        (True, 2 * GiB, 1),
    ]
    assert "data" in warned(envelope(items=CONTROLLER + bare + disk_item()), "left out").warnings[0]
    device = disk_item(unit="1", name="data").replace("ovf:/disk/d1", "/dev/sdb").replace("</Item>", sized)
    assert len(warned(envelope(items=CONTROLLER + device + disk_item()), "left out").disks) == 1


def test_several_items_of_one_disk_and_several_disks_of_one_file_are_copies() -> None:
    found = parse_ovf(envelope(items=CONTROLLER + disk_item() + disk_item(unit="1")))
    assert [(disk.file and disk.file.href, disk.unit_number) for disk in found.disks] == [("a.vmdk", 0), ("a.vmdk", 1)]
    found = parse_ovf(
        envelope(disks=DISK + DISK.replace("d1", "d2"), items=CONTROLLER + disk_item("d2") + disk_item(unit="1"))
    )
    assert [(disk.id, disk.file and disk.file.href) for disk in found.disks] == [("d2", "a.vmdk"), ("d1", "a.vmdk")]


def test_images_in_drives_are_no_disks() -> None:
    drive = disk_item("d2", name="CD").replace(">17<", ">15<")
    disks = DISK + DISK.replace("d1", "d2").replace("f1", "f2")
    found = parse_ovf(
        envelope(
            files=FILE + FILE.replace("f1", "f2").replace("a.vmdk", "x.iso"),
            disks=disks,
            items=CONTROLLER + drive + disk_item(),
        )
    )
    assert [disk.id for disk in found.disks] == ["d1"]
    assert "'d2' is an image" in found.warnings[0]


def test_a_disk_that_nothing_is_said_of_but_its_size_is_left_out() -> None:
    spare = '<Disk ovf:capacity="9" ovf:diskId="spare"/>'
    warned(envelope(disks=DISK + spare), "spare", "left out")
    huge = f'<Disk ovf:capacity="{2**60}" ovf:diskId="huge"/>'
    warned(
        envelope(disks=DISK + huge, items=CONTROLLER + disk_item() + disk_item("huge", unit="1", name="huge")),
        "huge",
        "left out",
    )


def test_a_capacity_may_be_a_property_of_the_product() -> None:
    disks = '<Disk ovf:capacity="${org.size}" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d1"/>'
    system = (
        '<VirtualSystem ovf:id="vm"><ProductSection ovf:class="org"><Property ovf:key="size"'
        ' ovf:value="7"/></ProductSection>'
        f"<VirtualHardwareSection>{CONTROLLER + disk_item()}</VirtualHardwareSection></VirtualSystem>"
    )
    assert parse_ovf(envelope(files="", disks=disks, systems=system)).disks[0].capacity_bytes == 7 * GiB


def test_an_item_of_a_configuration_says_only_what_differs() -> None:
    """DSP0243 9.8: items of one instance number are one item."""
    options = (
        '<DeploymentOptionSection><Configuration ovf:id="a"/><Configuration ovf:id="b"'
        ' ovf:default="true"/></DeploymentOptionSection>'
    )
    large = quantity(4, "3").replace("<Item>", '<Item ovf:configuration="b">')
    found = parse_ovf(envelope(items=quantity(4, "1", "byte * 2^30") + large + CONTROLLER + disk_item(), more=options))
    assert found.system.memory_bytes == 3 * GiB
    assert found.configuration == "b"
    assert "'b'" in found.warnings[0]
    assert "'a'" in found.warnings[0]


def test_disks_of_another_configuration_are_left_out() -> None:
    options = (
        '<DeploymentOptionSection><Configuration ovf:id="a"/><Configuration ovf:id="b"/></DeploymentOptionSection>'
    )
    files = FILE + FILE.replace("f1", "f2").replace("a.vmdk", "b.vmdk")
    items = CONTROLLER + disk_item() + disk_item("d2", unit="1", attributes=' ovf:configuration="b"')
    data = envelope(files=files, disks=DISK + DISK.replace("d1", "d2").replace("f1", "f2"), items=items, more=options)
    found = parse_ovf(data)
    assert [disk.id for disk in found.disks] == ["d1"]
    assert any("'d2'" in text and "left out" in text for text in found.warnings)
    items = items.replace("<Item><rasd:AddressOnParent>0", '<Item ovf:configuration="a"><rasd:AddressOnParent>0')
    data = envelope(
        files=files,
        disks=DISK + DISK.replace("d1", "d2").replace("f1", "f2"),
        items=items,
        more=options.replace('"b"/>', '"b" ovf:default="1"/>'),
    )
    assert [disk.id for disk in parse_ovf(data).disks] == ["d2"]


def test_the_older_spelling_of_instance_numbers_in_ovf_1() -> None:
    found = parse_ovf(envelope().replace(b"InstanceID", b"InstanceId"))
    assert [(disk.bus, disk.controller_key, disk.unit_number) for disk in found.disks] == [("scsi", 3, 0)]
    assert found.warnings == ()


@pytest.mark.parametrize(
    "root", ["http://schemas.dmtf.org/ovf/envelope/1", "http://www.vmware.com/schema/ovf/1/envelope"]
)
@pytest.mark.parametrize("unqualified", [False, True])
def test_ovf_0_9(root: str, *, unqualified: bool) -> None:
    """As VMware Workstation and Studio, and VirtualBox, wrote it: every section is a ``Section`` of some type."""
    own = "" if unqualified else f'xmlns="{root}"'
    data = f"""<ovf:Envelope {own} xmlns:ovf="{root}" ovf:version="0.9"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References><File ovf:href="a.vmdk" ovf:id="f1"/></References>
<Section xsi:type="ovf:DiskSection_Type"><Info/>
 <Disk ovf:capacity="8" ovf:capacityAllocationUnits="GigaBytes" ovf:diskId="d1" ovf:fileRef="f1"/></Section>
<Section xsi:type="NetworkSection_Type"><Info/><Network ovf:name="lan"/></Section>
<Content ovf:id="old" xsi:type="ovf:VirtualSystem_Type"><Info/>
 <Section ovf:id="29" xsi:type="ovf:OperatingSystemSection_Type"><Info/><Description>Some OS</Description></Section>
 <Section xsi:type="ovf:VirtualHardwareSection_Type"><Info/>
  <System><vssd:InstanceId>0</vssd:InstanceId><vssd:VirtualSystemType>vmx-6</vssd:VirtualSystemType></System>
  <Item><rasd:Caption>739 MB</rasd:Caption><rasd:InstanceId>2</rasd:InstanceId>
   <rasd:ResourceType>4</rasd:ResourceType><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits>
   <rasd:VirtualQuantity>739</rasd:VirtualQuantity></Item>
  <Item><rasd:Caption>ide</rasd:Caption><rasd:InstanceId>3</rasd:InstanceId><rasd:ResourceType>5</rasd:ResourceType>
   <rasd:ResourceSubType>PIIX4</rasd:ResourceSubType><rasd:BusNumber>1</rasd:BusNumber></Item>
  <Item><rasd:Caption>disk1</rasd:Caption><rasd:InstanceId>8</rasd:InstanceId>
   <rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>/disk/d1</rasd:HostResource>
   <rasd:Parent>3</rasd:Parent><rasd:AddressOnParent>1</rasd:AddressOnParent></Item>
 </Section></Content></ovf:Envelope>"""
    found = parse_ovf(data.encode())
    disk, system = found.disks[0], found.system
    assert (disk.id, disk.capacity_bytes, disk.bus, disk.bus_number, disk.unit_number, disk.label) == (
        "d1",
        8 * GiB,
        "ide",
        1,
        1,
        "disk1",
    )
    assert (system.name, system.os_id, system.os_name, system.memory_bytes, system.hardware_version) == (
        "old",
        29,
        "Some OS",
        739 * MiB,
        "vmx-6",
    )
    assert (found.networks, found.warnings) == (("lan",), ())


def test_controllers_without_numbers_get_the_next_free_ones() -> None:
    bare = CONTROLLER.replace("<rasd:Address>0</rasd:Address>", "")
    items = bare.replace(">3<", ">4<") + CONTROLLER + bare.replace(">3<", ">uuid-5<")
    items += disk_item(parent="4") + disk_item(parent="3", unit="1") + disk_item(parent="uuid-5", unit="2")
    found = parse_ovf(envelope(items=items)).disks
    assert [(disk.bus_number, disk.unit_number) for disk in found] == [(0, 1), (1, 0), (2, 2)]
    assert len({disk.controller_key for disk in found}) == 3


@pytest.mark.parametrize(
    ("kind", "firmware"), [("EFI", Firmware.EFI), ("EFI64", Firmware.EFI), ("BIOS", Firmware.BIOS)]
)
def test_the_firmware_that_virtualbox_says(kind: str, firmware: Firmware) -> None:
    own = (
        '<v:Machine xmlns:v="http://www.virtualbox.org/ovf/machine" ovf:required="false"><v:Hardware><v:Firmware'
        f' type="{kind}"/></v:Hardware></v:Machine>'
    )
    data = envelope().replace(b"</VirtualSystem>", f"{own}</VirtualSystem>".encode())
    assert parse_ovf(data).system.firmware is firmware


def test_the_boot_order_names_disks() -> None:
    section = '<vmw:BootOrderSection vmw:instanceId="9 77" vmw:type="disk"><Info/></vmw:BootOrderSection>'
    data = envelope().replace(b"</VirtualHardwareSection>", f"</VirtualHardwareSection>{section}".encode())
    assert parse_ovf(data).system.boot_disks == ("d1",)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso-8859-1", "windows-1252", "gb18030", "shift_jis"]
)
def test_descriptors_in_other_encodings(encoding: str) -> None:
    name = {"gb18030": "\u865a\u62df", "shift_jis": "\u4eee\u60f3"}.get(encoding, "Gr\u00fc\u00dfe")
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + envelope().decode().replace(
        'ovf:id="vm"', f'ovf:id="{name}"'
    )
    assert parse_ovf(text.encode(encoding)).system.name == name


def test_what_is_said_of_the_encoding_may_be_wrong() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?>' + envelope().decode().replace(
        'ovf:id="vm"', 'ovf:id="Gr\u00fc\u00dfe"'
    )
    assert parse_ovf(text.encode()).system.name == "Gr\u00fc\u00dfe"
    warned(text.replace("UTF-16", "UTF-8").encode("latin-1"), "utf-8")


def test_a_namespace_that_is_no_uri_does_no_harm() -> None:
    warned(envelope().replace(b"<Envelope ", b'<Envelope xmlns:x="http://x.example/a b" '), "namespace")


# --- what is refused -------------------------------------------------------------------------------------------------


ENTITY = '<!DOCTYPE x [<!ENTITY e SYSTEM "{}">]>'
LAUGHS = (
    "<!DOCTYPE x [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY a{n} '{('&a' + str(n - 1) + ';') * 10}'>" for n in range(1, 12))
    + "]>"
)


@pytest.mark.parametrize(
    "before",
    [
        ENTITY.format("file:///etc/passwd"),
        ENTITY.format("http://192.0.2.1/x"),
        '<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd">',
        "<!DOCTYPE Envelope>",
        LAUGHS,
        '<?xml version="1.0"?>\n<!-- harmless --> \n' + ENTITY.format("file:///etc/passwd"),
        "<?a?><!--\n--><!doctype x>",
    ],
)
def test_a_document_type_is_refused_before_it_is_parsed(before: str) -> None:
    data = envelope(before=before, files=FILE.replace("a.vmdk", "&e;"))
    assert refused(data).code == "ovf_unsafe"


def test_an_external_entity_is_never_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("top-secret-text")
    error = refused(envelope(before=ENTITY.format(secret.as_uri()), items="<Item>&e;</Item>"))
    assert "top-secret-text" not in str(error.as_dict())


@pytest.mark.parametrize("entity", ["&e;", "&xxe;", "&#0;", "&#xFFFE;", "&#99999999;"])
def test_entities_that_nobody_declared_are_refused(entity: str) -> None:
    assert refused(envelope(files=FILE.replace("a.vmdk", entity))).code == "bad_format"


@pytest.mark.parametrize(
    "href",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "a/../b.vmdk",
        "a//b.vmdk",
        "a/",
        "./",
        "a/b/c/d/e/f/g/h/i/b.vmdk",
        "..\\b.vmdk",
        "C:\\b.vmdk",
        "http://192.0.2.1/a.vmdk",
        "file:///etc/passwd",
        "a&#10;b",
        "n" * 300,
        "n" * 300 + "/b.vmdk",
    ],
)
def test_a_path_in_href_is_refused(href: str) -> None:
    assert refused(envelope(files=FILE.replace("a.vmdk", href))).code == "ovf_unsafe"


@pytest.mark.parametrize(
    "name",
    ["%2e%2e%2fpasswd", "..%2Fpasswd", "%2Fetc%2Fpasswd", "a%00b", "a%0ab", "%5c%5chost", "web%2f01", "50%", "%zz"],
)
def test_a_name_that_only_decodes_to_a_path_or_to_none_is_meant_as_it_is_written(name: str) -> None:
    """A machine may be called so, and earlier releases wrote its name into the descriptor as it is."""
    assert parse_ovf(envelope(files=FILE.replace("a.vmdk", name))).files[0].names == (name,)


@pytest.mark.parametrize(
    ("href", "names"), [("./a.vmdk", ("a.vmdk",)), ("disks/my%20vm.vmdk", ("disks/my%20vm.vmdk", "disks/my vm.vmdk"))]
)
def test_a_file_may_lie_in_a_folder_of_the_package(href: str, names: tuple[str, ...]) -> None:
    assert parse_ovf(envelope(files=FILE.replace("a.vmdk", href))).files[0].names == names


@given(st.text(min_size=1, max_size=60).filter(is_bare_name))
def test_every_name_comes_back_from_the_href_that_is_written_for_it(name: str) -> None:
    href = href_of(name)
    assert not set(href) & set("?#:")
    assert name in names_in_href(href)
    assert all(is_bare_name(found) for found in names_in_href(href))


@pytest.mark.parametrize("href", ["http://192.0.2.1/tools.iso", "../tools.iso", "/vmimages/tools.iso"])
def test_a_file_that_is_no_disk_may_lie_anywhere_because_nobody_opens_it(href: str) -> None:
    found = parse_ovf(envelope(files=f'{FILE}<File ovf:href="{href}" ovf:id="iso" ovf:size="about 7"/>'))
    assert [(file.names, file.size_bytes) for file in found.files] == [(("a.vmdk",), 77), ((), None)]


def test_how_a_file_is_stored_is_read() -> None:
    (file,) = parse_ovf(envelope(files=FILE.replace("/>", ' ovf:compression="GZip" ovf:chunkSize="1000"/>'))).files
    assert (file.compression, file.chunk_bytes) == ("gzip", 1000)
    (file,) = parse_ovf(envelope(files=FILE.replace("/>", ' ovf:compression="identity"/>'))).files
    assert (file.compression, file.chunk_bytes) == (None, None)


def test_absurd_depth_and_numbers_of_elements_are_refused_quickly() -> None:
    began = time.process_time()
    assert refused(envelope(more="<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1))).code == "ovf_unsafe"
    assert refused(envelope(more="<a>" * 100_000 + "</a>" * 100_000)).code == "bad_format"
    assert refused(envelope(more="<a/>" * (MAX_ELEMENTS + 1))).code == "ovf_unsafe"
    assert refused(b" " * (MAX_OVF_BYTES + 1)).code == "ovf_unsafe"
    assert time.process_time() - began < 20


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037"])
def test_no_encoding_hides_a_document_type(encoding: str) -> None:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>' + envelope(before=ENTITY.format("file:///etc/passwd")).decode()
    )
    assert refused(text.encode(encoding)).code in ("bad_format", "ovf_unsafe")


@pytest.mark.parametrize("declared", ["UTF-7", "x-user-defined", "idna", "rot13", "hex", "unicode_escape"])
def test_a_declared_encoding_that_is_none_of_text_is_refused(declared: str) -> None:
    assert "UTF-8" in refused(envelope(before=f'<?xml version="1.0" encoding="{declared}"?>')).message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not well-formed"),
        (b"\x00\x01", "NUL"),
        (b"<a", "not well-formed"),
        (b"<html/>", "not an OVF Envelope"),
        (f"<Envelope {NAMESPACES}/>".replace("ovf/envelope/1", "ovf/envelope/99").encode(), "not an OVF Envelope"),
        (envelope(systems=""), "0 machines"),
        (envelope(systems='<VirtualSystem ovf:id="a"/><VirtualSystem ovf:id="b"/>'), "2 machines"),
        (envelope(systems='<VirtualSystem ovf:id="a"/>'), "no VirtualHardwareSection"),
        (envelope(files=FILE * 2), "given twice"),
        (envelope(files=FILE + FILE.replace("f1", "f2")), "same file"),
        (envelope(files='<File ovf:id="f1"/>'), "no 'href'"),
        (envelope(files=""), "not listed"),
        (envelope(disks=DISK * 2), "twice"),
        (envelope(disks=DISK.replace("/>", ' ovf:parentRef="d0"/>')), "delta"),
        (envelope(items=CONTROLLER + disk_item("d9")), "not listed"),
        (envelope(items=CONTROLLER + disk_item().replace("ovf:/disk/d1", "ovf:/file/f9")), "not listed"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(data: bytes, says: str) -> None:
    error = refused(data)
    assert says in error.message
    assert error.code in ("bad_format", "ovf_unsafe")


# --- any bytes -------------------------------------------------------------------------------------------------------


def check_invariants(found: OvfEnvelope) -> None:
    """What callers rely on, whatever the descriptor says."""
    assert all(is_inner_path(name) for file in found.files for name in file.names)
    assert all(disk.file is None or disk.file.names for disk in found.disks)
    assert all(disk.file is not None or disk.capacity_bytes for disk in found.disks)
    assert all(0 <= (disk.capacity_bytes or 0) < 2**63 for disk in found.disks)
    assert len({disk.id for disk in found.disks}) == len(found.disks)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_make_sense(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        check_invariants(parse_ovf(data))


@given(st.integers(0, len(envelope()) - 1), st.binary(max_size=4), st.integers(0, 20))
def test_damage_anywhere_is_refused_or_makes_sense(position: int, inserted: bytes, removed: int) -> None:
    data = envelope()
    with contextlib.suppress(IntegrityError):
        check_invariants(parse_ovf(data[:position] + inserted + data[position + removed :]))


@given(st.text(max_size=60))
def test_any_href_is_an_inner_path_or_refused(href: str) -> None:
    quoted = "".join(f"&#{ord(char)};" for char in href)
    with contextlib.suppress(IntegrityError):
        check_invariants(parse_ovf(envelope(files=FILE.replace("a.vmdk", quoted))))
