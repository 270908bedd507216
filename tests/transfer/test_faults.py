"""Copies that go wrong: what is survived, what ends them, and what they leave behind."""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import hypersdk.vsphere.http  # noqa: F401 - registers the codes of the errors that sources raise
from hypersdk.errors import Cancelled, HyperSDKError, IntegrityError, TargetError, TransientError
from hypersdk.formats.image import BLOCK, Buffer, Piece
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.model import Phase
from hypersdk.transfer.activity import Timeline
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.budget import EXHAUSTED_CODE, StreamBudget
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.disk import transfer_disk
from hypersdk.transfer.files import open_output
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.policies import CopyOptions, Policies
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.retry import RetryPolicy
from hypersdk.transfer.sink import Block, Sink
from hypersdk.transfer.source import DiskSource
from hypersdk.units import MiB
from tests.support.disks import Disk, MemoryRanges, MemorySource, MemoryStream, breaks_at, hangs_at, runs_at
from tests.support.waiting import AT_ONCE_S

QUICK = RetryPolicy(retries=3, first_s=0.01, max_s=0.05)
PART = 5 * MiB


class CountingWriter(RawWriter):
    """Counts how often each block is written."""

    def __init__(self, file: FdFile, capacity: int) -> None:
        super().__init__(file, capacity)
        self.times: dict[int, int] = {}
        self.lock = threading.Lock()

    def write(self, offset: int, data: Buffer) -> None:
        super().write(offset, data)
        with self.lock:
            for index in range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)):
                self.times[index] = self.times.get(index, 0) + 1


