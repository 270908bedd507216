"""What is loaded is kept from the garbage collector, and nothing else."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
import weakref
from hypersdk.loading import loading

class Node:
    def __init__(self):
        self.myself = self

def collected():
    node = Node()
    seen = weakref.ref(node)
    del node
    with loading():
        import json.tool
    gc.collect()
    return seen() is None

with loading():
    import json.tool
frozen = gc.get_freeze_count()
assert frozen > 1000, frozen
assert all(collected() for _ in range(3))
assert gc.get_freeze_count() <= frozen
assert gc.isenabled()
"""


def test_what_was_loaded_before_keeps_no_garbage() -> None:
    """A worker comes by at each login."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
