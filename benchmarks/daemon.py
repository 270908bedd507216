"""The daemon: jobs submitted a second against what the bare engine enqueues, answers beside copies, what it costs to be
there."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import Row, say
from hypersdk.simulator import DiskSpec, MachineSpec, Simulator, SimulatorConfig
from hypersdk.units import GiB, MiB
from tests.support.cli.hypervisord import children_of, daemon
from tests.support.databases import fresh_database, running_postgres
from tests.support.processes import memory_bytes, processor_s
from tests.support.vsphere import environ_of

JOBS = 1000
ASKED = 2000
IDLE_S = 30.0
SETTLE_S = 5.0
COPIES = 4
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of database."""

    name: str
    url: str | None


def daemons(folder: Path) -> Iterator[Row]:
    """All of it, on SQLite and on PostgreSQL side by side. The PostgreSQL server is durable, unlike that of the
    tests."""
    with running_postgres(durable=True) as server, fresh_database(server) as url, fresh_database(server) as bare:
        yield from _of(folder, Kind("SQLite", None), f"sqlite:///{folder / 'bare.sqlite3'}")
        yield from _of(folder, Kind("PostgreSQL", url), bare)


def _of(folder: Path, kind: Kind, bare_url: str) -> Iterator[Row]:
    place = folder / kind.name.lower()
    place.mkdir()
    config = place / "config.toml"
    lines = [
        "rate_per_minute = 1000000",
        "rate_per_address_per_minute = 1000000",
        f'export_roots = ["{place}/exports"]',
    ]
    config.write_text("\n".join([*lines, *([f'database_url = "{kind.url}"'] if kind.url else [])]) + "\n")
    with _simulator() as (environ, sent):
        with _client(place, environ, config, "--role", "api") as (client, _):
            say(f"submitting jobs, {kind.name}")
            yield from _submitting(kind, client, place, bare_url)
            idle = _answers(client, client.get("/jobs/query?all=true&limit=1").json()["jobs"][0]["definition"]["id"])
            _cancel_all(client)
        with _client(place, environ, config) as (client, pid):
            say(f"measuring idle processes for {IDLE_S:.0f} s")
            yield _idle(kind, pid)
            say(f"measuring answers while {COPIES} exports run")
            yield from _beside_copies(kind, client, place, idle, sent)


@contextmanager
def _simulator() -> Iterator[tuple[dict[str, str], Callable[[], int]]]:
    """In a process of its own that gives way to others, as a vCenter elsewhere would; the variables that name it, and
    how many bytes of disks it has sent."""
    here, there = multiprocessing.Pipe()

    def sent() -> int:
        here.send("sent")
        return int(here.recv())

    process = multiprocessing.get_context("spawn").Process(target=_simulate, args=(there,))
    process.start()
    try:
        yield here.recv(), sent
    finally:
        here.close()
        process.join(30)
        process.kill()


def _simulate(pipe: Connection) -> None:
    os.nice(10)
    machines = tuple(MachineSpec(f"bench-{n}", (DiskSpec(8 * GiB, allocated_bytes=4 * GiB),)) for n in range(COPIES))
    with Simulator(SimulatorConfig(machines=machines)) as simulator:
        pipe.send(environ_of(simulator))
        with suppress(EOFError):
            while pipe.recv():  # until the other end goes away
                with simulator.counters.lock:
                    pipe.send(simulator.counters.stream_bytes.total())


