"""Jobs that an earlier release had in its hands when it was killed are completed by this one.

``earlier/0.1.0a`` and ``earlier/0.1.0b`` are states that the code of such a release left: see ``earlier/make.py``,
which made them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from alembic.script import ScriptDirectory

from hypersdk.jobs.states import JobState
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.state.database import _alembic
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.ledger import boot_id
from hypersdk.units import KiB
from hypersdk.vsphere.cdrom import remove_isos
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.snapshot import create_snapshot
from tests.support.exportchecks import assert_finished, assert_holds, content_in_manifest, expected_raw
from tests.support.exporter import Engine
from tests.support.simulator import SimulatorFactory
from tests.support.site import Site

pytestmark = pytest.mark.waits

EARLIER: Final = Path(__file__).parent / "earlier"
DISKS: Final = (DiskSpec(64 * KiB), DiskSpec(256 * KiB))
MACHINES: Final = (
    MachineSpec("web-0", DISKS, iso="[iso-library] debian-12.iso"),
    MachineSpec("web-1", DISKS, power="poweredOn"),
    MachineSpec("web-2", DISKS),
    MachineSpec("web-3", DISKS),
    MachineSpec("web-4", DISKS),
)
"""As in ``earlier/make.py``."""
HEAD: Final = ScriptDirectory.from_config(_alembic()).get_current_head()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


STATES: Final = {
    "web-0": (JobState.RUNNING, 1),
    "web-1": (JobState.RUNNING, 1),
    "web-2": (JobState.QUEUED, 0),
    "web-3": (JobState.PAUSED, 1),
    "web-4": (JobState.FAILED, 1),
}
"""State of each machine's job, and how often a worker had it. The first release has the first three."""


@pytest.mark.slow
@pytest.mark.parametrize(("release", "schema", "count"), [("0.1.0a", "0001", 3), ("0.1.0b", "0004", 5)])
def test_jobs_of_an_earlier_release_are_completed(
    release: str, schema: str, count: int, simulator: SimulatorFactory, stack: ExitStack, tmp_path: Path
) -> None:
    """Two were running, with a temporary snapshot and an ejected ISO image at the source; one waited, one was paused,
    one had failed."""
    server = simulator(machines=MACHINES)
    before = server.state()
    expected = {spec.name: expected_raw(server, spec.name, tmp_path / f"expected-{spec.name}") for spec in MACHINES}
    facts = leave_source_as_it_was(server, tmp_path, release)
    assert server.state() != before
    restore(tmp_path, release, {**facts, "FOLDER": str(tmp_path), "SERVER": server.authority_part})
    assert revision(tmp_path) == schema
    server.reset_counters()

    site = Site(tmp_path, server, f"sqlite:///{tmp_path / 'db' / 'state.sqlite3'}", {"jobs_per_worker": 2})
    stack.callback(site.close)
    assert revision(tmp_path) == HEAD
    jobs = {name: site.store.get(job_id) for name, job_id in ids(tmp_path).items()}
    tries = {name: len(site.store.attempts(job.id)) for name, job in jobs.items()}
    assert {name: (job.state, tries[name]) for name, job in jobs.items()} == dict(list(STATES.items())[:count])
    assert {name for name, job in jobs.items() if job.source_changes} == {"web-0", "web-1"}
    for job in jobs.values():
        assert (job.kind, job.target) == ("export", str(tmp_path / "exports" / job.subject))
        assert [(step.name, step.state) for step in job.steps] == [("copy", "waiting"), ("publish", "waiting")]

    for name, ask in (("web-3", site.store.resume), ("web-4", site.store.retry)):
        if name in jobs:
            ask(jobs[name].id)
    site.worker()
    site.until_ended(list(jobs.values()))
    for name, was in jobs.items():
        job = site.store.get(was.id)
        assert job.state is JobState.COMPLETED, site.told()
        assert (len(site.store.attempts(job.id)), job.epoch) == (tries[name] + 1, was.epoch + 1)
        assert {step.state for step in job.steps} == {"done"}
        folder = Path(job.target)
        assert_finished(folder)
        assert_holds(folder, expected[name], content_in_manifest(folder), tmp_path / f"judged-{name}")
    assert server.state() == before
    opened = server.counters.opened
    for name in {"web-0", "web-1", "web-3"} & set(jobs):
        assert (opened[f"{name}:0"], ranges(server, name)) == (0, 0), "a disk that was whole was fetched again"
    went_on = site.store.get(jobs["web-1"].id).result
    assert went_on is not None
    assert went_on["blocks_skipped"] > 0, "a disk that was begun started again"
    assert site.engine_rows("SELECT count(*) FROM workflow_status WHERE status <> 'SUCCESS'") == [(0,)]


