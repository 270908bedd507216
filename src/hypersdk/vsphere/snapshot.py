"""Temporary snapshots: made without memory, found again by name, removed with consolidation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from hypersdk.errors import Cancelled, HyperSDKError, LookupFailed, SourceError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import SNAPSHOT_FAILED
from hypersdk.vsphere.inventory import container_view
from hypersdk.vsphere.machine import parse_time
from hypersdk.vsphere.operations import read_one, run_task
from hypersdk.vsphere.paths import decode_name
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import Element, ObjectProperties, child_text, children, read_objects
from hypersdk.vsphere.specs import filter_spec, traversal
from hypersdk.vsphere.tasks import cancel_task, wait_for_task

SETTLE_S: Final = 600.0
"""How long a cancelled run waits for a snapshot task that cannot be cancelled; quiescing a large guest takes minutes."""
_MAX_SNAPSHOTS: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


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

    Raises SourceError ``quiesce_failed`` when the guest could not be brought to rest, and what else the task's fault means. When
    cancelled, the task is brought to its end first: it would make the snapshot behind the back of whoever cleans up.
    """

    def start() -> str:
        machine = session.ref("VirtualMachine", moref)
        return str(machine.CreateSnapshot_Task(name=name, description=description, memory=False, quiesce=quiesce)._moId)

    task = session.call(start)
    try:
        result = wait_for_task(session, task, cancel=cancel)
    except Cancelled:
        _settle(session, task)
        raise
    if result is None:
        raise SourceError(f"the snapshot task of {moref} told no snapshot", code=SNAPSHOT_FAILED)
    return result


def _settle(session: Session, task: str) -> None:
    """Cancels the task, or waits for its end; whether it made a snapshot is then in the inventory."""
    cancel_task(session, task)
    patience = CancelToken()
    timer = threading.Timer(SETTLE_S, patience.cancel, ["the snapshot task did not end"])
    timer.start()
    try:
        wait_for_task(session, task, cancel=patience)
    except HyperSDKError:
        return  # it failed, was cancelled, or hangs: the journal's undo looks for the snapshot by name in any case
    finally:
        timer.cancel()


def remove_snapshot(session: Session, snapshot: str, *, cancel: CancelToken) -> None:
    """Removes one snapshot (its children stay) and consolidates its disks. One that is gone already is no error."""

    def start() -> str:
        task = session.ref("VirtualMachineSnapshot", snapshot).RemoveSnapshot_Task(
            removeChildren=False, consolidate=True
        )
        return str(task._moId)

    try:
        run_task(session, start, cancel=cancel)
    except LookupFailed:
        return


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
    """Whether the machine's disks have deltas that belong to no snapshot: what a failed removal leaves behind."""
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
            created=parse_time(child_text(node, "createTime")) or _EPOCH,
            machine_moref=item.moref,
            machine_name=decode_name(item.text("name") or item.moref),
        )
