"""The daemon: jobs submitted a second against what the bare engine enqueues, answers beside copies, what it costs to be there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import Row
from hypersdk.simulator import DiskSpec, MachineSpec, Simulator, SimulatorConfig
from hypersdk.units import GiB, MiB
from tests.cli.hypervisord.running import children_of, daemon, environ_of
from tests.support.databases import fresh_database, running_postgres

JOBS = 1000
ASKED = 2000
IDLE_S = 60.0
SETTLE_S = 5.0
COPIES = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of database."""

    name: str
    url: str | None


def daemons(folder: Path) -> list[Row]:
    """All of it, on SQLite and on PostgreSQL side by side. The PostgreSQL server is durable, unlike that of the tests."""
    rows: list[Row] = []
    with running_postgres(durable=True) as server, fresh_database(server) as url, fresh_database(server) as bare:
        rows += _of(folder, Kind("SQLite", None), f"sqlite:///{folder / 'bare.sqlite3'}")
        rows += _of(folder, Kind("PostgreSQL", url), bare)
    return rows


def _of(folder: Path, kind: Kind, bare_url: str) -> list[Row]:
    machines = tuple(MachineSpec(f"vm-{n}", (DiskSpec(32 * GiB, allocated_bytes=16 * GiB),)) for n in range(COPIES))
    place = folder / kind.name.lower()
    place.mkdir()
    config = place / "config.toml"
    lines = [
        "rate_per_minute = 1000000",
        "rate_per_address_per_minute = 1000000",
        f'export_roots = ["{place}/exports"]',
    ]
    config.write_text("\n".join([*lines, *([f'database_url = "{kind.url}"'] if kind.url else [])]) + "\n")
    with Simulator(SimulatorConfig(machines=machines)) as simulator:
        environ = environ_of(simulator)
        with _client(place, environ, config, "--role", "api") as (client, _):
            rows = _submitting(kind, client, place, bare_url)
            idle = _answers(client, client.get("/jobs/query?all=true&limit=1").json()["jobs"][0]["definition"]["id"])
            _cancel_all(client)
        with _client(place, environ, config) as (client, pid):
            rows.append(_idle(kind, pid))
            rows += _beside_copies(kind, client, place, idle)
    return rows


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
        "vm_path": f"vm-{number % COPIES}",
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
            f"{kind.name}: {JOBS:,} jobs in one batch, against enqueuing in the bare engine", JOBS / batch, JOBS / bare
        ),
        Row.rate(f"{kind.name}: {JOBS:,} jobs one by one, against the same", JOBS / single, JOBS / bare),
    ]


BARE = """
import sys, time
from dbos import DBOSClient
client = DBOSClient(system_database_url=sys.argv[1])
options = {"workflow_name": "attempt", "queue_name": "bench", "app_version": "1"}
client.enqueue(options, "warm", 0)
count = int(sys.argv[2])
started = time.monotonic()
for number in range(count):
    client.enqueue(options, "job", number)
print(time.monotonic() - started)
"""
"""The engine's own client, in a process of its own; its tables are made by the line that is not measured."""


def _answers(client: httpx.Client, job: str, seconds: float = 0.0) -> list[float]:
    """Seconds of answers to GET of a job, one after another, at most one in 5 ms; sorted."""
    taken: list[float] = []
    while len(taken) < ASKED:
        began = time.perf_counter()
        client.get(f"/jobs/{job}").raise_for_status()
        taken.append(time.perf_counter() - began)
        time.sleep(seconds)
    return sorted(taken)


def _beside_copies(kind: Kind, client: httpx.Client, place: Path, idle: Sequence[float]) -> list[Row]:
    wanted = [_definition(place, number, "copied") for number in range(COPIES)]
    jobs: list[str] = client.post("/jobs/submit", json=wanted).json()["job_ids"]
    _until(lambda: all(_job(client, job)["progress"]["bytes_downloaded"] > 64 * MiB for job in jobs))
    loaded = _answers(client, jobs[0], 0.005)
    assert all(_job(client, job)["status"] == "running" for job in jobs), "the copies ended too early"
    _cancel_all(client)
    return [
        Row.latency(f"{kind.name}: GET of a job, nothing running", idle, 50),
        Row.latency(f"{kind.name}: GET of a job beside {COPIES} exports", loaded, 50),
    ]


def _idle(kind: Kind, pid: int) -> Row:
    time.sleep(SETTLE_S)
    children = children_of(pid)
    first, began = {one: _cpu_s(one) for one in children.values()}, time.monotonic()
    time.sleep(IDLE_S)
    seconds = time.monotonic() - began
    shares = {name: 100 * (_cpu_s(one) - first[one]) / seconds for name, one in children.items()}
    told = ", ".join(
        f"{name.partition(':')[0]} {share:.1f} %, {_rss(children[name])} MiB" for name, share in sorted(shares.items())
    )
    return Row(f"{kind.name}: idle, of one core", told, "", sum(shares.values()), 3, " %")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


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
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.2)
