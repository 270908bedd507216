"""Standard streams that are full, closed, or a pipe that nobody reads: the programs as a shell starts them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from hypersdk.simulator import DiskSpec, Simulator
from hypersdk.units import MiB
from tests.support.apiserver import Api
from tests.support.cli.commandline import environment, terminal
from tests.support.cli.hyper2kvm import HYPER2KVM
from tests.support.cli.hyperctl import hyperctl_of
from tests.support.cli.hypervisord import children_of, daemon
from tests.support.cli.shell import login, small
from tests.support.exportchecks import assert_finished, assert_holds, assert_left_alone, content_in_manifest
from tests.support.simulator import SimulatorFactory

pytestmark = pytest.mark.waits

FULL, CLOSED, UNREAD = ">/dev/full", ">&-", "| true"
STATUSES: Final = {FULL: 14, CLOSED: 14, UNREAD: 141}
REASONS: Final = {FULL: "No space left on device", CLOSED: "Bad file descriptor"}
NOISE: Final = ("Traceback", "Exception ignored", "BrokenPipe", "Crash file", "internal error", "Logging error")
ALL_CLOSED: Final = "<&- >&- 2>&-"


@dataclass(frozen=True, slots=True)
class Ended:
    """Exit status and standard error of a program."""

    status: int
    err: str


class Bash:
    """Runs command lines in a shell, with the streams that it gives them."""

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**environment(home), "XDG_STATE_HOME": str(home / "state"), **env, "PATH": path}

    def __call__(self, words: Sequence[str | Path], streams: str) -> Ended:
        command = shlex.join(map(str, words))
        lines = f"{command} {streams}"
        if streams == UNREAD:  # the reader is gone before the program starts
            lines = f"exec 3> >(exec true); wait $!; {command} >&3 3>&-"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", lines], env=self.env, stderr=subprocess.PIPE, text=True, timeout=120
        )
        assert not [word for word in NOISE if word in done.stderr], done.stderr
        assert not list(self.home.rglob("crash-*")), done.stderr
        return Ended(done.returncode, done.stderr)


LOCAL: Final = (
    ["hyper2kvm", "--help"],
    ["hyper2kvm", "--version"],
    ["hyper2kvm", "completion", "bash"],
    ["hyperctl", "tokens", "create", "-h"],
    ["hyperctl", "contexts", "add", "here", "http://127.0.0.1:9", "--json"],
    ["hypervisord", "--show-config"],
    [sys.executable, "-m", "hypersdk.simulator", "--help"],
    [sys.executable, "-m", "hypersdk.simulator", "--listen", "127.0.0.1:0"],
)


@pytest.mark.parametrize("words", LOCAL, ids=shlex.join)
def test_a_lost_result_is_one_line_and_a_status(words: list[str], tmp_path: Path) -> None:
    bash = Bash(tmp_path)
    for streams, status in STATUSES.items():
        ended = bash(words, streams)
        assert ended.status == status, (streams, ended)
        assert ended.err.splitlines() == [] if streams == UNREAD else _line_of(ended, REASONS[streams])


def _line_of(ended: Ended, reason: str) -> bool:
    (line,) = ended.err.splitlines()
    return f": standard output cannot be written: {reason} (exit status 14)" in line


@pytest.mark.parametrize("words", LOCAL[2:-1], ids=shlex.join)
def test_closed_input_and_closed_errors_change_nothing(words: list[str], tmp_path: Path) -> None:
    bash = Bash(tmp_path)
    assert bash(words, "<&- 2>&- >/dev/null") == Ended(0, "")
    assert bash(words, ALL_CLOSED) == Ended(14, "")


@pytest.fixture
def server(simulator: SimulatorFactory) -> Simulator:
    disk = DiskSpec(capacity_bytes=48 * MiB, allocated_bytes=24 * MiB)
    return simulator(machines=(small("web", power="poweredOn", disks=(disk, disk)),), vms=600, rate_bytes_s=16 * MiB)


@pytest.fixture
def bash(server: Simulator, tmp_path: Path) -> Bash:
    pairs = {key: value for key, value in login(server, tmp_path).items() if key != "HOME"}
    return Bash(tmp_path / "home", **pairs)


@pytest.mark.parametrize(
    ("streams", "flags"), [(FULL, []), (CLOSED, []), (UNREAD, []), (ALL_CLOSED, []), ("| head -n 1", ["--json"])]
)
def test_an_export_goes_on_without_its_text(
    bash: Bash, server: Simulator, streams: str, flags: list[str], tmp_path: Path
) -> None:
    """Also with every standard descriptor closed: no file of the image gets the number of one."""
    before, out = server.state(), tmp_path / "out"
    ended = bash(["hyper2kvm", "export", "web", "-o", out, *flags], streams)
    assert ended.status == STATUSES.get(streams.replace("head -n 1", "true"), 14)
    told = [line.partition("; ")[2] for line in ended.err.splitlines() if "standard output" in line]
    assert told == ([] if streams == ALL_CLOSED else [f"the run goes on (exit status {ended.status})"])
    assert_finished(out)
    expected = [tmp_path / f"{index}.raw" for index in range(2)]
    for index, path in enumerate(expected):
        server.write_raw("web", index, path)
    assert_holds(out, expected, content_in_manifest(out), tmp_path / "scratch", convert=False)
    assert server.state() == before
    assert bash(["hyper2kvm", "verify", out], ">/dev/null").status == 0


@pytest.mark.parametrize("streams", STATUSES)
def test_a_plan_that_nobody_reads_changes_nothing(bash: Bash, server: Simulator, streams: str, tmp_path: Path) -> None:
    ended = bash(["hyper2kvm", "export", "web", "-o", tmp_path / "out", "--json"], streams)
    assert ended.status == STATUSES[streams]
    assert not list(tmp_path.glob("out/*"))
    assert_left_alone(server)


@pytest.mark.parametrize("streams", [*STATUSES, ALL_CLOSED])
@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["inspect", "web"], ["doctor"]], ids=shlex.join)
def test_commands_that_ask_a_server_end(bash: Bash, streams: str, words: list[str]) -> None:
    ended = bash(["hyper2kvm", *words], streams)
    assert ended.status == STATUSES.get(streams, 14)
    assert ended.err.count("standard output cannot be written") == (streams in REASONS)


def test_an_error_that_standard_output_cannot_take_is_told_to_people(bash: Bash) -> None:
    for streams in (*STATUSES, "| head -n 0"):
        ended = bash(["hyper2kvm", "inspect", "--json", "nosuch"], streams)
        assert ended.status == 5
        assert "Error: " in ended.err


@pytest.mark.parametrize("streams", STATUSES)
@pytest.mark.parametrize("words", [["query", "-all", "--json"], ["status"], ["status", "-o", "yaml"]], ids=shlex.join)
def test_hyperctl_ends(api: Api, streams: str, words: list[str], tmp_path: Path) -> None:
    api.add_job()
    bash = Bash(tmp_path / "home", **hyperctl_of(api, tmp_path / "home").env)
    ended = bash(["hyperctl", *words], streams)
    assert ended.status == STATUSES[streams]
    assert len(ended.err.splitlines()) == (streams in REASONS)


def test_every_job_is_cancelled_whoever_reads_it(api: Api, tmp_path: Path) -> None:
    jobs = [api.add_job().id for _ in range(3)]
    bash = Bash(tmp_path / "home", **hyperctl_of(api, tmp_path / "home").env)
    assert bash(["hyperctl", "cancel", "nosuch", *jobs, "--json"], FULL).status == 10
    assert '"cancelled"' in hyperctl_of(api, tmp_path / "home").ok("query", "--json", *(f"--id={job}" for job in jobs))


def test_a_demo_that_nobody_reads_leaves_nothing(tmp_path: Path) -> None:
    bash = Bash(tmp_path / "home", TMPDIR=str(tmp_path))
    for streams, status in STATUSES.items():
        assert bash(["hyper2kvm", "demo", "--machines", "0"], streams).status == status
    assert not list(tmp_path.glob("hypersdk-demo-*"))


@pytest.mark.slow
def test_a_daemon_with_closed_streams_writes_to_none_of_its_files(tmp_path: Path) -> None:
    """Neither the parent nor the API and the workers have anything else under the numbers 0 to 2."""
    through = ["bash", "-c", f'exec "$@" {ALL_CLOSED}', "-"]
    with daemon(tmp_path, "--export-root", tmp_path, through=through) as (_, process):
        for pid in (process.pid, *children_of(process.pid).values()):
            opened = [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in range(3)]
            assert [name for name in opened if name != os.devnull and not name.startswith("pipe:")] == []


@pytest.mark.parametrize("streams", [FULL, CLOSED])
def test_the_live_display_goes_on_when_standard_output_is_lost(
    bash: Bash, server: Simulator, streams: str, tmp_path: Path
) -> None:
    before = server.state()
    line = shlex.join(["hyper2kvm", "export", "web", "-o", str(tmp_path / "out")])
    with terminal(["bash", "-c", f"{line} {streams}; echo status $?"], bash.env, (100, 30)) as screen:
        screen.wait_for("status ", 60)
        screen.finish()
    assert "█" in screen.text
    assert "status 14" in screen.text
    assert screen.text.count("standard output cannot be written") == 1
    assert not [word for word in NOISE if word in screen.text]
    assert_finished(tmp_path / "out")
    assert server.state() == before


def test_an_export_whose_terminal_goes_away_stops_in_order(bash: Bash, server: Simulator, tmp_path: Path) -> None:
    before, out, report = server.state(), tmp_path / "out", tmp_path / "report.json"
    words = [str(HYPER2KVM), "export", "web", "-o", str(out), "--report", str(report)]
    with terminal(words, bash.env, (100, 30)) as screen:
        screen.wait_for("█", 60)
        screen.close()
        assert screen.process.wait(60) == 129
    assert not list(bash.home.rglob("crash-*"))
    (row,) = json.loads(report.read_text())["machines"]
    assert row["status"] == "stopped"
    assert bash(["hyper2kvm", "cleanup", "--drop-snapshots", out], ">/dev/null").status == 0
    assert server.state() == before


def test_following_jobs_ends_with_its_reader(api: Api, tmp_path: Path) -> None:
    """Although the job never ends."""
    job = api.add_job()
    bash = Bash(tmp_path / "home", **hyperctl_of(api, tmp_path / "home").env)
    for streams in STATUSES:
        assert bash(["hyperctl", "watch", job.id, "--json"], streams).status == STATUSES[streams]
