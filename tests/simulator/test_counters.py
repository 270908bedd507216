"""What the counters say is what happened, at the moment at which a client can look."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.units import MiB
from tests.support.simulatorclients import export, find, get, login, session_id, simulated

DISKS = tuple(DiskSpec(2 * MiB, allocated_bytes=2 * MiB) for _ in range(3))
MACHINES = (MachineSpec("one", DISKS), MachineSpec("two", DISKS, host=1))
FLAT = "/folder/one/one-flat.vmdk?dcPath=%2FAmsterdam&dsName=nvme-prod-01"
HOST_1, HOST_2 = "esx01.example.com", "esx02.example.com"


@pytest.fixture
def instance(server: Simulator, instance: Any) -> Any:
    server.reset_counters()
    return instance


def test_calls_and_connections(server: Simulator, instance: Any) -> None:
    before = server.counters.connections
    for _ in range(3):
        instance.CurrentTime()
    find(instance, server, "one")
    assert server.counters.calls == {"CurrentTime": 3}
    get(server, "/")
    assert server.counters.connections == before + 1


def test_bytes_and_openings(server: Simulator, instance: Any) -> None:
    with export(instance, server, "one") as lease:
        urls = [url.url for url in lease.info.deviceUrl]
        sizes = [len(get(server, url).body) for url in (urls[0], urls[0], urls[1], urls[3])]
    assert server.counters.stream_bytes == {"one:0": 2 * sizes[0], "one:1": sizes[2], "one:file-3.nvram": sizes[3]}
    assert server.counters.opened == {"one:0": 2, "one:1": 1, "one:file-3.nvram": 1}
    server.reset_counters()
    assert server.counters.stream_bytes == server.counters.opened == {}


def test_one_after_another_is_never_counted_as_two(server: Simulator, instance: Any) -> None:
    """A client opens the next stream the instant it has read the last byte of the one before."""
    with export(instance, server, "one") as lease:
        urls = [url.url for url in lease.info.deviceUrl]
        for n in range(60):
            assert get(server, urls[n % len(urls)]).status == 200
    assert server.counters.streams_peak == {HOST_1: 1}
    assert server.counters.streams_now[HOST_1] == 0


def test_peaks_per_host(server: Simulator) -> None:
    with simulated(machines=MACHINES, rate_bytes_s=4 * MiB) as slow, login(slow) as instance, ExitStack() as leases:
        urls = [
            url.url
            for name in ("one", "two")
            for url in leases.enter_context(export(instance, slow, name)).info.deviceUrl
            if url.disk
        ]
        with ThreadPoolExecutor(6) as pool:
            assert [answer.status for answer in pool.map(lambda url: get(slow, url), urls)] == [200] * 6
        assert slow.counters.streams_peak == {HOST_1: 3, HOST_2: 3}
        assert sum(slow.counters.streams_now.values()) == 0
        assert slow.counters.via_vcenter[HOST_1] == 0


def test_a_host_takes_so_many_streams_and_no_more() -> None:
    settings: dict[str, Any] = {"machines": MACHINES, "rate_bytes_s": 2 * MiB, "nfc_streams_per_host": 2}
    with simulated(**settings) as server, login(server) as instance, export(instance, server, "one") as lease:
        urls = [url.url for url in lease.info.deviceUrl if url.disk]
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda url: get(server, url), urls))
        assert sorted(answer.status for answer in answers) == [200, 200, 500]
        assert all(b"failed to allocate" in answer.body for answer in answers if answer.status == 500)
        assert get(server, urls[0]).status == 200


def test_ranges(server: Simulator, instance: Any) -> None:
    cookie = {"Cookie": f"vmware_soap_session={session_id(instance)}"}
    for asked in ("bytes=0-99", "bytes=1000000-", "bytes=-5"):
        get(server, FLAT, cookie | {"Range": asked})
    get(server, FLAT, cookie)
    want = [(0, 100), (1000000, 2 * MiB - 1000000), (2 * MiB - 5, 5), (0, 2 * MiB)]
    assert server.counters.ranges == {"[nvme-prod-01] one/one-flat.vmdk": want}
    assert server.counters.range_streams_peak == {HOST_1: 1}
    assert server.counters.streams_peak == {}


def test_reset_while_a_stream_is_open_keeps_it_open() -> None:
    with simulated(machines=MACHINES, rate_bytes_s=2 * MiB) as server, login(server) as instance:
        with export(instance, server, "one") as lease, ThreadPoolExecutor(1) as pool:
            running = pool.submit(get, server, lease.info.deviceUrl[0].url)
            while not server.counters.streams_now[HOST_1]:
                time.sleep(0.01)
            server.reset_counters()
            assert server.counters.streams_peak == {HOST_1: 1}
            assert running.result().status == 200
        assert server.counters.streams_now[HOST_1] == 0
