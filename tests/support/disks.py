"""Disks to copy in tests: content with holes, zeros, text and noise, and sources that serve it well or badly."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypersdk.errors import TransientError
from hypersdk.formats.image import BLOCK
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import content_digest_of
from hypersdk.transfer.source import StreamAlgorithm
from hypersdk.units import MiB
from tests.support.tools import run_tool


def noise(seed: int, length: int) -> bytes:
    """Bytes that do not shrink."""
    return random.Random(seed).randbytes(length)


def text(seed: int, length: int) -> bytes:
    """Bytes that shrink to about a third."""
    rng = random.Random(seed)
    words = b" ".join(rng.choice((b"lease", b"grain", b"cluster", b"snapshot")) + rng.randbytes(2) for _ in range(2000))
    return (words * (length // len(words) + 1))[:length]


def mixed(seed: int, capacity: int) -> bytes:
    """Runs of noise, text and zeros."""
    rng = random.Random(seed)
    disk = bytearray(capacity)
    at = 0
    while at < capacity:
        length = min(rng.randint(1, 12) * BLOCK, capacity - at)
        kind = rng.randrange(3)
        if kind < 2:
            disk[at : at + length] = (noise, text)[kind](rng.randrange(1 << 30), length)
        at += length
    return bytes(disk)


class Raw:
    """The bytes of a disk, readable at random."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, buffer: memoryview) -> None:
        piece = self.data[offset : offset + len(buffer)]
        assert len(piece) == len(buffer)
        buffer[:] = piece


@dataclass(frozen=True)
class Disk:
    """A guest disk, and qemu-img's streamOptimized VMDK of it."""

    raw_path: Path
    stream_path: Path
    raw: bytes
    stream: bytes
    content: str

    @property
    def capacity(self) -> int:
        return len(self.raw)


def make_disk(folder: Path, name: str, raw: bytes) -> Disk:
    """Lays ``raw`` and its stream into ``folder``."""
    raw_path, stream_path = folder / f"{name}.raw", folder / f"{name}-stream.vmdk"
    raw_path.write_bytes(raw)
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw_path, stream_path)
    return Disk(raw_path, stream_path, raw, stream_path.read_bytes(), content_digest_of(Raw(raw), len(raw)))


class MemoryStream:
    """A ByteStream over bytes. Each fault is a function of the position, called before each read."""

    route = "memory"

    def __init__(
        self, data: bytes, *, with_length: bool, step: int, before: Callable[[int, threading.Event], None]
    ) -> None:
        self.length_bytes = len(data) if with_length else None
        self.closed = threading.Event()
        self._view = memoryview(data)
        self._position = 0
        self._step = step
        self._before = before

    def readinto(self, buffer: memoryview) -> int:
        self._before(self._position, self.closed)
        count = min(len(buffer), self._step, len(self._view) - self._position)
        buffer[:count] = self._view[self._position : self._position + count]
        self._position += count
        return count


def _nothing(_position: int, _closed: threading.Event) -> None:
    pass


@dataclass
class MemorySource:
    """A StreamSource. ``opens`` has what happens before a read, each time it is opened; the last one is repeated."""

    data: bytes
    capacity_bytes: int
    opens: Sequence[Callable[[int, threading.Event], None]] = (_nothing,)
    with_length: bool = True
    allocated_bytes: int | None = None
    step: int = MiB
    algorithm: StreamAlgorithm = "sha256"
    label: str = "Hard disk 1"
    host: str = "esx1.example.com"
    opened: int = 0
    streams: list[MemoryStream] = field(default_factory=list)

    @contextmanager
    def open(self, cancel: CancelToken) -> Iterator[MemoryStream]:
        cancel.check()
        before = self.opens[min(self.opened, len(self.opens) - 1)]
        self.opened += 1
        stream = MemoryStream(self.data, with_length=self.with_length, step=self.step, before=before)
        self.streams.append(stream)
        try:
            yield stream
        finally:
            stream.closed.set()


def breaks_at(limit: int, code: str | None = None) -> Callable[[int, threading.Event], None]:
    """The connection is reset once ``limit`` bytes came."""

    def before(position: int, _closed: threading.Event) -> None:
        if position >= limit:
            raise TransientError(f"reset after {position} bytes", code=code)

    return before


def hangs_at(limit: int) -> Callable[[int, threading.Event], None]:
    """No data after ``limit`` bytes until the stream is closed from outside."""

    def before(position: int, closed: threading.Event) -> None:
        if position >= limit:
            closed.wait()
            raise TransientError("closed while it was read")

    return before


def runs_at(bytes_s: float) -> Callable[[int, threading.Event], None]:
    """The stream has this rate."""
    started: list[float] = []

    def before(position: int, _closed: threading.Event) -> None:
        started.append(time.monotonic())
        time.sleep(max(0.0, started[0] + position / bytes_s - started[-1]))

    return before


@dataclass
class MemoryRanges:
    """A RangeSource that records reads. ``fail`` is called before each read."""

    data: bytes
    fail: Callable[[int], None] = lambda _offset: None
    areas: Sequence[tuple[int, int]] | None = None
    label: str = "Hard disk 1"
    host: str = "esx1.example.com"
    reads: list[tuple[int, int]] = field(default_factory=list)
    capacity_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.capacity_bytes = len(self.data)

    def extents(self, cancel: CancelToken) -> Iterator[tuple[int, int]]:
        cancel.check()
        return iter([(0, len(self.data))] if self.areas is None else self.areas)

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        cancel.check()
        self.reads.append((offset, len(buffer)))
        self.fail(offset)
        piece = self.data[offset : offset + len(buffer)]
        assert len(piece) == len(buffer), "read past the end of the disk"
        buffer[:] = piece

    @property
    def read_bytes(self) -> int:
        return sum(length for _, length in self.reads)
