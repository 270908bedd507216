"""Unfinished runs: finding them, and cleaning up after them.

``hyper2kvm status`` lists them; ``hyper2kvm cleanup`` restores their sources. Temporary snapshots are also found by
their name alone, for the case that the output folder is gone. Such a snapshot may belong to a run of this host or of
another::

    the register: a process works on its run              in use       never removed
    a daemon: one of its jobs needs it                    in use       never removed
    the register: a run of this user and host, whose      left over    removed on request
    process and record are gone
    another user's, another host's, or not known          unknown      removed by its exact name, or after a prompt
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from hypersdk.errors import HyperSDKError, LookupFailed, Refused, TargetError, register
from hypersdk.migration.formats import outputs_for
from hypersdk.migration.journal import SourceJournal, UndoProblem, not_restored
from hypersdk.migration.pointers import folder_of
from hypersdk.migration.register import Register, Registered, RunEntry, described_owner
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
from hypersdk.remedies import Look
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path
from hypersdk.transfer.folder import OutputFolder
from hypersdk.vsphere.machine import UNKNOWN_TIME
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import FoundSnapshot, find_snapshots, remove_snapshot

RUN_UNKNOWN: Final = register("run_unknown", "No unfinished export of this user has that name.", Look("runs"))
SNAPSHOT_USED: Final = register(
    "snapshot_used",
    "A run or a job that is not finished needs the snapshot: without it, it would fail or continue with other data.",
    "Wait until it has finished, or end it: Ctrl-C in its terminal, or `hyperctl cancel ID`. Each removes what it"
    " created.",
)

SNAPSHOT_MAX_AGE: Final = timedelta(hours=24)
"""A temporary snapshot that was kept for a resume is removed after this time: its delta grows on a production
datastore."""


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """An unfinished run. ``active``: a process is working on it; ``error``: why its record cannot be read, or that it
    is gone.

    ``entry`` is its entry in the host's register, if any.
    """

    folder: Path
    record: RunRecord | None
    active: bool
    error: str
    run_id: str
    entry: RunEntry | None = None

    @property
    def lost(self) -> bool:
        """Whether its record is gone, so that only the name of its snapshot is known."""
        return self.record is None and self.entry is not None

    def lies_in(self, folder: Path) -> bool:
        """Whether it is the run of ``folder``, compared by real paths, as users may come through links."""
        return os.path.realpath(self.folder) == os.path.realpath(folder)

    @property
    def age(self) -> timedelta:
        """Time since it started."""
        if self.record is None:
            return timedelta(0)
        return datetime.now(UTC) - datetime.fromisoformat(self.record.started_at)


@dataclass(frozen=True, slots=True)
class CleanUp:
    """The result of a clean-up: what was undone, what was kept, what could not be undone."""

    undone: tuple[str, ...]
    kept: tuple[str, ...]
    problems: tuple[UndoProblem, ...]


def unfinished_runs(state: Path) -> list[UnfinishedRun]:
    """All runs with a record, oldest first. Pointers to folders that are gone are removed, except for runs that left
    changes at their source. Raises TargetError where the state directory cannot be read, which does not mean that there
    are no runs."""
    store = FolderRuns(state)
    runs = [run for pointer in store.pointers.all() if (run := _read(pointer, store)) is not None]
    return sorted(runs, key=lambda run: run.record.started_at if run.record else "")


def _read(pointer: Path, store: FolderRuns) -> UnfinishedRun | None:
    run_id = pointer.stem
    known = store.register.find(run_id)
    held, entry = known is not None and known.held, known.entry if known is not None else None
    try:
        folder = folder_of(pointer)
        run = RunFile.load(folder, store)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return UnfinishedRun(pointer, None, held, f"unreadable: {error}", run_id)
    except HyperSDKError as error:
        return UnfinishedRun(folder, None, held or is_locked(folder), error.message, run_id)
    if run is not None and run.record.run_id == run_id:
        return UnfinishedRun(folder, run.record, held or is_locked(folder), "", run_id, entry)
    if entry is None:
        with suppress(OSError):  # a read-only state directory can be listed all the same
            pointer.unlink()
        return None
    return UnfinishedRun(folder, None, held, "its record is gone, with the folder or out of it", run_id, entry)


def other_runs(state: Path) -> list[Registered]:
    """Runs in the register besides ``unfinished_runs``: those of other users and of daemons on this host."""
    own = {pointer.stem for pointer in FolderRuns(state).pointers.all()}
    return [known for known in Register.of(state).entries() if known.entry.run_id not in own]


def forget_run(state: Path, which: str) -> UnfinishedRun:
    """Forgets the run with that id, or in that folder; its files and its changes at the source stay. Returns it as it
    was.

    Raises LookupFailed ``run_unknown``, and TargetError ``run_active`` while a process works on it.
    """
    found = [run for run in unfinished_runs(state) if which == run.run_id or run.lies_in(Path(which))] or [
        UnfinishedRun(Path(other.entry.folder), None, other.held, "", which, other.entry)
        for other in other_runs(state)
        if other.ours and other.entry.run_id == which
    ]
    if not found:
        raise LookupFailed(f"no unfinished run of this user has the id or the folder '{which[:200]}'", code=RUN_UNKNOWN)
    run = found[0]
    if run.active:
        raise TargetError(f"a process works on the run in {shown_path(run.folder)}", code=RUN_ACTIVE)
    store = FolderRuns(state)
    with ExitStack() as stack:
        if not run.lost and run.folder.is_dir():
            stack.enter_context(locked_folder(run.folder, run.record.attempt_suffix if run.record else ""))
            store.remove(run.folder, run.run_id)
        store.pointers.remove(run.run_id)
        store.register.forget(run.run_id)
    return run


def clean_up(
    session: Session,
    folder: Path,
    store: RunStore,
    *,
    drop_snapshot: bool,
    give_up: bool = False,
    attempt_suffix: str | None = None,
    cancel: CancelToken,
    note: Callable[[str], None],
    settle: Callable[[RunFile, OutputFolder], None] = lambda _run, _folder: None,
) -> CleanUp:
    """Restores the source of the run in ``folder``. The copied data stay. The run can still be resumed, or ends if its
    files are published.

    The temporary snapshot is removed, too, with ``drop_snapshot``, when the files are published, or when it is older
    than ``SNAPSHOT_MAX_AGE``: a resume then copies its data again. With ``give_up`` everything is tried again, and what
    the server refuses is not retried later. ``settle`` gets the run and its locked folder first: it decides whether the
    source of a migration may be given back, and raises where it must not be.

    Raises TargetError ``run_active`` while a process works on the run, and what ``settle`` does; for
    ``attempt_suffix`` see ``give_up``.
    """
    with _locked_run(folder, store, attempt_suffix) as found:
        if found is None:
            return CleanUp((), (), ())
        run, held = found
        settle(run, held)
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
    attempt_suffix: str | None = None,
    cancel: CancelToken,
    note: Callable[[str], None],
) -> bool:
    """Ends an unfinished run: restores the source, removes the temporary snapshot and, without ``keep_partial``, the
    copied data. Returns whether its files were published before: those stay. Does nothing where there is no run.

    Raises TargetError ``run_active`` while a process works on it, and NotRestored when something could not be undone:
    then the run is kept. With an ``attempt_suffix`` (see ``RunSettings``) the lock of a process that was declared dead
    is ignored.
    """
    with _locked_run(spec.output_dir, store, attempt_suffix) as found:
        if found is None:
            return False
        run, held = found
        problems = SourceJournal(session, run, note=note).undo(keep=(), cancel=cancel)
        if problems:
            raise not_restored(run.record.machine, problems)
        if run.record.published:
            run.remove()
            return True
        if keep_partial:
            return False
        outputs_for(run.record, spec, held.check_lock).forget_all()
        run.remove()
        return False


@contextmanager
def _locked_run(
    folder: Path, store: RunStore, attempt_suffix: str | None
) -> Iterator[tuple[RunFile, OutputFolder] | None]:
    """The run of ``folder``, locked, and the folder by its descriptor: undoing takes minutes, in which another folder
    may get its name. None where there is no run."""
    found = RunFile.load(folder, store)
    if found is None:
        yield None
        return
    with ExitStack() as stack:
        held = stack.enter_context(OutputFolder.opened(folder, shown_path(folder)))
        try:
            lock = stack.enter_context(locked_folder(held.path, found.record.attempt_suffix))
        except TargetError as error:
            if error.code != RUN_ACTIVE or attempt_suffix is None:
                raise
            lock = stack.enter_context(locked_folder(held.path, attempt_suffix))
        stack.enter_context(held.locked_by(*lock))
        run = RunFile.load(held.path, store)  # again, now that the folder is locked
        if run is None:
            yield None
            return
        if isinstance(store, FolderRuns):
            run.held_in(held)
        stack.enter_context(run.registered())
        yield run, held


class RunClaim(StrEnum):
    """What is known of the owner of a snapshot."""

    USED = "used"  # a process of this host works on its run, or a daemon's job needs it
    LEFT_OVER = "left over"  # of a run of this user without a process, whose record is gone
    UNKNOWN = "unknown"  # another user's, another host's, or not known


@dataclass(frozen=True, slots=True)
class Stray:
    """A snapshot with our name that no unfinished run of this user knows. ``owner`` is untrusted text for users."""

    found: FoundSnapshot
    claim: RunClaim
    owner: str

    @property
    def age(self) -> timedelta | None:
        """Time since it was created, from the server's clock and ours."""
        made = self.found.created
        return None if made == UNKNOWN_TIME else max(datetime.now(UTC) - made, timedelta(0))


