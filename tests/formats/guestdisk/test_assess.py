"""What a guest conversion would refuse: only what is certain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.formats.guestdisk import (
    Content,
    ContentKind,
    DiskLayout,
    EfiFiles,
    GuestFinding,
    NtfsState,
    Partition,
    TableKind,
    assess,
    volumes_of,
)
from hypersdk.formats.guestdisk.records import BIOS_BOOT_GUID, ESP_GUID
from hypersdk.model import Firmware
from hypersdk.units import GiB, MiB
from tests.support.guestdisks import (
    PHYSICAL_VOLUME,
    content_of,
    empty,
    layout_of_file,
    make_bios_disk,
    make_bitlocker,
    make_content,
    make_uefi_disk,
    partition,
    put,
)
from tests.support.guests.windows import windows_guest
from tests.support.tools import run_tool

LUKS_ID = "0b1c2d3e-0001-4000-8000-00000000cafe"


def disk(*contents: Content, table: TableKind = TableKind.MBR, code: bool = True, **changes: object) -> DiskLayout:
    """A disk with partitions that hold this."""
    partitions = tuple(
        Partition(number, number * MiB, MiB, "0x83", None, False, content) for number, content in enumerate(contents, 1)
    )
    layout = DiskLayout(GiB, 512, table, partitions, None, code, False, True)
    return replace(layout, **changes)  # type: ignore[arg-type]


def efi_disk(*loaders: str, complete: bool = True, code: bool = False) -> DiskLayout:
    """A GPT disk whose first partition is an EFI system partition with these loaders."""
    fat = Content(ContentKind.FAT, efi=EfiFiles(loaders, complete))
    made = disk(fat, EXT4, table=TableKind.GPT, code=code)
    return replace(made, partitions=(replace(made.partitions[0], type=ESP_GUID), *made.partitions[1:]))


EXT4 = Content(ContentKind.EXT4)
LUKS = Content(ContentKind.LUKS, uuid=LUKS_ID, version=2)
FALLBACK, SHIM = "EFI/BOOT/BOOTX64.EFI", "EFI/debian/shimx64.efi"


def codes(findings: tuple[GuestFinding, ...]) -> list[tuple[str, bool]]:
    return [(finding.code, finding.refuses) for finding in findings]


def by_firmware(firmware: Firmware | None, *layouts: DiskLayout) -> list[tuple[str, bool]]:
    return codes(assess(layouts, firmware=firmware))


# --- firmware --------------------------------------------------------------------------------------------------------


def test_machines_that_start_as_described_have_no_finding() -> None:
    assert by_firmware(Firmware.BIOS, disk(EXT4)) == []
    assert by_firmware(Firmware.EFI, efi_disk(FALLBACK, SHIM)) == []
    assert by_firmware(Firmware.EFI, disk(EXT4, code=False), efi_disk(FALLBACK)) == []
    assert by_firmware(Firmware.BIOS, disk(EXT4, code=False), disk(EXT4)) == []


def test_efi_without_a_loader_is_refused() -> None:
    assert by_firmware(Firmware.EFI, efi_disk()) == [("no_boot_loader", True)]
    assert by_firmware(Firmware.EFI, disk(EXT4, code=False)) == [("no_boot_loader", True)]
    assert by_firmware(Firmware.EFI, disk(EXT4)) == [("firmware_mismatch", True)]


def test_efi_without_a_fallback_is_a_warning() -> None:
    assert by_firmware(Firmware.EFI, efi_disk(SHIM)) == [("uefi_no_fallback", False)]
    assert by_firmware(Firmware.EFI, efi_disk("EFI/BOOT/BOOTIA32.EFI")) == [("uefi_no_fallback", False)]
    assert by_firmware(Firmware.EFI, efi_disk(SHIM), efi_disk("efi/boot/bootx64.efi")) == []


def test_bios_without_boot_code_is_refused() -> None:
    assert by_firmware(Firmware.BIOS, disk(EXT4, code=False)) == [("no_boot_loader", True)]
    assert by_firmware(Firmware.BIOS, efi_disk(FALLBACK)) == [("firmware_mismatch", True)]


def test_a_disk_that_only_looks_like_efi_is_a_warning() -> None:
    both = efi_disk(FALLBACK, code=True)
    assert by_firmware(Firmware.BIOS, both) == [("firmware_mismatch", False)]
    grub = (*both.partitions, Partition(3, 3 * MiB, MiB, BIOS_BOOT_GUID, None, False, Content(ContentKind.UNKNOWN)))
    assert by_firmware(Firmware.BIOS, replace(both, partitions=grub)) == []


def test_what_is_doubtful_never_refuses() -> None:
    assert by_firmware(Firmware.EFI, efi_disk(complete=False)) == []
    assert by_firmware(Firmware.EFI, efi_disk(SHIM, complete=False)) == []
    assert by_firmware(Firmware.EFI, replace(efi_disk(), complete=False)) == []
    assert by_firmware(None, efi_disk(), disk(EXT4, code=False)) == []
    damaged = efi_disk()
    partitions = (replace(damaged.partitions[0], content=Content(ContentKind.UNKNOWN)), damaged.partitions[1])
    assert by_firmware(Firmware.EFI, replace(damaged, partitions=partitions)) == []
    cd = replace(disk(), table=TableKind.NONE, whole=Content(ContentKind.ISO9660))
    assert by_firmware(Firmware.EFI, cd) == []


# --- nothing ---------------------------------------------------------------------------------------------------------


def whole(kind: ContentKind, *, complete: bool = True) -> DiskLayout:
    """A disk without a table."""
    return replace(disk(), table=TableKind.NONE, whole=Content(kind), complete=complete)


@pytest.mark.parametrize("firmware", [None, *Firmware])
def test_disks_that_hold_nothing_are_refused_by_that_alone(firmware: Firmware | None) -> None:
    assert by_firmware(firmware, whole(ContentKind.EMPTY)) == [("nothing_to_convert", True)]
    assert by_firmware(firmware, whole(ContentKind.EMPTY), whole(ContentKind.UNKNOWN)) == [("nothing_to_convert", True)]


def test_one_disk_with_something_is_enough() -> None:
    assert by_firmware(None, whole(ContentKind.EMPTY), whole(ContentKind.LVM)) == []
    assert by_firmware(None, whole(ContentKind.EMPTY), disk()) == []
    assert by_firmware(None, whole(ContentKind.UNKNOWN, complete=False)) == []
    assert by_firmware(None) == []


# --- encryption, hibernation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [["all"], [LUKS_ID], [LUKS_ID.upper()], ["/dev/sdb2"], ["other", "/dev/sdb2"]])
def test_an_encrypted_volume_with_its_key_is_no_obstacle(keys: list[str]) -> None:
    assert assess([disk(EXT4), disk(EXT4, LUKS)], firmware=None, keys=keys) == ()


@pytest.mark.parametrize("keys", [[], ["/dev/sda2"], ["/dev/sdb"], ["", "other"]])
def test_one_without_is_refused_with_its_place(keys: list[str]) -> None:
    (finding,) = assess([disk(EXT4), disk(EXT4, LUKS)], firmware=None, keys=keys)
    assert (finding.code, finding.refuses) == ("encrypted_without_key", True)
    assert (finding.disk, finding.volume) == (2, "/dev/sdb2")
    assert finding.message == (f"/dev/sdb2 (disk 2) is encrypted (LUKS2, UUID {LUKS_ID}), and its key was not given")
    error = finding.as_error()
    assert (error.code, error.exit_status) == ("encrypted_without_key", 6)
    assert error.fields == {"disk": 2, "volume": "/dev/sdb2"}


def test_each_volume_needs_a_key_of_its_own() -> None:
    other = replace(LUKS, uuid="other")
    assert codes(assess([disk(LUKS, other)], firmware=None, keys=["other"])) == [("encrypted_without_key", True)]


@pytest.mark.parametrize(
    ("windows", "state", "expected"),
    [
        (True, NtfsState.HIBERNATED, [("hibernated_ntfs", True)]),
        (True, NtfsState.CACHED, [("ntfs_in_use", True)]),
        (True, NtfsState.CLEAN, []),
        (True, NtfsState.UNKNOWN, []),
        (False, NtfsState.HIBERNATED, []),
        (False, NtfsState.CACHED, []),
    ],
)
def test_windows_must_be_shut_down(windows: bool, state: NtfsState, expected: list[tuple[str, bool]]) -> None:
    ntfs = Content(ContentKind.NTFS, ntfs=state, windows=windows)
    assert by_firmware(None, disk(ntfs)) == expected


def test_refusals_come_first() -> None:
    layout = replace(efi_disk(SHIM), partitions=(*efi_disk(SHIM).partitions, *disk(LUKS).partitions))
    assert by_firmware(Firmware.EFI, layout) == [("encrypted_without_key", True), ("uefi_no_fallback", False)]


def test_disks_are_named_as_in_libguestfs() -> None:
    names = [volume.name for volume in volumes_of([disk(EXT4)] * 28)]
    assert names[:2] == ["/dev/sda1", "/dev/sdb1"]
    assert names[25:] == ["/dev/sdz1", "/dev/sdaa1", "/dev/sdab1"]
    assert [volume.name for volume in volumes_of([whole(ContentKind.LVM)])] == ["/dev/sda"]


# --- disks that the real tools made ----------------------------------------------------------------------------------


def found(firmware: Firmware, *paths: Path) -> list[str]:
    return [finding.code for finding in assess([layout_of_file(path) for path in paths], firmware=firmware)]


def test_a_uefi_disk(tmp_path: Path) -> None:
    path = make_uefi_disk(tmp_path, FALLBACK, SHIM)
    assert found(Firmware.EFI, path) == []
    assert found(Firmware.BIOS, path) == ["firmware_mismatch"]


def test_a_uefi_disk_without_a_fallback_and_encrypted(tmp_path: Path) -> None:
    assert found(Firmware.EFI, make_uefi_disk(tmp_path, SHIM, root="luks2")) == [
        "encrypted_without_key",
        "uefi_no_fallback",
    ]


def test_a_bios_disk(tmp_path: Path) -> None:
    path = make_bios_disk(tmp_path)
    assert found(Firmware.BIOS, path) == []
    assert found(Firmware.EFI, path) == ["firmware_mismatch"]
    assert found(Firmware.BIOS, make_bios_disk(tmp_path, code=b"\0")) == ["no_boot_loader"]


def test_a_volume_of_lvm_that_is_encrypted(tmp_path: Path) -> None:
    path = partition(empty(tmp_path / "disk", 80 * MiB), "label: dos\nstart=2048, type=8e, bootable\n")
    put(path, 0, b"\xeb")
    put(path, 1 * MiB, PHYSICAL_VOLUME)
    put(path, 2 * MiB, make_content(tmp_path / "root", "luks1"))
    (finding,) = assess([layout_of_file(path)], firmware=Firmware.BIOS)
    assert (finding.code, finding.volume) == ("encrypted_without_key", "/dev/vg_guest/root")
    assert assess([layout_of_file(path)], firmware=Firmware.BIOS, keys=["/dev/vg_guest/root"]) == ()


def test_bitlocker_needs_a_key(tmp_path: Path) -> None:
    (finding,) = assess([layout_of_file(make_bitlocker(tmp_path / "disk"))], firmware=None)
    assert (finding.code, "BitLocker" in finding.message) == ("encrypted_without_key", True)


def test_windows_is_told_by_its_folders(tmp_path: Path) -> None:
    """A data disk that is hibernated, or has a file called Windows, does not matter to a conversion."""
    file = tmp_path / "file"
    file.write_bytes(b"HIBR" + bytes(8192))
    data = make_content(tmp_path / "data", "ntfs")
    system = volume_of(windows_guest().disks[0], tmp_path / "system")
    assert layout_of_file(system).whole == replace(content_of(system), windows=True, ntfs=NtfsState.CLEAN)
    for volume, names in ((data, ("Windows", "hiberfil.sys")), (system, ("hiberfil.sys",))):
        for name in names:
            run_tool("ntfscp", "-f", volume, file, name)
    (finding,) = assess([layout_of_file(data), layout_of_file(system)], firmware=None)
    assert (finding.code, finding.volume) == ("hibernated_ntfs", "/dev/sdb")


def volume_of(disk: Path, path: Path) -> Path:
    """The only partition of a disk, as a file of its own."""
    (found,) = layout_of_file(disk).partitions
    where = (f"skip={found.start_bytes}", f"count={found.size_bytes}", "iflag=skip_bytes,count_bytes")
    run_tool("dd", f"if={disk}", f"of={path}", *where, "bs=1M", "conv=sparse", "status=none")
    return path
