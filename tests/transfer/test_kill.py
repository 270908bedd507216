"""Copies killed with SIGKILL at random moments, and gone on with."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from hypersdk.formats.image import BLOCK
from hypersdk.transfer.digest import hash_block
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.units import MiB
from tests.support.disks import Disk, MemoryRanges, MemorySource
from tests.support.programs import killedcopy
from tests.support.programs.killedcopy import run
from tests.support.seeds import SEED
from tests.support.tools import run_tool

RATE = 48 * MiB
IN_FLIGHT = 4 * 4 * MiB
"""Four ranges of 4 MiB."""
LONGEST_S = 0.25
"""Half of a copy."""

PROCESSES = multiprocessing.get_context("forkserver")  # a process that has imported everything starts at once
PROCESSES.set_forkserver_preload(["tests.support.programs.killedcopy"])


def kill_one(folder: Path, source: str, kind: str, after_s: float) -> None:
    """Lets a copy run for a while and kills it."""
    report, end = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=killedcopy.main, args=(folder, source, kind, RATE, end))
    child.start()
    end.close()
    with report:
        assert report.recv() == "begun"
    time.sleep(after_s)
    child.kill()
    child.join()


def recorded(folder: Path, disk: Disk, kind: str) -> set[int]:
    """What the ledger says; each hash is that of the source's block."""
    with BlockLedger.open(folder / "blocks", disk.capacity, kind) as ledger:
        found = {index for index in range(ledger.blocks) if ledger.has(index)}
        for index in found:
            assert ledger.hashes(index, 1) == [hash_block(disk.raw[index * BLOCK : (index + 1) * BLOCK])]
    return found


def assert_in_the_file(folder: Path, disk: Disk, found: set[int]) -> None:
    """Raw images can be looked at without a writer."""
    data = (folder / "image").read_bytes()
    for index in found:
        at = slice(index * BLOCK, (index + 1) * BLOCK)
        assert data[at] == disk.raw[at], f"block {index} is on record and not in the file"


def assert_image(folder: Path, disk: Disk, kind: str) -> None:
    qemu = kind.split("-")[0]
    run_tool("qemu-img", "compare", "-f", "raw", "-F", qemu, disk.raw_path, folder / "image")
    if qemu == "qcow2":
        run_tool("qemu-img", "check", "-f", "qcow2", folder / "image")


def fetched_bytes(folder: Path) -> int:
    """What the killed process read from its source."""
    total = sum(int(line) for line in (folder / "reads").read_text().split())
    (folder / "reads").unlink()
    return total


def survives(folder: Path, disk: Disk, source: str, kind: str, kills: int, seed: str) -> None:
    shutil.copy(disk.raw_path, folder / "disk.raw")
    shutil.copy(disk.stream_path, folder / "disk-stream.vmdk")
    rng = random.Random(seed)
    before: set[int] = set()
    for _ in range(kills):
        kill_one(folder, source, kind, rng.uniform(0, LONGEST_S))
        found = recorded(folder, disk, kind)
        assert found >= before, "what was on record stays there"
        if kind == "raw":
            assert_in_the_file(folder, disk, found)
        if source == "ranges":
            assert fetched_bytes(folder) - len(found - before) * BLOCK <= IN_FLIGHT
        before = found
        if len(found) == -(-disk.capacity // BLOCK):
            break
    if source == "ranges":
        ranges = MemoryRanges(disk.raw)
        receipt = run(folder, ranges, kind, None)
        assert ranges.read_bytes == disk.capacity - sum(len(disk.raw[i * BLOCK : (i + 1) * BLOCK]) for i in before)
    else:
        receipt = run(folder, MemorySource(disk.stream, disk.capacity), kind, None)
    assert receipt.content == disk.content
    assert receipt.blocks_skipped == len(before)
    assert receipt.blocks_written == sum(
        any(disk.raw[at : at + BLOCK]) for at in range(0, disk.capacity, BLOCK) if at // BLOCK not in before
    ), "no block that is on record is written again"
    assert_image(folder, disk, kind)


@pytest.mark.parametrize(
    ("source", "kind"),
    [("stream", "raw"), ("ranges", "raw"), ("stream", "qcow2"), ("ranges", "qcow2"), ("stream", "vmdk")],
)
def test_killed_twice(disk: Disk, tmp_path: Path, source: str, kind: str) -> None:
    survives(tmp_path, disk, source, kind, kills=2, seed=f"{SEED}")


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2-pass", "vmdk"])
@pytest.mark.parametrize("left", [0.5, 0.99])
def test_the_ledger_is_not_believed_over_the_image(disk: Disk, tmp_path: Path, kind: str, left: float) -> None:
    """A remount, fsck or lost writeback took a part of the file, in the same boot."""
    run(tmp_path, MemoryRanges(disk.raw), kind, None)
    before = recorded(tmp_path, disk, kind)
    image = tmp_path / "image"
    os.truncate(image, int(image.stat().st_size * left))
    receipt = run(tmp_path, MemoryRanges(disk.raw), kind, None)
    assert 0 < receipt.blocks_skipped < len(before)
    assert receipt.content == disk.content
    assert_image(tmp_path, disk, kind)


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2-pass", "vmdk"])
@pytest.mark.parametrize("source", ["stream", "ranges"])
def test_killed_at_many_points(disk: Disk, tmp_path: Path, source: str, kind: str) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        survives(folder, disk, source, kind, kills=2, seed=f"{SEED}/{number}")
        shutil.rmtree(folder)