def stray_snapshots(
    session: Session, state: Path, jobs_of: Callable[[], Mapping[str, str]], *, cancel: CancelToken
) -> list[Stray]:
    """Snapshots with our name in the inventory that no unfinished run of this user knows, oldest first.

    ``jobs_of`` returns the snapshots that jobs of a daemon need: name -> job, for users. It is called after the
    inventory was read, as the register is: a run is in both before its snapshot is created.
    """
    found = find_snapshots(session, SNAPSHOT_PREFIX, cancel=cancel)
    known = {f"{SNAPSHOT_PREFIX}{run.run_id}" for run in unfinished_runs(state) if not run.lost}
    found = [snapshot for snapshot in found if snapshot.name not in known]
    jobs = jobs_of() if found else {}
    register = Register.of(state)
    return [_judged(snapshot, register, jobs) for snapshot in found]


def _judged(found: FoundSnapshot, register: Register, jobs: Mapping[str, str]) -> Stray:
    known = register.find(found.name.removeprefix(SNAPSHOT_PREFIX))
    if known is not None and known.held:
        return Stray(found, RunClaim.USED, f"{known.entry.owner}, process {known.entry.pid}")
    if job := jobs.get(found.name):
        return Stray(found, RunClaim.USED, job)
    if known is not None:
        owner = f"{known.entry.owner}; no process is working on it"
        left_over = known.ours and known.here and known.entry.program == FolderRuns.program
        return Stray(found, RunClaim.LEFT_OVER if left_over else RunClaim.UNKNOWN, owner)
    return Stray(found, RunClaim.UNKNOWN, described_owner(found.description) or "unknown: its description names none")


def remove_stray(session: Session, state: Path, stray: Stray, *, cancel: CancelToken) -> None:
    """Removes one of ``stray_snapshots`` that is not in use. Raises Refused ``snapshot_used`` where a process resumed
    its run meanwhile, SourceError or AccessError."""
    name, store = stray.found.name, FolderRuns(state)
    now = _judged(stray.found, store.register, {})
    if RunClaim.USED in (now.claim, stray.claim):
        raise Refused(
            f"snapshot {name} is in use: {now.owner if now.claim is RunClaim.USED else stray.owner}", code=SNAPSHOT_USED
        )
    remove_snapshot(session, stray.found.moref, cancel=cancel)
    run_id = name.removeprefix(SNAPSHOT_PREFIX)
    store.register.forget(run_id)
    if stray.claim is RunClaim.LEFT_OVER:
        store.pointers.remove(run_id)
