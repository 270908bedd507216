"""kill -9 of the real program at any moment, then --resume: the same content, little or no work repeated, the source
restored.

The moments are drawn from the seed of the run: before the first byte, anywhere in the data, after the last.
"""

from __future__ import annotations

import random
import signal
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.content import BlockKind
from hypersdk.units import KiB, MiB
from tests.support.cli.hyper2kvm import Ended, Program, ProgramFactory
from tests.support.exportchecks import (
    MANIFEST,
    RUN_FILE,
    ZERO_BLOCK,
    assert_finished,
    assert_holds,
    assert_no_final_names,
    content_in_manifest,
    expected_raw,
    run_of,
)
from tests.support.seeds import SEED
from tests.support.simulator import snapshot_names

pytestmark = pytest.mark.waits

CHECKPOINT: Final = 64 * MiB
IN_FLIGHT: Final = 4 * 4 * MiB
"""Data that the four range streams of a disk may have received and not stored: a piece each."""
PROBE: Final = 512

OFF: Final = MachineSpec(
    "web-01",
    disks=(
        DiskSpec(24 * MiB, allocated_bytes=16 * MiB),
        DiskSpec(40 * MiB + 512, allocated_bytes=30 * MiB),
        DiskSpec(48 * MiB, allocated_bytes=10 * MiB),
    ),
)
RUNNING: Final = MachineSpec("web-01", disks=OFF.disks, power="poweredOn")
LEASE_BYTES: Final = 30 * MiB
"""About what a lease sends of the three disks."""
RATE: Final = 40 * MiB
BLOCK: Final = 64 * KiB


@dataclass(frozen=True)
class Moment:
    """When to kill: ``share`` of the data moved, or, outside of 0..1, ``delay_s`` after the start or after the last
    byte."""

    share: float
    delay_s: float

    def __str__(self) -> str:
        return f"{self.share:.2f}+{self.delay_s:.2f}s"


def moments(count: int, name: str) -> list[Moment]:
    """``count`` moments, a fifth of them before the first or after the last byte."""
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
    """A condition on the simulator that is true at that moment."""
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
class Leftovers:
    """The files after the kill: for each unfinished disk the number of recorded blocks and of those with data, and the
    finished disks."""

    recorded: dict[str, int]
    with_data: dict[str, int]
    done: frozenset[str]


def look(folder: Path) -> Leftovers:
    """Reads run file and ledgers by their documented layout."""
    run = run_of(folder)
    disks = run["disks"] if run else []
    begun = {
        disk["file_name"]: records_of(folder / f"{disk['file_name']}.partial.blocks")
        for disk in disks
        if disk["receipt"] is None
    }
    return Leftovers(
        recorded={name: len(digests) for name, digests in begun.items()},
        with_data={name: sum(digest != ZERO_BLOCK for digest in digests) for name, digests in begun.items()},
        done=frozenset(disk["file_name"] for disk in disks if disk["receipt"]),
    )


def records_of(ledger: Path) -> list[bytes]:
    """The digests of all whole records: 40 bytes each from byte 4096 on, their CRC salted with the header's number and
    their index."""
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
    """One machine, its export into one folder, and the expected result."""

    simulator: Simulator
    program: Program
    tmp_path: Path
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        self.folder = self.tmp_path / "out"
        self.before = self.simulator.state()
        self.expected = expected_raw(self.simulator, "web-01", self.tmp_path / "expected")

    def kill(self, is_time: Callable[[], bool]) -> bool:
        """Starts the export and kills it; False if it had already published its files, which are then verified."""
        running = self.program.start("export", "--json", "web-01", "-o", self.folder, *self.flags)
        killed = running.kill_when(is_time)
        deadline = time.monotonic() + 30
        counters = self.simulator.counters
        while counters.streams_now.total() + counters.range_streams_now.total() and time.monotonic() < deadline:
            time.sleep(0.01)
        if (self.folder / MANIFEST).exists() and not (self.folder / RUN_FILE).exists():
            assert_holds(
                self.folder, self.expected, content_in_manifest(self.folder), self.tmp_path / "judged", convert=False
            )
            assert self.simulator.state() == self.before
            return False
        return killed

    def finish(self, *more: str) -> Ended:
        """The export with ``--resume`` (if there is something to resume), which must succeed; verifies its result."""
        resume = ["--resume"] if (self.folder / RUN_FILE).exists() else []
        ended = self.program.export("web-01", "-o", self.folder, *self.flags, *resume, *more)
        assert_holds(self.folder, self.expected, ended.result["content"], self.tmp_path / "judged", convert=False)
        assert_finished(self.folder)
        assert self.simulator.state() == self.before
        return ended

    def kinds(self, *kinds: BlockKind) -> int:
        """Blocks of such kinds on all disks."""
        images = [self.simulator.disk_image("web-01", index) for index in range(len(self.expected))]
        return sum(image.kind(index) in kinds for image in images for index in image.allocated_blocks())


