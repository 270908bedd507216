"""What a run draws: the same again with its seed, and over the seeds all cases of the kill suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.support import seeds

ROOT = Path(__file__).parents[1]
DRAWN = """
from hypothesis import given, strategies
from tests.support.seeds import examples

@examples(10)
@given(strategies.integers())
def test_property(number):
    print("example", number)
"""


def drawn(suite: Path, seed: int, **more: str) -> list[str]:
    """The examples that a run draws."""
    plugins = ["-p", "_hypothesis_pytestplugin", "-p", "tests.support.seeds"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HYPERSDK_SEED": str(seed)}
    env |= more
    env.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, *plugins, "-q", "-s", str(suite)]
    done = subprocess.run(command, cwd=suite.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("example ")]


def test_the_seed_draws_the_same_again(tmp_path: Path) -> None:
    suite = tmp_path / "test_drawn.py"
    suite.write_text(DRAWN)
    first = drawn(suite, 7)
    assert len(first) == 10
    assert drawn(suite, 7) == first
    assert drawn(suite, 8) != first
    assert drawn(suite, 8, CI="true") != first


def test_each_seed_runs_a_third_of_the_kills_and_the_seeds_together_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [cast(pytest.Item, number) for number in range(7)]
    ran: list[pytest.Item] = []
    for seed in range(12):
        monkeypatch.setattr(seeds, "SEED", seed)
        left = seeds._left("test_killed", cases)
        assert len(cases) - len(left) in (2, 3)
        ran += [case for case in cases if case not in left]
    assert set(ran) == set(cases)
