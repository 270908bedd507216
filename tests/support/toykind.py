"""A kind of job for tests: it writes down what it does, each in a file of its target.

Two steps, ``first`` and ``second``; each waits for a file ``go-NAME``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hypersdk.errors import UsageError
from hypersdk.jobs.kinds import KINDS
from hypersdk.jobs.kinds.base import RunContext, StepOutcome, SubmitContext
from hypersdk.jobs.locks import folder_lock
from hypersdk.jobs.records import NewJob, digest_of


class Toy:
    """Its definition is ``name`` and ``folder``."""

    name: ClassVar[str] = "toy"
    steps: ClassVar[tuple[str, ...]] = ("first", "second")

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        if set(given) != {"name", "folder"}:
            raise UsageError("a toy has a name and a folder")
        root = context.roots.of(given["folder"])
        new = NewJob(
            id=None,
            name=given["name"],
            kind=self.name,
            subject=f"toy {given['name']}",
            target=given["folder"],
            definition=given,
            digest=digest_of(given),
            endpoint_id=None,
            secret=None,
            site="toys",
            root_id=root.id,
            locks=(folder_lock(root.id, given["folder"]),),
            steps=self.steps,
            priority=context.priority,
            owner=context.owner,
        )
        return new, ()

    def run(self, context: RunContext) -> ToyRun:
        return ToyRun(context)


class ToyRun:
    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._folder = Path(context.job.target)

    def step(self, name: str) -> StepOutcome:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(name)
        while not (self._folder / f"go-{name}").exists():
            time.sleep(0.05)
            self._context.cancel.check()
        return StepOutcome({"made by": name})

    def undo(self, *, keep_partial: bool) -> Mapping[str, Any] | None:
        self._write("undone")
        return None

    def clean_up(self) -> None:
        self._write("stood down")

    def close(self) -> None:
        pass

    def _write(self, word: str) -> None:
        with (self._folder / word).open("a") as file:
            file.write(f"attempt {self._context.job.attempt}\n")


KINDS[Toy.name] = Toy()
