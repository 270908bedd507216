"""A raw image as a simulated disk: every client receives exactly its bytes, and nothing but an image is read."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import UsageError
from hypersdk.migration.spec import Method
from hypersdk.simulator import DiskSpec, MachineSpec
from hypersdk.simulator.content import BLOCK, DiskImage
from hypersdk.simulator.disks import content_of
from hypersdk.simulator.imagefile import ImageBlocks
from hypersdk.simulator.machineflag import read_machine
from hypersdk.units import SECTOR, MiB
from tests.support.exportchecks import as_raw
from tests.support.exporter import Engine, succeeded
from tests.support.peers import run_govc
from tests.support.simulator import SimulatorFactory
from tests.support.simulatorclients import govc_url
from tests.support.tools import run_tool

SIZE = 40 * MiB + 3 * SECTOR


def image_file(
    path: Path, size: int = SIZE, areas: tuple[tuple[int, int], ...] = ((0, 512), (9 * MiB, 3 * MiB))
) -> Path:
    """A sparse file with random data in ``areas`` of ``(offset, length)``, half of it compressible, and in its last
    byte."""
    rng = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in (*areas, (size - 1, 1)):
            file.seek(offset)
            file.write(rng.randbytes(length // 2).ljust(length, b"hypersdk"[:1]))
    return path


def padded(path: Path) -> bytes:
    """The content of the disk that an image is: whole sectors."""
    data = path.read_bytes()
    return data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A raw image with holes, whose size is not a whole number of blocks."""
    return image_file(tmp_path / "guest.raw")


@given(
    size=st.integers(1, 40 * BLOCK),
    areas=st.lists(st.tuples(st.integers(0, 40 * BLOCK), st.integers(1, 3 * BLOCK)), max_size=5),
)
def test_the_disk_is_the_file_and_holes_are_left_out(
    tmp_path_factory: pytest.TempPathFactory, size: int, areas: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("images") / "a.raw"
    inside = tuple((offset, min(length, size - offset)) for offset, length in areas if offset < size)
    image_file(path, size, inside)
    disk = DiskImage(content_of(DiskSpec(image=path), "seed/vm/0"))
    assert disk.read(0, disk.capacity_bytes) == padded(path)
    blocks = list(disk.allocated_blocks())
    assert blocks == sorted(set(blocks))
    assert {index for index in range(disk.content.blocks) if any(disk.block(index))} <= set(blocks)
    assert disk.allocated_bytes() == sum(map(disk.content.length, blocks))
    path.unlink()


def test_a_hole_is_no_data(image: Path) -> None:
    blocks = ImageBlocks(image, BLOCK)
    assert list(blocks) == [0, *range(9 * MiB // BLOCK, 12 * MiB // BLOCK), SIZE // BLOCK]
    assert len(blocks) == len(list(blocks))
    assert 1 not in blocks
    with pytest.raises(KeyError):
        blocks[1]


def test_a_file_of_one_hole_is_an_empty_disk(tmp_path: Path) -> None:
    (path := tmp_path / "empty.raw").touch()
    os.truncate(path, MiB)
    disk = DiskImage(content_of(DiskSpec(image=path), "seed/vm/0"))
    assert list(disk.allocated_blocks()) == []
    assert disk.read(0, 2 * MiB) == bytes(MiB)


def test_another_file_is_another_content(tmp_path: Path, image: Path) -> None:
    other = image_file(tmp_path / "other.raw")
    keys = {DiskImage(content_of(DiskSpec(image=path), "seed/vm/0")).key() for path in (image, other)}
    assert len(keys) == 2


def test_a_file_that_has_become_shorter_is_no_source_of_zeros(image: Path) -> None:
    blocks = ImageBlocks(image, BLOCK)
    os.truncate(image, MiB)
    with pytest.raises(OSError, match="shorter"):
        blocks[9 * MiB // BLOCK]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "regular file"),
        (lambda path: os.mkfifo(path), "regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "regular file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.touch(), "0 B"),
        (lambda path: run_tool("qemu-img", "create", "-q", "-f", "qcow2", path, "1M"), "qcow2"),
        (lambda path: run_tool("qemu-img", "create", "-q", "-f", "vmdk", path, "1M"), "VMDK"),
    ],
    ids=["missing", "folder", "FIFO", "device", "loop", "empty", "qcow2", "VMDK"],
)
def test_nothing_but_a_raw_image_is_read(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(path := tmp_path / "a.raw")
    with pytest.raises(UsageError) as caught:
        DiskSpec(image=path)
    assert reason in caught.value.message


@pytest.mark.parametrize("method", [Method.LEASE, Method.DATASTORE])
def test_an_export_brings_the_image_back(
    image: Path, tmp_path: Path, simulator: SimulatorFactory, method: Method
) -> None:
    server = simulator(machines=(MachineSpec("guest", (DiskSpec(image=image),)),))
    succeeded(Engine(server, tmp_path / "state").export("guest", tmp_path / "out", method=method))
    (qcow2,) = tmp_path.glob("out/*.qcow2")
    assert as_raw(qcow2, tmp_path / "back.raw").read_bytes() == padded(image)


def test_govc_brings_the_image_back(image: Path, tmp_path: Path, simulator: SimulatorFactory) -> None:
    machine = MachineSpec(
        "guest", (DiskSpec(image=image), DiskSpec(image=image_file(tmp_path / "data.raw", 5 * MiB, ())))
    )
    server = simulator(machines=(machine,))
    run_govc(govc_url(server), "export.ovf", "-vm", "guest", "-sha", "256", tmp_path)
    for index, source in enumerate((image, tmp_path / "data.raw")):
        (vmdk,) = tmp_path.glob(f"guest/*disk-{index}.vmdk")
        assert as_raw(vmdk, tmp_path / "back.raw").read_bytes() == padded(source)


def test_a_machine_is_read_from_a_flag(image: Path) -> None:
    machine = read_machine(f"web={image},{image},firmware=efi,memory=512MiB,guest=windows11_64Guest")
    assert machine.name == "web"
    assert [disk.image for disk in machine.disks] == [image, image]
    assert [disk.capacity_bytes for disk in machine.disks] == [SIZE, SIZE]
    assert (machine.firmware, machine.memory_mb, machine.guest_id) == ("efi", 512, "windows11_64Guest")


def test_what_is_no_option_is_an_image(tmp_path: Path) -> None:
    path = image_file(tmp_path / "a=b.raw")
    assert read_machine(f"web={path}").disks[0].image == path


@pytest.mark.parametrize(
    "text",
    ["", "web", "web=", "=IMAGE", "web=,IMAGE", "web=firmware=efi", "web=IMAGE,firmware=uefi", "web=IMAGE,memory=1MiB",
     "web=IMAGE,memory=5000TiB", "web=IMAGE,guest=os2", f"{'x' * 81}=IMAGE", "web=IMAGE,colour=red", "web=\0"],
)  # fmt: skip
def test_what_is_no_machine_is_refused(text: str, image: Path) -> None:
    with pytest.raises(UsageError):
        read_machine(text.replace("IMAGE", str(image)))
