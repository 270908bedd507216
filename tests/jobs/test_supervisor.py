"""The parent of a daemon: what dies comes back, what ends does so in order, and the API answers while disks are
copied."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from hypersdk.jobs import supervisor
from hypersdk.jobs.liveness import LivenessReporter
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.supervisor import PAUSE_FIRST_S, PAUSE_MAX_S, STEADY_S, Child
from hypersdk.jobs.workerfault import WorkerFault
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec
from hypersdk.state.database import Database
from hypersdk.state.tables import jobs, runs
from hypersdk.units import MiB
from tests.support.cli.hypervisord import START_S, children_of, daemon
from tests.support.exportchecks import assert_finished, assert_holds, content_in_manifest, expected_raw
from tests.support.outages import locked
from tests.support.seeds import SEED
from tests.support.simulator import SimulatorFactory
from tests.support.site import SMALL, fetches, machines
from tests.support.vsphere import environ_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.waits

FLAGS = ("--no-auth", "--export-root")
DIES = WorkerFault("process_dies", exits=True)


def test_what_dies_at_once_is_started_again_after_a_growing_pause() -> None:
    now = [0.0]
    child = Child("worker-0", ["/bin/false"], 0, clock=lambda: now[0])
    child.look()
    pauses = []
    for _ in range(8):
        _died(child)
        began = now[0]
        while child.process is None:
            now[0] += 0.25
            child.look()
        pauses.append(now[0] - began)
    assert pauses == [1, 2, 4, 8, *[PAUSE_MAX_S] * 4]
    now[0] += STEADY_S
    _died(child)
    assert child.pause_s == PAUSE_FIRST_S


@pytest.mark.parametrize(
    ("said", "status", "code", "hopeless"),
    [
        ("failed database_damaged", 12, "database_damaged", True),
        ("failed database_newer", 12, "database_newer", True),
        ("failed database_full", 12, "database_full", False),
        ("failed usage", 2, "usage", True),
        ("failed worker_id_held", 2, "worker_id_held", False),  # by the worker of a parent that was killed
        ("", 1, "process_dies", False),
    ],
)
def test_what_dies_again_and_again_is_told_with_its_reason_and_given_up_where_it_is_hopeless(
    said: str, status: int, code: str, hopeless: bool
) -> None:
    now = [0.0]
    words = f"import sys; print({said!r}, flush=True); sys.exit({status})"
    child = Child("worker-0", [sys.executable, "-c", words], 0, clock=lambda: now[0])
    child.look()
    for death in range(1, supervisor.LAST_DEATHS + 1):
        assert child.process is not None
        assert child.process.wait(60) == status
        child.look()
        eventually(lambda: child.error_code == said.removeprefix("failed "))
        assert child.fault == (WorkerFault(code, exits=True) if death >= supervisor.QUICK_DEATHS else None)
        assert child.is_hopeless == (hopeless and death >= supervisor.LAST_DEATHS)
        now[0] += PAUSE_MAX_S
        child.look()
    assert child.process is not None
    assert child.process.wait(60) == status


def test_a_part_that_stays_alive_is_not_reported_any_more() -> None:
    now = [0.0]
    child = Child(
        "worker-0", ["/bin/sleep", "600"], 0, clock=lambda: now[0], deaths=supervisor.LAST_DEATHS, error_code="x"
    )
    child.look()
    try:
        assert child.fault == WorkerFault("x", exits=True)
        now[0] += STEADY_S
        child.look()
        assert child.fault is None
    finally:
        child.signal(signal.SIGKILL)
        assert child.wait(now[0] + 30)


@pytest.mark.parametrize("fell", [False, True])
def test_a_part_that_could_not_start_is_not_reported_any_more_once_it_does_its_work(fell: bool) -> None:
    """As a worker whose database was stopped for a minute; one that died after it was ready may do so again."""
    now = [0.0]
    dies = f"print({'ready' if fell else 'hello'!r}, flush=True); raise SystemExit(1)"
    child = Child("worker-0", [sys.executable, "-c", dies], 0, clock=lambda: now[0])
    for _ in range(supervisor.QUICK_DEATHS):
        now[0] += PAUSE_MAX_S
        child.look()
        eventually(child.heard.is_set)
        child.heard.clear()
        _died(child)
    assert child.fault == DIES
    child.command = [sys.executable, "-c", SPEAKS, "ready"]
    now[0] += PAUSE_MAX_S
    child.look()
    try:
        eventually(child.ready.is_set)
        assert child.fault == (DIES if fell else None)
    finally:
        child.signal(signal.SIGKILL)
        assert child.wait(now[0] + 30)


def test_what_keeps_a_part_that_lives_from_its_work_is_known_until_it_can_work_again() -> None:
    reading, writing = os.pipe()
    liveness = LivenessReporter(writing)
    with os.fdopen(reading, "rb") as said, os.fdopen(writing, "wb"):
        told = []
        for kept in ("", "database_full", "", ""):
            liveness.alive(kept)
            told.append(os.read(said.fileno(), 100) if select.select([said], [], [], 0.2)[0] else b"")
    assert told == [b"alive\n", b"blocked database_full\n", b"alive\n", b""], "a change is told at once"
    for lines, kept in ((told[:2], "database_full"), (told, "")):
        child = Child("worker-0", [sys.executable, "-c", SPEAKS, *(line.decode().strip() for line in lines if line)], 0)
        child.look()
        try:
            eventually(partial(_says, child, kept))
            assert child.fault == (WorkerFault(kept, exits=False) if kept else None)
        finally:
            child.signal(signal.SIGKILL)
            assert child.wait(time.monotonic() + 30)
        child.look()
        assert child.blocked_by == "", "one that is dead is kept from nothing"


def _says(child: Child, kept: str) -> bool:
    return child.heard.is_set() and child.blocked_by == kept


@pytest.mark.slow
def test_a_worker_whose_engine_cannot_be_written_says_so_to_whoever_asks(tmp_path: Path) -> None:
    job = {"vm_path": "a", "output_path": f"{tmp_path}/exports/a", "vcenter_url": "https://u:p@192.0.2.1"}
    with daemon(tmp_path, *FLAGS, tmp_path / "exports") as (url, _):
        with locked(tmp_path / "state" / "engine.sqlite3"):
            accepted = httpx.post(f"{url}/api/v1/jobs", json=job).json()["accepted"]
            explain = f"{url}/api/v1/jobs/{accepted[0]['id']}/explain"
            eventually(lambda: httpx.get(explain).json()["code"] == "database_locked")
            assert httpx.get(f"{url}/ready").json()["checks"]["workers"] == "one cannot do its work"
        eventually(lambda: httpx.get(explain).json()["code"] != "database_locked")
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)


@pytest.mark.slow
def test_a_daemon_whose_state_is_damaged_while_it_runs_ends_with_the_status_of_that(tmp_path: Path) -> None:
    """Its workers could be started again for ever; `/ready` says so first."""
    with daemon(tmp_path, *FLAGS, tmp_path / "exports") as (url, process):
        children = children_of(process.pid)
        state = tmp_path / "state" / "state.sqlite3"
        for pid in children.values():
            os.kill(pid, signal.SIGSTOP)
        for end in ("", "-wal"):
            file = state.with_name(state.name + end)
            file.write_bytes(os.urandom(max(8192, file.stat().st_size)))
        os.kill(children["worker:0"], signal.SIGKILL)
        os.kill(children["api"], signal.SIGCONT)
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 503)
        assert process.wait(START_S) == 12
    assert "cannot be started (database_damaged): the daemon ends" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_worker_that_begins_while_the_state_is_away_waits_for_it(tmp_path: Path) -> None:
    """It would make an empty one: without the jobs and the users, behind a daemon that says that all is well."""
    state, aside = tmp_path / "state", tmp_path / "aside"
    with daemon(tmp_path, *FLAGS, tmp_path / "exports") as (url, process):
        worker = children_of(process.pid)["worker:0"]
        before = (state / "state.sqlite3").stat().st_ino
        state.rename(aside)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: children_of(process.pid).get("worker:0", worker) != worker)
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 503)
        # The API and the worker report it.
        eventually(lambda: (tmp_path / "log").read_text().count("database_gone") >= 2)
        second = children_of(process.pid)["worker:0"]
        time.sleep(5)
        assert children_of(process.pid)["worker:0"] == second, "it waits, and is not started again and again"
        assert not state.exists()
        aside.rename(state)
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
    assert (state / "state.sqlite3").stat().st_ino == before


@pytest.mark.slow
def test_an_engines_file_that_is_removed_is_begun_anew_and_jobs_go_on(
    simulator: SimulatorFactory, tmp_path: Path
) -> None:
    server = simulator(machines=machines(1), rate_bytes_s=MiB)
    before = server.state()
    with daemon(tmp_path, *FLAGS, tmp_path / "exports", env=environ_of(server)) as (url, _):
        job = httpx.post(f"{url}/jobs/submit", json=_definition(tmp_path, "web-0")).json()["job_ids"][0]
        eventually(lambda: httpx.get(f"{url}/jobs/{job}").json()["progress"]["bytes_downloaded"] > MiB)
        (tmp_path / "state" / "engine.sqlite3").unlink()
        eventually(lambda: httpx.get(f"{url}/jobs/{job}").json()["status"] == "completed")
        assert httpx.get(f"{url}/ready").status_code == 200
    assert (tmp_path / "log").read_text().count("engine_gone") == 2, "one line in the log, and the error that ended it"
    assert server.state() == before
    assert_finished(tmp_path / "exports" / "web-0")


def _died(child: Child) -> None:
    assert child.process is not None
    assert child.process.wait(60) == 1
    child.look()
    assert child.process is None


def test_workers_yield_to_the_others() -> None:
    child = Child("worker-0", ["/bin/sleep", "60"], 10)
    child.start()
    try:
        assert child.process is not None
        own = os.getpriority(os.PRIO_PROCESS, 0)  # the suite itself may run under nice
        assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == min(own + 10, 19)
    finally:
        child.signal(signal.SIGKILL)
        assert child.wait(time.monotonic() + 30)
        child.look()


SPEAKS = "import sys, time\nfor word in sys.argv[1:]: print(word, flush=True)\ntime.sleep(600)"


@pytest.mark.parametrize("words", [["ready"], ["ready", "alive"]])
def test_what_is_silent_for_too_long_is_killed_and_started_again(
    words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    child = Child("api", [sys.executable, "-c", SPEAKS, *words], 0, clock=lambda: now[0], silent_s=10)
    child.look()
    first = child.process
    assert first is not None
    try:
        eventually(child.ready.is_set)
        time.sleep(0.2)  # all that it says is heard
        child.look()
        now[0] += 1000
        child.look()
        assert not child.hung, "the time in which nobody looked does not count"
        for _ in range(9):
            now[0] += 1
            child.look()
        assert not child.hung
        child.heard.set()
        for _ in range(11):
            now[0] += 1
            child.look()
        assert not child.hung, "it gave a sign"
        now[0] += 1
        child.look()
        assert child.hung
        assert "api reported nothing" in caplog.text
        assert first.wait(30) == -signal.SIGKILL
        child.look()
        assert (child.hung, child.process, child.ready.is_set()) == (False, None, False)
        now[0] += PAUSE_MAX_S
        child.look()
        assert child.process is not None
    finally:
        child.signal(signal.SIGKILL)
        assert child.wait(now[0] + 30)


def test_a_start_may_take_longer_than_a_silence() -> None:
    now = [0.0]
    child = Child("worker-0", [sys.executable, "-c", SPEAKS], 0, clock=lambda: now[0], silent_s=10)
    child.look()
    try:
        for _ in range(int(supervisor.START_S)):
            now[0] += 1
            child.look()
        assert not child.hung
        now[0] += 1
        child.look()
        assert child.hung
    finally:
        child.signal(signal.SIGKILL)
        assert child.wait(now[0] + 30)


def test_the_limit_is_two_periods_of_the_watchdog_and_longer_than_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert supervisor.silence_limit(DaemonSettings(state_dir=tmp_path, drain_s=5)) == supervisor.SILENT_S
    assert supervisor.silence_limit(DaemonSettings(state_dir=tmp_path, drain_s=100)) == 110
    monkeypatch.setenv("WATCHDOG_USEC", "90000000")
    assert supervisor.silence_limit(DaemonSettings(state_dir=tmp_path, drain_s=5)) == 180


class _Told(Exception):  # noqa: N818 - ends the loop of a test
    pass


def test_the_watchdog_is_not_fed_while_a_process_is_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[float] = []
    child = Child("api", ["/bin/sleep", "600"], 0)
    monkeypatch.setattr(Child, "start", lambda one: None)
    monkeypatch.setattr(supervisor, "_children", lambda _settings, _arguments: [child])
    monkeypatch.setattr(supervisor, "_on_signals", lambda *_: None)
    looks = iter([False, False, True, True, True])
    hung = [False]

    def look(_child: Child) -> None:
        try:
            hung[0] = next(looks)
        except StopIteration:
            raise _Told from None

    monkeypatch.setattr(Child, "look", look)
    monkeypatch.setattr(Child, "hung", property(lambda _child: hung[0]))
    with pytest.raises(_Told):
        supervisor.supervise(
            DaemonSettings(state_dir=tmp_path), [], ready=lambda: None, watchdog=lambda: fed.append(time.monotonic())
        )
    assert len(fed) == 2


@pytest.mark.slow
def test_a_stopped_part_is_noticed_and_a_busy_worker_is_left_alone(simulator: SimulatorFactory, tmp_path: Path) -> None:
    """SIGSTOP to the API, then to the worker; meanwhile the worker copies for longer than the limit."""
    large = (DiskSpec(96 * MiB, allocated_bytes=80 * MiB),)  # some 27 s
    server = simulator(machines=machines(1, large), rate_bytes_s=2 * MiB)
    limit_s = 10
    short = "from hypersdk.jobs import supervisor; supervisor.SILENT_S = 4.0"
    flags = (*FLAGS, tmp_path / "exports", "--drain", "0")
    with daemon(tmp_path, *flags, env=environ_of(server), before=short) as (url, process):
        first = children_of(process.pid)
        job = httpx.post(f"{url}/jobs/submit", json=_definition(tmp_path, "web-0")).json()["job_ids"][0]
        began = time.monotonic()
        os.kill(first["api"], signal.SIGSTOP)
        eventually(lambda: children_of(process.pid).get("api", first["api"]) != first["api"])
        assert time.monotonic() - began > limit_s - 3
        eventually(lambda: _answers(url))
        eventually(lambda: httpx.get(f"{url}/jobs/{job}").json()["status"] == "completed")
        assert time.monotonic() - began > 2 * limit_s, "the copy was too short to mean anything"
        assert children_of(process.pid)["worker:0"] == first["worker:0"]
        os.kill(first["worker:0"], signal.SIGSTOP)
        eventually(lambda: children_of(process.pid).get("worker:0", first["worker:0"]) != first["worker:0"])
    log = (tmp_path / "log").read_text()
    assert log.count("reported nothing for") == 2
    assert "api reported nothing" in log


@pytest.mark.slow
def test_a_killed_part_comes_back_and_the_end_is_in_order(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(machines=machines(1), rate_bytes_s=MiB)
    with daemon(tmp_path, *FLAGS, tmp_path / "exports", env=environ_of(server)) as (url, process):
        first = children_of(process.pid)
        assert set(first) == {"api", "worker:0"}
        for pid in first.values():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(now := children_of(process.pid)) == 2 and not set(now.values()) & set(first.values()))
        eventually(lambda: _answers(url))
        job = httpx.post(f"{url}/jobs/submit", json=_definition(tmp_path, "web-0")).json()["job_ids"][0]
        eventually(lambda: httpx.get(f"{url}/jobs/{job}").json()["progress"]["bytes_downloaded"] > MiB)
        process.send_signal(signal.SIGTERM)
        # The API answers until the worker has brought its job to a checkpoint.
        answered = ""
        with contextlib.suppress(httpx.TransportError):
            while process.poll() is None:
                answered = httpx.get(f"{url}/jobs/{job}").json()["status"]
                if "worker:0" not in children_of(process.pid):
                    break
        assert answered in ("running", "pending")
        assert process.wait(START_S) == 0
        assert children_of(process.pid) == {}
    assert server.counters.streams_now.total() == 0
    assert not {pid for pid in first.values() if Path(f"/proc/{pid}/cmdline").exists()}


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_supervisor_api_and_worker_while_8_jobs_run(
    simulator: SimulatorFactory, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """20 kills, or a third of them, in an order that is drawn; what is killed with the parent ends by itself. No disk
    that was finished is fetched again, no lease or snapshot is left."""
    count, kills = 8, 20 if pytestconfig.getoption("full") else 7
    large = DiskSpec(96 * MiB, allocated_bytes=64 * MiB)
    server = simulator(machines=machines(count, (SMALL, SMALL, large)), rate_bytes_s=2 * MiB)
    before = server.state()
    expected = [expected_raw(server, f"web-{n}", tmp_path / f"expected-{n}") for n in range(count)]
    draw = random.Random(SEED)
    victims = [("supervisor", "api", "worker:0")[number % 3] for number in range(kills)]
    draw.shuffle(victims)
    config = tmp_path / "config.toml"
    config.write_text(
        f'take_over_s = 4.0\njobs_per_worker = {count}\nstreams_per_host = 16\nexport_roots = ["{tmp_path}/exports"]\n'
    )
    ids: list[str] = []
    finished: dict[tuple[str, int], int] = {}
    while victims:
        with _daemon(tmp_path, config, server) as (url, process):
            if not ids:
                wanted = [
                    {**_definition(tmp_path, f"web-{number}"), "options": {"parallel_downloads": 1}}
                    for number in range(count)
                ]
                ids = httpx.post(f"{url}/jobs/submit", json=wanted).json()["job_ids"]
            while victims:
                eventually(lambda: len(children_of(process.pid)) == 2)
                time.sleep(draw.uniform(0.2, 4.0))
                victim = victims.pop()
                left = children_of(process.pid)
                if victim == "supervisor":
                    process.kill()
                    process.wait()
                    eventually(partial(_gone, left.values()))
                else:
                    os.kill(left[victim], signal.SIGKILL)
                    eventually(partial(_gone, [left[victim]]))
                if victim != "api":  # no worker lives now: what is counted is all that was asked for
                    finished = _finished(tmp_path, server, ids) | finished
                if not victims and len(finished) < count:
                    victims.append("worker:0")  # a busy machine needs more of them until enough disks are whole
                if victim == "supervisor":
                    break
    assert len(finished) >= count, "too few disks were finished between the kills for the proof to mean anything"
    with _daemon(tmp_path, config, server) as (url, _process):
        eventually(lambda: _answers(url))
        running = {httpx.get(f"{url}/jobs/{job}").json()["status"] for job in ids}
        assert running & {"pending", "running"}, "nothing was left to kill"
        done = ("completed", "failed", "cancelled")
        eventually(lambda: all(httpx.get(f"{url}/jobs/{job}").json()["status"] in done for job in ids), 300)
        ended = [httpx.get(f"{url}/jobs/{job}").json() for job in ids]
        assert {job["status"] for job in ended} == {"completed"}, ended
    for number in range(count):
        folder = tmp_path / "exports" / f"web-{number}"
        assert_finished(folder)
        assert_holds(folder, expected[number], content_in_manifest(folder), tmp_path / f"scratch-{number}")
    assert {disk: fetches(server, *disk) for disk in finished} == finished
    assert server.state() == before


def _finished(folder: Path, server: Simulator, ids: list[str]) -> dict[tuple[str, int], int]:
    """How often each disk that is finished, by the runs' records, was asked for so far."""
    database = Database.open(f"sqlite:///{folder}/state/state.sqlite3")
    try:
        with database.read() as connection:
            query = sa.select(jobs.c.subject, runs.c.record).join(runs, runs.c.job_id == jobs.c.id)
            records = connection.execute(query.where(jobs.c.id.in_(ids))).all()
    finally:
        database.close()
    return {
        (row.subject, index): fetches(server, row.subject, index)
        for row in records
        for index, disk in enumerate(json.loads(row.record)["disks"])
        if disk["receipt"] is not None
    }