class Bench:
    """A raw image and its ledger in a folder, copied into as often as asked."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.disk = disk
        self.path = folder / "out.raw"
        self.blocks = folder / "out.raw.partial.blocks"
        self.meter = Meter("Hard disk 1", "out.raw", disk.capacity)
        self.cancel = CancelToken()
        self.writer_type = CountingWriter
        self.written: dict[int, int] = {}

    @contextmanager
    def opened(self) -> Iterator[tuple[CountingWriter, BlockLedger]]:
        fresh = not self.blocks.exists()
        handle = open_output(self.path, fresh=fresh)
        open_ledger = BlockLedger.create if fresh else BlockLedger.open
        try:
            with open_ledger(self.blocks, self.disk.capacity, "point") as ledger:
                yield self.writer_type.resume(FdFile(handle), self.disk.capacity), ledger
        finally:
            os.close(handle)

    def copy(
        self,
        source: DiskSource,
        *,
        retry: RetryPolicy = QUICK,
        budget: StreamBudget | None = None,
        guard: Callable[[], None] | None = None,
        **options: int,
    ) -> Receipt:
        self.meter = Meter("Hard disk 1", "out.raw", self.disk.capacity)  # each run has its own
        with self.opened() as (writer, ledger):
            try:
                return transfer_disk(
                    source,
                    writer,
                    ledger,
                    cancel=self.cancel,
                    meter=self.meter,
                    policies=Policies(retry, budget=budget, guard=guard),
                    options=CopyOptions(**options),  # type: ignore[arg-type]
                )
            finally:
                self.written = writer.times

    def recorded(self) -> set[int]:
        with self.opened() as (_, ledger):
            return {index for index in range(ledger.blocks) if ledger.has(index)}

    def assert_recorded_is_written(self) -> None:
        """Nothing in the ledger that is not in the file, byte for byte."""
        data = self.path.read_bytes()
        for index in self.recorded():
            at = slice(index * BLOCK, (index + 1) * BLOCK)
            assert data[at] == self.disk.raw[at], f"block {index}"


@pytest.fixture
def bench(tmp_path: Path, disk: Disk) -> Bench:
    return Bench(tmp_path, disk)


def stream_of(disk: Disk, *opens: Callable[[int, threading.Event], None]) -> MemorySource:
    return MemorySource(disk.stream, disk.capacity, opens or (lambda _position, _closed: None,))


# Survived


def test_breaks_are_survived_and_no_block_is_written_twice(bench: Bench) -> None:
    source = stream_of(bench.disk, breaks_at(PART), breaks_at(2 * PART), breaks_at(0), lambda *_: None)
    receipt = bench.copy(source)
    assert receipt.content == bench.disk.content
    assert receipt.attempts == source.opened == 4
    assert set(bench.written.values()) == {1}
    assert receipt.blocks_written == len(bench.written)
    assert receipt.stream is not None
    assert receipt.stream.length_bytes == len(bench.disk.stream)


def test_all_that_came_before_a_break_is_kept(bench: Bench) -> None:
    with pytest.raises(TransientError, match="reset after"):
        bench.copy(stream_of(bench.disk, breaks_at(PART)), retry=RetryPolicy(retries=0))
    kept = len(bench.recorded())
    whole_grains = len(bench.disk.stream[:PART]) / len(bench.disk.stream)
    assert kept >= whole_grains * nonzero(bench.disk) * 0.8
    bench.assert_recorded_is_written()
    receipt = bench.copy(stream_of(bench.disk))
    assert receipt.content == bench.disk.content
    assert receipt.blocks_skipped == kept
    assert receipt.blocks_written == nonzero(bench.disk) - kept
    assert set(bench.written.values()) == {1}


def test_a_stream_that_ends_early_is_tried_again(bench: Bench) -> None:
    disk = bench.disk
    short = MemorySource(disk.stream[:PART], disk.capacity)
    with pytest.raises(IntegrityError) as raised:
        bench.copy(short)
    assert raised.value.code == "truncated_stream"
    assert short.opened == 4
    assert bench.copy(stream_of(disk)).content == disk.content


def test_retries_are_used_up(bench: Bench) -> None:
    source = stream_of(bench.disk, breaks_at(PART))
    with pytest.raises(TransientError) as raised:
        bench.copy(source)
    assert source.opened == 1 + QUICK.retries
    assert "reset after" in raised.value.message


def test_a_long_stream_may_break_as_often_as_it_likes_while_it_gets_on(bench: Bench) -> None:
    source = stream_of(bench.disk, *(breaks_at(n * 2 * MiB) for n in range(1, 9)), lambda *_: None)
    receipt = bench.copy(source, retry=RetryPolicy(retries=1, first_s=0.001), checkpoint_bytes=MiB)
    assert receipt.content == bench.disk.content
    assert receipt.attempts > 3


def test_a_range_that_fails_is_fetched_again(bench: Bench) -> None:
    failed: set[int] = set()

    def fail_once(offset: int) -> None:
        if offset not in failed:
            failed.add(offset)
            raise TransientError("reset")

    receipt = bench.copy(MemoryRanges(bench.disk.raw, fail_once))
    assert receipt.content == bench.disk.content
    assert receipt.attempts == 1 + len(failed)
    assert set(bench.written.values()) == {1}


def test_a_range_that_always_fails_ends_it_and_the_rest_is_kept(bench: Bench) -> None:
    def fail(offset: int) -> None:
        if offset == 8 * MiB:
            raise TransientError("reset at 8 MiB")

    with pytest.raises(TransientError, match="reset at 8 MiB"):
        bench.copy(MemoryRanges(bench.disk.raw, fail), range_streams=1)
    bench.assert_recorded_is_written()
    rest = MemoryRanges(bench.disk.raw)
    assert bench.copy(rest).content == bench.disk.content
    assert rest.read_bytes == bench.disk.capacity - 8 * MiB


# Ended by name


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("kind", ["ranges", "stream"])
def test_a_worker_that_may_not_write_for_a_moment_ends_the_copy(bench: Bench, kind: str, streams: int) -> None:
    """Its heartbeat was late, and is confirmed again before the other threads write: the guard's error is a
    Cancelled although nobody has cancelled."""
    calls = itertools.count()

    def guard() -> None:
        if next(calls) == 2:
            raise Cancelled("the heartbeat is late")

    def source() -> DiskSource:
        return MemoryRanges(bench.disk.raw) if kind == "ranges" else stream_of(bench.disk)

    with pytest.raises(Cancelled, match="late"):
        bench.copy(source(), guard=guard, range_streams=streams)
    bench.assert_recorded_is_written()
    assert bench.copy(source(), range_streams=streams).content == bench.disk.content


def test_data_of_an_earlier_run_where_the_disk_has_none_is_noticed(bench: Bench) -> None:
    with pytest.raises(TransientError):
        bench.copy(stream_of(bench.disk, breaks_at(PART)), retry=RetryPolicy(retries=0))
    first = min(index for index in bench.recorded() if any(bench.disk.raw[index * BLOCK : (index + 1) * BLOCK]))
    behind = (first + 1) * BLOCK
    source = MemoryRanges(bench.disk.raw, areas=[(behind, bench.disk.capacity - behind)])
    with pytest.raises(IntegrityError) as raised:
        bench.copy(source)
    assert raised.value.code == "content_differs"
    assert raised.value.fields["offset"] == first * BLOCK
    assert source.reads == []


def test_ranges_that_were_not_stored_are_no_success(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever loses them."""
    store = Sink.store

    def losing(sink: Sink, number: int, blocks: Sequence[Block], time: Timeline) -> None:
        if number != 1:
            store(sink, number, blocks, time)

    monkeypatch.setattr(Sink, "store", losing)
    with pytest.raises(RuntimeError, match="blocks 64 to 128 were taken and not stored"):
        bench.copy(MemoryRanges(bench.disk.raw))


