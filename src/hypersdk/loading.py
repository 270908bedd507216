"""Imports without garbage collection."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For a block that only imports: what it loads stays loaded, so the garbage collector neither looks through it a
    hundred times meanwhile nor ever again. Where everything was loaded before, nothing is kept: it would be whatever
    garbage there is at the moment, at each login of a worker."""
    if not gc.isenabled():  # of a block around this one
        yield
        return
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        gc.enable()
