"""kill -9 of the real program at any moment, then --resume: the same content, little or nothing done twice, the source as before.

The moments are drawn from a seed (HYPERSDK_KILL_SEED repeats or varies them): before the first byte, anywhere in the data, after the last.
"""

from __future__ import annotations

import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.content import BlockKind
from hypersdk.units import KiB, MiB
from tests.e2e.judge import (
    RUN_FILE,
    ZERO_BLOCK,
    assert_finished,
    assert_holds,
    expected_raw,
    run_of,
)
from tests.e2e.program import Ended, Program

ProgramFactory = Callable[..., tuple[Simulator, Program]]

SEED: Final = int(os.environ.get("HYPERSDK_KILL_SEED", "20"))
CHECKPOINT: Final = 64 * MiB
IN_FLIGHT: Final = 4 * 4 * MiB
"""What a disk's four range streams may have fetched and not stored: a piece each."""
PROBE: Final = 512

OFF: Final = MachineSpec(
    "web-01",
    disks=(
        DiskSpec(24 * MiB, allocated_bytes=16 * MiB),
        DiskSpec(40 * MiB + 512, allocated_bytes=30 * MiB),
        DiskSpec(96 * MiB, allocated_bytes=10 * MiB),
    ),
)
RUNNING: Final = MachineSpec("web-01", disks=OFF.disks, power="poweredOn")
DATA: Final = 56 * MiB
RATE: Final = 40 * MiB
BLOCK: Final = 64 * KiB


@dataclass(frozen=True)
class Moment:
    """When to kill: ``share`` of the data moved, or, outside of 0..1, ``delay_s`` after the start or after the last byte."""

    share: float
    delay_s: float

    def __str__(self) -> str:
        return f"{self.share:.2f}+{self.delay_s:.2f}s"


def moments(count: int, name: str) -> list[Moment]:
    """As many moments, a fifth of them before the first or after the last byte."""
    drawn = random.Random(f"{SEED}/{name}")
    shares = [(number + drawn.random()) / count * 1.2 - 0.1 for number in range(count)]
    return [Moment(share, drawn.uniform(0.2, 1.2) if share < 0 else drawn.uniform(0, 0.3)) for share in shares]


def at_moments(count: int, name: str) -> pytest.MarkDecorator:
    """Runs a test for each of ``moments``; the case's name tells seed and moment."""
    return pytest.mark.parametrize("moment", moments(count, name), ids=lambda moment: f"seed{SEED}:{moment}")


def moved(simulator: Simulator) -> int:
    """Body bytes that were sent so far, of leases and of ranges."""
    counters = simulator.counters
    with counters.lock:
        ranges = sum(length for parts in counters.ranges.values() for _, length in parts)
        return counters.stream_bytes.total() + ranges


def is_at(moment: Moment, simulator: Simulator, total: int) -> Callable[[], bool]:
    """A look at the simulator that says when it is time."""
    began = time.monotonic()
    if moment.share < 0:
        return lambda: time.monotonic() - began > moment.delay_s
    if moment.share <= 1:
        return lambda: moved(simulator) >= moment.share * total
    ended: list[float] = []

    def after() -> bool:
        if not ended and moved(simulator) >= total:
            ended.append(time.monotonic())
        return bool(ended) and time.monotonic() - ended[0] > moment.delay_s

    return after


@dataclass(frozen=True)
class Killed:
    """What lay there after the kill: of each disk that was begun, the blocks on record, those of them that hold data; and the finished disks."""

    recorded: dict[str, int]
    with_data: dict[str, int]
    done: frozenset[str]


def look(folder: Path) -> Killed:
    """Reads run file and ledgers by their documented layout."""
    run = run_of(folder)
    disks = run["disks"] if run else []
    begun = {
        disk["file_name"]: records_of(folder / f"{disk['file_name']}.partial.blocks")
        for disk in disks
        if disk["receipt"] is None
    }
    return Killed(
        recorded={name: len(digests) for name, digests in begun.items()},
        with_data={name: sum(digest != ZERO_BLOCK for digest in digests) for name, digests in begun.items()},
        done=frozenset(disk["file_name"] for disk in disks if disk["receipt"]),
    )


