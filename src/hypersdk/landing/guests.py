"""The machine of an export, read from its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hypersdk.errors import IntegrityError
from hypersdk.migration.checked import checksum_of
from hypersdk.migration.findings import VERIFY_NO_MANIFEST
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.manifest import (
    MAX_MANIFEST_BYTES,
    VERIFY_BAD_MANIFEST,
    ArtifactManifest,
    DiskPart,
    NicPart,
    os_family,
    read_manifest,
)
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.plan import PlannedDisk
from hypersdk.migration.readback import read_small
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import Firmware, Machine, boot_sequence
from hypersdk.model.guestplan import SourceDisk, SourceGuest, SourceNic
from hypersdk.transfer.files import NotRegularError, shown_path, target_errors
from hypersdk.units import GiB

DEFAULT_BUS: Final = "scsi"
"""Bus of a disk whose manifest was written by another program and does not name it."""


def open_guest(folder: Path) -> SourceGuest:
    """The machine of the export in ``folder``; the files of its disks are named with ``folder``.

    ``cpus`` and ``memory_bytes`` are 0 where the export has no description of its machine (a lone VMDK). Raises
    IntegrityError where the manifest does not exist or cannot be used, TargetError where it cannot be read.
    """
    return guest_of(open_manifest(folder), folder)


def open_manifest(folder: Path) -> ArtifactManifest:
    """The manifest of the export in ``folder``. Raises as ``open_guest``."""
    return read_manifest(manifest_bytes(folder))


def manifest_bytes(folder: Path) -> bytes:
    """The text of the manifest of the export in ``folder``, which is untrusted. Raises as ``open_guest``."""
    shown = shown_path(folder)
    with target_errors(f"reading {shown / MANIFEST_NAME}"):
        try:
            return read_small(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{shown} holds no {MANIFEST_NAME}: it is not a finished export", code=VERIFY_NO_MANIFEST
            ) from error
        except NotRegularError as error:
            raise IntegrityError(f"{MANIFEST_NAME} is not a regular file", code=VERIFY_BAD_MANIFEST) from error


def export_id(manifest: ArtifactManifest) -> str:
    """Identifies an export: the digest of the manifest that the export wrote, also after later steps replaced it."""
    facts = manifest.metadata.hypersdk
    steps = (manifest.pipeline.convert, manifest.pipeline.validate_, facts and facts.landed)
    received = next((step.received_manifest for step in steps if step and step.received_manifest), None)
    return received or (facts and facts.manifest_digest) or f"sha256:{checksum_of(manifest.model_dump(mode='json'))}"


def guest_of(manifest: ArtifactManifest, folder: Path) -> SourceGuest:
    """The machine that ``manifest`` describes. Raises IntegrityError ``verify_bad_manifest``."""
    vm, facts = manifest.vm, manifest.metadata.hypersdk
    return SourceGuest(
        name=manifest.source.vm_name,
        firmware=_firmware(vm.firmware),
        secure_boot=vm.secureboot,
        tpm=facts is not None and facts.tpm,
        cpus=vm.cpu,
        cores_per_socket=max(1, facts.cores_per_socket) if facts else 1,
        memory_bytes=(facts and facts.memory_bytes) or vm.mem_gb * GiB,
        guest_id=facts.guest_id if facts else None,
        os_family=vm.os_hint,
        disks=tuple(_disk(disk, folder) for disk in manifest.disks),
        nics=tuple(map(_nic, manifest.nics)),
    )


def known_firmware(guest: SourceGuest) -> Firmware | None:
    """The firmware of a machine; None where nothing described it (a lone VMDK), because its manifest has a default
    then."""
    return guest.firmware if guest.cpus else None


def _firmware(name: str) -> Firmware:
    try:
        return Firmware(name)
    except ValueError as error:
        raise IntegrityError(
            f"{MANIFEST_NAME} cannot be used: vm.firmware is neither bios nor efi", code=VERIFY_BAD_MANIFEST
        ) from error


def _disk(disk: DiskPart, folder: Path) -> SourceDisk:
    facts = disk.hypersdk
    return SourceDisk(
        file=folder / disk.local_path,
        image_format=disk.source_format,
        capacity_bytes=facts.capacity_bytes if facts else disk.bytes,
        bus=facts.bus if facts else DEFAULT_BUS,
        boot_order=disk.boot_order_hint,
        label=disk.label,
    )


def _nic(nic: NicPart) -> SourceNic:
    return SourceNic(nic.mac or None, nic.network, (nic.hypersdk and nic.hypersdk.adapter) or None)


def described_guest(machine: Machine, disks: Sequence[PlannedDisk], spec: ExportSpec) -> SourceGuest:
    """``machine`` as its export, or the conversion of its package, will describe it."""
    sequence = boot_sequence(machine)
    buses = {disk.key: disk.bus for disk in machine.disks}
    return SourceGuest(
        name=machine.name,
        firmware=machine.firmware,
        secure_boot=machine.secure_boot and machine.firmware is Firmware.EFI,
        tpm=machine.has_vtpm,
        cpus=machine.summary.cpus,
        cores_per_socket=machine.cores_per_socket,
        memory_bytes=machine.summary.memory_bytes,
        guest_id=machine.guest_id or machine.guest.os_id,
        os_family=os_family(machine.guest_id or machine.guest.os_id),
        disks=tuple(
            SourceDisk(
                file=spec.shown_dir.absolute() / disk.file_name,
                image_format=FORMATS[spec.format].image.suffix,
                capacity_bytes=disk.capacity_bytes,
                bus=buses[disk.key],
                boot_order=sequence.index(disk.key) if disk.key in sequence else None,
                label=disk.label,
            )
            for disk in disks
        ),
        nics=tuple(SourceNic(nic.mac or None, nic.network or "", nic.adapter or None) for nic in machine.nics),
    )
