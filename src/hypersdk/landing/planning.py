"""The domain that a machine becomes: decided from facts alone, so it can be shown before anything is done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from hypersdk.errors import HyperSDKError, Refused, UsageError, register
from hypersdk.kvm.capabilities import PC, Q35, HypervisorFacts
from hypersdk.landing.options import LandOptions, NetworkTarget
from hypersdk.migration.preflight import raise_if_any
from hypersdk.model import Firmware
from hypersdk.model.guestplan import (
    DiskBus,
    GuestDisk,
    GuestDrivers,
    GuestNic,
    GuestPlan,
    NicModel,
    SourceDisk,
    SourceGuest,
    SourceNic,
)
from hypersdk.remedies import Notice, SetOption
from hypersdk.text import clean, is_plain

NETWORK_UNMAPPED: Final = register(
    "network_unmapped",
    "Nothing says to which network of the target the cards of a source network belong.",
    SetOption("networks", "TARGET"),
)
BAD_DOMAIN_NAME: Final = register(
    "bad_domain_name",
    "The name for the domain has characters that make it hard to use, or is a number.",
    "Use letters, digits, '.', '_', '+' and '-', at most 200 bytes.",
)
NO_DISK_IMAGES: Final = register(
    "no_disk_images", "There is no disk to land.", "Choose the folder of an export that has disks."
)
TOO_MANY_IDE_DISKS: Final = register(
    "too_many_ide_disks", "An IDE controller has four places.", "Choose the disk bus sata, scsi or virtio."
)
NO_EFI_FIRMWARE: Final = register(
    "no_efi_firmware",
    "The machine boots by UEFI, and the target has no such firmware for QEMU, or a libvirt before 7.2.",
    "Install it on the target: ovmf on Debian and Ubuntu, edk2-ovmf on Fedora and RHEL.",
)
NO_SECURE_BOOT: Final = register(
    "no_secure_boot",
    "The machine boots with secure boot, which the target does not offer for this machine type.",
    "Install a firmware with secure boot on the target (ovmf, edk2-ovmf), and use another disk bus than IDE.",
    SetOption("secure_boot", False),
)
NO_TPM_EMULATOR: Final = register(
    "no_tpm_emulator",
    "The machine has a TPM, and the target cannot emulate one.",
    "Install swtpm and swtpm-tools on the target.",
    SetOption("tpm", False),
)
NO_MACHINE_TYPE: Final = register(
    "no_machine_type",
    "QEMU on the target does not have the machine type that the guest needs.",
    "Choose another disk bus than IDE, which needs the machine type pc, or a target with another QEMU.",
)
NO_HARDWARE: Final = register(
    "no_hardware",
    "What is to be landed does not say how many CPUs and how much memory its machine has: a lone disk image.",
    SetOption("cpus", "N"),
)
TOO_MANY_CPUS: Final = register(
    "too_many_cpus", "The machine has more virtual CPUs than the target supports.", "Choose another target."
)

MAX_NAME_BYTES: Final = 200
"""libvirt names files after a domain (``NAME_VARS.fd``, snapshots), and a file name has at most 255 bytes."""
_SOCKET_CHARS: Final = 20
_SOCKET_BYTES: Final = 30
"""107 less ``/var/lib/libvirt/qemu/channel/target/domain-99999-`` and ``/org.qemu.guest_agent.0``, less a number."""
IDE_PLACES: Final = 4
FIRMWARE_FEATURES: Final = (7, 2, 0)
"""First libvirt that lets a domain say whether its firmware has secure boot and enrolled keys."""
_IN_NAMES: Final = frozenset("._+-")
_VIDEO: Final = "vga"
"""Every guest has a driver for it."""


def assumed_drivers(guest: SourceGuest) -> GuestDrivers:
    """What a guest is taken to drive where no conversion told it: SATA and an Intel network card, for which Windows
    since Vista and the kernels of Linux distributions have drivers. A BIOS machine that had an IDE disk keeps IDE: its
    guest may be older. One whose cards were all e1000 keeps that."""
    ide = guest.firmware is Firmware.BIOS and any(disk.bus == DiskBus.IDE for disk in guest.disks)
    adapters = {nic.adapter for nic in guest.nics}
    return GuestDrivers(
        disk_bus=DiskBus.IDE if ide and len(guest.disks) <= IDE_PLACES else DiskBus.SATA,
        nic_model=NicModel.E1000 if ide or adapters == {"e1000"} else NicModel.E1000E,
    )


def plan_guest(
    guest: SourceGuest,
    drivers: GuestDrivers,
    options: LandOptions,
    facts: HypervisorFacts,
    *,
    taken: Collection[str] = (),
) -> GuestPlan:
    """Returns the domain that ``guest`` becomes on a hypervisor.

    ``taken`` are names that others of the same run have; a name that is taken gets a number. Raises Refused with all
    reasons at once.
    """
    bus = options.disk_bus or drivers.disk_bus
    secure_boot = guest.secure_boot and options.secure_boot is not False
    guest = replace(guest, tpm=guest.tpm and options.tpm is not False, secure_boot=secure_boot)
    cpus = options.cpus or guest.cpus
    reasons = [*_hardware(guest, options, facts, cpus), *_refusals(guest, options, facts, bus)]
    raise_if_any(clean(guest.name, 200), reasons, "landed")
    name = unique_name(safe_name(options.name or guest.name), taken)
    return GuestPlan(
        name=name,
        title=(clean(guest.name, 500) or None) if guest.name != name else None,
        firmware=guest.firmware,
        secure_boot=guest.secure_boot and guest.firmware is Firmware.EFI,
        tpm=guest.tpm,
        cpus=cpus,
        cores_per_socket=_cores_per_socket(cpus, guest.cores_per_socket),
        memory_bytes=options.memory_bytes or guest.memory_bytes,
        machine_type=_machine_type(bus),
        cpu_mode=_cpu_mode(facts),
        video=drivers.video if drivers.video in facts.video_models else _VIDEO,
        os_id=drivers.os_id,
        disks=tuple(_disk(disk, bus) for disk in boot_ordered(guest.disks)),
        nics=tuple(_nic(nic, options, drivers) for nic in guest.nics),
        rng=drivers.rng,
        balloon=drivers.balloon,
        virt_type=facts.virt_type,
        windows=guest.os_family == "windows",
    )


def left_out(guest: SourceGuest, domain: GuestPlan) -> Iterator[Notice]:
    """What the source has and the domain does not, because the user wants it so."""
    if guest.tpm and not domain.tpm:
        yield Notice("it lands without a TPM: what the guest sealed with that of its source needs its recovery key")
    if guest.secure_boot and guest.firmware is Firmware.EFI and not domain.secure_boot:
        yield Notice("it lands without secure boot, which its source has")


def unmapped_networks(guest: SourceGuest, options: LandOptions) -> list[str]:
    """The source's networks for which nothing says where their cards go."""
    return [name for name in dict.fromkeys(nic.network for nic in guest.nics) if options.target_of(name) is None]


