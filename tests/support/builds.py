"""Files that are expensive to make: made once for all processes, and kept outside of the repository by the digest of
their recipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

UNUSED_S: Final = 7 * 24 * 3600.0
"""What was made by an older recipe is removed when nobody has used it for so long."""


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """One process at a time is in the block for ``name``; the others find its work done."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def recipe_digest(*parts: Path | str) -> str:
    """Names a recipe: files count with their content, texts (such as versions of packages) as they are."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]


def built(folder: Path, name: str, digest: str, make: Callable[[Path], object]) -> Path:
    """``folder/NAME-DIGEST``, a file or a folder: what ``make`` creates at the path it gets. An interrupted ``make``
    leaves nothing under that name."""
    path = folder / f"{name}-{digest}"
    with locked(folder, name):
        if not path.exists():
            partial = folder / f".{name}.partial"
            remove(partial)  # of a process that was killed: this one has the lock
            make(partial)
            partial.rename(path)
        os.utime(path)
        _forget(folder, name, path)
    return path


def _forget(folder: Path, name: str, kept: Path) -> None:
    """Removes what an older recipe of this name made."""
    length = len(kept.name)
    for path in folder.glob(f"{name}-*"):
        if len(path.name) == length and path.stat().st_mtime < time.time() - UNUSED_S:
            remove(path)


def remove(path: Path) -> None:
    """A file, a folder with all in it, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
