"""A source that is held off the network when its export has ended, until the landed machine takes over or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.errors import Refused, SourceError
from hypersdk.migration.hold import check_off_network, restore_held, taking_over
from hypersdk.migration.runfile import FolderRuns, RunFile
from hypersdk.migration.runs import clean_up
from hypersdk.migration.spec import ResumeMode, SourceState
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.exporter import Engine, EngineFactory, succeeded

DISK: Final = DiskSpec(4 * MiB, allocated_bytes=2 * MiB)
ON: Final = MachineSpec("web-01", (DISK,), power="poweredOn")
OFF: Final = MachineSpec("web-01", (DISK,))
CORRUPT: Final = Fault(FaultKind.CORRUPT, disk="web-01:0", times=None)


def cards(simulator: Simulator) -> list[tuple[bool, bool]]:
    """``connected`` and ``startConnected`` of each network card."""
    return [
        (device.connectable.connected, device.connectable.startConnected)
        for device in simulator.vm("web-01").device_list
        if device.macAddress
    ]


def held_run(engine: Engine, folder: Path) -> RunFile:
    run = RunFile.load(folder, FolderRuns(engine.state))
    assert run is not None
    return run


def held(engine: Engine, folder: Path, **spec: Any) -> RunFile:
    """Exports the machine and holds it; the run that is left."""
    succeeded(engine.export("web-01", folder, hold=True, **spec))
    return held_run(engine, folder)


def test_a_disconnected_machine_runs_on_without_network_and_is_reconnected(
    engine: EngineFactory, tmp_path: Path
) -> None:
    made, folder = engine(machines=(ON,)), tmp_path / "out"
    before = made.simulator.state()
    run = held(made, folder, disconnect=True)
    assert made.simulator.vm("web-01").power == "poweredOn"
    assert cards(made.simulator) == [(False, False)]
    assert [change.kind.value for change in run.record.open_changes] == ["network"]
    with made.log_in() as session:
        check_off_network(session, run.record.moref, "web-01", cancel=CancelToken())
        restore_held(session, run, note=lambda _: None)
        assert cards(made.simulator) == [(True, True)]
        with pytest.raises(Refused) as caught:
            check_off_network(session, run.record.moref, "web-01", cancel=CancelToken())
    assert caught.value.code == "source_on_network"
    assert made.simulator.state() == before
    assert RunFile.load(folder, FolderRuns(made.state)) is None


def test_a_powered_off_machine_with_its_cards_disconnected_comes_back_as_it_was(
    engine: EngineFactory, tmp_path: Path
) -> None:
    """Disconnected after the power-off, so that a power-on by somebody else does not connect it."""
    made, folder = engine(machines=(ON,)), tmp_path / "out"
    run = held(made, folder, disconnect=True, state=SourceState.POWER_OFF)
    assert made.simulator.vm("web-01").power == "poweredOff"
    assert cards(made.simulator) == [(False, False)]
    with made.log_in() as session:
        restore_held(session, run, note=lambda _: None)
    assert made.simulator.vm("web-01").power == "poweredOn"
    assert cards(made.simulator) == [(True, True)]


def test_a_machine_that_is_off_and_not_changed_leaves_no_run(engine: EngineFactory, tmp_path: Path) -> None:
    made, folder = engine(machines=(OFF,)), tmp_path / "out"
    succeeded(made.export("web-01", folder, hold=True))
    assert RunFile.load(folder, FolderRuns(made.state)) is None


def test_what_is_held_is_final_once_the_other_machine_runs(engine: EngineFactory, tmp_path: Path) -> None:
    made, folder = engine(machines=(ON,)), tmp_path / "out"
    with taking_over(held(made, folder, state=SourceState.POWER_OFF)):
        assert held_run(made, folder).record.open_changes == []
        assert cleaned(made, folder) == (), "a clean-up meanwhile does not put the source on the network"
    assert RunFile.load(folder, FolderRuns(made.state)) is None
    assert made.simulator.vm("web-01").power == "poweredOff"


def cleaned(engine: Engine, folder: Path) -> tuple[str, ...]:
    with engine.log_in() as session:
        done = clean_up(
            session, folder, FolderRuns(engine.state), drop_snapshot=True, cancel=CancelToken(), note=lambda _: None
        )
    assert done.problems == ()
    return done.undone


def test_a_start_that_fails_gives_the_source_back(engine: EngineFactory, tmp_path: Path) -> None:
    made, folder = engine(machines=(ON,)), tmp_path / "out"
    run = held(made, folder, state=SourceState.POWER_OFF)
    with pytest.raises(SourceError), taking_over(run):
        raise SourceError("it does not start")
    with made.log_in() as session:
        restore_held(session, held_run(made, folder), note=lambda _: None)
    assert made.simulator.vm("web-01").power == "poweredOn"


def test_a_start_that_was_killed_and_then_fails_gives_the_source_back(engine: EngineFactory, tmp_path: Path) -> None:
    made, folder = engine(machines=(ON,)), tmp_path / "out"
    killed = taking_over(held(made, folder, state=SourceState.POWER_OFF))
    killed.__enter__()
    with made.log_in() as session:
        restore_held(session, held_run(made, folder), note=lambda _: None)
    assert made.simulator.vm("web-01").power == "poweredOn"


def test_a_resumed_export_goes_on_holding(engine: EngineFactory, tmp_path: Path) -> None:
    made, folder = engine(machines=(ON,)), tmp_path / "out"
    held(made, folder, disconnect=True)
    succeeded(made.export("web-01", folder, hold=True, disconnect=True, resume=ResumeMode.RESUME))
    assert cards(made.simulator) == [(False, False)]
    with pytest.raises(Refused) as refused:
        made.export("web-01", folder, resume=ResumeMode.RESUME)
    assert refused.value.code == "migration_unfinished"
    assert cards(made.simulator) == [(False, False)], "the landed machine may run"


@pytest.mark.parametrize("state", [SourceState.AUTO, SourceState.POWER_OFF])
def test_a_failed_export_holds_nothing(engine: EngineFactory, tmp_path: Path, state: SourceState) -> None:
    made = engine(machines=(ON,), faults=(CORRUPT,))
    before = made.simulator.state()
    outcome = made.export("web-01", tmp_path / "out", hold=True, disconnect=True, state=state)
    assert outcome.error is not None
    assert made.simulator.state() == before
