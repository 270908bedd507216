"""Errors are provoked for real and cured by what the printed next step says, and by nothing else.

Each function of the table provokes one code, takes commands and flags out of the next step (``Advice`` fails where they
are not named there), and then the original command succeeds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import pytest

from hypersdk.cli.errorlist import load_all
from hypersdk.errors import CODES
from hypersdk.simulator import Simulator, SimulatorConfig
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.units import GiB, KiB, MiB
from tests.support.advice import Advice
from tests.support.cli.hyper2kvm import TIMEOUT_S, Ended, Program, ProgramInside, Running
from tests.support.cli.hyperctl import Hyperctl
from tests.support.cli.hypervisord import daemon, free_port
from tests.support.exportchecks import assert_finished, assert_holds, expected_raw
from tests.support.simulator import lift_rate_limit
from tests.support.vsphere import environ_of
from tests.support.waiting import eventually

PROGRAMS: Final = Path(sys.executable).parent
DISK: Final = DiskSpec(4 * MiB, allocated_bytes=2 * MiB)
OFF: Final = MachineSpec("web-01", disks=(DISK,))
ON: Final = MachineSpec("web-01", disks=(DISK,), power="poweredOn")
BROKEN: Final = Fault(FaultKind.RESET, disk="web-01:0", after_bytes=256 * KiB)
STUCK: Final = Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None)


@dataclass
class Bench:
    """The environment of one cure. ``received`` is all advice so far."""

    folder: Path
    stack: ExitStack
    received: list[Advice] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.folder / "out"

    def program(self, *machines: MachineSpec, **simulated: Any) -> tuple[Simulator, Program]:
        """A simulator and ``hyper2kvm``."""
        server = self.stack.enter_context(Simulator(SimulatorConfig(machines=machines, **simulated)))
        return server, ProgramInside(self.folder / "home", server)

    def advice_of(self, code: str, ended: Ended) -> Advice:
        """The next step of a command that failed with ``code``."""
        assert ended.status not in (0, 1), ended.explain()
        return self.advice_in(code, ended.error)

    def advice_in(self, code: str, facts: dict[str, Any]) -> Advice:
        """The same from the fields of any error."""
        self.received.append(Advice.of(facts, code))
        return self.received[-1]

    def advice_shown(self, code: str, done: subprocess.CompletedProcess[str]) -> Advice:
        """The same from the output for people."""
        assert done.returncode not in (0, 1), done.stderr
        self.received.append(Advice.shown(done.stderr, code))
        return self.received[-1]

    def assert_cured(self, code: str) -> None:
        """The cure was taken from the advice for ``code``."""
        assert [advice for advice in self.received if advice.code == code and advice.taken], (
            "the cure came from elsewhere"
        )

    def exported(self, ended: Ended) -> None:
        """The export succeeded."""
        assert ended.status == 0, ended.explain()
        assert_finished(self.out)


Cure: TypeAlias = Callable[[Bench], None]
F = TypeVar("F", bound=Callable[..., None])
CURES: Final[dict[str, Cure]] = {}


def cures(code: str) -> Callable[[Cure], Cure]:
    """Adds a function to the table; words after the code distinguish cases."""
    return _into(CURES, code)


def _into(table: dict[str, F], code: str) -> Callable[[F], F]:
    def enter(function: F) -> F:
        assert code not in table
        table[code] = function
        return function

    return enter


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    load_all()  # what the programs tell is looked up here
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


# hyper2kvm: unfinished exports


def break_off(bench: Bench) -> tuple[Program, Ended]:
    """An export that fails in the middle of its disk."""
    _, hyper2kvm = bench.program(OFF, faults=(BROKEN,))
    return hyper2kvm, hyper2kvm.export("web-01", "-o", bench.out, "--retries", "0")


@cures("connection_reset")
def _(bench: Bench) -> None:
    hyper2kvm, broken = break_off(bench)
    advice = bench.advice_of("connection_reset", broken)
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, "--retries", "0", advice.flag("--resume")))


@cures("truncated_stream")
def _(bench: Bench) -> None:
    short = Fault(FaultKind.SHORT, disk="web-01:0", after_bytes=256 * KiB)
    _, hyper2kvm = bench.program(OFF, faults=(short,))
    advice = bench.advice_of("truncated_stream", hyper2kvm.export("web-01", "-o", bench.out, "--retries", "0"))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, "--retries", "0", advice.flag("--resume")))


@cures("resumable_state")
def _(bench: Bench) -> None:
    for flag in ("--resume", "--discard"):
        hyper2kvm, _ = break_off(bench)
        advice = bench.advice_of("resumable_state", hyper2kvm.export("web-01", "-o", bench.out))
        bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag(flag)))
        shutil.rmtree(bench.out)


@cures("resume_mismatch")
def _(bench: Bench) -> None:
    hyper2kvm, _ = break_off(bench)
    arguments = ("web-01", "-o", bench.out, "--format", "raw")
    advice = bench.advice_of("resume_mismatch", hyper2kvm.export(*arguments, "--resume"))
    bench.exported(hyper2kvm.export(*arguments, advice.flag("--discard")))


@cures("nothing_to_resume")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(OFF)
    advice = bench.advice_of("nothing_to_resume", hyper2kvm.export("web-01", "-o", bench.out, "--resume"))
    advice.words("Omit --resume")
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out))


@cures("verify_no_manifest")
def _(bench: Bench) -> None:
    hyper2kvm, _ = break_off(bench)
    advice = bench.advice_of("verify_no_manifest", hyper2kvm.run("verify", "--json", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--resume")))
    assert hyper2kvm.run("verify", "--json", bench.out).status == 0


@cures("cancelled")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(ON, rate_bytes_s=256 * KiB)
    before = server.state()
    running: Running = hyper2kvm.start("export", "--json", "web-01", "-o", bench.out)
    running.until(lambda: server.counters.streams_now.total() > 0)
    running.process.terminate()
    advice = bench.advice_of("cancelled", running.wait())
    lift_rate_limit(server)
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--resume")))
    assert server.state() == before


@cures("foreign_output")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(OFF)
    arguments = ("web-01", "-o", bench.out)
    bench.exported(hyper2kvm.export(*arguments))
    advice = bench.advice_of("foreign_output", hyper2kvm.export(*arguments))
    bench.exported(hyper2kvm.export(*arguments, advice.flag("--force")))


@cures("not_restored")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(ON, faults=(STUCK,))
    before = server.state()
    advice = bench.advice_of("not_restored", hyper2kvm.export("web-01", "-o", bench.out))
    assert server.state() != before
    server.set_faults()
    done = hyper2kvm.run(*advice.command("hyper2kvm cleanup"), "--json")
    assert done.status == 0, done.explain()
    assert server.state() == before
    assert_finished(bench.out)


@cures("not_restored by --discard")
def _(bench: Bench) -> None:
    """An interrupted export keeps its snapshot for a resume; when it is discarded, the snapshot must be removed."""
    server, hyper2kvm = bench.program(ON, rate_bytes_s=256 * KiB)
    before = server.state()
    running: Running = hyper2kvm.start("export", "--json", "web-01", "-o", bench.out)
    running.until(lambda: server.counters.streams_now.total() > 0)
    running.process.terminate()
    given_up = bench.advice_of("cancelled", running.wait()).flag("--discard")
    lift_rate_limit(server)
    server.set_faults(STUCK)
    advice = bench.advice_of("not_restored", hyper2kvm.export("web-01", "-o", bench.out, given_up))
    server.set_faults()
    done = hyper2kvm.run(*advice.command("hyper2kvm cleanup --drop-snapshots"), "--json")
    assert done.status == 0, done.explain()
    assert server.state() == before
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, given_up))


@cures("run_elsewhere")
def _(bench: Bench) -> None:
    """A folder that an export from another server left unfinished. The next step is followed there."""
    corrupt = Fault(FaultKind.CORRUPT, disk="web-01:0", after_bytes=256 * KiB)
    server, hyper2kvm = bench.program(ON, faults=(corrupt, STUCK))
    before = server.state()
    assert hyper2kvm.export("web-01", "-o", bench.out).status != 0
    _, other = bench.program(OFF)
    arguments = ("web-01", "-o", bench.out, "--discard")
    advice = bench.advice_of("run_elsewhere", other.export(*arguments))
    assert server.authority_part in advice.message
    server.set_faults()
    done = hyper2kvm.run(*advice.command("hyper2kvm cleanup --drop-snapshots"), "--json")
    assert done.status == 0, done.explain()
    assert server.state() == before
    bench.exported(other.export(*arguments))


@cures("corrupt_grain")
def _(bench: Bench) -> None:
    """Its snapshot could not be removed either; the error says how to restore the source, and what to do then."""
    corrupt = Fault(FaultKind.CORRUPT, disk="web-01:0", after_bytes=256 * KiB)
    server, hyper2kvm = bench.program(ON, faults=(corrupt, STUCK))
    before = server.state()
    failed = hyper2kvm.export("web-01", "-o", bench.out)
    advice = bench.advice_of("corrupt_grain", failed)
    server.set_faults()
    assert len(failed.error["not_undone"]) == 1
    done = hyper2kvm.run(*advice.command("hyper2kvm cleanup"), "--json")
    assert done.status == 0, done.explain()
    assert server.state() == before
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--resume")))
    assert server.state() == before


def convert_damaged(bench: Bench, code: str, damage: Callable[[bytes], bytes]) -> None:
    """A local file is damaged. There is nothing to resume: ``convert`` has no such flag."""
    _, hyper2kvm = bench.program(OFF)
    assert hyper2kvm.export("web-01", "-o", bench.folder / "vmdk", "--format", "vmdk").status == 0
    (good,) = (bench.folder / "vmdk").glob("*.vmdk")
    bad = bench.folder / "bad.vmdk"
    bad.write_bytes(damage(good.read_bytes()))
    arguments = ("-o", bench.out, "--json")
    advice = bench.advice_of(code, hyper2kvm.run("convert", bad, *arguments))
    advice.words("get another copy")
    shutil.copy(good, bad)
    bench.exported(hyper2kvm.run("convert", bad, *arguments))


@cures("corrupt_grain by convert")
def _(bench: Bench) -> None:
    at = MiB  # inside a compressed grain
    convert_damaged(bench, "corrupt_grain", lambda data: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])


@cures("truncated_stream by convert")
def _(bench: Bench) -> None:
    convert_damaged(bench, "truncated_stream", lambda data: data[:MiB])


@cures("manifest_mismatch")
def _(bench: Bench) -> None:
    """Only the disk that differs is copied again; in an archive also those after it, because they move."""
    wrong = Fault(FaultKind.WRONG_MANIFEST, disk="web-01:1")
    server, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK, DISK, DISK)))
    expected = expected_raw(server, "web-01", bench.folder / "expected")
    for kind, copied in (("qcow2", {"web-01:1": 1}), ("ova", {"web-01:1": 1, "web-01:2": 1})):
        arguments = ("web-01", "-o", bench.out, "--format", kind)
        server.set_faults(wrong)
        advice = bench.advice_of("manifest_mismatch", hyper2kvm.export(*arguments))
        server.reset_counters()
        done = hyper2kvm.export(*arguments, advice.flag("--resume"))
        bench.exported(done)
        assert server.counters.opened == copied
        assert_holds(bench.out, expected, done.result["content"], bench.folder / "judged")
        shutil.rmtree(bench.out)


# hyper2kvm: arguments


@cures("ambiguous")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(OFF, MachineSpec("web-01", disks=(DISK,), folder="prod"))
    advice = bench.advice_of("ambiguous", hyper2kvm.export("web-01", "-o", bench.out))
    listed = hyper2kvm.run(*advice.command("hyper2kvm list"), "--json").seen
    paths = [machine["path"] for machine in listed if machine["name"] == "web-01"]
    assert len(paths) == 2
    bench.exported(hyper2kvm.export(paths[1], "-o", bench.out))


@cures("not_found")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(OFF)
    advice = bench.advice_of("not_found", hyper2kvm.export("database", "-o", bench.out))
    (machine,) = hyper2kvm.run(*advice.command("hyper2kvm list"), "--json").seen
    bench.exported(hyper2kvm.export(machine["name"], "-o", bench.out))


@cures("snapshot_not_found")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK,), snapshots=("before-update",)))
    arguments = ("web-01", "-o", bench.out, "--from-snapshot")
    advice = bench.advice_of("snapshot_not_found", hyper2kvm.export(*arguments, "update"))
    (machine,) = hyper2kvm.run(*advice.command("hyper2kvm inspect", VM="web-01"), "--json").seen
    bench.exported(hyper2kvm.export(*arguments, machine["snapshots"][0]["name"]))


@cures("no_such_disk")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK, DISK)))
    arguments = ("web-01", "-o", bench.out, "--exclude-disk")
    advice = bench.advice_of("no_such_disk", hyper2kvm.export(*arguments, "data"))
    (machine,) = hyper2kvm.run(*advice.command("hyper2kvm inspect", VM="web-01"), "--json").seen
    bench.exported(hyper2kvm.export(*arguments, machine["disks"][1]["label"]))


@cures("independent_disk")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(
        MachineSpec("web-01", disks=(DISK, DiskSpec(4 * MiB, independent=True)), power="poweredOn")
    )
    before = server.state()
    advice = bench.advice_of("independent_disk", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--exclude-disk"), "2"))
    done = hyper2kvm.export("web-01", "-o", bench.folder / "whole", advice.flag("--power-off"))
    assert done.status == 0, done.explain()
    assert len(done.result["content"]) == 2
    assert server.state() == before


@cures("rdm_physical")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK, DiskSpec(4 * MiB, backing="rdm-physical"))))
    advice = bench.advice_of("rdm_physical", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--exclude-disk"), "2"))


@cures("disk_capacity")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK, DiskSpec(4 * MiB, reported_bytes=0))))
    advice = bench.advice_of("disk_capacity", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--exclude-disk"), "2"))


@cures("file_fault of an inserted image")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK,), iso="[iso-library] deleted.iso"))
    before = server.state()
    advice = bench.advice_of("file_fault", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--remove-cdrom")))
    assert server.state() == before


@cures("no_ranges")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DiskSpec(4 * MiB, backing="sesparse"),)))
    advice = bench.advice_of("no_ranges", hyper2kvm.export("web-01", "-o", bench.out, "--source", "datastore"))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, *advice.words("--source lease").split()))


@cures("tools_unavailable")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(MachineSpec("web-01", disks=(DISK,), power="poweredOn", tools=False))
    before = server.state()
    advice = bench.advice_of("tools_unavailable", hyper2kvm.export("web-01", "-o", bench.out, "--shutdown"))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--power-off")))
    assert server.state() == before


@cures("datastore_low")
def _(bench: Bench) -> None:
    full = Fault(FaultKind.DATASTORE_FULL, after_bytes=4 * GiB)
    server, hyper2kvm = bench.program(ON, faults=(full,))
    before = server.state()
    advice = bench.advice_of("datastore_low", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--datastore-min-free"), "1GiB"))
    assert hyper2kvm.export("web-01", "-o", bench.folder / "off", advice.flag("--power-off")).status == 0
    assert server.state() == before


# hyper2kvm: connections


@cures("certificate_unknown")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(OFF)
    hyper2kvm.more_env = {"GOVC_INSECURE": "0"}
    advice = bench.advice_of("certificate_unknown", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, *advice.fingerprint_after("--thumbprint")))


@cures("certificate_changed")
def _(bench: Bench) -> None:
    _, hyper2kvm = bench.program(OFF)
    arguments = ("web-01", "-o", bench.out)
    advice = bench.advice_of("certificate_changed", hyper2kvm.export(*arguments, "--thumbprint", ":".join(["AB"] * 32)))
    bench.exported(hyper2kvm.export(*arguments, *advice.fingerprint_after("--thumbprint")))


@cures("no_endpoint")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(OFF)
    hyper2kvm.more_env = {"GOVC_URL": ""}
    advice = bench.advice_of("no_endpoint", hyper2kvm.export("web-01", "-o", bench.out))
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, advice.flag("--url"), server.url))


@cures("no_password")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(OFF)
    hyper2kvm.more_env = {"GOVC_USERNAME": "", "GOVC_PASSWORD": ""}
    advice = bench.advice_of("no_password", hyper2kvm.export("web-01", "-o", bench.out))
    file = bench.folder / "password"
    file.write_text(f"{server.password}\n")
    cure = (advice.flag("--username"), server.username, advice.flag("--password-file"), file)
    bench.exported(hyper2kvm.export("web-01", "-o", bench.out, *cure))


@cures("config_exposed")
def _(bench: Bench) -> None:
    server, hyper2kvm = bench.program(OFF)
    file = bench.folder / "config.toml"
    file.write_text(
        f'[connection]\nurl = "{server.url}"\nusername = "{server.username}"\npassword = "{server.password}"\n'
    )
    file.chmod(0o644)
    arguments = ("web-01", "-o", bench.out, "--config", file)
    advice = bench.advice_of("config_exposed", hyper2kvm.export(*arguments))
    subprocess.run(["chmod", *advice.command("chmod 600"), file], check=True)
    bench.exported(hyper2kvm.export(*arguments))


# hyperctl and hypervisord, with a shared daemon


@dataclass
class Service:
    """A daemon with a simulator, and the programs of its users."""

    folder: Path
    url: str
    server: Simulator

    @property
    def state(self) -> Path:
        """The daemon's state directory."""
        return self.folder / "state"

    def hyperctl(self, *arguments: str | Path, **env: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit status and JSON lines of one command of the administrator."""
        run = Hyperctl(self.url, self.folder, token=None)
        done = run(*arguments, "--json", env={"STATE_DIRECTORY": str(self.state), **env})
        assert done.status != 1, done.err
        return done.status, done.events

    def works(self, *arguments: str | Path, **env: str) -> list[dict[str, Any]]:
        """The lines of a command that succeeds."""
        status, lines = self.hyperctl(*arguments, **env)
        assert status == 0, lines
        return lines

    def fails(self, *arguments: str | Path, **env: str) -> dict[str, Any]:
        """The error of a command that does not."""
        status, lines = self.hyperctl(*arguments, **env)
        assert status != 0, lines
        return lines[-1]

    def hypervisord(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """One command of the daemon's own program."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        command = [PROGRAMS / "hypervisord", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)

    def submit(self, machine: str, folder: str) -> str:
        """The id of a new job."""
        arguments = ("--vm", machine, "--output", self.folder / "exports" / folder, "--format", "qcow2")
        (done,) = self.works("submit", *arguments)
        (job_id,) = done["job_ids"]
        return str(job_id)

    def until(self, job_id: str, *states: str) -> None:
        """Waits for one of these states."""
        end = time.monotonic() + TIMEOUT_S
        while (job := self.works("get", job_id)[0])["state"] not in states:
            assert time.monotonic() < end, job
            assert job["state"] not in ENDED, job
            time.sleep(0.1)

    def source(self) -> dict[str, Any]:
        """The state of the simulated vCenter while no job works on it: the jobs that earlier tests submitted have
        ended."""
        eventually(lambda: all(job["state"] in ENDED for job in self.works("query")), TIMEOUT_S)
        return self.server.state()


ENDED: Final = ("completed", "failed", "cancelled")
ServiceCure: TypeAlias = Callable[[Bench, Service], None]
SERVICE_CURES: Final[dict[str, ServiceCure]] = {}


def cures_of_service(code: str) -> Callable[[ServiceCure], ServiceCure]:
    """Adds a function to the daemon's table."""
    return _into(SERVICE_CURES, code)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    machines = (OFF, MachineSpec("web-02", disks=(DISK,), power="poweredOn"))
    with (
        Simulator(SimulatorConfig(machines=machines)) as server,
        daemon(folder, "--export-root", folder / "exports", env=environ_of(server)) as (url, _),
    ):
        yield Service(folder, url, server)


@cures_of_service("unauthenticated")
def _(bench: Bench, service: Service) -> None:
    stranger = {"HYPERVISORD_TOKEN": "hst_" + "A" * 43}
    advice = bench.advice_in("unauthenticated", service.fails("query", **stranger))
    service.works("query", advice.flag("--token-file"), service.state / "admin.token", **stranger)


@cures_of_service("daemon_unreachable")
def _(bench: Bench, service: Service) -> None:
    nobody = {"HYPERVISORD_URL": f"http://127.0.0.1:{free_port()}"}
    advice = bench.advice_in("daemon_unreachable", service.fails("query", **nobody))
    service.works("query", advice.flag("--url"), service.url, **nobody)


@cures_of_service("context_unknown")
def _(bench: Bench, service: Service) -> None:
    service.works("contexts", "add", "site-a", service.url)
    advice = bench.advice_in("context_unknown", service.fails("query", "--context", "site-b", HYPERVISORD_URL=""))
    (known,) = service.works(*advice.command("hyperctl contexts list"))
    service.works("query", "--context", known["name"], HYPERVISORD_URL="")


@cures_of_service("job_unknown")
def _(bench: Bench, service: Service) -> None:
    submitted = service.submit("web-01", "known")
    advice = bench.advice_in("job_unknown", service.fails("get", str(uuid.uuid4())))
    listed = service.works(*advice.command("hyperctl query"))
    (job_id,) = [job["id"] for job in listed if job["output_path"].endswith("/known")]
    assert service.works("get", job_id)[0]["id"] == submitted


@cures_of_service("job_unknown_field")
def _(bench: Bench, service: Service) -> None:
    """The message names the right place of the field."""
    file = bench.folder / "job.json"
    arguments = {"vm_path": "web-01", "output_path": str(service.folder / "exports/field")}
    file.write_text(json.dumps({**arguments, "remove_cdrom": True}))
    advice = bench.advice_in("job_unknown_field", service.fails("submit", "-f", file))
    advice.words("Correct its spelling")
    (place,) = re.findall(r"did you mean '([a-z_.]+)'", advice.message)
    part, name = place.split(".")
    file.write_text(json.dumps({**arguments, part: {name: True}}))
    (done,) = service.works("submit", "-f", file)
    assert done["accepted"] == 1


@cures_of_service("endpoint_unknown")
def _(bench: Bench, service: Service) -> None:
    """Its certificate has to be pinned first, which an error says too."""
    file = bench.folder / "password"
    file.write_text(f"{service.server.password}\n")
    add = (
        "endpoints",
        "add",
        "vc1",
        service.server.url,
        "--username",
        service.server.username,
        "--password-file",
        file,
    )
    pin = bench.advice_in("certificate_unknown", service.fails(*add))
    service.works(*add, *pin.fingerprint_after("--pin"))
    advice = bench.advice_in("endpoint_unknown", service.fails("endpoints", "test", "vc-1"))
    known = [endpoint["name"] for endpoint in service.works(*advice.command("hyperctl endpoints list"))]
    service.works("endpoints", "test", *(name for name in known if name.replace("-", "") == "vc1"))


def leave_a_snapshot(service: Service, folder: str) -> str:
    """The id of a job whose snapshot could not be removed, but now can be."""
    service.server.set_faults(STUCK)
    job_id = service.submit("web-02", folder)
    service.until(job_id, "failed")
    service.server.set_faults()
    return job_id


@cures_of_service("not_restored")
def _(bench: Bench, service: Service) -> None:
    before = service.source()
    job_id = leave_a_snapshot(service, "stuck")
    assert service.source() != before
    advice = bench.advice_in("not_restored", service.works("explain", job_id)[0])
    service.works(*advice.command("hyperctl cancel", ID=job_id))
    service.until(job_id, "completed")
    assert service.source() == before
    assert_finished(service.folder / "exports/stuck")


@cures_of_service("source_not_restored")
def _(bench: Bench, service: Service) -> None:
    before = service.source()
    for way in ("hyperctl cancel", "hyperctl retry"):
        job_id = leave_a_snapshot(service, way.replace(" ", "-"))
        advice = bench.advice_in("source_not_restored", service.fails("delete", job_id))
        service.works(*advice.command(way, ID=job_id))
        service.until(job_id, "completed")
        assert service.source() == before
        service.works("delete", job_id)
    job_id = leave_a_snapshot(service, "gone-for-good")
    advice = bench.advice_in("source_not_restored", service.fails("delete", job_id))
    service.works(*advice.command("hyperctl delete", ID=job_id))
    assert service.source() != before, "nobody undoes it"


@cures_of_service("daemon_runs")
def _(bench: Bench, service: Service) -> None:
    refused = service.hypervisord("-addr", f"127.0.0.1:{free_port()}", "--role", "api", "--state-dir", service.state)
    advice = bench.advice_shown("daemon_runs", refused)
    advice.flag("--state-dir")
    with daemon(bench.folder, "--role", "api"):  # in a state directory of its own
        pass


@cures_of_service("state_exists")
def _(bench: Bench, service: Service) -> None:
    backup, place = bench.folder / "backup.tar", ("--state-dir", bench.folder / "state")
    assert service.hypervisord("backup", backup, "--state-dir", service.state).returncode == 0
    assert service.hypervisord("restore", backup, *place).returncode == 0
    advice = bench.advice_shown("state_exists", service.hypervisord("restore", backup, *place))
    assert service.hypervisord("restore", backup, *place, advice.flag("--force")).returncode == 0


@cures_of_service("vault_key_lost")
def _(bench: Bench, service: Service) -> None:
    """A state with an encrypted password is restored on a host without its key."""
    password, backup = bench.folder / "password", bench.folder / "backup.tar"
    password.write_text(f"{service.server.password}\n")
    login = ("--username", service.server.username, "--password-file", password, "--trust-any")
    service.works("endpoints", "add", "sealed", service.server.url, *login)
    place = ("--state-dir", bench.folder / "state")
    assert service.hypervisord("backup", backup, "--state-dir", service.state).returncode == 0
    assert service.hypervisord("restore", backup, *place).returncode == 0
    start = ("-addr", f"127.0.0.1:{free_port()}", "--role", "api", *place)
    advice = bench.advice_shown("vault_key_lost", service.hypervisord(*start))
    reset = advice.command("hypervisord reset-vault")
    sure = bench.advice_shown("usage", service.hypervisord(*reset, *place))
    assert service.hypervisord(*reset, sure.flag("--yes"), *place).returncode == 0
    with daemon(bench.folder, "--role", "api"):
        pass


# Tests of the tables


@pytest.mark.slow
@pytest.mark.parametrize("code", CURES)
def test_what_is_printed_cures(code: str, bench: Bench) -> None:
    CURES[code](bench)
    bench.assert_cured(code.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("code", SERVICE_CURES)
def test_what_the_daemon_tells_cures(code: str, bench: Bench, service: Service) -> None:
    SERVICE_CURES[code](bench, service)
    bench.assert_cured(code)


def test_many_codes_are_cured() -> None:
    load_all()
    exports, service = {case.split()[0] for case in CURES}, set(SERVICE_CURES)
    assert exports | service <= CODES.keys()
    assert len(exports) >= 20
    assert len(service) >= 10
