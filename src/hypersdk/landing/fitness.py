"""Whether the guest of an export can be converted, as far as its images tell. That takes milliseconds, where the
appliance that converts it needs a minute. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Literal

from hypersdk.errors import IntegrityError, Refused, register
from hypersdk.formats.guestdisk import DiskLayout, assess
from hypersdk.formats.guestdisk.assess import UEFI_NO_FALLBACK, volumes_of
from hypersdk.landing.guests import known_firmware, open_manifest
from hypersdk.landing.reading import layout_of
from hypersdk.migration.manifest import FilePart, hex_of, tree_of
from hypersdk.migration.preflight import raise_if_any
from hypersdk.migration.readback import opened
from hypersdk.model.guestplan import SourceDisk, SourceGuest
from hypersdk.remedies import SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import sha256_of, target_errors
from hypersdk.transfer.treehash import tree_digest

FORMAT_UNFIT: Final = register(
    "guest_format_unfit",
    "The guest on these images cannot be converted in place: only qcow2 and raw images can.",
    SetOption("format", "qcow2"),
    "Or convert the images into qcow2 first, then the guest on these.",
)
IMAGE_CHANGED: Final = register(
    "image_changed",
    "An image is not as the export wrote it: it was started as a machine, replaced, or damaged. The digests of a"
    " conversion would hide that.",
    "Verify the export: that shows all differences. Restore the image from a backup, or export the machine again.",
)


def convertible(image: str, image_format: str | None) -> Literal["qcow2", "raw"]:
    """The format of an image that can be converted in place. Raises Refused ``guest_format_unfit``."""
    if image_format == "qcow2":
        return "qcow2"
    if image_format == "raw":
        return "raw"
    raise Refused(f"the guest on {image} cannot be converted in place", code=FORMAT_UNFIT)


def check_images(folder: Path, guest: SourceGuest, keys: Collection[str] = ()) -> tuple[str, ...]:
    """Warnings about the conversion of ``guest``, whose images lie in ``folder``. ``keys`` name the volumes whose keys
    are given, as in ``assess``.

    Raises Refused with everything that a conversion would fail at, IntegrityError for images that are not as the export
    wrote them, as far as size and header tell, TargetError.
    """
    findings = assess([*_layouts(folder, guest)], firmware=known_firmware(guest), keys=keys)
    raise_if_any(guest.name, [finding.as_error() for finding in findings if finding.refuses], "converted")
    # A missing fallback loader is added by the conversion, or ends it.
    return tuple(finding.message for finding in findings if finding.code != UEFI_NO_FALLBACK)


def encrypted_volumes(folder: Path, guest: SourceGuest) -> tuple[str, ...]:
    """The encrypted volumes of ``guest`` that can be seen, by their names in libguestfs. Raises as ``check_images``."""
    return tuple(volume.name for volume in volumes_of([*_layouts(folder, guest)]) if volume.content.encrypted)


def _layouts(folder: Path, guest: SourceGuest) -> Iterator[DiskLayout]:
    """Checks each image before it is read: an image with a backing file would be another file, too."""
    sizes = {file.name: file.bytes for file in open_manifest(folder).files}
    for disk in guest.disks:
        image_format = convertible(disk.file.name, disk.image_format)
        _check_size(folder, disk, sizes.get(disk.file.name))
        yield layout_of(folder / disk.file.name, image_format)


def _check_size(folder: Path, disk: SourceDisk, size: int | None) -> None:
    name = disk.file.name
    with target_errors(f"reading {name}"), opened(folder / name) as descriptor:
        found = os.fstat(descriptor).st_size
    if found != size:
        raise IntegrityError(f"{name} has {found} bytes, the export wrote {size}", code=IMAGE_CHANGED)


def check_digests(folder: Path, images: Collection[str], cancel: CancelToken) -> None:
    """Reads ``images`` and compares them with their digests. Raises IntegrityError ``image_changed``, TargetError and
    Cancelled."""
    for file in open_manifest(folder).files:
        if file.name in images and not _is_as_written(folder, file, cancel):
            raise IntegrityError(f"{file.name} is not as the export wrote it", code=IMAGE_CHANGED)


def _is_as_written(folder: Path, file: FilePart, cancel: CancelToken) -> bool:
    """Also where no digest is known that could be compared."""
    with target_errors(f"reading {file.name}"), opened(folder / file.name) as descriptor:
        if (tree := tree_of(file)) is not None:
            return tree_digest(descriptor, cancel) == tree
        return file.checksum is None or sha256_of(descriptor, file.name, cancel) == hex_of(file.checksum)
