"""A machine on its way to KVM: what the source was, what its guest can drive, and the domain that it becomes.

::

    SourceGuest ── convert ──> GuestDrivers ──┐
         └────────────────────────────────────┴─ plan ──> GuestPlan ── land ──> domain ── prove ──> BootProof

All records are plain facts: they know no hypervisor, no file format of a descriptor and no program.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hypersdk.model.machine import Firmware


class DiskBus(StrEnum):
    """Where a disk is attached, in libvirt's words; ``SCSI`` is a virtio-scsi controller."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"


class NicModel(StrEnum):
    """Network cards that QEMU emulates."""

    VIRTIO = "virtio"
    E1000E = "e1000e"
    E1000 = "e1000"
    RTL8139 = "rtl8139"


class Acceleration(StrEnum):
    """What runs a guest, and the appliance in which it is converted. ``AUTO``: KVM where it works, else software
    emulation."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"

    @property
    def demanded(self) -> bool | None:
        """Whether KVM is demanded or forbidden; None for either."""
        return None if self is Acceleration.AUTO else self is Acceleration.KVM


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """One disk of an export, as its manifest tells: the image ``file``, and the bus it had (``scsi sata ide nvme``).

    ``boot_order`` is 0 for the disk that the source booted from; None where that is not known.
    """

    file: Path
    image_format: str
    capacity_bytes: int
    bus: str
    boot_order: int | None
    label: str


@dataclass(frozen=True, slots=True)
class SourceNic:
    """One network card of the source. ``adapter`` is ``vmxnet3``, ``e1000`` ..., None where it is not known."""

    mac: str | None
    network: str
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class SourceGuest:
    """The machine of an export. ``name`` is the source's, as it was; ``guest_id`` its operating system in vSphere's
    words; ``os_family`` as in the manifest (``windows linux ...``)."""

    name: str
    firmware: Firmware
    secure_boot: bool
    tpm: bool
    cpus: int
    cores_per_socket: int
    memory_bytes: int
    guest_id: str | None
    os_family: str
    disks: tuple[SourceDisk, ...]
    nics: tuple[SourceNic, ...]


@dataclass(frozen=True, slots=True)
class GuestDrivers:
    """What the guest can boot from and use, as the guest conversion reported or as it is taken to be without one.

    ``os_id`` is the short id of libosinfo (``debian12``), None where it is not known.
    """

    disk_bus: DiskBus
    nic_model: NicModel
    os_id: str | None = None
    os_name: str | None = None
    rng: bool = False
    balloon: bool = False
    video: str = "vga"


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """One disk of the domain, in boot order."""

    file: Path
    image_format: str
    capacity_bytes: int
    bus: DiskBus
    label: str


@dataclass(frozen=True, slots=True)
class GuestNic:
    """One network card of the domain. ``target`` is a libvirt network, or a bridge where ``bridge``; ``mac`` is None
    for a new one."""

    mac: str | None
    target: str
    bridge: bool
    model: NicModel


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """The domain. ``name`` is safe for libvirt, ``title`` the original where it differs. ``virt_type`` is ``kvm``,
    ``qemu`` (emulated) or ``test`` (libvirt's test driver); ``cpu_mode`` is empty for libvirt's own choice. ``windows``
    guests have their clock in local time, and what QEMU does for them."""

    name: str
    title: str | None
    firmware: Firmware
    secure_boot: bool
    tpm: bool
    cpus: int
    cores_per_socket: int
    memory_bytes: int
    machine_type: str
    cpu_mode: str
    video: str
    os_id: str | None
    disks: tuple[GuestDisk, ...]
    nics: tuple[GuestNic, ...]
    rng: bool = False
    balloon: bool = False
    agent: bool = True
    virt_type: str = "kvm"
    windows: bool = False


def disk_letters(index: int) -> str:
    """``a`` ... ``z``, ``aa``, ``ab`` ...: the ends of the names of disks (``sda``), counted from 0."""
    letters, number = "", index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


class Verdict(StrEnum):
    """What a boot showed; ``SCREEN_STABLE`` is weak: a picture stayed, and no known failure was seen."""

    MARKER = "marker"
    LOGIN = "login"
    AGENT = "agent"
    SCREEN_STABLE = "screen-stable"


@dataclass(frozen=True, slots=True)
class BootProof:
    """Evidence of a boot: ``line`` is the text that was seen, after ``seconds``. ``warnings`` are about the proof
    itself."""

    verdict: Verdict
    line: str
    seconds: float
    accelerated: bool
    screenshot: Path | None = None
    serial_log: Path | None = None
    warnings: tuple[str, ...] = ()