def flipped(stream: bytes, at: int) -> bytes:
    changed = bytearray(stream)
    changed[at] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_never_copied(bench: Bench, seed: int) -> None:
    at = random.Random(seed).randrange(MiB, len(bench.disk.stream) - MiB)
    source = MemorySource(flipped(bench.disk.stream, at), bench.disk.capacity)
    with pytest.raises(IntegrityError) as raised:
        bench.copy(source)
    assert raised.value.code in ("corrupt_grain", "bad_format")
    bench.assert_recorded_is_written()
    assert source.opened == 1, "damage is not tried away"


def test_another_disk_behind_the_same_ledger_is_noticed(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(TransientError):
        bench.copy(stream_of(bench.disk, breaks_at(PART)), retry=RetryPolicy(retries=0))
    other = bytearray(bench.disk.raw)
    first = min(index for index in bench.recorded() if any(other[index * BLOCK : (index + 1) * BLOCK]))
    other[first * BLOCK : first * BLOCK + 8] = b"changed!"
    writer_path = tmp_path / "other.vmdk"
    with open(writer_path, "wb+") as file:
        writer = StreamOptimizedWriter.create(FdFile(file.fileno()), len(other))
        for at in range(0, len(other), BLOCK):
            if any(other[at : at + BLOCK]):
                writer.write(at, bytes(other[at : at + BLOCK]))
        writer.finish()
    with pytest.raises(IntegrityError) as raised:
        bench.copy(MemorySource(writer_path.read_bytes(), bench.disk.capacity))
    assert raised.value.code == "content_differs"
    assert raised.value.fields["offset"] == first * BLOCK


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, "target_failed"), (errno.EACCES, "target_denied")])
def test_a_failing_write_ends_it_with_its_cause(bench: Bench, number: int, code: str) -> None:
    class Failing(CountingWriter):
        def write(self, offset: int, data: Buffer) -> None:
            if offset > 4 * MiB:
                raise OSError(number, "broken")
            super().write(offset, data)

    bench.writer_type = Failing
    with pytest.raises(TargetError) as raised:
        bench.copy(stream_of(bench.disk, hangs_at(PART * 2)))
    assert raised.value.code == code
    assert "out.raw" in raised.value.message
    assert isinstance(raised.value.__cause__, OSError)
    bench.assert_recorded_is_written()


