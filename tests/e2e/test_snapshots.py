"""The exported disks: those of a named snapshot, else those of the plan, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from hypersdk.migration.export import export_machines
from hypersdk.migration.plan import make_plan
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, Method, SourceState
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.exportchecks import assert_finished, assert_holds, expected_raw
from tests.support.exporter import EngineFactory, succeeded

MACHINE = MachineSpec("web-01", disks=(DiskSpec(2 * MiB), DiskSpec(2 * MiB)), snapshots=("then",))


def exchange_disks(simulator: Simulator) -> None:
    """The disks have since changed places, with the files of their snapshots."""
    machine = simulator.vm("web-01")
    with simulator.platform.world.lock:
        machine.disks[0].key, machine.disks[1].key = machine.disks[1].key, machine.disks[0].key
        machine.refresh_disk_devices()
        machine.changed_config()


@pytest.mark.parametrize("method", [Method.AUTO, Method.LEASE])
def test_disks_that_were_exchanged_since(method: Method, engine: EngineFactory, tmp_path: Path) -> None:
    ran, folder = engine(machines=(MACHINE,)), tmp_path / "out"
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected", snapshot="then")
    exchange_disks(ran.simulator)
    before = ran.simulator.state()
    options: dict[str, Any] = {"state": SourceState.SNAPSHOT, "snapshot": "then", "method": method}
    result = succeeded(ran.export("web-01", folder, **options))
    assert_holds(folder, expected, result.content, tmp_path / "judged")
    assert_finished(folder)
    assert ran.simulator.state() == before


def test_files_of_another_disk_are_not_read_for_the_snapshots(engine: EngineFactory, tmp_path: Path) -> None:
    """The device key is the same, and the file would be the base of the only snapshot: of the other disk."""
    ran = engine(machines=(MACHINE,))
    options: dict[str, Any] = {"state": SourceState.SNAPSHOT, "snapshot": "then", "method": Method.DATASTORE}
    succeeded(ran.export("web-01", tmp_path / "as it was", **options))
    exchange_disks(ran.simulator)
    ran.simulator.reset_counters()
    refused = ran.export("web-01", tmp_path / "exchanged", **options).error
    assert refused is not None
    assert refused.code == "no_ranges"
    assert "another disk replaced it" in refused.message
    assert not ran.simulator.counters.ranges


@pytest.mark.parametrize("power", ["poweredOff", "poweredOn"])
@pytest.mark.parametrize("resized", [False, True])
def test_a_disk_that_comes_between_plan_and_export_is_not_left_out(
    power: Literal["poweredOff", "poweredOn"], resized: bool, engine: EngineFactory, tmp_path: Path
) -> None:
    """As while the user has not yet confirmed the plan."""
    ran, folder = engine(machines=(replace(MACHINE, snapshots=(), power=power),)), tmp_path / "out"
    machine, token = ran.simulator.vm("web-01"), CancelToken()
    disks = list(machine.disks)
    with ran.log_in() as session:
        with ran.simulator.platform.world.lock:
            if resized:
                machine.disks[1].spec = replace(machine.disks[1].spec, capacity_bytes=MiB)
            else:
                del machine.disks[1]
            machine.changed_config()
        plan = make_plan(session, ExportSpec(machine="web-01", output_dir=folder), cancel=token)
        with ran.simulator.platform.world.lock:
            machine.disks[:] = disks
            machine.disks[1].spec = MACHINE.disks[1]
            machine.changed_config()
        before = ran.simulator.state()
        (outcome,) = export_machines(
            session, [plan], cancel=token, observer=ran.seen.extend, settings=RunSettings(state=tmp_path / "state")
        )
    assert outcome.error is not None
    assert outcome.error.code == "source_changed"
    assert "Hard disk 2" in outcome.error.message
    assert ran.simulator.state() == before
    succeeded(ran.export("web-01", folder))  # as the next step says
