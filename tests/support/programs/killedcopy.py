"""A copy in a separate process, to be killed.

``main`` resumes what is in the folder, sends ``begun`` when data flows, and notes each range it reads in ``reads``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from hypersdk.formats.image import BlockFile, ImageWriter
from hypersdk.formats.qcow2.writer import Qcow2Writer
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.disk import transfer_disk
from hypersdk.transfer.files import open_output
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.limit import BandwidthLimit
from hypersdk.transfer.policies import CopyOptions, Policies
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.source import DiskSource
from hypersdk.units import MiB
from tests.support.disks import MemoryRanges, MemorySource

Make = Callable[[BlockFile, int], ImageWriter]
Resume = Callable[[BlockFile, int, Callable[[int], bool]], ImageWriter]

FORMATS: dict[str, tuple[Make, Resume]] = {
    "raw": (RawWriter.create, lambda file, capacity, _trusted: RawWriter.resume(file, capacity)),
    "qcow2": (
        Qcow2Writer.create,
        lambda file, capacity, trusted: Qcow2Writer.resume(file, capacity, trusted=trusted),
    ),
    "qcow2-pass": (
        lambda file, capacity: Qcow2Writer.create(file, capacity, compression="pass"),
        lambda file, capacity, trusted: Qcow2Writer.resume(file, capacity, compression="pass", trusted=trusted),
    ),
    "vmdk": (
        StreamOptimizedWriter.create,
        lambda file, capacity, trusted: StreamOptimizedWriter.resume(file, capacity, trusted=trusted),
    ),
}


@contextmanager
def opened(folder: Path, kind: str, capacity: int) -> Iterator[tuple[ImageWriter, BlockLedger]]:
    """The image and ledger in ``folder``: those of an earlier run, or new ones."""
    make, resume = FORMATS[kind]
    image, blocks = folder / "image", folder / "blocks"
    fresh = not blocks.exists()
    handle = open_output(image, fresh=fresh)
    try:
        file = FdFile(handle)
        if fresh:
            writer = make(file, capacity)  # the ledger comes last: where it is, the image is
            with BlockLedger.create(blocks, capacity, kind) as ledger:
                yield writer, ledger
        else:
            with BlockLedger.open(blocks, capacity, kind) as ledger:
                yield resume(file, capacity, ledger.has), ledger
    finally:
        os.close(handle)


def run(folder: Path, source: DiskSource, kind: str, rate: int | None) -> Receipt:
    """Starts or continues the copy."""
    with opened(folder, kind, source.capacity_bytes) as (writer, ledger):
        return transfer_disk(
            source,
            writer,
            ledger,
            cancel=CancelToken(),
            meter=Meter("d", "image", source.capacity_bytes),
            policies=Policies(limit=BandwidthLimit(rate) if rate else None),
            options=CopyOptions(checkpoint_bytes=2 * MiB),
        )


class NotedRanges(MemoryRanges):
    """Records reads in a file, which survives a kill."""

    def __init__(self, raw: bytes, log: Path, begun: Callable[[], None]) -> None:
        super().__init__(raw)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._begun = begun

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        super().read(offset, buffer, cancel)
        os.write(self._log, f"{len(buffer)}\n".encode())
        self._begun()


def main(folder: Path, source_kind: str, kind: str, rate: int, report: Connection) -> None:
    raw = (folder / "disk.raw").read_bytes()
    unannounced = threading.Lock()  # whoever takes it is the first, also of several at once

    def begun() -> None:
        if unannounced.acquire(blocking=False):
            report.send("begun")

    source: DiskSource
    if source_kind == "ranges":
        source = NotedRanges(raw, folder / "reads", begun)
    else:
        data = (folder / "disk-stream.vmdk").read_bytes()
        source = MemorySource(data, len(raw), [lambda _position, _closed: begun()], step=64 * 1024)
    run(folder, source, kind, rate)
