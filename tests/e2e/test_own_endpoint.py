"""Jobs that name a vCenter in the job file: refused or run according to the policy, their password never shown, their
host name checked again by the worker."""

from __future__ import annotations

import base64
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from hypersdk.access.vault import Vault
from hypersdk.jobs.secrets import JOB_PASSWORD
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.secret import Secret
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.state.database import Database
from hypersdk.units import KiB, MiB
from tests.support.cli.hypervisord import children_of, daemon
from tests.support.exportchecks import assert_finished, assert_holds, content_in_manifest, expected_raw
from tests.support.simulator import SimulatorFactory

PLANTED: Final = "planted-own-endpoint-4Tz"
NAME: Final = "vcenter.example.com"
PUBLIC: Final = "192.0.2.10"
WAIT_S: Final = 90.0
MACHINE: Final = MachineSpec("web-01", disks=(DiskSpec(4 * MiB, allocated_bytes=2 * MiB),))
RESOLVER: Final = """
import os, pathlib, socket, sys

_real = socket.getaddrinfo
_folder = pathlib.Path(os.environ["RESOLVER_FOLDER"])

def getaddrinfo(host, *args, **kwargs):
    if host != "{name}":
        return _real(host, *args, **kwargs)
    part = "worker" if any(word.startswith("worker") for word in sys.argv) else "api"
    with (_folder / f"{{part}}.asked").open("a") as asked:
        asked.write("x")
    return _real((_folder / part).read_text(), *args, **kwargs)

socket.getaddrinfo = getaddrinfo
"""


@dataclass
class Service:
    """A running daemon and its administrator."""

    folder: Path
    pid: int
    http: httpx.Client

    def submit(self, server: Simulator, *, host: str | None = None, folder: str = "web-01") -> httpx.Response:
        """A job with the simulator as its own vCenter, under the name ``host``."""
        address = server.authority_part if host is None else f"{host}:{server.port}"
        vcenter = {"server": address, "username": server.username, "password": server.password, "insecure": True}
        job = {"vm_path": "web-01", "output_path": str(self.exports / folder), "format": "qcow2", "vcenter": vcenter}
        return self.http.post("/api/v1/jobs", json=job)

    @property
    def exports(self) -> Path:
        """The export root."""
        return self.folder / "exports"

    @property
    def log(self) -> str:
        """The log of the daemon's processes."""
        return (self.folder / "log").read_text()

    def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """The job, once it is in one of these states."""
        end = time.monotonic() + WAIT_S
        while True:
            job: dict[str, Any] = self.http.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
            if job["state"] in states:
                return job
            assert job["state"] not in ("completed", "failed", "cancelled"), f"{job}\n{self.log}"
            assert time.monotonic() < end, f"{job}\n{self.log}"
            time.sleep(0.05)


@contextmanager
def serving(folder: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Service]:
    """A daemon without any endpoint of its own."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        roots = ("--export-root", folder / "exports")
        url, process = stack.enter_context(daemon(folder, *roots, *flags, env=env))
        token = (folder / "state" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        http = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=60))
        yield Service(folder, process.pid, http)


def accepted(answer: httpx.Response) -> str:
    """The id of an accepted job."""
    assert answer.is_success, answer.text
    (job,) = answer.json()["accepted"]
    return str(job["id"])


@pytest.mark.slow
def test_on_loopback_it_is_refused_unless_it_is_allowed(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(machines=(MACHINE,), password=Secret(PLANTED))
    with serving(tmp_path / "daemon") as service:
        for host in (None, "localhost", "[::1]"):
            answer = service.submit(server, host=host)
            (rejected,) = answer.json()["rejected"]
            assert rejected["error"]["code"] == "endpoint_refused"
            assert "allowed_endpoints" in rejected["error"]["next_step"]
            assert PLANTED not in answer.text
        assert service.http.get("/api/v1/jobs").json()["jobs"] == []
        assert PLANTED not in service.log
    assert server.counters.calls.total() == 0


@pytest.mark.slow
def test_where_it_is_allowed_it_runs_and_its_password_is_seen_nowhere(
    simulator: SimulatorFactory, tmp_path: Path
) -> None:
    """The hosts of that vCenter are not trusted either: they are on loopback and not listed, so the data comes through
    vCenter."""
    server = simulator(machines=(MACHINE,), password=Secret(PLANTED), rate_bytes_s=512 * KiB)
    expected = expected_raw(server, "web-01", tmp_path / "expected")
    before = server.state()
    folder = tmp_path / "daemon"
    with serving(folder, "--allow-endpoint", server.authority_part) as service:
        answer = service.submit(server)
        job_id = accepted(answer)
        service.until(job_id, "running")
        parts = children_of(service.pid)
        assert set(parts) == {"api", "worker:0"}
        for pid in (service.pid, *parts.values()):
            for place in ("cmdline", "environ"):
                assert PLANTED.encode() not in Path(f"/proc/{pid}/{place}").read_bytes()
        assert all(PLANTED.encode() not in words for words in command_lines())
        assert_sealed(folder / "state", job_id)
        job = service.until(job_id, "completed")
        paths = [f"/jobs/{job_id}", "/api/v1/jobs", "/api/v1/auth/audit", "/api/v1/endpoints", "/status", "/metrics"]
        parts_of_job = ("", "/explain", "/logs", "/attempts", "/progress", "/artifacts")
        paths += [f"/api/v1/jobs/{job_id}{part}" for part in parts_of_job]
        answers = [service.http.get(path).raise_for_status().text for path in paths]
        answers.append(service.http.post("/jobs/query", json={"job_ids": [job_id]}).raise_for_status().text)
        assert sum(job_id in text for text in answers) >= 5
        assert all(form not in text for text in (answer.text, *answers, service.log) for form in forms())
        assert_finished(service.exports / "web-01")
        digests = content_in_manifest(service.exports / "web-01")
        assert_holds(service.exports / "web-01", expected, digests, tmp_path / "judged")
        assert any(
            "127.0.0.1" in warning and "could not be reached directly" in warning
            for warning in job["result"]["warnings"]
        )
    assert server.state() == before
    assert server.platform.sessions.all() == []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert all(form.encode() not in data for form in forms()), path


def forms() -> list[str]:
    """The password as it is, and as it could be hidden from a careless look."""
    shifted = [base64.b64encode(b"x" * lead + PLANTED.encode())[4 * bool(lead) : -4].decode() for lead in range(3)]
    return [PLANTED, PLANTED.encode().hex(), *shifted]


def command_lines() -> Iterator[bytes]:
    """Of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:  # it has ended
            continue


