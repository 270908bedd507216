"""Reads qcow2 images of any program: versions 2 and 3, clusters of any size, compressed with deflate.

Sections "Header" and "Cluster mapping" of the specification (see ``layout``). The image may be anybody's: entries that
point nowhere are an error, and nothing is read but the entries that an answer needs.

::

    read(offset) ── L1 entry (8 bytes) ──> slice of an L2 table (4 KiB, the last ones are kept) ──> cluster
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from hypersdk.errors import IntegrityError, register
from hypersdk.formats.image import ReadableFile, runs_of
from hypersdk.formats.qcow2.layout import COMPRESSED, DRAFT_MAGIC, HEADER, MAGIC, OFFSET_MASK
from hypersdk.units import SECTOR, KiB, MiB, TiB

UNREADABLE_IMAGE: Final = register(
    "unreadable_image",
    "The image is damaged, unfinished, or uses a feature of its format that is not read here.",
    "Check it with `qemu-img check`, and copy it into a new image with `qemu-img convert`.",
)
BACKING_FILE: Final = register(
    "image_has_backing_file",
    "The image is an overlay: what it does not hold itself is in another file.",
    "Merge the overlay into its backing file with `qemu-img commit`, or copy both into a new image with `qemu-img"
    " convert`.",
)

MAX_GUEST_BYTES: Final = 1024 * TiB
_CLUSTER_BITS: Final = range(9, 22)
_VERSION_2_BYTES: Final = 72
_MAX_L1_ENTRIES: Final = 32 * MiB // 8
_SLICE: Final = 4 * KiB
_SLICES_KEPT: Final = 32
_CLUSTERS_KEPT: Final = 4
_ZERO: Final = 1
"""In an L2 entry of version 3: the cluster reads as zeros, whatever it points to."""

_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION_TYPE, _EXTENDED_L2 = (1 << bit for bit in range(5))
_COMPRESSION_TYPE_AT: Final = 104


def is_qcow2(head: bytes) -> bool:
    """Whether a file that begins so is a qcow2 image, or one of ours that is unfinished."""
    return head[:4] in (MAGIC, DRAFT_MAGIC)


class Qcow2Reader:
    """Random access to the guest's bytes. ``size`` is that of the guest's disk.

    Raises IntegrityError ``unreadable_image`` or ``image_has_backing_file``; OSError passes through.
    """

    def __init__(self, file: ReadableFile) -> None:
        self._file = file
        head = file.pread(512, 0)
        if len(head) < _VERSION_2_BYTES or head[:4] != MAGIC:
            raise _unreadable("it is unfinished" if head[:4] == DRAFT_MAGIC else "it has no qcow2 header")
        fields = HEADER.unpack(head.ljust(HEADER.size, b"\0")[: HEADER.size])
        _, version, backing, _, bits, self.size, encryption, self._l1_entries, self._l1 = fields[:9]
        if backing:
            raise IntegrityError("the image has a backing file", code=BACKING_FILE)
        if version not in (2, 3) or bits not in _CLUSTER_BITS or self.size > MAX_GUEST_BYTES:
            raise _unreadable(f"version {version} with clusters of 2^{bits} bytes and a disk of {self.size} bytes")
        if encryption:
            raise _unreadable("it is encrypted")
        if version == 3:
            _check_features(fields[13], head)
        self._bits = bits
        self._cluster = 1 << bits
        self._offset_bits = 62 - (bits - 8)
        self._zero = _ZERO if version == 3 else 0
        if self._l1_entries > _MAX_L1_ENTRIES:
            raise _unreadable("its tables are larger than any disk needs")
        self._slice: Callable[[int], bytes] = lru_cache(_SLICES_KEPT)(self._read_slice)
        self._whole: Callable[[int], bytes] = lru_cache(_CLUSTERS_KEPT)(self._inflated)

    def read(self, offset: int, length: int) -> bytes:
        """Returns the guest's bytes at ``offset``; fewer only at the end of the disk."""
        end = min(offset + length, self.size)
        parts = []
        while offset < end:
            inside = offset & (self._cluster - 1)
            step = min(end - offset, self._cluster - inside)
            parts.append(self._piece(offset >> self._bits, inside, step))
            offset += step
        return b"".join(parts)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yields ``(offset, length)`` of guest ranges that may hold data, rising, disjoint; all else reads as zeros."""
        for run in runs_of(self._stored()):
            start = run.start << self._bits
            yield start, min(run.stop << self._bits, self.size) - start

    def _stored(self) -> Iterator[int]:
        """The guest clusters that have an entry."""
        entries = self._cluster // 8
        for table_index in range(-(-self.size // (entries * self._cluster))):
            if table_index >= self._l1_entries:
                raise _unreadable("its table is shorter than its disk")
            if table := self._word(self._l1 + 8 * table_index) & OFFSET_MASK:
                words = struct.unpack(f">{entries}Q", self._exactly(table, self._cluster))
                first = table_index * entries
                yield from (first + number for number, word in enumerate(words) if word and not self._reads_zero(word))

    def _reads_zero(self, entry: int) -> bool:
        return not entry & COMPRESSED and bool(not entry & OFFSET_MASK or entry & self._zero)

    def _piece(self, index: int, inside: int, length: int) -> bytes:
        """``length`` bytes of a cluster."""
        entry = self._entry(index)
        if entry & COMPRESSED:
            return self._whole(entry)[inside : inside + length]
        place = entry & OFFSET_MASK
        if not place or entry & self._zero:
            return bytes(length)
        if place & (self._cluster - 1):
            raise _unreadable(f"a cluster lies at {place}")
        return self._exactly(place + inside, length)

    def _entry(self, index: int) -> int:
        """The L2 entry of a guest cluster; 0 where it has none."""
        table_index, number = divmod(index, self._cluster // 8)
        if table_index >= self._l1_entries:
            raise _unreadable("its table is shorter than its disk")
        table = self._word(self._l1 + 8 * table_index) & OFFSET_MASK
        return self._word(table + 8 * number) if table else 0

    def _word(self, offset: int) -> int:
        """An entry of a table."""
        number, inside = divmod(offset, _SLICE)
        word = self._slice(number)[inside : inside + 8]
        if len(word) < 8:
            raise _unreadable(f"it ends inside the table at {offset}")
        return int.from_bytes(word, "big")

    def _read_slice(self, number: int) -> bytes:
        return self._file.pread(_SLICE, number * _SLICE)

    def _inflated(self, entry: int) -> bytes:
        """A compressed cluster: the entry has its first byte, and how many more sectors it reaches into."""
        place = entry & ((1 << self._offset_bits) - 1)
        sectors = ((entry & ~COMPRESSED) >> self._offset_bits & ((1 << self._bits - 8) - 1)) + 1
        deflated = self._file.pread(sectors * SECTOR - place % SECTOR, place)
        try:
            data = zlib.decompressobj(-15).decompress(deflated, self._cluster)
        except zlib.error as error:
            raise _unreadable(f"a compressed cluster at {place} cannot be inflated") from error
        if len(data) < self._cluster:
            raise _unreadable(f"a compressed cluster at {place} is too short")
        return data

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._file.pread(length, offset)
        if len(data) < length:
            raise _unreadable(f"it ends before byte {offset + length}")
        return data


def _check_features(incompatible: int, head: bytes) -> None:
    """A dirty image is read as it is: only its refcounts may be wrong."""
    if incompatible & _COMPRESSION_TYPE and head[_COMPRESSION_TYPE_AT] != 0:
        raise _unreadable("its clusters are compressed with zstd")
    if incompatible & _EXTERNAL_DATA:
        raise _unreadable("its data is in another file")
    if incompatible & _EXTENDED_L2:
        raise _unreadable("it has subclusters (extended L2 entries)")
    if incompatible & ~(_DIRTY | _CORRUPT | _COMPRESSION_TYPE):
        raise _unreadable("it has a feature that is not known")


def _unreadable(why: str) -> IntegrityError:
    return IntegrityError(f"the qcow2 image cannot be read: {why}", code=UNREADABLE_IMAGE)