def assert_nothing_written_twice(case: Case, killed: Leftovers, ended: Ended) -> None:
    """Recorded blocks were skipped and all others written once: over both runs, each block with data was written
    exactly once."""
    with_data = case.kinds(BlockKind.COMPRESSIBLE, BlockKind.RANDOM)
    assert ended.result["blocks_skipped"] == sum(killed.recorded.values())
    assert ended.result["blocks_written"] == with_data - sum(killed.with_data.values())


@pytest.mark.kill
@pytest.mark.slow
@at_moments(12, "lease")
def test_a_lease(moment: Moment, program: ProgramFactory, tmp_path: Path) -> None:
    case = Case(*program(machines=(OFF,), rate_bytes_s=RATE), tmp_path, ("--source", "lease", "--parallel", "2"))
    if not case.kill(is_at(moment, case.simulator, LEASE_BYTES)):
        return
    killed = look(case.folder)
    case.simulator.reset_counters()
    ended = case.finish()
    assert_nothing_written_twice(case, killed, ended)
    unfinished = {f"web-01:{index}" for index in range(3) if f"web-01-disk{index + 1}.qcow2" not in killed.done}
    assert dict(case.simulator.counters.opened) == dict.fromkeys(unfinished, 1)


@pytest.mark.kill
@pytest.mark.slow
@at_moments(8, "datastore")
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


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_other_outputs_killed_twice(kind: str, program: ProgramFactory, tmp_path: Path) -> None:
    """Two kills of one export, the second further on, then the rest."""
    lease = "datastore" not in OTHERS[kind]
    flags = OTHERS[kind] if not lease else (*OTHERS[kind], "--source", "lease")
    case = Case(*program(machines=(OFF,), rate_bytes_s=RATE), tmp_path, flags)
    total = LEASE_BYTES if lease else sum(path.stat().st_size for path in case.expected)
    for moment in moments(2, kind):
        if not case.kill(is_at(moment, case.simulator, total)):
            break
        case.flags = (*flags, "--resume") if (case.folder / RUN_FILE).exists() else flags
        if lease:
            case.simulator.reset_counters()
    case.flags = flags
    if (case.folder / RUN_FILE).exists():
        case.finish()


# The machine moved on


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "kind"),
    [("lease", "qcow2"), ("datastore", "qcow2"), ("auto", "qcow2"), ("lease", "ova"), ("datastore", "ova")],
)
def test_no_image_is_of_two_points_in_time(source: str, kind: str, program: ProgramFactory, tmp_path: Path) -> None:
    """Between kill and resume the machine runs for a while: all its disks are copied again, with a warning."""
    simulator, hyper2kvm = program(machines=(OFF,), rate_bytes_s=RATE)
    case = Case(simulator, hyper2kvm, tmp_path, ("--source", source, "--format", kind, "--parallel", "1"))
    assert case.kill(partial(is_begun, case, 1))
    assert look(case.folder).done, "a finished disk must be there to be mixed in"
    simulator.end_sessions()  # a machine held by a lease cannot be powered on
    simulator.change_disk("web-01", 0, range(8))
    simulator.change_disk("web-01", 1, range(8))
    simulator.power_cycle("web-01")
    case.expected = expected_raw(simulator, "web-01", tmp_path / "changed")
    case.before = simulator.state()
    simulator.reset_counters()
    ended = case.finish()
    assert any("every disk was copied again" in warning for warning in ended.result["warnings"])
    assert ended.result["blocks_skipped"] == 0
    assert len(simulator.counters.opened) + len(simulator.counters.ranges) >= 3


