"""The formats of one disk's image. Output formats (``migration.formats``) are made of these.

A new image format is one record here, and a writer that passes the conformance suite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from hypersdk.formats.image import BLOCK, BlockFile, ImageWriter
from hypersdk.formats.ovf import DiskFormat
from hypersdk.formats.qcow2.writer import Qcow2Writer
from hypersdk.formats.qcow2.writer import most_bytes as qcow2_most_bytes
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.formats.vmdk.writer import most_bytes as vmdk_most_bytes
from hypersdk.migration.spec import Compression

Trusted = Callable[[int], bool]
"""Whether the data of a block is known to be correct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """How a disk's image is written. ``create`` starts one in an empty file, ``resume`` continues one that ``create``
    started; both take the disk's capacity in bytes.

    ``most_bytes`` is the most space that an image with so many blocks of data needs. ``refusal`` is the reason for
    other than the listed ``compressions`` (``{compress}`` and ``{output}`` are filled in). ``appended``: a stream, read
    from first to last byte, whose digest is computed while it is written. ``full_length``: the file is as long as the
    disk. ``bootable``: KVM can start from it.
    """

    suffix: str
    in_ovf: DiskFormat
    create: Callable[[BlockFile, int, Compression], ImageWriter]
    resume: Callable[[BlockFile, int, Compression, Trusted], ImageWriter]
    most_bytes: Callable[[int, int, Compression], int]
    compressions: frozenset[Compression]
    refusal: str = ""
    appended: bool = False
    full_length: bool = False
    bootable: bool = False


def _raw_most_bytes(capacity: int, blocks: int, compress: Compression) -> int:  # noqa: ARG001 - as the others
    """The file is as long as the disk, but only its data and the file system's block map need space."""
    return blocks * BLOCK + blocks * BLOCK // 1000 + BLOCK


_QCOW2: Final[dict[Compression, Literal["none", "pass", "repack"]]] = {
    Compression.NONE: "none",
    Compression.CHECKED: "pass",
    Compression.UNCHECKED: "pass",
    Compression.REPACK: "repack",
}

RAW: Final = ImageFormat(
    suffix="raw",
    in_ovf="raw",
    create=lambda file, capacity, _: RawWriter.create(file, capacity),
    resume=lambda file, capacity, _, trusted: RawWriter.resume(file, capacity),  # noqa: ARG005 - trusted: all of it
    most_bytes=_raw_most_bytes,
    compressions=frozenset({Compression.NONE}),
    refusal="a raw image is never compressed",
    full_length=True,
    bootable=True,
)
QCOW2: Final = ImageFormat(
    suffix="qcow2",
    in_ovf="qcow2",
    create=lambda file, capacity, compress: Qcow2Writer.create(file, capacity, compression=_QCOW2[compress]),
    resume=lambda file, capacity, compress, trusted: Qcow2Writer.resume(
        file, capacity, compression=_QCOW2[compress], trusted=trusted
    ),
    most_bytes=lambda capacity, blocks, compress: qcow2_most_bytes(
        capacity, blocks, compressed=compress is not Compression.NONE
    ),
    compressions=frozenset(Compression),
    bootable=True,
)
STREAM_VMDK: Final = ImageFormat(
    suffix="vmdk",
    in_ovf="vmdk-stream",
    create=lambda file, capacity, _: StreamOptimizedWriter.create(file, capacity),
    resume=lambda file, capacity, _, trusted: StreamOptimizedWriter.resume(file, capacity, trusted=trusted),
    most_bytes=lambda capacity, blocks, _: vmdk_most_bytes(capacity, blocks),
    compressions=frozenset(Compression) - {Compression.REPACK},
    refusal="{compress} is for qcow2 only: {output} keeps blocks compressed as they came",
    appended=True,
)
