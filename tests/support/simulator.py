"""Fixtures with simulators that run in the test's own process, on free ports of the loopback network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from hypersdk.simulator import Simulator, SimulatorConfig

SimulatorFactory = Callable[..., Simulator]


@pytest.fixture
def simulator() -> Iterator[SimulatorFactory]:
    """A factory: ``simulator(vms=3, machines=(MachineSpec("a"),))`` starts one; all are stopped at the end of the
    test."""
    with ExitStack() as running:

        def start(**settings: Any) -> Simulator:
            return running.enter_context(Simulator(SimulatorConfig(**settings)))

        yield start


def lift_rate_limit(simulator: Simulator) -> None:
    """No stream has a rate limit any more. Call it once the slow one has served its purpose."""
    limit_rate(simulator, None)


def limit_rate(simulator: Simulator, bytes_s: float | None) -> None:
    """From now on each stream, also an open one, has that rate."""
    simulator.platform.config = replace(simulator.platform.config, rate_bytes_s=bytes_s)


def snapshot_names(simulator: Simulator) -> list[str]:
    """Names of the snapshots of the only machine."""
    (machine,) = simulator.state()["machines"].values()
    return [name for _, name, _ in machine["snapshots"]]


def remove_snapshots(simulator: Simulator, machine: str) -> None:
    """Removes snapshots as on the host itself, while vCenter holds the lease: the API refuses it then."""
    with simulator.platform.world.lock:
        for snapshot in list(simulator.vm(machine).snapshots):
            snapshot.remove(children=True)
