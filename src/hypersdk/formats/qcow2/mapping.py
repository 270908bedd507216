"""The mapping of guest to host clusters: the L1 table in memory, L2 tables as pages, every change on disk at once."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hypersdk.errors import IntegrityError, register
from hypersdk.formats.image import BlockFile, runs_of
from hypersdk.formats.qcow2.clusters import HostClusters
from hypersdk.formats.qcow2.layout import (
    CLUSTER,
    COMPRESSED,
    L2_ENTRIES,
    OFFSET_MASK,
    Geometry,
    entry_bytes,
    entry_span,
    is_ours,
    plain_entry,
)
from hypersdk.formats.qcow2.pages import PageCache
from hypersdk.remedies import Discard

PARTIAL_DAMAGED: Final = register(
    "partial_damaged",
    "The unfinished image was not created for this disk, or its tables are damaged.",
    Discard(),
)
_TABLE_PAGES: Final = 64  # 4 MiB of L2 tables: 32 GiB of the guest's disk
_NO_ENTRIES: Final = bytes(512)
_L1_ENTRY: Final = struct.Struct(">Q")


class GuestMap:
    """L1 and L2 tables. A change is on disk (handed to the operating system) before it is in memory. Not
    thread-safe."""

    def __init__(self, file: BlockFile, geometry: Geometry, clusters: HostClusters) -> None:
        self._file = file
        self._geometry = geometry
        self._clusters = clusters
        self._tables = array("Q", bytes(8 * geometry.l1_entries))
        self._pages = PageCache(file, _TABLE_PAGES)

    def replace(self, first_index: int, entries: Sequence[int]) -> list[int]:
        """Sets the entries of adjacent guest clusters; returns the entries (not 0) that they replace."""
        replaced: list[int] = []
        while entries:
            table_index, start = divmod(first_index, L2_ENTRIES)
            count = min(len(entries), L2_ENTRIES - start)
            replaced += self._replace_in(table_index, start, entries[:count])
            first_index, entries = first_index + count, entries[count:]
        return replaced

    def _replace_in(self, table_index: int, start: int, entries: Sequence[int]) -> list[int]:
        words = struct.Struct(f">{len(entries)}Q")
        data = words.pack(*entries)
        table = self._tables[table_index]
        if not table:
            self._tables[table_index] = self._new_table(table_index, data, start * 8)
            return []
        page = self._pages.page(table)
        old = [entry for entry in words.unpack_from(page, start * 8) if entry]
        self._file.pwrite([data], table + start * 8)
        page[start * 8 : start * 8 + len(data)] = data
        return old

    def entries(self, first_index: int, count: int) -> list[int]:
        """Returns the L2 entries of ``count`` adjacent guest clusters, 0 for those without one."""
        found: list[int] = []
        while len(found) < count:
            table_index, start = divmod(first_index + len(found), L2_ENTRIES)
            length = min(count - len(found), L2_ENTRIES - start)
            table = self._tables[table_index]
            found += _words(self._pages.page(table)[start * 8 : (start + length) * 8]) if table else [0] * length
        return found

    def _new_table(self, table_index: int, data: bytes, position: int) -> int:
        """Creates an L2 table with ``data`` at ``position``: its cluster was never used before and reads as zeros."""
        offset = self._clusters.allocate(1)
        self._file.pwrite([data], offset + position)
        self._set_table(table_index, plain_entry(offset))
        return offset

    def _set_table(self, table_index: int, entry: int) -> None:
        """Writes one L1 entry."""
        self._file.pwrite([_L1_ENTRY.pack(entry)], self._geometry.l1_offset + table_index * _L1_ENTRY.size)

    def load(self, trusted: Callable[[int], bool]) -> None:
        """Reads the tables of an image of another run; counts the clusters that they refer to and clears entries that
        are not ``trusted`` or point beyond the end of the file.

        Raises IntegrityError ``partial_damaged`` when a table or a trusted entry points to the fixed part of the image,
        or two L1 entries to one table.
        """
        length = len(self._tables) * _L1_ENTRY.size
        size = self._file.size()
        data = self._file.pread(length, self._geometry.l1_offset)
        data = data[: len(data) // _L1_ENTRY.size * _L1_ENTRY.size].ljust(length, b"\0")
        for table_index, entry in enumerate(_words(data)):
            if not entry:
                continue
            if self._clusters.is_behind_end(entry & OFFSET_MASK):
                # A power cut: the entry reached the disk before the end of the file did. No checkpoint covers what such
                # a table mapped.
                self._set_table(table_index, 0)
                continue
            self._claim_table(entry)
            self._tables[table_index] = entry & OFFSET_MASK
            self._load_table(table_index, trusted, size)

    def _load_table(self, table_index: int, trusted: Callable[[int], bool], size: int) -> None:
        offset = self._tables[table_index]
        whole = (size - offset) // _L1_ENTRY.size  # of L2 entries, which are as long: the file may end within one
        page = self._pages.page(offset)
        cleared = False
        first = table_index * L2_ENTRIES
        for index, entry in _entries(page):
            on_disk = first + index < self._geometry.guest_clusters
            if on_disk and index < whole and trusted(first + index) and self._is_usable(entry):
                self._clusters.retain(*entry_span(entry))
            else:
                page[index * 8 : index * 8 + 8] = bytes(8)
                cleared = True
        if cleared:
            self._file.pwrite([page], offset)

    def _claim_table(self, entry: int) -> None:
        """Counts the table of an L1 entry. Raises IntegrityError for one that another entry points to."""
        self._check(entry)
        cluster, _ = entry_span(entry)
        if entry != plain_entry(cluster * CLUSTER) or self._clusters.count_of(cluster):
            raise IntegrityError(f"cluster {cluster} of the unfinished image cannot be a table", code=PARTIAL_DAMAGED)
        self._clusters.retain(cluster, 1)

    def _is_usable(self, entry: int) -> bool:
        """Whether ``entry`` lies inside the image and has no flag that this program never sets: other programs would
        read it differently."""
        self._check(entry)
        return is_ours(entry) and not self._clusters.is_behind_end(entry_bytes(entry)[1] - 1)

    def _check(self, entry: int) -> None:
        span = entry_span(entry)
        misaligned = not entry & COMPRESSED and (entry & OFFSET_MASK) % CLUSTER
        if misaligned or not self._clusters.can_be_data(*span):
            raise IntegrityError(f"a table of the unfinished image points to cluster {span[0]}", code=PARTIAL_DAMAGED)

    def stored(self) -> Iterator[range]:
        """Returns runs of guest clusters that have an entry, rising."""
        return runs_of(self._mapped())

    def _mapped(self) -> Iterator[int]:
        for table_index, offset in enumerate(self._tables):
            if offset:
                first = table_index * L2_ENTRIES
                yield from (first + index for index, _ in _entries(self._pages.page(offset)))


def _entries(page: bytearray) -> Iterator[tuple[int, int]]:
    """Yields ``(index, entry)`` of the entries that are not 0. Tables of sparse disks are nearly empty, so zeros are
    skipped in large steps."""
    for start in range(0, CLUSTER, len(_NO_ENTRIES)):
        part = page[start : start + len(_NO_ENTRIES)]
        if part != _NO_ENTRIES:
            for index, entry in enumerate(_words(part), start // 8):
                if entry:
                    yield index, entry


def _words(data: bytes | bytearray) -> array[int]:
    """The big-endian 64-bit numbers in ``data``, as a copy."""
    words = array("Q", bytes(data))
    if sys.byteorder == "little":
        words.byteswap()
    return words
