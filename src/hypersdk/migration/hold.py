"""The source after its export, held off the network until the landed machine takes over, or until that has failed.

::

    export, hold ─> files published, record kept: powered off, disconnected
                        │
                        ├─ the landed machine starts   the changes are final (``kept``), the record is removed
                        ├─ that fails                  the changes are undone
                        └─ the process is killed       the next command continues; `hyper2kvm cleanup` undoes them

The changes are final before the other machine starts, so that nothing can put both on the network. Whether it was
started before a kill, the clean-up asks of the target (``landing.takeover``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, TargetError, register
from hypersdk.migration.journal import SourceJournal, not_restored
from hypersdk.migration.prepare import endpoint_name
from hypersdk.migration.runfile import HELD_KINDS, RunFile, RunStore
from hypersdk.migration.runs import other_runs, unfinished_runs
from hypersdk.remedies import First, RestoreSource, Retry, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path
from hypersdk.vsphere.nic import is_on_network
from hypersdk.vsphere.session import Session

LOG: Final = logging.getLogger(__name__)

SOURCE_ON_NETWORK = register(
    "source_on_network",
    "The source is powered on and connected. Two machines with the same MAC addresses on one network disturb each"
    " other.",
    SetOption("source", "shutdown"),
    SetOption("source", "power-off"),
    SetOption("disconnect_source", True),
    SetOption("keep_source_running", True),
)

SOURCE_HELD: Final = register(
    "source_held",
    "Another migration or export of the machine, from another folder, has powered it off or disconnected it. When that"
    " one fails or is cleaned up, the source is put back: beside the landed machine, with the same MAC addresses.",
    First("finish the other one, or clean it up"),
    Retry(),
)


def check_off_network(session: Session, moref: str, machine: str, *, cancel: CancelToken) -> None:
    """Raises Refused ``source_on_network`` where the machine is powered on with a connected network card."""
    if is_on_network(session, moref, cancel=cancel):
        raise Refused(f"'{machine}' is powered on and connected to its network", code=SOURCE_ON_NETWORK)


def check_not_held(state: Path, session: Session, moref: str, machine: str, folder: Path) -> None:
    """Raises Refused ``source_held`` where a run from another folder than ``folder`` will put the machine back on its
    network. ``state`` is the state directory; of runs of other users and of a daemon the changes are not known, so all
    count."""
    source = endpoint_name(session), moref
    runs = [
        run.folder
        for run in unfinished_runs(state)
        if run.record is not None and (run.record.endpoint, run.record.moref) == source and run.record.holds_source
    ]
    entries = [other.entry for other in other_runs(state)]
    runs += [Path(entry.folder) for entry in entries if (entry.endpoint, entry.moref) == source]
    for other in runs:
        if os.path.realpath(other) != os.path.realpath(folder):
            raise Refused(f"'{machine}' is held by the run in {shown_path(other)}", code=SOURCE_HELD, folder=str(other))


def held_run(folder: Path, store: RunStore) -> RunFile | None:
    """The run of a finished export in ``folder`` that holds its source; None where none does. Raises IntegrityError,
    TargetError."""
    run = RunFile.load(folder, store)
    return run if run is not None and run.record.published and run.record.hold else None


def restore_held(session: Session, run: RunFile, *, note: Callable[[str], None]) -> None:
    """Undoes what is held at the source of a run whose files are published, and removes the run. Its folder is locked.

    Raises NotRestored; the run is kept then.
    """
    _reopen_anyway(run)
    problems = SourceJournal(session, run, note=note).undo(keep=(), cancel=CancelToken())
    if problems:
        raise not_restored(run.record.machine, problems, (RestoreSource(),))
    run.remove()


@contextmanager
def taking_over(run: RunFile | None) -> Iterator[None]:
    """Makes the held changes of ``run`` final for the block, which starts the landed machine; then removes the run. If
    the block fails they are to be undone again."""
    if run is None:
        yield
        return
    make_final(run)
    try:
        yield
    except BaseException:
        _reopen_anyway(run)
        raise
    if not run.record.open_changes:  # a snapshot that could not be removed is still to be
        run.remove()


def make_final(run: RunFile) -> None:
    """The source stays off the network: what holds it there is not undone any more."""
    with run.changing() as record:
        for change in record.open_changes:
            change.kept = change.kind in HELD_KINDS


def reopen(run: RunFile) -> None:
    """Has changes undone that were final for a machine which does not run after all."""
    if any(change.kept for change in run.record.changes):
        with run.changing() as record:
            for change in record.changes:
                change.kept = False


def _reopen_anyway(run: RunFile) -> None:
    """For a process that undoes them now: a full disk does not keep the source from being given back."""
    try:
        reopen(run)
    except TargetError as error:
        LOG.info("the record of the run could not be written: %s", error.message)
