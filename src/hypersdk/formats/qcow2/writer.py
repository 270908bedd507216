"""Writes qcow2 images: clusters in any order, tables that survive the death of the process, the header last."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import ClassVar, Final, Literal, Self, TypeAlias

from isal import isal_zlib

from hypersdk.errors import IntegrityError
from hypersdk.formats.image import BlockFile, Buffer, Piece, check_range, runs_of
from hypersdk.formats.qcow2.clusters import REGION, HostClusters
from hypersdk.formats.qcow2.layout import (
    CLUSTER,
    COMPRESSED,
    COUNTS_PER_BLOCK,
    DEFLATED_MAX,
    DEFLATED_MIN,
    DRAFT_MAGIC,
    MAGIC,
    Geometry,
    compressed_entry,
    entry_bytes,
    entry_span,
    plain_entry,
)
from hypersdk.formats.qcow2.mapping import PARTIAL_DAMAGED, GuestMap
from hypersdk.units import KiB, MiB

Compression: TypeAlias = Literal["none", "pass", "repack"]
"""``none``: plain clusters. ``pass``: deflated grains unchanged, with windows of up to 32 KiB, which RFC 1951 and
qemu allow and some readers refuse. ``repack``: deflated again with the 4 KiB window that every reader accepts."""

_Deflate: TypeAlias = Callable[[Buffer], Buffer]

_DEFLATE_ERROR: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]  # isal's stub takes the class for an instance
_STEP: Final = 4 * MiB  # longest single write; keeps a run of clusters within a refcount block
_PACK_AT_ONCE: Final = 64
_SAMPLE: Final = 4 * KiB
_SAMPLE_SHRUNK: Final = 15 * _SAMPLE // 16
_NARROW_WINDOW: Final = -12  # 2**12 bytes, raw deflate: what qemu's own compression uses
_NARROW_LEVEL: Final = 3  # takes 1.5 times as long as level 1, and saves nearly as much as level 6


class Qcow2Writer:
    """An ImageWriter for qcow2. Any order, any thread. Memory is constant: pages of tables, never the tables.

    Clusters are only ever added behind the others; the cluster of a replaced entry is freed. Data is written outside
    the lock, then its L2 entries inside it: a process that dies in between leaves clusters without a reference, which
    ``resume`` frees.
    """

    ordered: ClassVar[bool] = False

    def __init__(self, file: BlockFile, geometry: Geometry, clusters: HostClusters, compression: Compression) -> None:
        self.capacity = geometry.capacity
        self._file = file
        self._geometry = geometry
        self._clusters = clusters
        self._map = GuestMap(file, geometry, clusters)
        self._passes = compression == "pass"
        self._deflate = _DEFLATE[compression]
        self._incompressible: set[int] = set()
        self._lock = threading.Lock()

    @classmethod
    def create(cls, file: BlockFile, capacity: int, *, compression: Compression = "none") -> Self:
        """Creates an image in ``file``, whose content is lost."""
        geometry = Geometry(capacity)
        file.truncate(0)
        file.truncate(geometry.fixed_clusters * CLUSTER)
        file.pwrite([geometry.header(DRAFT_MAGIC)], 0)
        return cls(file, geometry, HostClusters.fresh(file, geometry), compression)

    @classmethod
    def resume(
        cls, file: BlockFile, capacity: int, *, compression: Compression = "none", trusted: Callable[[int], bool]
    ) -> Self:
        """Resumes an image of ``create``, however its process ended. ``trusted(index)`` tells whether the data
        of the 64 KiB block ``index`` is known to be good; all others read as zeros afterwards and their room is
        freed.

        Raises IntegrityError ``partial_damaged`` when the file is no such image.
        """
        geometry = Geometry(capacity)
        draft = geometry.header(DRAFT_MAGIC)
        if file.pread(CLUSTER, 0) not in (draft, geometry.header(MAGIC)):
            raise IntegrityError(f"the file is not an unfinished image of {capacity} bytes", code=PARTIAL_DAMAGED)
        file.pwrite([draft], 0)
        clusters = HostClusters.recount(file, geometry)
        writer = cls(file, geometry, clusters, compression)
        writer._map.load(trusted)
        clusters.trim()
        return writer

    def write(self, offset: int, data: Buffer) -> None:
        """Stores ``data``; adjacent clusters are written together. In the compressing modes they are deflated first,
        where that makes them smaller."""
        view = memoryview(data).cast("B")
        check_range(offset, len(view), self.capacity)
        for start in range(0, len(view), _STEP):
            self._store((offset + start) // CLUSTER, view[start : start + _STEP])

    def _store(self, first: int, data: memoryview) -> None:
        if self._deflate is None:
            self._store_plain(first, data)
            return
        clusters = [data[start : start + CLUSTER] for start in range(0, len(data), CLUSTER)]
        deflated = [
            (first + number, self._deflated(first + number, cluster)) for number, cluster in enumerate(clusters)
        ]
        for fits, run in groupby(deflated, key=lambda item: len(item[1]) <= DEFLATED_MAX):
            items = list(run)
            if fits:
                self._store_packed(items)
            else:
                start = (items[0][0] - first) * CLUSTER
                self._store_plain(items[0][0], data[start : start + len(items) * CLUSTER])

    def _deflated(self, index: int, cluster: memoryview) -> Buffer:
        """Returns the deflated cluster; more than ``DEFLATED_MAX`` bytes where that does not pay."""
        assert self._deflate is not None
        with self._lock:
            incompressible = index in self._incompressible
            self._incompressible.discard(index)
        whole = _whole(cluster)  # a short one at the end would look like one that was deflated
        # Deflating takes as long as everything else with a cluster. One that the source could not compress is only
        # deflated if its start shrinks.
        if incompressible and len(self._deflate(cluster[:_SAMPLE])) > _SAMPLE_SHRUNK:
            return whole
        return self._deflate(whole)

    def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Stores grains unchanged, without their zlib header and trailer. Returns those that cannot be a compressed
        cluster: all unless the mode is ``pass``; the short one at the end of the disk; those that do not shrink; those
        with a preset dictionary.
        """
        for piece in pieces:
            check_range(piece.offset, piece.length, self.capacity)
        if not self._passes:
            return pieces
        fitting = [(piece.offset // CLUSTER, memoryview(piece.zlib)[2:-4]) for piece in pieces if _can_pass(piece)]
        for start in range(0, len(fitting), _PACK_AT_ONCE):
            self._store_packed(fitting[start : start + _PACK_AT_ONCE])
        if len(fitting) == len(pieces):
            return []
        refused = [piece for piece in pieces if not _can_pass(piece)]
        with self._lock:
            self._incompressible.update(piece.offset // CLUSTER for piece in refused if len(piece.zlib) > DEFLATED_MAX)
        return refused

    def _store_plain(self, first: int, data: memoryview) -> None:
        """Stores at most ``_STEP`` bytes as plain clusters; the last one is filled up with zeros."""
        count = -(-len(data) // CLUSTER)
        with self._lock:
            offset = self._clusters.allocate(count)
        self._file.pwrite([data, bytes(count * CLUSTER - len(data))], offset)
        with self._lock:
            self._replace(first, [plain_entry(offset + number * CLUSTER) for number in range(count)])

    def _store_packed(self, deflated: Sequence[tuple[int, Buffer]]) -> None:
        """Stores ``(guest cluster, raw deflate)`` packed byte to byte; adjacent ones are written together."""
        with self._lock:
            offsets = [self._clusters.allocate_bytes(len(data)) for _, data in deflated]
        for start, buffers in _adjacent(offsets, [data for _, data in deflated]):
            self._file.pwrite(buffers, start)
        entries = {
            index: compressed_entry(offset, len(data)) for (index, data), offset in zip(deflated, offsets, strict=True)
        }
        with self._lock:
            for run in runs_of(entries):
                self._replace(run.start, [entries[index] for index in run])

    def _replace(self, first: int, entries: Sequence[int]) -> None:
        """Sets the entries of clusters in a row and frees what they replace."""
        for entry in self._map.replace(first, entries):
            self._clusters.release(*entry_span(entry))

    def sync(self) -> None:
        """Makes all that was written so far durable; everything that ``resume`` needs is in the file."""
        self._file.sync()

    def finish(self) -> None:
        """Writes refcounts and their table, then, when all that is durable, the header."""
        with self._lock:
            self._clusters.close()
            self._file.sync()
            self._file.pwrite([self._geometry.header(MAGIC)], 0)
            self._file.sync()

    def stored(self) -> Iterator[range]:
        """Returns runs of blocks that have clusters."""
        return self._map.stored()

    def read(self, offset: int, buffer: memoryview) -> None:
        """Reads the clusters that the L2 tables name; adjacent plain ones together."""
        check_range(offset, len(buffer), self.capacity)
        with self._lock:
            entries = self._map.entries(offset // CLUSTER, -(-len(buffer) // CLUSTER))
        at = 0
        for entry, count in _read_at_once(entries):
            view = buffer[at * CLUSTER : (at + count) * CLUSTER]
            view[:] = self._read_entry(entry, len(view), offset + at * CLUSTER)
            at += count

    def _read_entry(self, entry: int, length: int, offset: int) -> Buffer:
        """Returns ``length`` bytes from where ``entry`` points to; a deflated cluster is inflated completely."""
        if not entry:
            return bytes(length)
        start, end = entry_bytes(entry)
        if entry & COMPRESSED:
            return memoryview(_inflated(self._file.pread(end - start, start), offset))[:length]
        data = self._file.pread(length, start)
        if len(data) < length:
            raise IntegrityError(f"the image ends inside the block at guest offset {offset}", code=PARTIAL_DAMAGED)
        return data

    def drop(self, blocks: Iterable[int]) -> None:
        """Clears the entries of ``blocks`` and frees their clusters."""
        with self._lock:
            for index in blocks:
                if self._map.entries(index, 1) != [0]:
                    self._replace(index, [0])


def most_bytes(capacity: int, blocks: int, *, compressed: bool) -> int:
    """Returns the largest size of an image with ``blocks`` clusters of data that is written in one run; a resumed one
    may have holes.

    Unused are: the end of each region, where the next cluster did not fit; nearly all of the last one; before each
    refcount block the space where a run of clusters did not fit.
    """
    geometry = Geometry(capacity)
    clusters = geometry.fixed_clusters + blocks + min(blocks, geometry.l1_entries)
    if compressed:
        clusters += REGION + blocks // REGION
    longest_run = max(REGION, _STEP // CLUSTER)
    areas = clusters // (COUNTS_PER_BLOCK - longest_run)
    return (clusters + areas * longest_run) * CLUSTER


def _read_at_once(entries: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields ``(entry, count)``: runs of ``count`` clusters that are adjacent in the file from ``entry`` on."""
    start = 0
    while start < len(entries):
        entry, count = entries[start], 1
        if not entry & COMPRESSED:
            step = CLUSTER if entry else 0
            while start + count < len(entries) and entries[start + count] == entry + count * step:
                count += 1
        yield entry, count
        start += count


def _inflated(deflated: Buffer, offset: int) -> bytes:
    """Returns a whole cluster; what follows it in the last sector belongs to another one."""
    try:
        data: bytes = isal_zlib.decompressobj(-15).decompress(deflated, CLUSTER)
    except _DEFLATE_ERROR as error:
        raise _undecodable(offset, str(error)) from error
    if len(data) < CLUSTER:
        raise _undecodable(offset, f"it inflates to {len(data)} bytes")
    return data


def _undecodable(offset: int, why: str) -> IntegrityError:
    return IntegrityError(f"the block at guest offset {offset} is damaged: {why}", code=PARTIAL_DAMAGED)


def _deflate_wide(cluster: Buffer) -> Buffer:
    return isal_zlib.compress(cluster, 1, -15)


def _deflate_narrow(cluster: Buffer) -> Buffer:
    codec = zlib.compressobj(_NARROW_LEVEL, zlib.DEFLATED, _NARROW_WINDOW)
    return codec.compress(cluster) + codec.flush()


_DEFLATE: Final[dict[Compression, _Deflate | None]] = {"none": None, "pass": _deflate_wide, "repack": _deflate_narrow}


def _whole(cluster: memoryview) -> Buffer:
    """Pads the last cluster of a disk: a compressed cluster must inflate to a whole one."""
    return cluster if len(cluster) == CLUSTER else bytes(cluster).ljust(CLUSTER, b"\0")


def _can_pass(piece: Piece) -> bool:
    """Whether the data between zlib header (RFC 1950) and Adler-32 can be a compressed cluster."""
    stream = memoryview(piece.zlib)
    raw_length = len(stream) - 6
    if piece.length != CLUSTER or not DEFLATED_MIN <= raw_length <= DEFLATED_MAX:
        return False
    is_deflate = stream[0] & 0x0F == 8
    has_dictionary = stream[1] & 0x20
    return is_deflate and not has_dictionary


def _adjacent(offsets: Sequence[int], buffers: Sequence[Buffer]) -> Iterator[tuple[int, list[Buffer]]]:
    """Groups buffers that are adjacent in the file; offsets rise."""
    start, end, group = 0, -1, list[Buffer]()
    for offset, buffer in zip(offsets, buffers, strict=True):
        if offset != end:
            if group:
                yield start, group
            start, group = offset, []
        group.append(buffer)
        end = offset + len(buffer)
    if group:
        yield start, group
