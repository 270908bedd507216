"""Refuse early, by name, with the fix. Pure: facts in, findings out; nothing is asked of any server here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hypersdk.errors import CODES, Refused, register
from hypersdk.formats.vmdk.layout import MAX_CAPACITY
from hypersdk.migration.runfile import SNAPSHOT_PREFIX
from hypersdk.migration.spec import ExportSpec, SourceState
from hypersdk.model import Backing, Disk, Machine, Power, boot_sequence
from hypersdk.remedies import ChooseFolder, ExcludeDisk, First, FreeSpace, LowerLimit, Notice, Remedy, Retry, SetOption
from hypersdk.units import SECTOR, GiB, format_size

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
    "vSphere does not export encrypted machines or disks.",
    First("decrypt it in vCenter (storage policy 'Datastore Default')"),
    Retry(),
)
VTPM_PRESENT = register(
    "vtpm_present",
    "The virtual TPM and its keys cannot leave vSphere; a BitLocker guest would ask for its recovery key.",
    First("suspend BitLocker or note the recovery key, remove the vTPM from the machine"),
    Retry(),
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

MIN_FREE_FRACTION: Final = 0.10
MIN_FREE_BYTES: Final = 20 * GiB
"""A snapshot is only made while each datastore keeps at least the larger of the two free."""


class DatastoreSpace(Protocol):
    """The part of a datastore's facts that matters here."""

    @property
    def name(self) -> str: ...
    @property
    def capacity_bytes(self) -> int | None: ...
    @property
    def free_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why not."""

    code: str
    message: str
    remedies: tuple[Remedy, ...] = ()

    @classmethod
    def of_disk(cls, code: str, disk: Disk, message: str) -> Refusal:
        """Where what helps is to leave this disk out, it is named."""
        remedies = CODES[code].remedies
        named = (ExcludeDisk(disk.label) if remedy == ExcludeDisk() else remedy for remedy in remedies)
        return cls(code, message, tuple(named))

    def as_error(self) -> Refused:
        """The error to raise when it is the only one."""
        return Refused(self.message, code=self.code, remedies=self.remedies)


def raise_if_any(machine: str, refusals: Sequence[Refusal]) -> None:
    """Raises Refused: with the reason's own code if there is one, else with all of them as its ``reasons``."""
    if not refusals:
        return
    if len(refusals) == 1:
        raise refusals[0].as_error()
    errors = [refusal.as_error() for refusal in refusals]
    raise Refused(
        f"'{machine}' cannot be exported, for {len(errors)} reasons: " + "; ".join(error.message for error in errors),
        cause="; ".join(error.cause for error in errors),
        remedies=tuple(dict.fromkeys(remedy for error in errors for remedy in error.remedies)),
        reasons=errors,
    )


def wants_snapshot(machine: Machine, spec: ExportSpec) -> bool:
    """Whether the export goes through a temporary snapshot of our own."""
    if spec.state is SourceState.SNAPSHOT:
        return spec.snapshot == "new"
    return spec.state is SourceState.AUTO and machine.power is Power.ON


def machine_refusals(
    machine: Machine, spec: ExportSpec, disks: Sequence[Disk], *, held_by_us: bool = False
) -> Iterator[Refusal]:
    """What speaks against exporting these ``disks`` of ``machine`` as asked.

    ``held_by_us``: an interrupted run of ours may still hold it, which the export ends first; so being busy is no
    reason.
    """
    name = machine.name
    if not disks:
        yield Refusal(NO_DISKS, f"'{name}' has no disk to export")
    if machine.encrypted:
        yield Refusal(ENCRYPTED_MACHINE, f"'{name}' is encrypted")
    if machine.has_vtpm:
        yield Refusal(VTPM_PRESENT, f"'{name}' has a virtual TPM")
    if machine.power is Power.SUSPENDED and spec.state is not SourceState.SNAPSHOT:
        yield Refusal(MACHINE_SUSPENDED, f"'{name}' is suspended")
    if machine.busy_with and not held_by_us:
        yield Refusal(MACHINE_BUSY, f"'{name}' is busy: {machine.busy_with}")
    yield from _unreachable(machine, disks)
    snapshot = wants_snapshot(machine, spec)
    if snapshot and machine.consolidation_needed:
        yield Refusal(CONSOLIDATION_NEEDED, f"the disks of '{name}' need consolidation")
    if snapshot and machine.summary.template:
        yield Refusal(SNAPSHOT_REFUSED, f"'{name}' is a template")
    through_snapshot = snapshot or spec.state is SourceState.SNAPSHOT
    for disk in disks:
        yield from _disk_refusals(name, disk, through_snapshot)