def is_begun(case: Case, index: int) -> bool:
    """Whether the disk of that number has some of its data on disk, and all before it are done."""
    try:
        disks = (run_of(case.folder) or {"disks": []})["disks"]
    except ValueError:
        return False
    done = [bool(disk["receipt"]) for disk in disks]
    ledger = case.folder / f"web-01-disk{index + 1}.{suffix_of(case)}.partial.blocks"
    return all(done[:index]) and len(done) > index and ledger.exists() and ledger.stat().st_blocks > 32


def suffix_of(case: Case) -> str:
    """Of the names of disks."""
    return "qcow2" if "qcow2" in case.flags or "--format" not in case.flags else "vmdk"


@pytest.mark.slow
def test_a_machine_that_was_only_looked_at_is_still_the_same(program: ProgramFactory, tmp_path: Path) -> None:
    """The counterpart: nothing changed, so nothing is copied again."""
    case = Case(*program(machines=(OFF,), rate_bytes_s=RATE), tmp_path, ("--parallel", "1", "--source", "lease"))
    assert case.kill(partial(is_begun, case, 1))
    ended = case.finish()
    assert ended.result["warnings"] == []
    assert ended.result["blocks_skipped"] > 0


@pytest.mark.slow
def test_what_misses_is_fetched_from_the_datastore_where_its_place_is_known(
    program: ProgramFactory, tmp_path: Path
) -> None:
    """Begun with a lease; change tracking tells what is allocated, so ranges need nothing twice and no hole."""
    machine = replace(OFF, cbt=True)
    case = Case(*program(machines=(machine,), rate_bytes_s=RATE), tmp_path, ("--parallel", "1"))
    assert case.kill(partial(is_begun, case, 1))
    killed = look(case.folder)
    case.simulator.reset_counters()
    ended = case.finish()
    assert any("datastore ranges" in warning for warning in ended.result["warnings"])
    assert dict(case.simulator.counters.opened) == {}
    assert ended.result["blocks_skipped"] == sum(killed.recorded.values()) > 0
    images = [case.simulator.disk_image("web-01", index) for index in (1, 2)]
    missing = sum(image.allocated_bytes() for image in images) - sum(killed.recorded.values()) * BLOCK
    assert moved(case.simulator) <= missing + 2 * PROBE


@pytest.mark.slow
def test_a_sparse_disk_without_change_tracking_is_streamed_again(program: ProgramFactory, tmp_path: Path) -> None:
    """Ranges would read every hole."""
    sparse = DiskSpec(256 * MiB, allocated_bytes=16 * MiB)
    case = Case(
        *program(machines=(MachineSpec("web-01", disks=(sparse, sparse)),), rate_bytes_s=RATE),
        tmp_path,
        ("--parallel", "1"),
    )
    assert case.kill(partial(is_begun, case, 1))
    case.simulator.reset_counters()
    ended = case.finish()
    assert dict(case.simulator.counters.opened) == {"web-01:1": 1}
    assert ended.result["blocks_skipped"] > 0
    assert moved(case.simulator) < 20 * MiB


# A snapshot of ours is held


@pytest.fixture
def held(program: ProgramFactory, tmp_path: Path) -> Case:
    """The export of a running machine with an inserted ISO, killed while its temporary snapshot is held and one disk is
    done."""
    machine = replace(RUNNING, iso="[iso-library] tools/virtio-win.iso")
    flags = ("--parallel", "1", "--source", "lease", "--remove-cdrom")
    case = Case(*program(machines=(machine,), rate_bytes_s=RATE), tmp_path, flags)
    assert case.kill(partial(is_begun, case, 1))
    assert len(snapshot_names(case.simulator)) == 1
    return case


@pytest.mark.slow
def test_a_held_snapshot_is_shown_and_resumed_from(held: Case) -> None:
    (run,) = [event for event in held.program.run("status", "--json").seen if event["type"] == "run"]
    assert set(run["left_on_source"]) == {"lease", "snapshot", "cdrom"}
    assert not run["active"]
    assert [disk["done"] for disk in run["disks"]] == [True, False, False]
    killed = look(held.folder)
    held.simulator.change_disk("web-01", 0, range(8))  # the guest works on; the snapshot does not see it
    held.simulator.change_disk("web-01", 1, range(8))
    held.simulator.reset_counters()
    ended = held.program.export("web-01", "-o", held.folder, *held.flags, "--resume")
    assert_holds(held.folder, held.expected, ended.result["content"], held.tmp_path / "judged", convert=False)
    assert ended.result["blocks_skipped"] == sum(killed.recorded.values())
    assert held.simulator.counters.calls["CreateSnapshot_Task"] == 0
    assert "web-01:0" not in held.simulator.counters.opened
    assert snapshot_names(held.simulator) == []
    assert held.program.run("status", "--json").seen == []


