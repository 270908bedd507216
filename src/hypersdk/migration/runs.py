"""Unfinished runs: finding them again without being told where, and cleaning up after them.

``hyper2kvm status`` lists them; ``hyper2kvm cleanup`` puts their sources back as they were found. Snapshots of ours are also found by
their name alone, for the day when the output folder is gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hypersdk.errors import HyperSDKError, TargetError
from hypersdk.migration.journal import Problem, SourceJournal, not_restored
from hypersdk.migration.naming import stem_of_run
from hypersdk.migration.outputs import outputs_for
from hypersdk.migration.runfile import (
    RUN_ACTIVE,
    SNAPSHOT_PREFIX,
    ChangeKind,
    FolderRuns,
    RunFile,
    RunRecord,
    RunStore,
    is_locked,
    locked_folder,
)
from hypersdk.migration.spec import ExportSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import FoundSnapshot, find_snapshots, remove_snapshot

SNAPSHOT_MAX_AGE: Final = timedelta(hours=24)
"""A temporary snapshot that waits for a resume is given up after this: its delta grows on a production datastore."""


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """One run that did not end. ``active`` says that a process works on it now; ``error`` that its record cannot be read."""

    folder: Path
    record: RunRecord | None
    active: bool
    error: str

    @property
    def age(self) -> timedelta:
        """Since it began."""
        if self.record is None:
            return timedelta(0)
        return datetime.now(UTC) - datetime.fromisoformat(self.record.started_at)


@dataclass(frozen=True, slots=True)
class CleanUp:
    """What a clean-up did to one run: what is undone, what is kept and why, what could not be undone."""

    undone: tuple[str, ...]
    kept: tuple[str, ...]
    problems: tuple[Problem, ...]


def unfinished_runs(state: Path) -> list[UnfinishedRun]:
    """All runs that left a record, oldest first. Pointers to folders that are gone are removed on the way."""
    runs = [run for pointer in sorted((state / "runs").glob("*.json")) if (run := _read(pointer, state))]
    return sorted(runs, key=lambda run: run.record.started_at if run.record else "")


def _read(pointer: Path, state: Path) -> UnfinishedRun | None:
    try:
        folder = Path(json.loads(pointer.read_bytes())["folder"])
        run = RunFile.load(folder, FolderRuns(state))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return UnfinishedRun(pointer, None, active=False, error=f"unreadable: {error}")
    except HyperSDKError as error:
        return UnfinishedRun(folder, None, active=is_locked(folder), error=error.message)
    if run is None or run.record.run_id != pointer.stem:
        pointer.unlink(missing_ok=True)
        return None
    return UnfinishedRun(folder, run.record, active=is_locked(folder), error="")


def clean_up(
    session: Session,
    folder: Path,
    store: RunStore,
    *,
    drop_snapshot: bool,
    give_up: bool = False,
    lane: str | None = None,
    cancel: CancelToken,
    note: Callable[[str], None],
) -> CleanUp:
    """Puts the source of the run in ``folder`` back as it was found. The copied data stay; the run stays resumable, or ends if
    its files were published before.

    The temporary snapshot goes too with ``drop_snapshot``, when the files are published, or when it is older than ``SNAPSHOT_MAX_AGE``:
    what was copied of it is then copied again by a resume. With ``give_up`` all is tried once more, and what the server
    refuses is not tried again. Raises TargetError ``run_active`` while a process works on the run, with ``lane`` as ``give_up``.
    """
    with _held(folder, store, lane) as run:
        if run is None:
            return CleanUp((), (), ())
        age = datetime.now(UTC) - datetime.fromisoformat(run.record.started_at)
        drop = drop_snapshot or give_up or run.record.published or age > SNAPSHOT_MAX_AGE
        before = run.record.open_changes
        problems = SourceJournal(session, run, note=note).undo(
            keep=() if drop else (ChangeKind.SNAPSHOT,), cancel=cancel, give_up=give_up
        )
        left = run.record.open_changes
        if run.record.published and not left:
            run.remove()
        kept = tuple(change.kind.value for change in left if change.kind is ChangeKind.SNAPSHOT and not drop)
        not_undone = [*left, *(problem.entry for problem in problems)]
        undone = [change.kind.value for change in before if all(change is not other for other in not_undone)]
        return CleanUp(tuple(undone), kept, tuple(problems))


def give_up(
    session: Session,
    spec: ExportSpec,
    store: RunStore,
    *,
    keep_partial: bool,
    lane: str | None = None,
    cancel: CancelToken,
    note: Callable[[str], None],
) -> bool:
    """Ends an unfinished run for good: the source as it was found, its temporary snapshot too, and without ``keep_partial`` what was copied
    is removed. Whether its files were published before: they stay. Does nothing where there is no run.

    Raises TargetError ``run_active`` while a process works on it, and NotRestored when something could not be undone: the run is kept then.
    With a ``lane`` (see ``RunSettings``) whoever holds the folder was declared dead, and is no obstacle.
    """
    with _held(spec.output_dir, store, lane) as run:
        if run is None:
            return False
        problems = SourceJournal(session, run, note=note).undo(keep=(), cancel=cancel)
        if problems:
            raise not_restored(run.record.machine, problems)
        if run.record.published:
            run.remove()
            return True
        if keep_partial:
            return False
        outputs = outputs_for(spec, spec.output_dir, stem_of_run(run.record), run.record)
        for record in reversed(run.record.disks):
            outputs.forget(record)
        run.remove()
        return False


@contextmanager
def _held(folder: Path, store: RunStore, lane: str | None) -> Iterator[RunFile | None]:
    """The run of ``folder``, which nobody else works on; None where there is none."""
    found = RunFile.load(folder, store)
    if found is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder, found.record.lane))
        except TargetError as error:
            if error.code != RUN_ACTIVE or lane is None:
                raise
            stack.enter_context(locked_folder(folder, lane))
        yield RunFile.load(folder, store)  # as it is now that it is held


def stray_snapshots(session: Session, state: Path) -> Iterator[FoundSnapshot]:
    """Snapshots of ours in the inventory that no run on this machine knows of; another machine's run may."""
    known = {run.record.snapshot_name for run in unfinished_runs(state) if run.record}
    for found in find_snapshots(session, SNAPSHOT_PREFIX):
        if found.name not in known:
            yield found


def remove_stray(session: Session, found: FoundSnapshot, *, cancel: CancelToken) -> None:
    """Removes one of ``stray_snapshots``. Raises SourceError or AccessError."""
    remove_snapshot(session, found.moref, cancel=cancel)
