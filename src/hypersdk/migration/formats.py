"""The output formats: one record each, with everything in which they differ.

::

            image         written by   other files
    ovf     VMDK stream   DiskFiles    descriptor, .mf
    ova     VMDK stream   OvaFile      descriptor and .mf inside the archive
    vmdk    VMDK stream   DiskFiles
    qcow2   qcow2         DiskFiles    descriptor, where the machine is described
    raw     raw           DiskFiles    descriptor, where the machine is described
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from hypersdk.formats.image import BLOCK
from hypersdk.formats.ova import DESCRIPTOR_ROOM
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.images import QCOW2, RAW, STREAM_VMDK, ImageFormat
from hypersdk.migration.outputs import Outputs
from hypersdk.migration.ovafile import OvaFile
from hypersdk.migration.runfile import RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.transfer.files import shown_path, target_errors

OutputsFactory: TypeAlias = Callable[[RunRecord, ExportSpec, ImageFormat, Callable[[], None]], Outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One output format. ``meaning`` is a description for users.

    ``descriptor_file``: an OVF descriptor is written next to the images. ``package``: an OVF package, which needs a
    description of the machine, lists the checksum of every file, and has no file for an empty disk. ``needs_disk``: a
    machine without disks cannot be written in it. ``fixed_bytes`` is the space used in addition to the images.
    """

    name: OutputFormat
    meaning: str
    image: ImageFormat
    outputs: OutputsFactory
    descriptor_file: bool = False
    package: bool = False
    needs_disk: bool = False
    fixed_bytes: int = 0

    def refusal(self, compress: Compression) -> str | None:
        """Why the format does not support ``compress``; None where it does."""
        if compress in self.image.compressions:
            return None
        return self.image.refusal.format(compress=compress, output=self.name)


FORMATS: Final[Mapping[OutputFormat, Format]] = {
    row.name: row
    for row in (
        Format(
            name=OutputFormat.QCOW2,
            meaning="the image KVM runs: sparse, ready to start",
            image=QCOW2,
            outputs=DiskFiles,
            descriptor_file=True,
        ),
        Format(
            name=OutputFormat.RAW,
            meaning="the plain disk, sparse",
            image=RAW,
            outputs=DiskFiles,
            descriptor_file=True,
        ),
        Format(
            name=OutputFormat.OVF,
            meaning="descriptor, manifest and a VMDK per disk",
            image=STREAM_VMDK,
            outputs=DiskFiles,
            descriptor_file=True,
            package=True,
        ),
        Format(
            name=OutputFormat.OVA,
            meaning="the files of an OVF in one tar file",
            image=STREAM_VMDK,
            outputs=OvaFile,
            package=True,
            needs_disk=True,
            fixed_bytes=DESCRIPTOR_ROOM,
        ),
        Format(
            name=OutputFormat.VMDK,
            meaning="the VMDK files alone",
            image=STREAM_VMDK,
            outputs=DiskFiles,
            needs_disk=True,
        ),
    )
}
"""In the order in which they are offered."""


def outputs_for(run: RunRecord, spec: ExportSpec, check: Callable[[], None] = lambda: None) -> Outputs:
    """The outputs of the disks of ``run``, in its own format, whatever ``spec`` requests. A finished disk whose file is
    missing or has another size starts again. ``check``: see ``Outputs``."""
    started = run.as_started(spec)
    output = FORMATS[started.format]
    outputs = output.outputs(run, started, output.image, check)
    with target_errors(f"checking {shown_path(run.folder)}"):
        outputs.reset_lost()
    return outputs


def most_bytes(spec: ExportSpec, capacity: int, allocated: int | None) -> int:
    """The most space that a disk's file needs on the file system, written in one run. The whole capacity counts where
    ``allocated`` is not known."""
    blocks = -(-min(capacity, capacity if allocated is None else allocated) // BLOCK)
    return FORMATS[spec.format].image.most_bytes(capacity, blocks, spec.compress)


def most_bytes_around(spec: ExportSpec, disks: int) -> int:
    """The most space needed in addition to the images: descriptor, ``.mf``, manifest, headers of an OVA."""
    return (disks + 1) * BLOCK + FORMATS[spec.format].fixed_bytes
