"""Fixtures with a guest each, whose disks the test may change: copies in ``guest_folder``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guests import bootsectors
from tests.support.guests.guest import Guest


@pytest.fixture
def boot_sector_guest(guest_folder: Path) -> Guest:
    """Prints its marker once a second."""
    return bootsectors.boot_sector_guest("marker").copied(guest_folder)


@pytest.fixture
def echo_guest(guest_folder: Path) -> Guest:
    """Prints its marker, then sends letters from its serial port back with their case changed."""
    return bootsectors.boot_sector_guest("echo").copied(guest_folder)


@pytest.fixture
def writer_guest(guest_folder: Path) -> Guest:
    """Prints its marker, then writes numbers to its disk and prints each."""
    return bootsectors.boot_sector_guest("writer").copied(guest_folder)
