"""Changes by others to an output folder while a run writes to it, and the moments at which they happen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.migration import disks, export
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.ovafile import OvaFile
from hypersdk.migration.publish import Publishing
from hypersdk.migration.runfile import LOCK_FILE

OTHERS: Final = b"written by somebody else"
MOMENTS: Final = (
    "before the copy",
    "during the copy",
    "before the checksum",
    "before publishing",
    "between the names",
    "before the manifest",
    "after the manifest",
)

Act = Callable[[Path], None]


def removed(folder: Path) -> None:
    """The folder is removed with its content; the run may write another file meanwhile."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def moved(folder: Path) -> None:
    """The folder is renamed."""
    folder.rename(moved_place(folder))


def moved_place(folder: Path) -> Path:
    """Where ``moved`` and ``linked`` leave it."""
    return folder.with_name(f"{folder.name}.moved")


def linked(folder: Path) -> None:
    """A link to another folder replaces it."""
    moved(folder)
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)


def made_again(folder: Path) -> None:
    """Another process removes the folder, creates it again and writes files of the same names."""
    names = unfinished_names(folder)
    removed(folder)
    folder.mkdir()
    _others(folder, _with_ledgers(names))


def taken(folder: Path) -> None:
    """The same, but the folder itself stays, so it is not visible from outside."""
    names = unfinished_names(folder)
    for path in sorted(
        folder.iterdir(), key=lambda path: path.name != LOCK_FILE
    ):  # nothing is written without the lock
        path.unlink(missing_ok=True)
    _others(folder, _with_ledgers(names))


def swapped(folder: Path) -> None:
    """Only the images are replaced, by other files of the same names."""
    names = [name for name in unfinished_names(folder) if (folder / name).exists()]
    for name in names:
        (folder / name).unlink()
    _others(folder, names)


CODES: Final[dict[Act, str]] = {
    removed: "folder_removed",
    moved: "folder_moved",
    linked: "folder_moved",
    made_again: "folder_removed",
    taken: "folder_taken",
    swapped: "output_replaced",
}
"""The error code of the run after each change."""


def unfinished_names(folder: Path) -> list[str]:
    """Images and archives as they lie there, by the names that they have."""
    kinds = (".qcow2", ".raw", ".vmdk", ".ova")
    return [
        path.name for path in folder.iterdir() if any(kind in path.name for kind in kinds) and "blocks" not in path.name
    ]


def _with_ledgers(names: list[str]) -> list[str]:
    return [*names, *(f"{name}.blocks" for name in names if name.endswith(".partial"))]


def _others(folder: Path, names: list[str]) -> None:
    for name in {*names, "theirs.qcow2.partial"}:
        (folder / name).write_bytes(OTHERS)


def others_in(folder: Path) -> dict[str, bytes]:
    """Files that somebody else wrote, as they lie there."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a run that is at work replaces its small files
            if (data := path.read_bytes()) == OTHERS:
                found[path.name] = data
    return found


def at(moment: str, patch: pytest.MonkeyPatch, act: Callable[[], None]) -> Callable[[], bool]:
    """Calls ``act`` once, when the next export reaches that moment. The returned function says whether it did."""
    done: list[bool] = []

    def once() -> None:
        if not done:
            done.append(True)
            act()

    def before(owner: Any, name: str, *, turn: int = 1) -> None:
        real, calls = getattr(owner, name), []

        def hooked(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == turn:
                once()
            return real(*args, **options)

        patch.setattr(owner, name, hooked)

    match moment:
        case "before the copy":
            before(export, "freeze_source")
        case "during the copy":
            before(disks, "transfer_disk", turn=2)
        case "before the checksum":
            before(DiskFiles, "tree", turn=2)
            before(OvaFile, "publish_archive")
        case "before publishing":
            before(Publishing, "publish")
        case "between the names":
            before(DiskFiles, "publish_disk", turn=2)
            before(OvaFile, "archive_digests")
        case "before the manifest":  # between the last look before it and its writing
            real_write = Publishing.write

            def writes(publishing: Publishing, name: str, data: bytes) -> Any:
                if name == MANIFEST_NAME:
                    once()
                return real_write(publishing, name, data)

            patch.setattr(Publishing, "write", writes)
        case _:
            before(Publishing, "_check_manifest")
    return lambda: bool(done)


@contextmanager
def nothing_left_open(below: Path) -> Iterator[None]:
    """No descriptor of a file or folder below ``below`` outlives the block."""
    before = _open_files(below)
    yield
    assert _open_files(below) - before == set()


def _open_files(below: Path) -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = f"{link.readlink()}"
            if target.startswith(f"{below}"):
                found.add(f"{link.name} {target}")
    return found
