"""A database for what is the same on each kind of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypersdk.state.database import Database


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """An upgraded SQLite database."""
    found = Database.open(sqlite_url)
    found.upgrade()
    yield found
    found.close()
