"""The systemd units, judged by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hypersdk.jobs.supervisor import START_S
from tests.support.cli.hypervisord import hypervisord

ROOT = Path(__file__).parents[2]
UNITS = ("hypervisord", "hypervisord-worker")
LEEWAY = 0.1
"""Versions of systemd-analyze weigh a little differently."""


def _text(name: str) -> str:
    return (ROOT / "packaging" / "systemd" / f"{name}.service").read_text()


def _settings(name: str) -> dict[str, str]:
    """Of the unit; of those that are given several times, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", _text(name), re.MULTILINE))


@pytest.fixture
def units(tmp_path: Path) -> dict[str, Path]:
    """The units, with a program that is there: systemd looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is not installed (Debian package systemd); see scripts/test", pytrace=False)
    paths = {name: tmp_path / f"{name}.service" for name in UNITS}
    for name, path in paths.items():
        path.write_text(_text(name).replace("/usr/bin/hypervisord", "/bin/true"))
    return paths


def _verify(units: dict[str, Path]) -> tuple[int, str]:
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_systemd_finds_nothing_wrong(units: dict[str, Path]) -> None:
    assert _verify(units) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_it_is_as_tight_as_the_docs_say(units: dict[str, Path], name: str) -> None:
    unit = units[name]
    whole = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, check=False
    )
    figure = float(whole.stdout.rpartition("Overall exposure level for")[2].split(":")[1].split()[0])
    page = (ROOT / "docs/daemon.md").read_text()
    (said,) = re.findall(rf"gives\s(?:it to )?`{name}`\s([\d.]+?)(?: of 10|:)", page)
    assert figure <= float(said) + LEEWAY


def test_the_workers_see_which_boot_it_is() -> None:
    """The ledger of blocks trusts every record of this boot; without the boot's id, those up to the last durable
    mark."""
    assert not {"ProcSubset", "InaccessiblePaths", "TemporaryFileSystem"} & _settings("hypervisord-worker").keys()


@pytest.mark.parametrize("name", UNITS)
def test_an_upgrade_may_take_as_long_as_the_supervisor_lets_it(name: str) -> None:
    assert int(_settings(name)["TimeoutStartSec"]) > START_S


def test_settings_that_cannot_be_used_are_not_tried_for_ever(tmp_path: Path) -> None:
    config = tmp_path / "hypervisord.toml"
    config.write_text("no_such_key = 1\n")
    done = hypervisord("--config", config, "--state-dir", tmp_path / "state", home=tmp_path)
    for name in UNITS:
        assert str(done.status) in _settings(name)["RestartPreventExitStatus"].split(), done.err


def test_the_units_share_user_state_and_secrets() -> None:
    api, workers = (_settings(name) for name in UNITS)
    for key in ("User", "StateDirectory", "StateDirectoryMode", "UMask", "LoadCredential", "EnvironmentFile"):
        assert api[key] == workers[key]
    assert [values["ExecStart"].rpartition(" --role ")[2] for values in (api, workers)] == ["api", "worker"]


@pytest.mark.parametrize("name", UNITS)
def test_a_crash_leaves_no_memory_with_secrets(name: str) -> None:
    assert _settings(name)["LimitCORE"] == "0"


def test_what_the_workers_do_without_is_what_a_conversion_needs() -> None:
    """Else the two lists would drift apart: each restriction of the API is the workers', too, unless it is named
    here."""
    api, workers = (_settings(name) for name in UNITS)
    restrictions = {key for key in api if key.startswith(("Private", "Protect", "Restrict", "Lock", "Memory", "NoNew"))}
    dropped = {key for key in restrictions if workers.get(key) != api[key]}
    assert dropped == {
        "PrivateDevices", "PrivateUsers", "ProtectKernelModules", "MemoryDenyWriteExecute", "RestrictNamespaces",
        "RestrictAddressFamilies",
    }  # fmt: skip
    assert workers["DeviceAllow"] == "/dev/kvm rw"


@pytest.mark.parametrize("page", ["docs/daemon.md", "packaging/hypervisord.toml"])
def test_another_export_folder_is_the_services(units: dict[str, Path], page: str) -> None:
    """The recipe gives the folder to the services' user, lets QEMU's through, and makes it writable in both units."""
    text = (ROOT / page).read_text()
    (folder,) = re.findall(r"install -d -o hypersdk -g hypersdk -m 0711 (/\S+)", text)
    edit = re.search(r"systemctl edit (.+)\n# +\[Service\]\n# +ReadWritePaths=(\S+)\n", text.replace("#   sys", "sys"))
    assert edit is not None
    assert (edit[1].split(), edit[2]) == (list(UNITS), folder)
    for path in units.values():
        (path.parent / f"{path.name}.d").mkdir()
        (path.parent / f"{path.name}.d" / "override.conf").write_text(f"[Service]\nReadWritePaths={folder}\n")
    assert _verify(units) == (0, "")