def test_a_failing_sync_at_the_end_makes_the_next_run_copy_again_what_was_not_durable(bench: Bench) -> None:
    """Linux says EIO once: the next fsync of the file returns 0, though pages were lost."""

    checkpoint = threading.Event()

    class LosesLast(CountingWriter):
        def sync(self) -> None:
            super().sync()
            checkpoint.set()

        def finish(self) -> None:
            assert not [thread for thread in threading.enumerate() if thread.name.endswith("checkpoints")]
            raise OSError(errno.EIO, "lost")

    def last_after_checkpoint(position: int, _closed: threading.Event) -> None:
        if position >= len(bench.disk.stream) - MiB:
            assert checkpoint.wait(10)

    bench.writer_type = LosesLast
    with pytest.raises(TargetError) as raised:  # 12 MiB: there is not enough for a second checkpoint
        bench.copy(stream_of(bench.disk, last_after_checkpoint), checkpoint_bytes=12 * MiB)
    assert "finishing out.raw" in raised.value.message
    bench.writer_type = CountingWriter
    durable = bench.recorded()
    receipt = bench.copy(stream_of(bench.disk))
    assert receipt.blocks_skipped == len(durable)
    assert 0 < receipt.blocks_written == nonzero(bench.disk) - len(durable) < nonzero(bench.disk)
    assert receipt.content == bench.disk.content


def test_a_failing_sync_ends_it_and_what_was_not_durable_no_longer_counts(bench: Bench) -> None:
    class Unsynced(CountingWriter):
        def sync(self) -> None:
            raise OSError(errno.EIO, "broken")

    bench.writer_type = Unsynced
    with pytest.raises(TargetError) as raised:
        bench.copy(stream_of(bench.disk, runs_at(20 * MiB)), checkpoint_bytes=MiB)
    assert "syncing out.raw" in raised.value.message
    assert bench.recorded() == set()


def test_a_bug_in_a_thread_comes_out_as_it_is(bench: Bench) -> None:
    class Buggy(CountingWriter):
        def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
            raise ZeroDivisionError("bug")

    bench.writer_type = Buggy
    with pytest.raises(ZeroDivisionError, match="bug"):
        bench.copy(stream_of(bench.disk, hangs_at(PART)))


def test_a_source_that_cannot_be_opened(bench: Bench) -> None:
    class Closed(MemorySource):
        @contextmanager
        def open(self, cancel: CancelToken) -> Iterator[MemoryStream]:
            self.opened += 1
            raise TransientError("closed")
            yield

    source = Closed(bench.disk.stream, bench.disk.capacity)
    with pytest.raises(TransientError, match="closed"):
        bench.copy(source)
    assert source.opened == 4


# Cancel


@pytest.mark.parametrize("source_kind", ["hangs", "runs", "waits for a retry"])
def test_cancel_ends_it_at_once(bench: Bench, source_kind: str) -> None:
    source = {
        "hangs": stream_of(bench.disk, hangs_at(PART)),
        "runs": stream_of(bench.disk, runs_at(15 * MiB)),
        "waits for a retry": stream_of(bench.disk, breaks_at(PART)),
    }[source_kind]
    threading.Timer(0.5, bench.cancel.cancel, ["Ctrl-C"]).start()
    started = time.monotonic()
    with pytest.raises(Cancelled, match="Ctrl-C"):
        bench.copy(source, retry=RetryPolicy(first_s=60))
    assert time.monotonic() - started < AT_ONCE_S
    bench.assert_recorded_is_written()
    assert bench.recorded()


def test_cancel_ends_ranges_at_once(bench: Bench) -> None:
    threading.Timer(0.3, bench.cancel.cancel, ["Ctrl-C"]).start()
    started = time.monotonic()
    with pytest.raises(Cancelled, match="Ctrl-C"):
        bench.copy(MemoryRanges(bench.disk.raw, lambda _offset: time.sleep(0.2)))
    assert time.monotonic() - started < AT_ONCE_S


def test_cancelled_before_it_began(bench: Bench) -> None:
    bench.cancel.cancel("Ctrl-C")
    source = stream_of(bench.disk)
    with pytest.raises(Cancelled):
        bench.copy(source)
    assert source.opened == 0


