"""Disks that are made up: qemu-img reads from their streams exactly what ``write_raw`` says; the bootable one boots."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.kvm.boot import prove_boot
from hypersdk.simulator import DiskSpec, MachineSpec
from hypersdk.simulator.bootsector import MARKER, boot_sector
from hypersdk.simulator.content import BLOCK, BlockKind, DiskImage, SpreadAllocation, StrideAllocation
from hypersdk.simulator.disks import content_of
from hypersdk.simulator.stream import VmdkStream, stream_length
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import SECTOR, GiB, KiB, MiB
from tests.support.simulatorclients import simulated
from tests.support.tools import run_tool


def image_of(spec: DiskSpec, name: str = "seed/vm/0") -> DiskImage:
    return DiskImage(content_of(spec, name))


def decoded(image: DiskImage, folder: Path) -> bytes:
    """The stream's content, by qemu-img."""
    vmdk, out = folder / "a.vmdk", folder / "a.raw"
    vmdk.write_bytes(b"".join(VmdkStream(image, "a.vmdk").chunks()))
    assert vmdk.stat().st_size == stream_length(image, "a.vmdk")
    run_tool("qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, out)
    return out.read_bytes()


@pytest.mark.parametrize(
    "spec",
    [
        DiskSpec(SECTOR),
        DiskSpec(BLOCK),
        DiskSpec(BLOCK - SECTOR),
        DiskSpec(BLOCK + SECTOR),
        DiskSpec(MiB, allocated_bytes=0),
        DiskSpec(5 * MiB + 3 * SECTOR, allocated_bytes=5 * MiB + 3 * SECTOR),
        DiskSpec(32 * MiB),
        DiskSpec(32 * MiB + SECTOR),
        DiskSpec(97 * MiB + 7 * SECTOR, allocated_bytes=9 * MiB),
        DiskSpec(80 * MiB, stride_bytes=20 * MiB),
        DiskSpec(8 * MiB, boot=True),
    ],
    ids=lambda spec: f"{spec.capacity_bytes}",
)
def test_qemu_reads_what_is_meant(spec: DiskSpec, tmp_path: Path) -> None:
    image = image_of(spec)
    for point in (image, image.changed([0, (image.content.blocks - 1) // 2, image.content.blocks - 1])):
        assert decoded(point, tmp_path) == point.read(0, spec.capacity_bytes)


@given(st.integers(1, 3000), st.integers(0, 4 * MiB))
def test_what_is_counted_is_what_is_there(sectors: int, allocated: int) -> None:
    image = image_of(DiskSpec(sectors * SECTOR, allocated_bytes=allocated))
    blocks = list(image.allocated_blocks())
    assert blocks == sorted(set(blocks))
    assert blocks == [n for n in range(image.content.blocks) if image.kind(n) is not BlockKind.HOLE]
    assert (
        image.allocated_bytes()
        == sum(length for _, length in image.extents())
        == sum(map(image.content.length, blocks))
    )
    changed = image.changed([image.content.blocks - 1])
    assert changed.allocated_bytes() == sum(length for _, length in changed.extents())


@given(st.integers(0, 2 * MiB + 10), st.integers(0, 300 * KiB))
def test_any_part_is_a_part_of_the_whole(offset: int, length: int) -> None:
    image = image_of(DiskSpec(2 * MiB + SECTOR, allocated_bytes=MiB))
    assert image.read(offset, length) == image.read(0, image.capacity_bytes)[offset : offset + length]


@given(st.integers(0, 400), st.integers(0, 400))
def test_allocations_hold_as_many_as_they_say(total: int, wanted: int) -> None:
    run = 16 * BLOCK
    spread = SpreadAllocation.of(total * run, wanted * run)
    assert list(spread.runs()) == [n for n in range(total) if spread.has(n)]
    assert len(list(spread.runs())) == spread.count() == min(total, wanted)
    stride = StrideAllocation(total, wanted + 1)
    assert list(stride.runs()) == [n for n in range(total) if stride.has(n)]
    assert len(list(stride.runs())) == stride.count()


def test_there_is_something_of_everything() -> None:
    image = image_of(DiskSpec(64 * MiB, allocated_bytes=32 * MiB))
    kinds = {image.kind(n) for n in range(image.content.blocks)}
    assert kinds == set(BlockKind)
    data = b"".join(VmdkStream(image, "x").chunks())
    assert 0.2 < len(data) / image.allocated_bytes() < 0.9, "neither all noise nor all air"
    random_block = next(n for n in range(image.content.blocks) if image.kind(n) is BlockKind.RANDOM)
    assert len(zlib.compress(image.block(random_block))) > BLOCK * 0.99


def test_no_two_blocks_are_equal_and_a_change_changes() -> None:
    image = image_of(DiskSpec(16 * MiB, allocated_bytes=16 * MiB))
    other = image_of(DiskSpec(16 * MiB, allocated_bytes=16 * MiB), "seed/vm/1")
    blocks = [image.block(n) for n in range(256) if image.kind(n) is not BlockKind.ZERO]
    assert len(set(blocks)) == len(blocks)
    assert not {other.block(n) for n in range(256) if other.kind(n) is not BlockKind.ZERO} & set(blocks)
    later = image.changed([3])
    assert later.block(3) != image.block(3)
    assert later.block(4) == image.block(4)
    assert later.key() != image.key()
    assert image_of(DiskSpec(16 * MiB, allocated_bytes=16 * MiB)).key() == image.key()


def test_the_same_seed_gives_the_same_inventory() -> None:
    def state(seed: int) -> dict[str, object]:
        with simulated(vms=40, seed=seed) as server:
            return server.state()

    assert state(3) == state(3)
    assert state(3) != state(4)


def test_write_raw_is_sparse_and_whole(tmp_path: Path) -> None:
    spec = MachineSpec("vm", (DiskSpec(2 * GiB, stride_bytes=512 * MiB),))
    with simulated(machines=(spec,)) as server:
        path = tmp_path / "raw"
        server.write_raw("vm", 0, path)
        image = server.disk_image("vm")
        assert path.stat().st_size == 2 * GiB
        assert path.stat().st_blocks * 512 <= MiB
        with path.open("rb") as file:
            for offset in [0, 512 * MiB, *(random.Random(1).randrange(2 * GiB) for _ in range(20))]:
                file.seek(offset)
                assert file.read(4096) == image.read(offset, 4096)


def test_a_disk_is_made_of_sectors() -> None:
    for capacity in (0, -512, 513):
        with pytest.raises(ValueError, match="whole sectors"):
            DiskSpec(capacity)


def test_the_boot_sector_is_one() -> None:
    code = boot_sector()
    assert len(code) == SECTOR
    assert code.endswith(b"\x55\xaa")
    assert MARKER.encode() in code


def test_the_bootable_disk_boots(tmp_path: Path) -> None:
    with simulated(vms=1) as server:
        path = tmp_path / "boot.raw"
        server.write_raw("boot-demo", 0, path)
    proof = prove_boot(path, marker=MARKER, timeout_s=60, cancel=CancelToken())
    assert proof is not None
    assert MARKER in proof.line
