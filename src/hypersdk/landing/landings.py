"""Landings that were interrupted: finding them, and cleaning up what they left in the folder and at the target."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hypersdk.errors import HyperSDKError, TargetError
from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.define import BootState
from hypersdk.landing.commit import settle_conversion
from hypersdk.landing.land import not_undone, note_steps_undone, undo_landing
from hypersdk.landing.record import LAND, LandingFile, LandingRecord, StepState, read_landing
from hypersdk.landing.takeover import domain_state, is_maybe_started, note_started, open_target_of
from hypersdk.migration.hold import held_run
from hypersdk.migration.pointers import LANDINGS, Pointers, folder_of
from hypersdk.migration.runfile import RUN_ACTIVE, FolderRuns, held_folder, is_locked
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path


@dataclass(frozen=True, slots=True)
class UnfinishedLanding:
    """A landing with something half done. ``active``: a process is working on it; ``error``: why its record cannot be
    read, which is None then."""

    folder: Path
    record: LandingRecord | None
    active: bool
    error: str = ""

    def lies_in(self, folder: Path) -> bool:
        """Whether it is the landing of ``folder``, compared by real paths, as users may come through links."""
        return os.path.realpath(self.folder) == os.path.realpath(folder)


class CleanedUp(StrEnum):
    """What was done about an interrupted guest conversion."""

    NOTHING = "nothing"
    DROPPED = "dropped"  # the overlays; the images are as exported
    FINISHED = "finished"  # the images are converted


def unfinished_landings(state: Path) -> list[UnfinishedLanding]:
    """All landings that ``state`` has pointers to, oldest first. Pointers that lead to none are removed. Raises
    TargetError where the state directory cannot be read."""
    pointers = Pointers(state, LANDINGS)
    found = [landing for pointer in pointers.all() if (landing := _read(pointer, pointers)) is not None]
    return sorted(found, key=lambda landing: landing.record.started_at if landing.record else "")


def forget_landing(state: Path, which: str) -> UnfinishedLanding | None:
    """The landing with that id, or in that folder, is not shown any more; None where there is none. Its record stays in
    the folder: it keeps the images of a domain from being replaced. Raises TargetError, ``run_active`` while a process
    works on it."""
    for landing in unfinished_landings(state):
        record = landing.record
        if which == (record.landing_id if record else None) or landing.lies_in(Path(which)):
            if landing.active:
                raise TargetError(f"a process works on the landing in {shown_path(landing.folder)}", code=RUN_ACTIVE)
            pointers = Pointers(state, LANDINGS)
            for pointer in pointers.all():
                if _leads_to(pointer, landing.folder):
                    pointers.remove(pointer.stem)
            return landing
    return None


def _leads_to(pointer: Path, folder: Path) -> bool:
    if pointer == folder:  # it cannot be read
        return True
    try:
        return folder_of(pointer) == folder
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read(pointer: Path, pointers: Pointers) -> UnfinishedLanding | None:
    try:
        folder = folder_of(pointer)
        record = read_landing(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return UnfinishedLanding(pointer, None, False, f"unreadable: {error}")
    except HyperSDKError as error:
        return UnfinishedLanding(folder, None, is_locked(folder), error.message)
    if record is not None and record.landing_id == pointer.stem and record.unfinished:
        return UnfinishedLanding(folder, record, is_locked(folder))
    with suppress(HyperSDKError):  # a read-only state directory can be listed all the same
        pointers.remove(pointer.stem)
    return None


def clean_conversion(
    folder: Path,
    tools: GuestTools,
    *,
    state: Path | None,
    cancel: CancelToken,
    named: Path | None = None,
    job: str = "",
) -> CleanedUp:
    """Removes what an interrupted guest conversion left in ``folder``; one that was interrupted while it was written
    into the images is finished, as they are neither as exported nor converted. Needs no source. ``named`` is the path
    of ``folder`` where that is an open descriptor, ``job`` the daemon's job that does this.

    Raises TargetError, ``run_active`` while a process works there, IntegrityError and Cancelled.
    """
    record = read_landing(folder)
    if record is None or record.conversion is None or not record.conversion.overlays:
        return CleanedUp.NOTHING
    with held_folder(folder, named=named, job=job) as held:
        landing = LandingFile.opened(held, state=state)
        was = landing.record.conversion
        if settle_conversion(landing, tools, cancel=cancel) is not None:
            return CleanedUp.FINISHED
        return CleanedUp.NOTHING if landing.record.conversion == was else CleanedUp.DROPPED


def clean_target(folder: Path, *, state: Path, cancel: CancelToken) -> tuple[str, ...]:
    """Undoes what a landing that was interrupted or failed left at its target; returns the kinds of these changes. A
    landed machine stays: somebody may use it. What was still to be done with it is no part of the landing any more.
    That of a source which is held is left to ``settle_takeover``.

    Raises NotRestored for what cannot be undone, ConnectError, TargetError ``run_active``, IntegrityError, Cancelled.
    """
    record = read_landing(folder)
    if record is None or not record.unfinished:
        return ()
    with held_folder(folder) as held:
        landing = LandingFile.opened(held, state=state)
        if not landing.record.open_changes:
            note_steps_undone(landing)
            return ()
        landing.record.target = landing.record.target or record.target
        if not _is_landed(landing.record):
            return _undone(landing, cancel)
        if held_run(held.path, FolderRuns(state)) is None:
            _end_landed(landing, cancel)
        return ()


def _undone(landing: LandingFile, cancel: CancelToken) -> tuple[str, ...]:
    left = landing.record.open_changes
    with open_target_of(landing.record, cancel) as connection:
        problems = undo_landing(connection, landing, cancel=cancel)
    if problems:
        raise not_undone(landing, problems)
    return tuple(change.kind for change in left if change.undone)


def _end_landed(landing: LandingFile, cancel: CancelToken) -> None:
    if maybe := [change for change in landing.record.open_changes if is_maybe_started(change)]:
        with open_target_of(landing.record, cancel) as connection:
            if domain_state(connection, landing.record) is BootState.RUNS:
                note_started(landing)
                maybe = []
    with landing.changing() as record:
        for change in maybe:
            change.undone = True
        for name in [name for name, step in record.steps.items() if step.state is not StepState.DONE]:
            del record.steps[name]


def _is_landed(record: LandingRecord) -> bool:
    step = record.steps.get(LAND)
    return step is not None and step.state is StepState.DONE
