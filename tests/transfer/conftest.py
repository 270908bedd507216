from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support.disks import Disk, make_disk, mixed


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Whatever happened to a copy, its threads ended with it."""
    before = set(threading.enumerate())
    yield
    left = [
        thread for thread in threading.enumerate() if thread not in before and not isinstance(thread, threading.Timer)
    ]
    assert not left, f"threads left: {[thread.name for thread in left]}"


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """24 MiB and a few sectors: the last block is short."""
    return make_disk(tmp_path_factory.mktemp("disk"), "disk", mixed(1, 24 * 1024 * 1024 + 7 * 512))
