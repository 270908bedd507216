"""What a partition holds, compared with what blkid reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.formats.guestdisk import ContentKind, NtfsState, TableKind
from hypersdk.formats.guestdisk.lvm import physical_volume
from hypersdk.formats.guestdisk.region import BoundedDisk, Region
from hypersdk.units import KiB, MiB
from tests.support.guestdisks import (
    BITLOCKER_ID,
    FILE_SYSTEMS,
    PHYSICAL_VOLUME,
    MemoryReader,
    blkid,
    content_of,
    empty,
    kinds,
    layout_of_file,
    make_bitlocker,
    make_content,
    make_mdraid,
    md_superblock,
    partition,
    put,
)

BY_BLKID = {
    "crypto_LUKS": "luks",
    "LVM2_member": "lvm",
    "linux_raid_member": "mdraid",
    "BitLocker": "bitlocker",
    "ReFS": "refs",
    "squashfs": "squashfs",
}


def assert_as_blkid(path: Path) -> None:
    """Kind, label and UUID are those that blkid reads."""
    found, told = content_of(path), blkid(path)
    assert found.kind.value == BY_BLKID.get(told["TYPE"], told["TYPE"])
    assert (found.label or "").encode() == told.get("LABEL", "").replace("\\", "").encode()
    if found.kind not in (ContentKind.ISO9660, ContentKind.BITLOCKER):  # one has a date, one is not read by blkid
        assert found.uuid == told["UUID"]


@pytest.mark.parametrize("name", FILE_SYSTEMS)
def test_kind_label_and_uuid_are_those_of_blkid(tmp_path: Path, name: str) -> None:
    assert_as_blkid(make_content(tmp_path / name, name))


@pytest.mark.parametrize("name", FILE_SYSTEMS)
def test_it_is_the_same_inside_of_a_partition(tmp_path: Path, name: str) -> None:
    content = make_content(tmp_path / name, name)
    size = -(-content.stat().st_size // MiB)
    disk = partition(empty(tmp_path / "disk", (size + 3) * MiB), f"label: gpt\nstart=2048, size={size}M\n")
    put(disk, 1 * MiB, content)
    layout = layout_of_file(disk)
    assert layout.table is TableKind.GPT
    assert [found for _, found in layout.contents] == [content_of(content)]


@pytest.mark.parametrize("to_go", [False, True], ids=["system", "to-go"])
def test_bitlocker(tmp_path: Path, to_go: bool) -> None:
    path = make_bitlocker(tmp_path / "disk", to_go=to_go)
    assert_as_blkid(path)
    assert content_of(path).uuid == str(BITLOCKER_ID)
    assert content_of(path).encrypted


@pytest.mark.parametrize("at", [0, 4 * KiB, 8 * MiB - 8 * KiB], ids=["1.1", "1.2", "1.0"])
def test_a_member_of_a_raid(tmp_path: Path, at: int) -> None:
    assert_as_blkid(make_mdraid(tmp_path / "disk", at))


def test_a_mirror_counts_before_the_file_system_that_shines_through(tmp_path: Path) -> None:
    esp = make_content(tmp_path / "disk", "fat-by-mtools")
    put(esp, 64 * MiB - 8 * KiB, md_superblock(64 * MiB - 8 * KiB))
    found = content_of(esp)
    assert found.kind is ContentKind.MDRAID
    assert found.efi is not None
    assert found.efi.complete


@pytest.mark.parametrize(
    ("kind", "at", "magic"),
    [
        ("refs", 0, b"\0\0\0ReFS\0\0\0\0"),
        ("squashfs", 0, b"hsqs"),
    ],
)
def test_what_is_known_by_name_only(tmp_path: Path, kind: str, at: int, magic: bytes) -> None:
    path = empty(tmp_path / "disk", 8 * MiB)
    put(path, at, magic)
    assert content_of(path).kind.value == kind


def test_noise_is_unknown(tmp_path: Path) -> None:
    path = empty(tmp_path / "disk", 8 * MiB)
    put(path, 3000, b"\x01")
    assert content_of(path).kind is ContentKind.UNKNOWN


def test_luks_has_its_version(tmp_path: Path) -> None:
    assert [content_of(make_content(tmp_path / name, name)).version for name in ("luks1", "luks2")] == [1, 2]


# --- LVM -------------------------------------------------------------------------------------------------------------


def volume_disk(folder: Path, root: str = "ext4", swap: str = "swap") -> Path:
    """The physical volume, with something in its logical volumes."""
    path = empty(folder / "pv", 64 * MiB)
    put(path, 0, PHYSICAL_VOLUME)
    put(path, 1 * MiB, make_content(folder / "root", root))
    put(path, 25 * MiB, make_content(folder / "swap", swap))
    return path


def test_a_physical_volume_and_what_its_volumes_hold(tmp_path: Path) -> None:
    path = volume_disk(tmp_path)
    assert_as_blkid(path)
    group = content_of(path).group
    assert group is not None
    assert group.name == "vg_guest"
    assert [(volume.name, volume.size_bytes) for volume in group.volumes] == [("root", 24 * MiB), ("swap", 8 * MiB)]
    assert [volume.content and volume.content.kind for volume in group.volumes] == [ContentKind.EXT4, ContentKind.SWAP]


def test_encryption_inside_of_a_volume_is_seen(tmp_path: Path) -> None:
    group = content_of(volume_disk(tmp_path, root="luks1")).group
    assert group is not None
    assert [volume.content and volume.content.encrypted for volume in group.volumes] == [True, False]


def with_text(change: tuple[bytes, bytes]) -> Region:
    """The physical volume with something in its texts replaced by as many bytes."""
    old, new = change
    assert old in PHYSICAL_VOLUME
    data = PHYSICAL_VOLUME.replace(old, new.ljust(len(old)))
    return Region(BoundedDisk(MemoryReader(64 * MiB, {0: data})))


@pytest.mark.parametrize(
    ("change", "volumes"),
    [
        ((b'"pv0", 0', b'"pv1", 0'), [("root", None), ("swap", 25 * MiB)]),
        ((b'"pv0", 0', b'"pv0"'), [("root", None), ("swap", 25 * MiB)]),
        ((b'"striped"', b'"thin"'), [("root", None), ("swap", None)]),
        ((b'"VISIBLE"', b'"HIDDEN"'), []),
        ((b"extent_size = 8192", b"extent_size = 1e99"), [("root", 1 * MiB), ("swap", 1 * MiB)]),
        ((b"logical_volumes {", b"logical_volumes ="), []),
    ],
)
def test_a_text_that_says_something_else(change: tuple[bytes, bytes], volumes: list[tuple[str, int | None]]) -> None:
    region = with_text(change)
    found = physical_volume(region, region.read(0, 4096))
    assert found is not None
    assert [(volume.name, volume.start) for volume in found.volumes] == volumes


def test_a_text_that_wraps_around_the_end_of_its_area() -> None:
    import struct

    area = 4096
    header = PHYSICAL_VOLUME[area : area + 512]
    start, size = struct.unpack_from("<QQ", header, 40)
    length = struct.unpack_from("<Q", header, 32)[0]
    text = PHYSICAL_VOLUME[area + start : area + start + size]
    late = length - 300
    moved = header[:40] + struct.pack("<Q", late) + header[48:]
    ranges = {0: PHYSICAL_VOLUME[:area], area: moved + text[300:], area + late: text[:300]}
    region = Region(BoundedDisk(MemoryReader(64 * MiB, ranges)))
    found = physical_volume(region, region.read(0, 4096))
    assert found is not None
    assert [volume.name for volume in found.volumes] == ["root", "swap"]


# --- NTFS ------------------------------------------------------------------------------------------------------------


def test_kinds_of_a_disk_are_in_order(tmp_path: Path) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), "label: gpt\nsize=20M\nsize=20M\nsize=8M\n")
    put(disk, 1 * MiB, make_content(tmp_path / "a", "ntfs"))
    put(disk, 21 * MiB, make_content(tmp_path / "b", "luks1"))
    layout = layout_of_file(disk)
    assert kinds(layout) == [ContentKind.NTFS, ContentKind.LUKS, ContentKind.EMPTY]
    assert layout.partitions[0].content.ntfs is NtfsState.CLEAN
