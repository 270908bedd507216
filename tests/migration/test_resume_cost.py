"""A resume takes datastore ranges only where they are expected to read less than a new stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.formats.image import BLOCK
from hypersdk.migration.formats import outputs_for
from hypersdk.migration.heldfile import blocks_path, partial_path
from hypersdk.migration.resumption import ResumeCost
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.units import GiB, MiB

CAPACITY = 16 * GiB


def cost(*, areas: int = CAPACITY, allocated: int | None = None, recorded: int = 0) -> ResumeCost:
    return ResumeCost.of(CAPACITY, areas_bytes=areas, allocated_bytes=allocated, recorded_bytes=recorded)


@pytest.mark.parametrize(
    ("case", "ranges"),
    [
        (
            cost(allocated=188 * MiB, recorded=100 * MiB),
            False,
        ),  # holes that nobody knows: 16 GiB for the sake of 88 MiB
        (cost(allocated=CAPACITY, recorded=100 * MiB), True),
        (cost(allocated=2 * GiB, recorded=15 * GiB), True),  # ranges recorded the holes in the earlier run
        (cost(allocated=None, recorded=100 * MiB), True),
        (cost(allocated=None), False),
        (cost(areas=188 * MiB, allocated=188 * MiB, recorded=100 * MiB), True),
        (cost(areas=188 * MiB, allocated=None, recorded=100 * MiB), True),
        (cost(areas=188 * MiB, allocated=100 * MiB, recorded=1 * MiB), True),  # change tracking knows better
        (cost(areas=188 * MiB, allocated=188 * MiB), False),  # as much, and a stream is proved
    ],
)
def test_the_cheaper_way_is_taken(case: ResumeCost, *, ranges: bool) -> None:
    assert case.takes_ranges is ranges
    assert case.choice.startswith("resumed with datastore ranges" if ranges else "resumed with a new stream")


def test_disks_are_judged_together() -> None:
    sparse, dense = cost(allocated=188 * MiB, recorded=100 * MiB), cost(allocated=CAPACITY, recorded=15 * GiB)
    whole = ResumeCost.of_all([sparse, dense])
    assert not whole.takes_ranges
    assert "16.9 GiB, holes included" in whole.choice
    assert "of 16.2 GiB" in whole.choice


@pytest.mark.parametrize("attempt_suffix", ["", ".7"])
def test_what_was_recorded_is_told_without_reading_it(attempt_suffix: str, tmp_path: Path) -> None:
    record = DiskRecord(2000, "Hard disk 1", "disk.qcow2", CAPACITY)
    run = RunRecord(
        run_id="r",
        endpoint="e",
        moref="vm-1",
        machine="web-01",
        folder=tmp_path,
        format=OutputFormat.QCOW2,
        compress=Compression.NONE,
        started_at="2026-01-01T00:00:00+00:00",
        disks=[record],
        attempt_suffix=attempt_suffix,
    )
    outputs = outputs_for(run, ExportSpec(machine="web-01", output_dir=tmp_path))
    assert outputs.recorded_bytes(record) == 0
    partial_path(tmp_path / record.file_name, attempt_suffix).touch()
    assert outputs.recorded_bytes(record) == 0
    blocks = 1 * GiB // BLOCK
    with BlockLedger.create(blocks_path(tmp_path / record.file_name, attempt_suffix), CAPACITY, "point") as ledger:
        assert outputs.recorded_bytes(record) < 8 * MiB
        ledger.record(1000, [bytes(range(32))] * blocks)
    assert abs(outputs.recorded_bytes(record) - 1 * GiB) < 16 * MiB
