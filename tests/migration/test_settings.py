"""Defaults have one place, and the documentation says the same."""

from __future__ import annotations

import re
from pathlib import Path

from hypersdk.migration.settings import RunSettings
from hypersdk.transfer import budget

GUIDE = Path(__file__).parents[2] / "docs/exporting.md"


def test_limits_of_streams_are_the_budgets_own() -> None:
    settings = RunSettings()
    assert (settings.streams_per_host, settings.streams_per_vcenter) == (budget.PER_HOST, budget.PER_VCENTER)


def test_the_guide_names_them() -> None:
    rows = dict(re.findall(r"\| `(streams_per_\w+)` in the configuration \| (\d+) \|", GUIDE.read_text()))
    assert rows == {"streams_per_host": str(budget.PER_HOST), "streams_per_vcenter": str(budget.PER_VCENTER)}
