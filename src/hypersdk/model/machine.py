"""A virtual machine, described without any one platform's types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Power(StrEnum):
    """Power state, in the words of `list --json`."""

    ON = "on"
    OFF = "off"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


class Firmware(StrEnum):
    """What starts the guest."""

    BIOS = "bios"
    EFI = "efi"


@dataclass(frozen=True, slots=True)
class DiskSummary:
    """One disk in a list: what a picker shows and sums."""

    label: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """One row of the inventory.

    ``moref`` identifies (``vm-42``); names need not be unique. ``path`` is the inventory path ``/DC0/vm/folder/name``
    with ``/``, ``%`` and ``\\`` inside a name written as ``%2f``, ``%25``, ``%5c``. ``uuid`` is the BIOS UUID;
    ``instance_uuid`` is unique in a vCenter.

    ``used_bytes`` is what its files take on the datastores now, ``provisioned_bytes`` what they may grow to: thin disks
    count in full, and snapshots, swap and other files with them. ``disks`` is empty where the device list was not read.
    """

    moref: str
    name: str
    path: str
    uuid: str | None
    instance_uuid: str | None
    power: Power
    cpus: int
    memory_bytes: int
    disks: tuple[DiskSummary, ...]
    datacenter: str | None
    host: str | None
    guest_name: str | None
    template: bool
    disk_count: int
    used_bytes: int | None
    provisioned_bytes: int | None

    @property
    def capacity_bytes(self) -> int:
        """Sum of the capacities of all ``disks``."""
        return sum(disk.capacity_bytes for disk in self.disks)


class Backing(StrEnum):
    """How a disk is stored at the source."""

    FLAT = "flat"
    SESPARSE = "sesparse"
    SPARSE = "sparse"
    RDM_VIRTUAL = "rdm-virtual"
    RDM_PHYSICAL = "rdm-physical"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Disk:
    """One virtual disk.

    ``key`` is vSphere's device key. ``file`` is the backing as ``[datastore] folder/name.vmdk`` (the current delta
    where snapshots exist, ``chain`` the files from there down to the base). ``change_id`` needs CBT.
    ``bus`` is ``scsi``, ``sata``, ``ide`` or ``nvme``; ``controller`` the type's short name (``pvscsi``, ``lsilogic``,
    ``ahci`` ...).
    """

    key: int
    label: str
    capacity_bytes: int
    bus: str
    controller: str
    controller_key: int
    bus_number: int
    unit_number: int
    backing: Backing
    file: str | None
    chain: tuple[str, ...]
    datastore: str | None
    thin: bool | None
    independent: bool
    shared: bool
    encrypted: bool
    change_id: str | None
    uuid: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card; ``adapter`` is ``vmxnet3``, ``e1000``, ``e1000e`` ..."""

    key: int
    label: str
    mac: str | None
    network: str | None
    adapter: str
    connected: bool


@dataclass(frozen=True, slots=True)
class Cdrom:
    """One CD-ROM drive; ``iso`` is ``[datastore] path`` when an image is inserted."""

    key: int
    label: str
    iso: str | None
    connected: bool


@dataclass(frozen=True, slots=True)
class SnapshotNode:
    """One snapshot; ``depth`` 0 is a root, ``current`` the parent of the current state."""

    moref: str
    name: str
    description: str
    created: datetime
    depth: int
    current: bool
    quiesced: bool
    power: Power


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What VMware Tools report, where they are running."""

    os_id: str | None
    os_name: str | None
    hostname: str | None
    addresses: tuple[str, ...]
    tools_running: bool
    tools_version: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """One VM with all facts that planning needs, read at once.

    ``change_version`` is ``config.changeVersion``: it changes with every reconfiguration and power-on. ``boot_time`` is
    the last power-on. ``busy_with`` names a running task. ``encrypted``: its own files are, as with a virtual TPM; each
    disk says it of itself. ``unreachable_datastores`` are those of its datastores that vSphere reports as not
    accessible.
    """

    summary: MachineSummary
    firmware: Firmware
    secure_boot: bool
    guest: GuestFacts
    guest_id: str | None
    hardware_version: str | None
    cores_per_socket: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    cdroms: tuple[Cdrom, ...]
    snapshots: tuple[SnapshotNode, ...]
    boot_order: tuple[str, ...]
    cbt_enabled: bool
    change_version: str | None
    boot_time: datetime | None
    consolidation_needed: bool
    busy_with: str | None
    has_vtpm: bool
    encrypted: bool
    unreachable_datastores: tuple[str, ...]
    annotation: str | None
    vmx_file: str | None

    @property
    def moref(self) -> str:
        """Identity within its vCenter."""
        return self.summary.moref

    @property
    def name(self) -> str:
        """Display name."""
        return self.summary.name

    @property
    def power(self) -> Power:
        """Power state when read."""
        return self.summary.power
