"""Image writers under test: which there are, files that fail or die under them, guests to write, and readers to compare
with."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from hypersdk.formats.image import BLOCK, BlockFile, Buffer, ImageWriter, Piece
from hypersdk.formats.qcow2.writer import Compression, Qcow2Writer
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.transfer.blockfile import FdFile
from tests.support.killed import Killed
from tests.support.processes import memory_bytes
from tests.support.tools import requires, run_tool

PAGE: Final = 4096

Trusted = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class WriterKind:
    """One way to write an image. ``format`` is qemu-img's name of it; ``ordered`` writers want rising offsets."""

    name: str
    format: str
    ordered: bool
    create: Callable[[BlockFile, int], ImageWriter]
    resume: Callable[[BlockFile, int, Trusted], ImageWriter]


def _qcow2(compression: Compression) -> WriterKind:
    return WriterKind(
        f"qcow2-{compression}",
        "qcow2",
        Qcow2Writer.ordered,
        lambda file, capacity: Qcow2Writer.create(file, capacity, compression=compression),
        lambda file, capacity, trusted: Qcow2Writer.resume(file, capacity, compression=compression, trusted=trusted),
    )


RAW: Final = WriterKind(
    "raw", "raw", RawWriter.ordered, RawWriter.create, lambda file, capacity, trusted: RawWriter.resume(file, capacity)
)
QCOW2_KINDS: Final = tuple(_qcow2(compression) for compression in ("none", "pass", "repack"))
VMDK: Final = WriterKind(
    "vmdk",
    "vmdk",
    StreamOptimizedWriter.ordered,
    StreamOptimizedWriter.create,
    lambda file, capacity, trusted: StreamOptimizedWriter.resume(file, capacity, trusted=trusted),
)
ALL_KINDS: Final = (RAW, *QCOW2_KINDS, VMDK)


class MortalFile:
    """A BlockFile that dies after ``lives`` changes: of the last one only a part is done, and whoever calls it later
    dies too.

    Linux ends a killed write between two pages, never within one.
    """

    def __init__(self, file: BlockFile, lives: int, torn_bytes: int = 0) -> None:
        self._file = file
        self._lives = lives
        self._torn_bytes = torn_bytes
        self._lock = threading.Lock()

    def _outlives(self) -> bool:
        with self._lock:
            self._lives -= 1
            if self._lives < -1:
                raise Killed
            return self._lives >= 0

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        if self._outlives():
            self._file.pwrite(buffers, offset)
            return
        done = (offset + self._torn_bytes) // PAGE * PAGE - offset
        self._file.pwrite([b"".join(buffers)[: max(0, done)]], offset)
        raise Killed

    def truncate(self, size: int) -> None:
        if not self._outlives():
            raise Killed
        self._file.truncate(size)

    def discard(self, offset: int, length: int) -> None:
        if not self._outlives():
            raise Killed
        self._file.discard(offset, length)

    def sync(self) -> None:
        if not self._outlives():
            raise Killed

    def data_runs(self, start: int) -> Iterator[range]:
        return self._file.data_runs(start)

    def pread(self, length: int, offset: int) -> bytes:
        return self._file.pread(length, offset)

    def size(self) -> int:
        return self._file.size()


