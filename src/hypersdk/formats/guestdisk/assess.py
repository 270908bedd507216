"""What a guest conversion would refuse, from the layouts of a machine's disks alone.

A refusal is certain: virt-v2v or ntfs-3g cannot go on, or the firmware finds nothing to start. What is doubtful (a
limit was reached, a folder could not be read, the firmware is not known) never refuses. What lies in RAID arrays, and
in logical volumes that are spread over several physical ones, cannot be seen from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.errors import CODES, Refused, register
from hypersdk.formats.guestdisk.records import (
    Content,
    ContentKind,
    DiskLayout,
    EfiFiles,
    NtfsState,
    TableKind,
)
from hypersdk.model import Firmware
from hypersdk.model.guestplan import disk_letters
from hypersdk.remedies import Advice, First, Remedy, SetOption, as_json
from hypersdk.text import clean

ENCRYPTED_WITHOUT_KEY: Final = register(
    "encrypted_without_key",
    "A guest conversion opens every encrypted volume of the machine, and the key of one was not given.",
    First("put its passphrase (LUKS) or its recovery key (BitLocker) into the first line of a file"),
    SetOption("key", "FILE"),
    "Or decrypt it in the source machine, and export that again.",
)
HIBERNATED_NTFS: Final = register(
    "hibernated_ntfs",
    "Windows is hibernated, or was shut down with Fast Startup: its file system must not be changed until it is woken.",
    "Start the machine, run `powercfg /h off` and `shutdown /s /t 0` in Windows, and export it again.",
)
NTFS_IN_USE: Final = register(
    "ntfs_in_use",
    "Windows was running when the disk was copied, or keeps metadata in its journal for Fast Startup: ntfs-3g, with"
    " which a guest conversion writes, refuses such a file system.",
    "Shut Windows down completely (`shutdown /s /t 0`), and export the machine while it is powered off.",
    SetOption("source", "power-off"),
)
NO_BOOT_LOADER: Final = register(
    "no_boot_loader",
    "The firmware of the machine finds nothing to start on any of its disks.",
    "Check that the disk that the machine boots from was not left out.",
    "A machine that boots from the network or from a CD-ROM needs no guest conversion.",
    SetOption("no_convert", True),
)
FIRMWARE_MISMATCH: Final = register(
    "firmware_mismatch",
    "The machine is described with one firmware (BIOS or EFI), and its disks can be started by the other only.",
    "Correct the firmware in the machine's description, or check that its boot disk was not left out.",
)
UEFI_NO_FALLBACK: Final = register(
    "uefi_no_fallback",
    "The EFI system partition has no fallback loader (EFI/BOOT/BOOTX64.EFI). The firmware of the source knows another"
    " one by its boot entries, which are not on the disks: a new machine would stop in the EFI shell.",
    "Install the boot loader for removable media in the source machine, and export it again.",
)
NOTHING_TO_CONVERT: Final = register(
    "nothing_to_convert",
    "No disk of the machine has a partition table, a file system, LVM or an encrypted volume: there is no operating"
    " system that a guest conversion could find.",
    "Check that the disk with the operating system was not left out.",
    SetOption("no_convert", True),
)

EVERY_VOLUME: Final = "all"
"""As the name of a key: it is tried on every encrypted volume."""

_FALLBACKS: Final = ("EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTAA64.EFI")
_NO_EFI: Final = "the machine starts by EFI, but no disk has an EFI loader"
_ADDED: Final = Advice(
    "A guest conversion adds it where it can. Without one, install it in the source machine and export that again."
)
_NAMES: Final = {ContentKind.LUKS: "LUKS", ContentKind.BITLOCKER: "BitLocker"}


@dataclass(frozen=True, slots=True)
class GuestFinding:
    """One obstacle. ``refuses``: a guest conversion would fail, or what it makes would not start; else it is a warning.

    ``disk`` counts from 1 and is None where all disks are meant; ``volume`` is its name in the guest as libguestfs
    calls it: ``/dev/sda2``, ``/dev/vg/root``. ``own_remedies`` replace those of the code.
    """

    code: str
    message: str
    refuses: bool
    disk: int | None = None
    volume: str | None = None
    own_remedies: tuple[Remedy, ...] = ()

    @property
    def cause(self) -> str:
        """The cause, from the code."""
        return CODES[self.code].cause

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """The remedies of this case, or those of the code."""
        return self.own_remedies or CODES[self.code].remedies

    def as_error(self) -> Refused:
        """The finding as the error that ends a guest conversion before it begins."""
        return Refused(self.message, code=self.code, remedies=self.own_remedies, disk=self.disk, volume=self.volume)

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "code": self.code,
            "message": self.message,
            "refuses": self.refuses,
            "disk": self.disk,
            "volume": self.volume,
            "cause": self.cause,
            "remedies": as_json(self.remedies),
        }


@dataclass(frozen=True, slots=True)
class Volume:
    """Something that a key or a mount is for: a partition, a whole disk or a logical volume."""

    disk: int
    name: str
    content: Content


def assess(
    layouts: Sequence[DiskLayout], *, firmware: Firmware | None, keys: Collection[str] = ()
) -> tuple[GuestFinding, ...]:
    """The obstacles to a guest conversion of the machine with these disks, refusals first.

    ``layouts`` in the order of the disks; ``firmware`` is None where it is not known. ``keys`` names the volumes whose
    keys are given: a UUID, a device such as ``/dev/sda2`` or ``/dev/vg/root``, or ``all``.
    """
    if layouts and all(map(_holds_nothing, layouts)):
        what = "the disk holds" if len(layouts) == 1 else "the disks hold"
        return (
            GuestFinding(NOTHING_TO_CONVERT, f"{what} no partition table and nothing that is recognized", refuses=True),
        )
    found = [*_locked(layouts, keys), *_hibernated(layouts), *_unbootable(layouts, firmware)]
    return tuple(sorted(found, key=lambda finding: not finding.refuses))


def _holds_nothing(layout: DiskLayout) -> bool:
    nothing = layout.whole is not None and layout.whole.kind in (ContentKind.EMPTY, ContentKind.UNKNOWN)
    return nothing and layout.complete


def volumes_of(layouts: Sequence[DiskLayout]) -> Iterator[Volume]:
    """All volumes of a machine, as far as they can be seen, by their names in libguestfs."""
    for number, layout in enumerate(layouts, 1):
        device = device_name(number)
        for partition, content in layout.contents:
            yield Volume(number, f"{device}{partition or ''}", content)
            group = content.group
            for volume in group.volumes if group else ():
                if group is not None and volume.content is not None:
                    yield Volume(number, f"/dev/{group.name}/{volume.name}", volume.content)


def device_name(number: int) -> str:
    """The name of a disk, counted from 1, in libguestfs: ``/dev/sda`` to ``/dev/sdz``, then ``/dev/sdaa``."""
    return f"/dev/sd{disk_letters(number - 1)}"


# --- encryption, hibernation -----------------------------------------------------------------------------------------


def _locked(layouts: Sequence[DiskLayout], keys: Collection[str]) -> Iterator[GuestFinding]:
    known = {key.lower() for key in keys}
    for volume in volumes_of(layouts):
        content = volume.content
        if content.encrypted and not known & {EVERY_VOLUME, volume.name.lower(), (content.uuid or "").lower()}:
            what = f"{_NAMES[content.kind]}{content.version or ''}"
            identity = f", UUID {clean(content.uuid, 60)}" if content.uuid else ""
            message = f"{_place(volume)} is encrypted ({what}{identity}), and its key was not given"
            yield GuestFinding(ENCRYPTED_WITHOUT_KEY, message, True, volume.disk, volume.name)


def _hibernated(layouts: Sequence[DiskLayout]) -> Iterator[GuestFinding]:
    """Only of the file system with Windows itself: a conversion mounts no other one."""
    for volume in volumes_of(layouts):
        if volume.content.windows and volume.content.ntfs is NtfsState.HIBERNATED:
            message = f"Windows on {_place(volume)} is hibernated"
            yield GuestFinding(HIBERNATED_NTFS, message, True, volume.disk, volume.name)
        elif volume.content.windows and volume.content.ntfs is NtfsState.CACHED:
            message = f"Windows on {_place(volume)} was not shut down when the disk was copied"
            yield GuestFinding(NTFS_IN_USE, message, True, volume.disk, volume.name)


def _place(volume: Volume) -> str:
    return f"{clean(volume.name, 300)} (disk {volume.disk})"


# --- firmware --------------------------------------------------------------------------------------------------------


def _unbootable(layouts: Sequence[DiskLayout], firmware: Firmware | None) -> Iterator[GuestFinding]:
    files = [content.efi for layout in layouts for _, content in layout.contents if content.efi is not None]
    only_efi = firmware is None and not _with_boot_code(layouts) and any(found.loaders for found in files)
    if firmware is Firmware.EFI or only_efi:
        yield from _by_efi(layouts, files)
    elif firmware is Firmware.BIOS:
        yield from _by_bios(layouts, files)


def _by_efi(layouts: Sequence[DiskLayout], files: Sequence[EfiFiles]) -> Iterator[GuestFinding]:
    if any(found.loaders for found in files):
        if not any(found.has(path) for found in files for path in _FALLBACKS) and all(map(_is_complete, files)):
            message = f"no disk has the fallback loader {_FALLBACKS[0]}"
            yield GuestFinding(UEFI_NO_FALLBACK, message, refuses=False, own_remedies=(_ADDED,))
    elif _all_is_seen(layouts) and all(map(_is_complete, files)):
        if with_code := _with_boot_code(layouts):
            message = f"{_NO_EFI}; {_disks(with_code)} boot code for BIOS"
            yield GuestFinding(FIRMWARE_MISMATCH, message, refuses=True)
        else:
            yield GuestFinding(NO_BOOT_LOADER, _NO_EFI, refuses=True)


def _by_bios(layouts: Sequence[DiskLayout], files: Sequence[EfiFiles]) -> Iterator[GuestFinding]:
    has_loaders = any(found.loaders for found in files)
    with_code = [layouts[number - 1] for number in _with_boot_code(layouts)]
    if not with_code and has_loaders:
        message = "the machine starts by BIOS, but its disks have EFI loaders and no boot code for BIOS"
        yield GuestFinding(FIRMWARE_MISMATCH, message, refuses=True)
    elif not with_code:
        yield GuestFinding(NO_BOOT_LOADER, "the machine starts by BIOS, but no disk has boot code", refuses=True)
    elif has_loaders and not any(map(_boots_by_bios, with_code)):
        message = "the machine starts by BIOS, but its disks look as if they were started by EFI"
        yield GuestFinding(FIRMWARE_MISMATCH, message, refuses=False)


def _is_complete(files: EfiFiles) -> bool:
    return files.complete


def _all_is_seen(layouts: Sequence[DiskLayout]) -> bool:
    """Whether an EFI loader cannot be anywhere else: all was read, and every EFI system partition is a FAT."""
    return all(
        layout.complete
        and all(partition.content.efi is not None for partition in layout.partitions if partition.is_esp)
        and not any(content.kind is ContentKind.ISO9660 for _, content in layout.contents)
        for layout in layouts
    )


def _with_boot_code(layouts: Sequence[DiskLayout]) -> list[int]:
    """The numbers of the disks whose first sector a BIOS starts."""
    return [number for number, layout in enumerate(layouts, 1) if layout.boot_code]


def _boots_by_bios(layout: DiskLayout) -> bool:
    """Whether there is something that boot code could go on with: on a GPT disk GRUB's partition, or an active one."""
    marked = any(partition.active or partition.is_bios_boot for partition in layout.partitions)
    return layout.table is not TableKind.GPT or marked


def _disks(numbers: Sequence[int]) -> str:
    names = ", ".join(map(str, numbers))
    return f"disk {names} has" if len(numbers) == 1 else f"disks {names} have"
