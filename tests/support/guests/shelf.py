"""The folder in which built guests are kept between runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.builds import built, recipe_digest
from tests.support.tools import run_tool

FOLDER_VARIABLE: Final = "HYPERSDK_GUESTS"


@cache
def shelf_folder() -> Path:
    """``$HYPERSDK_GUESTS``, else a folder of the user's cache; only for its owner: root trees have set-uid programs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get(FOLDER_VARIABLE) or base / "hypersdk-test-guests")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def from_shelf(name: str, recipe: tuple[Path | str, ...], make: Callable[[Path], object]) -> Path:
    """The file or folder that ``make`` creates at its path; made anew when a part of the recipe changed."""
    return built(shelf_folder(), name, recipe_digest(*recipe), make)


@cache
def package_versions(*names: str) -> str:
    """Versions of installed Debian packages, for recipes whose result depends on them."""
    return run_tool("dpkg-query", "--show", *names)
