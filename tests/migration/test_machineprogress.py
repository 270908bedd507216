"""The progress of one machine, on a clock that the test moves."""

from __future__ import annotations

import pytest

from hypersdk.errors import TransientError
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.plan import PlannedDisk
from hypersdk.model import Phase
from hypersdk.units import MiB
from tests.support.clock import Clock

DISKS = tuple(
    PlannedDisk(key, f"Hard disk {key}", f"web-disk{key}.qcow2", 200 * MiB, 100 * MiB, 100 * MiB) for key in (1, 2)
)


def copy(machine: MachineProgress, clock: Clock, key: int, seconds: int) -> None:
    """Copies 10 MiB a second."""
    for _ in range(seconds):
        clock.pass_(1)
        machine.meters[key].add_wire(5 * MiB)
        machine.meters[key].add_decoded(10 * MiB, None)
        machine.snapshot()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def machine(clock: Clock) -> MachineProgress:
    """Its first disk begins to be copied, after 5 s of preparing."""
    made = MachineProgress("web", DISKS, clock)
    clock.pass_(100)  # it waits for its turn
    made.phase(Phase.PREPARING)
    clock.pass_(5)
    made.phase(Phase.TRANSFERRING)
    made.meters[1].tried()
    made.meters[1].begin_stream(None, 100 * MiB)
    made.snapshot()
    return made


def test_the_time_left_is_that_of_all_disks(machine: MachineProgress, clock: Clock) -> None:
    copy(machine, clock, 1, 4)
    now = machine.snapshot()
    assert now.fraction == pytest.approx(0.2)
    assert now.eta_s == pytest.approx(16, rel=0.01)
    assert (now.expected_bytes, now.copy_s) == (200 * MiB, 4)


def test_a_machine_is_not_done_before_its_slowest_disk(machine: MachineProgress, clock: Clock) -> None:
    machine.meters[2].tried()
    machine.meters[2].begin_stream(None, 100 * MiB)
    machine.snapshot()
    for _ in range(5):
        clock.pass_(1)
        machine.meters[1].add_decoded(18 * MiB, None)
        machine.meters[2].add_decoded(2 * MiB, None)
        machine.snapshot()
    now = machine.snapshot()
    assert now.fraction == pytest.approx(0.5)
    assert now.disks[1].eta_s == pytest.approx(45, rel=0.01)
    assert now.eta_s == pytest.approx(45, rel=0.01), "not 5 s, as at the speed of both"


def test_the_wait_for_its_turn_is_measured_while_it_lasts(machine: MachineProgress, clock: Clock) -> None:
    with machine.waiting_for_turn():
        clock.pass_(7)
        assert machine.snapshot().turn_s == 7
    clock.pass_(3)
    with machine.waiting_for_turn():
        clock.pass_(1)
    assert machine.snapshot().turn_s == 8


def test_its_time_begins_with_its_turn_and_stops_at_its_end(machine: MachineProgress, clock: Clock) -> None:
    assert machine.snapshot().elapsed_s == 5
    copy(machine, clock, 1, 4)
    machine.phase(Phase.DONE)
    clock.pass_(1000)
    assert machine.snapshot().elapsed_s == 9
    with pytest.raises(TransientError), machine.ended_by_errors():
        raise TransientError("gone")
    failed = machine.snapshot()
    clock.pass_(1000)
    assert machine.snapshot().elapsed_s == failed.elapsed_s


def test_while_it_waits_for_space_it_has_no_rate_and_no_time_left(machine: MachineProgress, clock: Clock) -> None:
    copy(machine, clock, 1, 4)
    with machine.meters[1].waiting("/srv is full: waiting for free space"):
        for _ in range(30):
            clock.pass_(1)
            now = machine.snapshot()
        assert (now.phase, now.rate_bytes_s, now.eta_s) == (Phase.WAITING, None, None)
        assert (now.disks[0].rate_bytes_s, now.disks[0].eta_s) == (None, None)
        assert now.disks[0].note == "/srv is full: waiting for free space"
    copy(machine, clock, 1, 4)
    now = machine.snapshot()
    assert (now.phase, now.rate_bytes_s) == (Phase.TRANSFERRING, 5 * MiB)
    assert now.eta_s == pytest.approx(12, rel=0.1), "the time of waiting is not part of the speed"
    assert now.copy_s <= 9


def test_a_stream_that_is_read_again_holds_the_percentage(machine: MachineProgress, clock: Clock) -> None:
    copy(machine, clock, 1, 5)
    before = machine.snapshot()
    machine.meters[1].tried()
    machine.meters[1].begin_stream(None, 100 * MiB)
    machine.snapshot()
    copy(machine, clock, 1, 2)
    again = machine.snapshot()
    assert again.fraction == before.fraction == pytest.approx(0.25)
    assert again.redone == pytest.approx(0.1)
    assert again.disks[0].redone == pytest.approx(0.2)
    assert again.eta_s == pytest.approx(18, rel=0.1), "that of the work that is really left"
    copy(machine, clock, 1, 4)
    assert machine.snapshot().redone is None


def test_what_an_earlier_run_copied_is_no_speed(clock: Clock) -> None:
    """Ranges begin where the earlier run ended."""
    machine = MachineProgress("web", DISKS[:1], clock)
    machine.phase(Phase.TRANSFERRING)
    meter = machine.meters[1]
    meter.check_earlier(50 * MiB)
    for _ in range(10):
        clock.pass_(1)
        assert machine.snapshot().eta_s is None
    meter.found(50 * MiB)
    meter.tried()
    meter.begin_ranges(100 * MiB, 50 * MiB)
    machine.snapshot()
    copy(machine, clock, 1, 2)
    now = machine.snapshot()
    assert now.fraction == pytest.approx(0.7)
    assert now.eta_s == pytest.approx(3, rel=0.01)
    assert now.copy_s == 2
