"""The published list of codes is the registry's, and the pages that next steps name are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_published_list_is_the_registry() -> None:
    command = [sys.executable, "-m", "hypersdk.cli.errorlist"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert (ROOT / "docs/errors.md").read_text() == listed


def test_every_page_that_is_named_exists() -> None:
    named = set(re.findall(r"docs/[\w./-]+\.md", (ROOT / "docs/errors.md").read_text()))
    assert {page for page in named if not (ROOT / page).exists()} == set()
    assert "docs/job-file.md" in named
