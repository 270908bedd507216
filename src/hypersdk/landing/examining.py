"""What lies on the disks of an export or an image, and what a guest conversion would refuse. Nothing is changed.

::

    folder of an export ── manifest ──> firmware, images (also those inside of an OVA) ─┐
    OVA, OVF, VMDK ── descriptor, if there is one ──> firmware, disks ──────────────────┤
    image file ── firmware not known ───────────────────────────────────────────────────┴─> layouts ──> findings
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import IntegrityError, TargetError, register
from hypersdk.formats.guestdisk import DiskLayout, GuestFinding, assess, read_layout
from hypersdk.landing.guests import guest_of, known_firmware, open_manifest
from hypersdk.landing.reading import EmptyReader, ImageName, VmdkReader, format_by_name, layout_of, reader_of
from hypersdk.migration.local import LocalDisk, open_local
from hypersdk.migration.manifest import VERIFY_BAD_MANIFEST, DiskPart, MemberPart
from hypersdk.migration.readback import opened
from hypersdk.migration.stored import Stored, input_errors
from hypersdk.model import Firmware
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken

DISK_UNREADABLE: Final = register(
    "disk_image_unreadable",
    "The image of a disk is missing, is a link or a device, or cannot be read.",
    "Check the export with `hyper2kvm verify`, and the permissions of its files.",
)

_PACKAGES: Final = (".vmdk", ".ovf", ".ova", ".vmdk.gz", ".ova.gz")


@dataclass(frozen=True, slots=True)
class ExaminedDisk:
    """One disk: the name of its file, in an OVA ``NAME.ova/member``."""

    file: str
    layout: DiskLayout


@dataclass(frozen=True, slots=True)
class Examined:
    """One machine. ``firmware`` is None where only an image is known."""

    path: Path
    name: str
    firmware: Firmware | None
    disks: tuple[ExaminedDisk, ...]
    findings: tuple[GuestFinding, ...]

    @property
    def refused(self) -> bool:
        """Whether a guest conversion would refuse the machine."""
        return any(finding.refuses for finding in self.findings)


def examine(path: Path, *, cancel: CancelToken, keys: Collection[str] = ()) -> Examined:
    """Reads the disks of the export in the folder ``path``, or of the package or image ``path``.

    ``keys``: see ``assess``. Raises IntegrityError for a manifest or an image that cannot be used, TargetError for what
    cannot be read, UsageError, and Cancelled.
    """
    if not path.is_dir():
        return _examine_file(path, cancel, keys)
    manifest = open_manifest(path)
    guest = guest_of(manifest, path)
    disks = []
    for part in manifest.disks:
        cancel.check()
        disks.append(_examine_disk(path, part))
    firmware = known_firmware(guest)
    findings = assess([disk.layout for disk in disks], firmware=firmware, keys=keys)
    return Examined(path, guest.name, firmware, tuple(disks), findings)


def _examine_file(path: Path, cancel: CancelToken, keys: Collection[str]) -> Examined:
    name, firmware = path.name, None
    if path.name.lower().endswith(_PACKAGES):
        with open_local(path, cancel) as local, input_errors():
            disks = tuple(_examine_local(disk) for disk in local.disks)
            if local.descriptor is not None:
                name, firmware = local.machine.name, local.machine.firmware
    else:
        disks = (ExaminedDisk(path.name, layout_of(path)),)
    return Examined(path, name, firmware, disks, assess([disk.layout for disk in disks], firmware=firmware, keys=keys))


def _examine_local(disk: LocalDisk) -> ExaminedDisk:
    reader = disk.reader()
    return ExaminedDisk(
        disk.label, read_layout(VmdkReader(reader) if reader else EmptyReader(disk.source.capacity_bytes))
    )


def _examine_disk(folder: Path, disk: DiskPart) -> ExaminedDisk:
    member = disk.hypersdk.member if disk.hypersdk else None
    name = f"{disk.local_path}/{member.name}" if member else disk.local_path
    return ExaminedDisk(name, _layout(folder, disk.local_path, disk.source_format, member))


def _layout(folder: Path, name: str, named_format: str, member: MemberPart | None = None) -> DiskLayout:
    """What lies on the disk in a file of the export, which is no link, or in a ``member`` of it."""
    image_format = _format(named_format, name)
    try:
        with opened(folder / name) as descriptor:
            file = FdFile(descriptor)
            image = Stored(member.name, file, member.offset, member.bytes) if member else file
            return read_layout(reader_of(image, image_format))
    except OSError as error:
        raise TargetError(f"{name} cannot be read: {error.strerror or error}", code=DISK_UNREADABLE) from error


def _format(named: str, file: str) -> ImageName:
    found = format_by_name(f".{named}")
    if found is None:
        raise IntegrityError(f"the manifest gives {file} a format that is not known", code=VERIFY_BAD_MANIFEST)
    return found
