"""``--file-hash``: by flag, configuration and job file, and which of them takes precedence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.shell import Shell, small
from tests.support.simulator import SimulatorFactory
from tests.support.tools import sha256
from tests.support.treedigest import tree_digest_of_file


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path) -> Shell:
    return Shell(simulator(machines=(small("two"),)), tmp_path)


def image_of(folder: Path) -> dict[str, Any]:
    """What the manifest says of the first disk's file."""
    document = json.loads((folder / "artifact-manifest.json").read_text())
    disk: dict[str, Any] = document["disks"][0]
    return disk


def digests_of(folder: Path) -> str:
    """``tree``, ``sha256`` or ``none``; what the manifest has is right."""
    disk = image_of(folder)
    path, tree = folder / disk["local_path"], disk["hypersdk"]["tree"]
    assert tree is None or tree["digest"] == tree_digest_of_file(path)
    assert disk["checksum"] in (None, f"sha256:{sha256(path)}")
    return "none" if tree is None else "tree" if disk["checksum"] is None else "sha256"


@pytest.mark.parametrize(
    ("config", "flags", "found"),
    [
        ("", (), "tree"),
        ("", ("--file-hash", "sha256"), "sha256"),
        ("", ("--no-file-hash",), "none"),
        ('file_hash = "sha256"', (), "sha256"),
        ('file_hash = "sha256"', ("--file-hash", "tree"), "tree"),
        ('file_hash = "sha256"', ("--no-file-hash",), "none"),
    ],
)
def test_flag_before_configuration(
    shell: Shell, tmp_path: Path, config: str, flags: tuple[str, ...], found: str
) -> None:
    (tmp_path / "config.toml").write_text(f"[export]\n{config}\n")
    done = shell.good("export", "two", "-o", tmp_path / "x", *flags, "--config", tmp_path / "config.toml")
    assert digests_of(tmp_path / "x") == found
    assert ("    tree     " in done.out) == (found != "none")
    checked = shell.good("verify", tmp_path / "x")
    assert ("compared by its size only" in checked.err) == (found == "none")


def test_a_job_file_says_it_and_a_flag_takes_precedence(shell: Shell, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    shell.good("export", "two", "-o", tmp_path / "x", "--file-hash", "sha256", "--write-job", job)
    (written,) = json.loads(job.read_text())["jobs"]
    assert written["options"]["file_hash"] == "sha256"
    (tmp_path / "config.toml").write_text('[export]\nfile_hash = "none"\n')
    shell.good("export", "-f", job, "--config", tmp_path / "config.toml")
    assert digests_of(tmp_path / "x") == "sha256"
    shell.good("export", "-f", job, "--force", "--file-hash", "tree")
    assert digests_of(tmp_path / "x") == "tree"


def test_both_flags_exclude_each_other(shell: Shell, tmp_path: Path) -> None:
    done = shell("export", "two", "-o", tmp_path / "x", "--file-hash", "tree", "--no-file-hash")
    assert done.status == 2
    assert "--file-hash and --no-file-hash exclude each other" in done.err