@contextlib.contextmanager
def _daemon(folder: Path, config: Path, server: Simulator) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    (folder / "notify").unlink(missing_ok=True)
    with daemon(folder, "--no-auth", "--config", config, env=environ_of(server)) as found:
        yield found


ASK = """
import sys, time, httpx
url, jobs, taken = sys.argv[1], sys.argv[2:], []
with httpx.Client(base_url=url) as client:
    while len(taken) < 400:
        began = time.perf_counter()
        answer = client.get(f"/jobs/{jobs[len(taken) % len(jobs)]}")
        taken.append(time.perf_counter() - began)
        assert answer.status_code == 200
        if answer.json()["status"] not in ("pending", "running"):
            break
        time.sleep(0.01)
print(len(taken), *sorted(taken))
"""
"""A client of its own process: the simulator is in this one."""


@pytest.mark.slow
def test_the_api_answers_while_four_jobs_are_copied(simulator: SimulatorFactory, tmp_path: Path) -> None:
    """Each answer within the five seconds that httpx waits. The goal, a p99 of 50 ms on a machine of its own, is a
    benchmark."""
    disks = (DiskSpec(1024 * MiB, allocated_bytes=512 * MiB),)
    server = simulator(machines=machines(4, disks))
    with daemon(tmp_path, *FLAGS, tmp_path / "exports", env=environ_of(server)) as (url, _process):
        wanted = [_definition(tmp_path, f"web-{number}") for number in range(4)]
        jobs = httpx.post(f"{url}/jobs/submit", json=wanted).json()["job_ids"]
        eventually(lambda: httpx.get(f"{url}/jobs/{jobs[0]}").json()["progress"]["bytes_downloaded"] > 0)
        told = subprocess.run(
            [sys.executable, "-c", ASK, url, *jobs], capture_output=True, text=True, check=True, timeout=180
        )
    count, *taken = (float(word) for word in told.stdout.split())
    p50, p99 = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
    print(f"{count:.0f} answers beside 4 copies: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")


def _gone(pids: Collection[int]) -> bool:
    return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def _definition(folder: Path, name: str) -> dict[str, object]:
    return {"vm_path": name, "output_path": str(folder / "exports" / name), "format": "qcow2"}


def test_the_folder_that_it_was_started_in_has_no_say_in_what_runs(tmp_path: Path) -> None:
    planted = tmp_path / "hypersdk"
    planted.mkdir()
    (planted / "__init__.py").write_text("raise SystemExit('planted code runs')\n")
    (child, *_) = supervisor._children(DaemonSettings(state_dir=tmp_path / "state"), ["--show-config"])
    command = [word for word in child.command if not word.startswith(("worker:", "api", "--process"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert "jobs_per_worker" in done.stdout
