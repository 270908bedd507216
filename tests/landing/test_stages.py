"""Machines that wait to be landed, and those that are copied meanwhile."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

import pytest

from hypersdk.landing.stages import run_stages

TIMEOUT_S: Final = 60


@dataclass
class Machine:
    """``may_land`` is set when it may be landed; ``copied`` and ``landed`` when that has ended."""

    needs_copy: bool = True
    keeps_place: bool = False
    fails: bool = False
    may_land: threading.Event = field(default_factory=threading.Event)
    copied: threading.Event = field(default_factory=threading.Event)
    landed: threading.Event = field(default_factory=threading.Event)

    def copy(self) -> bool:
        self.copied.set()
        return not self.fails

    def land(self) -> None:
        assert self.may_land.wait(TIMEOUT_S)
        self.landed.set()


def run(*machines: Machine, copies: int = 1, landings: int = 1) -> threading.Thread:
    thread = threading.Thread(target=run_stages, args=(machines,), kwargs={"copies": copies, "landings": landings})
    thread.start()
    return thread


def test_copies_go_on_while_a_machine_waits_to_be_landed() -> None:
    machines = [Machine() for _ in range(4)]
    thread = run(*machines)
    for machine in machines:
        assert machine.copied.wait(TIMEOUT_S)
    assert not any(machine.landed.is_set() for machine in machines)
    for machine in machines:
        machine.may_land.set()
    thread.join(TIMEOUT_S)
    assert all(machine.landed.is_set() for machine in machines)


def test_a_machine_that_is_down_for_it_keeps_its_place() -> None:
    down, other = Machine(keeps_place=True), Machine()
    other.may_land.set()
    thread = run(down, other)
    assert down.copied.wait(TIMEOUT_S)
    assert not other.copied.wait(0.3)
    down.may_land.set()
    thread.join(TIMEOUT_S)
    assert other.landed.is_set()


def test_what_failed_is_not_landed_and_what_was_copied_before_is_not_copied() -> None:
    failed, earlier = Machine(fails=True), Machine(needs_copy=False)
    earlier.may_land.set()
    run_stages([failed, earlier], copies=2, landings=1)
    assert failed.copied.is_set()
    assert not failed.landed.is_set()
    assert not earlier.copied.is_set()
    assert earlier.landed.is_set()


def test_a_bug_is_not_swallowed() -> None:
    class Broken(Machine):
        def land(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stages([Broken()], copies=1, landings=1)
