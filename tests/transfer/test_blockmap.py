from __future__ import annotations

import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hypersdk.transfer.blockmap import BlockMap


@given(data=st.data())
def test_behaves_like_a_set(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 200))
    blockmap, expected = BlockMap(blocks), set[int]()
    for _ in range(data.draw(st.integers(0, 6))):
        low = data.draw(st.integers(0, blocks))
        high = data.draw(st.integers(low, blocks))
        blockmap.add_run(low, high)
        expected |= set(range(low, high))
    for index in data.draw(st.lists(st.integers(0, blocks - 1), max_size=10)):
        assert blockmap.add(index) == (index not in expected)
        expected.add(index)
    low = data.draw(st.integers(0, blocks))
    high = data.draw(st.integers(low, blocks))
    for present in (True, False):
        runs = list(blockmap.runs(low, high, present=present))
        assert [i for run in runs for i in run] == [i for i in range(low, high) if (i in expected) == present]
        assert all(before.stop < after.start for before, after in pairwise(runs))
    assert blockmap.count == len(expected)


def test_terabytes_are_walked_in_no_time() -> None:
    blockmap = BlockMap(64 << 20)
    started = time.process_time()
    blockmap.add_run(5, (64 << 20) - 5)
    assert list(blockmap.runs(0, 64 << 20, present=True)) == [range(5, (64 << 20) - 5)]
    assert time.process_time() - started < 2
