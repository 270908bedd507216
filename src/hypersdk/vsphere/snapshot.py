"""Temporary snapshots: created without memory, found again by name, removed with consolidation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from hypersdk.errors import (
    AccessError,
    Cancelled,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    NotRestored,
    Refused,
    SourceError,
    register,
)
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import SNAPSHOT_FAILED
from hypersdk.vsphere.inventory import container_view
from hypersdk.vsphere.paths import decode_name
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import Element, ObjectProperties, child_text, children, parse_time, read_objects, read_one
from hypersdk.vsphere.specs import filter_spec, traversal
from hypersdk.vsphere.tasks import cancel_task, run_task, running_tasks, wait_for_task

LOG: Final = logging.getLogger(__name__)

CONSOLIDATION_LEFT: Final = register(
    "consolidation_left",
    "The temporary snapshot was removed, but vSphere could not merge its delta into the disk because its files are in"
    " use.",
    "Look for a backup that uses the disks, then consolidate the machine's disks in vCenter (Snapshots, Consolidate).",
)

SETTLE_S: Final = 600.0
"""How long a cancelled run waits for a snapshot task that cannot be cancelled; quiescing a large guest takes
minutes."""
SETTLE_LOOK_S: Final = 1.0
_MAX_SNAPSHOTS: Final = 1024
UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Of a snapshot whose server does not say when it was made."""


@dataclass(frozen=True, slots=True)
class FoundSnapshot:
    """A snapshot somewhere in the inventory."""

    moref: str
    name: str
    description: str
    created: datetime
    machine_moref: str
    machine_name: str


def create_snapshot(
    session: Session, moref: str, *, name: str, description: str, quiesce: bool, cancel: CancelToken
) -> str:
    """Makes a snapshot of a machine's disks (no memory) and returns its moref.

    Raises SourceError ``quiesce_failed`` when the guest could not be quiesced, and what else the task's fault means.
    When cancelled, or when the connection was lost, the task's end is waited for first, as far as it can be reached:
    otherwise it would create the snapshot after the cleanup.
    """

    def start() -> str:
        machine = session.ref("VirtualMachine", moref)
        return str(machine.CreateSnapshot_Task(name=name, description=description, memory=False, quiesce=quiesce)._moId)

    try:
        task = session.call(start)
    except ConnectError:
        _settle(session, moref, None)
        raise
    try:
        result = wait_for_task(session, task, cancel=cancel)
    except (Cancelled, ConnectError):
        _settle(session, moref, task)
        raise
    if result is None:
        raise SourceError(f"the snapshot task of {moref} returned no snapshot", code=SNAPSHOT_FAILED)
    return result


def _settle(session: Session, moref: str, task: str | None) -> None:
    """Cancels the task, or waits for its end; whether it made a snapshot is then in the inventory. Without a task:
    where the answer was lost that would have named it, any snapshot task of the machine is waited for, but not
    cancelled.
    """
    patience = CancelToken()
    timer = threading.Timer(SETTLE_S, patience.cancel, ["the snapshot task did not end"])
    timer.start()
    try:
        if task is None:
            wait_for_snapshot_tasks(session, moref, cancel=patience)
        else:
            _ask_to_cancel(session, task)
            wait_for_task(session, task, cancel=patience)
    except HyperSDKError as error:
        # It failed, was cancelled, hangs, or cannot be seen: the journal's undo finds the snapshot by its name anyway.
        LOG.info("the snapshot task of %s: %s", moref, error.message)
    finally:
        timer.cancel()


def _ask_to_cancel(session: Session, task: str) -> None:
    try:
        cancel_task(session, task)
    except (AccessError, SourceError) as error:
        LOG.info("the snapshot task cannot be cancelled, its end is waited for: %s", error.message)


def wait_for_snapshot_tasks(session: Session, moref: str, *, cancel: CancelToken) -> None:
    """Until no task of the machine makes or removes a snapshot."""
    while any(
        "snapshot" in task.what.lower() and not task.exports for task in running_tasks(session, moref, cancel=cancel)
    ):
        cancel.sleep(SETTLE_LOOK_S)


