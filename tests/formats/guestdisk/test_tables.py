"""Partition tables, compared with what fdisk reads."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hypersdk.formats.guestdisk import ContentKind, TableKind, read_layout
from hypersdk.formats.guestdisk.region import MAX_READS
from hypersdk.units import MiB, TiB
from tests.support.guestdisks import (
    BASIC_DATA,
    BIOS_BOOT,
    ESP,
    LINUX,
    MemoryReader,
    empty,
    layout_of_file,
    make_content,
    partition,
    partitions_of,
    put,
)

MBR = """label: dos
start=2048, size=4M, type=83, bootable
size=4M, type=7
type=5
size=4M, type=83
size=4M, type=82
size=4M, type=8e
"""
GPT = f"""label: gpt
size=1M, type={BIOS_BOOT}, name="bios"
size=8M, type={ESP}, name="EFI System"
size=8M, type={BASIC_DATA}, attrs="LegacyBIOSBootable"
size=4M, type={LINUX}, name="Größe"
"""


def test_an_mbr_with_logical_partitions(tmp_path: Path) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), MBR)
    layout = layout_of_file(disk)
    assert layout.table is TableKind.MBR
    assert [(each.start_bytes, each.size_bytes) for each in layout.partitions] == partitions_of(disk)
    assert [each.number for each in layout.partitions] == [1, 2, 3, 5, 6, 7]
    assert [each.type for each in layout.partitions] == ["0x83", "0x07", "0x05", "0x83", "0x82", "0x8e"]
    assert [each.active for each in layout.partitions] == [True, *[False] * 5]
    assert layout.partitions[2].content.kind is ContentKind.EXTENDED
    assert {each.content.kind for each in layout.partitions if each.number != 3} == {ContentKind.EMPTY}
    assert not layout.boot_code
    assert layout.complete


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt(tmp_path: Path, sector: int) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), GPT, sector=sector)
    layout = layout_of_file(disk)
    assert (layout.table, layout.sector_bytes, layout.damaged_table) == (TableKind.GPT, sector, False)
    assert [(each.start_bytes, each.size_bytes) for each in layout.partitions] == partitions_of(disk, sector=sector)
    assert [each.type.upper() for each in layout.partitions] == [BIOS_BOOT, ESP, BASIC_DATA, LINUX]
    assert [each.name for each in layout.partitions] == ["bios", "EFI System", None, "Größe"]
    assert [each.active for each in layout.partitions] == [False, False, True, False]
    assert [each.is_esp for each in layout.partitions] == [False, True, False, False]
    assert [each.is_bios_boot for each in layout.partitions] == [True, False, False, False]


@pytest.mark.parametrize("damage", ["header", "entries", "backup"])
def test_a_gpt_is_read_from_what_is_left_of_it(tmp_path: Path, damage: str) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), GPT)
    before = layout_of_file(disk)
    put(disk, {"header": 512 + 60, "entries": 1024 + 200, "backup": 64 * MiB - 500}[damage], b"\xa5")
    layout = layout_of_file(disk)
    assert layout.partitions == before.partitions
    assert layout.damaged_table


def test_a_gpt_without_any_header_left_is_its_protective_mbr(tmp_path: Path) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), GPT)
    put(disk, 512, bytes(512))
    put(disk, 64 * MiB - 512, bytes(512))
    layout = layout_of_file(disk)
    assert layout.table is TableKind.MBR
    assert [each.type for each in layout.partitions] == ["0xee"]


def test_a_gpt_that_an_mbr_has_replaced_is_not_read(tmp_path: Path) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), GPT)
    whole = disk.read_bytes()[512:]
    partition(disk, "label: dos\nstart=2048, size=4M, type=83\n")
    put(disk, 512, whole)
    layout = layout_of_file(disk)
    assert (layout.table, [each.type for each in layout.partitions]) == (TableKind.MBR, ["0x83"])


def test_boot_code_is_what_a_bios_would_start(tmp_path: Path) -> None:
    disk = partition(empty(tmp_path / "disk", 64 * MiB), MBR)
    put(disk, 0, b"\xfa")
    assert layout_of_file(disk).boot_code
    put(disk, 510, b"\0\0")
    layout = layout_of_file(disk)
    assert not layout.boot_code
    assert layout.table is TableKind.NONE


@pytest.mark.parametrize("name", ["fat16", "fat32", "fat-by-mtools", "ntfs", "ext4", "luks2"])
def test_a_whole_disk_without_a_table(tmp_path: Path, name: str) -> None:
    layout = layout_of_file(make_content(tmp_path / "disk", name))
    assert layout.table is TableKind.NONE
    assert layout.partitions == ()
    assert layout.whole is not None
    assert layout.whole.kind not in (ContentKind.UNKNOWN, ContentKind.EMPTY)


def test_an_empty_disk() -> None:
    layout = read_layout(MemoryReader(2 * TiB, {}))
    assert (layout.table, layout.whole and layout.whole.kind) == (TableKind.NONE, ContentKind.EMPTY)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1023, 4096])
def test_a_disk_that_is_hardly_one(size: int) -> None:
    for fill in (b"\0", b"\xff", b"\x55\xaa"):
        layout = read_layout(MemoryReader(size, {0: (fill * size)[:size]}))
        assert layout.size_bytes == size


# --- hostile tables --------------------------------------------------------------------------------------------------


def entry(kind: int, start: int, count: int, flag: int = 0) -> bytes:
    """An entry of an MBR."""
    return struct.pack("<B3xB3xII", flag, kind, start, count)


def sector(*entries: bytes) -> bytes:
    """A sector with a table."""
    return b"".join(entries).rjust(446 + 16 * len(entries), b"\0").ljust(510, b"\0") + b"\x55\xaa"


def test_a_chain_of_logical_partitions_that_is_a_loop_ends() -> None:
    chain = sector(entry(0x83, 1, 8), entry(0x05, 0, 100))
    layout = read_layout(MemoryReader(64 * MiB, {0: sector(entry(0x05, 64, 1000)), 64 * 512: chain}))
    assert [each.number for each in layout.partitions] == [1, 5]


def test_a_chain_without_an_end_is_cut() -> None:
    links = {512 * (64 + index): sector(entry(0x83, 1, 8), entry(0x05, index + 1, 1)) for index in range(1000)}
    reader = MemoryReader(64 * MiB, {0: sector(entry(0x05, 64, 100_000)), **links})
    layout = read_layout(reader)
    assert len(layout.partitions) == 1 + 128
    assert reader.reads <= MAX_READS


def test_partitions_beyond_the_end_are_unknown() -> None:
    table = sector(entry(0x83, 1, 1), entry(0x83, 0xFFFFFFF0, 0xFFFFFFFF))
    first, second = read_layout(MemoryReader(1 * MiB, {0: table})).partitions
    assert (first.content.kind, second.content.kind) == (ContentKind.EMPTY, ContentKind.UNKNOWN)


def test_a_table_whose_flags_are_impossible_is_none() -> None:
    table = sector(entry(0x83, 1, 1, flag=0x41))
    assert read_layout(MemoryReader(1 * MiB, {0: table})).table is TableKind.NONE


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (80, struct.pack("<I", 0xFFFFFFFF)),  # number of entries
        (84, struct.pack("<I", 3)),  # size of one
        (72, struct.pack("<Q", (1 << 64) - 1)),  # where they are
        (12, struct.pack("<I", 0xFFFFFFFF)),  # length of the header
        (24, struct.pack("<Q", 7)),  # where the header says it is
    ],
)
def test_a_gpt_header_with_absurd_numbers_is_none(tmp_path: Path, at: int, value: bytes) -> None:
    import zlib

    disk = partition(empty(tmp_path / "disk", 64 * MiB), GPT)
    for place in (512, 64 * MiB - 512):
        header = bytearray(disk.read_bytes()[place : place + 512])
        header[at : at + len(value)] = value
        header[16:20] = bytes(4)
        header[16:20] = struct.pack("<I", zlib.crc32(header[:92]))
        put(disk, place, bytes(header))
    assert layout_of_file(disk).table is TableKind.MBR
