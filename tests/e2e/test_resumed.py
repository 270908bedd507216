"""How much a resume receives again: shown by the plan before it starts, and by the progress."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled
from hypersdk.migration.plan import Plan, make_plan
from hypersdk.migration.point import point_of
from hypersdk.migration.resumption import resumption_of
from hypersdk.migration.runfile import DiskRecord, FolderRuns, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, Method, OutputFormat, ResumeMode
from hypersdk.migration.verify import verify_directory
from hypersdk.model import ExportProgress
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.receipt import Receipt
from hypersdk.units import GiB, KiB, MiB
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.machines import make_disk, make_machine

THIN = MachineSpec("web-01", disks=(DiskSpec(64 * MiB, allocated_bytes=16 * MiB),))


def interrupted(engine: Engine, folder: Path, at_bytes: int, **spec: object) -> None:
    """An export that is cancelled once that much of the guest's data is in the image."""
    cancel = CancelToken()

    class Watching(list):  # type: ignore[type-arg]
        def extend(self, seen: Iterable[ExportProgress]) -> None:
            super().extend(seen)
            if any(disk.guest_bytes > at_bytes for machine in seen for disk in machine.disks):
                cancel.cancel("interrupted")

    kept, engine.seen = engine.seen, Watching()
    outcome = engine.export("web-01", folder, cancel=cancel, **spec)
    engine.seen = kept
    assert isinstance(outcome.error, Cancelled), outcome


def planned(engine: Engine, folder: Path, **spec: object) -> Plan:
    """The plan of a resume."""
    asked = ExportSpec(machine="web-01", output_dir=folder, resume=ResumeMode.RESUME, **spec)  # type: ignore[arg-type]
    with engine.log_in() as session:
        return make_plan(session, asked, cancel=CancelToken(), runs=FolderRuns(engine.state))


@pytest.mark.parametrize("method", [Method.AUTO, Method.LEASE])
def test_a_thin_disk_without_change_tracking_is_received_again(
    method: Method, engine: EngineFactory, tmp_path: Path
) -> None:
    ran = engine(machines=(THIN,), rate_bytes_s=8 * MiB)
    interrupted(ran, tmp_path / "out", 4 * MiB, method=method)
    resumption = planned(ran, tmp_path / "out", method=method).resumption
    assert resumption is not None
    assert (resumption.from_start, resumption.ranges) == (False, False)
    assert resumption.receive_bytes == pytest.approx(16 * MiB, abs=64 * KiB), "vSphere counts the descriptor too"
    assert 4 * MiB <= resumption.again_bytes == resumption.recorded_bytes < 16 * MiB
    assert "on record already" in resumption.text
    assert ("without change tracking (CBT)" in resumption.text) == (method is Method.AUTO)
    result = succeeded(ran.export("web-01", tmp_path / "out", method=method, resume=ResumeMode.RESUME))
    assert result.blocks_skipped * MiB // 16 == pytest.approx(resumption.recorded_bytes, abs=MiB)
    again = [disk.again_bytes for progress in ran.seen for disk in progress.disks if disk.again_bytes]
    assert set(again) == {result.blocks_skipped * MiB // 16}
    first = next(disk for progress in ran.seen for disk in progress.disks if disk.again_bytes)
    assert first.fraction < 0.5, "what is received again counts"


def test_ranges_receive_what_is_missing(engine: EngineFactory, tmp_path: Path) -> None:
    thick = replace(THIN, disks=(DiskSpec(64 * MiB, allocated_bytes=64 * MiB),))
    ran = engine(machines=(thick,), rate_bytes_s=8 * MiB)
    interrupted(ran, tmp_path / "out", 8 * MiB)
    resumption = planned(ran, tmp_path / "out").resumption
    assert resumption is not None
    assert (resumption.from_start, resumption.ranges, resumption.again_bytes) == (False, True, 0)
    assert resumption.receive_bytes == 64 * MiB - resumption.recorded_bytes
    assert "stays" in resumption.text


def test_a_machine_that_moved_on_is_received_from_the_beginning(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(replace(THIN, power="poweredOn"),), rate_bytes_s=8 * MiB)
    interrupted(ran, tmp_path / "out", 4 * MiB)
    machine = ran.simulator.vm("web-01")
    with ran.simulator.platform.world.lock:
        machine.snapshots[0].remove(children=True)
    resumption = planned(ran, tmp_path / "out").resumption
    assert resumption is not None
    assert (resumption.from_start, resumption.recorded_bytes) == (True, 0)
    assert resumption.receive_bytes == pytest.approx(16 * MiB, abs=64 * KiB)
    assert "everything again" in resumption.text


def test_a_machine_that_got_another_name_keeps_that_of_its_files(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(replace(THIN, power="poweredOn"),), rate_bytes_s=8 * MiB)
    interrupted(ran, tmp_path / "out", 4 * MiB, format=OutputFormat.OVF)
    machine = ran.simulator.vm("web-01")
    with ran.simulator.platform.world.lock:
        machine.rename("web-02")
    result = succeeded(ran.export("web-02", tmp_path / "out", format=OutputFormat.OVF, resume=ResumeMode.RESUME))
    assert result.blocks_skipped > 0
    assert {file.name for file in result.files} == {"web-01.ovf", "web-01.mf", "web-01-disk1.vmdk"}
    assert verify_directory(tmp_path / "out", cancel=CancelToken()).findings == ()


def test_finished_disks_of_an_archive_that_another_release_named_are_not_received_again(tmp_path: Path) -> None:
    """That release left characters in names which this one replaces."""
    machine = make_machine("web\u2028one", disks=(make_disk(1), make_disk(2)))
    disks = [
        DiskRecord(disk.key, disk.label, f"web\u2028one-disk{number}.vmdk", disk.capacity_bytes)
        for number, disk in enumerate(machine.disks, start=1)
    ]
    disks[0].receipt = Receipt("Hard disk 1", 8 * GiB, "ab" * 32, None, 0, 0, 0, 0, 0, 0, 1, 1.0, "memory")
    disks[0].start, disks[0].size_bytes = 1024, 4096
    (tmp_path / "web\u2028one.ova.partial").write_bytes(bytes(8192))
    run = RunRecord(
        run_id="r",
        endpoint="e",
        moref="vm-42",
        machine=machine.name,
        folder=tmp_path,
        format=OutputFormat.OVA,
        compress=Compression.NONE,
        started_at="2026-01-01T00:00:00+00:00",
        disks=disks,
        point=point_of(machine, None),
    )
    spec = ExportSpec(machine=machine.name, output_dir=tmp_path, format=OutputFormat.OVA, method=Method.LEASE)
    assert resumption_of(machine, spec, run).receive_bytes == machine.disks[1].used_bytes


def test_without_anything_to_resume_nothing_is_told(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(THIN,))
    with ran.log_in() as session:
        spec = ExportSpec(machine="web-01", output_dir=tmp_path / "out")
        plan = make_plan(session, spec, cancel=CancelToken())
    assert plan.resumption is None
    assert plan.as_dict()["resume"] is None
