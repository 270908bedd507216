"""The guide's four commands for forty machines, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hypersdk.simulator import DiskSpec
from hypersdk.units import KiB
from tests.support.cli.commandline import environment, run
from tests.support.cli.shell import login, small
from tests.support.simulator import SimulatorFactory

GUIDE = Path(__file__).parents[2] / "docs/exporting.md"
TINY = DiskSpec(capacity_bytes=256 * KiB, allocated_bytes=64 * KiB)


def commands() -> list[str]:
    """The first block of the section."""
    section = GUIDE.read_text().partition("\n## Many machines\n")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.mark.parametrize("command", ["export", "verify"])
def test_help_and_guide_name_the_same_events(command: str) -> None:
    section = GUIDE.read_text().partition("\n## JSON lines\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE)
    told = " ".join(run(command, "--help").out.split()).partition("events of type ")[2].partition(", one a line")[0]
    assert {kind for kind, source in rows if command in source or source == "all"} == {
        word.strip(".") for word in re.split(r", | and ", told.partition(". ")[0].partition(" Options")[0])
    }


@pytest.mark.slow
def test_forty_machines_overnight(simulator: SimulatorFactory, tmp_path: Path) -> None:
    machines = [
        small(f"app-{number:02d}", disks=(TINY,), folder=f"Production/{'Web' if number % 2 else 'Databases'}")
        for number in range(40)
    ]
    others = [small("app-40-test", disks=(TINY,), folder="Production"), small("lab-01", disks=(TINY,), folder="Lab")]
    server = simulator(machines=(*machines, *others))
    home = tmp_path / "home"
    home.mkdir()
    env = environment(home, **{key: value for key, value in login(server, home).items() if key != "HOME"})
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    assert len(commands()) == 4
    said = []
    for line in commands():
        assert "jq" not in line
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said.append(done)
    select, look, run, verify = said
    assert "40 machines" in select.stdout
    assert "40 machines, 40 disks of 10.0 MiB, as qcow2\n" in look.stderr
    assert "✔ 40 machines: 40 exported\n" in run.stdout
    assert verify.stdout.splitlines()[-1].startswith("✔ 40 exports: 40 as written; ")
    assert {path.name for path in (tmp_path / "images").iterdir()} == {f"app-{number:02d}" for number in range(40)}
    assert "<h1>40 of 40 machines exported</h1>" in (tmp_path / "weekend.html").read_text()