def _hardware(guest: SourceGuest, options: LandOptions, facts: HypervisorFacts, cpus: int) -> Iterable[HyperSDKError]:
    if not cpus or not (options.memory_bytes or guest.memory_bytes):
        yield Refused("nothing says how many CPUs and how much memory it has", code=NO_HARDWARE)
    if cpus > facts.max_cpus:
        yield Refused(f"it has {cpus} CPUs, and the target supports {facts.max_cpus}", code=TOO_MANY_CPUS)


def _refusals(
    guest: SourceGuest, options: LandOptions, facts: HypervisorFacts, bus: DiskBus
) -> Iterable[HyperSDKError]:
    if options.name is not None and safe_name(options.name) != options.name:
        name = clean(options.name, 80)
        yield UsageError(f"'{name}' cannot be the name of a domain", code=BAD_DOMAIN_NAME, name=name)
    if not guest.disks:
        yield Refused("it has no disk", code=NO_DISK_IMAGES)
    if bus is DiskBus.IDE and len(guest.disks) > IDE_PLACES:
        yield Refused(f"it has {len(guest.disks)} disks, and IDE has four places", code=TOO_MANY_IDE_DISKS)
    if guest.tpm and not facts.tpm:
        yield Refused("the target cannot emulate a TPM 2.0", code=NO_TPM_EMULATOR)
    yield from _firmware_refusals(guest, facts, _machine_type(bus))
    if unmapped := unmapped_networks(guest, options):
        listed = ", ".join(f"'{clean(network, 80)}'" for network in unmapped)
        yield Refused(f"networks without a target: {listed}", code=NETWORK_UNMAPPED, networks=unmapped)


