"""Checks before an export, from facts that were read before: no server is asked here. Each refusal has a code and
remedies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import CODES, HyperSDKError, Refused, register
from hypersdk.formats.vmdk.layout import MAX_CAPACITY
from hypersdk.migration.runfile import SNAPSHOT_PREFIX
from hypersdk.migration.spec import Compression, ExportSpec, Method, SourceState
from hypersdk.model import Backing, Disk, Machine, Power, boot_sequence
from hypersdk.remedies import ChooseFolder, ExcludeDisk, First, FreeSpace, LowerLimit, Notice, Retry, SetOption
from hypersdk.text import count
from hypersdk.units import SECTOR, GiB, format_size
from hypersdk.vsphere.machine import DatastoreFacts

NO_DISKS = register(
    "no_disks",
    "There is no disk to export.",
    "Check which disks are excluded; a machine without disks has nothing to export.",
)
DISK_CAPACITY = register(
    "disk_capacity",
    "vSphere reports an impossible size for the disk: zero, not a multiple of a sector, or more than vSphere itself"
    " supports.",
    First("check the disk in vCenter and repair its descriptor"),
    Retry(),
    ExcludeDisk(),
)
RDM_PHYSICAL = register(
    "rdm_physical",
    "A physical-mode raw device mapping bypasses vSphere: its data cannot be exported.",
    ExcludeDisk(),
    "Migrate its LUN separately.",
)
INDEPENDENT_DISK = register(
    "independent_disk",
    "An independent disk is not part of snapshots, so it cannot be exported while the machine is running.",
    SetOption("source", "power-off"),
    ExcludeDisk(),
)
SHARED_DISK = register(
    "shared_disk",
    "The disk is shared between machines (multi-writer): a copy of it would not be of a single point in time.",
    First("stop all machines that use it and disable sharing"),
    Retry(),
    ExcludeDisk(),
)
ENCRYPTED_MACHINE = register(
    "encrypted_machine",
    "vSphere does not export encrypted disks.",
    First("decrypt the disk in vCenter (storage policy 'Datastore Default')"),
    Retry(),
    ExcludeDisk(),
)
MACHINE_SUSPENDED = register(
    "machine_suspended",
    "A suspended machine has part of its state in memory files.",
    First("resume the machine or power it off"),
    Retry(),
)
MACHINE_BUSY = register(
    "machine_busy",
    "Another task is using the machine.",
    First("wait until it has finished, or cancel it in vCenter"),
    Retry(),
)
DATASTORE_UNREACHABLE = register(
    "datastore_unreachable",
    "A datastore of the machine is not accessible.",
    First("make the datastore accessible again"),
    Retry(),
    ExcludeDisk(),
)
CONSOLIDATION_NEEDED = register(
    "consolidation_needed",
    "The machine's disks need consolidation; another snapshot would make it worse.",
    First("consolidate its disks in vCenter"),
    Retry(),
)
DATASTORE_LOW = register(
    "datastore_low",
    "A snapshot could fill the datastore.",
    First("free space on the datastore"),
    Retry(),
    LowerLimit("datastore_min_free"),
    SetOption("source", "power-off"),
)
TARGET_TOO_SMALL = register(
    "target_too_small",
    "The output file system has less free space than the export needs.",
    FreeSpace(),
    Retry(),
    ChooseFolder(),
    SetOption("compress", True),
)
SNAPSHOT_REFUSED = register(
    "snapshot_refused", "No snapshot can be created of the machine.", "Power it off and export it as it is."
)
COMPRESS_UNFIT = register(
    "compress_unfit",
    "The output format does not support that kind of compression.",
    "qcow2 supports every kind; ovf, ova and vmdk support none, checked and unchecked; raw supports none.",
)


@dataclass(frozen=True, slots=True)
class MinFreeSpace:
    """How much must stay free on a datastore while a temporary snapshot exists: the larger of the two."""

    fraction: float = 0.10
    at_least_bytes: int = 20 * GiB

    def of(self, capacity_bytes: int) -> int:
        """Bytes that must stay free on a datastore of ``capacity_bytes``."""
        return max(int(capacity_bytes * self.fraction), self.at_least_bytes)


DEFAULT_MIN_FREE: Final = MinFreeSpace()


def raise_if_any(machine: str, refusals: Sequence[HyperSDKError], verb: str = "exported") -> None:
    """Raises the refusal if there is one; several as the ``reasons`` of one error. ``verb`` is what is refused."""
    if not refusals:
        return
    if len(refusals) == 1:
        raise refusals[0]
    messages = "; ".join(refusal.message for refusal in refusals)
    raise Refused(
        f"'{machine}' cannot be {verb}, for {len(refusals)} reasons: {messages}",
        cause="; ".join(refusal.cause for refusal in refusals),
        remedies=tuple(dict.fromkeys(remedy for refusal in refusals for remedy in refusal.remedies)),
        reasons=refusals,
    )


def wants_snapshot(machine: Machine, spec: ExportSpec) -> bool:
    """Whether the export uses a temporary snapshot."""
    if spec.state is SourceState.SNAPSHOT:
        return spec.snapshot == "new"
    return spec.state is SourceState.AUTO and machine.power is Power.ON


def machine_refusals(
    machine: Machine, spec: ExportSpec, disks: Sequence[Disk], *, held_by_us: bool = False
) -> Iterator[Refused]:
    """Why these ``disks`` of ``machine`` cannot be exported as requested.

    ``held_by_us``: an interrupted run may still hold the machine. The export ends that run first, so a busy machine is
    not refused.
    """
    name = machine.name
    if not disks:
        yield Refused(f"'{name}' has no disk to export", code=NO_DISKS)
    if machine.power is Power.SUSPENDED and spec.state is not SourceState.SNAPSHOT:
        yield Refused(f"'{name}' is suspended", code=MACHINE_SUSPENDED)
    if machine.busy_with and not held_by_us:
        yield Refused(f"'{name}' is busy: {machine.busy_with}", code=MACHINE_BUSY)
    yield from _unreachable(machine, disks)
    snapshot = wants_snapshot(machine, spec)
    if snapshot and machine.consolidation_needed:
        yield Refused(f"the disks of '{name}' need consolidation", code=CONSOLIDATION_NEEDED)
    if snapshot and machine.summary.template:
        yield Refused(f"'{name}' is a template", code=SNAPSHOT_REFUSED)
    through_snapshot = snapshot or spec.state is SourceState.SNAPSHOT
    for disk in disks:
        yield from _disk_refusals(name, disk, through_snapshot)


def capacity_refusals(machine: Machine, disks: Sequence[Disk]) -> Iterator[Refused]:
    """Disks of an impossible size. To be checked before anything is calculated from it."""
    for disk in disks:
        if not 0 < disk.capacity_bytes <= MAX_CAPACITY or disk.capacity_bytes % SECTOR:
            said = f"a capacity of {disk.capacity_bytes} bytes"
            yield _disk_refusal(DISK_CAPACITY, disk, f"'{disk.label}' of '{machine.name}' has {said}")


def _disk_refusal(code: str, disk: Disk, message: str) -> Refused:
    """Where a remedy is to exclude the disk, the remedy names it."""
    remedies = CODES[code].remedies
    named = (ExcludeDisk(disk.label) if remedy == ExcludeDisk() else remedy for remedy in remedies)
    return Refused(message, code=code, remedies=tuple(named))


def _unreachable(machine: Machine, disks: Sequence[Disk]) -> Iterator[Refused]:
    used = {disk.datastore for disk in disks}
    for datastore in machine.unreachable_datastores:
        if datastore in used:
            yield Refused(f"datastore '{datastore}' of '{machine.name}' is not accessible", code=DATASTORE_UNREACHABLE)


def _disk_refusals(name: str, disk: Disk, through_snapshot: bool) -> Iterator[Refused]:
    if disk.backing is Backing.RDM_PHYSICAL:
        yield _disk_refusal(RDM_PHYSICAL, disk, f"'{disk.label}' of '{name}' is a physical raw device mapping")
    if disk.shared:
        yield _disk_refusal(SHARED_DISK, disk, f"'{disk.label}' of '{name}' is shared with other machines")
    if disk.encrypted:
        yield _disk_refusal(ENCRYPTED_MACHINE, disk, f"'{disk.label}' of '{name}' is encrypted")
    if disk.independent and through_snapshot:
        yield _disk_refusal(
            INDEPENDENT_DISK, disk, f"'{disk.label}' of '{name}' is independent and the machine is running"
        )


def datastore_refusals(datastores: Iterable[DatastoreFacts], min_free: MinFreeSpace) -> Iterator[Refused]:
    """Datastores with too little free space for a snapshot to grow."""
    for store in datastores:
        if store.capacity_bytes is None or store.free_bytes is None:
            continue  # not accessible: refused as datastore_unreachable
        needed = min_free.of(store.capacity_bytes)
        if store.free_bytes < needed:
            yield Refused(
                f"datastore '{store.name}' has {format_size(store.free_bytes)} free;"
                f" {format_size(needed)} must stay free while a snapshot is held",
                code=DATASTORE_LOW,
            )


def warnings_for(machine: Machine, spec: ExportSpec) -> Iterator[Notice]:
    """What the user should know before confirming; none of it stops the export."""
    if spec.compress is Compression.UNCHECKED and spec.method is not Method.DATASTORE:
        yield Notice("the blocks are not checked: only the server's manifest proves the copy, where the server has one")
    if wants_snapshot(machine, spec):
        if not spec.quiesce:
            yield Notice("the snapshot is crash-consistent: quiescing is disabled")
        elif not machine.guest.tools_running:
            yield Notice("the snapshot is crash-consistent: VMware Tools are not running in the guest")
    snapshots = [node for node in machine.snapshots if not node.name.startswith(SNAPSHOT_PREFIX)]
    if snapshots and spec.state is not SourceState.SNAPSHOT:
        depth = max(node.depth for node in snapshots) + 1
        yield Notice(
            f"the machine has {count(len(snapshots), 'snapshot')}, {depth} deep; its current state is exported, not one"
            " of them"
        )
    if any(cdrom.iso for cdrom in machine.cdroms) and not spec.remove_cdrom:
        yield Notice("an ISO image is inserted; it is not exported", (SetOption("remove_cdrom", True),))
    if machine.has_vtpm:
        yield Notice(
            "the virtual TPM is not exported, and neither are the keys in it: a guest that sealed something with it, as"
            " BitLocker does, asks for its recovery key. Suspend BitLocker, or have the recovery key at hand"
        )
    if machine.encrypted:
        yield Notice(
            "the machine's configuration and NVRAM are encrypted, its disks are not. A server that refuses an export"
            " lease for that is read through the datastore"
        )
    if machine.firmware == "efi":
        yield Notice("the machine boots with UEFI; its NVRAM boot entries are not exported")
    if not boot_sequence(machine) and machine.disks:
        yield Notice(
            "the boot disk is not known: the machine has disks on several controllers, and its boot order names none"
        )
    for disk in machine.disks:
        if disk.backing is Backing.RDM_VIRTUAL:
            yield Notice(f"'{disk.label}' is a raw device mapping; its content is exported as an ordinary disk")
