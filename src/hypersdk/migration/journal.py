"""The journal of changes at the source: written before each change, undone at the end, replayed after a crash.

::

    change      recorded before it is made                     undo
    power       that it was on, when the guest was asked       power on; before that, wait for a guest that shuts down
    cdrom       the drives with their media                    re-insert the media
    network     the network cards that are disconnected        reconnect them
    snapshot    its name, which contains the run's id          remove it, found by its name
    lease       session key, lease, export task                cancel the task, or end the session, or wait for expiry

Changes are undone in reverse order. An undo is idempotent: for a change that was never made, or is already undone, it
does nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from hypersdk.vsphere.nic import NicChange, disconnect_nics, reconnect_nics
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
"""Added to the shutdown timeout when the undo waits for a guest that is shutting down."""
LATE_S: Final = 120.0
"""The longest single wait: the user is waiting for the run to end."""
GUEST_GOES_S: Final = 3600.0
"""A guest may install updates before it goes down. One that still runs after an hour did not shut down."""


@dataclass(frozen=True, slots=True)
class UndoProblem:
    """A change that could not be undone. ``change`` is the undo that failed, ``left`` what remains at the source,
    ``given_up`` that it is not retried."""

    change: str
    error: HyperSDKError
    entry: Change
    left: str
    given_up: bool


class SourceJournal:
    """Makes the changes to the source of one run, records each before it is made, and undoes them."""

    def __init__(self, session: Session, run: RunFile, *, note: Callable[[str], None]) -> None:
        self._session = session
        self._run = run
        self._note = note
        self.snapshot_was_gone = False
        """Whether the exported snapshot, a temporary one, was already gone when the undo looked for it."""

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
        """What the undo needs to know of a guest that shuts down after the wait for it ended."""
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
            raise  # the guest may have received the request
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

    def disconnect(self, cancel: CancelToken) -> None:
        """Disconnects the network cards."""
        self._note("disconnecting the network cards")
        with ExitStack() as making:

            def write(cards: list[NicChange]) -> None:
                data: dict[str, object] = {"cards": [asdict(card) for card in cards]}
                making.enter_context(self._change(ChangeKind.NETWORK, data))

            disconnect_nics(self._session, self._moref, before=write, cancel=cancel)

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
        """Records a lease. To be called as soon as the server has opened it."""
        with self._run.changing() as record:
            record.changes.append(Change(ChangeKind.LEASE, asdict(lease), made=True))

    def lease_closed(self, lease: LeaseRecord) -> None:
        """Records that the lease was completed or aborted."""
        data = asdict(lease)
        for change in self._run.record.open_changes:
            if change.kind is ChangeKind.LEASE and change.data == data:
                self._note_undone(change)

    def _note_undone(self, change: Change) -> None:
        """Records the undo. A failure to save does not keep the next change from being undone: undoing this one again
        does nothing."""
        change.undone = True
        try:
            self._run.save()
        except TargetError as error:
            LOG.info("the journal could not be written: %s", error.message)

    @contextmanager
    def _change(self, kind: ChangeKind, data: dict[str, object]) -> Iterator[Change]:
        """Records a change before the block, and after it that it was made. A failed block leaves it planned, to be
        undone."""
        change = Change(kind, dict(data))
        with self._run.changing() as record:
            if kind is ChangeKind.POWER:
                # An open one of an earlier attempt is of the same machine: one undo for both.
                record.changes[:] = [
                    earlier for earlier in record.changes if earlier.undone or earlier.kind is not ChangeKind.POWER
                ]
            record.changes.append(change)
        yield change
        with self._run.changing():
            change.made = True

    @property
    def guest_may_go_down(self) -> bool:
        """Whether a guest was asked to shut down and the outcome is not known yet."""
        return bool(self._guest_asked())

    def _guest_asked(self) -> dict[str, Any]:
        """The journal entry of that request; empty where there is none."""
        for change in self._run.record.open_changes:
            if change.kind is ChangeKind.POWER and not change.made and "asked" in change.data:
                return dict(change.data)
        return {}

    # Undo

    def undo(self, *, keep: Collection[ChangeKind], cancel: CancelToken, give_up: bool = False) -> list[UndoProblem]:
        """Undoes all open changes but those in ``keep``, newest first; continues after a failure and returns the
        failures.

        With ``give_up`` a change whose undo the server refuses is not retried. A server that does not answer has not
        refused.

        Raises Cancelled, and what the run's store raises where this process may no longer act for the run; the other
        changes are still open then.
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
            case ChangeKind.NETWORK:
                cards = ", ".join(str(card["label"]) for card in change.data.get("cards", ()))
                return f"network cards of {machine}, where they are still disconnected: {cards}"
            case ChangeKind.SNAPSHOT:
                return (
                    f"snapshot {change.data.get('name', record.snapshot_name)} of {machine}, whose delta grows until"
                    " somebody removes it"
                )
            case ChangeKind.LEASE:
                return f"an export lease on {machine}, which expires if it is not renewed"

    def _undo_one(self, change: Change, cancel: CancelToken) -> None:
        match change.kind:
            case ChangeKind.POWER:
                self._power_back_on(change, cancel)
            case ChangeKind.CDROM:
                self._note("re-inserting ISO images")
                if not change.made:  # an eject whose wait was interrupted may still be running
                    wait_for_no_task(self._session, self._moref, RECONFIGURE_TASK, timeout_s=LATE_S, cancel=cancel)
                drives = [CdromChange(**drive) for drive in change.data["drives"]]
                restore_isos(self._session, self._moref, drives, cancel=cancel)
            case ChangeKind.NETWORK:
                self._note("reconnecting the network cards")
                if not change.made:
                    wait_for_no_task(self._session, self._moref, RECONFIGURE_TASK, timeout_s=LATE_S, cancel=cancel)
                cards = [NicChange(**card) for card in change.data["cards"]]
                reconnect_nics(self._session, self._moref, cards, cancel=cancel)
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
        # The machine starts with the devices that connect at power-on, not with those that were connected before.
        reconnect(self._session, self._moref, change.data.get("connected", {}), cancel=cancel)

    def _await_guest(self, change: Change, cancel: CancelToken) -> None:
        """Waits until a guest that was asked to shut down is off. Raises SourceError ``shutdown_timeout`` where it may
        still shut down later: the request cannot be cancelled, and the machine would stay off."""
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
                "the guest was asked to shut down, which cannot be cancelled, and is still running: after the shutdown"
                " it stays off until this is undone",
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
        moref, point = change.data.get("moref"), self._run.record.point
        # A change of an earlier attempt may be of another snapshot, of which nothing was copied.
        if change.made and point is not None and point.snapshot == moref and all(n.moref != moref for n in there):
            self.snapshot_was_gone = True
        for node in there:
            self._note(f"removing snapshot {node.name}")
            remove_snapshot(self._session, node.moref, cancel=cancel)


_DESCRIPTIONS = {
    ChangeKind.POWER: "power the machine on again",
    ChangeKind.CDROM: "re-insert the ISO images",
    ChangeKind.NETWORK: "reconnect the network cards",
    ChangeKind.SNAPSHOT: "remove the temporary snapshot",
    ChangeKind.LEASE: "release the export lease",
}


def not_restored(machine: str, problems: list[UndoProblem], remedies: Sequence[Remedy] = ()) -> NotRestored:
    """The error that lists what was not undone at the source."""
    left = "; ".join(f"{problem.change}: {problem.error.message}" for problem in problems)
    return NotRestored(
        f"'{machine}' was not restored: {left}",
        remedies=remedies,
        left=[problem.change for problem in problems],
    )
