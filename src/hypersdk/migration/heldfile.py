"""Output files of a run while they are written: their names, the descriptor each is held by, what is removed of them.

A file that was opened stays open until the outputs are closed: it is hashed, finished and published by that descriptor,
and a file that another process put under the same name is never mistaken for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hypersdk.migration.naming import BLOCKS, MANIFEST_NAME, PARTIAL
from hypersdk.migration.runfile import LOCK_FILE, RunRecord
from hypersdk.transfer.files import check_name, has_name, open_output, publish, remove_own, shown_path, target_errors


class HeldFile:
    """One output of this run, by the descriptor that it was written with, and by that of an earlier process's file
    where one is gone on with."""

    def __init__(self, final: Path, attempt_suffix: str) -> None:
        self.final: Final = final
        self.partial: Final = partial_path(final, attempt_suffix)
        self._descriptor: int | None = None

    def opened(self, *, fresh: bool) -> int:
        """To be written: a new file, or the one that is there. Raises TargetError, ``output_replaced`` where another
        took its place."""
        if self._descriptor is not None:
            check_name(self._descriptor, self.partial)
            if not fresh:
                return self._descriptor
        descriptor = open_output(self.partial, fresh=fresh)
        self.close()
        self._descriptor = descriptor
        return descriptor

    @property
    def whole(self) -> int:
        """The finished file, by whichever name it has. Raises TargetError."""
        if self._descriptor is None:
            unfinished = os.path.lexists(self.partial) or not os.path.lexists(self.final)
            self._descriptor = open_output(self.partial if unfinished else self.final, fresh=False)
        return self._descriptor

    def publish(self, on_lost: Callable[[], None] | None = None) -> None:
        """Gives it its final name; again after a crash in between, where it may have it already. Raises TargetError."""
        if not has_name(self.whole, self.final):
            publish(self.whole, self.partial, self.final, on_lost)

    def take_back(self) -> None:
        """Gives it its unfinished name again. Raises TargetError."""
        check_name(self.whole, self.final)
        with target_errors(f"taking {self.final.name} back"):
            self.final.replace(self.partial)

    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where another file has the final name."""
        check_name(self.whole, self.final)

    def remove(self) -> None:
        """Removes the unfinished file; another's that has its name by now is left alone."""
        if self._descriptor is not None:
            remove_own(self._descriptor, self.partial)
            self.close()
        else:
            self.partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def partial_path(path: Path, attempt_suffix: str = "") -> Path:
    """Where ``path`` grows until it is whole."""
    return path.with_name(path.name + PARTIAL + attempt_suffix)


def blocks_path(path: Path, attempt_suffix: str = "") -> Path:
    """The ledger of ``path``'s blocks, beside its partial file."""
    return path.with_name(path.name + PARTIAL + attempt_suffix + BLOCKS)


def remove_other_attempts(folder: Path, names: Sequence[str], attempt_suffix: str) -> None:
    """Removes partial files of published ``names`` that other attempts left: a process that still has them open writes
    into nothing."""
    with target_errors(f"removing what another process left in {shown_path(folder)}"):
        for path in folder.iterdir():
            of_ours = any(path.name.startswith(name + PARTIAL) for name in names)
            lock = path.name.startswith(LOCK_FILE) and path.name != LOCK_FILE + attempt_suffix
            if of_ours or lock:
                path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, stem: str) -> None:
    """Removes what grew in ``folder`` for a machine whose run record is unreadable."""
    ours = re.compile(rf"{re.escape(stem)}(-disk\d+)?\.[a-z0-9]+{re.escape(PARTIAL)}")
    with target_errors(f"removing what an unfinished run left in {shown_path(folder)}"):
        for path in folder.iterdir():
            if ours.match(path.name):
                path.unlink(missing_ok=True)


def remove_half_published(folder: Path, run: RunRecord, stem: str) -> None:
    """Removes the files that ``run``, which is discarded, had already named when it ended while publishing. Where a
    manifest is, it had not begun to, and the names are those of the export that it was to replace."""
    names = [record.file_name for record in run.disks] + [f"{stem}{suffix}" for suffix in (".ova", ".ovf", ".mf")]
    with target_errors(f"removing what an earlier run left in {shown_path(folder)}"):
        if run.copied and not os.path.lexists(folder / MANIFEST_NAME):
            for name in names:
                (folder / name).unlink(missing_ok=True)


def size_of(partial: Path, final: Path) -> int:
    """Bytes of an output, by the name that it has; -1 where it has neither."""
    for path in (partial, final):
        with suppress(FileNotFoundError):
            return path.lstat().st_size
    return -1
