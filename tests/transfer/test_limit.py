from __future__ import annotations

import threading
import time

import pytest

from hypersdk.errors import Cancelled
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.limit import CREDIT_S, BandwidthLimit
from hypersdk.units import KiB, MiB
from tests.support.clock import Clock
from tests.support.waiting import AT_ONCE_S


def test_bytes_take_the_time_they_cost() -> None:
    clock = Clock()
    limit = BandwidthLimit(10 * MiB, clock)
    assert limit.book(MiB) == pytest.approx(0.1)
    assert limit.book(MiB) == pytest.approx(0.2)
    clock.pass_(0.2)
    assert limit.book(MiB) == pytest.approx(0.1)


def test_idle_time_is_made_up_for_only_a_moment() -> None:
    clock = Clock()
    limit = BandwidthLimit(MiB, clock)
    clock.pass_(60)
    assert limit.book(MiB) == pytest.approx(1 - CREDIT_S)


def test_two_takers_together_get_the_rate_within_5_percent() -> None:
    clock = Clock()
    limit, began, awake = BandwidthLimit(8 * MiB, clock), clock(), [clock(), clock()]
    for _ in range(128):
        taker = awake.index(min(awake))
        clock.pass_(awake[taker] - clock())
        awake[taker] = clock() + limit.book(128 * KiB)
    assert 16 * MiB / (max(awake) - began) == pytest.approx(8 * MiB, rel=0.05)


def test_two_threads_together_never_exceed_the_rate_by_5_percent() -> None:
    limit = BandwidthLimit(8 * MiB)
    cancel = CancelToken()

    def take() -> None:
        for _ in range(64):
            limit.take(128 * KiB, cancel)

    takers = [threading.Thread(target=take) for _ in range(2)]
    started = time.monotonic()
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert 16 * MiB / (time.monotonic() - started) <= 8 * MiB * 1.05


def test_cancel_wakes_a_taker() -> None:
    limit = BandwidthLimit(1)
    cancel = CancelToken()
    threading.Timer(0.05, cancel.cancel, ["enough"]).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        limit.take(MiB, cancel)
    assert time.monotonic() - started < AT_ONCE_S


@pytest.mark.parametrize(("bytes_s", "step"), [(1, 16 * KiB), (10 * MiB, MiB), (10**12, 4 * MiB)])
def test_steps_are_a_tenth_of_a_second_within_bounds(bytes_s: int, step: int) -> None:
    assert BandwidthLimit(bytes_s).step_bytes == step


def test_no_limit_of_zero() -> None:
    with pytest.raises(ValueError, match="limit of 0"):
        BandwidthLimit(0)
