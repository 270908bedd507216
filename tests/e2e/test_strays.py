"""``cleanup`` beside other runs of the program: active, killed, of another user; and what it reports about each before
it removes anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.cli.commandline import environment, terminal
from tests.support.cli.hyper2kvm import HYPER2KVM, Program, ProgramFactory, Running
from tests.support.simulator import snapshot_names

Copying = Callable[[Program, Simulator, Path], Running]
pytestmark = [pytest.mark.slow, pytest.mark.waits]
MACHINE = MachineSpec("web-01", disks=(DiskSpec(64 * MiB, allocated_bytes=48 * MiB),), power="poweredOn")
NO_DAEMON = {"HYPERVISORD_URL": "http://127.0.0.1:9"}


@pytest.fixture
def copying() -> Iterator[Copying]:
    """Starts an export that holds its temporary snapshot; running exports are killed at the end."""
    started: list[Running] = []

    def start(program: Program, simulator: Simulator, folder: Path) -> Running:
        # Without a lease: vSphere keeps the snapshot as long as there is one, also that of a dead process.
        program.more_env |= NO_DAEMON
        running = program.start("export", "--json", "web-01", "-o", folder, "--source", "datastore")
        started.append(running)
        running.until(lambda: any(event.get("phase") == "transferring" for event in list(running.seen)))
        assert len(snapshot_names(simulator)) == 1
        return running

    yield start
    for running in started:
        kill(running)


def kill(running: Running) -> None:
    """``kill -9``."""
    if running.process.poll() is None:
        running.process.kill()
        running.wait()


def test_a_run_at_work_is_left_alone_though_its_folder_is_gone(
    program: ProgramFactory, copying: Copying, tmp_path: Path
) -> None:
    simulator, mine = program(machines=(MACHINE,), rate_bytes_s=MiB // 4)
    running = copying(mine, simulator, tmp_path / "out")
    held = snapshot_names(simulator)
    ended = mine.run("cleanup", "--stray")
    assert ended.status == 0, ended.explain()
    shutil.rmtree(tmp_path / "out")
    ended = mine.run("cleanup", "--stray")
    assert (ended.status, "in use, left alone" in ended.err) == (0, True), ended.explain()
    assert f"process {running.process.pid}" in ended.err
    assert snapshot_names(simulator) == held
    kill(running)


def test_another_users_run_needs_the_exact_name(program: ProgramFactory, copying: Copying, tmp_path: Path) -> None:
    simulator, mine = program(machines=(MACHINE,), rate_bytes_s=MiB // 4)
    running = copying(mine, simulator, tmp_path / "out")
    (name,) = snapshot_names(simulator)
    stranger = Program(tmp_path / "stranger", simulator, more_env=NO_DAEMON)
    ended = stranger.run("cleanup", "--stray", "--json")
    assert (ended.status, ended.error["code"]) == (6, "snapshot_unclaimed")
    (warning,) = [event["message"] for event in ended.seen if event["type"] == "warning"]
    assert "hyper2kvm, run " in warning
    assert " old, owner: " in warning
    assert stranger.run("cleanup", "--snapshot", f"{name}x", "--json").error["code"] == "snapshot_not_found"
    assert snapshot_names(simulator) == [name]
    kill(running)
    assert stranger.run("cleanup", "--stray", "--json").error["code"] == "snapshot_unclaimed", (
        "nothing proves that it is over"
    )
    assert stranger.run("cleanup", "--snapshot", name, "--json").status == 0
    assert snapshot_names(simulator) == []


def test_a_killed_run_of_mine_without_its_folder(program: ProgramFactory, copying: Copying, tmp_path: Path) -> None:
    """Removed after confirmation; without a terminal by --stray alone, because its process is dead and its record is
    gone."""
    simulator, mine = program(machines=(MACHINE,), rate_bytes_s=MiB // 4)
    running = copying(mine, simulator, tmp_path / "out")
    (name,) = snapshot_names(simulator)
    kill(running)
    assert mine.run("cleanup", "--stray", "--json").status == 0
    assert snapshot_names(simulator) == [name], "it waits for --resume as long as its record is there"
    shutil.rmtree(tmp_path / "out")
    (shown,) = mine.run("status", "--json").seen
    assert (shown["id"], shown["active"]) == (name.removeprefix("hypersdk-"), False)
    assert "its record is gone" in shown["error"]
    ended = mine.run("cleanup")
    assert "--stray asks" in ended.err
    assert snapshot_names(simulator) == [name]
    env = environment(
        mine.home,
        GOVC_URL=simulator.url,
        GOVC_USERNAME=simulator.username,
        GOVC_PASSWORD=simulator.password,
        GOVC_INSECURE="1",
        **NO_DAEMON,
    )
    for answer, left in (("\n", [name]), ("y\n", [])):
        with terminal([str(HYPER2KVM), "cleanup", "--stray"], env, (120, 30)) as shown_at:
            shown_at.wait_for("[y/N]")
            assert "no process is working on it" in " ".join(shown_at.text.split())
            shown_at.type(answer)
            assert shown_at.finish() == 0
        assert snapshot_names(simulator) == left
    assert mine.run("status", "--json").seen == []


def test_without_a_terminal_stray_removes_what_runs_of_mine_left_over(
    program: ProgramFactory, copying: Copying, tmp_path: Path
) -> None:
    simulator, mine = program(machines=(MACHINE,), rate_bytes_s=MiB // 4)
    before = simulator.state()
    running = copying(mine, simulator, tmp_path / "out")
    kill(running)
    shutil.rmtree(tmp_path / "out")
    ended = mine.run("cleanup", "--stray", "--json", timeout_s=60)
    assert ended.status == 0, ended.explain()
    assert ended.event("removed")["snapshot"].startswith("hypersdk-")
    assert simulator.state() == before


def test_a_run_can_be_forgotten_and_what_stays_is_named(
    program: ProgramFactory, copying: Copying, tmp_path: Path
) -> None:
    simulator, mine = program(machines=(MACHINE,), rate_bytes_s=MiB // 4)
    running = copying(mine, simulator, tmp_path / "out")
    (name,) = snapshot_names(simulator)
    assert mine.run("status", "--forget", tmp_path / "out", "--json").error["code"] == "run_active"
    kill(running)
    (shown,) = mine.run("status", "--json").seen
    assert shown["left_on_source"] == ["snapshot"]
    ended = mine.run("status", "--forget", tmp_path / "out", "--json")
    left = ended.event("forgotten")["left"]
    assert any(f"cleanup --snapshot {name}" in text for text in left), left
    assert any(str(tmp_path / "out") in text for text in left), left
    assert (tmp_path / "out" / "web-01-disk1.qcow2.partial").exists()
    assert mine.run("status", "--json").seen == []
    assert mine.run("status", "--forget", tmp_path / "out", "--json").error["code"] == "run_unknown"
    assert snapshot_names(simulator) == [name]
    assert mine.run("cleanup", "--snapshot", name, "--json").status == 0
    assert snapshot_names(simulator) == []


def test_a_run_is_found_by_the_path_that_it_was_begun_with(
    program: ProgramFactory, copying: Copying, tmp_path: Path
) -> None:
    """The folder was named through a link, as `/srv/images` may be; the command that was printed then must find it."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "images").symlink_to("volume")
    simulator, mine = program(machines=(MACHINE,), rate_bytes_s=MiB // 4)
    kill(copying(mine, simulator, tmp_path / "images" / "out"))
    ended = mine.run("cleanup", "--drop-snapshots", tmp_path / "images" / "out", "--json")
    assert ended.status == 0, ended.explain()
    assert ended.event("cleanup")["undone"] == ["snapshot"]
    assert snapshot_names(simulator) == []
    ended = mine.run("status", "--forget", tmp_path / "images" / "out", "--json")
    assert ended.status == 0, ended.explain()
