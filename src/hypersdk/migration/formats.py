"""The output formats: a record each. What differs between them stands here and nowhere else.

::

            image         written by   beside the images
    ovf     VMDK stream   DiskFiles    descriptor, .mf
    ova     VMDK stream   OvaFile      (descriptor and .mf are in the archive)
    vmdk    VMDK stream   DiskFiles
    qcow2   qcow2         DiskFiles    descriptor, where the machine is known
    raw     raw           DiskFiles    descriptor, where the machine is known
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from hypersdk.formats.image import BLOCK
from hypersdk.formats.mf import format_mf
from hypersdk.formats.ova import DESCRIPTOR_ROOM
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.images import QCOW2, RAW, STREAM_VMDK, ImageFormat
from hypersdk.migration.outputs import Layout, Outputs, Publication, Published, PublishedFile
from hypersdk.migration.ovafile import OvaFile
from hypersdk.migration.runfile import RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.transfer.files import shown_path, target_errors

Beside: TypeAlias = Callable[[Publication, Sequence[PublishedFile]], list[PublishedFile]]
"""Writes what belongs beside the published images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One output format. ``meaning`` is for people.

    ``package``: an OVF package, which needs a description of the machine, has the checksum of every file, and has no
    file for a disk that is empty. ``needs_disk``: of a machine without disks there is nothing to write. ``fixed_bytes``
    are taken beside the images, whatever the machine.
    """

    name: OutputFormat
    meaning: str
    image: ImageFormat
    outputs: Callable[[Layout], Outputs]
    beside: Beside
    package: bool = False
    needs_disk: bool = False
    fixed_bytes: int = 0

    def refusal(self, compress: Compression) -> str | None:
        """Why it does not go with that compression; None where it does."""
        if compress in self.image.compressions:
            return None
        return self.image.refusal.format(compress=compress, output=self.name)

    def publish(self, outputs: Outputs, publication: Publication) -> Published:
        """Gives all files of a machine their names, but for the manifest. Raises TargetError, IntegrityError and
        Cancelled."""
        found = outputs.publish(publication)
        return Published([*self.beside(publication, found.files), *found.files], found.archive)


def _nothing(publication: Publication, images: Sequence[PublishedFile]) -> list[PublishedFile]:  # noqa: ARG001 - see Beside
    return []


def _descriptor(publication: Publication, images: Sequence[PublishedFile]) -> list[PublishedFile]:  # noqa: ARG001 - see Beside
    if not publication.described:
        return []
    return [publication.write(f"{publication.stem}.ovf", publication.descriptor())]


def _package(publication: Publication, images: Sequence[PublishedFile]) -> list[PublishedFile]:
    described = _descriptor(publication, images)
    lines = [("SHA256", file.name, file.sha256) for file in (*described, *images) if file.sha256]
    return [*described, publication.write(f"{publication.stem}.mf", format_mf(lines))]


FORMATS: Final[Mapping[OutputFormat, Format]] = {
    row.name: row
    for row in (
        Format(
            name=OutputFormat.QCOW2,
            meaning="the image KVM runs: sparse, ready to start",
            image=QCOW2,
            outputs=DiskFiles,
            beside=_descriptor,
        ),
        Format(
            name=OutputFormat.RAW,
            meaning="the plain disk, sparse",
            image=RAW,
            outputs=DiskFiles,
            beside=_descriptor,
        ),
        Format(
            name=OutputFormat.OVF,
            meaning="descriptor, manifest and a VMDK per disk",
            image=STREAM_VMDK,
            outputs=DiskFiles,
            beside=_package,
            package=True,
        ),
        Format(
            name=OutputFormat.OVA,
            meaning="the files of an OVF in one tar file",
            image=STREAM_VMDK,
            outputs=OvaFile,
            beside=_nothing,
            package=True,
            needs_disk=True,
            fixed_bytes=DESCRIPTOR_ROOM,
        ),
        Format(
            name=OutputFormat.VMDK,
            meaning="the VMDK files alone",
            image=STREAM_VMDK,
            outputs=DiskFiles,
            beside=_nothing,
            needs_disk=True,
        ),
    )
}
"""In the order in which they are offered."""


def outputs_for(
    spec: ExportSpec, folder: Path, stem: str, run: RunRecord, check: Callable[[], None] = lambda: None
) -> Outputs:
    """Where the disks of ``run`` go. Those that were finished and whose files are gone, or have another size by now,
    begin again. ``check``: see ``Layout``."""
    row = FORMATS[spec.format]
    outputs = row.outputs(Layout(spec, row.image, folder, stem, run, check))
    with target_errors(f"looking into {shown_path(folder)}"):
        outputs.begin_lost_again()
    return outputs


def most_bytes(spec: ExportSpec, capacity: int, allocated: int | None) -> int:
    """What a disk's file takes at most on the file system, written in one run. All of the disk counts where
    ``allocated`` is not known."""
    blocks = -(-min(capacity, capacity if allocated is None else allocated) // BLOCK)
    return FORMATS[spec.format].image.most_bytes(capacity, blocks, spec.compress)


def most_bytes_around(spec: ExportSpec, disks: int) -> int:
    """What lies beside the images, or around them in an OVA: descriptor, ``.mf``, manifest, headers."""
    return (disks + 1) * BLOCK + FORMATS[spec.format].fixed_bytes
