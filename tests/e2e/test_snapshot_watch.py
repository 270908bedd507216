"""While a temporary snapshot exists, its datastore keeps a minimum of free space, and holds few such snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from hypersdk.errors import HyperSDKError
from hypersdk.migration.preflight import MinFreeSpace
from hypersdk.migration.spec import ExportSpec
from hypersdk.migration.watch import DATASTORE_FLOOR
from hypersdk.simulator import Fault, FaultKind
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.units import GiB, MiB
from tests.support.exporter import EngineFactory, succeeded

DISK: Final = DiskSpec(64 * MiB, allocated_bytes=32 * MiB)
REFRESHES: Final = ("RefreshStorageInfo", "RefreshDatastoreStorageInfo")


def running(name: str) -> MachineSpec:
    return MachineSpec(name, (DISK,), power="poweredOn", memory_mb=1)


@pytest.mark.parametrize("fault", ["", "NoPermission", "MethodNotFound"])
def test_an_export_ends_where_its_snapshot_fills_the_datastore(
    fault: str, engine: EngineFactory, tmp_path: Path
) -> None:
    refused = [Fault(FaultKind.CALL, method=method, fault=fault, times=None) for method in REFRESHES if fault]
    ran = engine(
        machines=(running("web"),),
        datastore_bytes=GiB,
        delta_bytes_s=64 * MiB,
        rate_bytes_s=MiB,
        faults=tuple(refused),
        settings={"min_free": MinFreeSpace(0, 850 * MiB), "snapshot_watch_s": 0.2},
    )
    outcome = ran.export("web", tmp_path / "out")
    assert isinstance(outcome.error, HyperSDKError)
    assert outcome.error.code == DATASTORE_FLOOR
    (machine,) = ran.simulator.platform.world.all(SimulatedMachine)
    assert machine.current is None, "the snapshot is removed"
    assert any(note.startswith("snapshot holds ") for note in ran.notes)
    assert not any("could not be checked" in note for note in ran.notes)


def test_who_waits_for_the_snapshots_of_others_says_so(engine: EngineFactory, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    ran = engine(machines=tuple(map(running, names)), rate_bytes_s=16 * MiB, settings={"max_machines": 3})
    outcomes = ran.export_all([ExportSpec(machine=name, output_dir=tmp_path / name) for name in names])
    for outcome in outcomes:
        succeeded(outcome)
    waited = {seen.machine for seen in ran.seen if seen.note.startswith("waits for its turn: 2 temporary snapshots")}
    assert len(waited) == 1
