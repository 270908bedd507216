"""EFI programs in a FAT, which mtools wrote."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hypersdk.formats.guestdisk import EfiFiles, fat
from hypersdk.formats.guestdisk.region import BoundedDisk, Region
from hypersdk.units import MiB
from tests.support.guestdisks import FileReader, content_of, empty, make_fat, put
from tests.support.tools import run_tool

BITS = {12: ("-c", "8"), 16: ("-c", "4"), 32: ("-F", "-c", "1")}


def efi_files(path: Path) -> EfiFiles:
    """Those of a file with a FAT."""
    found = content_of(path).efi
    assert found is not None
    return found


@pytest.mark.parametrize("bits", BITS)
def test_the_loaders_of_an_installed_system(tmp_path: Path, bits: int) -> None:
    path = empty(tmp_path / "esp", {12: 8, 16: 32, 32: 64}[bits] * MiB)
    folders = ("EFI", "EFI/BOOT", "EFI/debian", "EFI/Microsoft", "EFI/Microsoft/Boot", "EFI/empty", "loader")
    files = (
        "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/fbx64.efi", "EFI/debian/shimx64.efi", "EFI/debian/grub.cfg",
        "EFI/Microsoft/Boot/bootmgfw.efi", "loader/not-in-the-folder.efi", "startup.nsh",
    )  # fmt: skip
    make_fat(path, *folders, files=files, options=BITS[bits])
    assert run_tool("minfo", "-i", path, "::").count(f"FAT{bits}") == 1
    found = efi_files(path)
    assert found.complete
    assert sorted(found.loaders) == [
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/BOOT/fbx64.efi",
        "EFI/Microsoft/Boot/bootmgfw.efi",
        "EFI/debian/shimx64.efi",
    ]
    assert found.fallback == ("EFI/BOOT/BOOTX64.EFI",)
    assert found.has("efi/DEBIAN/shimX64.efi")
    assert not found.has("EFI/debian/grubx64.efi")


def test_long_names_and_those_that_are_only_short(tmp_path: Path) -> None:
    names = ("A loader with a long name and blanks.efi", "größe.efi", "UPPER.EFI", "lower.efi", "a.b.c.efi")
    path = empty(tmp_path / "esp", 32 * MiB)
    make_fat(path, "efi", "efi/Vendor of Systems", files=[f"efi/Vendor of Systems/{name}" for name in names])
    assert {loader.rpartition("/")[2] for loader in efi_files(path).loaders} == set(names)
    assert {loader.rpartition("/")[0] for loader in efi_files(path).loaders} == {"efi/Vendor of Systems"}


def test_a_removed_file_is_not_found(tmp_path: Path) -> None:
    path = empty(tmp_path / "esp", 32 * MiB)
    make_fat(path, "EFI", "EFI/BOOT", files=("EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/a long name.efi", "EFI/BOOT/last.efi"))
    run_tool("mdel", "-i", path, "::/EFI/BOOT/BOOTX64.EFI", "::/EFI/BOOT/a long name.efi")
    assert efi_files(path).loaders == ("EFI/BOOT/last.efi",)


@pytest.mark.parametrize("bits", BITS)
def test_a_folder_that_takes_many_clusters(tmp_path: Path, bits: int) -> None:
    path = empty(tmp_path / "esp", {12: 8, 16: 32, 32: 64}[bits] * MiB)
    others = [f"EFI/debian/other file number {number}.txt" for number in range(60)]
    make_fat(path, "EFI", "EFI/debian", files=(*others, "EFI/debian/shimx64.efi"), options=BITS[bits])
    found = efi_files(path)
    assert found == EfiFiles(("EFI/debian/shimx64.efi",), complete=True)


def test_no_folder_and_no_loader_are_complete(tmp_path: Path) -> None:
    assert efi_files(make_fat(empty(tmp_path / "a", 32 * MiB))) == EfiFiles((), complete=True)
    assert efi_files(make_fat(empty(tmp_path / "b", 32 * MiB), "EFI")) == EfiFiles((), complete=True)


def test_a_chain_that_is_a_loop_ends_and_is_not_complete(tmp_path: Path) -> None:
    path = empty(tmp_path / "esp", 32 * MiB)
    make_fat(path, "EFI", options=("-c", "4"))
    reader = FileReader(path)
    region = Region(BoundedDisk(reader))
    shape = fat.geometry(region.read(0, 512))
    assert shape is not None
    top = region.read(shape.root, shape.root_bytes)
    at = top.index(b"EFI        ")
    (cluster,) = struct.unpack_from("<H", top, at + 26)
    put(path, shape.fat + 2 * cluster, struct.pack("<H", cluster))
    put(path, shape.data + (cluster - 2) * shape.cluster + 64, b"\xe5" * (shape.cluster - 64))  # free, but no end
    reader.close()
    assert not efi_files(path).complete


def test_a_chain_that_leads_nowhere_is_not_complete(tmp_path: Path) -> None:
    path = empty(tmp_path / "esp", 32 * MiB)
    others = [f"EFI/debian/other file number {number}.txt" for number in range(60)]
    make_fat(path, "EFI", "EFI/debian", files=others, options=("-c", "4"))
    first_fat = struct.unpack_from("<H", path.read_bytes(), 14)[0] * 512
    put(path, first_fat + 4, bytes(4096))
    assert not efi_files(path).complete
