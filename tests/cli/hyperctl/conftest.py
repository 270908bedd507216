"""A user of the test's own API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.apiserver import Api
from tests.support.cli.hyperctl import Hyperctl, hyperctl_of


@pytest.fixture
def ctl(api: Api, tmp_path: Path) -> Hyperctl:
    """An administrator."""
    return hyperctl_of(api, tmp_path / "home")
