"""The bar while finished images are read back: it has room for that, moves, and is full only at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hypersdk.migration.convert import convert_file
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.plan import PlannedDisk
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, FileHash, OutputFormat
from hypersdk.model import ExportProgress, Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import GiB, MiB
from tests.support.tools import run_tool

Convert = Callable[..., list[ExportProgress]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Converts a large disk with little on it; returns all that an observer is told."""
    raw, source = tmp_path / "disk.raw", tmp_path / "machine.vmdk"
    with raw.open("wb") as file:
        file.write(bytes(range(1, 251)) * 4000)
        file.truncate(1 * GiB)
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, source)

    def run(output: OutputFormat, *, file_hash: FileHash = FileHash.TREE) -> list[ExportProgress]:
        seen: list[ExportProgress] = []
        spec = ExportSpec(machine="", output_dir=tmp_path / "out", format=output, file_hash=file_hash)
        settings = RunSettings(state=tmp_path / "state", progress_interval_s=0.01)
        convert_file(source, spec, cancel=CancelToken(), observer=seen.append, settings=settings)
        return seen

    return run


@pytest.mark.parametrize("output", [OutputFormat.RAW, OutputFormat.QCOW2, OutputFormat.VMDK])
@pytest.mark.parametrize("file_hash", FileHash)
def test_only_what_is_done_is_full(convert: Convert, output: OutputFormat, *, file_hash: FileHash) -> None:
    seen = convert(output, file_hash=file_hash)
    fractions = [now.fraction for now in seen]
    assert fractions == sorted(fractions)
    assert all(f"{now.fraction:.0%}" != "100%" for now in seen if now.phase is not Phase.DONE)
    assert (seen[-1].phase, fractions[-1]) == (Phase.DONE, 1.0)


def test_reading_back_moves_the_bar(convert: Convert) -> None:
    """A raw image of a sparse disk: its checksum takes longer than the copy."""
    read_back = [
        now.disks[0]
        for now in convert(OutputFormat.RAW, file_hash=FileHash.SHA256)
        if now.disks[0].phase is Phase.VERIFYING
    ]
    fractions = [disk.fraction for disk in read_back]
    assert len(set(fractions)) > 3
    assert fractions[0] < 0.5
    assert fractions[-1] > 0.9


def test_the_machine_is_not_full_while_it_is_published() -> None:
    board = MachineProgress("web-01", [PlannedDisk(2000, "Hard disk 1", "d.raw", 16 * MiB, 16 * MiB, None)])
    board.meters[2000].enter(Phase.DONE)
    board.phase(Phase.PUBLISHING)
    assert board.snapshot().fraction < 0.995
    board.phase(Phase.DONE)
    assert board.snapshot().fraction == 1.0
