"""Turns are taken in the order in which they were asked for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hypersdk.errors import Cancelled
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.turns import Turns

TIMEOUT_S = 60


def nothing() -> None:
    """Called by who waits."""


def test_who_asked_first_comes_first_and_one_at_a_time() -> None:
    turns, seen, inside = Turns(1), [], []
    asked = [threading.Event() for _ in range(8)]

    def take(number: int) -> None:
        with turns.taken(CancelToken(), asked[number].set):
            inside.append(number)
            assert len(inside) == 1
            seen.append(number)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        with turns.taken(CancelToken(), nothing):
            futures = []
            for number, waits in enumerate(asked):
                futures.append(pool.submit(take, number))
                assert waits.wait(TIMEOUT_S)
        for future in futures:
            future.result(TIMEOUT_S)
    assert seen == list(range(8))


def test_who_stops_waiting_takes_no_turn() -> None:
    turns, stopped = Turns(1), CancelToken()
    with (
        turns.taken(CancelToken(), nothing),
        pytest.raises(Cancelled),
        turns.taken(stopped, lambda: stopped.cancel("enough")),
    ):
        pytest.fail("it had no turn")
    with turns.taken(CancelToken(), lambda: pytest.fail("the turn was not given back")):
        pass