def assert_sealed(state: Path, job_id: str) -> None:
    """The database has the password, readable only with the key."""
    with closing(sqlite3.connect(state / "state.sqlite3")) as connection:
        ((sealed, definition),) = connection.execute("SELECT secret, definition FROM jobs WHERE id = ?", (job_id,))
    assert PLANTED.encode() not in sealed
    assert PLANTED not in definition
    settings = DaemonSettings(state_dir=state)
    database = Database.open(settings.url)
    try:
        assert (
            Vault.load(settings.state_dir, settings.key_file, {}, database).open(sealed, JOB_PASSWORD).reveal()
            == PLANTED
        )
    finally:
        database.close()


@pytest.fixture
def resolver(tmp_path: Path) -> Path:
    """A folder: its files ``api`` and ``worker`` say what ``NAME`` means to these parts, ``.asked`` has a letter for
    each look-up."""
    folder = tmp_path / "resolver"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(RESOLVER.format(name=NAME))
    (folder / "api").write_text(PUBLIC)
    return folder


@pytest.mark.slow
def test_a_name_that_means_something_else_when_the_job_runs_is_refused_by_the_worker(
    simulator: SimulatorFactory, resolver: Path, tmp_path: Path
) -> None:
    """The simulator listens where the name leads to on loopback: only the judgement keeps the worker from it."""
    server = simulator(machines=(MACHINE,), password=Secret(PLANTED))
    env = {"PYTHONPATH": str(resolver), "RESOLVER_FOLDER": str(resolver)}
    with serving(tmp_path / "daemon", env=env) as service:
        for address in ("127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0"):
            (resolver / "worker").write_text(address)
            job_id = accepted(service.submit(server, host=NAME, folder=address.strip(":")))
            job = service.until(job_id, "failed")
            assert job["error"]["code"] == "endpoint_refused", job["error"]
            assert PLANTED not in str(job)
    assert len((resolver / "worker.asked").read_text()) == 4
    assert server.counters.calls.total() == 0


@pytest.mark.slow
def test_the_address_that_was_judged_is_the_one_that_is_connected_to(
    simulator: SimulatorFactory, resolver: Path, tmp_path: Path
) -> None:
    """The name is looked up once for the whole job, so no later answer can lead it elsewhere."""
    server = simulator(machines=(MACHINE,), password=Secret(PLANTED))
    env = {"PYTHONPATH": str(resolver), "RESOLVER_FOLDER": str(resolver)}
    (resolver / "worker").write_text("127.0.0.1")
    with serving(tmp_path / "daemon", "--allow-endpoint", f"{NAME}:{server.port}", env=env) as service:
        job_id = accepted(service.submit(server, host=NAME))
        service.until(job_id, "completed")
        assert_finished(service.exports / "web-01")
    assert (resolver / "worker.asked").read_text() == "x"
    assert server.counters.calls["Login"] >= 1
