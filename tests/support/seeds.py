"""The seed of a test run, and which cases of the kill suite run.

Every test that draws something by chance draws it from ``SEED``: another one in each run, told in the header and, when
something failed, at the end. ``HYPERSDK_SEED`` repeats a run.

Tests with the mark ``kill`` end processes at drawn moments. Together they take many minutes, so a run does a third of
the cases of each, drawn as well; ``--full`` does all of them, and hypothesis tries more examples.
"""

from __future__ import annotations

import os
import random
import zlib
from collections import defaultdict
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

SEED: Final = int(os.environ.setdefault("HYPERSDK_SEED", str(random.SystemRandom().randrange(1 << 32))))
"""Kept in the environment, so that all processes of one run have the same."""
THIRDS: Final = 3
COMMON: Final = settings(
    settings.get_profile("default"),  # where the variable CI is set another one is loaded, which ignores every seed
    deadline=None,  # a busy machine decides no test
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
    print_blob=True,
)
settings.register_profile("commit", COMMON, max_examples=100)
settings.register_profile("full", COMMON, max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Makes ``--full`` known."""
    parser.addoption("--full", action="store_true", help="run every case of the kill suite, and more examples")


@pytest.hookimpl(tryfirst=True)  # before the plugin of hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    """Before test modules are imported: they derive settings from the profile."""
    settings.load_profile("full" if config.getoption("full") else "commit")
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> str:
    """Where a run begins."""
    return f"seed: HYPERSDK_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where a run ends badly: the header may be far away, or left out by ``-q``."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"To repeat what was drawn: HYPERSDK_SEED={SEED}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves a third of the cases of each kill test, at least one."""
    if config.getoption("full"):
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("kill"):
            cases[item.nodeid.partition("[")[0]].append(item)
    left = {item for name, found in cases.items() for item in _left(name, found)}
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def _left(name: str, cases: list[pytest.Item]) -> list[pytest.Item]:
    """The cases that do not run. Fewer than three were asked for by their names."""
    if len(cases) < THIRDS:
        return []
    turn = zlib.crc32(f"{SEED}/{name}".encode()) % THIRDS
    return [case for number, case in enumerate(cases) if number % THIRDS != turn]


def examples(count: int) -> settings:
    """Settings for a property of which the profile "commit" tries ``count`` examples, and "full" ten times as many."""
    return settings(max_examples=count * settings().max_examples // settings.get_profile("commit").max_examples)