@contextmanager
def _client(place: Path, environ: Mapping[str, str], config: Path, *flags: str) -> Iterator[tuple[httpx.Client, int]]:
    """A daemon that is ready, a client with the administrator's token, and the supervisor's pid."""
    (place / "notify").unlink(missing_ok=True)
    environ = {**environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with daemon(place, "--config", config, *flags, env=environ) as (url, process):
        token = (place / "state" / "admin.token").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as client:
            yield client, process.pid


def _definition(place: Path, number: int, what: str) -> dict[str, object]:
    return {
        "vm_path": f"bench-{number % COPIES}",
        "output_path": str(place / "exports" / f"{what}-{number}"),
        "format": "qcow2",
    }


def _submitting(kind: Kind, client: httpx.Client, place: Path, bare_url: str) -> list[Row]:
    started = time.monotonic()
    answer = client.post("/jobs/submit", json=[_definition(place, number, "batch") for number in range(JOBS)])
    batch = time.monotonic() - started
    assert answer.json()["accepted"] == JOBS, answer.text[:500]
    started = time.monotonic()
    for number in range(JOBS):
        client.post("/jobs/submit", json=_definition(place, number, "single")).raise_for_status()
    single = time.monotonic() - started
    bare = float(
        subprocess.run(
            [sys.executable, "-c", BARE, bare_url, str(JOBS)], capture_output=True, text=True, check=True
        ).stdout
    )
    return [
        Row.rate(
            f"{kind.name}: {JOBS:,} jobs submitted in one batch, against enqueuing in the engine alone",
            JOBS / batch,
            JOBS / bare,
        ),
        Row.rate(f"{kind.name}: {JOBS:,} jobs submitted one by one, against the same", JOBS / single, JOBS / bare),
    ]


BARE = """
import sys, time
from dbos import DBOS, SetWorkflowID

@DBOS.workflow(name="nothing")
def nothing(number): return number

DBOS(config={"name": "bare", "system_database_url": sys.argv[1], "use_listen_notify": False, "log_level": "ERROR"})
DBOS.listen_queues(["other"])
DBOS.launch()
for name in ("other", "bare"):
    DBOS.register_queue(name, worker_concurrency=1)
DBOS.enqueue_workflow("bare", nothing, 0)
started = time.monotonic()
for number in range(int(sys.argv[2])):
    with SetWorkflowID(f"job/{number}"):
        DBOS.enqueue_workflow("bare", nothing, number)
print(time.monotonic() - started)
DBOS.destroy()
"""
"""The engine alone, in a process of its own that runs nothing of what it enqueues; its tables are made before."""


ASK = """
import sys, time, httpx
url, token, job, count, pause = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])
with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
    client.get(f"/jobs/{job}").raise_for_status()
    for _ in range(count):
        began = time.perf_counter()
        answer = client.get(f"/jobs/{job}")
        print(time.perf_counter() - began)
        answer.raise_for_status()
        time.sleep(pause)
"""
"""A client in a process of its own: what this one has to do must not count."""


def _answers(client: httpx.Client, job: str) -> list[float]:
    """Seconds of answers to GET of a job, one after another with a pause of 5 ms; sorted."""
    token = client.headers["Authorization"].partition(" ")[2]
    command = [sys.executable, "-c", ASK, str(client.base_url), token, job, str(ASKED), "0.005"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return sorted(float(line) for line in done.stdout.split())


def _beside_copies(
    kind: Kind, client: httpx.Client, place: Path, idle: Sequence[float], sent: Callable[[], int]
) -> list[Row]:
    wanted = [_definition(place, number, "copied") for number in range(COPIES)]
    jobs: list[str] = client.post("/jobs/submit", json=wanted).json()["job_ids"]

    def begun(job: str) -> bool:
        now = _job(client, job)
        assert now["status"] in ("pending", "running"), now
        return bool(now["progress"]["bytes_downloaded"] > 16 * MiB)

    _until(lambda: all(begun(job) for job in jobs))
    loaded = _answers(client, jobs[0])
    assert all(_job(client, job)["status"] == "running" for job in jobs), "the copies ended too early"
    started = time.monotonic()
    with _last_change(sent) as silent_since:
        _cancel_all(client)
        cancelled = time.monotonic() - started
    return [
        Row.latency(f"{kind.name}: GET of a job, no exports running", idle, 50),
        Row.latency(f"{kind.name}: GET of a job while {COPIES} exports run", loaded, 50),
        Row(
            f"{kind.name}: {COPIES} exports cancelled: time until the source sends its last byte",
            f"{(silent := max(0.0, silent_since[-1] - started)):.1f} s",
            "",
            silent,
            2,
            " s",
        ),
        Row(
            f"{kind.name}: {COPIES} exports cancelled: time until the last lease is released and the last file removed",
            f"{cancelled:.1f} s",
            "",
            cancelled,
            None,
            " s",
        ),
    ]


@contextmanager
def _last_change(number: Callable[[], int]) -> Iterator[list[float]]:
    """Looks at a number until the end of the block; the moments at which it was seen to have changed, on the monotonic
    clock."""
    changes = [time.monotonic()]
    ended = threading.Event()

    def look() -> None:
        last = number()
        while not ended.wait(LOOK_S):
            if (now := number()) != last:
                last = now
                changes.append(time.monotonic())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield changes
    finally:
        ended.set()
        thread.join()


def _idle(kind: Kind, pid: int) -> Row:
    time.sleep(SETTLE_S)
    children = children_of(pid)
    first, began = {one: processor_s(one) for one in children.values()}, time.monotonic()
    time.sleep(IDLE_S)
    seconds = time.monotonic() - began
    shares = {name: 100 * (processor_s(one) - first[one]) / seconds for name, one in children.items()}
    text = ", ".join(
        f"{name.partition(':')[0]} {share:.1f} %, {memory_bytes('VmRSS', children[name]) // MiB} MiB"
        for name, share in sorted(shares.items())
    )
    return Row(f"{kind.name}: idle, share of one core", text, "", sum(shares.values()), 3, " %")


def _job(client: httpx.Client, job: str) -> Any:
    return client.get(f"/jobs/{job}").json()


def _cancel_all(client: httpx.Client) -> None:
    """Nothing is left to run."""

    def open_jobs() -> list[str]:
        found = client.post("/jobs/query", json={"status": ["pending", "running"], "limit": 2 * JOBS + COPIES}).json()
        return [job["definition"]["id"] for job in found["jobs"]]

    client.post("/jobs/cancel", json={"job_ids": open_jobs()}).raise_for_status()
    _until(lambda: not open_jobs())


def _until(true: Any) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.2)
