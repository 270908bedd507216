"""The systemd unit, judged by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hypersdk.jobs.supervisor import START_S
from tests.support.cli.hypervisord import hypervisord

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "systemd" / "hypervisord.service"
LEEWAY = 0.1
"""Versions of systemd-analyze weigh a little differently."""


def _settings() -> dict[str, str]:
    """Of the unit; of those that are given several times, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is there: systemd looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is not installed (Debian package systemd); see scripts/test", pytrace=False)
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/usr/bin/hypervisord", "/bin/true"))
    return path


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_as_tight_as_the_docs_say(unit: Path) -> None:
    whole = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, check=False
    )
    figure = float(whole.stdout.rpartition("Overall exposure level for")[2].split(":")[1].split()[0])
    (said,) = re.findall(r"`systemd-analyze security` gives it ([\d.]+) of 10", (ROOT / "docs/daemon.md").read_text())
    assert figure <= float(said) + LEEWAY


def test_the_service_sees_which_boot_it_is() -> None:
    """The ledger of blocks trusts every record of this boot; without the boot's id, those up to the last durable
    mark."""
    assert not {"ProcSubset", "InaccessiblePaths", "TemporaryFileSystem"} & _settings().keys()


def test_an_upgrade_may_take_as_long_as_the_supervisor_lets_it() -> None:
    assert int(_settings()["TimeoutStartSec"]) > START_S


def test_settings_that_cannot_be_used_are_not_tried_for_ever(tmp_path: Path) -> None:
    config = tmp_path / "hypervisord.toml"
    config.write_text("no_such_key = 1\n")
    done = hypervisord("--config", config, "--state-dir", tmp_path / "state", home=tmp_path)
    assert str(done.status) in _settings()["RestartPreventExitStatus"].split(), done.err


@pytest.mark.parametrize("page", ["docs/daemon.md", "packaging/hypervisord.toml"])
def test_another_export_folder_is_opened_by_a_group(unit: Path, page: str) -> None:
    """The recipe opens the folder to a group and puts the service into it: its user owns nothing that an administrator
    made."""
    text = (ROOT / page).read_text()
    (drop_in,) = re.findall(r"\[Service\]\n((?:# +\w+=.*\n)*# +ReadWritePaths=.*\n)", text)
    lines = re.sub(r"^# +", "", drop_in, flags=re.MULTILINE)
    settings = dict(line.split("=") for line in lines.splitlines())
    group, folder = settings["SupplementaryGroups"], settings["ReadWritePaths"]
    for command in (f"groupadd --system {group}", f"chgrp {group} {folder}", f"chmod 2770 {folder}"):
        assert command in text
    (unit.parent / f"{unit.name}.d").mkdir()
    (unit.parent / f"{unit.name}.d" / "override.conf").write_text(f"[Service]\n{lines}")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
