"""Disks that are damaged or forged: whatever lies there, the reading ends, within its limits, without an error."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.formats.guestdisk import ContentKind, DiskLayout, assess, read_layout
from hypersdk.formats.guestdisk.region import MAX_READS
from hypersdk.model import Firmware
from hypersdk.transfer.holes import runs
from hypersdk.units import KiB, MiB
from tests.support.guestdisks import (
    FILE_SYSTEMS,
    PHYSICAL_VOLUME,
    MemoryReader,
    empty,
    make_bios_disk,
    make_bitlocker,
    make_content,
    make_mdraid,
    make_uefi_disk,
    partition,
    put,
)
from tests.support.seeds import examples
from tests.support.tools import run_tool

PAGE = 4 * KiB


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[int, bytes]]:
    """Real disks, as the pages with data of each."""
    folder = tmp_path_factory.mktemp("disks")
    made = {name: make_content(folder / name, name) for name in FILE_SYSTEMS}
    made["uefi"] = make_uefi_disk(folder, "EFI/BOOT/BOOTX64.EFI", "EFI/debian/a loader with a long name.efi")
    made["bios"] = make_bios_disk(folder, name="bios.raw")
    made["logical"] = partition(
        empty(folder / "logical", 64 * MiB), "label: dos\nsize=4M\ntype=5\nsize=4M\nsize=4M\nsize=4M\n"
    )
    made["lvm"] = empty(folder / "lvm", 64 * MiB)
    put(made["lvm"], 0, PHYSICAL_VOLUME)
    put(made["lvm"], 1 * MiB, made["ext4"])
    made["bitlocker"] = make_bitlocker(folder / "bitlocker")
    made["mdraid"] = make_mdraid(folder / "mdraid", 4 * KiB)
    made["hibernated"] = make_content(folder / "hibernated", "ntfs")
    file = folder / "file"
    file.write_bytes(b"HIBR" + bytes(8 * KiB))
    run_tool("ntfscp", "-f", made["hibernated"], file, "hiberfil.sys")
    return {name: {-1: str(path.stat().st_size).encode(), **pages(path)} for name, path in made.items()}


def pages(path: Path) -> dict[int, bytes]:
    """The pages of a file that are not zeros."""
    found = {}
    descriptor = os.open(path, os.O_RDONLY)
    for run, has_data in runs(descriptor, range(path.stat().st_size)):
        for offset in range(run.start, run.stop if has_data else run.start, PAGE):
            page = os.pread(descriptor, PAGE, offset)
            if any(page):
                found[offset] = page
    os.close(descriptor)
    return found


def read_bounded(size: int, ranges: Mapping[int, bytes]) -> DiskLayout:
    """The layout; fails where it took more reads than allowed."""
    reader = MemoryReader(size, ranges)
    layout = read_layout(reader)
    assert reader.reads <= MAX_READS
    for firmware in (None, *Firmware):
        assess([layout], firmware=firmware)
    return layout


NAMES = [*FILE_SYSTEMS, "uefi", "bios", "logical", "lvm", "bitlocker", "mdraid", "hibernated"]


@pytest.mark.parametrize("name", NAMES)
@examples(40)
@given(data=st.data())
def test_a_mutated_disk_is_read_to_an_end(
    disks: Mapping[str, Mapping[int, bytes]], name: str, data: st.DataObject
) -> None:
    original = dict(disks[name])
    size = int(original.pop(-1))
    places = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(original)),
                st.integers(0, PAGE - 1),
                st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"\xff", b"\x80", b"\x7f"]),
            ),
            min_size=1,
            max_size=12,
        )
    )
    mutated = dict(original)
    for page, at, value in places:
        old = mutated[page]
        mutated[page] = (old[:at] + value + old[at + len(value) :])[: len(old)]
    read_bounded(size, mutated)


@pytest.mark.parametrize("name", NAMES)
@examples(20)
@given(cut=st.integers(0, 1 << 16))
def test_a_disk_that_is_cut_off_is_read_to_an_end(
    disks: Mapping[str, Mapping[int, bytes]], name: str, cut: int
) -> None:
    original = dict(disks[name])
    size = int(original.pop(-1)) * cut >> 16
    read_bounded(size, {at: page[: max(0, size - at)] for at, page in original.items() if at < size})


@given(st.binary(max_size=4 * KiB), st.integers(0, 1 << 62))
def test_noise_is_read_to_an_end(noise: bytes, size: int) -> None:
    read_bounded(size, {0: noise[:size]})


def test_a_disk_that_would_take_more_reads_is_not_complete(tmp_path: Path) -> None:
    script = "label: gpt\ntable-length: 1024\nfirst-lba: 2048\n" + "size=256\n" * 1000
    disk = partition(empty(tmp_path / "many", 1100 * MiB), script)
    layout = read_bounded(1100 * MiB, pages(disk))
    assert len(layout.partitions) == 1000
    assert not layout.complete


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\', b"a ", b"a{", b"a=[", b"#", b"a=b "])
def test_a_long_text_of_lvm_takes_no_time(unit: bytes) -> None:
    """Half a megabyte of it; a search that starts over at each byte would run for hours."""
    length = 512 * KiB
    area = PHYSICAL_VOLUME[4096:4136] + struct.pack("<QQ", 512, length) + PHYSICAL_VOLUME[4152:4608]
    head = bytearray(PHYSICAL_VOLUME[:4096])
    text = (unit * (length // len(unit) + 1))[:length]
    layout = read_bounded(64 * MiB, {0: bytes(head), 4096: area, 4608: text})
    assert layout.whole is not None
    assert layout.whole.kind is ContentKind.LVM
