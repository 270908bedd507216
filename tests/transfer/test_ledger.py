from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import TargetError
from hypersdk.formats.image import BLOCK
from hypersdk.transfer import ledger as module
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.digest import GROUP_BLOCKS, ZERO_BLOCK, content_digest_of, hash_block
from hypersdk.transfer.ledger import UNHASHED, BlockLedger
from hypersdk.units import GiB, KiB, MiB, TiB
from tests.support.seeds import examples

IDENTITY = "snapshot-7 qcow2"


def some_hash(index: int) -> bytes:
    return (index + 1).to_bytes(8, "little") * 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.qcow2.partial.blocks"


def reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the machine is in another boot."""
    other = os.urandom(16)
    monkeypatch.setattr(module, "boot_id", lambda: other)


def set_of(ledger: BlockLedger) -> set[int]:
    return {index for index in range(ledger.blocks) if ledger.has(index)}


def test_records_are_there_for_the_next_run(path: Path) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(5, [some_hash(5), ZERO_BLOCK, some_hash(7)])
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {5, 6, 7}
        assert ledger.recorded == 3
        assert ledger.data_bytes == 2 * BLOCK
        assert ledger.hashes(5, 3) == [some_hash(5), ZERO_BLOCK, some_hash(7)]


def test_data_bytes_end_with_the_disk(path: Path) -> None:
    with BlockLedger.create(path, BLOCK + 512, IDENTITY) as ledger:
        ledger.record(1, [some_hash(1)])
        assert ledger.data_bytes == 512


def test_recording_twice_counts_once(path: Path) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(0, [some_hash(0)])
        ledger.record(0, [some_hash(1)])
        assert ledger.recorded == 1
        assert ledger.hashes(0, 1) == [some_hash(1)]


@pytest.mark.parametrize("first", [-1, 16])
def test_blocks_that_the_disk_does_not_have_are_a_mistake(path: Path, first: int) -> None:
    with BlockLedger.create(path, MiB, IDENTITY) as ledger, pytest.raises(ValueError, match="of 16"):
        ledger.record(first, [ZERO_BLOCK])


@pytest.mark.parametrize(("capacity", "identity"), [(2 * GiB, IDENTITY), (GiB, "snapshot-8 qcow2")])
def test_another_disk_or_point_in_time_cannot_use_it(path: Path, capacity: int, identity: str) -> None:
    BlockLedger.create(path, GiB, IDENTITY).close()
    with pytest.raises(TargetError) as raised:
        BlockLedger.open(path, capacity, identity)
    assert raised.value.code == "ledger_unusable"
    BlockLedger.open(path, GiB, IDENTITY).close()


@pytest.mark.parametrize("at", [0, 9, 40, 70, 100, 300, 511])
def test_a_damaged_header_is_refused(path: Path, at: int) -> None:
    BlockLedger.create(path, GiB, IDENTITY).close()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(TargetError) as raised:
        BlockLedger.open(path, GiB, IDENTITY)
    assert raised.value.code == "ledger_unusable"


def test_an_empty_file_is_refused(path: Path) -> None:
    path.touch()
    with pytest.raises(TargetError) as raised:
        BlockLedger.open(path, GiB, IDENTITY)
    assert raised.value.code == "ledger_unusable"


def test_a_missing_file_is_an_error(path: Path) -> None:
    with pytest.raises(TargetError):
        BlockLedger.open(path, GiB, IDENTITY)


@given(data=st.data())
@examples(50)
def test_any_damage_to_the_records_costs_only_the_records_it_hits(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "blocks"
    with BlockLedger.create(path, 64 * BLOCK, IDENTITY) as ledger:
        ledger.record(0, [some_hash(index) for index in range(64)])
    stored = bytearray(path.read_bytes())
    start = data.draw(st.integers(4 * KiB, len(stored) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=200))[: len(stored) - start]
    hit = {(at - 4 * KiB) // 40 for at in range(start, start + len(junk)) if stored[at] != junk[at - start]}
    stored[start : start + len(junk)] = junk
    path.write_bytes(stored)
    with BlockLedger.open(path, 64 * BLOCK, IDENTITY) as ledger:
        assert set_of(ledger) == set(range(64)) - hit


def test_a_record_that_begins_in_a_hole_is_read(path: Path) -> None:
    """A power cut may lose the page in which a record begins, and keep the one in which it ends."""
    page = 4 * KiB
    index = page // 40  # bytes page - 16 to page + 24 of the records
    place = page + index * 40
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(index - 1, [some_hash(index - 1), some_hash(index), some_hash(index + 1)])
    with path.open("r+b") as file:
        FdFile(file.fileno()).discard(page, page)
        os.fsync(file.fileno())
        assert os.lseek(file.fileno(), page, os.SEEK_DATA) == 2 * page, "the file system has holes"
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {index + 1}
    assert path.read_bytes()[place : place + 40] == bytes(40), "what is left of it is wiped"


def test_a_record_moved_to_another_place_does_not_count(path: Path) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(3, [some_hash(3)])
    data = bytearray(path.read_bytes())
    data += data[4 * KiB + 3 * 40 : 4 * KiB + 4 * 40]
    path.write_bytes(data)
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {3}


def test_a_record_of_an_older_ledger_does_not_count(path: Path) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(3, [some_hash(3)])
    old = path.read_bytes()
    BlockLedger.create(path, GiB, IDENTITY).close()
    path.write_bytes(path.read_bytes() + old[path.stat().st_size :])
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == set()


def test_only_one_process_holds_it(path: Path) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as held:
        held.record(0, [some_hash(0)])
        for again in (BlockLedger.open, BlockLedger.create):
            with pytest.raises(TargetError) as raised:
                again(path, GiB, IDENTITY)
            assert raised.value.code == "ledger_busy"
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {0}


def test_after_a_reboot_only_what_was_made_durable_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(0, [some_hash(0)])
        ledger.checkpoint(lambda: None)
        ledger.record(1, [some_hash(1)])
    reboot(monkeypatch)
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {0}
        ledger.record(2, [some_hash(2)])
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {0, 2}, "what was forgotten does not come back within the new boot"
        ledger.checkpoint(lambda: None)
    reboot(monkeypatch)
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {0, 2}


def test_what_is_recorded_while_a_sync_runs_waits_for_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(0, [some_hash(0)])
        ledger.checkpoint(lambda: ledger.record(1, [some_hash(1)]))
    reboot(monkeypatch)
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {0}


def test_after_a_failed_sync_nothing_since_the_last_good_one_counts(path: Path) -> None:
    def broken() -> None:
        raise OSError(errno.EIO, "lost")

    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(0, [some_hash(0)])
        ledger.checkpoint(lambda: None)
        ledger.record(1, [some_hash(1)])
        with pytest.raises(OSError, match="lost"):
            ledger.checkpoint(broken)
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert set_of(ledger) == {0}


@given(st.sets(st.integers(0, 199)), st.sets(st.integers(0, 199)), st.sets(st.integers(0, 199)))
@examples(80)
def test_data_that_the_image_does_not_hold_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, recorded: set[int], zeros: set[int], held: set[int]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "blocks"
    kept = {index for index in recorded if index in held or index in zeros}
    with BlockLedger.create(path, 200 * BLOCK - 512, IDENTITY) as ledger:
        for index in recorded:
            ledger.record(index, [ZERO_BLOCK if index in zeros else some_hash(index)])
        ledger.forget_except(range(index, index + 1) for index in sorted(held))
        assert ledger.recorded == len(kept)
        assert set_of(ledger) == kept
        data_bytes = ledger.data_bytes
    with BlockLedger.open(path, 200 * BLOCK - 512, IDENTITY) as ledger:
        assert set_of(ledger) == kept
        assert ledger.data_bytes == data_bytes


@given(data=st.data())
@examples(80)
def test_missing_is_what_has_denies(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 200))
    recorded = data.draw(st.sets(st.integers(0, blocks - 1)))
    low = data.draw(st.integers(0, blocks))
    high = data.draw(st.integers(low, blocks))
    with BlockLedger.unnamed(blocks * BLOCK) as ledger:
        for index in recorded:
            ledger.record(index, [some_hash(index)])
        runs = list(ledger.missing(low, high))
    assert [index for run in runs for index in run] == [i for i in range(low, high) if i not in recorded]
    assert all(before.stop < after.start for before, after in pairwise(runs))


@given(data=st.data())
@examples(40)
def test_content_digest_is_that_of_the_bytes(data: st.DataObject) -> None:
    sectors = data.draw(st.integers(1, 20 * 128))
    raw = bytearray(sectors * 512)
    blocks = -(-len(raw) // BLOCK)
    kinds = data.draw(st.lists(st.sampled_from(["absent", "zero", "data"]), min_size=blocks, max_size=blocks))
    order = data.draw(st.permutations(range(blocks)))
    rng = random.Random(sectors)
    with BlockLedger.unnamed(len(raw)) as ledger:
        for index in order:
            piece = bytes(raw[index * BLOCK : (index + 1) * BLOCK])
            if kinds[index] == "data":
                piece = rng.randbytes(len(piece))
                raw[index * BLOCK : (index + 1) * BLOCK] = piece
            if kinds[index] != "absent":
                ledger.record(index, [hash_block(piece)])
        assert ledger.content_digest() == content_digest_of(_Raw(raw), len(raw))


class _Raw:
    def __init__(self, raw: bytearray) -> None:
        self.raw = raw

    def read(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.raw[offset : offset + len(buffer)]


def test_no_digest_for_what_nobody_looked_at(path: Path) -> None:
    with BlockLedger.create(path, GiB, IDENTITY) as ledger:
        ledger.record(0, [some_hash(0)])
        assert ledger.content_digest() is not None
        ledger.record(1, [UNHASHED])
        assert ledger.content_digest() is None
    with BlockLedger.open(path, GiB, IDENTITY) as ledger:
        assert ledger.content_digest() is None


def test_terabytes_take_little_room_and_time(path: Path) -> None:
    started = time.process_time()
    with BlockLedger.create(path, 4 * TiB, IDENTITY) as ledger:
        for group in range(0, ledger.blocks, GROUP_BLOCKS):
            ledger.record(group + 17, [some_hash(group)])
        digest = ledger.content_digest()
        assert len(list(ledger.missing(0, ledger.blocks))) == 4 * TiB // (GROUP_BLOCKS * BLOCK) + 1
    assert path.stat().st_blocks * 512 <= 128 * MiB
    with BlockLedger.open(path, 4 * TiB, IDENTITY) as ledger:
        assert ledger.recorded == 8192
        assert ledger.content_digest() == digest
    assert time.process_time() - started < 20


def test_several_threads_record_at_once(path: Path) -> None:
    with BlockLedger.create(path, 4096 * BLOCK, IDENTITY) as ledger:

        def record(start: int) -> None:
            for index in range(start, 4096, 4):
                ledger.record(index, [some_hash(index)])

        threads = [threading.Thread(target=record, args=[start]) for start in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            ledger.checkpoint(lambda: None)
        for thread in threads:
            thread.join()
        assert ledger.recorded == 4096
    with BlockLedger.open(path, 4096 * BLOCK, IDENTITY) as ledger:
        assert ledger.hashes(0, 4096) == [some_hash(index) for index in range(4096)]


CHILD = """
import sys
from pathlib import Path
from hypersdk.transfer.ledger import BlockLedger
with BlockLedger.create(Path(sys.argv[1]), 1 << 40, "child") as ledger:
    print("begun", flush=True)
    for first in range(0, 1 << 24, 16):
        ledger.record(first, [(first + at + 1).to_bytes(8, "little") * 4 for at in range(16)])
"""


def test_a_killed_process_leaves_whole_records_and_no_lock(path: Path) -> None:
    for round_ in range(5):
        with subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.01 + 0.02 * round_)
            child.send_signal(signal.SIGKILL)
        with BlockLedger.open(path, TiB, "child") as ledger:
            assert ledger.recorded > 0
            assert list(ledger.missing(0, ledger.recorded)) == [], "records are written in order, none is lost"
            assert ledger.hashes(0, ledger.recorded) == [some_hash(index) for index in range(ledger.recorded)]
