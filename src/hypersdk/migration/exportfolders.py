"""Finds the exports below a folder. Names and depth of what lies there are anybody's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import UsageError
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.naming import MANIFEST_NAME, PARTIAL
from hypersdk.migration.runfile import RUN_FILE
from hypersdk.transfer.cancel import CancelToken

MAX_DEPTH: Final = 32
MAX_FOLDERS: Final = 100_000
_OF_AN_EXPORT: Final = (
    *(f".{form.image.suffix}" for form in FORMATS.values()), ".ovf", ".ova", ".mf", PARTIAL,
)  # fmt: skip
_NARROWER: Final = "Name folders further down."


@dataclass(frozen=True, slots=True)
class Found:
    """One folder. ``unreadable`` says why it could not be searched; what lies below it is not known then."""

    path: Path
    unreadable: str | None = None


def exports_below(path: Path, *, cancel: CancelToken) -> Iterator[Found]:
    """``path`` and the folders below it that hold an export, also one without its manifest, and those that cannot be
    read. Symbolic links are not followed.

    Raises UsageError for a tree that is deeper or larger than any that exports make, and Cancelled.
    """
    waiting, seen = [(path, 0)], 0
    while waiting:
        cancel.check()
        folder, depth = waiting.pop()
        seen += 1
        if seen > MAX_FOLDERS:
            raise UsageError(f"{path} has more than {MAX_FOLDERS:,} folders below it", next_step=_NARROWER)
        try:
            names, folders = _listed(folder)
        except OSError as error:
            yield Found(folder, error.strerror or str(error))
            continue
        if any(map(_is_of_export, names)):
            yield Found(folder)
        if folders and depth == MAX_DEPTH:
            raise UsageError(f"{path} has folders more than {MAX_DEPTH} levels below it", next_step=_NARROWER)
        waiting += [(folder / name, depth + 1) for name in sorted(folders, reverse=True)]


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in ``folder``."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    return files, folders


def _is_of_export(name: str) -> bool:
    return name in (MANIFEST_NAME, RUN_FILE) or name.endswith(_OF_AN_EXPORT)
