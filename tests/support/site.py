"""A site for tests of the daemon: a simulator in this process, a database, and workers in separate processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.api.context import open_services
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.settings import DaemonSettings, load_settings
from hypersdk.jobs.states import ENDED, JobState
from hypersdk.jobs.store import Filter
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.state.tables import runs
from hypersdk.units import MiB
from tests.support.exportchecks import assert_finished, assert_holds, content_in_manifest
from tests.support.vsphere import environ_of
from tests.support.waiting import eventually

WAIT_S = 90.0
DISKS: Final = (DiskSpec(24 * MiB, allocated_bytes=16 * MiB), DiskSpec(16 * MiB, allocated_bytes=12 * MiB))
SMALL: Final = DiskSpec(4 * MiB, allocated_bytes=2 * MiB)
LARGE: Final = DiskSpec(48 * MiB, allocated_bytes=36 * MiB)
SLOW: Final = 3 * MiB
"""Bytes a second of each stream: a disk takes seconds."""
RUNNING: Final = "web-1"
"""The first of ``machines`` that runs."""


@dataclass
class WorkerProcess:
    """One worker. ``log`` is its log file."""

    process: subprocess.Popen[str]
    log: Path

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = WAIT_S) -> int:
        """Sends the signal and waits; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


@dataclass
class Site:
    """Everything of one test. ``settings`` are keys of the daemon's configuration."""

    folder: Path
    simulator: Simulator
    database_url: str
    options: dict[str, Any] = field(default_factory=dict)
    started: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environ = {
            **{key: value for key, value in os.environ.items() if key[:5] != "GOVC_"},
            **environ_of(self.simulator),
            "HOME": str(self.folder),
        }
        self.root = self.folder / "exports"
        self.settings = self.settings_for("one")
        self.settings.state_dir.mkdir(exist_ok=True)
        self._running = ExitStack()
        self.services = self._running.enter_context(open_services(self.settings, self.environ))
        self.database, self.store, self.service = self.services.database, self.services.jobs, self.services.service

    def settings_for(self, host: str, root: Path | None = None) -> DaemonSettings:
        """The configuration of one host: a state directory of its own, the same database, and the site's root if no
        other is given."""
        overrides = {
            "state_dir": str(self.folder / host),
            "database_url": self.database_url,
            "export_roots": [str(root or self.root)],
            "key_file": str(self.folder / "key"),
            **self.options,
        }
        settings = load_settings(self.environ, None, overrides)
        path = self.folder / f"{host}.toml"
        text = settings.as_toml()
        path.write_text(text)
        return settings

    def worker(
        self, host: str = "one", index: int = 0, *, root: Path | None = None, source: Path | None = None
    ) -> WorkerProcess:
        """Starts a worker and waits until it takes jobs. ``source`` is a folder with another copy of the package."""
        started = self.start(host, index, root=root, source=source)
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == "ready\n", started.log.read_text()
        return started

    def start(
        self, host: str = "one", index: int = 0, *flags: str, root: Path | None = None, source: Path | None = None
    ) -> WorkerProcess:
        """Starts a worker."""
        self.settings_for(host, root)
        log = self.folder / f"{host}-{index}-{len(self.started)}.log"
        environ = {**self.environ, "PYTHONPATH": str(source)} if source else self.environ
        with log.open("w") as words:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.programs.worker",
                    self.folder / f"{host}.toml",
                    str(index),
                    *flags,
                ],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
        started = WorkerProcess(process, log)
        self.started.append(started)
        return started

    def submit(self, *definitions: dict[str, Any]) -> list[JobRecord]:
        """Jobs from definitions; ``output_path`` is below the root, by the machine's name, where it is not given."""
        jobs = [
            {"output_path": str(self.root / definition["vm_path"]), "format": "qcow2", **definition}
            for definition in definitions
        ]
        submission = self.service.submit(json.dumps(jobs), "application/json", None)
        assert submission.rejected == (), submission.rejected
        return list(submission.accepted)

    def until(self, true: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
        """Waits for a condition; fails with the logs of the workers."""
        eventually(true, timeout_s, self.told)

    def removed_since(self, revision: int) -> list[str]:
        """Ids of jobs that were removed after ``revision``."""
        events = self.store.events_since(revision)
        return [event.id for event in events if (event.topic, event.event) == ("jobs", "removed")]

    def copied(self, job: JobRecord, count: int, disk: int | None = None) -> None:
        """Waits until so many bytes of the job, or of one of its disks, have come."""

        def there() -> bool:
            now = self.store.get(job.id)
            assert now.state not in ENDED, f"it was too fast: {self.told()}"
            if disk is None:
                return bool(now.progress["bytes_downloaded"] >= count)
            disks = now.progress["disks"]
            return len(disks) > disk and bool(disks[disk]["bytes_downloaded"] >= count)

        self.until(there)

    def records(self, job: JobRecord) -> list[dict[str, Any]]:
        """The disks of the job's run, as they are written down; none where there is no run."""
        with self.database.read() as connection:
            text = connection.execute(sa.select(runs.c.record).where(runs.c.job_id == job.id)).scalar_one_or_none()
        return [] if text is None else list(json.loads(text)["disks"])

    def engine_rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Runs a query on the engine's own SQLite file."""
        with closing(sqlite3.connect(self.folder / "db" / "engine.sqlite3", timeout=30)) as engine, engine:
            return list(engine.execute(query, values))

    def until_ended(self, jobs: Collection[JobRecord], timeout_s: float = WAIT_S) -> list[JobRecord]:
        """All of ``jobs`` once they have ended."""
        self.until(lambda: all(self.store.get(job.id).state in ENDED for job in jobs), timeout_s)
        return [self.store.get(job.id) for job in jobs]

    def until_state(self, job: JobRecord, state: JobState, timeout_s: float = WAIT_S) -> JobRecord:
        """``job`` once it is in that state."""
        self.until(lambda: self.store.get(job.id).state is state, timeout_s)
        return self.store.get(job.id)

    def told(self) -> str:
        """Rows and logs, for the message of a failure."""
        rows = [
            f"{job.id} {job.name} {job.state} attempt {job.attempt}/{job.enqueued} epoch {job.epoch} {job.error}"
            f" {job.progress['note']}"
            for job in self.store.page(Filter()).rows
        ]
        logs = [f"--- {worker.log.name}\n{worker.log.read_text()[-4000:]}" for worker in self.started]
        return "\n".join(["", *rows, *logs])

    def close(self) -> None:
        """Ends every worker by its pid."""
        for worker in self.started:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
            worker.end(signal.SIGKILL)
        self._running.close()


SiteFactory = Callable[..., Site]


def machines(count: int, disks: tuple[DiskSpec, ...] = DISKS) -> tuple[MachineSpec, ...]:
    """``count`` machines on two hosts, every other one running."""
    return tuple(
        MachineSpec(f"web-{number}", disks, host=number % 2, power="poweredOn" if number % 2 else "poweredOff")
        for number in range(count)
    )


def source(site: Site) -> dict[str, object]:
    """The state of the source that jobs must restore."""
    return site.simulator.state()


def assert_exported(site: Site, job: JobRecord, expected: list[Path]) -> None:
    """The job is completed, and its images and reported digests are correct."""
    now = site.store.get(job.id)
    assert now.state is JobState.COMPLETED, f"{now.error} {site.told()}"
    folder = Path(job.target)
    assert_finished(folder)
    assert_holds(folder, expected, content_in_manifest(folder), site.folder / f"scratch-{job.subject}")


def fetches(simulator: Simulator, machine: str, index: int) -> int:
    """Streams of the disk and ranges of its file."""
    disk = simulator.vm(machine).disks[index]
    file = f"[{disk.datastore.name}] {disk.folder}/{disk.layers[0].name}-flat.vmdk"
    counters = simulator.counters
    assert counters.opened[f"{machine}:{index}"] or file in counters.ranges
    return counters.opened[f"{machine}:{index}"] + len(counters.ranges.get(file, ()))
