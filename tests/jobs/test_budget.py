"""Streams of an ESXi host, shared by workers that do not know of each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from hypersdk.errors import Cancelled
from hypersdk.jobs.budget import EXPIRES_S, SharedBudget
from hypersdk.jobs.heartbeat import Heartbeat, declare_dead
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.tables import nfc_hosts, nfc_streams
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.progress import Waiting, unseen

SITE = "vcenter.example.com:443"
HOST = "esx1.example.com"


def budget(database: Database, worker: str, *, per_host: int = 4, per_vcenter: int = 40) -> SharedBudget:
    return SharedBudget(database, worker, SITE, per_host, per_vcenter)


def later(database: Database, seconds: float) -> None:
    """As if so much time had passed on the database's clock."""
    with database.write() as connection:
        connection.execute(sa.update(nfc_streams).values(expires=nfc_streams.c.expires - seconds))
        connection.execute(
            sa.update(nfc_hosts).values(
                quiet_since=nfc_hosts.c.quiet_since - seconds, refused_at=nfc_hosts.c.refused_at - seconds
            )
        )


def hold(stack: ExitStack, one: SharedBudget, count: int, host: str = HOST) -> None:
    for _ in range(count):
        stack.enter_context(one.stream(host, CancelToken()))


class WaitError(Exception):
    """It would have had to wait."""


def _no_waiting(_why: str) -> Waiting:
    raise WaitError


def full(one: SharedBudget, host: str = HOST) -> bool:
    try:
        with one.stream(host, CancelToken(), _no_waiting):  # type: ignore[arg-type]
            return False
    except WaitError:
        return True


def test_workers_share_what_a_host_gives_and_what_a_vcenter_gives(database: Database) -> None:
    one, two = budget(database, "w1", per_vcenter=6), budget(database, "w2", per_vcenter=6)
    with ExitStack() as stack:
        hold(stack, one, 3)
        hold(stack, two, 1)
        assert full(one)
        assert full(two)
        hold(stack, two, 2, "esx2.example.com")
        assert full(one, "esx2.example.com")
    assert not full(one)
    assert one.use(HOST).running == 0


def test_many_at_once_never_have_more_than_allowed(database: Database) -> None:
    """The first look at a host, by all of them at the same moment, is no error either."""
    lock, running, peak = threading.Lock(), [0], [0]

    def work(one: SharedBudget) -> None:
        for _ in range(4):
            with one.stream(HOST, CancelToken()):
                with lock:
                    running[0] += 1
                    peak[0] = max(peak[0], running[0])
                with lock:
                    running[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [budget(database, f"w{number % 4}", per_host=3) for number in range(8)]))
    assert 1 <= peak[0] <= 3


def test_a_host_that_is_used_up_gives_half_at_once_to_all_and_more_by_the_minute(database: Database) -> None:
    one, two = budget(database, "w1", per_host=8), budget(database, "w2", per_host=8)
    with ExitStack() as stack:
        hold(stack, one, 3)
        hold(stack, two, 3)
        later(database, 10)
        one.exhausted(HOST)
        two.exhausted(HOST)  # streams that fail together are one refusal
        assert two.use(HOST).allowed == 3
        assert full(two)
        later(database, 10)
        two.exhausted(HOST)
        assert one.use(HOST).allowed == 1
    later(database, 125)
    assert one.use(HOST).allowed == 3
    later(database, 3600)
    assert two.use(HOST).allowed == 8


def test_the_streams_of_a_worker_that_is_gone_are_free_again_and_those_of_others_stay(database: Database) -> None:
    gone, living = budget(database, "w1", per_host=2), budget(database, "w2", per_host=2)
    with ExitStack() as stack:
        hold(stack, gone, 1)
        hold(stack, living, 1)
        later(database, EXPIRES_S - 5)
        living.renew()
        later(database, 10)
        assert living.use(HOST).running == 1
        assert not full(living)
        later(database, EXPIRES_S - 20)
        assert living.use(HOST).running == 1


@pytest.mark.parametrize("how", ["declared", "started again"])
def test_nobody_waits_for_the_streams_of_a_dead_worker(database: Database, how: str) -> None:
    with ExitStack() as stack:
        hold(stack, budget(database, "w1", per_host=2), 2)
        if how == "declared":
            with Heartbeat(database, "w1", [], beat_s=3600) as beating:
                hold(stack, budget(database, "w1", per_host=9), 2, "esx2.example.com")
                assert declare_dead(database, take_over_s=-1) == ["w1"]
                beating.beat()
        else:
            stack.enter_context(Heartbeat(database, "w1", [], beat_s=3600))
        other = budget(database, "w2", per_host=2)
        assert other.use(HOST).running == 0
        assert not full(other)


def test_a_stream_that_ends_in_an_outage_of_the_database_is_free_as_soon_as_that_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the attempt that goes on waits for the stream of the one that was cut short, a minute and a half long."""
    one, other = budget(database, "w1", per_host=1), budget(database, "w2", per_host=1)
    one.renew()
    stream = ExitStack()
    hold(stream, one, 1)
    with _away(monkeypatch, database):
        stream.close()
    assert full(one), "the database still has it"
    with _away(monkeypatch, database), pytest.raises(DatabaseError):
        one.renew()
    assert full(other)
    one.renew()
    assert not full(one)
    assert not full(other)


@contextmanager
def _away(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[None]:
    """Nothing can be written within the block."""

    def full_disk() -> Any:
        raise DatabaseError("full", code="database_full")

    write = database.write
    monkeypatch.setattr(database, "write", full_disk)
    try:
        yield
    finally:
        monkeypatch.setattr(database, "write", write)


def test_a_cancel_ends_the_waiting(database: Database) -> None:
    one, cancel = budget(database, "w1", per_host=1), CancelToken()
    with ExitStack() as stack:
        hold(stack, one, 1)
        timer = threading.Timer(0.2, cancel.cancel, ["enough"])
        timer.start()
        with pytest.raises(Cancelled), one.stream(HOST, cancel, unseen):
            pass
        timer.join()
    assert one.use(HOST).running == 0
