"""What every ImageWriter promises, on all of them: any content, any order, several threads, death and a full disk at
any point."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.image import BLOCK, BlockFile, ImageWriter, runs_of
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import hash_block
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.space import SpaceGate, SpaceWaitingFile
from hypersdk.transfer.takeover import take_over
from hypersdk.units import MiB, TiB, align_up
from tests.support.killed import Killed
from tests.support.seeds import examples
from tests.support.tools import run_tool
from tests.support.writers import (
    ALL_KINDS,
    BLOCK_KINDS,
    PAGE,
    RAW,
    FullFile,
    Guest,
    MortalFile,
    Step,
    WriterKind,
    assert_blocks,
    assert_clean,
    assert_same,
    block_file,
    is_accepted,
    perform,
    perform_in_threads,
    write_wide_image,
)

every_kind = pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
few = examples(30)

L2_SPAN = 512 * MiB
"""Guest bytes of one qcow2 L2 table, and of 256 VMDK grain tables."""


@st.composite
def guests(draw: st.DrawFn) -> Guest:
    """Disks of odd size: small ones, and ones whose blocks lie on both sides of a table's border."""
    near_border = draw(st.booleans())
    base = L2_SPAN // BLOCK - 6 if near_border else 0
    sectors = draw(st.integers(1, 24 * BLOCK // 512))
    capacity = base * BLOCK + sectors * 512
    last = (capacity - 1) // BLOCK
    indexes = draw(st.sets(st.integers(base, last), max_size=16))
    if draw(st.booleans()):
        indexes.add(last)
    return Guest(capacity, {index: draw(st.sampled_from(BLOCK_KINDS)) for index in sorted(indexes)})


@st.composite
def work(draw: st.DrawFn) -> tuple[Guest, list[Step]]:
    """A guest and the calls that write it: neighbours in one call or not, plain or deflated, in any order."""
    guest = draw(guests())
    steps: list[Step] = []
    for index in sorted(guest.kinds):
        if steps and steps[-1].last == index - 1 and draw(st.booleans()):
            previous = steps.pop()
            steps.append(Step(previous.first, index, previous.deflated, previous.level, previous.window_bits))
        else:
            steps.append(Step(index, index, draw(st.booleans()), draw(st.integers(0, 9)), draw(st.integers(9, 15))))
    return guest, draw(st.permutations(steps))


def in_order_of(kind: WriterKind, steps: Sequence[Step]) -> list[Step]:
    """As the transfer engine calls this writer."""
    return sorted(steps, key=lambda step: step.first) if kind.ordered else list(steps)


def check_content(kind: WriterKind, guest: Guest, steps: Sequence[Step], threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder, block_file(image := Path(folder) / "image") as file:
        writer = kind.create(file, guest.capacity)
        perform_in_threads(writer, guest, in_order_of(kind, steps), 1 if kind.ordered else threads)
        assert [index for run in writer.stored() for index in run] == sorted(guest.kinds)
        if kind is not RAW:
            assert not is_accepted(image, kind.format)
        writer.finish()
        assert_same(guest, image, kind.format)


@every_kind
@few
@given(work(), st.integers(1, 4))
def test_content(kind: WriterKind, made: tuple[Guest, list[Step]], threads: int) -> None:
    check_content(kind, *made, threads)


def live(
    kind: WriterKind, begin: Callable[[BlockFile], ImageWriter], guest: Guest, steps: list[Step], written: set[int]
) -> Callable[[BlockFile], None]:
    """One life of a transfer: begins, writes what is not in ``written``, notes each block there as soon as its call
    returned, finishes."""

    def run(file: BlockFile) -> None:
        writer = begin(file)
        written.intersection_update(index for run in writer.stored() for index in run)
        for step in in_order_of(kind, steps):
            for missing in runs_of(index for index in step.indexes() if index not in written):
                perform(writer, guest, replace(step, first=missing.start, last=missing.stop - 1))
                written.update(missing)
        writer.finish()

    return run


def check_lives(
    kind: WriterKind, guest: Guest, steps: list[Step], deaths: list[tuple[int, int]], forgotten: set[int]
) -> None:
    """Dies after each of ``deaths`` (changes to the file, torn bytes of the last one), ``forgotten`` blocks being lost
    by the ledger each time."""
    with tempfile.TemporaryDirectory() as folder, block_file(image := Path(folder) / "image") as file:
        written: set[int] = set()
        begun = False

        def begin(mortal: BlockFile) -> ImageWriter:
            nonlocal begun
            writer = (
                kind.resume(mortal, guest.capacity, written.__contains__)
                if begun
                else kind.create(mortal, guest.capacity)
            )
            begun = True
            return writer

        run = live(kind, begin, guest, steps, written)
        for changes, torn_bytes in deaths:
            try:
                run(MortalFile(file, changes, torn_bytes))
            except Killed:
                written -= forgotten
            else:
                break
        run(file)
        assert_same(guest, image, kind.format)


def check_loss(kind: WriterKind, guest: Guest, steps: list[Step], damage: Damage) -> None:
    """Writes all, with a ledger; loses a part of the file; goes on as the transfer does."""
    with (
        tempfile.TemporaryDirectory() as folder,
        block_file(image := Path(folder) / "image") as file,
        BlockLedger.unnamed(guest.capacity) as ledger,
    ):
        first = kind.create(file, guest.capacity)
        for step in in_order_of(kind, steps):
            perform(first, guest, step)
            ledger.record(step.first, [hash_block(guest.blocks[index]) for index in step.indexes()])
        damage.do(file)
        again = kind.resume(file, guest.capacity, ledger.has)
        take_over(again, ledger, cancel=CancelToken(), meter=Meter("disk", "image", guest.capacity))
        if damage.harmless:
            assert ledger.recorded == len(guest.kinds)
        for index in sorted(guest.kinds):
            if not ledger.has(index):
                perform(again, guest, Step(index, index, deflated=True))
        again.finish()
        assert_same(guest, image, kind.format)


@dataclass(frozen=True)
class Damage:
    """What becomes of a file behind its first 64 KiB (parts of a million): cut at ``start``, perhaps made as long as it
    was, or a hole in it."""

    start: int
    end: int | None
    longer: bool

    @property
    def harmless(self) -> bool:
        return self.start == MILLION and not self.longer

    def do(self, file: FdFile) -> None:
        size = file.size()
        at = min(size, BLOCK) + max(0, size - BLOCK) * self.start // MILLION
        if self.end is None:
            file.truncate(at)
            # A page that is cut keeps no trace of it once the file has its length again: whoever does that is
            # beyond our help.
            if self.longer:
                file.truncate(at // PAGE * PAGE)
                file.truncate(size)
        else:
            first = align_up(at, PAGE)
            file.discard(first, (size - first) * self.end // MILLION // PAGE * PAGE)


MILLION = 1_000_000
damages = st.builds(
    Damage, st.integers(0, MILLION) | st.just(MILLION), st.none() | st.integers(0, MILLION), st.booleans()
)


@every_kind
@few
@given(work(), damages)
def test_what_the_file_lost_is_written_again(kind: WriterKind, made: tuple[Guest, list[Step]], damage: Damage) -> None:
    check_loss(kind, *made, damage)


def check_tampering(kind: WriterKind, guest: Guest, steps: list[Step], tampered: list[Tampering]) -> None:
    """Writes all, with a ledger; something changes bytes of the file; it is taken over, or begun again, as the transfer
    does."""
    with (
        tempfile.TemporaryDirectory() as folder,
        block_file(image := Path(folder) / "image") as file,
        BlockLedger.unnamed(guest.capacity) as ledger,
    ):
        first = kind.create(file, guest.capacity)
        for step in in_order_of(kind, steps):
            perform(first, guest, step)
            ledger.record(step.first, [hash_block(guest.blocks[index]) for index in step.indexes()])
        for change in tampered:
            change.do(file)
        try:
            again = kind.resume(file, guest.capacity, ledger.has)
        except IntegrityError:
            ledger.begin_again()
            again = kind.create(file, guest.capacity)
        recorded = ledger.recorded
        damaged = take_over(again, ledger, cancel=CancelToken(), meter=Meter("disk", "image", guest.capacity))
        assert ledger.recorded == recorded - damaged
        for index in sorted(guest.kinds):
            if not ledger.has(index):
                perform(again, guest, Step(index, index, deflated=True))
        again.finish()
        assert_same(guest, image, kind.format)


@dataclass(frozen=True)
class Tampering:
    """``length`` bytes at ``target`` become those at ``source``, or one of their bits is flipped. Places are parts of a
    million of the file, or of its first clusters, where the tables are; entries of tables are multiples of 8 bytes."""

    target: int
    source: int | None
    length: int
    at_front: bool

    def do(self, file: FdFile) -> None:
        size = min(file.size(), 8 * BLOCK) if self.at_front else file.size()
        target = size * self.target // MILLION // self.length * self.length
        if self.source is None:
            [byte] = file.pread(1, target) or b"\0"
            file.pwrite([bytes([byte ^ 1 << self.target % 8])], target)
        else:
            source = size * self.source // MILLION // self.length * self.length
            file.pwrite([file.pread(self.length, source)], target)


tamperings = st.lists(
    st.builds(
        Tampering,
        st.integers(0, MILLION - 1),
        st.none() | st.integers(0, MILLION - 1),
        st.sampled_from([8, 512, BLOCK]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@every_kind
@few
@given(work(), tamperings)
def test_what_the_file_has_of_others_is_written_again(
    kind: WriterKind, made: tuple[Guest, list[Step]], tampered: list[Tampering]
) -> None:
    check_tampering(kind, *made, tampered)


deaths = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200_000)), min_size=1, max_size=3)
forgettings = st.sets(st.integers(0, 4 * L2_SPAN // BLOCK), max_size=8) | st.sets(st.integers(0, 24), max_size=8)


@every_kind
@few
@given(work(), deaths, forgettings)
def test_resume_after_death(
    kind: WriterKind, made: tuple[Guest, list[Step]], deaths: list[tuple[int, int]], lost: set[int]
) -> None:
    check_lives(kind, *made, deaths, lost)


@every_kind
@few
@given(work(), st.sets(st.integers(2, 30), max_size=10))
def test_a_full_disk_is_survived(kind: WriterKind, made: tuple[Guest, list[Step]], failing: set[int]) -> None:
    guest, steps = made
    with tempfile.TemporaryDirectory() as folder, block_file(image := Path(folder) / "image") as file:
        gate = SpaceGate(Path(folder), max_wait_s=60, poll_s=0, go_on_bytes=0)
        writer = kind.create(SpaceWaitingFile(FullFile(file, failing), gate, CancelToken()), guest.capacity)
        for step in in_order_of(kind, steps):
            perform(writer, guest, step)
        writer.finish()
        assert_same(guest, image, kind.format)


@every_kind
@pytest.mark.parametrize("deflated", [False, True])
def test_the_last_block_may_have_any_length(kind: WriterKind, deflated: bool, tmp_path: Path) -> None:
    """Of any content: one of all but a sector that does not shrink is as long as the longest that has shrunk."""
    for sectors in (1, 2, 64, 126, 127, 128):
        for content in BLOCK_KINDS:
            guest = Guest(BLOCK + sectors * 512, {1: content})
            with block_file(image := tmp_path / f"{content}-{sectors}") as file:
                writer = kind.create(file, guest.capacity)
                perform(writer, guest, Step(1, 1, deflated))
                writer.finish()
                assert_same(guest, image, kind.format)


@every_kind
def test_a_dropped_block_is_written_again_in_a_later_run(kind: WriterKind, tmp_path: Path) -> None:
    old = Guest(10 * BLOCK, dict.fromkeys(range(0, 10, 2), "text"))
    new = Guest(10 * BLOCK, {**old.kinds, 2: "random", 5: "half", 8: "thin"})
    with block_file(image := tmp_path / "image") as file:
        first = kind.create(file, old.capacity)
        for index in old.blocks:
            perform(first, old, Step(index, index, deflated=True))
        second = kind.resume(file, old.capacity, lambda index: True)
        second.drop([2, 8])
        left = {index for run in second.stored() for index in run}
        for index in sorted(new.kinds.keys() - left):
            perform(second, new, Step(index, index, deflated=True))
        second.finish()
        assert_same(new, image, kind.format)


@every_kind
@pytest.mark.parametrize(
    ("offset", "length"), [(1, BLOCK), (0, 512), (-BLOCK, BLOCK), (0, 4 * BLOCK), (2 * BLOCK, 1024)]
)
def test_ranges_that_are_no_blocks_are_refused(kind: WriterKind, offset: int, length: int, tmp_path: Path) -> None:
    with block_file(tmp_path / "image") as file:
        writer = kind.create(file, 2 * BLOCK + 512)
        with pytest.raises(ValueError, match="block"):
            writer.write(offset, bytes(length))


@pytest.mark.slow
@every_kind
def test_memory_does_not_grow_with_the_disk(kind: WriterKind, tmp_path: Path) -> None:
    capacity = 4 * TiB
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        growth = pool.submit(write_wide_image_of, kind.name, tmp_path / "image", capacity).result()
    assert growth < 40 * MiB
    assert_blocks(tmp_path / "image", kind.format, 0xFF, range(0, capacity, L2_SPAN))
    if kind.format == "qcow2":
        assert_clean(tmp_path / "image")


def write_wide_image_of(name: str, path: Path, capacity: int) -> int:
    """In the child process: kinds hold functions that cannot be sent, so it is told the name."""
    kind = next(kind for kind in ALL_KINDS if kind.name == name)
    return write_wide_image(kind, path, capacity, L2_SPAN)


def test_a_second_reader_agrees(tmp_path: Path) -> None:
    """7-Zip reads the same from pass-through clusters as qemu-img does."""
    guest = Guest(40 * BLOCK, {index: BLOCK_KINDS[index % len(BLOCK_KINDS)] for index in range(0, 40, 3)})
    kind = next(kind for kind in ALL_KINDS if kind.name == "qcow2-pass")
    with block_file(image := tmp_path / "image.qcow2") as file:
        writer = kind.create(file, guest.capacity)
        for index in guest.blocks:
            perform(writer, guest, Step(index, index, deflated=True, level=9))
        writer.finish()
    run_tool("7z", "e", "-y", f"-o{tmp_path / 'out'}", image)
    [extracted] = (tmp_path / "out").iterdir()
    assert extracted.read_bytes() == guest.write_raw(tmp_path / "expected").read_bytes()
