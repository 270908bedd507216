"""The total of ``hyperctl watch`` is that of the daemon's queue."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

from hypersdk.cli.total import DaemonTotal, MachinesTotal, total_label, total_text
from hypersdk.client import Client
from hypersdk.model import ExportProgress, Phase
from hypersdk.units import GiB
from tests.support.apiserver import Api, beating
from tests.support.clock import Clock
from tests.support.waiting import eventually

RUNNING = ExportProgress(machine="web01", phase=Phase.TRANSFERRING, fraction=0.5)


def is_counted(api: Api, times: int) -> bool:
    """Whether the statistics were asked for so often."""
    text = api.client("metrics").get("/metrics").text
    counts = (line for line in text.splitlines() if "duration_seconds_count" in line and "/api/v1/statistics" in line)
    return sum(float(line.rpartition(" ")[2]) for line in counts) == times


def test_it_counts_all_jobs_and_is_asked_for_every_two_seconds(api: Api) -> None:
    for _ in range(3):
        api.add_job()
    clock = Clock()
    with beating(api.services), Client(api.url, token=api.tokens["viewer"], environ={}) as client:
        total = DaemonTotal(client, clock)
        for seconds, asked in ((0, 1), (1, 1), (1, 2)):
            clock.pass_(seconds)
            assert total_label(total([RUNNING, RUNNING])) == "0 of 3 done"
            eventually(partial(is_counted, api, asked))


def test_a_stopped_run_has_no_time_left() -> None:
    """What waits for its turn will not get it."""
    waiting = ExportProgress(machine="web02")
    running = replace(RUNNING, expected_bytes=GiB, elapsed_s=20.0, copy_s=20.0, eta_s=20.0, rate_bytes_s=5e7)
    stopped = threading.Event()
    total = MachinesTotal(stopped.is_set)
    assert total_text(total([running, waiting])).endswith(" left")
    stopped.set()
    assert not total_text(total([running, waiting])).endswith(" left")


def test_where_steps_follow_the_copies_no_time_is_left() -> None:
    """The copies of two machines take 40 s; how long their guests are converted is not known."""
    running = replace(RUNNING, expected_bytes=GiB, elapsed_s=20.0, copy_s=20.0, eta_s=20.0, rate_bytes_s=5e7)
    assert MachinesTotal()([running, running]).eta_s is not None
    assert MachinesTotal(timed=False)([running, running]).eta_s is None


def test_while_the_daemon_is_away_it_is_the_total_of_what_is_shown() -> None:
    done = replace(RUNNING, phase=Phase.DONE, fraction=1.0)
    with Client("http://127.0.0.1:9", token="hst_x", environ={}) as client:
        assert total_label(DaemonTotal(client)([RUNNING, done])) == "1 of 2 done"