def leave_source_as_it_was(server: Simulator, folder: Path, release: str) -> dict[str, str]:
    """The source as the earlier release left it; facts of it that the run's records hold."""
    text = (EARLIER / release / "state.sql").read_text()
    (snapshot,) = re.findall(r"\"name\": \"(hypersdk-[\w-]+)\",\n\s+\"moref\": \"snapshot-1\"", text)
    never = CancelToken()
    facts = {}
    with Engine(server, folder / "none").log_in() as session:
        remove_isos(session, read_machine(session, "vm-1"), before=lambda _: None, cancel=never)
        moref = create_snapshot(session, "vm-2", name=snapshot, description="", quiesce=False, cancel=never)
        assert moref == "snapshot-1"
        for number, name in enumerate(STATES, 1):
            machine = read_machine(session, f"vm-{number}")
            assert machine.name == name
            facts[f"CHANGED:{name}"] = str(machine.change_version)
            facts[f"BOOTED:{name}"] = machine.boot_time.isoformat() if machine.boot_time else ""
    return facts


def restore(folder: Path, release: str, facts: dict[str, str]) -> None:
    """The state of the earlier release, as if it had been killed a moment ago."""
    now = time.time()
    times = {
        "T": lambda offset: f"{now + offset:.6f}",
        "M": lambda offset: f"{now * 1000 + offset:.0f}",
        "I": lambda offset: datetime.fromtimestamp(now + offset, UTC).isoformat(timespec="seconds"),
    }

    def filled(found: re.Match[str]) -> str:
        return times[found[2]](float(found[3])) if found[2] else facts[found[1]]

    with tarfile.open(EARLIER / release / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for ledger in folder.glob("exports/*/*.blocks"):
        data = ledger.read_bytes()
        head = data[:508].replace(b"@boot-of-host-1@", boot_id())
        ledger.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + data[512:])
    (folder / "db").mkdir()
    for name in ("state", "engine"):
        text = re.sub(
            r"@(([TMI])([+-][\d.]+)|[A-Z]+(?::[\w-]+)?)@", filled, (EARLIER / release / f"{name}.sql").read_text()
        )
        with closing(sqlite3.connect(folder / "db" / f"{name}.sqlite3")) as database:
            database.executescript(text)
            if name == "state":
                for job_id, record in database.execute("SELECT job_id, record FROM runs").fetchall():
                    sealed = with_checksum(json.loads(record))
                    database.execute("UPDATE runs SET record = ? WHERE job_id = ?", (json.dumps(sealed), job_id))
                database.commit()


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run, whose facts were changed, with the checksum that its release would have written."""
    if record.pop("checksum", None) is None:
        return record
    return {**record, "checksum": hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


def revision(folder: Path) -> str:
    """Of the schema."""
    with closing(sqlite3.connect(folder / "db" / "state.sqlite3")) as database:
        ((found,),) = database.execute("SELECT version_num FROM alembic_version")
    return str(found)


def ids(folder: Path) -> dict[str, str]:
    """Jobs by their machine."""
    with closing(sqlite3.connect(folder / "db" / "state.sqlite3")) as database:
        return dict(database.execute("SELECT subject, id FROM jobs ORDER BY number"))


def ranges(server: Simulator, machine: str) -> int:
    """How many ranges of the first disk's file were asked for."""
    disk = server.vm(machine).disks[0]
    file = f"[{disk.datastore.name}] {disk.folder}/{disk.layers[0].name}-flat.vmdk"
    return len(server.counters.ranges.get(file, ()))
