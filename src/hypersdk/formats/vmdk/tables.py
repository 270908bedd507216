"""The grain tables of an unfinished stream: a few in memory, the others in the file, and the directory of all of
them."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from hypersdk.formats.image import BLOCK, BlockFile
from hypersdk.formats.vmdk.layout import ENTRIES_PER_TABLE, TABLE_BYTES, TABLE_SPAN, entries_of
from hypersdk.units import SECTOR

_OPEN_TABLES: Final = 64
"""Tables in memory (2 KiB each): enough for blocks that come slightly out of order."""


class _Table:
    """One table in memory. ``missing`` counts the grains of the disk that it does not have yet."""

    __slots__ = ("changed", "entries", "missing")

    def __init__(self, entries: array[int], grains: int) -> None:
        self.entries = entries
        self.changed = False
        self.missing = grains - (ENTRIES_PER_TABLE - entries.count(0))


class GrainTables:
    """The sector of each grain; 0 for a grain that is not stored. Not thread-safe.

    A table leaves memory when it is full or was not used for long: ``due`` tells which must be written, ``stored`` that
    one was written. A table that changes later is read back and written again elsewhere; the directory has the newest
    copy.
    """

    def __init__(self, file: BlockFile, capacity: int) -> None:
        self._file = file
        self._grains = -(-capacity // BLOCK)
        self.directory = array("I", bytes(4 * -(-capacity // TABLE_SPAN)))
        """Sector of each table's newest copy in the file, 0 for none; a changed copy in memory goes before it."""
        self._open: OrderedDict[int, _Table] = OrderedDict()

    def sector(self, grain: int) -> int:
        """Returns the sector of ``grain``."""
        return self._table(grain // ENTRIES_PER_TABLE).entries[grain % ENTRIES_PER_TABLE]

    def put(self, grain: int, sector: int) -> None:
        """Sets the sector of ``grain``. Raises ValueError if it has one already."""
        table = self._table(grain // ENTRIES_PER_TABLE)
        if table.entries[grain % ENTRIES_PER_TABLE]:
            raise ValueError(f"block {grain} is in the image already")
        table.entries[grain % ENTRIES_PER_TABLE] = sector
        table.missing -= 1
        table.changed = True

    def due(self) -> list[int]:
        """Returns the tables to be written now: full ones, and the least recently used beyond what may stay in
        memory."""
        changed = [number for number, table in self._open.items() if table.changed]
        surplus = changed[: max(0, len(changed) - _OPEN_TABLES)]
        return [number for number in changed if not self._open[number].missing or number in surplus]

    def changed(self) -> list[int]:
        """Returns the numbers of all tables in memory that differ from their copy in the file."""
        return sorted(number for number, table in self._open.items() if table.changed)

    def trim(self) -> None:
        """Removes unchanged tables from memory once there are many."""
        if len(self._open) > 2 * _OPEN_TABLES:
            for number in [number for number, table in self._open.items() if not table.changed]:
                del self._open[number]

    def entries(self, number: int) -> array[int]:
        """Returns a copy of table ``number``; does not count as use."""
        if (table := self._open.get(number)) is not None:
            return table.entries[:]
        return self._read(number)

    def stored(self, number: int, sector: int) -> None:
        """Notes that table ``number``, as it is now, is in the file at ``sector``."""
        self.directory[number] = sector
        self._open.pop(number, None)

    def used(self) -> Iterator[int]:
        """Yields the numbers of the tables that exist, rising."""
        for number, sector in enumerate(self.directory):
            if sector or number in self._open:
                yield number

    def _table(self, number: int) -> _Table:
        table = self._open.get(number)
        if table is not None:
            self._open.move_to_end(number)
            return table
        grains = min(ENTRIES_PER_TABLE, self._grains - number * ENTRIES_PER_TABLE)
        table = self._open[number] = _Table(self._read(number), grains)
        return table

    def _read(self, number: int) -> array[int]:
        sector = self.directory[number]
        data = self._file.pread(TABLE_BYTES, sector * SECTOR) if sector else bytes(TABLE_BYTES)
        return entries_of(data)
