"""A real guest as a job of the daemon: submitted, converted, proved and started, though its worker is killed in each
step that takes long. ``tests/jobs/test_migrate.py`` kills it at all other moments, without an operating system.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from hypersdk.landing.record import read_landing
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.cli.hyperctl import Hyperctl
from tests.support.cli.hypervisord import children_of, daemon
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.processes import commands_naming
from tests.support.simulator import SimulatorFactory, lift_rate_limit
from tests.support.vsphere import environ_of
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]

STEP_TIMEOUT_S = 900
STEPS = ["copy", "publish", "convert", "land", "prove", "start"]


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted job, and the daemon that runs it."""

    url: str
    token: str
    id: str
    process: subprocess.Popen[str]
    log: Path

    def now(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/jobs/{self.id}", headers={"Authorization": f"Bearer {self.token}"})
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def steps(self) -> dict[str, dict[str, Any]]:
        return {step["name"]: step for step in self.now()["steps"]}

    def done_steps(self) -> dict[str, dict[str, Any]]:
        return {name: step for name, step in self.steps().items() if step["state"] == "done"}

    def converts(self) -> bool:
        """Whether virt-v2v has begun."""
        progress = self.now()["progress"]
        return progress["phase"] == "converting" and progress["note"] not in ("", "starting")

    def kill_worker_when(self, happens: Callable[[], bool]) -> None:
        """``kill -9`` as soon as it happens; returns when another worker has taken its place."""

        def there() -> bool:
            assert self.now()["state"] not in ("failed", "completed"), self.told()
            return happens()

        eventually(there, STEP_TIMEOUT_S, self.told)
        worker = children_of(self.process.pid)["worker:0"]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: children_of(self.process.pid).get("worker:0", worker) != worker, explain=self.told)

    def told(self) -> str:
        return f"{json.dumps(self.now(), indent=1)}\n{self.log.read_text()[-4000:]}"


@pytest.fixture
def server(simulator: SimulatorFactory, debian_without_virtio: Guest) -> Simulator:
    guest = debian_without_virtio
    disk = DiskSpec(guest.image.stat().st_size, image=guest.image)
    machine = MachineSpec("web-01", (disk,), power="poweredOn", memory_mb=guest.memory_mb, nics=0)
    return simulator(machines=(machine,), rate_bytes_s=8 * MiB)


@pytest.fixture
def job(
    server: Simulator, libvirtd: Libvirtd, debian_without_virtio: Guest, guest_folder: Path, tmp_path: Path
) -> Iterator[Job]:
    root, temporary = guest_folder / "exports", guest_folder / "tmp"
    root.mkdir(mode=0o755)
    temporary.mkdir(mode=0o755)
    (tmp_path / "daemon.toml").write_text(f'allowed_targets = ["{libvirtd.uri}"]\ntake_over_s = 2.0\n')
    definition = {
        "kind": "migrate", "vm_path": "web-01", "output_path": str(root / "web-01"), "to": libvirtd.uri,
        "acceleration": "tcg", "prove": True, "prove_marker": debian_without_virtio.marker, "start": True,
        "options": {"source": "power-off"},
    }  # fmt: skip
    (root / "web-01").mkdir(mode=0o755)
    environ = {**environ_of(server), "TMPDIR": str(temporary)}
    with daemon(tmp_path, "--config", tmp_path / "daemon.toml", "--export-root", root, env=environ) as (url, process):
        token = (tmp_path / "state" / "admin.token").read_text().strip()
        (tmp_path / "job.json").write_text(json.dumps(definition))
        submitted = Hyperctl(url, tmp_path, token).ok("submit", "-file", tmp_path / "job.json", "--json")
        (id_,) = json.loads(submitted)["job_ids"]
        yield Job(url, token, id_, process, tmp_path / "log")


def test_a_job_whose_worker_is_killed_again_and_again_moves_its_guest(
    job: Job, server: Simulator, libvirtd: Libvirtd, guest_folder: Path
) -> None:
    job.kill_worker_when(lambda: job.now()["progress"]["bytes_downloaded"] > 4 * MiB)
    lift_rate_limit(server)
    job.kill_worker_when(job.converts)
    copied, opened = job.done_steps(), server.counters.opened["web-01:0"]
    assert list(copied) == ["copy", "publish"]
    assert server.vm("web-01").power == "poweredOff", "it is held"
    job.kill_worker_when(lambda: any("proof" in name for name in libvirtd.domains()))
    ended = job.done_steps()
    assert list(ended) == ["copy", "publish", "convert", "land"]
    assert {name: ended[name] for name in copied} == copied
    eventually(lambda: job.now()["state"] in ("completed", "failed"), STEP_TIMEOUT_S, job.told)
    now = job.now()
    assert now["state"] == "completed", job.told()
    assert list(job.done_steps()) == STEPS
    assert {name: job.steps()[name] for name in ended} == ended, "what had ended was not repeated"
    assert server.counters.opened["web-01:0"] == opened
    assert (now["result"]["converted"], now["result"]["started"]) == (True, True)
    assert now["result"]["proof"]["verdict"] == "marker"
    assert_nothing_left(job, server, libvirtd, guest_folder)


def assert_nothing_left(job: Job, server: Simulator, libvirtd: Libvirtd, guest_folder: Path) -> None:
    folder = guest_folder / "exports/web-01"
    assert (libvirtd.domains(), libvirtd.virsh("list", "--name").split()) == (["web-01"], ["web-01"])
    machine = server.vm("web-01")
    assert (machine.power, machine.snapshots) == ("poweredOff", [])
    assert job.now()["source_changes"] == 0
    landing = read_landing(folder)
    assert landing is not None
    assert landing.finished
    assert [path.name for path in folder.iterdir() if "overlay" in path.name or "partial" in path.name] == []
    eventually(lambda: list((guest_folder / "tmp").iterdir()) == [])
    eventually(
        lambda: all("qemu-system" in line for line in commands_naming(str(folder))),
        explain=lambda: commands_naming(str(folder)),
    )
