"""Pointers from a user's state directory to output folders with unfinished work, by which `status` and `cleanup` find
them: ``STATE/runs/ID.json`` to exports, ``STATE/landings/ID.json`` to landings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import TargetError
from hypersdk.remedies import Advice
from hypersdk.transfer.files import new_path, shown_path, target_errors, write_atomic

RUNS: Final = "runs"
LANDINGS: Final = "landings"


@dataclass(frozen=True, slots=True)
class Pointers:
    """The pointers of one ``kind`` below the state directory ``state``."""

    state: Path
    kind: str

    def add(self, ident: str, folder: Path) -> None:
        """Writes the pointer from ``ident`` to ``folder``. Raises TargetError."""
        pointer = self._pointer(ident)
        with self._errors(f"writing {pointer}"):
            pointer.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(pointer, json.dumps({"folder": str(shown_path(folder))}).encode(), mode=0o600)

    def all(self) -> list[Path]:
        """All pointers, by name. Raises TargetError where their folder cannot be read."""
        folder = self.state / self.kind
        with self._errors(f"reading {folder}"), suppress(FileNotFoundError):
            return sorted(path for path in folder.iterdir() if path.suffix == ".json")
        return []

    def remove(self, ident: str) -> None:
        """Removes the pointer from ``ident``. Raises TargetError."""
        pointer = self._pointer(ident)
        with self._errors(f"removing {pointer}"):
            pointer.unlink(missing_ok=True)
            new_path(pointer).unlink(missing_ok=True)  # of a process that was killed while it wrote the pointer

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Raises any OSError of the block as TargetError, with a remedy for the state folder in place of those for the
        output folder."""
        try:
            with target_errors(doing):
                yield
        except TargetError as error:
            error.remedies = (
                Advice(f"Make {self.state} writable for your user, or set another state folder in $XDG_STATE_HOME."),
            )
            raise

    def _pointer(self, ident: str) -> Path:
        return self.state / self.kind / f"{ident}.json"


def folder_of(pointer: Path) -> Path:
    """The folder that a pointer leads to. Raises OSError, and ValueError, KeyError or TypeError for a damaged one."""
    return Path(json.loads(pointer.read_bytes())["folder"])
