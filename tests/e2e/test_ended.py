"""Faults that end an export: it has the right code and exit status, publishes no files, releases the lease and restores
the source."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.errors import ConnectError, HyperSDKError, TargetError
from hypersdk.migration import prepare
from hypersdk.migration.runfile import FolderRuns, RunFile
from hypersdk.migration.runs import clean_up, unfinished_runs
from hypersdk.migration.spec import Compression, Method, OutputFormat, ResumeMode
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from tests.support.cli.hyper2kvm import ProgramFactory, Running
from tests.support.exportchecks import RUN_FILE, assert_finished, assert_holds, assert_no_final_names, expected_raw
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.outages import mounted

pytestmark = pytest.mark.waits

OFF: Final = MachineSpec("web-01", disks=(DiskSpec(16 * MiB, allocated_bytes=12 * MiB), DiskSpec(8 * MiB)))
RUNNING: Final = MachineSpec("web-01", disks=OFF.disks, power="poweredOn", iso="[iso-library] tools/virtio-win.iso")
CORRUPT: Final = Fault(FaultKind.CORRUPT, disk="web-01:0", after_bytes=2 * MiB, times=None)
MACHINES: Final = pytest.mark.parametrize("machine", [OFF, RUNNING], ids=["off", "running"])
FORMATS: Final = pytest.mark.parametrize("kind", [OutputFormat.QCOW2, OutputFormat.OVA], ids=str)


def ends(engine: Engine, tmp_path: Path, **spec: Any) -> HyperSDKError:
    """Exports ``web-01``, which must fail and leave nothing behind: neither on the source nor under a final name."""
    before = engine.simulator.state()
    folder = tmp_path / "out"
    outcome = engine.export("web-01", folder, **spec)
    assert outcome.result is None
    assert outcome.error is not None
    assert "not_undone" not in outcome.error.fields
    assert_no_final_names(folder)
    assert engine.simulator.state() == before
    assert engine.simulator.platform.sessions.all() == []
    return outcome.error


@MACHINES
@FORMATS
def test_a_damaged_grain(machine: MachineSpec, kind: OutputFormat, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(machine,))
    ran.simulator.set_faults(CORRUPT)
    error = ends(ran, tmp_path, format=kind, remove_cdrom=True)
    assert (error.code, error.exit_status) == ("corrupt_grain", 8)
    assert "Hard disk 1" in error.message
    assert ran.simulator.counters.opened["web-01:0"] == 1, "damaged bytes are not asked for until they come right"


@MACHINES
def test_a_manifest_that_says_otherwise(machine: MachineSpec, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(machine,))
    ran.simulator.set_faults(Fault(FaultKind.WRONG_MANIFEST, disk="web-01:1"))
    error = ends(ran, tmp_path)
    assert (error.code, error.exit_status) == ("manifest_mismatch", 8)
    assert error.fields["disks"] == ["Hard disk 2"]


@pytest.mark.parametrize("source", [Method.LEASE, Method.DATASTORE], ids=str)
def test_a_body_that_is_short_each_time(source: Method, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(OFF,))
    ran.simulator.set_faults(Fault(FaultKind.SHORT, disk="web-01:0", after_bytes=KiB, times=None))
    error = ends(ran, tmp_path, method=source, retries=1)
    code = {Method.LEASE: "truncated_stream", Method.DATASTORE: "short_body"}[source]
    assert error.code == code
    assert error.exit_status in (7, 8)
    if source is Method.LEASE:
        assert ran.simulator.counters.opened["web-01:0"] == 2


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.RESET, "connection_reset"),
        (FaultKind.STATUS, "server_busy"),
        (FaultKind.NFC_EXHAUSTED, "nfc_exhausted"),
    ],
    ids=lambda value: str(value),
)
def test_a_stream_that_breaks_each_time(kind: FaultKind, code: str, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(OFF,))
    ran.simulator.set_faults(Fault(kind, disk="web-01:0", times=None, after_bytes=MiB))
    error = ends(ran, tmp_path, retries=1)
    assert (error.code, error.exit_status) == (code, 7)


def test_a_lease_that_is_lost_each_time(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(OFF,))
    ran.simulator.set_faults(Fault(FaultKind.LEASE_TIMEOUT, disk="web-01:0", times=None, after_bytes=MiB))
    assert ends(ran, tmp_path, retries=1).exit_status == 7


def test_an_export_that_the_host_cannot_prepare(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(OFF,))
    ran.simulator.set_faults(Fault(FaultKind.LEASE_ERROR))
    assert ends(ran, tmp_path).exit_status == 7


def test_a_machine_that_is_refused_just_now_is_not_read_from_its_datastore(
    engine: EngineFactory, tmp_path: Path
) -> None:
    ran = engine(machines=(OFF,))
    ran.simulator.set_faults(Fault(FaultKind.CALL, method="ExportVm", fault="InvalidPowerState", times=None))
    error = ends(ran, tmp_path)
    assert (error.code, error.exit_status) == ("power_state", 6)
    assert dict(ran.simulator.counters.ranges) == {}


def test_a_licence_without_export_is_told_where_the_datastore_cannot_be_read_either(
    engine: EngineFactory, tmp_path: Path
) -> None:
    machine = MachineSpec("web-01", disks=(DiskSpec(4 * MiB, backing="sesparse"),))
    error = ends(engine(machines=(machine,), free_licence=True), tmp_path)
    assert (error.code, error.exit_status) == ("license_refuses_export", 6)
    assert "Hard disk 1" in str(error.fields["no_ranges"])
    assert ["the datastore cannot be read instead" in note for note in error.__notes__] == [True]


@pytest.mark.parametrize(
    "method", ["CreateSnapshot_Task", "ExportSnapshot", "HttpNfcLeaseGetManifest", "HttpNfcLeaseComplete"]
)
def test_a_call_that_fails_is_no_reason_to_leave_anything_behind(
    method: str, engine: EngineFactory, tmp_path: Path
) -> None:
    """Whatever the result of the export, the source is restored."""
    ran = engine(machines=(RUNNING,))
    before = ran.simulator.state()
    ran.simulator.set_faults(Fault(FaultKind.CALL, method=method, times=1))
    outcome = ran.export("web-01", tmp_path / "out", remove_cdrom=True)
    assert ran.simulator.state() == before
    if method in ("CreateSnapshot_Task", "ExportSnapshot"):
        assert outcome.error is not None
        assert outcome.error.exit_status == 7
    else:
        succeeded(outcome)


@pytest.mark.parametrize(
    ("machine", "kind"),
    [("web-01", OutputFormat.QCOW2), ("web-02", OutputFormat.OVA), ("web-02", OutputFormat.RAW)],
    ids=["another format", "another machine", "both"],
)
def test_a_discard_leaves_nothing_of_the_run_that_it_gives_up(
    machine: str, kind: OutputFormat, engine: EngineFactory, tmp_path: Path
) -> None:
    ran, folder = engine(machines=(OFF, replace(OFF, name="web-02"))), tmp_path / "out"
    ran.simulator.set_faults(Fault(FaultKind.RESET, disk="web-01:1", after_bytes=MiB))
    assert ran.export("web-01", folder, format=OutputFormat.OVA, retries=0).error is not None
    assert (folder / "web-01.ova.partial").exists()
    succeeded(ran.export(machine, folder, format=kind, resume=ResumeMode.DISCARD))
    assert_finished(folder)


def test_a_snapshot_that_cannot_be_removed_is_told(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(RUNNING,))
    before, folder = ran.simulator.state(), tmp_path / "out"
    ran.simulator.set_faults(Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None))
    outcome = ran.export("web-01", folder)
    assert outcome.result is not None
    assert not outcome.result.restored
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.exit_status) == ("not_restored", 11)
    assert (folder / RUN_FILE).exists()
    assert ran.simulator.state() != before
    ran.simulator.set_faults()
    with ran.log_in() as session:
        done = clean_up(
            session, folder, FolderRuns(ran.state), drop_snapshot=True, cancel=CancelToken(), note=lambda _: None
        )
    assert (done.undone, done.problems) == (("snapshot",), ())
    assert ran.simulator.state() == before
    assert unfinished_runs(ran.state) == []
    assert_finished(folder)


@pytest.mark.parametrize("folder_stays", [False, True])
def test_a_clean_up_writes_nothing_into_a_folder_that_another_run_has_by_then(
    folder_stays: bool, engine: EngineFactory, tmp_path: Path
) -> None:
    """vSphere takes minutes to remove a snapshot, and somebody starts another export in the folder meanwhile."""
    ran, folder = engine(machines=(RUNNING,)), tmp_path / "out"
    before = ran.simulator.state()
    ran.simulator.set_faults(Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None))
    assert ran.export("web-01", folder).error is not None
    ran.simulator.set_faults()
    theirs: list[RunFile] = []

    def meanwhile(note: str) -> None:
        if "removing snapshot" in note:
            for path in list(folder.iterdir()):
                path.unlink()
            if not folder_stays:
                folder.rmdir()
                folder.mkdir()
            theirs.append(
                RunFile.create(
                    folder,
                    FolderRuns(tmp_path / "theirs"),
                    endpoint="e",
                    moref="vm-7",
                    machine="other",
                    format=OutputFormat.RAW,
                    compress=Compression.NONE,
                )
            )

    with ran.log_in() as session, suppress(TargetError):
        clean_up(session, folder, FolderRuns(ran.state), drop_snapshot=True, cancel=CancelToken(), note=meanwhile)
    assert ran.simulator.state() == before, "the source is put back all the same"
    (run,) = theirs
    kept = RunFile.load(folder, FolderRuns(tmp_path / "theirs"))
    assert kept is not None
    assert kept.record.run_id == run.record.run_id


def test_a_failed_export_tells_what_it_could_not_undo(program: ProgramFactory, tmp_path: Path) -> None:
    stuck = Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None)
    simulator, hyper2kvm = program(machines=(RUNNING,), faults=(CORRUPT, stuck))
    before = simulator.state()
    ended = hyper2kvm.export("web-01", "-o", tmp_path / "out", "--remove-cdrom")
    assert ended.error["code"] == "corrupt_grain"
    assert ["temporary snapshot" in told for told in ended.error["not_undone"]] == [True]
    assert "hyper2kvm cleanup" in ended.error["next_step"]
    simulator.set_faults()
    assert hyper2kvm.run("cleanup", "--drop-snapshots", "--json").status == 0
    assert simulator.state() == before


@pytest.mark.parametrize("look", ["_still_at_point", "_follow_own_changes"])
def test_a_look_at_the_machine_that_fails_does_not_keep_it_from_being_put_back(
    look: str, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectError("the server is away for a moment")

    monkeypatch.setattr(prepare, look, away)
    ran = engine(machines=(replace(OFF, iso=RUNNING.iso),))
    ran.simulator.set_faults(CORRUPT)
    assert ends(ran, tmp_path, remove_cdrom=True).code == "corrupt_grain"


def test_the_program_tells_code_and_status(program: ProgramFactory, tmp_path: Path) -> None:
    simulator, hyper2kvm = program(machines=(OFF,), faults=(CORRUPT,))
    before = simulator.state()
    ended = hyper2kvm.export("web-01", "-o", tmp_path / "out")
    assert ended.status == 8
    assert (ended.error["code"], ended.error["exit_status"]) == ("corrupt_grain", 8)
    assert simulator.state() == before
    assert_no_final_names(tmp_path / "out")


# A target that says no


def take_room(folder: Path, leave_bytes: int) -> Path:
    """Another file, which leaves that much free space on the file system."""
    ballast = folder / "ballast"
    stat = os.statvfs(folder)
    with ballast.open("wb") as file:
        for _ in range(stat.f_bavail * stat.f_frsize - leave_bytes >> 16):
            file.write(bytes(64 * KiB))
    return ballast


def take_the_last_page(folder: Path) -> None:
    """Fills the file system completely."""
    with (folder / "crumbs").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4 * KiB))


GROWN: Final = MachineSpec(
    "web-01",
    disks=(DiskSpec(48 * MiB, allocated_bytes=44 * MiB), DiskSpec(8 * MiB)),
    power="poweredOn",
    iso=RUNNING.iso,
)
SMALL: Final = 64 * MiB
ROOM: Final = 12 * MiB
RATE: Final = 8 * MiB


def has_waited(running: Running) -> bool:
    """Whether the output reports that a disk waits for space."""
    disks = [disk for event in running.seen if event["type"] == "progress" for disk in event["disks"]]
    return any(disk["phase"] == "waiting" and "is full: waiting for free space" in disk["note"] for disk in disks)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qcow2", "ovf"])
def test_a_disk_that_stays_full_ends_it_and_undoes_all_at_the_source(
    kind: str, program: ProgramFactory, tmp_path: Path
) -> None:
    """The snapshot is removed too, although the journal cannot be written."""
    simulator, hyper2kvm = program(machines=(GROWN,), rate_bytes_s=RATE)
    before = simulator.state()
    with mounted(tmp_path / "small", SMALL, mode="755") as disk:
        small = disk.folder
        folder = small / "out"
        running = hyper2kvm.start(
            "export", "--json", "web-01", "-o", folder, "--format", kind, "--space-wait", "4", "--remove-cdrom"
        )
        running.until(lambda: simulator.counters.streams_now.total() > 0)
        take_room(small, ROOM)
        running.until(lambda: has_waited(running))
        take_the_last_page(small)
        ended = running.wait()
        assert ended.status == 9, ended.explain()
        assert ended.error["code"] == "no_space"
        assert "stayed full for 4" in ended.error["message"]
        assert "not_undone" not in ended.error
        assert simulator.state() == before
        with pytest.raises(OSError, match="space"):
            (small / "more").write_bytes(bytes(8 * KiB))
        assert simulator.platform.sessions.all() == []
        assert_no_final_names(folder)
        hyper2kvm.assert_no_crash()


@pytest.mark.slow
def test_a_full_disk_pauses_and_goes_on_when_there_is_room(program: ProgramFactory, tmp_path: Path) -> None:
    simulator, hyper2kvm = program(machines=(GROWN,), rate_bytes_s=RATE)
    before = simulator.state()
    expected = expected_raw(simulator, "web-01", tmp_path / "expected")
    with mounted(tmp_path / "small", 2 * SMALL, mode="755") as disk:
        small = disk.folder
        folder = small / "out"
        running = hyper2kvm.start("export", "--json", "web-01", "-o", folder, "--space-wait", "60")
        running.until(lambda: simulator.counters.streams_now.total() > 0)
        ballast = take_room(small, ROOM)
        running.until(lambda: has_waited(running))
        ballast.unlink()
        ended = running.wait()
        assert_holds(folder, expected, ended.result["content"], tmp_path / "judged")
        assert_finished(folder)
    assert simulator.state() == before
    assert simulator.counters.opened == {"web-01:0": 1, "web-01:1": 1}


@pytest.mark.slow
def test_after_a_full_disk_the_rest_is_copied_once_there_is_room(program: ProgramFactory, tmp_path: Path) -> None:
    off = MachineSpec("web-01", disks=GROWN.disks)
    simulator, hyper2kvm = program(machines=(off,), rate_bytes_s=RATE)
    expected = expected_raw(simulator, "web-01", tmp_path / "expected")
    with mounted(tmp_path / "small", 2 * SMALL, mode="755") as disk:
        small = disk.folder
        folder = small / "out"
        running = hyper2kvm.start("export", "--json", "web-01", "-o", folder, "--space-wait", "1")
        running.until(lambda: simulator.counters.streams_now.total() > 0)
        ballast = take_room(small, ROOM)
        assert running.wait().error["code"] == "no_space"
        ballast.unlink()
        ended = hyper2kvm.export("web-01", "-o", folder, "--resume")
        assert ended.result["blocks_skipped"] > 0
        assert_holds(folder, expected, ended.result["content"], tmp_path / "judged")


def test_too_little_room_is_refused_before_anything_is_done(program: ProgramFactory, tmp_path: Path) -> None:
    simulator, hyper2kvm = program(machines=(GROWN,))
    with mounted(tmp_path / "small", 16 * MiB, mode="755") as disk:
        small = disk.folder
        ended = hyper2kvm.export("web-01", "-o", small / "out")
        assert (ended.status, ended.error["code"]) == (6, "target_too_small")
        assert list(small.iterdir()) == []
    assert simulator.counters.calls["CreateSnapshot_Task"] == 0


def unprivileged() -> list[str]:
    """A prefix that runs a command without root's right to write anywhere; nothing where the tester has no such
    right."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


