"""A failure inside the simulator goes to its log and to the client as a SystemError: here it fails the test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hypersdk.simulator import Simulator
from tests.support.simulatorclients import login, simulated


@pytest.fixture(autouse=True)
def _no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    failures = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not failures, caplog.text


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """With the ``MACHINES`` of the test module."""
    with simulated(machines=request.module.MACHINES) as running:
        yield running


@pytest.fixture
def instance(server: Simulator) -> Iterator[Any]:
    """A pyVmomi ServiceInstance with a session of its own."""
    with login(server) as opened:
        yield opened
