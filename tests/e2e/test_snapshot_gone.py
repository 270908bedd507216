"""A snapshot that somebody removes while it is exported: the export fails with its code, publishes nothing, and can be
started again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from hypersdk.errors import TargetError
from hypersdk.migration.copying import MachineCopy
from hypersdk.migration.runfile import RunFile
from hypersdk.migration.spec import Method, ResumeMode, SourceState
from hypersdk.model import ExportProgress
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.cli.hyper2kvm import ProgramFactory
from tests.support.exportchecks import assert_finished, assert_holds, content_in_manifest, expected_raw
from tests.support.exporter import EngineFactory, succeeded
from tests.support.simulator import remove_snapshots

pytestmark = pytest.mark.waits

DISKS = (DiskSpec(16 * MiB, allocated_bytes=12 * MiB), DiskSpec(8 * MiB))
RUNNING = MachineSpec("web-01", disks=DISKS, power="poweredOn")
NAMED = MachineSpec("web-01", disks=DISKS, power="poweredOn", snapshots=("nightly",))


class RemovesAt(list[ExportProgress]):
    """An observer that removes all snapshots once that many bytes are received."""

    def __init__(self, simulator: Simulator, wire_bytes: int) -> None:
        super().__init__()
        self._simulator, self._wire_bytes = simulator, wire_bytes

    def extend(self, seen: object) -> None:
        super().extend(seen)  # type: ignore[arg-type]
        if any(progress.wire_bytes >= self._wire_bytes for progress in self):
            remove_snapshots(self._simulator, "web-01")


@pytest.mark.parametrize("method", [Method.AUTO, Method.DATASTORE])
@pytest.mark.parametrize("named", [False, True])
def test_it_is_removed_while_it_is_copied(named: bool, method: Method, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(NAMED if named else RUNNING,), rate_bytes_s=8 * MiB)
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    ran.seen = RemovesAt(ran.simulator, MiB)
    spec: dict[str, Any] = {"state": SourceState.SNAPSHOT, "snapshot": "nightly"} if named else {}
    outcome = ran.export("web-01", tmp_path / "out", method=method, **spec)
    assert outcome.error is not None
    assert outcome.result is None
    assert outcome.error.code == "snapshot_gone", outcome.error
    assert "not_undone" not in outcome.error.fields
    assert not (tmp_path / "out" / "artifact-manifest.json").exists()
    ran.seen = []
    result = succeeded(ran.export("web-01", tmp_path / "out", method=method, resume=ResumeMode.RESUME))
    assert result.blocks_skipped == 0, "none of the earlier copy counts"
    assert_finished(tmp_path / "out")
    assert_holds(tmp_path / "out", expected, content_in_manifest(tmp_path / "out"), tmp_path / "judged")
    assert ran.simulator.vm("web-01").snapshots == []


def test_it_is_gone_when_it_is_to_be_removed(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal may have started while the last data was read: the recorded proof does not count, in the next run
    neither."""
    ran = engine(machines=(RUNNING,))
    copy = MachineCopy.run

    def then_remove(self: MachineCopy, cancel: CancelToken) -> None:
        copy(self, cancel)
        remove_snapshots(ran.simulator, "web-01")

    with monkeypatch.context() as patched:
        patched.setattr(MachineCopy, "run", then_remove)
        outcome = ran.export("web-01", tmp_path / "out")
    assert outcome.error is not None
    assert outcome.error.code == "snapshot_gone"
    assert not (tmp_path / "out" / "artifact-manifest.json").exists()
    result = succeeded(ran.export("web-01", tmp_path / "out", resume=ResumeMode.RESUME))
    assert (result.blocks_skipped, result.proof) == (0, "proved")


class CancelsAt(list[ExportProgress]):
    """An observer that cancels once that many bytes are received."""

    def __init__(self, cancel: CancelToken, wire_bytes: int) -> None:
        super().__init__()
        self._cancel, self._wire_bytes = cancel, wire_bytes

    def extend(self, seen: object) -> None:
        super().extend(seen)  # type: ignore[arg-type]
        if any(progress.wire_bytes >= self._wire_bytes for progress in self):
            self._cancel.cancel("enough")


def test_a_resume_after_the_kept_one_was_removed_exports_a_new_one(engine: EngineFactory, tmp_path: Path) -> None:
    """The undo of the snapshot that is gone proves nothing about the new one, which is what was copied."""
    ran = engine(machines=(RUNNING,), rate_bytes_s=8 * MiB)
    before = ran.simulator.state()
    cancel = CancelToken()
    ran.seen = CancelsAt(cancel, MiB)
    outcome = ran.export("web-01", tmp_path / "out", cancel=cancel)
    assert outcome.error is not None
    assert outcome.error.fields["kept_snapshot"]
    remove_snapshots(ran.simulator, "web-01")
    ran.seen = []
    result = succeeded(ran.export("web-01", tmp_path / "out", resume=ResumeMode.RESUME))
    assert (result.blocks_skipped, result.proof) == (0, "proved")
    assert_finished(tmp_path / "out")
    assert ran.simulator.state() == before


def test_a_resume_after_a_removal_that_could_not_be_recorded(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: the export fails and removes its snapshot, and the record still has it."""
    ran = engine(machines=(RUNNING,))
    before = ran.simulator.state()

    def full(*_: object) -> None:
        raise TargetError("no space left", code="no_space")

    with monkeypatch.context() as patched:

        def copy_fails(*_: object) -> None:
            patched.setattr(RunFile, "save", full)
            full()

        patched.setattr(MachineCopy, "run", copy_fails)
        outcome = ran.export("web-01", tmp_path / "out")
    assert outcome.error is not None
    assert outcome.error.code == "no_space"
    assert ran.simulator.state() == before
    assert succeeded(ran.export("web-01", tmp_path / "out", resume=ResumeMode.RESUME)).proof == "proved"
    assert ran.simulator.state() == before


def test_another_snapshot_that_goes_meanwhile_harms_nobody(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(NAMED,), rate_bytes_s=8 * MiB)
    machine = ran.simulator.vm("web-01")

    class RemovesNightly(RemovesAt):
        def extend(self, seen: object) -> None:
            list.extend(self, seen)  # type: ignore[arg-type]
            if any(progress.wire_bytes >= MiB for progress in self):
                with ran.simulator.platform.world.lock:
                    for snapshot in [one for one in machine.snapshots if one.name == "nightly"]:
                        snapshot.remove(children=False)

    ran.seen = RemovesNightly(ran.simulator, MiB)
    result = succeeded(ran.export("web-01", tmp_path / "out"))
    assert result.proof == "proved"
    assert machine.snapshots == []


def test_what_ctrl_c_keeps_is_named_with_the_command_that_removes_it(program: ProgramFactory, tmp_path: Path) -> None:
    simulator, ours = program(machines=(RUNNING,), rate_bytes_s=MiB)
    before, folder = simulator.state(), tmp_path / "a folder"
    running = ours.start("export", "--json", "web-01", "-o", folder, "--url", simulator.url)
    running.until(lambda: any(event.get("wire_bytes", 0) for event in list(running.seen)))
    running.process.send_signal(signal.SIGINT)
    ended = running.wait()
    assert ended.status == 130
    (kept,) = ended.error["kept"]
    assert simulator.vm("web-01").snapshots[0].name == kept["snapshot"]
    assert kept["folder"] == str(folder)
    assert kept["command"] == f"hyper2kvm cleanup --drop-snapshots '{folder}' --url {simulator.url}"
    assert ours.run("cleanup", "--drop-snapshots", folder, "--url", simulator.url, "--json").status == 0
    assert simulator.state() == before
