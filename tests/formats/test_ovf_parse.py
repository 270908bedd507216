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
CONTROLLER = "<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>"


def disk_item(
    disk: str = "d1", unit: str = "0", parent: str = "3", name: str = "Hard disk 1", attributes: str = ""
) -> str:
    return (
        f"<Item{attributes}><rasd:AddressOnParent>{unit}</rasd:AddressOnParent><rasd:ElementName>{name}</rasd:ElementName>"
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
        f"{before}<Envelope {NAMESPACES}><References>{files}</References><DiskSection><Info/>{disks}</DiskSection>{more}"
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
        ("byte", 1), ("bytes", 1), ("byte * 2^20", MiB), ("byte*2^20", MiB), ("byte * 2 ^ 30", GiB), ("byte * 10^9", 10**9),
        ("byte * 1024", KiB), ("MegaBytes", MiB), ("gigabytes", GiB),
    ],
)  # fmt: skip
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
    options = '<DeploymentOptionSection><Configuration ovf:id="small"/><Configuration ovf:id="large" ovf:default="true"/></DeploymentOptionSection>'
    memory = "<Item{}><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>{}</rasd:VirtualQuantity></Item>"
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
        "../../etc/passwd", "/etc/passwd", "..", "a/../b.vmdk", "a//b.vmdk", "a/", "./", "a/b/c/d/e/f/g/h/i/b.vmdk", "..\\b.vmdk", "C:\\b.vmdk",
        "http://192.0.2.1/a.vmdk", "file:///etc/passwd", "a&#10;b", "n" * 300, "n" * 300 + "/b.vmdk",
    ],
)  # fmt: skip
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
    began = time.monotonic()
    assert refused(envelope(more="<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1))).code == "ovf_unsafe"
    assert refused(envelope(more="<a>" * 100_000 + "</a>" * 100_000)).code == "bad_format"
    assert refused(envelope(more="<a/>" * (MAX_ELEMENTS + 1))).code == "ovf_unsafe"
    assert refused(b" " * (MAX_OVF_BYTES + 1)).code == "ovf_unsafe"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037"])
def test_other_encodings_are_refused(encoding: str) -> None:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>' + envelope(before=ENTITY.format("file:///etc/passwd")).decode()
    )
    assert refused(text.encode(encoding)).code in ("bad_format", "ovf_unsafe")


@pytest.mark.parametrize("declared", ["ISO-8859-1", "UTF-7", "UTF-16", "x-user-defined"])
def test_another_declared_encoding_is_refused(declared: str) -> None:
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
        (envelope(disks=DISK + DISK.replace("d1", "d2")), "twice"),
        (envelope(disks=DISK.replace("/>", ' ovf:parentRef="d0"/>')), "difference"),
        (envelope(disks=DISK.replace('"8"', '"${size}"')), "not a whole number"),
        (envelope(disks=DISK.replace('"8"', '"-8"')), "not a whole number"),
        (envelope(disks=DISK.replace('"8"', '"8.5"')), "not a whole number"),
        (envelope(disks=DISK.replace('"8"', '"' + "9" * 30 + '"')), "not a whole number"),
        (envelope(disks=DISK.replace('"8"', '"9999999999999"')), "beyond any disk"),
        (envelope(disks=DISK.replace("2^30", "2^99")), "beyond any disk"),
        (envelope(disks=DISK.replace("2^30", "3^30")), "unit"),
        (envelope(disks=DISK.replace("byte * 2^30", "furlong")), "unit"),
        (envelope(items=CONTROLLER + disk_item("d9")), "not listed"),
        (envelope(items=CONTROLLER + disk_item() * 2), "same disk"),
        (envelope(items=CONTROLLER + disk_item().replace("ovf:/disk/d1", "ovf:/file/f1")), "without a disk"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(data: bytes, says: str) -> None:
    error = refused(data)
    assert says in error.message
    assert error.code in ("bad_format", "ovf_unsafe")


# --- any bytes -------------------------------------------------------------------------------------------------------


def check_invariants(found: OvfEnvelope) -> None:
    """What callers rely on, whatever the descriptor says."""
    assert all(is_inner_path(name) for file in found.files for name in file.names)
    assert all(disk.file is None or disk.file.names for disk in found.disks)
    assert all(0 <= disk.capacity_bytes < 2**63 for disk in found.disks)
    files = [disk.file.href for disk in found.disks if disk.file]
    assert len(set(files)) == len(files)


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
