"""A cache for tables: pages of one cluster, of which the least recently used are written and evicted."""

from __future__ import annotations

from collections import OrderedDict

from hypersdk.formats.image import BlockFile
from hypersdk.formats.qcow2.layout import CLUSTER


class PageCache:
    """At most ``limit`` clusters of ``file`` in memory, by their byte offset. Not thread-safe: the writer has the
    lock."""

    def __init__(self, file: BlockFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._pages: OrderedDict[int, bytearray] = OrderedDict()
        self._changed: set[int] = set()

    def page(self, offset: int) -> bytearray:
        """Returns the cluster at ``offset``, with zeros beyond the end of the file. Valid until the next call."""
        page = self._pages.get(offset)
        if page is not None:
            self._pages.move_to_end(offset)
            return page
        while len(self._pages) >= self._limit:
            self._evict_oldest()
        page = bytearray(self._file.pread(CLUSTER, offset).ljust(CLUSTER, b"\0"))
        self._pages[offset] = page
        return page

    def changed(self, offset: int) -> None:
        """Marks the page at ``offset`` as changed: it is written before it is evicted."""
        self._changed.add(offset)

    def flush(self) -> None:
        """Writes all changed pages, in the order of the file."""
        for offset in sorted(self._changed):
            self._write(offset)

    def _evict_oldest(self) -> None:
        oldest = next(iter(self._pages))
        if oldest in self._changed:
            self._write(oldest)
        del self._pages[oldest]

    def _write(self, offset: int) -> None:
        self._file.pwrite([self._pages[offset]], offset)
        self._changed.remove(offset)
