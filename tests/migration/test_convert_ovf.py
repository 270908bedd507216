"""Where every disk of an OVF ends up, byte for byte, whatever the descriptor's dialect, order and configurations."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from hypersdk.errors import HyperSDKError
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.manifest import read_manifest
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.spec import OutputFormat
from hypersdk.migration.verify import verify_directory
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from tests.support.conversions import convert
from tests.support.ovfs import Attached, Package, PackedDisk, attached_disks, packages
from tests.support.seeds import examples
from tests.support.tools import run_tool, sha256

CONTENTS = 5
CAPACITY = 256 * KiB
OVF_NAMES = {number: f"part{number}.vmdk" for number in range(CONTENTS)}
EMPTY = hashlib.sha256(bytes(CAPACITY)).hexdigest()

some = examples(25)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """Disk images that differ in nothing but what is in them; and the SHA-256 of each disk."""
    folder = tmp_path_factory.mktemp("parts")
    digests = {}
    for number, name in OVF_NAMES.items():
        data = random.Random(number).randbytes(CAPACITY // 2) + bytes(CAPACITY // 2)
        raw = folder / "raw"
        raw.write_bytes(data)
        run_tool(
            "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, folder / name
        )
        digests[number] = hashlib.sha256(data).hexdigest()
    return folder, digests


def converted(package: Package, parts: Path, folder: Path, output: OutputFormat) -> tuple[ExportResult, Path]:
    """What becomes of ``package``, and the folder that it is in."""
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "in"
    source.mkdir(parents=True)
    used = {disk.content: OVF_NAMES[disk.content] for disk in package.disks if disk.content is not None}
    for name in used.values():
        (source / name).hardlink_to(parts / name)
    (source / "vm.ovf").write_bytes(package.descriptor(used))
    result = convert(source / "vm.ovf", folder / "out", output, folder / "state")
    assert verify_directory(folder / "out", cancel=CancelToken(), observer=None).findings == ()
    return result, folder / "out"


@some
@given(packages(CONTENTS, CAPACITY))
def test_every_disk_of_a_package_becomes_the_image_of_its_number(
    parts: tuple[Path, dict[int, str]], tmp_path: Path, package: Package
) -> None:
    images, digests = parts
    result, out = converted(package, images, tmp_path / "case", OutputFormat.RAW)
    expected = [EMPTY if disk.content is None else digests[disk.content] for disk in package.held]
    assert [sha256(out / f"vm-disk{number}.raw") for number in range(1, len(expected) + 1)] == expected
    assert len(list(out.glob("*.raw"))) == len(expected)
    manifest = read_manifest((out / "artifact-manifest.json").read_bytes())
    on_one_bus = len({disk.place[0] for disk in package.held}) == 1
    hints = [disk.boot_order_hint for disk in manifest.disks]
    assert hints == (list(range(len(hints))) if on_one_bus else [None] * len(hints)), (
        "which of several buses boots is not known"
    )
    facts = [disk.hypersdk for disk in manifest.disks]
    assert [(found.bus, found.unit) for found in facts if found] == [
        (disk.place[0], f"{disk.place[1]}:{disk.place[2]}") for disk in package.held
    ]
    left_out = [disk.id for disk in package.disks if disk not in package.held]
    assert all(any(f"'{name}'" in text and "left out" in text for text in result.warnings) for name in left_out)
    known = package.memory[1] != "of plenty"
    assert manifest.metadata.hypersdk is not None
    assert manifest.metadata.hypersdk.memory_bytes == (256 * MiB if known else 0)
    assert any("memory" in text for text in result.warnings) is not known
    assert [warning.message for warning in manifest.warnings] == list(result.warnings)


@some
@given(packages(CONTENTS, CAPACITY))
def test_every_disk_of_a_package_stays_where_it_is_attached(
    parts: tuple[Path, dict[int, str]], tmp_path: Path, package: Package
) -> None:
    images, digests = parts
    _, out = converted(package, images, tmp_path / "case", OutputFormat.OVF)
    descriptor = (out / "vm.ovf").read_bytes()
    found = attached_disks(descriptor)
    assert {place: disk.capacity_bytes for place, disk in found.items()} == {
        disk.place: CAPACITY for disk in package.held
    }
    contents = {}
    for place, disk in found.items():
        if disk.href is not None:
            run_tool("qemu-img", "convert", "-O", "raw", out / disk.href, tmp_path / "raw")
            contents[place] = sha256(tmp_path / "raw")
    assert contents == {disk.place: digests[disk.content] for disk in package.held if disk.content is not None}
    assert b'"hostname"' in descriptor  # what only the source knows of the machine
    assert b"DeploymentOption" not in descriptor


LONE = Package(
    disks=(PackedDisk("d0", ("sata", 0, 2), None, CAPACITY, None, "ovf:/disk/{}", (1, None)),),
    listing=(0,),
    old=False,
    configurations=(),
    default=None,
    memory=("1", "GiB"),
    instances={("sata", 0): 7},
)


@pytest.mark.parametrize("output", list(OutputFormat))
def test_a_machine_whose_disks_are_all_empty(tmp_path: Path, output: OutputFormat) -> None:
    result, out = converted(LONE, tmp_path, tmp_path / "case", output)
    assert any("empty" in text for text in result.warnings)
    if output is OutputFormat.OVF:
        assert attached_disks((out / "vm.ovf").read_bytes()) == {("sata", 0, 2): Attached(None, CAPACITY)}
    else:
        assert list(result.content) == [f"vm-disk1.{FORMATS[output].image.suffix}"]


@pytest.mark.parametrize("output", [OutputFormat.VMDK, OutputFormat.OVA])
def test_a_machine_without_disks_has_nothing_to_write(tmp_path: Path, output: OutputFormat) -> None:
    with pytest.raises(HyperSDKError) as caught:
        converted(replace(LONE, disks=()), tmp_path, tmp_path / "case", output)
    assert caught.value.code == "no_disks"


def test_a_disk_that_two_items_refer_to_is_written_twice(parts: tuple[Path, dict[int, str]], tmp_path: Path) -> None:
    images, digests = parts
    disk = PackedDisk("d0", ("scsi", 0, 0), 3, CAPACITY, None, "ovf:/disk/{}", (1, None))
    twin = replace(disk, place=("scsi", 1, 4))
    package = replace(LONE, disks=(disk, twin), instances={("scsi", 0): 8, ("scsi", 1): 9})
    text = package.descriptor({3: OVF_NAMES[3]}).replace(package._disk(disk).encode(), b"", 1)
    source = tmp_path / "vm.ovf"
    source.write_bytes(text)
    (tmp_path / OVF_NAMES[3]).hardlink_to(images / OVF_NAMES[3])
    convert(source, tmp_path / "raw", OutputFormat.RAW, tmp_path / "state")
    assert [sha256(tmp_path / "raw" / f"vm-disk{number}.raw") for number in (1, 2)] == [digests[3]] * 2
    convert(source, tmp_path / "ovf", OutputFormat.OVF, tmp_path / "state")
    found = attached_disks((tmp_path / "ovf" / "vm.ovf").read_bytes())
    assert {place: entry.href for place, entry in found.items()} == {
        disk.place: "vm-disk1.vmdk",
        twin.place: "vm-disk2.vmdk",
    }


def test_a_descriptor_in_utf_16_is_converted_and_keeps_what_it_says(
    parts: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    images, _ = parts
    disk = PackedDisk("d0", ("scsi", 0, 0), 1, CAPACITY, None, "ovf:/disk/{}", (1, None))
    package = replace(LONE, disks=(disk,), instances={("scsi", 0): 8}, encoding="utf-16")
    _, out = converted(package, images, tmp_path / "case", OutputFormat.OVF)
    assert "Än OS" in (out / "vm.ovf").read_text(encoding="utf-8")
