"""Commands that move machines from the simulator of vCenter onto a real libvirtd.

Fixture: ``move``, a factory: ``move(machines=...)``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.landing.landings import unfinished_landings
from hypersdk.migration.runs import unfinished_runs
from hypersdk.simulator import Simulator
from tests.support.cli.commandline import Run
from tests.support.cli.shell import Shell, login
from tests.support.guests.guest import MARKER
from tests.support.libvirtd import Libvirtd
from tests.support.simulator import SimulatorFactory

PROVED: Final = ("--prove", "--prove-marker", MARKER)


@dataclass(frozen=True, slots=True)
class Move:
    """Commands that migrate to one libvirtd, on its network ``lan``, without a guest conversion."""

    shell: Shell
    libvirtd: Libvirtd
    folder: Path

    def words(self, *words: str | Path) -> list[str | Path]:
        """The flags of all commands."""
        return [*words, "--to", self.libvirtd.uri, "--map", "*=network:lan", "--no-convert", "--acceleration", "tcg"]

    def __call__(self, *words: str | Path, **more: Any) -> Run:
        return self.shell(*self.words("migrate", "--json", "-o", self.folder, *words), **more)

    def result(self, *words: str | Path) -> dict[str, Any]:
        """The result of one machine."""
        done = self(*words)
        assert done.status == 0, done.events
        return next(event for event in done.events if event["type"] == "result")

    def load(self, *words: str | Path) -> Run:
        """`import`."""
        return self.shell(*self.words("import", "--json", *words))

    @property
    def simulator(self) -> Simulator:
        return self.shell.server

    def on_network(self, name: str = "web-01") -> bool:
        """Whether the source is connected."""
        machine = self.simulator.vm(name)
        return machine.power == "poweredOn" and any(
            device.connectable.connected for device in machine.device_list if device.macAddress
        )

    def running(self) -> list[str]:
        """Names of the domains that run."""
        return self.libvirtd.virsh("list", "--name").split()

    def assert_nothing_left(self, explanation: str = "") -> None:
        """Neither `status` nor the folder knows of anything that is to be done."""
        state = self.shell.home / ".local/state/hypersdk"
        assert [run.folder for run in unfinished_runs(state)] == [], explanation
        assert [landing.folder for landing in unfinished_landings(state)] == [], explanation
        assert list(self.folder.rglob("*.partial")) == []


@pytest.fixture
def move(
    simulator: SimulatorFactory, libvirtd: Libvirtd, lan_network: str, guest_folder: Path, tmp_path: Path
) -> Callable[..., Move]:
    """``move(machines=...)``: a simulator, and commands that migrate from it."""

    def start(**settings: Any) -> Move:
        return Move(Shell(simulator(**settings), tmp_path), libvirtd, guest_folder / "out")

    return start


def dying(moved: Move, moment: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, which ends itself by SIGKILL at ``moment``: see the program."""
    command = [sys.executable, "-m", "tests.support.programs.dyingmigration", moment, *map(str, words)]
    env = {**os.environ, **login(moved.simulator, moved.shell.home)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
