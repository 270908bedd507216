"""Adds the loader that a UEFI guest needs on new firmware.

The firmware of the source knows the guest's loader by an entry in its NVRAM, which is not exported. Firmware without
such an entry starts ``EFI/BOOT/BOOTX64.EFI`` (UEFI specification 2.10, section 3.5.1.1). Many installations, Debian's
and Ubuntu's among them, do not have that file. virt-v2v adds it for some distributions; for the others it ends with
status 0, and the guest would hang in the firmware's shell.

The copy is what the distributions' own installers make for removable media: shim under the fallback's name, with GRUB
and MokManager beside it, as shim loads them from its own folder. GRUB finds its configuration by a path that is built
in (``EFI/VENDOR/grub.cfg``, or the file system of ``/boot``), not by where it lies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.formats.guestdisk.assess import UEFI_NO_FALLBACK
from hypersdk.formats.guestdisk.records import ESP_GUID, ESP_TYPE
from hypersdk.guest.faults import ConversionError
from hypersdk.guest.guestfish import Dialog, quoted, talk
from hypersdk.guest.report import GuestSystem
from hypersdk.guest.tools import GuestTools
from hypersdk.model.guestplan import SourceDisk
from hypersdk.transfer.cancel import CancelToken

_PARTITION: Final = re.compile(r"(/dev/[a-z]+)([0-9]{1,4})")
_SUFFIXES: Final = {"x86_64": "x64", "i386": "ia32", "aarch64": "aa64"}
_MAX_PARTITIONS: Final = 256


@dataclass(frozen=True, slots=True)
class Loader:
    """A boot loader on the ESP: what becomes ``BOOTX64.EFI``, and the ``companions`` that it loads from its own
    folder. Paths begin with ``/``."""

    path: str
    companions: tuple[str, ...] = ()


def add_fallback_loader(
    disks: Sequence[SourceDisk],
    system: GuestSystem,
    tools: GuestTools,
    *,
    log: Path,
    accelerated: bool,
    cancel: CancelToken,
    environ: Mapping[str, str] = os.environ,
) -> str | None:
    """Copies a loader to where new firmware looks for one, on the ESP of ``disks``; returns the path of the original.
    None where a fallback loader exists.

    Starting the appliance takes 3 s with KVM and 20 s with software emulation. Raises ConversionError
    ``uefi_no_fallback`` where there is no ESP or no loader on it.
    """
    return talk(
        _repair(system), tools, disks, log=log, accelerated=accelerated, cancel=cancel, environ=environ
    )  # fmt: skip


def _repair(system: GuestSystem) -> Dialog[str | None]:
    suffix = _SUFFIXES.get(system.arch, "x64")
    seen: list[str] = []
    for partition in (yield from _system_partitions()):
        yield f"mount {partition} /"
        files = yield "find /"
        if _fallback_name(suffix).lower() in {f"/{file}".lower() for file in files}:
            return None
        seen += files
        if loader := choose_loader([f"/{file}" for file in files], system.distro, suffix):
            yield from _copy(loader, suffix)
            return loader.path
        yield "umount /"
    raise ConversionError(
        "no boot loader was found on an EFI system partition" if seen else "no EFI system partition was found",
        code=UEFI_NO_FALLBACK,
    )


def _system_partitions() -> Dialog[list[str]]:
    """The partitions that their table calls an EFI system partition."""
    found = []
    for partition in (yield "list-partitions")[:_MAX_PARTITIONS]:
        if match := _PARTITION.fullmatch(partition):
            kind = yield f"-part-get-gpt-type {match[1]} {match[2]}"
            mbr_id = [] if kind else (yield f"-part-get-mbr-id {match[1]} {match[2]}")
            if ESP_GUID in (word.lower() for word in kind) or int(ESP_TYPE, 16) in map(_hexadecimal, mbr_id):
                found.append(partition)
    return found


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _copy(loader: Loader, suffix: str) -> Dialog[None]:
    folder, _, name = _fallback_name(suffix).rpartition("/")
    yield f"mkdir-p {folder}"
    yield f"cp {quoted(loader.path)} {folder}/{name}"
    for companion in loader.companions:
        yield f"cp {quoted(companion)} {folder}/{companion.rpartition('/')[2].lower()}"
    yield "umount /"


def _fallback_name(suffix: str) -> str:
    return f"/EFI/BOOT/BOOT{suffix.upper()}.EFI"


def choose_loader(files: Iterable[str], distro: str, suffix: str = "x64") -> Loader | None:
    """The loader for the fallback among the paths on an ESP: that of ``distro`` before others, shim before GRUB before
    systemd-boot and Windows. FAT ignores case."""
    by_name = {file.lower(): file for file in files}
    folders = {name.rpartition("/")[0] for name in by_name}
    for folder in sorted(folders, key=lambda folder: (not folder.endswith(f"/{distro}"), folder)):
        shim, grub = by_name.get(f"{folder}/shim{suffix}.efi"), by_name.get(f"{folder}/grub{suffix}.efi")
        if shim and grub:
            beside = (grub, by_name.get(f"{folder}/mm{suffix}.efi"), by_name.get(f"{folder}/grub.cfg"))
            return Loader(shim, tuple(file for file in beside if file))
        if grub:
            return Loader(grub)
    others = (f"/efi/systemd/systemd-boot{suffix}.efi", "/efi/microsoft/boot/bootmgfw.efi")
    return next((Loader(by_name[name]) for name in others if name in by_name), None)
