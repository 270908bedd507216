"""Writes a finished guest conversion from its overlays into the images of an export, and the manifest anew.

Each part may be repeated after a crash: ``qemu-img commit`` writes the same clusters again, the descriptor and the
manifest are made from those of the export, which is there until the new manifest is complete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import NO_SPACE, IntegrityError, TargetError, register
from hypersdk.formats.ovf import resize_files
from hypersdk.formats.ovf.layout import MAX_OVF_BYTES
from hypersdk.guest.faults import ConversionError
from hypersdk.guest.overlay import commit_overlay, remove_overlay
from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.trust import check_trusted
from hypersdk.landing.converted import converted_manifest
from hypersdk.landing.fitness import convertible
from hypersdk.landing.guests import manifest_bytes, open_manifest
from hypersdk.landing.record import CONVERT, Conversion, ConversionState, LandingFile, StepState
from hypersdk.migration.manifest import ArtifactManifest, ConvertPart, FilePart, read_manifest, timestamp
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.readback import read_small
from hypersdk.model.guestplan import GuestDrivers
from hypersdk.remedies import FreeSpace, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import open_regular, sha256_of, target_errors, write_atomic
from hypersdk.transfer.folder import OutputFolder
from hypersdk.transfer.space import free_bytes
from hypersdk.transfer.treehash import tree_digest
from hypersdk.units import MiB, format_size

_FULL_BYTES: Final = 1 * MiB
"""With less free space, a failed write is taken for a full file system."""

CONVERSION_LOST: Final = register(
    "conversion_lost",
    "A guest conversion was interrupted while it was written into the images, and the overlay with what was still to be"
    " written does not exist any more.",
    "Restore the overlay or the images from a backup, or export the machine again.",
)


def finish_conversion(landing: LandingFile, tools: GuestTools, *, cancel: CancelToken) -> GuestDrivers | None:
    """Finishes a conversion that was interrupted while it was committed, or just after that, and records the step
    ``convert`` with its ``drivers``. Returns what the guest can use; None where it is not converted. Needs no source
    and no virt-v2v.

    Raises TargetError, IntegrityError and Cancelled; then the next call continues.
    """
    known, conversion = converted_drivers(open_manifest(landing.folder.path)), landing.record.conversion
    if known is None and (conversion is None or conversion.state is not ConversionState.COMMITTING):
        return None
    if known is not None and landing.done(CONVERT) is not None and not overlays_of(landing):
        return known
    with landing.step(CONVERT) as step:
        drivers = commit(landing, tools, cancel, known)
        step.result = {"drivers": asdict(drivers)}
    return drivers


def commit(
    landing: LandingFile, tools: GuestTools, cancel: CancelToken, known: GuestDrivers | None = None
) -> GuestDrivers:
    """Commits the overlays of the recorded conversion, writes the manifest, and drops the overlays. The manifest is
    complete where the drivers are ``known``. The caller saves the record."""
    drivers = known or _written(landing, tools, cancel)
    _drop(landing, Conversion(ConversionState.CONVERTED))
    return drivers


def drop_conversion(landing: LandingFile) -> bool:
    """Drops the overlays of a conversion that was interrupted while the images were as exported. False where there was
    nothing, or where the overlays are needed to finish the images."""
    conversion = landing.record.conversion
    if conversion is None or conversion.state is not ConversionState.CONVERTING:
        return False
    _drop(landing, None)
    landing.save()
    return True


def settle_conversion(landing: LandingFile, tools: GuestTools, *, cancel: CancelToken) -> GuestDrivers | None:
    """What an interrupted conversion left, where none is wanted any more: one that was interrupted while it was written
    into the images is finished, as they are neither as exported nor converted; any other is dropped. Returns the
    drivers of a converted guest. Raises what ``finish_conversion`` does."""
    if drop_conversion(landing):
        step = landing.record.steps.get(CONVERT)
        if step is not None and step.state is StepState.RUNNING:
            step.state = StepState.UNDONE
            landing.save()
        return None
    return finish_conversion(landing, tools, cancel=cancel)


def converted_drivers(manifest: ArtifactManifest) -> GuestDrivers | None:
    """What the guest of a converted export can use; None where it is not converted."""
    return manifest.pipeline.convert.drivers if manifest.pipeline.convert.enabled else None


def overlays_of(landing: LandingFile) -> Mapping[str, str]:
    """The overlays that may exist: the name of each by that of its image."""
    return landing.record.conversion.overlays if landing.record.conversion else {}


def named(landing: LandingFile) -> Path:
    """The folder for other programs, which cannot use its descriptor. Raises TargetError where the name leads to
    another folder, Refused ``folder_untrusted`` where others could make it do that at any time."""
    landing.folder.check()
    with target_errors(f"looking at {landing.folder.named}"):
        check_trusted(landing.folder.named)
    return landing.folder.named.absolute()


@contextmanager
def explained(folder: OutputFolder) -> Iterator[None]:
    """A full file system is the reason for whatever fails then: raises TargetError ``no_space``."""
    try:
        yield
    except (TargetError, ConversionError) as error:
        if free_bytes(folder.path) < _FULL_BYTES:
            raise full(folder) from error
        raise


def full(folder: OutputFolder, needed: int | None = None, free: int | None = None) -> TargetError:
    """The error ``no_space`` of a conversion, maybe with numbers of bytes."""
    numbers = f": {format_size(free)} free, {format_size(needed)} are needed" if needed and free is not None else ""
    return TargetError(
        f"{folder.named} has no space for the guest conversion{numbers}",
        code=NO_SPACE,
        remedies=(FreeSpace(folder=str(folder.named)), Retry()),
        folder=str(folder.named),
    )


def _drop(landing: LandingFile, then: Conversion | None) -> None:
    """Removes the overlays, and sets the state ``then``, which the caller saves."""
    for overlay in overlays_of(landing).values():
        remove_overlay(landing.folder.path / overlay)
    landing.record.conversion = then


def _written(landing: LandingFile, tools: GuestTools, cancel: CancelToken) -> GuestDrivers:
    conversion = landing.record.conversion
    assert conversion is not None
    _check_overlays(landing)
    formats = {disk.local_path: disk.source_format for disk in open_manifest(landing.folder.path).disks}
    for image, overlay in conversion.overlays.items():
        place = named(landing)
        with explained(landing.folder):  # not cancelled: it would have to be done again
            commit_overlay(tools, place / overlay, place / image, convertible(image, formats.get(image)))
    part = ConvertPart.model_validate({**conversion.report, "ended_at": timestamp()})
    assert part.drivers is not None
    _Anew(landing.folder, cancel).write(part, conversion.overlays)
    return part.drivers


def _check_overlays(landing: LandingFile) -> None:
    for image, overlay in overlays_of(landing).items():
        with target_errors(f"checking {overlay}"):
            if not os.path.lexists(landing.folder.path / overlay):
                raise IntegrityError(
                    f"{overlay} is missing, which has what is still to be written into {image}", code=CONVERSION_LOST
                )


@dataclass(frozen=True, slots=True)
class _Anew:
    """Writes descriptors and manifest of the converted images."""

    folder: OutputFolder
    cancel: CancelToken

    def write(self, part: ConvertPart, images: Mapping[str, str]) -> None:
        """``images`` are the names of those that changed."""
        text = manifest_bytes(self.folder.path)
        manifest = read_manifest(text)
        now = {file.name: self._image(file) for file in manifest.files if file.name in images}
        sizes = {name: file.bytes for name, file in now.items()}
        now |= {file.name: self._descriptor(file.name, sizes) for file in manifest.files if file.name.endswith(".ovf")}
        self._write(MANIFEST_NAME, converted_manifest(text, manifest, now, part))

    def _image(self, file: FilePart) -> FilePart:
        """The committed image, with the kinds of digests that the manifest had."""
        with target_errors(f"reading {file.name} back"):
            descriptor = open_regular(self.folder.path / file.name, os.O_RDWR)
            try:
                os.fsync(descriptor)
                checksum = f"sha256:{sha256_of(descriptor, file.name, self.cancel)}" if file.checksum else None
                tree = file.tree and file.tree.model_copy(update={"digest": tree_digest(descriptor, self.cancel)})
                return FilePart(name=file.name, bytes=os.fstat(descriptor).st_size, checksum=checksum, tree=tree)
            finally:
                os.close(descriptor)

    def _descriptor(self, name: str, sizes: Mapping[str, int]) -> FilePart:
        """A descriptor beside the images names their sizes."""
        with target_errors(f"reading {name}"):
            text = read_small(self.folder.path / name, MAX_OVF_BYTES)
        data = resize_files(text, sizes)
        self._write(name, data)
        return FilePart(name=name, bytes=len(data), checksum=f"sha256:{hashlib.sha256(data).hexdigest()}")

    def _write(self, name: str, data: bytes) -> None:
        self.folder.check()
        write_atomic(self.folder.path / name, data)
