"""Fixtures with simulators that run in the test's own process, on free ports of the loopback network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
