"""The source after its export, held off the network until the landed machine takes over, or until that has failed.

::

    export, hold ─> files published, record kept: powered off, disconnected
                        │
                        ├─ the landed machine starts   the changes are final (``kept``), the record is removed
                        ├─ that fails                  the changes are undone
                        └─ the process is killed       the next command continues; `hyper2kvm cleanup` undoes them

The changes are final before the other machine starts, so that nothing can put both on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypersdk.errors import Refused, register
from hypersdk.migration.journal import SourceJournal, not_restored
from hypersdk.migration.runfile import HELD_KINDS, RunFile, RunStore
from hypersdk.remedies import RestoreSource, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.nic import is_on_network
from hypersdk.vsphere.session import Session

SOURCE_ON_NETWORK = register(
    "source_on_network",
    "The source is powered on and connected. Two machines with the same MAC addresses on one network disturb each"
    " other.",
    SetOption("source", "shutdown"),
    SetOption("source", "power-off"),
    SetOption("disconnect_source", True),
    SetOption("keep_source_running", True),
)


def check_off_network(session: Session, moref: str, machine: str, *, cancel: CancelToken) -> None:
    """Raises Refused ``source_on_network`` where the machine is powered on with a connected network card."""
    if is_on_network(session, moref, cancel=cancel):
        raise Refused(f"'{machine}' is powered on and connected to its network", code=SOURCE_ON_NETWORK)


def held_run(folder: Path, store: RunStore) -> RunFile | None:
    """The run of a finished export in ``folder`` that holds its source; None where none does. Raises IntegrityError,
    TargetError."""
    run = RunFile.load(folder, store)
    return run if run is not None and run.record.published and run.record.hold else None


def restore_held(session: Session, run: RunFile, *, note: Callable[[str], None]) -> None:
    """Undoes what is held at the source of a run whose files are published, and removes the run. Its folder is locked.

    Raises NotRestored; the run is kept then.
    """
    _reopen(run)
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
    with run.changing() as record:
        for change in record.open_changes:
            change.kept = change.kind in HELD_KINDS
    try:
        yield
    except BaseException:
        _reopen(run)
        raise
    if not run.record.open_changes:  # a snapshot that could not be removed is still to be
        run.remove()


def _reopen(run: RunFile) -> None:
    """Has changes undone that were final for a machine which does not run after all."""
    with run.changing() as record:
        for change in record.changes:
            change.kept = False
