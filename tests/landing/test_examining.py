"""What lies on the disks of an export, and what a guest conversion would refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.formats.guestdisk import TableKind
from hypersdk.landing.examining import examine
from hypersdk.migration.manifest import seal
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.spec import OutputFormat
from hypersdk.model import Firmware
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.cli.shell import SMALL, small
from tests.support.exporter import Engine, succeeded
from tests.support.exports import export_folder
from tests.support.guestdisks import empty, layout_of_file, make_bios_disk, make_content, make_uefi_disk
from tests.support.simulator import SimulatorFactory
from tests.support.tools import run_tool

LOADER = "EFI/BOOT/BOOTX64.EFI"


def codes(path: Path, *keys: str) -> list[str]:
    return [finding.code for finding in examine(path, cancel=CancelToken(), keys=keys).findings]


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_export_of_two_disks(tmp_path: Path, image_format: str) -> None:
    disks = [make_uefi_disk(tmp_path, LOADER), make_content(tmp_path / "data.raw", "xfs")]
    folder = export_folder(tmp_path / "web-01", raw=disks, firmware=Firmware.EFI, image_format=image_format)
    examined = examine(folder, cancel=CancelToken())
    assert (examined.name, examined.firmware, examined.findings) == ("web-01", Firmware.EFI, ())
    assert [disk.file for disk in examined.disks] == [f"web-01-disk{n}.{image_format}" for n in (1, 2)]
    assert [disk.layout.table for disk in examined.disks] == [TableKind.GPT, TableKind.NONE]


def test_the_firmware_is_that_of_the_manifest(tmp_path: Path) -> None:
    disk = make_bios_disk(tmp_path)
    assert codes(export_folder(tmp_path / "a", raw=[disk], firmware=Firmware.BIOS)) == []
    assert codes(export_folder(tmp_path / "b", raw=[disk], firmware=Firmware.EFI)) == ["firmware_mismatch"]


def rewritten(folder: Path, **vm: object) -> Path:
    """The export with other facts in its manifest."""
    document = json.loads((folder / MANIFEST_NAME).read_text())
    document["vm"].update(vm)
    (folder / MANIFEST_NAME).write_text(json.dumps(seal(document)))
    return folder


def test_a_lone_disk_has_no_firmware_that_is_known(tmp_path: Path) -> None:
    """Its manifest says BIOS, which nobody described."""
    folder = rewritten(export_folder(tmp_path / "a", raw=[make_uefi_disk(tmp_path, "EFI/debian/grubx64.efi")]), cpu=0)
    assert examine(folder, cancel=CancelToken()).firmware is None
    assert codes(folder) == ["uefi_no_fallback"]


def test_a_key_that_will_be_given_is_no_obstacle(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "a", raw=[make_bios_disk(tmp_path, root="luks2")])
    assert codes(folder) == ["encrypted_without_key"]
    assert codes(folder, "/dev/sda1") == []


@pytest.mark.parametrize("output_format", list(OutputFormat))
def test_real_exports_of_every_format(simulator: SimulatorFactory, tmp_path: Path, output_format: OutputFormat) -> None:
    engine = Engine(simulator(machines=(small("web-01", disks=(SMALL, SMALL)),)), tmp_path / "state")
    folder = tmp_path / "out"
    succeeded(engine.export("web-01", folder, format=output_format))
    examined = examine(folder, cancel=CancelToken())
    assert [disk.layout.size_bytes for disk in examined.disks] == [SMALL.capacity_bytes] * 2
    assert [finding.code for finding in examined.findings] == ["nothing_to_convert"]


@pytest.mark.parametrize("options", ["monolithicSparse", "streamOptimized", "twoGbMaxExtentFlat"])
def test_a_vmdk_of_any_kind(tmp_path: Path, options: str) -> None:
    disk = make_uefi_disk(tmp_path, LOADER)
    image = tmp_path / "disk.vmdk"
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={options}", disk, image)
    examined = examine(image, cancel=CancelToken())
    assert [each.layout for each in examined.disks] == [layout_of_file(disk)]
    assert (examined.firmware, examined.findings) == (None, ())


@pytest.mark.parametrize("output_format", [OutputFormat.OVA, OutputFormat.OVF])
def test_a_package_outside_of_an_export(
    simulator: SimulatorFactory, tmp_path: Path, output_format: OutputFormat
) -> None:
    engine = Engine(simulator(machines=(small("web-01", disks=(SMALL, SMALL)),)), tmp_path / "state")
    folder = tmp_path / "out"
    succeeded(engine.export("web-01", folder, format=output_format))
    (package,) = folder.glob(f"*.{output_format}")
    examined = examine(package, cancel=CancelToken())
    assert (examined.name, examined.firmware) == ("web-01", Firmware.BIOS)
    assert [disk.layout for disk in examined.disks] == [
        disk.layout for disk in examine(folder, cancel=CancelToken()).disks
    ]


# --- what cannot be read ---------------------------------------------------------------------------------------------


def failure(path: Path) -> str:
    with pytest.raises(HyperSDKError) as caught:
        examine(path, cancel=CancelToken())
    return caught.value.code


def test_an_image_that_is_missing_or_a_link(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "a", raw=[empty(tmp_path / "disk", 1 * MiB)])
    image = folder / "web-01-disk1.qcow2"
    elsewhere = image.rename(tmp_path / "elsewhere.qcow2")
    assert failure(folder) == "disk_image_unreadable"
    image.symlink_to(elsewhere)
    assert failure(folder) == "disk_image_unreadable"
    image.unlink()
    os.mkfifo(image)
    assert failure(folder) == "disk_image_unreadable"


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    assert failure(tmp_path) == "verify_no_manifest"


def test_it_can_be_cancelled(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "a", raw=[empty(tmp_path / "disk", 1 * MiB)])
    cancel = CancelToken()
    cancel.cancel("enough")
    with pytest.raises(Cancelled):
        examine(folder, cancel=cancel)
