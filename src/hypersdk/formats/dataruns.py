"""Where a file has data and where holes, to be asked about many ranges: one look at the file answers for all of
them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable


class DataRuns:
    """The data of a file at one moment: 16 bytes for each run between two holes."""

    def __init__(self, runs: Iterable[range]) -> None:
        """``runs`` rise, as ``BlockFile.data_runs`` has them."""
        self._starts = array("Q")
        self._ends = array("Q")
        for run in runs:
            self._starts.append(run.start)
            self._ends.append(run.stop)

    def cover(self, start: int, end: int) -> bool:
        """Whether ``start..end`` is data from the first byte to the last."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and end <= self._ends[at]
