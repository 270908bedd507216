"""The journal of changes at the source: written before each change, undone at the end, replayed after a crash.

::

    change      written down before it is made                 undo
    power       that it was on, when its guest was asked       power on, after a guest that may still go down
    cdrom       the drives with their media, exactly           put back
    snapshot    its name (carries the run's id)                remove it, found by moref or by name
    lease       session key, lease, export task                cancel the task, else end our session, else wait it out

Undone from the last to the first. An undo is idempotent: undoing what was never made, or is already undone, does
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hypersdk.errors import (
    Cancelled,
    ConnectError,
    HyperSDKError,
    NotRestored,
    SourceError,
    TargetError,
    TransientError,
)
from hypersdk.migration.runfile import Change, ChangeKind, RunFile
from hypersdk.model import Machine, Power
from hypersdk.remedies import Advice, First, Remedy, RestoreSource
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_duration
from hypersdk.vsphere.cdrom import CdromChange, remove_isos, restore_isos
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.power import (
    SHUTDOWN_TIMEOUT,
    ask_guest_down,
    connections,
    power_off,
    power_on,
    reconnect,
    wait_until_off,
)
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import create_snapshot, remove_snapshot
from hypersdk.vsphere.stale import LeaseRecord, release_stale
from hypersdk.vsphere.tasks import POWER_OFF_TASK, RECONFIGURE_TASK, wait_for_no_task

LOG: Final = logging.getLogger(__name__)

GRACE_S: Final = 60.0
"""How much longer than asked for the undo waits for a guest that shuts down."""
LATE_S: Final = 120.0
"""The longest single wait: the user waits for the end of the run."""
GUEST_GOES_S: Final = 3600.0
"""A guest may install updates before it goes down. One that still runs after an hour did not shut down."""


@dataclass(frozen=True, slots=True)
class UndoProblem:
    """One change that could not be undone. ``change`` says what was to be done, ``left`` what stays behind,
    ``given_up`` that it is not tried again."""

    change: str
    error: HyperSDKError
    entry: Change
    left: str
    given_up: bool


class SourceJournal:
    """Makes changes at the source of one run, each written down first, and undoes them."""

    def __init__(self, session: Session, run: RunFile, *, note: Callable[[str], None]) -> None:
        self._session = session
        self._run = run
        self._note = note
        self.snapshot_was_gone = False
        """Whether the temporary snapshot was already gone when the undo looked for it."""

    @property
    def _moref(self) -> str:
        return self._run.record.moref

    # Changes

    def shut_down(self, *, guest: bool, timeout_s: float, cancel: CancelToken) -> None:
        """Powers the machine off, through the guest's own shutdown when ``guest``; it is powered on again at the
        end."""
        self._note("shutting the guest down" if guest else "powering the machine off")
        found: dict[str, object] = {"connected": connections(self._session, self._moref, cancel=cancel)}
        earlier = {**self._guest_asked(), **found}
        with self._change(ChangeKind.POWER, {**self._asked_now(timeout_s), **found} if guest else earlier) as change:
            if guest:
                self._ask_guest_down(change, earlier, cancel)
                wait_until_off(self._session, self._moref, timeout_s=timeout_s, cancel=cancel)
            else:
                power_off(self._session, self._moref, cancel=cancel)

    def _asked_now(self, timeout_s: float) -> dict[str, object]:
        """What the undo needs to know of a guest that goes down after nobody waits for it any more."""
        booted = read_machine(self._session, self._moref).boot_time
        return {
            "asked": datetime.now(UTC).isoformat(timespec="seconds"),
            "timeout_s": timeout_s,
            "booted": booted.isoformat() if booted else None,
        }

    def _ask_guest_down(self, change: Change, earlier: dict[str, object], cancel: CancelToken) -> None:
        try:
            ask_guest_down(self._session, self._moref, cancel=cancel)
        except ConnectError:
            raise  # it may have been heard
        except HyperSDKError:
            change.data = earlier
            raise

    def eject_isos(self, machine: Machine, cancel: CancelToken) -> None:
        """Ejects the ISO images of all drives; they are re-inserted at the end."""
        self._note("ejecting ISO images")
        with ExitStack() as making:

            def write(changes: list[CdromChange]) -> None:
                data: dict[str, object] = {"drives": [asdict(change) for change in changes]}
                making.enter_context(self._change(ChangeKind.CDROM, data))

            remove_isos(self._session, machine, before=write, cancel=cancel)

    def snapshot(self, *, quiesce: bool, cancel: CancelToken) -> str:
        """Makes the temporary snapshot (no memory) and returns its moref."""
        name = self._run.record.snapshot_name
        self._note(f"creating snapshot {name}")
        with self._change(ChangeKind.SNAPSHOT, {"name": name}) as change:
            moref = create_snapshot(
                self._session,
                self._moref,
                name=name,
                description=(
                    "Temporary, made by HyperSDK for an export; removed at its end (hyper2kvm cleanup). "
                    f"Owner: {self._run.entry.owner}"
                ),
                quiesce=quiesce,
                cancel=cancel,
            )
            change.data["moref"] = moref
        return moref

    def lease_opened(self, lease: LeaseRecord) -> None:
        """To be called as soon as the server knows of the lease."""
        with self._run.changing() as record:
            record.changes.append(Change(ChangeKind.LEASE, asdict(lease), made=True))

    def lease_closed(self, lease: LeaseRecord) -> None:
        """To be called when the lease is completed or aborted."""
        data = asdict(lease)
        for change in self._run.record.open_changes:
            if change.kind is ChangeKind.LEASE and change.data == data:
                self._note_undone(change)

    def _note_undone(self, change: Change) -> None:
        """That cannot be written down is no reason to leave the next change standing: undoing this one again does
        nothing."""
        change.undone = True
        try:
            self._run.save()
        except TargetError as error:
            LOG.info("the journal could not be written: %s", error.message)

    def _change(self, kind: ChangeKind, data: dict[str, object]) -> _JournaledChange:
        return _JournaledChange(self._run, Change(kind, dict(data)))

    @property
    def guest_may_go_down(self) -> bool:
        """Whether a guest was asked to shut down and the outcome is not known yet."""
        return bool(self._guest_asked())

    def _guest_asked(self) -> dict[str, Any]:
        """When that was; empty without one."""
        for change in self._run.record.open_changes:
            if change.kind is ChangeKind.POWER and not change.made and "asked" in change.data:
                return dict(change.data)
        return {}

    # Undo

    def undo(self, *, keep: Collection[ChangeKind], cancel: CancelToken, give_up: bool = False) -> list[UndoProblem]:
        """Undoes all open changes but those in ``keep``, newest first; goes on after a failure and returns the
        failures.

        With ``give_up`` what the server refuses is not open any more. A server that does not answer has refused
        nothing.

        Raises Cancelled, and what the run's store raises where this process may not act for the run any more; the rest
        is still open then.
        """
        problems = []
        for change in reversed(self._run.record.open_changes):
            if change.kind in keep:
                continue
            self._run.check()
            try:
                self._undo_one(change, cancel)
            except Cancelled:
                raise
            except HyperSDKError as error:
                ended = give_up and not isinstance(error, ConnectError | TransientError)
                problems.append(
                    UndoProblem(_DESCRIPTIONS[change.kind], error, change, self._left_behind(change), ended)
                )
                if not ended:
                    continue
            self._note_undone(change)
        return problems

    def _left_behind(self, change: Change) -> str:
        record = self._run.record
        machine = f"'{record.machine}' ({record.moref}) at {record.endpoint}"
        match change.kind:
            case ChangeKind.POWER:
                return f"{machine} stays powered off, if it is; it was running"
            case ChangeKind.CDROM:
                drives = ", ".join(
                    f"{drive['label']} without {drive['iso']}" for drive in change.data.get("drives", ())
                )
                return f"drives of {machine}, where their image was not re-inserted: {drives}"
            case ChangeKind.SNAPSHOT:
                return (
                    f"snapshot {change.data.get('name', record.snapshot_name)} of {machine}, whose delta grows until"
                    " somebody removes it"
                )
            case ChangeKind.LEASE:
                return f"an export lease on {machine}, which times out by itself"

    def _undo_one(self, change: Change, cancel: CancelToken) -> None:
        match change.kind:
            case ChangeKind.POWER:
                self._power_back_on(change, cancel)
            case ChangeKind.CDROM:
                self._note("putting ISO images back")
                if not change.made:  # an eject that nobody waited for any more may still be under way
                    wait_for_no_task(self._session, self._moref, RECONFIGURE_TASK, timeout_s=LATE_S, cancel=cancel)
                drives = [CdromChange(**drive) for drive in change.data["drives"]]
                restore_isos(self._session, self._moref, drives, cancel=cancel)
            case ChangeKind.SNAPSHOT:
                self._remove_snapshot(change, cancel)
            case ChangeKind.LEASE:
                release_stale(self._session, LeaseRecord(**change.data), cancel=cancel, on_wait=self._note)

    def _power_back_on(self, change: Change, cancel: CancelToken) -> None:
        if not change.made:
            wait_for_no_task(self._session, self._moref, POWER_OFF_TASK, timeout_s=LATE_S, cancel=cancel)
            if "asked" in change.data:
                self._await_guest(change, cancel)
        if read_machine(self._session, self._moref).power is not Power.ON:
            self._note("powering the machine on again")
            power_on(self._session, self._moref, cancel=cancel)
        # It comes up with what starts connected, whatever was connected when it was found.
        reconnect(self._session, self._moref, change.data.get("connected", {}), cancel=cancel)

    def _await_guest(self, change: Change, cancel: CancelToken) -> None:
        """Until the guest that was asked is down, as long as it may take. Raises SourceError ``shutdown_timeout`` where
        it may still go down
        later: it cannot be recalled, and would stay off."""
        machine = read_machine(self._session, self._moref)
        booted = machine.boot_time.isoformat() if machine.boot_time else None
        age_s = (datetime.now(UTC) - datetime.fromisoformat(change.data["asked"])).total_seconds()
        if machine.power is not Power.ON or booted != change.data["booted"] or age_s > GUEST_GOES_S:
            return
        wait_s = max(0.0, min(change.data["timeout_s"] + GRACE_S - age_s, LATE_S))
        self._note(f"waiting for the guest, which may still shut down: {format_duration(wait_s)} at most")
        try:
            wait_until_off(self._session, self._moref, timeout_s=wait_s, cancel=cancel)
        except SourceError as error:
            if error.code != SHUTDOWN_TIMEOUT:
                raise
            raise SourceError(
                "the guest was asked to shut down, which cannot be cancelled, and still runs: once it is down it stays"
                " off until this is undone",
                code=SHUTDOWN_TIMEOUT,
                remedies=(
                    First("wait until it is off"),
                    RestoreSource(),
                    Advice("This powers the machine on again. After an hour it counts as a machine that stays on."),
                ),
            ) from error

    def _remove_snapshot(self, change: Change, cancel: CancelToken) -> None:
        # By name and not by the moref noted: the process may have died between the server's answer and our note of it.
        there = [
            node for node in read_machine(self._session, self._moref).snapshots if node.name == change.data["name"]
        ]
        self.snapshot_was_gone = change.made and all(node.moref != change.data.get("moref") for node in there)
        for node in there:
            self._note(f"removing snapshot {node.name}")
            remove_snapshot(self._session, node.moref, cancel=cancel)


_DESCRIPTIONS = {
    ChangeKind.POWER: "power the machine on again",
    ChangeKind.CDROM: "put the ISO images back",
    ChangeKind.SNAPSHOT: "remove the temporary snapshot",
    ChangeKind.LEASE: "release the export lease",
}


class _JournaledChange:
    """Writes the change down before the block and that it was made after it; a failed block leaves it planned, to be
    undone."""

    def __init__(self, run: RunFile, change: Change) -> None:
        self._run = run
        self._change = change

    def __enter__(self) -> Change:
        with self._run.changing() as record:
            if self._change.kind is ChangeKind.POWER:
                # One that is open from an earlier attempt is of the same machine: one undo for both.
                record.changes[:] = [
                    change for change in record.changes if change.undone or change.kind is not ChangeKind.POWER
                ]
            record.changes.append(self._change)
        return self._change

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            with self._run.changing():
                self._change.made = True


def not_restored(machine: str, problems: list[UndoProblem], remedies: Sequence[Remedy] = ()) -> NotRestored:
    """The error that says what is left to do at the source."""
    left = "; ".join(f"{problem.change}: {problem.error.message}" for problem in problems)
    return NotRestored(
        f"'{machine}' was not restored: {left}",
        remedies=remedies,
        left=[problem.change for problem in problems],
    )
