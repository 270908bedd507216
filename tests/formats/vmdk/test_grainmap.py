"""The sums that stand for lists of sectors."""

from __future__ import annotations

from hypersdk.formats.vmdk.grainmap import _SLOTS
from hypersdk.formats.vmdk.layout import ENTRIES_PER_TABLE


def test_every_entry_of_a_table_counts_with_a_number_of_its_own() -> None:
    """With one number for all, grains that changed places would leave the sum as it was."""
    assert len(set(_SLOTS)) == ENTRIES_PER_TABLE
    assert all(slot & 1 for slot in _SLOTS)