@pytest.mark.parametrize("machine", [OFF, RUNNING], ids=["off", "running"])
def test_a_folder_that_may_not_be_written(machine: MachineSpec, program: ProgramFactory, tmp_path: Path) -> None:
    simulator, hyper2kvm = program(machines=(machine,))
    before = simulator.state()
    with mounted(tmp_path / "ro", 64 * MiB, mode="755") as disk:
        read_only = disk.folder
        subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
        ended = hyper2kvm.export("web-01", "-o", read_only / "out")
        assert (ended.status, ended.error["code"]) == (9, "target_denied"), ended.explain()
    assert simulator.state() == before
    assert simulator.counters.calls["ExportVm"] + simulator.counters.calls["ExportSnapshot"] == 0


@pytest.mark.parametrize(("place", "mode"), [("closed", 0o555), ("closed/below", 0o555), ("closed/below", 0o000)])
def test_a_user_who_may_not_write(place: str, mode: int, program: ProgramFactory, open_tmp: Path) -> None:
    simulator, hyper2kvm = program(machines=(OFF,))
    before = simulator.state()
    hyper2kvm.home, hyper2kvm.prefix = open_tmp / "home", unprivileged()
    hyper2kvm.home.mkdir(mode=0o777)
    hyper2kvm.home.chmod(0o777)
    folder = open_tmp / "closed"
    folder.mkdir()
    folder.chmod(mode)
    ended = hyper2kvm.export("web-01", "-o", open_tmp / place)
    assert (ended.status, ended.error["code"]) == (9, "target_denied"), ended.explain()
    assert simulator.state() == before
    assert list(folder.iterdir()) == []


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
