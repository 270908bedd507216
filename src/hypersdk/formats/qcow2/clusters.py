"""Host clusters: allocation, and the refcounts of all of them."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from typing import Final, Self

from hypersdk.formats.image import BlockFile
from hypersdk.formats.qcow2.layout import CLUSTER, COUNTS_PER_BLOCK, REFCOUNT_TABLE_OFFSET, Geometry, refcount_block
from hypersdk.formats.qcow2.pages import PageCache
from hypersdk.units import align_up

REGION: Final = 64
"""Clusters that are allocated for compressed data at a time, to be packed without gaps while plain clusters and tables
go elsewhere. The unused end of a region is lost: half a cluster of 4 MiB on average."""
_COUNT_PAGES: Final = 16  # 1 MiB of refcounts: 32 GiB of image
_RUNS_OF_ZERO: Final = re.compile(rb"(?P<free>(?:\0\0)++)|(?:(?!\0\0)..)++", re.DOTALL)
"""Splits 16-bit counts into runs of zero and of other counts; both match whole counts, so the alignment is kept."""


class HostClusters:
    """Allocates clusters, always behind the earlier ones, and counts references in pages that are written late.

    Counts on disk are only right after ``close``: for an unfinished image they are computed from its L2 tables. Not
    thread-safe.
    """

    def __init__(self, file: BlockFile, geometry: Geometry, end: int) -> None:
        self._file = file
        self._geometry = geometry
        self._end = end
        self._counts = PageCache(file, _COUNT_PAGES)
        self._packed = 0
        self._region_end = 0

    @classmethod
    def fresh(cls, file: BlockFile, geometry: Geometry) -> Self:
        """For a new image: only the fixed part is in use."""
        clusters = cls(file, geometry, geometry.fixed_clusters)
        clusters.retain(0, geometry.fixed_clusters)
        return clusters

    @classmethod
    def recount(cls, file: BlockFile, geometry: Geometry) -> Self:
        """For an image of another run: everything up to its end is allocated, no count is known. ``retain`` what is in
        use, then ``trim``."""
        end = align_up(max(file.size(), geometry.fixed_clusters * CLUSTER), CLUSTER) // CLUSTER
        clusters = cls(file, geometry, end)
        file.discard(REFCOUNT_TABLE_OFFSET, geometry.refcount_table_clusters * CLUSTER)
        for area in range(clusters._areas()):
            file.discard(refcount_block(area) * CLUSTER, CLUSTER)
            if area:
                clusters.retain(refcount_block(area), 1)
        clusters.retain(0, geometry.fixed_clusters)
        return clusters

    def _areas(self) -> int:
        """Number of refcount blocks of the image."""
        return (self._end - 1) // COUNTS_PER_BLOCK + 1

    def is_behind_end(self, offset: int) -> bool:
        """Whether byte ``offset`` lies behind the last cluster of the image."""
        return offset >= self._end * CLUSTER

    def can_be_data(self, first: int, count: int) -> bool:
        """Whether these clusters can be data: behind the fixed part, and no refcount block."""
        last = first + count - 1
        same_area = first // COUNTS_PER_BLOCK == last // COUNTS_PER_BLOCK
        return self._geometry.fixed_clusters <= first and same_area and first % COUNTS_PER_BLOCK > 0

    def reserve(self, count: int) -> int:
        """Returns the byte offset of ``count`` unused adjacent clusters; less than 2 GiB. Raises OSError EFBIG where
        the refcount table is full."""
        first = self._end
        area = (first + count - 1) // COUNTS_PER_BLOCK
        if area >= self._areas():
            first = refcount_block(area) + 1
            if first + count > self._geometry.most_host_clusters:
                message = "the image was resumed so often that its refcount table is full; copy the disk again"
                raise OSError(errno.EFBIG, message)
            self.retain(refcount_block(area), 1)
        self._end = first + count
        return first * CLUSTER

    def allocate(self, count: int) -> int:
        """``reserve``, with one reference to each of the clusters."""
        offset = self.reserve(count)
        self.retain(offset // CLUSTER, count)
        return offset

    def allocate_bytes(self, length: int) -> int:
        """Returns the byte offset of space for ``length`` compressed bytes, adjacent to the last ones where possible.
        The clusters that it touches get one more reference."""
        if self._packed + length > self._region_end:
            self._open_region()
        start = self._packed
        self._packed += length
        first = start // CLUSTER
        self.retain(first, (self._packed - 1) // CLUSTER - first + 1)
        return start

    def _open_region(self) -> None:
        start = self.reserve(REGION)
        if start != self._region_end:
            self._packed = start
        self._region_end = start + REGION * CLUSTER

    def retain(self, first: int, count: int) -> None:
        """Adds a reference to each of these clusters, which lie in one area."""
        self._add(first, count, 1)

    def release(self, first: int, count: int) -> None:
        """Removes a reference; clusters without any are freed."""
        for cluster in self._add(first, count, -1):
            self._file.discard(cluster * CLUSTER, CLUSTER)

    def count_of(self, cluster: int) -> int:
        """Returns the number of references to ``cluster``."""
        area, number = divmod(cluster, COUNTS_PER_BLOCK)
        page = self._counts.page(refcount_block(area) * CLUSTER)
        return int.from_bytes(page[number * 2 : number * 2 + 2], "big")

    def _add(self, first: int, count: int, step: int) -> list[int]:
        """Adds ``step`` to the counts; returns the clusters whose count is 0 now."""
        area, start = divmod(first, COUNTS_PER_BLOCK)
        offset = refcount_block(area) * CLUSTER
        counts = struct.Struct(f">{count}H")
        page = self._counts.page(offset)
        new = [value + step for value in counts.unpack_from(page, start * 2)]
        counts.pack_into(page, start * 2, *new)
        self._counts.changed(offset)
        return [first + index for index, value in enumerate(new) if value == 0]

    def trim(self) -> None:
        """Frees all clusters without a reference; the image ends behind the last one in use."""
        last_used = self._geometry.fixed_clusters - 1
        for first, count, used in self._runs():
            if used:
                last_used = first + count - 1
            else:
                self._file.discard(first * CLUSTER, min(count, self._end - first) * CLUSTER)
        self._end = last_used + 1
        self._file.truncate(self._end * CLUSTER)

    def _runs(self) -> Iterator[tuple[int, int, bool]]:
        """``(first, count, used)`` of runs of clusters up to the end."""
        for area in range(self._areas()):
            page = self._counts.page(refcount_block(area) * CLUSTER)
            for match in _RUNS_OF_ZERO.finditer(bytes(page)):
                first = area * COUNTS_PER_BLOCK + match.start() // 2
                if first < self._end:
                    yield first, (match.end() - match.start()) // 2, match["free"] is None

    def close(self) -> None:
        """Writes counts and refcount table; the file ends with the last allocated cluster."""
        if self._region_end == self._end * CLUSTER:
            self._end = align_up(self._packed, CLUSTER) // CLUSTER
        self._counts.flush()
        blocks = [refcount_block(area) * CLUSTER for area in range(self._areas())]
        table = struct.pack(f">{len(blocks)}Q", *blocks)
        self._file.pwrite([table], REFCOUNT_TABLE_OFFSET)
        self._file.truncate(self._end * CLUSTER)
