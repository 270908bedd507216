"""Temporary snapshots: created without memory, found again by name, removed with consolidation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from hypersdk.errors import (
    LookupFailed,
    NotRestored,
    Refused,
    SourceError,
    register,
)
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import SNAPSHOT_FAILED
from hypersdk.vsphere.machine import snapshot_nodes
from hypersdk.vsphere.paths import decode_name
from hypersdk.vsphere.session import NEVER, Session
from hypersdk.vsphere.soap import ObjectProperties, read_inventory, read_one
from hypersdk.vsphere.tasks import run_task, run_whole_task

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

    Raises SourceError ``quiesce_failed`` when the guest could not be quiesced, and the errors for other faults of the
    task. When cancelled, or when the connection was lost, the task is cancelled and its end waited for first, as far as
    it can be reached: otherwise it would create the snapshot after the cleanup."""
    result = run_whole_task(
        session,
        moref,
        lambda: session.ref("VirtualMachine", moref).CreateSnapshot_Task(
            name=name, description=description, memory=False, quiesce=quiesce
        ),
        what="snapshot",
        cancel=cancel,
        settle_s=SETTLE_S,
        stop=True,
    )
    if result is None:
        raise SourceError(f"the snapshot task of {moref} returned no snapshot", code=SNAPSHOT_FAILED)
    return result


def remove_snapshot(session: Session, snapshot: str, *, cancel: CancelToken) -> None:
    """Removes one snapshot (its children stay) and consolidates its disks. One that no longer exists is not an error.

    Raises NotRestored ``consolidation_left`` when the machine's disks still need consolidation afterwards, and
    SourceError ``snapshot_failed`` when it still exists although the server has no task for its removal any more.
    """
    there, machine = _machine_of(session, snapshot, cancel)
    if not there:
        return
    try:
        run_task(
            session,
            lambda: session.ref("VirtualMachineSnapshot", snapshot).RemoveSnapshot_Task(
                removeChildren=False, consolidate=True
            ),
            cancel=cancel,
        )
    except LookupFailed as error:  # of the snapshot, or of the task, which a restarted server has forgotten
        if _machine_of(session, snapshot, cancel)[0]:
            raise SourceError(
                f"the snapshot {snapshot} still exists, and the task of its removal does not", code=SNAPSHOT_FAILED
            ) from error
    if machine:
        _consolidate(session, machine, cancel)


def _machine_of(session: Session, snapshot: str, cancel: CancelToken) -> tuple[bool, str | None]:
    """Whether the snapshot exists, and the moref of its machine."""
    try:
        return True, read_one(session, "VirtualMachineSnapshot", snapshot, ["vm"], cancel=cancel).text("vm")
    except LookupFailed:
        return False, None


def _consolidate(session: Session, moref: str, cancel: CancelToken) -> None:
    """Consolidates again where the removal could not merge the delta, which would keep growing without a snapshot."""
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


def find_snapshots(session: Session, prefix: str, *, cancel: CancelToken = NEVER) -> list[FoundSnapshot]:
    """All snapshots in the inventory whose name begins with ``prefix``, oldest first."""

    def read() -> list[FoundSnapshot]:
        machines = read_inventory(session, {"VirtualMachine": ["name", "snapshot"]}, cancel=cancel)
        return [snapshot for machine in machines for snapshot in _snapshots_of(machine)]

    named = (found for found in session.call(read) if found.name.startswith(prefix))
    return sorted(named, key=lambda found: found.created)


def _snapshots_of(machine: ObjectProperties) -> list[FoundSnapshot]:
    return [
        FoundSnapshot(
            moref=node.moref,
            name=node.name,
            description=node.description,
            created=node.created,
            machine_moref=machine.moref,
            machine_name=decode_name(machine.text("name") or machine.moref),
        )
        for node in snapshot_nodes(machine.values.get("snapshot"))
    ]


def consolidation_needed(session: Session, moref: str, *, cancel: CancelToken = NEVER) -> bool:
    """Whether the machine's disks have deltas without a snapshot, which a failed removal leaves behind."""
    path = "runtime.consolidationNeeded"
    return read_one(session, "VirtualMachine", moref, [path], cancel=cancel).flag(path)