@pytest.mark.slow
def test_a_held_snapshot_is_removed_by_cleanup_and_the_rest_can_still_be_resumed(held: Case) -> None:
    assert held.program.run("cleanup", "--json").status == 0
    assert len(snapshot_names(held.simulator)) == 1, "without --drop-snapshots it waits for --resume"
    assert held.program.run("cleanup", "--json", "--drop-snapshots").status == 0
    assert held.simulator.state() == held.before
    ended = held.finish()
    assert any("every disk was copied again" in warning for warning in ended.result["warnings"])


@pytest.mark.slow
def test_discard_removes_a_held_snapshot_and_begins_anew(held: Case) -> None:
    held.simulator.reset_counters()
    refused = held.program.export("web-01", "-o", held.folder, *held.flags)
    assert (refused.status, refused.error["code"]) == (9, "resumable_state")
    ended = held.program.export("web-01", "-o", held.folder, *held.flags, "--discard")
    assert ended.result["blocks_skipped"] == 0
    assert_holds(held.folder, held.expected, ended.result["content"], held.tmp_path / "judged", convert=False)
    assert_finished(held.folder)
    assert held.simulator.state() == held.before
    assert held.simulator.counters.calls["CreateSnapshot_Task"] == 1


# Asked to stop


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("machine", [OFF, RUNNING], ids=["off", "running"])
def test_a_signal_leaves_a_free_machine_and_what_was_copied(
    machine: MachineSpec, number: signal.Signals, status: int, program: ProgramFactory, tmp_path: Path
) -> None:
    case = Case(*program(machines=(machine,), rate_bytes_s=RATE), tmp_path, ("--parallel", "1", "--source", "lease"))
    running = case.program.start("export", "--json", "web-01", "-o", case.folder, *case.flags)
    running.until(partial(is_begun, case, 1))
    began = time.monotonic()
    running.process.send_signal(number)
    ended = running.wait()
    assert time.monotonic() - began < 60
    assert (ended.status, ended.error["code"]) == (status, "cancelled")
    assert_no_final_names(case.folder)
    (state,) = case.simulator.state()["machines"].values()
    assert not state["lease_open"]
    assert not state["busy"]
    assert case.simulator.platform.sessions.all() == []
    assert len(snapshot_names(case.simulator)) == (1 if machine is RUNNING else 0)
    killed = look(case.folder)
    case.simulator.reset_counters()
    finished = case.finish()
    assert finished.result["blocks_skipped"] == sum(killed.recorded.values()) > 0
    assert "web-01:0" not in case.simulator.counters.opened
    assert case.simulator.counters.calls["CreateSnapshot_Task"] == 0


@pytest.mark.slow
def test_a_signal_while_a_machine_is_off_for_the_export_powers_it_on_again(
    program: ProgramFactory, tmp_path: Path
) -> None:
    case = Case(*program(machines=(RUNNING,), rate_bytes_s=RATE), tmp_path, ("--power-off", "--parallel", "1"))
    running = case.program.start("export", "--json", "web-01", "-o", case.folder, *case.flags)
    running.until(partial(is_begun, case, 1))
    running.process.send_signal(signal.SIGTERM)
    assert running.wait().status == 143
    assert case.simulator.state() == case.before
    case.finish()


@pytest.mark.slow
def test_kill_9_while_a_machine_is_off_for_the_export(program: ProgramFactory, tmp_path: Path) -> None:
    case = Case(*program(machines=(RUNNING,), rate_bytes_s=RATE), tmp_path, ("--power-off", "--parallel", "1"))
    assert case.kill(partial(is_begun, case, 1))
    assert case.simulator.state() != case.before
    assert case.program.run("cleanup", "--json").status == 0
    assert case.simulator.state() == case.before
    case.finish()
