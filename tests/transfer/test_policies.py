"""Policies of a copy: what stands between the blocks and their record."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hypersdk.errors import Cancelled
from hypersdk.formats.image import BLOCK
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import ZERO_BLOCK
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.policies import Policies
from hypersdk.transfer.progress import Meter


def test_blocks_of_zeros_are_not_recorded_once_nothing_may_be_written() -> None:
    """They need no write to the image, so nothing else would stop a process that lost its job."""
    lost = [False]

    def guard() -> None:
        if lost[0]:
            raise Cancelled("another process has it")

    ledger = BlockLedger.unnamed(4 * BLOCK)
    record = Policies(guard=guard).record(ledger, CancelToken(), Meter("disk", "out.raw", 4 * BLOCK))
    zeros: Sequence[bytes] = [ZERO_BLOCK]
    record(0, zeros)
    lost[0] = True
    with pytest.raises(Cancelled):
        record(1, zeros)
    assert ledger.recorded == 1
    ledger.close()