def records_of(ledger: Path) -> list[bytes]:
    """The digests of all whole records: 40 bytes each from byte 4096 on, their CRC salted with the header's number and their index."""
    if not ledger.exists():
        return []
    data = ledger.read_bytes()
    salt = int.from_bytes(data[72:76], "little")
    found = []
    for index in range(max(0, len(data) - 4096) // 40):
        digest, epoch, crc = struct.unpack_from("<32sII", data, 4096 + 40 * index)
        if epoch and crc == zlib.crc32(digest + epoch.to_bytes(4, "little"), salt ^ index):
            found.append(digest)
    return found


@dataclass
class Case:
    """One machine, its export into one folder, and what must come of it."""

    simulator: Simulator
    program: Program
    tmp_path: Path
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        self.folder = self.tmp_path / "out"
        self.before = self.simulator.state()
        self.expected = expected_raw(self.simulator, "web-01", self.tmp_path / "expected")

    def kill(self, is_time: Callable[[], bool]) -> bool:
        """Starts the export and kills it; False where it had ended before."""
        running = self.program.start("export", "--json", "web-01", "-o", self.folder, *self.flags)
        killed = running.kill_when(is_time)
        deadline = time.monotonic() + 30
        counters = self.simulator.counters
        while counters.streams_now.total() + counters.range_streams_now.total() and time.monotonic() < deadline:
            time.sleep(0.01)
        return killed

    def finish(self, *more: str) -> Ended:
        """The export with ``--resume`` (where there is something to resume), which must succeed; judges its result."""
        resume = ["--resume"] if (self.folder / RUN_FILE).exists() else []
        ended = self.program.export("web-01", "-o", self.folder, *self.flags, *resume, *more)
        assert_holds(self.folder, self.expected, ended.result["content"], self.tmp_path / "judged")
        assert_finished(self.folder)
        assert self.simulator.state() == self.before
        return ended

    def kinds(self, *kinds: BlockKind) -> int:
        """Blocks of such kinds on all disks."""
        images = [self.simulator.disk_image("web-01", index) for index in range(len(self.expected))]
        return sum(image.kind(index) in kinds for image in images for index in image.allocated_blocks())


def all_data(simulator: Simulator) -> int:
    """About what a lease sends of the three disks."""
    return 30 * MiB


def assert_nothing_written_twice(case: Case, killed: Killed, ended: Ended) -> None:
    """What was on record was skipped, and all else written once: over both runs each block with data was written exactly once."""
    with_data = case.kinds(BlockKind.COMPRESSIBLE, BlockKind.RANDOM)
    assert ended.result["blocks_skipped"] == sum(killed.recorded.values())
    assert ended.result["blocks_written"] == with_data - sum(killed.with_data.values())


@pytest.mark.slow
@at_moments(20, "lease")
def test_a_lease(moment: Moment, program: ProgramFactory, tmp_path: Path) -> None:
    case = Case(*program(machines=(OFF,), rate_bytes_s=RATE), tmp_path, ("--source", "lease", "--parallel", "2"))
    if not case.kill(is_at(moment, case.simulator, all_data(case.simulator))):
        return
    killed = look(case.folder)
    case.simulator.reset_counters()
    ended = case.finish()
    assert_nothing_written_twice(case, killed, ended)
    unfinished = {f"web-01:{index}" for index in range(3) if f"web-01-disk{index + 1}.qcow2" not in killed.done}
    assert dict(case.simulator.counters.opened) == dict.fromkeys(unfinished, 1)


@pytest.mark.slow
@at_moments(20, "datastore")
def test_a_datastore(moment: Moment, program: ProgramFactory, tmp_path: Path) -> None:
    case = Case(
        *program(machines=(OFF,), rate_bytes_s=2 * RATE), tmp_path, ("--source", "datastore", "--parallel", "2")
    )
    total = sum(path.stat().st_size for path in case.expected)
    if not case.kill(is_at(moment, case.simulator, total)):
        return
    killed, first = look(case.folder), moved(case.simulator)
    case.simulator.reset_counters()
    ended = case.finish()
    again = first + moved(case.simulator) - total
    assert again <= min(CHECKPOINT, 2 * IN_FLIGHT) + 2 * 3 * PROBE
    assert_nothing_written_twice(case, killed, ended)
    assert len(case.simulator.counters.ranges) == 3 - len(killed.done)


OTHERS: Final = {
    "ovf": ("--format", "ovf"),
    "ova": ("--format", "ova"),
    "vmdk": ("--format", "vmdk"),
    "raw": ("--format", "raw"),
    "compressed": ("--compress",),
    "repacked": ("--compress=repack",),
    "ova from ranges": ("--format", "ova", "--source", "datastore"),
    "compressed from ranges": ("--compress", "--source", "datastore"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_other_outputs_killed_three_times(kind: str, program: ProgramFactory, tmp_path: Path) -> None:
    """Three kills of one export, each further on, then the rest."""
    lease = "datastore" not in OTHERS[kind]
    flags = OTHERS[kind] if not lease else (*OTHERS[kind], "--source", "lease")
    case = Case(*program(machines=(OFF,), rate_bytes_s=RATE), tmp_path, flags)
    total = all_data(case.simulator) if lease else sum(path.stat().st_size for path in case.expected)
    for moment in moments(3, kind):
        if not case.kill(is_at(moment, case.simulator, total)):
            break
        case.flags = (*flags, "--resume") if (case.folder / RUN_FILE).exists() else flags
        if lease:
            case.simulator.reset_counters()
    case.flags = flags
    if (case.folder / RUN_FILE).exists():
        case.finish()
