"""The part of an unfinished stream that grows: grains and tables, one after another, which can be read after a crash.

::

    0         64 KiB                                        end
    +---------+-------+-------+------+-------+-------+------+
    | front   | grain | grain | GT   | grain | grain | GT   |  append ->
    +---------+-------+-------+------+-------+-------+------+

Every record has its type and length, so after the death of the process the log is read from its first record up to the
first invalid one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import TargetError, register
from hypersdk.formats.image import BlockFile, Buffer
from hypersdk.formats.vmdk.layout import (
    GRAIN_MARKER,
    GRAIN_SECTORS,
    MAX_FILE_SECTORS,
    MAX_GRAIN_BYTES,
    META_MARKER,
    TABLE_BYTES,
    MarkerType,
)
from hypersdk.remedies import SetOption
from hypersdk.units import SECTOR, align_up

FRONT_BYTES: Final = GRAIN_SECTORS * SECTOR
"""Header, descriptor and alignment before the first record: ``overHead``, as ESXi has it."""
TABLE_RECORD_BYTES: Final = SECTOR + TABLE_BYTES

VMDK_TOO_LARGE: Final = register(
    "vmdk_too_large",
    "A sparse VMDK addresses its blocks with 32 bits: it holds at most 2 TiB of compressed data.",
    SetOption("format", "qcow2"),
    SetOption("format", "raw"),
)


@dataclass(frozen=True, slots=True)
class Record:
    """A grain or a table in the log: ``start`` and ``length`` in bytes of the file; ``grain`` is the block's number,
    None for a table."""

    start: int
    length: int
    grain: int | None


class StreamLog:
    """Appends to ``file`` from ``end`` on. Not thread-safe. ``digest`` is updated with every byte appended, in
    order."""

    def __init__(self, file: BlockFile, digest: hashlib._Hash | None) -> None:
        self._file = file
        self._digest = digest
        self.end = FRONT_BYTES

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Writes ``buffers`` and returns where the first begins. After an OSError nothing counts as appended.

        Raises TargetError ``vmdk_too_large``.
        """
        start = self.end
        end = start + sum(map(len, buffers))
        if end > MAX_FILE_SECTORS * SECTOR:
            raise TargetError("the compressed disk has reached 2 TiB", code=VMDK_TOO_LARGE)
        self._file.pwrite(buffers, start)
        self.end = end
        if self._digest is not None:
            for buffer in buffers:
                self._digest.update(buffer)
        return start

    def records(self, capacity: int) -> Iterator[Record]:
        """Yields the complete records, up to the end of the file or the first invalid one. ``capacity`` limits the
        grains, in bytes. Raises OSError."""
        start, size = FRONT_BYTES, self._file.size()
        while (record := self._record(start, capacity)) and start + record.length <= size:
            yield record
            start += record.length

    def _record(self, start: int, capacity: int) -> Record | None:
        head = self._file.pread(META_MARKER.size, start)
        if len(head) < META_MARKER.size:
            return None
        lba, size = GRAIN_MARKER.unpack_from(head)
        if 0 < size <= MAX_GRAIN_BYTES and lba % GRAIN_SECTORS == 0 and lba * SECTOR < capacity:
            return Record(start, align_up(GRAIN_MARKER.size + size, SECTOR), lba // GRAIN_SECTORS)
        if META_MARKER.unpack(head) == (TABLE_BYTES // SECTOR, 0, MarkerType.GRAIN_TABLE):
            return Record(start, TABLE_RECORD_BYTES, None)
        return None
