"""Settings of a simulator, and specifications of its machines and disks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from hypersdk.secret import Secret
from hypersdk.simulator.faults import Fault
from hypersdk.simulator.imagefile import image_capacity
from hypersdk.units import SECTOR, GiB, MiB

DEFAULT_USERNAME: Final = "administrator@vsphere.local"
DEFAULT_PASSWORD: Final = "simulator"  # noqa: S105 - gives access to nothing but the simulator
Controller = Literal["pvscsi", "lsilogic", "lsilogic-sas", "ahci", "nvme", "ide"]


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One virtual disk.

    ``allocated_bytes`` is how much of it holds data (a third by default). ``stride_bytes`` instead puts one single
    block into each such stretch, for sparse disks of terabytes. ``boot`` makes a small disk whose boot sector prints a
    marker. ``image`` is a raw image on this machine, which gives the disk its content and size. ``datastore`` is a
    name, by default the machine's own. ``reported_bytes`` is the size that the device list reports, such as that of a
    damaged descriptor.
    """

    capacity_bytes: int = 16 * MiB
    allocated_bytes: int | None = None
    stride_bytes: int | None = None
    boot: bool = False
    image: Path | None = None
    controller: Controller = "pvscsi"
    datastore: str | None = None
    thin: bool = True
    backing: Literal["flat", "sesparse", "rdm-virtual", "rdm-physical"] = "flat"
    independent: bool = False
    multi_writer: bool = False
    encrypted: bool = False
    reported_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for an image that cannot be read."""
        if self.image is not None:
            object.__setattr__(self, "capacity_bytes", image_capacity(self.image))
        if self.capacity_bytes <= 0 or self.capacity_bytes % SECTOR:
            raise ValueError(f"a disk of {self.capacity_bytes} bytes is not made of whole sectors of {SECTOR}")


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One virtual machine, as a test or the demo wants it.

    ``name`` may hold ``/``, ``%`` and anything else; it is escaped as vCenter does. ``folder`` is a path below the
    datacenter's ``vm`` folder. ``host`` counts through all hosts of the datacenter. ``snapshots`` are taken in this
    order, each on the one before. ``iso`` is a datastore path such as ``[iso-library] debian-12.iso``;
    ``iso_connected`` whether it is connected now. ``boot_order`` is ``bootOptions.bootOrder``: ``disk:1`` and ``nic:0``
    count from 0 as they stand here, else ``cdrom`` or ``floppy``.
    """

    name: str
    disks: tuple[DiskSpec, ...] = (DiskSpec(),)
    power: Literal["poweredOn", "poweredOff", "suspended"] = "poweredOff"
    datacenter: int = 0
    host: int = 0
    folder: str = ""
    datastore: str | None = None
    guest_id: str = "debian12_64Guest"
    cpus: int = 2
    memory_mb: int = 2048
    firmware: Literal["bios", "efi"] = "bios"
    secure_boot: bool = False
    tpm: bool = False
    encrypted: bool = False
    tools: bool = True
    template: bool = False
    cbt: bool = False
    nics: int = 1
    cdrom: bool = True
    iso: str | None = None
    iso_connected: bool = True
    snapshots: tuple[str, ...] = ()
    annotation: str = ""
    boot_order: tuple[str, ...] = ("disk:0",)


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """Settings of a simulator. The defaults make a small vCenter on a free port of 127.0.0.1.

    ``vms`` machines come from the demo inventory (deterministic by ``seed``), ``machines`` are added to them. ``hosts``
    is per datacenter, spread over two clusters. In ``esxi`` mode there is one host, one datacenter, and NFC URLs name
    the host ``*``. ``rate_bytes_s`` limits each data stream, ``nfc_streams_per_host`` lets a host refuse more streams
    than that. ``page_objects`` is the most objects in one answer of RetrievePropertiesEx. ``task_s`` is how long a task
    takes, ``lease_ready_s`` how long a lease stays in ``initializing``. ``delta_bytes_s`` is how fast the delta of a
    running machine grows. ``any_login`` accepts any user name and password that are not empty, besides the account's.
    ``denied_privileges`` are missing from every account.
    """

    listen: str = "127.0.0.1:0"
    vms: int = 0
    machines: tuple[MachineSpec, ...] = ()
    datacenters: int = 1
    hosts: int = 2
    seed: int = 1
    esxi: bool = False
    username: str = DEFAULT_USERNAME
    password: Secret = field(default_factory=lambda: Secret(DEFAULT_PASSWORD))
    any_login: bool = False
    faults: tuple[Fault, ...] = ()
    session_idle_s: float = 1800
    lease_timeout_s: float = 300
    lease_ready_s: float = 0.02
    task_s: float = 0.02
    shutdown_s: float = 0.2
    rate_bytes_s: float | None = None
    nfc_streams_per_host: int | None = None
    page_objects: int = 1000
    datastore_bytes: int = 4096 * GiB
    delta_bytes_s: float = 0
    file_size: Literal["absent", "present"] = "absent"
    manifest: Literal["sha256", "sha1", "absent"] = "sha256"
    free_licence: bool = False
    denied_privileges: frozenset[str] = frozenset()