class FullFile:
    """A BlockFile on a file system that is full at some of its writes: those fail with ENOSPC, half done, and succeed
    when repeated."""

    def __init__(self, file: BlockFile, failing: Iterable[int]) -> None:
        self._file = file
        self._failing = set(failing)
        self._writes = 0
        self._lock = threading.Lock()

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        with self._lock:
            number = self._writes
            self._writes += 1
        if number in self._failing:
            whole = b"".join(buffers)
            self._file.pwrite([whole[: len(whole) // 2]], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file.pwrite(buffers, offset)

    def pread(self, length: int, offset: int) -> bytes:
        return self._file.pread(length, offset)

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def discard(self, offset: int, length: int) -> None:
        self._file.discard(offset, length)

    def data_runs(self, start: int) -> Iterator[range]:
        return self._file.data_runs(start)

    def sync(self) -> None:
        self._file.sync()


@contextmanager
def block_file(path: Path) -> Iterator[FdFile]:
    """The file at ``path``, made if there is none."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield FdFile(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Guest:
    """A guest's disk: its capacity and, by block number, what kind of data is in those blocks that are not zero."""

    capacity: int
    kinds: Mapping[int, str]

    @cached_property
    def blocks(self) -> Mapping[int, bytes]:
        """The blocks that are not zero."""
        return {index: block_bytes(kind, index, self.length(index)) for index, kind in self.kinds.items()}

    def length(self, index: int) -> int:
        """Bytes of block ``index``: less than a block at the end of the disk."""
        return min(BLOCK, self.capacity - index * BLOCK)

    def write_raw(self, path: Path) -> Path:
        """The disk as a sparse raw file."""
        with path.open("wb") as file:
            for index, data in self.blocks.items():
                file.seek(index * BLOCK)
                file.write(data)
            file.truncate(self.capacity)
        return path


BLOCK_KINDS: Final = ("random", "text", "half", "thin", "full")


def block_bytes(kind: str, seed: int, length: int) -> bytes:
    """``length`` bytes that are not all zero: incompressible; repeats beyond a 4 KiB window; half of each; nearly
    nothing; one byte only."""
    source = random.Random(f"{kind}{seed}")
    match kind:
        case "random":
            data = source.randbytes(length)
        case "text":
            words = [source.randbytes(6000) for _ in range(4)]
            data = b"".join(source.choice(words) for _ in range(length // 6000 + 1))
        case "half":
            data = source.randbytes(length // 2)
        case "thin":
            data = b"\x01" + seed.to_bytes(8, "big")
        case _:
            data = b"\xff" * length
    return data[:length].ljust(length, b"\0")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a writer: blocks ``first`` to ``last``, plain or deflated with zlib's ``level`` and window bits."""

    first: int
    last: int
    deflated: bool
    level: int = 1
    window_bits: int = 15

    def indexes(self) -> range:
        return range(self.first, self.last + 1)


def perform(writer: ImageWriter, guest: Guest, step: Step) -> None:
    """Does what the transfer engine does with a batch of grains: what ``write_deflated`` returns is inflated and
    written plain."""
    if not step.deflated:
        writer.write(step.first * BLOCK, b"".join(guest.blocks[index] for index in step.indexes()))
        return
    pieces = [_deflated(guest, index, step) for index in step.indexes()]
    for piece in writer.write_deflated(pieces):
        data = zlib.decompress(piece.zlib)
        assert len(data) == piece.length
        writer.write(piece.offset, data)


def _deflated(guest: Guest, index: int, step: Step) -> Piece:
    codec = zlib.compressobj(step.level, zlib.DEFLATED, step.window_bits)
    stream = codec.compress(guest.blocks[index]) + codec.flush()
    return Piece(index * BLOCK, guest.length(index), memoryview(stream))


def perform_in_threads(writer: ImageWriter, guest: Guest, steps: Sequence[Step], threads: int) -> None:
    """Deals ``steps`` out to ``threads`` that start together; raises what the first failing thread raised."""
    start = threading.Barrier(threads)
    failures: list[BaseException] = []

    def work(mine: Sequence[Step]) -> None:
        start.wait()
        try:
            for step in mine:
                perform(writer, guest, step)
        except (Exception, Killed) as failure:  # noqa: BLE001 - raised again below, in the thread of the test
            failures.append(failure)

    workers = [threading.Thread(target=work, args=(steps[number::threads],)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def assert_same(guest: Guest, image: Path, image_format: str) -> None:
    """``image`` holds exactly ``guest`` in qemu-img's eyes, and its tables are clean: no error, no leak."""
    expected = guest.write_raw(image.with_suffix(".expected"))
    run_tool("qemu-img", "compare", "-f", "raw", "-F", image_format, expected, image)
    assert virtual_size(image, image_format) == guest.capacity
    if image_format == "qcow2":
        assert_clean(image)


def assert_clean(image: Path) -> None:
    """``qemu-img check`` finds neither errors nor leaks."""
    report = json.loads(run_tool("qemu-img", "check", "-f", "qcow2", "--output=json", image))
    faults = {key: report[key] for key in ("corruptions", "leaks", "check-errors") if report.get(key)}
    assert not faults


def virtual_size(image: Path, image_format: str) -> int:
    """The guest's bytes, as qemu-img sees them."""
    return int(json.loads(run_tool("qemu-img", "info", "-f", image_format, "--output=json", image))["virtual-size"])


def is_accepted(image: Path, image_format: str) -> bool:
    """Whether qemu-img opens ``image``."""
    done = subprocess.run(
        [requires("qemu-img"), "info", "-f", image_format, image], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def assert_blocks(image: Path, image_format: str, pattern: int, starts: Iterable[int]) -> None:
    """``qemu-io`` reads a block full of ``pattern`` at each of ``starts`` and a block of zeros behind it: a spot check,
    where comparing takes minutes."""
    reads = [f"read -P {pattern} {start} {BLOCK}\nread -P 0 {start + BLOCK} {BLOCK}" for start in starts]
    printed = run_tool("qemu-io", "-r", "-f", image_format, image, stdin="\n".join([*reads, "quit\n"]))
    assert "Pattern verification failed" not in printed
    assert printed.count(f"read {BLOCK}/{BLOCK} bytes") == 2 * len(reads)


def write_wide_image(kind: WriterKind, path: Path, capacity: int, stride: int) -> int:
    """Writes one block in each ``stride`` bytes, from a killed run and one that resumes it; returns by how many bytes
    memory grew at most.

    To be run in a process of its own: the peak is the process's.
    """
    data = block_bytes("full", 1, BLOCK)
    offsets = range(0, capacity, stride)
    half = len(offsets) // 2
    before = memory_bytes("VmRSS")
    with block_file(path) as file:
        first = kind.create(file, capacity)
        for offset in offsets[:half]:
            first.write(offset, data)
        second = kind.resume(file, capacity, lambda index: True)
        for offset in offsets[half:]:
            second.write(offset, data)
        second.finish()
    return memory_bytes("VmHWM") - before
