"""What becomes of finished disks whose files do not last until they are published."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hypersdk.errors import TargetError
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.formats import outputs_for
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.receipts import make_receipt

SIZE = 1000


def finished(number: int, start: int | None = None) -> DiskRecord:
    receipt = make_receipt(label=f"Hard disk {number}")
    return DiskRecord(number, f"Hard disk {number}", f"m-disk{number}.qcow2", MiB, receipt, "sha", SIZE, start)


def run_of(folder: Path, *disks: DiskRecord, output: OutputFormat = OutputFormat.QCOW2) -> RunRecord:
    return RunRecord(
        run_id="r",
        endpoint="e",
        moref="vm-1",
        machine="m",
        folder=folder,
        format=output,
        compress=Compression.NONE,
        started_at="2026-01-01T00:00:00+00:00",
        disks=list(disks),
    )


def spec_of(folder: Path, output: OutputFormat) -> ExportSpec:
    return ExportSpec(machine="m", output_dir=folder, format=output)


def test_a_disk_whose_last_sync_fails_is_not_published_and_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m-disk1.qcow2.partial").write_bytes(bytes(SIZE))
    (tmp_path / "m-disk2.qcow2.partial").write_bytes(bytes(SIZE))
    run = run_of(tmp_path, finished(1), finished(2))
    spec = spec_of(tmp_path, OutputFormat.QCOW2)
    outputs = outputs_for(run, spec)
    assert isinstance(outputs, DiskFiles)
    assert [disk.done for disk in run.disks] == [True, True]

    def lost(handle: int) -> None:
        raise OSError(errno.EIO, "lost")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lost)
        with pytest.raises(TargetError, match="publishing m-disk1"):
            outputs.publish_disk(run.disks[0])
    outputs_for(run, spec)
    assert [disk.done for disk in run.disks] == [False, True]
    outputs.publish_disk(run.disks[1])
    outputs_for(run, spec)
    assert [disk.done for disk in run.disks] == [False, True], "a published disk is done"


@pytest.mark.parametrize(("size", "done"), [(SIZE, True), (SIZE - 1, False), (None, False)])
def test_a_finished_disk_whose_file_was_cut_begins_again(tmp_path: Path, size: int | None, done: bool) -> None:
    if size is not None:
        (tmp_path / "m-disk1.qcow2.partial").write_bytes(bytes(size))
    run = run_of(tmp_path, finished(1))
    outputs_for(run, spec_of(tmp_path, OutputFormat.QCOW2))
    assert run.disks[0].done is done


@pytest.mark.parametrize(("size", "done"), [(5000, 2), (4000, 2), (3999, 1), (1999, 0), (0, 0)])
def test_finished_disks_in_an_archive_that_was_cut_begin_again(tmp_path: Path, size: int, done: int) -> None:
    (tmp_path / "m.ova.partial").write_bytes(bytes(size))
    run = run_of(tmp_path, finished(1, start=1000), finished(2, start=3000), output=OutputFormat.OVA)
    outputs_for(run, spec_of(tmp_path, OutputFormat.OVA))
    assert [disk.done for disk in run.disks] == [True] * done + [False] * (2 - done)
    assert [disk.start is not None for disk in run.disks] == [True] * done + [False] * (2 - done)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
@pytest.mark.timeout(20)
def test_what_is_no_file_in_the_place_of_a_finished_disk_is_refused(kind: str, tmp_path: Path) -> None:
    disk, place, victim = finished(1), tmp_path / "m-disk1.qcow2.partial", tmp_path / "victim"
    victim.write_bytes(bytes(SIZE))
    run = run_of(tmp_path, disk)
    outputs = outputs_for(run, spec_of(tmp_path, OutputFormat.QCOW2))
    disk.receipt, disk.size_bytes = finished(1).receipt, SIZE
    match kind:
        case "link":
            place.symlink_to(victim)
        case "fifo":
            os.mkfifo(place)
        case _:
            place.mkdir()
    for act in (
        lambda: outputs.sha256(disk, CancelToken(), lambda _: None),
        lambda: outputs.publish_disk(disk),  # type: ignore[attr-defined]
    ):
        with pytest.raises(TargetError, match=r"m-disk1\.qcow2"):
            act()
    assert not (tmp_path / "m-disk1.qcow2").exists()
    assert victim.read_bytes() == bytes(SIZE)


@pytest.mark.parametrize("output", [OutputFormat.QCOW2, OutputFormat.OVA])
def test_nothing_is_removed_by_its_name_where_the_lock_is_gone(output: OutputFormat, tmp_path: Path) -> None:
    """Files of these names may be another run's by then."""

    def gone() -> None:
        raise TargetError("the lock was removed", code="folder_taken")

    disk = finished(1)
    disk.receipt = None
    names = {f"m-disk1.qcow2.partial{end}" for end in ("", ".blocks")} | {"m.ova.partial"}
    for name in names:
        (tmp_path / name).touch()
    outputs = outputs_for(run_of(tmp_path, disk, output=output), spec_of(tmp_path, output), gone)
    for act in (outputs.forget, outputs.close_disk):
        with pytest.raises(TargetError, match="lock"):
            act(disk)
    assert {path.name for path in tmp_path.iterdir()} == names
    outputs_for(run_of(tmp_path, disk, output=output), spec_of(tmp_path, output)).forget(disk)
    assert "m-disk1.qcow2.partial.blocks" not in {path.name for path in tmp_path.iterdir()}
