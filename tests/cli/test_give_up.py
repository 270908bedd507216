"""What can never be undone at the source: `cleanup` says so each time, and `--give-up` ends it, with what stays behind
named."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from hypersdk.migration.runfile import Change, ChangeKind, FolderRuns, RunFile
from hypersdk.migration.spec import Compression, OutputFormat
from hypersdk.simulator import Simulator
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.machine import take_snapshot
from hypersdk.vsphere.cdrom import CdromChange
from tests.support.cli.shell import Shell, small
from tests.support.simulator import SimulatorFactory

GONE = CdromChange(
    key=3000,
    label="CD/DVD drive 1",
    iso="[gone] tools.iso",
    datastore="datastore-999",
    backing_object=None,
    connected=False,
    start_connected=True,
    allow_guest_control=True,
    migrate_connect=None,
)


@pytest.fixture
def server(simulator: SimulatorFactory) -> Simulator:
    return simulator(machines=(small("web", power="poweredOn"),))


@pytest.fixture
def shell(server: Simulator, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


def interrupted(shell: Shell, folder: Path, *changes: Change, moref: str | None = None) -> RunFile:
    """A run of 'web' that ended with these changes open."""
    folder.mkdir()
    run = RunFile.create(
        folder,
        FolderRuns(shell.home / ".local" / "state" / "hypersdk"),
        endpoint=f"{shell.server.username}@{shell.server.host}:{shell.server.port}",
        moref=moref or shell.server.vm("web").ref.moref,
        machine="web",
        format=OutputFormat.QCOW2,
        compress=Compression.NONE,
        disks=[],
    )
    with run.changing() as record:
        record.changes.extend(changes)
    run.make_known()
    return run


def test_an_image_on_a_datastore_that_is_gone(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(shell, out, Change(ChangeKind.CDROM, {"drives": [asdict(GONE)]}, made=True))
    for _ in range(2):
        failed = shell("cleanup", out, "--json")
        assert (failed.status, failed.error["code"]) == (11, "not_restored")
        assert "--give-up" in failed.error["next_step"]
    before = shell.server.state()
    ended = shell.good("cleanup", out, "--give-up")
    assert "left behind: drives of 'web' (" in ended.err
    assert "CD/DVD drive 1 without [gone] tools.iso" in ended.err
    assert "restore" not in ended.out.replace("nothing to restore", "")
    assert shell.server.state() == before
    shell.good("cleanup", out)
    (seen,) = shell.good("status", "--json").events
    assert seen["left_on_source"] == []


def test_only_what_is_refused_is_given_up(shell: Shell, tmp_path: Path) -> None:
    out, refused = tmp_path / "out", Fault(FaultKind.CALL, method="PowerOnVM_Task", fault="FileNotFound", times=None)
    shell.server.set_faults(Fault(FaultKind.CORRUPT, disk="web:0", times=None), refused)
    before = shell.server.state()
    assert shell("export", "web", "-o", out, "--power-off", "--retries", "0").status == 8
    interrupted(shell, tmp_path / "two", Change(ChangeKind.CDROM, {"drives": [asdict(GONE)]}, made=True))
    assert shell("cleanup").status == 11
    (event,) = shell.good("cleanup", out, "--give-up", "--json").events
    assert event["undone"] == []
    assert [text.partition(" stays")[2] for text in event["given_up"]] == [" powered off, if it is; it was running"]
    assert shell("cleanup").status == 11, "the other one is not given up"
    shell.server.set_faults()
    assert shell.server.state() != before, "nobody powers it on any more"
    left = {Path(seen["folder"]).name: seen["left_on_source"] for seen in shell.good("status", "--json").events}
    assert left == {"out": [], "two": ["cdrom"]}


def test_what_can_be_undone_is_undone_first(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lost = Change(ChangeKind.CDROM, {"drives": [asdict(GONE)]}, made=True)
    run = interrupted(shell, out, lost)
    snapshot = Change(ChangeKind.SNAPSHOT, {"name": run.record.snapshot_name}, made=True)
    with run.changing() as record:
        record.changes.insert(0, snapshot)
    machine = shell.server.vm("web")
    take_snapshot(machine, run.record.snapshot_name, "")
    (event,) = shell.good("cleanup", out, "--give-up", "--json").events
    assert event["undone"] == ["snapshot"]
    assert len(event["given_up"]) == len(event["problems"]) == 1


def test_a_machine_that_is_gone(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(shell, out, Change(ChangeKind.SNAPSHOT, {"name": "hypersdk-1"}, made=True), moref="vm-999999")
    assert shell("cleanup", out, "--drop-snapshots").status == 11
    told = shell.good("cleanup", out, "--give-up").err
    assert "snapshot hypersdk-1 of 'web' (vm-999999)" in told
    shell.good("cleanup", out, "--drop-snapshots")


def test_a_server_that_does_not_answer_has_refused_nothing(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(shell, out, Change(ChangeKind.POWER, {}, made=True))
    shell.server.vm("web").power = "poweredOff"
    shell.server.set_faults(Fault(FaultKind.CALL, method="PowerOnVM_Task", fault="Timedout", times=None))
    failed = shell("cleanup", out, "--give-up", "--json")
    assert (failed.status, failed.events[0]["given_up"]) == (11, [])
    shell.server.set_faults()
    shell.good("cleanup", out)
    assert shell.server.vm("web").power == "poweredOn"


def test_nothing_is_given_up_without_its_folder(shell: Shell, tmp_path: Path) -> None:
    assert shell("cleanup", "--give-up", "--json").error["code"] == "usage"
