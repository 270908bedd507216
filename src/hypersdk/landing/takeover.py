"""Which of the two machines stays, where a migration was killed about the moment of the start.

::

    nothing is at the target                          the source is given back
    the landed machine was started (or is by its      the source stays off the network: its changes are final
    host, as was asked)
    it is off                                         it is undone, then the source is given back
    it runs, and we did not start it; or the target   neither: the clean-up is refused
    does not answer

Only the target knows whether a start came before the kill. So it is asked before a source is given back.
"""

from __future__ import annotations

from pathlib import Path

from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.kvm.define import BootState, boot_state
from hypersdk.landing.changes import DOMAIN_CHANGE, STARTED_CHANGE
from hypersdk.landing.land import not_undone, undo_landing
from hypersdk.landing.record import (
    START,
    LandingFile,
    LandingRecord,
    StepRecord,
    StepState,
    TargetChange,
    read_landing,
)
from hypersdk.migration.hold import make_final, reopen
from hypersdk.migration.manifest import timestamp
from hypersdk.migration.runfile import RunFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.folder import OutputFolder


def settle_takeover(run: RunFile, folder: OutputFolder, *, state: Path, cancel: CancelToken) -> None:
    """Makes the changes final that hold the source of ``run``, or has them undone by the caller; then nothing is left
    at the target. For a run of which no process works in its locked ``folder``.

    Raises NotRestored where the landed machine cannot be undone, ConnectError, IntegrityError, TargetError.
    """
    if not run.record.is_held_migration:
        return
    landing = read_landing(folder.path)
    if landing is not None and START in landing.done_steps:
        make_final(run)
    elif landing is None or not landing.open_changes:
        reopen(run)
    else:
        _by_target(run, LandingFile.opened(folder, state=state), cancel)


def _by_target(run: RunFile, landing: LandingFile, cancel: CancelToken) -> None:
    with open_target_of(landing.record, cancel) as connection:
        if _has_taken_over(connection, landing.record):
            make_final(run)
            note_started(landing)
            return
        if problems := undo_landing(connection, landing, cancel=cancel):
            raise not_undone(landing, problems)
    reopen(run)


def _has_taken_over(connection: Connection, record: LandingRecord) -> bool:
    """Whether the landed machine was started by us, or its host starts it as the finished migration wanted."""
    if any(change.kind == STARTED_CHANGE and change.made for change in record.open_changes):
        return True
    state = domain_state(connection, record)
    if state is BootState.RUNS:
        return any(map(is_maybe_started, record.open_changes))
    return state is BootState.STARTS_WITH_HOST and record.finished


def open_target_of(record: LandingRecord, cancel: CancelToken) -> Connection:
    """A connection to where ``record`` says that the machine was landed. Raises UsageError, and what
    ``open_connection`` does."""
    return open_connection(parse_libvirt_address(record.target, plain_tcp=True), cancel=cancel)


def is_maybe_started(change: TargetChange) -> bool:
    """Whether the process was killed while it started the domain."""
    return change.kind == STARTED_CHANGE and not change.made


def domain_state(connection: Connection, record: LandingRecord) -> BootState | None:
    """What the landed domain does; None where there is none."""
    for change in record.open_changes:
        if change.kind == DOMAIN_CHANGE:
            return boot_state(connection, change.data["uuid"], change.data["landing"])
    return None


def note_started(landing: LandingFile) -> None:
    """The process was killed before it could."""
    with landing.changing() as record:
        for change in record.open_changes:
            change.made = change.made or change.kind == STARTED_CHANGE
        step = record.steps.get(START)
        if step is not None and step.state is not StepState.DONE:
            record.steps[START] = StepRecord(StepState.DONE, step.started_at, timestamp())
