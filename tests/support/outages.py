"""What can happen to a database while a daemon uses it: a full disk, a read-only one, a lock, a file that goes, a
server that stops.

Fixture: ``small_disk``, a folder on a file system of its own. Only root may mount one; elsewhere the test is skipped
and says so.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SIZE: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class SmallDisk:
    """A file system of ``SIZE`` bytes at ``folder``."""

    folder: Path

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free within the block."""
        balloon = self.folder / "balloon"
        with balloon.open("wb", buffering=0) as file:
            for block in (1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"\0" * block):
                        pass
        try:
            yield
        finally:
            balloon.unlink()

    def read_only(self) -> None:
        """From here on, for whoever opens a file; nobody may have one open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True, capture_output=True, timeout=30)


@contextmanager
def mounted(folder: Path, size: int = SIZE, *, mode: str = "700") -> Iterator[SmallDisk]:
    """A tmpfs at ``folder``, unmounted after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "tmpfs", folder],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a small file system needs root: {made.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True, timeout=30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """The folder that the database of a site lies in."""
    with mounted(tmp_path / "db") as disk:
        yield disk


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program has begun to write, and does not end, within the block."""
    other = sqlite3.connect(path, isolation_level=None, timeout=60)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def spoil(path: Path, how: str) -> None:
    """Damages a database that nobody has open: ``header``, ``truncated``, or ``page`` (all pages but the first are
    garbage)."""
    with suppress(FileNotFoundError):
        with sqlite3.connect(path) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.close()
    size = path.stat().st_size
    with path.open("r+b") as out:
        if how == "header":
            out.write(os.urandom(100))
        elif how == "truncated":
            out.truncate(size // 2 - 100)
        else:
            out.seek(4096)
            out.write(os.urandom(size - 4096))
