"""Exports that end after all data was copied: a resume neither reads nor changes the machine again, and publishes the
same content."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.errors import Cancelled
from hypersdk.migration.copying import UNPROVED_INTERRUPTED, UNPROVED_RANGES, MachineCopy
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.export import Outcome
from hypersdk.migration.heldfile import HeldFile
from hypersdk.migration.plan import make_plan
from hypersdk.migration.proof import PROVED
from hypersdk.migration.runfile import DiskRecord
from hypersdk.migration.spec import ExportSpec, Method, OutputFormat, ResumeMode, SourceState
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.cli.hyper2kvm import ProgramFactory
from tests.support.exportchecks import (
    MANIFEST,
    RUN_FILE,
    assert_finished,
    assert_holds,
    assert_left_alone,
    assert_no_final_names,
    expected_raw,
    manifest_of,
    run_of,
)
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.killed import Killed

ISO: Final = "[iso-library] tools/virtio-win.iso"
DISKS: Final = (DiskSpec(8 * MiB, allocated_bytes=6 * MiB), DiskSpec(4 * MiB))
OFF: Final = MachineSpec("web-01", disks=DISKS, iso=ISO)
RUNNING: Final = MachineSpec("web-01", disks=DISKS, iso=ISO, power="poweredOn")
CASES: Final = pytest.mark.parametrize(
    ("machine", "spec"),
    [
        (RUNNING, {}),
        (RUNNING, {"state": SourceState.POWER_OFF}),
        (RUNNING, {"state": SourceState.SHUTDOWN}),
        (OFF, {"remove_cdrom": True}),
    ],
    ids=["snapshot", "power-off", "shutdown", "cdrom"],
)


def assert_goes_on(ran: Engine, folder: Path, expected: list[Path], spec: dict[str, Any]) -> None:
    """A resume publishes what was copied, and leaves the machine alone, also where a new export would be refused."""
    ran.simulator.set_faults(Fault(FaultKind.DATASTORE_FULL, after_bytes=MiB, times=None))
    ran.simulator.reset_counters()
    with ran.log_in() as session:
        spec_again = ExportSpec(machine="web-01", output_dir=folder, resume=ResumeMode.RESUME, **spec)
        assert make_plan(session, spec_again, cancel=CancelToken()).changes == (), "all is as it was found"
    result = succeeded(ran.export("web-01", folder, resume=ResumeMode.RESUME, **spec))
    assert_left_alone(ran.simulator)
    assert (result.proof, result.restored) == (PROVED, True)
    assert not any("copied again" in warning for warning in result.warnings)
    assert_holds(folder, expected, result.content, folder.parent / "judged", convert=False)
    assert_finished(folder)


@CASES
@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_ended_between_the_undo_and_the_names(
    how: str,
    machine: MachineSpec,
    spec: dict[str, Any],
    engine: EngineFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran, folder, token = engine(machines=(machine,)), tmp_path / "out", CancelToken()
    before, expected = ran.simulator.state(), expected_raw(ran.simulator, "web-01", tmp_path / "expected")

    def ends(files: DiskFiles, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """The last checksum, after the source was restored."""
        while (run_of(folder) or {"proof": None})["proof"] is None or ran.simulator.state() != before:
            cancel.sleep(0.02)
        if how == "killed":
            raise Killed
        token.cancel("Ctrl-C")
        cancel.check()
        raise AssertionError("the run's cancel token does not reach its checksums")

    with monkeypatch.context() as patch:
        patch.setattr(DiskFiles, "tree", ends)
        if how == "killed":
            with pytest.raises(Killed):
                ran.export("web-01", folder, **spec)
        else:
            assert_cancelled(ran.export("web-01", folder, cancel=token, **spec))
    assert ran.simulator.state() == before
    assert_no_final_names(folder)
    assert_goes_on(ran, folder, expected, spec)
    assert ran.simulator.state() == before


def assert_cancelled(outcome: Outcome) -> None:
    """It ended because it was cancelled."""
    assert outcome.result is None
    assert isinstance(outcome.error, Cancelled)


@pytest.mark.parametrize("again", [False, True], ids=["back now", "still stuck"])
def test_a_published_export_only_puts_its_source_back(again: bool, engine: EngineFactory, tmp_path: Path) -> None:
    """Its files may be in use by then, so they must not change."""
    ran, folder = engine(machines=(RUNNING,)), tmp_path / "out"
    before = ran.simulator.state()
    stuck = Fault(FaultKind.CALL, method="RemoveSnapshot_Task", times=None)
    ran.simulator.set_faults(stuck)
    first = ran.export("web-01", folder)
    assert (first.error is not None and first.error.code) == "not_restored"
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != RUN_FILE}
    ran.simulator.set_faults(*([stuck] if again else []))
    ran.simulator.reset_counters()
    second = ran.export("web-01", folder, resume=ResumeMode.RESUME)
    assert_left_alone(ran.simulator)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != RUN_FILE} == written
    assert first.result is not None
    assert second.result is not None
    published = [
        (result.files, result.main_file, result.content, result.proof) for result in (first.result, second.result)
    ]
    assert published[0] == published[1]
    assert second.result.restored is not again
    assert (second.error is not None) is again
    assert (folder / RUN_FILE).exists() is again
    assert (ran.simulator.state() == before) is not again


@pytest.mark.parametrize(
    ("method", "last", "used", "proof"),
    [
        (Method.AUTO, "_verify", "lease", UNPROVED_INTERRUPTED),
        (Method.AUTO, "_descriptor", "lease", UNPROVED_INTERRUPTED),
        (Method.DATASTORE, "_check_point", "datastore", UNPROVED_RANGES),
    ],
    ids=["before the manifest", "before the proof", "ranges"],
)
def test_ended_between_the_last_disk_and_its_proof(
    method: Method,
    last: str,
    used: str,
    proof: str,
    engine: EngineFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data that was not compared is reported as unproved."""
    ran, folder = engine(machines=(OFF,)), tmp_path / "out"
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")

    def ends(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MachineCopy, last, ends)
        with pytest.raises(Killed):
            ran.export("web-01", folder, method=method)
    run = run_of(folder)
    assert run is not None
    assert [disk["receipt"] is not None for disk in run["disks"]] == [True, True]
    ran.simulator.reset_counters()
    result = succeeded(ran.export("web-01", folder, method=method, resume=ResumeMode.RESUME))
    assert_left_alone(ran.simulator)
    assert (result.method, result.proof) == (used, proof)
    manifest = manifest_of(folder)
    assert manifest["source"]["export_method"] == used
    assert manifest["metadata"]["hypersdk"]["proof"] == proof
    assert [disk["hypersdk"]["verdict"] for disk in manifest["disks"]] == [proof, proof]
    assert_holds(folder, expected, result.content, tmp_path / "judged", convert=False)


