"""A set of blocks of one disk: one bit for each 64 KiB, so 8 MiB for 4 TiB, whatever is in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Self

_NOT_FULL: Final = re.compile(rb"[^\xff]")
_NOT_EMPTY: Final = re.compile(rb"[^\x00]")


class BlockMap:
    """Block indexes from 0 to ``blocks``. Adding is not locked; reading while another thread adds is harmless."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.count = 0
        """How many are in the set."""
        self._bits = bytearray(-(-blocks // 8))

    @classmethod
    def of(cls, blocks: int, runs: Iterable[range]) -> Self:
        """The blocks of ``runs``."""
        found = cls(blocks)
        for run in runs:
            found.add_run(run.start, run.stop)
        return found

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] >> (index & 7) & 1)

    def add(self, index: int) -> bool:
        """Adds ``index``; returns False when it was there."""
        if index in self:
            return False
        self._bits[index >> 3] |= 1 << (index & 7)
        self.count += 1
        return True

    def remove(self, index: int) -> bool:
        """Removes ``index``; returns False when it was not there."""
        if index not in self:
            return False
        self._bits[index >> 3] &= ~(1 << (index & 7))
        self.count -= 1
        return True

    def grow(self, blocks: int) -> None:
        """Makes room for indexes up to ``blocks``; never fewer than there are."""
        self.blocks = max(self.blocks, blocks)
        self._bits.extend(bytes(max(0, -(-self.blocks // 8) - len(self._bits))))

    def add_run(self, low: int, high: int) -> None:
        """Adds ``low..high``, whole bytes at a time."""
        for run in list(self.runs(low, high, present=False)):
            first_byte, last_byte = -(-run.start // 8), run.stop // 8
            if first_byte < last_byte:
                self._bits[first_byte:last_byte] = b"\xff" * (last_byte - first_byte)
                self.count += (last_byte - first_byte) * 8
                edges = (range(run.start, first_byte * 8), range(last_byte * 8, run.stop))
            else:
                edges = (run, range(0))
            for edge in edges:
                for index in edge:
                    self.add(index)

    def runs(self, low: int, high: int, *, present: bool) -> Iterator[range]:
        """Returns the runs within ``low..high`` of blocks that are (not) in the set, rising. Long runs are passed whole
        bytes at a time."""
        position = low
        while position < high:
            start = self._seek(position, high, present=present)
            position = self._seek(start, high, present=not present)
            if start < position:
                yield range(start, position)

    def _seek(self, position: int, high: int, *, present: bool) -> int:
        """The first block from ``position`` on that is (not) in the set, or ``high``."""
        other = _NOT_EMPTY if present else _NOT_FULL
        while position < high:
            if position & 7 == 0:
                found = other.search(self._bits, position >> 3, -(-high // 8))
                if found is None:
                    return high
                position = max(position, found.start() << 3)
            if position >= high or (position in self) == present:
                break
            position += 1
        return min(position, high)


def cut(runs: Iterable[range], size: int) -> Iterator[range]:
    """Cuts ``runs`` into pieces of at most ``size`` blocks, which end at its multiples."""
    for run in runs:
        start = run.start
        while start < run.stop:
            stop = min(run.stop, (start // size + 1) * size)
            yield range(start, stop)
            start = stop
