"""Command lines against a simulator in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.units import MiB
from tests.support.cli.commandline import Run, run
from tests.support.vsphere import environ_of

SMALL = DiskSpec(capacity_bytes=4 * MiB, allocated_bytes=1 * MiB)


def small(name: str, **settings: Any) -> MachineSpec:
    """A machine that is exported quickly."""
    return MachineSpec(name=name, **{"disks": (SMALL,), **settings})


def login(server: Simulator, home: Path, **more: str) -> dict[str, str]:
    """An environment with its own home and the login to ``server``."""
    return {
        "HOME": str(home),
        **environ_of(server),
        **more,
    }


class Shell:
    """Runs commands as one user of one server."""

    def __init__(self, server: Simulator, home: Path) -> None:
        self.server = server
        self.home = home

    def __call__(self, *arguments: str | Path, stdin: str = "", **more: str) -> Run:
        return run(*map(str, arguments), env=login(self.server, self.home, **more), stdin=stdin)

    def good(self, *arguments: str | Path, stdin: str = "", **more: str) -> Run:
        """As the call; the command must succeed."""
        done = self(*arguments, stdin=stdin, **more)
        if done.status:
            pytest.fail(f"{arguments}: exit status {done.status}\n{done.out}{done.err}")
        return done
