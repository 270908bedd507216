from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from hypersdk.errors import Cancelled
from hypersdk.transfer.budget import SETTLE_S, StreamBudget
from hypersdk.transfer.cancel import CancelToken
from tests.support.clock import Clock

HOST = "esx1.example.com"


def refused(budget: StreamBudget, host: str) -> bool:
    """Whether a stream asked for now has to wait."""
    cancel = CancelToken()
    threading.Timer(0.05, cancel.cancel, ["waited"]).start()
    try:
        with budget.stream(host, cancel):
            return False
    except Cancelled:
        return True


def test_no_more_than_allowed_per_host_and_each_host_has_its_own() -> None:
    budget = StreamBudget(per_host=2)
    with ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(budget.stream(HOST, CancelToken()))
        assert refused(budget, HOST)
        assert not refused(budget, "esx2.example.com")
        assert budget.use(HOST).running == 2
    assert not refused(budget, HOST)
    assert budget.use(HOST).running == 0


def test_no_more_than_allowed_in_all() -> None:
    budget = StreamBudget(per_host=2, per_vcenter=3)
    with ExitStack() as streams:
        for host in ("a", "a", "b"):
            streams.enter_context(budget.stream(host, CancelToken()))
        assert refused(budget, "b")


def test_a_crowd_never_passes_the_budget_and_all_get_through() -> None:
    budget = StreamBudget(per_host=3)
    done = []

    def run() -> None:
        with budget.stream(HOST, CancelToken()):
            time.sleep(0.005)
            done.append(budget.use(HOST).running)

    crowd = [threading.Thread(target=run) for _ in range(24)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert len(done) == 24
    assert max(done) == 3


def test_an_exhausted_host_gets_half_and_grows_by_one_each_quiet_minute() -> None:
    clock = Clock()
    budget = StreamBudget(per_host=8, clock=clock)
    with ExitStack() as streams:
        for _ in range(8):
            streams.enter_context(budget.stream(HOST, CancelToken()))
        budget.exhausted(HOST)
    assert budget.use(HOST).allowed == 4
    assert not refused(budget, HOST)
    clock.pass_(59)
    assert not refused(budget, HOST)
    assert budget.use(HOST).allowed == 4
    clock.pass_(1)
    assert not refused(budget, HOST)
    assert budget.use(HOST).allowed == 5
    clock.pass_(3600)
    assert not refused(budget, HOST)
    assert budget.use(HOST).allowed == 8


def test_halving_counts_from_what_was_running_and_one_is_always_left() -> None:
    clock = Clock()
    budget = StreamBudget(per_host=8, clock=clock)
    with ExitStack() as streams:
        for _ in range(4):
            streams.enter_context(budget.stream(HOST, CancelToken()))
        for allowed in (2, 1, 1):
            budget.exhausted(HOST)
            assert budget.use(HOST).allowed == allowed
            clock.pass_(SETTLE_S)
    assert not refused(budget, HOST)


def test_streams_that_fail_together_halve_once() -> None:
    budget = StreamBudget(per_host=8, clock=Clock())
    with ExitStack() as streams:
        for _ in range(8):
            streams.enter_context(budget.stream(HOST, CancelToken()))
        for _ in range(5):
            budget.exhausted(HOST)
    assert budget.use(HOST).allowed == 4


def test_the_wait_is_shown() -> None:
    notes: list[str] = []

    class View:
        def __init__(self, note: str) -> None:
            notes.append(note)

        def __enter__(self) -> None:
            notes.append("begins")

        def __exit__(self, *_: object) -> None:
            notes.append("ends")

    budget = StreamBudget(per_host=1)
    cancel = CancelToken()
    with budget.stream(HOST, CancelToken(), View):
        assert notes == []
        threading.Timer(0.05, cancel.cancel, ["enough"]).start()
        with pytest.raises(Cancelled), budget.stream(HOST, cancel, View):
            pytest.fail("there was no room")
    assert notes == [f"waiting for a free stream on {HOST}", "begins", "ends"]


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_an_empty_budget_is_a_mistake(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="budget"):
        StreamBudget(*sizes)
