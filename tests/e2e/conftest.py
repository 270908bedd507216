"""Fixtures of the end-to-end tests: a simulator with an engine or with the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypersdk.simulator import Simulator
from tests.support.cli.hyper2kvm import Program
from tests.support.exporter import Engine
from tests.support.simulator import SimulatorFactory


@pytest.fixture
def engine(simulator: SimulatorFactory, tmp_path: Path) -> Callable[..., Engine]:
    """``engine(machines=..., settings={...})``: a simulator with exports in this process."""

    def start(*, settings: dict[str, Any] | None = None, **simulated: Any) -> Engine:
        return Engine(simulator(**simulated), tmp_path / "state", settings or {})

    return start


@pytest.fixture
def program(simulator: SimulatorFactory, tmp_path: Path) -> Callable[..., tuple[Simulator, Program]]:
    """``program(machines=...)``: a simulator, and the program that logs in to it from a separate process."""

    def start(**simulated: Any) -> tuple[Simulator, Program]:
        running = simulator(**simulated)
        return running, Program(tmp_path / "home", running)

    return start