def _firmware_refusals(guest: SourceGuest, facts: HypervisorFacts, machine_type: str) -> Iterable[HyperSDKError]:
    if machine_type not in facts.machine_types:
        yield Refused(f"the target's QEMU has no machine type {machine_type}", code=NO_MACHINE_TYPE)
    if guest.firmware is not Firmware.EFI:
        return
    if not facts.efi or facts.libvirt_version < FIRMWARE_FEATURES:
        yield Refused("the target has no UEFI firmware, or its libvirt cannot choose one", code=NO_EFI_FIRMWARE)
    elif guest.secure_boot and not (facts.secure_boot and machine_type == Q35):
        yield Refused("secure boot is not available for it", code=NO_SECURE_BOOT)


def _machine_type(bus: DiskBus) -> str:
    return PC if bus is DiskBus.IDE else Q35


def safe_name(text: str) -> str:
    """``text`` as the name of a domain: letters and digits of any script and ``._+-``. Blanks become ``-``, all else
    ``_``. It is not a number, which virsh would take for a domain's id, and begins with neither a dash nor a dot."""
    name = "".join(_safe(char) for char in text.strip()[:MAX_NAME_BYTES])
    name = _startable(name.encode()[:MAX_NAME_BYTES].decode(errors="ignore").lstrip("-.")).rstrip("-")
    return f"vm-{name}".rstrip("-") if name.isdigit() or not name.strip("_") else name


def _startable(name: str) -> str:
    """Cut where libvirt could not start a domain of that name: the path of its sockets, of at most 107 bytes, has the
    first 20 characters of the name (virDomainDefGetShortName)."""
    head = name[:_SOCKET_CHARS].encode()
    return name if len(head) <= _SOCKET_BYTES else head[:_SOCKET_BYTES].decode(errors="ignore")


def _safe(char: str) -> str:
    if (char.isalnum() and is_plain(char)) or char in _IN_NAMES:
        return char
    return "-" if char.isspace() else "_"


def unique_name(name: str, taken: Collection[str]) -> str:
    """``name``, or with ``-2``, ``-3`` ... the first that is not taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def boot_ordered(disks: Sequence[SourceDisk]) -> list[SourceDisk]:
    """The disk that the source booted from first, then the others in its order; those of unknown order stay behind, as
    they are."""
    return sorted(disks, key=lambda disk: len(disks) if disk.boot_order is None else disk.boot_order)


def _cores_per_socket(cpus: int, cores: int) -> int:
    return cores if cores > 0 and cpus % cores == 0 else 1


def _cpu_mode(facts: HypervisorFacts) -> str:
    """A model that can be moved to another host (docs/decisions/0047); all that can be emulated where there is no
    KVM."""
    wanted = "host-model" if facts.accelerated else "maximum"
    return wanted if wanted in facts.cpu_modes else ""


def _disk(disk: SourceDisk, bus: DiskBus) -> GuestDisk:
    return GuestDisk(disk.file, disk.image_format, disk.capacity_bytes, bus, disk.label)


def _nic(nic: SourceNic, options: LandOptions, drivers: GuestDrivers) -> GuestNic:
    target = options.target_of(nic.network)
    assert isinstance(target, NetworkTarget), "checked before"
    return GuestNic(
        mac=None if options.new_macs or nic.mac is None else nic.mac.lower(),
        target=target.name,
        bridge=target.bridge,
        model=options.nic_model or drivers.nic_model,
    )
