"""Records which grains of a stream came, and whether they are where the tables say, in little memory."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from operator import mul
from typing import Final

from hypersdk.formats.vmdk.layout import ENTRIES_PER_TABLE, ZEROED_GRAIN, bad_format

_GROUP_TABLES: Final = 16
_GROUP_BITS: Final = 13
_GROUP_GRAINS: Final = 1 << _GROUP_BITS
_MASK: Final = 2**64 - 1
_DRAW: Final = random.Random(0x564D444B)  # noqa: S311
_SLOTS: Final = tuple(_DRAW.getrandbits(64) | 1 for _ in range(ENTRIES_PER_TABLE))
"""A different odd number for each entry of a table: a changed sector, or a move to another slot, changes the sum (with
a probability of 1 - 2**-64)."""


def table_sum(entries: array[int], *, zeroed_allowed: bool) -> int:
    """Returns the sum that ``GrainMap`` has if the grains came at the sectors that a table names."""
    total: int = sum(map(mul, entries, _SLOTS))
    if zeroed_allowed:
        total -= sum(slot for entry, slot in zip(entries, _SLOTS, strict=True) if entry == ZEROED_GRAIN)
    return total & _MASK


class GrainMap:
    """One bit for each grain and one 64-bit sum for each table, in groups of 512 MiB of guest disk that are created
    when needed.

    The sum replaces a list of sectors: 1.2 KiB a group instead of 32 KiB. For tables that come first, ``expect``
    subtracts the sum, and the grains add it again; tables that come last are compared with ``sum_of``.
    """

    def __init__(self) -> None:
        self._groups: dict[int, tuple[bytearray, array[int]]] = {}
        self.count = 0
        """Number of grains that came."""

    def arrive(self, index: int, sector: int) -> None:
        """Adds grain ``index``, whose marker is at ``sector``. Raises IntegrityError ``bad_format`` when it came
        before."""
        group = self._groups.get(index >> _GROUP_BITS)
        if group is None:
            group = self._group(index >> _GROUP_BITS)
        bits, sums = group
        byte = (index & _GROUP_GRAINS - 1) >> 3
        bit = 1 << (index & 7)
        if bits[byte] & bit:
            raise bad_format(f"grain {index} is there twice", sector=sector)
        bits[byte] |= bit
        table = index >> 9 & _GROUP_TABLES - 1
        sums[table] = sums[table] + sector * _SLOTS[index & ENTRIES_PER_TABLE - 1] & _MASK
        self.count += 1

    def expect(self, table: int, expected_sum: int) -> None:
        """Adds a table that comes before the grains: its sum is 0 once all its grains have come."""
        if expected_sum:
            sums = self._group(table // _GROUP_TABLES)[1]
            sums[table % _GROUP_TABLES] = sums[table % _GROUP_TABLES] - expected_sum & _MASK

    def sum_of(self, table: int) -> int:
        """Returns the sum over the grains of ``table`` that came, less what was expected."""
        group = self._groups.get(table // _GROUP_TABLES)
        return group[1][table % _GROUP_TABLES] if group else 0

    def mismatched(self) -> Iterator[int]:
        """Yields tables whose grains are not (yet) what was expected."""
        for group, (_, sums) in self._groups.items():
            for position, rest in enumerate(sums):
                if rest:
                    yield group * _GROUP_TABLES + position

    def _group(self, number: int) -> tuple[bytearray, array[int]]:
        return self._groups.setdefault(number, (bytearray(_GROUP_GRAINS // 8), array("Q", bytes(8 * _GROUP_TABLES))))
