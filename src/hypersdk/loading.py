"""Imports without garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For a block that only imports: what it loads stays loaded, so the garbage collector neither looks through it a
    hundred times meanwhile nor ever again."""
    if not gc.isenabled():  # of a block around this one
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