def remove_snapshot(session: Session, snapshot: str, *, cancel: CancelToken) -> None:
    """Removes one snapshot (its children stay) and consolidates its disks. One that no longer exists is not an error.

    Raises NotRestored ``consolidation_left`` when the machine's disks still need consolidation afterwards, and
    SourceError ``snapshot_failed`` when it is still there though the server knows nothing of its removal any more.
    """

    def start() -> str:
        task = session.ref("VirtualMachineSnapshot", snapshot).RemoveSnapshot_Task(
            removeChildren=False, consolidate=True
        )
        return str(task._moId)

    there, machine = _machine_of(session, snapshot, cancel)
    if not there:
        return
    try:
        run_task(session, start, cancel=cancel)
    except LookupFailed as error:  # of the snapshot, or of a task that a server started anew has forgotten
        if _machine_of(session, snapshot, cancel)[0]:
            raise SourceError(
                f"the snapshot {snapshot} still exists, and its removal has no task any more", code=SNAPSHOT_FAILED
            ) from error
    if machine:
        _consolidate(session, machine, cancel)


def _machine_of(session: Session, snapshot: str, cancel: CancelToken) -> tuple[bool, str | None]:
    """Whether there is such a snapshot, and of which machine."""
    try:
        return True, read_one(session, "VirtualMachineSnapshot", snapshot, ["vm"], cancel=cancel).text("vm")
    except LookupFailed:
        return False, None


def _consolidate(session: Session, moref: str, cancel: CancelToken) -> None:
    """Once more, where the removal could not merge the delta: such disks grow unseen, as no snapshot shows for them."""
    if not consolidation_needed(session, moref, cancel=cancel):
        return
    try:
        run_task(session, lambda: session.ref("VirtualMachine", moref).ConsolidateVMDisks_Task(), cancel=cancel)
    except (SourceError, Refused, LookupFailed) as error:
        LOG.info("the disks of %s could not be consolidated: %s", moref, error.message)
    if consolidation_needed(session, moref, cancel=cancel):
        raise NotRestored(
            f"the disks of {moref} need consolidation after the snapshot's removal", code=CONSOLIDATION_LEFT
        )


def find_snapshots(session: Session, prefix: str, *, cancel: CancelToken | None = None) -> list[FoundSnapshot]:
    """All snapshots in the inventory whose name begins with ``prefix``, oldest first."""
    token = cancel or CancelToken()

    def read() -> list[FoundSnapshot]:
        view = container_view(session, ["VirtualMachine"])
        try:
            spec = filter_spec(
                view, {"VirtualMachine": ["name", "snapshot"]}, select=[traversal("ContainerView", "view")], skip=True
            )
            return [found for item in read_objects(session, [spec], cancel=token) for found in _found(item)]
        finally:
            view.DestroyView()

    named = (found for found in session.call(read) if found.name.startswith(prefix))
    return sorted(named, key=lambda found: found.created)


def consolidation_needed(session: Session, moref: str, *, cancel: CancelToken | None = None) -> bool:
    """Whether the machine's disks have deltas that belong to no snapshot: which a failed removal leaves behind."""
    path = "runtime.consolidationNeeded"
    return read_one(session, "VirtualMachine", moref, [path], cancel=cancel or CancelToken()).flag(path)


def _found(item: ObjectProperties) -> Iterator[FoundSnapshot]:
    """All snapshots of one machine."""
    info = item.values.get("snapshot")
    waiting: list[Element] = children(info, "rootSnapshotList") if info is not None else []
    for _ in range(_MAX_SNAPSHOTS):
        if not waiting:
            return
        node = waiting.pop()
        waiting += children(node, "childSnapshotList")
        yield FoundSnapshot(
            moref=child_text(node, "snapshot") or "",
            name=decode_name(child_text(node, "name") or ""),
            description=child_text(node, "description") or "",
            created=parse_time(child_text(node, "createTime")) or UNKNOWN_TIME,
            machine_moref=item.moref,
            machine_name=decode_name(item.text("name") or item.moref),
        )
