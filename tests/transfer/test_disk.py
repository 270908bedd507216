"""Copies of whole disks, well served: every format holds the same guest, and says so."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypersdk.errors import IntegrityError, TransientError
from hypersdk.formats.image import BLOCK, BlockFile, ImageWriter
from hypersdk.formats.qcow2.writer import Qcow2Writer
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.layout import GRAIN_MARKER
from hypersdk.formats.vmdk.stream import Grain, GrainDecoder
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.model import Basis, Phase
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import content_digest_of
from hypersdk.transfer.disk import transfer_disk
from hypersdk.transfer.files import open_output
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.policies import CopyOptions, Policies
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.source import DiskSource
from hypersdk.units import SECTOR, MiB
from tests.support.disks import Disk, MemoryRanges, MemorySource, Raw
from tests.support.tools import run_tool

Create = Callable[[BlockFile, int], ImageWriter]

FORMATS: dict[str, tuple[str, Create]] = {
    "raw": ("raw", RawWriter.create),
    "qcow2": ("qcow2", lambda file, capacity: Qcow2Writer.create(file, capacity)),
    "qcow2-pass": ("qcow2", lambda file, capacity: Qcow2Writer.create(file, capacity, compression="pass")),
    "qcow2-repack": ("qcow2", lambda file, capacity: Qcow2Writer.create(file, capacity, compression="repack")),
    "vmdk": ("vmdk", lambda file, capacity: StreamOptimizedWriter.create(file, capacity)),
}


@contextmanager
def output(path: Path) -> Iterator[FdFile]:
    handle = open_output(path, fresh=True)
    try:
        yield FdFile(handle)
    finally:
        os.close(handle)


def copy(source: DiskSource, create: Create, path: Path, *, check: bool = True) -> Receipt:
    meter = Meter(source.label, path.name, source.capacity_bytes)
    with output(path) as file:
        return transfer_disk(
            source,
            create(file, source.capacity_bytes),
            None,
            cancel=CancelToken(),
            meter=meter,
            options=CopyOptions(check=check),
            policies=Policies(),
        )


def assert_holds(disk: Disk, path: Path, kind: str, folder: Path) -> None:
    """By qemu-img's reading, and by the digest of what it reads."""
    run_tool("qemu-img", "compare", "-f", "raw", "-F", kind, disk.raw_path, path)
    if kind == "qcow2":
        run_tool("qemu-img", "check", "-f", "qcow2", path)
    again = folder / "read-back.raw"
    run_tool("qemu-img", "convert", "-f", kind, "-O", "raw", path, again)
    data = again.read_bytes()[: disk.capacity]  # qemu rounds the size of a VMDK up
    assert content_digest_of(Raw(data), disk.capacity) == disk.content


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_into_every_format(disk: Disk, tmp_path: Path, name: str) -> None:
    kind, create = FORMATS[name]
    path = tmp_path / f"out.{kind}"
    receipt = copy(MemorySource(disk.stream, disk.capacity), create, path)
    assert receipt.content == disk.content
    assert receipt.stream is not None
    assert receipt.stream.sha256 == hashlib.sha256(disk.stream).hexdigest()
    assert receipt.stream.sha1 is None
    assert receipt.stream.length_bytes == receipt.wire_bytes == len(disk.stream)
    assert receipt.attempts == 1
    assert receipt.blocks_skipped == 0
    assert receipt.data_bytes == nonzero_bytes(disk.raw)
    assert receipt.blocks_written == nonzero_blocks(disk.raw)
    assert_holds(disk, path, kind, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_ranges_into_every_format(disk: Disk, tmp_path: Path, name: str) -> None:
    kind, create = FORMATS[name]
    path = tmp_path / f"out.{kind}"
    source = MemoryRanges(disk.raw)
    receipt = copy(source, create, path)
    assert receipt.content == disk.content
    assert receipt.stream is None
    assert receipt.wire_bytes == source.read_bytes == disk.capacity
    assert receipt.blocks_written == nonzero_blocks(disk.raw)
    assert receipt.blocks_zero == -(-disk.capacity // BLOCK) - receipt.blocks_written
    assert_holds(disk, path, kind, tmp_path)


@pytest.mark.parametrize("name", ["qcow2-pass", "vmdk", "raw"])
def test_unseen_grains_arrive_whole_and_claim_no_digest(disk: Disk, tmp_path: Path, name: str) -> None:
    kind, create = FORMATS[name]
    path = tmp_path / f"out.{kind}"
    receipt = copy(MemorySource(disk.stream, disk.capacity), create, path, check=False)
    assert receipt.content is None
    assert receipt.stream is not None
    assert receipt.stream.sha256 == hashlib.sha256(disk.stream).hexdigest()
    assert_holds(disk, path, kind, tmp_path)


def grains_of(disk: Disk) -> list[tuple[int, int, Grain]]:
    """Where the zlib stream of each grain begins and ends in the stream, and the grain."""
    found, at = [], 0
    for grain in GrainDecoder(expected_capacity=disk.capacity).feed(memoryview(disk.stream)):
        at = disk.stream.index(bytes(grain.zlib), at)
        found.append((at, at + len(grain.zlib), grain))
    return found


def damaged_first(disk: Disk, at: int, data: bytes, end: int) -> MemorySource:
    """A source whose first stream has other ``data`` at ``at`` and breaks behind ``end``; the next one is whole."""

    def breaks(position: int, _closed: threading.Event) -> None:
        if position > end:
            source.data = disk.stream
            raise TransientError("reset")

    damaged = disk.stream[:at] + data + disk.stream[at + len(data) :]
    source = MemorySource(damaged, disk.capacity, [breaks, lambda _position, _closed: None])
    return source


@pytest.mark.parametrize("name", ["qcow2-pass", "vmdk"])
def test_no_digest_of_the_next_stream_covers_a_grain_that_was_stored_unseen(
    disk: Disk, tmp_path: Path, name: str
) -> None:
    kind, create = FORMATS[name]
    start, end, _ = next(found for found in grains_of(disk) if found[1] - found[0] < BLOCK // 2)
    middle = (start + end) // 2
    source = damaged_first(disk, middle, bytes([disk.stream[middle] ^ 4]), end + 3 * MiB)
    with pytest.raises(IntegrityError) as raised:
        copy(source, create, tmp_path / f"out.{kind}", check=False)
    assert raised.value.code == "content_differs"
    assert source.opened == 2


@pytest.mark.parametrize("name", ["qcow2-pass", "vmdk"])
def test_unseen_grains_survive_a_break(disk: Disk, tmp_path: Path, name: str) -> None:
    kind, create = FORMATS[name]
    path = tmp_path / f"out.{kind}"
    receipt = copy(damaged_first(disk, 0, b"", len(disk.stream) // 2), create, path, check=False)
    assert receipt.attempts == 2
    assert_holds(disk, path, kind, tmp_path)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk"])
def test_a_block_that_only_a_broken_stream_had_is_no_part_of_the_disk(
    disk: Disk, tmp_path: Path, name: str, check: bool
) -> None:
    """The marker of a grain has no checksum: with another sector number the grain lands in a hole."""
    kind, create = FORMATS[name]
    start, end, _ = grains_of(disk)[0]
    hole = next(at for at in range(0, disk.capacity, BLOCK) if not any(disk.raw[at : at + BLOCK]))
    marker = start - GRAIN_MARKER.size
    source = damaged_first(disk, marker, (hole // SECTOR).to_bytes(8, "little"), end + 3 * MiB)
    with pytest.raises(IntegrityError) as raised:
        copy(source, create, tmp_path / f"out.{kind}", check=check)
    assert raised.value.code == "content_differs"
    assert raised.value.fields["offset"] == hole
    assert source.opened == 2


def test_sha1_where_the_source_has_nothing_better(disk: Disk, tmp_path: Path) -> None:
    receipt = copy(MemorySource(disk.stream, disk.capacity, algorithm="sha1"), RawWriter.create, tmp_path / "out.raw")
    assert receipt.stream is not None
    assert receipt.stream.sha1 == hashlib.sha1(disk.stream).hexdigest()
    assert receipt.stream.sha256 is None


@pytest.mark.parametrize("step", [1000, 65536, 1 << 22])
def test_any_size_of_reads(disk: Disk, tmp_path: Path, step: int) -> None:
    receipt = copy(
        MemorySource(disk.stream, disk.capacity, step=step, with_length=False), RawWriter.create, tmp_path / "out.raw"
    )
    assert receipt.content == disk.content


def test_only_areas_that_may_hold_data_are_fetched(disk: Disk, tmp_path: Path) -> None:
    areas = list(data_areas(disk.raw))
    source = MemoryRanges(disk.raw, areas=areas)
    receipt = copy(source, RawWriter.create, tmp_path / "out.raw")
    assert receipt.content == disk.content
    assert source.read_bytes == nonzero_bytes(disk.raw)


def test_areas_from_a_careless_server_do_no_harm(disk: Disk, tmp_path: Path) -> None:
    areas = [(0, disk.capacity), (-5, 10), (disk.capacity - 1, 1 << 50), (1 << 60, 5), (3, -7), (70_000, 3)]
    source = MemoryRanges(disk.raw, areas=areas)
    assert copy(source, RawWriter.create, tmp_path / "out.raw").content == disk.content
    assert source.read_bytes == disk.capacity, "each block once"


def test_a_disk_of_nothing(tmp_path: Path) -> None:
    receipt = copy(MemoryRanges(bytes(10 * BLOCK), areas=[]), RawWriter.create, tmp_path / "out.raw")
    assert receipt.content == content_digest_of(Raw(bytes(10 * BLOCK)), 10 * BLOCK)
    assert receipt.wire_bytes == 0


def test_zeros_become_holes(tmp_path: Path) -> None:
    raw = bytes(4 << 20) + b"x" * BLOCK + bytes(4 << 20)
    path = tmp_path / "out.raw"
    receipt = copy(MemoryRanges(raw), RawWriter.create, path)
    assert path.stat().st_blocks * 512 <= 2 * BLOCK
    assert (receipt.blocks_written, receipt.blocks_zero) == (1, 128)


def test_an_image_of_another_size_is_a_mistake(disk: Disk, tmp_path: Path) -> None:
    with output(tmp_path / "out.raw") as file, pytest.raises(ValueError, match="into an image of"):
        transfer_disk(
            MemorySource(disk.stream, disk.capacity),
            RawWriter.create(file, disk.capacity + 512),
            None,
            cancel=CancelToken(),
            meter=Meter("disk", "out.raw", disk.capacity),
            policies=Policies(),
            options=CopyOptions(),
        )


def test_the_meter_tells_the_end(disk: Disk, tmp_path: Path) -> None:
    meter = Meter("Hard disk 1", "out.raw", disk.capacity)
    with output(tmp_path / "out.raw") as file:
        transfer_disk(
            MemorySource(disk.stream, disk.capacity),
            RawWriter.create(file, disk.capacity),
            None,
            cancel=CancelToken(),
            meter=meter,
            policies=Policies(),
            options=CopyOptions(),
        )
    progress = meter.snapshot(1.0)
    assert progress.basis is Basis.LENGTH
    assert progress.wire_bytes == len(disk.stream)
    assert 0.99 < progress.fraction < 1
    assert progress.attempt == 1
    assert progress.skipped_bytes == 0
    meter.enter(Phase.DONE)
    assert meter.snapshot(2.0).fraction == 1


def test_a_finished_ledger_of_ranges_fetches_nothing(disk: Disk, tmp_path: Path) -> None:
    path, blocks = tmp_path / "out.raw", tmp_path / "blocks"
    first, second = MemoryRanges(disk.raw), MemoryRanges(disk.raw)
    with output(path) as file:
        for source, opened in ((first, BlockLedger.create), (second, BlockLedger.open)):
            with opened(blocks, disk.capacity, "point") as ledger:
                receipt = transfer_disk(
                    source,
                    RawWriter.resume(file, disk.capacity),
                    ledger,
                    cancel=CancelToken(),
                    meter=Meter("disk", "out.raw", disk.capacity),
                    policies=Policies(),
                    options=CopyOptions(),
                )
                assert receipt.content == disk.content
    assert second.read_bytes == 0
    assert receipt.blocks_written == 0
    assert receipt.blocks_skipped == -(-disk.capacity // BLOCK)
    assert receipt.data_bytes == nonzero_bytes(disk.raw)


def blocks_of(raw: bytes) -> Iterator[bytes]:
    return (raw[at : at + BLOCK] for at in range(0, len(raw), BLOCK))


def nonzero_blocks(raw: bytes) -> int:
    return sum(any(block) for block in blocks_of(raw))


def nonzero_bytes(raw: bytes) -> int:
    return sum(len(block) for block in blocks_of(raw) if any(block))


def data_areas(raw: bytes) -> Iterator[tuple[int, int]]:
    for number, block in enumerate(blocks_of(raw)):
        if any(block):
            yield number * BLOCK, len(block)