@pytest.mark.slow
def test_killed_while_the_server_makes_its_manifest(program: ProgramFactory, tmp_path: Path) -> None:
    simulator, hyper2kvm = program(
        machines=(OFF,), faults=(Fault(FaultKind.STALL, method="HttpNfcLeaseGetManifest", seconds=60),)
    )
    before, folder = simulator.state(), tmp_path / "out"
    running = hyper2kvm.start("export", "--json", "web-01", "-o", folder)
    assert running.kill_when(partial(_is_done, folder))
    simulator.set_faults()
    simulator.reset_counters()
    assert hyper2kvm.export("web-01", "-o", folder, "--resume").result["proof"] == UNPROVED_INTERRUPTED
    assert dict(simulator.counters.opened) == {}
    assert simulator.state() == before


def test_a_cancel_reaches_the_checksum_of_an_archive(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, folder, token = engine(machines=(RUNNING,)), tmp_path / "out", CancelToken()
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")

    def ends(file: HeldFile, cancel: CancelToken) -> str:
        assert file.whole >= 0
        token.cancel("Ctrl-C")
        cancel.check()
        raise AssertionError("the run's cancel token does not reach the archive's checksum")

    with monkeypatch.context() as patch:
        patch.setattr(HeldFile, "tree_digest", ends)
        assert_cancelled(ran.export("web-01", folder, cancel=token, format=OutputFormat.OVA))
    assert_no_final_names(folder)
    assert_goes_on(ran, folder, expected, {"format": OutputFormat.OVA})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "undo"),
    [((), "RemoveSnapshot_Task"), (("--power-off",), "PowerOnVM_Task")],
    ids=["snapshot", "power-off"],
)
def test_killed_while_the_source_is_put_back(
    flags: tuple[str, ...], undo: str, program: ProgramFactory, tmp_path: Path
) -> None:
    """kill -9 of the real program."""
    simulator, hyper2kvm = program(machines=(RUNNING,))
    before, folder = simulator.state(), tmp_path / "out"
    expected = expected_raw(simulator, "web-01", tmp_path / "expected")
    simulator.set_faults(Fault(FaultKind.STALL, method=undo, seconds=60))
    running = hyper2kvm.start("export", "--json", "web-01", "-o", folder, *flags)
    assert running.kill_when(partial(_has_proof, folder))
    assert not (folder / MANIFEST).exists()
    simulator.set_faults()
    simulator.reset_counters()
    ended = hyper2kvm.export("web-01", "-o", folder, *flags, "--resume")
    assert_left_alone(simulator)
    assert ended.result["proof"] == PROVED
    assert_holds(folder, expected, ended.result["content"], tmp_path / "judged", convert=False)
    assert_finished(folder)
    assert simulator.state() == before


def _has_proof(folder: Path) -> bool:
    """All is copied."""
    return bool(_run(folder).get("proof"))


def _is_done(folder: Path) -> bool:
    """All disks are copied."""
    disks = _run(folder).get("disks", [])
    return bool(disks) and all(disk["receipt"] for disk in disks)


def _run(folder: Path) -> dict[str, Any]:
    """The run file, which may be replaced at any moment."""
    try:
        return run_of(folder) or {}
    except (ValueError, FileNotFoundError):
        return {}
