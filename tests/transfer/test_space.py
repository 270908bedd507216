from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, TargetError
from hypersdk.formats.image import BlockFile, Buffer, ImageWriter
from hypersdk.formats.qcow2.writer import Qcow2Writer
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.model import Phase
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.disk import transfer_disk
from hypersdk.transfer.files import open_output
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.policies import CopyOptions, Policies
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.space import SpaceGate, SpaceLedger, SpaceWaitingFile
from hypersdk.units import MiB
from tests.support.clock import Clock
from tests.support.disks import Disk, MemorySource
from tests.support.outages import mounted
from tests.support.tools import run_tool


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Fails:
    """An action that fails so often and then returns ``"done"``."""

    def __init__(self, times: int, error: Callable[[], OSError] = full) -> None:
        self.left = times
        self.error = error
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error()
        return "done"


class Steps(CancelToken):
    """Sleeping moves a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def sleep(self, seconds: float) -> None:
        self.check()
        self.clock.pass_(seconds)


# Reservations


def test_promises_are_added_up_and_shrink_as_they_are_kept(tmp_path: Path) -> None:
    free = {"bytes": 1000}
    ledger = SpaceLedger(lambda _folder: free["bytes"])
    first = ledger.reserve(tmp_path, 600)
    assert ledger.check(tmp_path).left_bytes == 400
    with pytest.raises(TargetError) as raised:
        ledger.reserve(tmp_path, 401)
    assert raised.value.code == "no_space"
    assert raised.value.fields["promised_bytes"] == 600
    ledger.wrote(first, 500)
    free["bytes"] = 500
    assert ledger.check(tmp_path).left_bytes == 400, "what is written is promised no more"
    ledger.wrote(first, 700)
    assert ledger.check(tmp_path).promised_bytes == 0, "more than expected is no negative promise"
    ledger.release(first)
    second = ledger.reserve(tmp_path, 500)
    ledger.release(second)
    assert ledger.check(tmp_path).left_bytes == 500


def test_each_file_system_by_itself(tmp_path: Path) -> None:
    ledger = SpaceLedger(lambda _folder: 1000)
    ledger.reserve(tmp_path, 1000)
    assert Path("/proc").stat().st_dev != tmp_path.stat().st_dev
    assert ledger.check(Path("/proc")).promised_bytes == 0


def test_free_bytes_are_the_file_systems(tmp_path: Path) -> None:
    facts = os.statvfs(tmp_path)
    assert SpaceLedger().check(tmp_path).free_bytes == pytest.approx(facts.f_bavail * facts.f_frsize, rel=0.2)


# Waiting


def test_waits_until_there_is_room_and_does_it_again(tmp_path: Path) -> None:
    clock = Clock()
    rooms = iter([0, 0, 50, 100, 0, 100])
    gate = SpaceGate(tmp_path, poll_s=5, go_on_bytes=100, free=lambda _folder: next(rooms), clock=clock)
    action = Fails(2)
    assert gate.retry_when_full(action, Steps(clock)) == "done"
    assert action.calls == 3, "only when there is room"
    assert clock.now == 1000 + 6 * 5


def test_a_quota_shows_in_no_free_count_and_is_tried_each_poll(tmp_path: Path) -> None:
    clock = Clock()
    gate = SpaceGate(tmp_path, poll_s=5, free=lambda _folder: 1 << 40, clock=clock)
    action = Fails(3, lambda: OSError(errno.EDQUOT, "quota"))
    assert gate.retry_when_full(action, Steps(clock)) == "done"
    assert clock.now == 1000 + 3 * 5


def test_gives_up_by_name_after_the_longest_wait(tmp_path: Path) -> None:
    clock = Clock()
    gate = SpaceGate(tmp_path, poll_s=7, max_wait_s=30, free=lambda _folder: 0, clock=clock)
    action = Fails(10**6)
    with pytest.raises(TargetError) as raised:
        gate.retry_when_full(action, Steps(clock))
    assert raised.value.code == "no_space"
    assert str(tmp_path) in raised.value.message
    assert isinstance(raised.value.__cause__, OSError)
    assert clock.now == 1030
    assert action.calls == 2, "at first and once more at the end"


@pytest.mark.parametrize("times", [0, 1])
def test_other_errors_are_not_waited_for(tmp_path: Path, times: int) -> None:
    errors = [full() for _ in range(times)] + [OSError(errno.EIO, "broken")]
    gate = SpaceGate(tmp_path, free=lambda _folder: 1 << 40, clock=Clock())
    with pytest.raises(OSError, match="broken"):
        gate.retry_when_full(Fails(5, lambda: errors.pop(0)), Steps(Clock()))


def test_cancel_ends_the_wait(tmp_path: Path) -> None:
    cancel = CancelToken()
    threading.Timer(0.1, cancel.cancel, ["enough"]).start()
    with pytest.raises(Cancelled, match="enough"):
        SpaceGate(tmp_path, free=lambda _folder: 0).retry_when_full(Fails(10**6), cancel)


# Whole copies


class TightFile(FdFile):
    """Fails with ENOSPC every so often, after writing a part; there is room again the next time."""

    def __init__(self, fd: int, every: int) -> None:
        super().__init__(fd)
        self.every = every
        self.writes = 0
        self.refused = 0
        self.lock = threading.Lock()

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        with self.lock:
            self.writes += 1
            refuse = self.writes % self.every == 0
            self.refused += refuse
        if refuse:
            first = memoryview(buffers[0]).cast("B")
            super().pwrite([first[: len(first) // 2]], offset)
            raise full()
        super().pwrite(buffers, offset)


WRITERS: dict[str, Callable[[BlockFile, int], ImageWriter]] = {
    "raw": RawWriter.create,
    "qcow2": Qcow2Writer.create,
    "qcow2-pass": lambda file, capacity: Qcow2Writer.create(file, capacity, compression="pass"),
    "vmdk": StreamOptimizedWriter.create,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_again_and_again_is_waited_for(disk: Disk, tmp_path: Path, name: str) -> None:
    path = tmp_path / "out"
    handle = open_output(path, fresh=True)
    tight = TightFile(handle, every=5)
    meter = Meter("d", "out", disk.capacity)
    gate = SpaceGate(tmp_path, max_wait_s=30, poll_s=0.01, go_on_bytes=0)
    try:
        writer = WRITERS[name](SpaceWaitingFile(tight, gate, CancelToken(), meter.waiting), disk.capacity)
        receipt = transfer_disk(
            MemorySource(disk.stream, disk.capacity),
            writer,
            None,
            cancel=CancelToken(),
            meter=meter,
            policies=Policies(),
            options=CopyOptions(),
        )
    finally:
        os.close(handle)
    assert tight.refused > 3
    assert receipt.content == disk.content
    run_tool("qemu-img", "compare", "-f", "raw", "-F", name.split("-")[0], disk.raw_path, path)
    if name.startswith("qcow2"):
        run_tool("qemu-img", "check", "-f", "qcow2", path)


def copy_into(folder: Path, disk: Disk, meter: Meter, max_wait_s: float) -> Receipt:
    gate = SpaceGate(folder, max_wait_s=max_wait_s, poll_s=0.02, go_on_bytes=64 * 1024)
    cancel = CancelToken()
    handle = open_output(folder / "out.qcow2", fresh=True)
    try:
        with BlockLedger.create(folder / "blocks", disk.capacity, "point") as ledger:
            file = SpaceWaitingFile(FdFile(handle), gate, cancel, meter.waiting)
            writer = Qcow2Writer.create(file, disk.capacity)
            source = MemorySource(disk.stream, disk.capacity)
            return transfer_disk(
                source, writer, ledger, cancel=cancel, meter=meter, policies=Policies(space=gate), options=CopyOptions()
            )
    finally:
        os.close(handle)


def test_a_full_file_system_pauses_the_copy_until_there_is_room(disk: Disk, tmp_path: Path) -> None:
    meter = Meter("d", "out.qcow2", disk.capacity)
    seen: list[tuple[Phase, str]] = []

    def make_room(ballast: Path) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            progress = meter.snapshot(time.monotonic())
            if progress.phase is Phase.WAITING:
                seen.append((progress.phase, progress.note))
                ballast.unlink()
                return
            time.sleep(0.01)

    with mounted(tmp_path / "small", 32 * MiB) as disk_of_its_own:
        folder = disk_of_its_own.folder
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(26 * MiB))
        freeing = threading.Thread(target=make_room, args=[ballast])
        freeing.start()
        receipt = copy_into(folder, disk, meter, max_wait_s=30)
        freeing.join()
        assert seen[0][0] is Phase.WAITING
        assert f"{folder} is full" in seen[0][1]
        assert receipt.content == disk.content
        run_tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk.raw_path, folder / "out.qcow2")
        run_tool("qemu-img", "check", "-f", "qcow2", folder / "out.qcow2")


def test_a_file_system_that_stays_full_ends_it_by_name_and_can_be_resumed(disk: Disk, tmp_path: Path) -> None:
    meter = Meter("d", "out.qcow2", disk.capacity)
    with mounted(tmp_path / "small", 8 * MiB) as disk_of_its_own:
        folder = disk_of_its_own.folder
        with pytest.raises(TargetError) as raised:
            copy_into(folder, disk, meter, max_wait_s=0.3)
        assert raised.value.code == "no_space"
        with BlockLedger.open(folder / "blocks", disk.capacity, "point") as ledger:
            assert ledger.recorded > 10


def test_without_patience_a_full_disk_ends_it_at_once(disk: Disk, tmp_path: Path) -> None:
    handle = open_output(tmp_path / "out.raw", fresh=True)
    try:
        writer = RawWriter.create(TightFile(handle, every=3), disk.capacity)
        source = MemorySource(disk.stream, disk.capacity)
        with pytest.raises(TargetError) as raised:
            transfer_disk(
                source,
                writer,
                None,
                cancel=CancelToken(),
                meter=Meter("d", "out.raw", disk.capacity),
                policies=Policies(),
                options=CopyOptions(),
            )
    finally:
        os.close(handle)
    assert raised.value.code == "no_space"
