"""Kills at each file system call while run file, ledger and image are created: the next run completes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.migration.spec import Compression, Method, OutputFormat, ResumeMode
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.exportchecks import MANIFEST, RUN_FILE, assert_finished, assert_holds, expected_raw
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.seeds import SEED
from tests.support.vsphere import environ_of

MACHINE: Final = MachineSpec("web-01", disks=(DiskSpec(3 * MiB, allocated_bytes=2 * MiB), DiskSpec(512)))
KINDS: Final[dict[str, tuple[list[str], dict[str, Any]]]] = {
    "ova": (["--format", "ova"], {"format": OutputFormat.OVA}),
    "vmdk": (["--format", "vmdk"], {"format": OutputFormat.VMDK}),
    "raw": (["--format", "raw"], {"format": OutputFormat.RAW}),
    "qcow2": ([], {"format": OutputFormat.QCOW2}),
    "compressed": (["--compress"], {"format": OutputFormat.QCOW2, "compress": Compression.CHECKED}),
}


class Exports:
    """The program, in a process that forks one for each export (tests.support.programs.dyingexport)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, folder: Path, arguments: list[str], at: int | None, *, torn: bool) -> tuple[int, list[str]]:
        """Exit status, or the signal as a negative number, and the calls that were made."""
        log = folder.with_name(f"{folder.name}.log")
        order = {
            "folder": str(folder),
            "log": str(log),
            "at": at,
            "torn": torn,
            "arguments": ["web-01", "-o", str(folder), "--parallel", "1", "--source", "lease", "--json", *arguments],
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), log.read_text().splitlines()


@contextmanager
def forking(engine: Engine) -> Iterator[Exports]:
    simulator = engine.simulator
    env = {
        **os.environ,
        **environ_of(simulator),
        "STATE_DIRECTORY": str(engine.state),
    }
    command = [sys.executable, "-m", "tests.support.programs.dyingexport"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Exports(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def moments(calls: list[str], *, images_only: bool) -> list[int]:
    """The first call of each operation on each file, up to the end of the first checkpoint; ``images_only``: on images
    and ledgers."""
    # A small disk may be whole before its first checkpoint; then its ledger is removed.
    ends = ("fdatasync web-01-disk1", "unlink web-01-disk1")
    until = max(at for at, call in enumerate(calls) if call.startswith(ends))
    found = {call: at for at, call in reversed(list(enumerate(calls[: until + 2])))}
    return sorted(at for call, at in found.items() if ".partial" in call or not images_only)


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(1800)  # each call of a whole export
@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_run_file_ledger_and_image_come_into_being(
    kind: str, engine: EngineFactory, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    flags, spec = KINDS[kind]
    ran = engine(machines=(MACHINE,))
    before, expected = ran.simulator.state(), expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    draw, full = random.Random(f"{SEED}/{kind}"), pytestconfig.getoption("full")
    with forking(ran) as exports:
        status, calls = exports.run(tmp_path / "whole", flags, None, torn=False)
        assert status == 0
        for at in range(len(calls)) if full else moments(calls, images_only=draw.random() < 0.8):
            folder, torn = tmp_path / f"killed-{at}", draw.random() < 0.5
            status, made = exports.run(folder, flags, at, torn=torn)
            print(f"seed {SEED}: killed at call {at} ({torn=}), after {made[-1:]}")
            # Threads make some calls in another order each time, and late ones may not come at all.
            assert status == -signal.SIGKILL or at > len(made) - 1
            if (folder / MANIFEST).exists() and not (folder / RUN_FILE).exists():
                continue  # all was done but to give the folder back
            if status == -signal.SIGKILL:
                resume = ResumeMode.RESUME if (folder / RUN_FILE).exists() else ResumeMode.REFUSE
                result = succeeded(ran.export("web-01", folder, resume=resume, parallel=1, method=Method.LEASE, **spec))
                assert_holds(folder, expected, result.content, tmp_path / "judged", convert=False)
            assert_finished(folder)
            assert ran.simulator.state() == before
            shutil.rmtree(folder)
