"""No error names a folder by the descriptor that it is held with: nobody else can look there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hypersdk.errors import HyperSDKError
from hypersdk.migration.heldfile import remove_other_attempts
from hypersdk.migration.naming import foreign_files, refuse_foreign
from hypersdk.migration.runfile import LOCK_FILE, RUN_FILE, FolderRuns, RunFile, locked_folder
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.space import SpaceGate, SpaceLedger


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """The folder by its descriptor, as the daemon's jobs have it."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield Path(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)


def locked(held: Path) -> None:
    with locked_folder(held), locked_folder(held):
        pass


def link(held: Path) -> None:
    (held / LOCK_FILE).symlink_to("elsewhere")
    with locked_folder(held):
        pass


def damaged(held: Path) -> None:
    (held / RUN_FILE).write_text("{")
    RunFile.load(held, FolderRuns(held))


def too_small(held: Path) -> None:
    SpaceLedger(lambda _: 0).reserve(held, 1)


def full(held: Path) -> None:
    def write() -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    SpaceGate(held, max_wait_s=0, poll_s=0).retry_when_full(write, CancelToken())


def no_folder(held: Path) -> None:
    foreign_files(held / "file")


@pytest.mark.parametrize(
    "fail",
    [
        locked,
        link,
        damaged,
        too_small,
        full,
        no_folder,
        lambda held: refuse_foreign(held, ["disk.qcow2"]),
        lambda held: remove_other_attempts(held / "file", [], ""),
    ],
)
def test_errors_show_the_folder_by_its_name(held: Path, tmp_path: Path, fail: Callable[[Path], Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HyperSDKError) as caught:
        fail(held)
    told = f"{caught.value.as_dict()}"
    assert str(tmp_path) in caught.value.message
    assert "/proc/" not in told


def test_who_waits_for_room_is_told_where(held: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Waiting:
        def __init__(self, text: str) -> None:
            told.append(text)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    tries = iter([OSError(errno.ENOSPC, "full")])

    def write() -> None:
        for error in tries:
            raise error

    SpaceGate(held, poll_s=0, go_on_bytes=0).retry_when_full(write, CancelToken(), Waiting)
    assert told == [f"{tmp_path} is full: waiting for free space"]
