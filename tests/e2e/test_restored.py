"""The source is put back as it was found: on its own server, and also where a change lands after nobody waited for it any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from hypersdk.migration.runfile import FolderRuns
from hypersdk.migration.runs import clean_up
from hypersdk.migration.spec import Resume, SourceState
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.e2e.engine import Engine, succeeded
from tests.e2e.judge import RUN_FILE, assert_finished

EngineFactory = Callable[..., Engine]

DISK: Final = DiskSpec(4 * MiB, allocated_bytes=2 * MiB)
OFF: Final = MachineSpec("web-01", (DISK,))
ON: Final = MachineSpec("web-01", (DISK,), power="poweredOn")
CORRUPT: Final = Fault(FaultKind.CORRUPT, disk="web-01:0", times=None)


def cleaned(engine: Engine, folder: Path) -> tuple[str, ...]:
    """What a clean-up puts back, all of what there is."""
    with engine.log_in() as session:
        done = clean_up(
            session, folder, FolderRuns(engine.state), drop_snapshot=True, cancel=CancelToken(), note=lambda _: None
        )
    assert done.problems == ()
    return done.undone


def test_a_discard_undoes_nothing_on_another_server(engine: EngineFactory, tmp_path: Path) -> None:
    """Both servers have a machine of that id; the other one's is off because its owner wants it so."""
    folder = tmp_path / "out"
    stuck = Fault(FaultKind.CALL, method="PowerOnVM_Task", times=None)
    first, other = engine(machines=(ON,), faults=(CORRUPT, stuck)), engine(machines=(OFF,))
    assert first.simulator.vm("web-01").ref == other.simulator.vm("web-01").ref
    before, theirs = first.simulator.state(), other.simulator.state()
    failed = first.export("web-01", folder, state=SourceState.POWER_OFF)
    assert failed.error is not None
    assert "not_undone" in failed.error.fields
    record = (folder / RUN_FILE).read_bytes()

    refused = other.export("web-01", folder, resume=Resume.DISCARD).error
    assert refused is not None
    assert (refused.code, refused.exit_status, refused.fields["left"]) == ("run_elsewhere", 6, ["power"])
    with first.log_in() as session:
        assert f"{session.endpoint.username}@{session.endpoint.host}:{session.endpoint.port}" in refused.message
    assert other.simulator.state() == theirs
    assert other.simulator.counters.calls["PowerOnVM_Task"] == 0
    assert (folder / RUN_FILE).read_bytes() == record

    first.simulator.set_faults()
    assert cleaned(first, folder) == ("power",)
    assert first.simulator.state() == before
    succeeded(other.export("web-01", folder, resume=Resume.DISCARD))  # nothing is left to undo: it goes on
    assert_finished(folder)
    assert other.simulator.state() == theirs
