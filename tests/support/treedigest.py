"""The tree digest of a file as docs/manifest.md says it, without anything of the product."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3


def tree_digest_of(data: bytes) -> str:
    """The hex digest of a file with this content."""
    return _digest(io.BytesIO(data), len(data))


def tree_digest_of_file(path: Path) -> str:
    """The hex digest of the file."""
    with path.open("rb") as file:
        return _digest(file, path.stat().st_size)


def _digest(file: BinaryIO, size: int) -> str:
    tree = blake3(size.to_bytes(8, "little"), derive_key_context="hypersdk file tree 1")
    while leaf := file.read(4 * 1024 * 1024):
        tree.update(blake3(leaf).digest())
    return tree.hexdigest()