def capacity_refusals(machine: Machine, disks: Sequence[Disk]) -> Iterator[Refusal]:
    """Disks of a size that cannot be. To be asked before anything is reckoned with it."""
    for disk in disks:
        if not 0 < disk.capacity_bytes <= MAX_CAPACITY or disk.capacity_bytes % SECTOR:
            said = f"a capacity of {disk.capacity_bytes} bytes"
            yield Refusal.of_disk(DISK_CAPACITY, disk, f"'{disk.label}' of '{machine.name}' has {said}")


def _unreachable(machine: Machine, disks: Sequence[Disk]) -> Iterator[Refusal]:
    used = {disk.datastore for disk in disks}
    for datastore in machine.unreachable_datastores:
        if datastore in used:
            yield Refusal(DATASTORE_UNREACHABLE, f"datastore '{datastore}' of '{machine.name}' is not accessible")


def _disk_refusals(name: str, disk: Disk, through_snapshot: bool) -> Iterator[Refusal]:
    if disk.backing is Backing.RDM_PHYSICAL:
        yield Refusal.of_disk(RDM_PHYSICAL, disk, f"'{disk.label}' of '{name}' is a physical raw device mapping")
    if disk.shared:
        yield Refusal.of_disk(SHARED_DISK, disk, f"'{disk.label}' of '{name}' is shared with other machines")
    if disk.encrypted:
        yield Refusal(ENCRYPTED_MACHINE, f"'{disk.label}' of '{name}' is encrypted")
    if disk.independent and through_snapshot:
        yield Refusal.of_disk(
            INDEPENDENT_DISK, disk, f"'{disk.label}' of '{name}' is independent and the machine is running"
        )


def min_free_bytes(capacity_bytes: int, fraction: float = MIN_FREE_FRACTION, at_least: int = MIN_FREE_BYTES) -> int:
    """Bytes that must stay free on a datastore of ``capacity_bytes`` while a snapshot of ours is held."""
    return max(int(capacity_bytes * fraction), at_least)


def datastore_refusals(
    datastores: Iterable[DatastoreSpace], fraction: float = MIN_FREE_FRACTION, at_least: int = MIN_FREE_BYTES
) -> Iterator[Refusal]:
    """Which datastores have too little room for a snapshot to grow."""
    for store in datastores:
        if store.capacity_bytes is None or store.free_bytes is None:
            continue  # not accessible: unreachable datastores are refused by that name
        needed = min_free_bytes(store.capacity_bytes, fraction, at_least)
        if store.free_bytes < needed:
            yield Refusal(
                DATASTORE_LOW,
                f"datastore '{store.name}' has {format_size(store.free_bytes)} free;"
                f" {format_size(needed)} must stay free while a snapshot is held",
            )


def warnings_for(machine: Machine, spec: ExportSpec) -> Iterator[Notice]:
    """What the user should know before saying yes; none of it stops the export."""
    if wants_snapshot(machine, spec):
        if not spec.quiesce:
            yield Notice("the snapshot is crash-consistent: quiescing is disabled")
        elif not machine.guest.tools_running:
            yield Notice("the snapshot is crash-consistent: VMware Tools are not running in the guest")
    snapshots = [node for node in machine.snapshots if not node.name.startswith(SNAPSHOT_PREFIX)]
    if snapshots and spec.state is not SourceState.SNAPSHOT:
        depth = max(node.depth for node in snapshots) + 1
        yield Notice(
            f"the machine has {len(snapshots)} snapshot(s), {depth} deep; its current state is exported, not one of"
            " them"
        )
    if any(cdrom.iso for cdrom in machine.cdroms) and not spec.remove_cdrom:
        yield Notice("an ISO image is inserted; it is not exported", (SetOption("remove_cdrom", True),))
    if machine.firmware == "efi":
        yield Notice("the machine boots with UEFI; its NVRAM boot entries are not exported")
    if not boot_sequence(machine) and machine.disks:
        yield Notice(
            "the boot disk is not known: the machine has disks on several controllers, and its boot order names none"
        )
    for disk in machine.disks:
        if disk.backing is Backing.RDM_VIRTUAL:
            yield Notice(f"'{disk.label}' is a raw device mapping; its content is exported as an ordinary disk")