def test_a_keyboard_interrupt_in_the_caller_leaves_no_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hypersdk.transfer.workergroup.WorkerGroup.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.copy(stream_of(bench.disk, hangs_at(PART)))


# Budget


def test_a_host_without_room_is_waited_for_and_costs_no_retry_while_others_run(bench: Bench) -> None:
    budget = StreamBudget(per_host=4)
    host = "esx1.example.com"
    refusals = []

    def refuse_while_busy(position: int, _closed: threading.Event) -> None:
        if not position and budget.use(host).running > 1:
            refusals.append(position)
            raise TransientError("failed to allocate", code=EXHAUSTED_CODE)

    other = CancelToken()
    with budget.stream(host, other):
        release = threading.Event()

        def hold() -> None:
            with budget.stream(host, other):
                release.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        threading.Timer(0.4, release.set).start()
        notes: list[str] = []
        threading.Timer(0.2, lambda: notes.append(bench.meter.snapshot(0).note)).start()
        source = stream_of(bench.disk, refuse_while_busy)
        retry = RetryPolicy(retries=1, first_s=0.01)
        runner_error: list[HyperSDKError] = []

        def run() -> None:
            try:
                bench.copy(source, budget=budget, retry=retry)
            except HyperSDKError as error:
                runner_error.append(error)

        runner = threading.Thread(target=run)
        runner.start()
        holder.join()
    runner.join()
    assert not runner_error
    assert refusals
    assert budget.use(host).allowed == 1
    assert budget.use(host).running == 0
    assert notes == [f"waiting for a free stream on {host}"]


def test_ranges_keep_within_the_budget_and_need_only_one_stream(bench: Bench) -> None:
    budget = StreamBudget(per_host=2)
    running: list[int] = []

    def look(_offset: int) -> None:
        running.append(budget.use("esx1.example.com").running)
        time.sleep(0.01)

    receipt = bench.copy(MemoryRanges(bench.disk.raw, look), budget=budget, range_streams=4)
    assert receipt.content == bench.disk.content
    assert max(running) == 2
    bench.blocks.unlink()
    with budget.stream("esx1.example.com", CancelToken()):
        assert bench.copy(MemoryRanges(bench.disk.raw), budget=budget, range_streams=4).content == bench.disk.content


# Order


def test_a_writer_that_wants_order_gets_it(tmp_path: Path, disk: Disk) -> None:
    class Ordered(CountingWriter):
        ordered = True
        offsets: list[int]

        def write(self, offset: int, data: Buffer) -> None:
            self.offsets.append(offset)
            time.sleep(random.random() / 500)
            super().write(offset, data)

    for source in (MemorySource(disk.stream, disk.capacity), MemoryRanges(disk.raw)):
        handle = open_output(tmp_path / "out.raw", fresh=True)
        try:
            writer = Ordered.create(FdFile(handle), disk.capacity)
            writer.offsets = []
            receipt = transfer_disk(
                source,
                writer,
                None,
                cancel=CancelToken(),
                meter=Meter("d", "out.raw", disk.capacity),
                options=CopyOptions(workers=4),
                policies=Policies(),
            )
        finally:
            os.close(handle)
        assert receipt.content == disk.content
        assert writer.offsets == sorted(writer.offsets)
        assert len(writer.offsets) > 10


def test_the_phase_shows_what_is_waited_for(bench: Bench) -> None:
    seen: list[tuple[Phase, str]] = []

    def look() -> None:
        progress = bench.meter.snapshot(time.monotonic())
        seen.append((progress.phase, progress.note))

    threading.Timer(0.3, look).start()
    bench.copy(stream_of(bench.disk, breaks_at(PART), lambda *_: None), retry=RetryPolicy(first_s=0.6, jitter=0))
    assert seen[0][0] is Phase.WAITING
    assert "reset after" in seen[0][1]
    assert "trying again in 0.6 s" in seen[0][1]


def nonzero(disk: Disk) -> int:
    return sum(any(disk.raw[at : at + BLOCK]) for at in range(0, disk.capacity, BLOCK))
