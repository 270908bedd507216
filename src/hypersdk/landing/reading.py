"""The guest's bytes in a local image, for readers of what lies on the disk.

::

    NAME.raw    ── the file itself ─┐
    NAME.qcow2  ── its clusters ────┼──> Reader ──> DiskLayout
    NAME.vmdk   ── its grains ──────┘

A guest can write the header of any format into its first sectors. So the format is that of the manifest or of the
file's name; only a file without one of these names is judged by its content.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from hypersdk.errors import BAD_FORMAT, IntegrityError, TargetError
from hypersdk.formats.guestdisk import DiskLayout, Reader, read_layout
from hypersdk.formats.image import ReadableFile
from hypersdk.formats.qcow2.reader import Qcow2Reader, is_qcow2
from hypersdk.formats.vmdk.layout import MAGIC as VMDK_MAGIC
from hypersdk.formats.vmdk.reader import DiskReader, open_vmdk
from hypersdk.migration.readback import opened
from hypersdk.migration.stored import UNREADABLE_INPUT, input_errors, open_input
from hypersdk.text import clean
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.files import target_errors

ImageName: TypeAlias = Literal["raw", "qcow2", "vmdk"]

_HEAD: Final = 512


@contextmanager
def opened_image(path: Path, image_format: ImageName | None = None) -> Iterator[Reader]:
    """The guest's disk in the image ``path``, which stays open for the block. A symbolic link is followed.

    Raises TargetError ``unreadable_input`` or ``input_not_a_file``; IntegrityError ``unreadable_image``,
    ``image_has_backing_file`` or ``bad_format``.
    """
    try:
        descriptor = open_input(path, path.name)
    except FileNotFoundError as error:
        raise TargetError(f"{path} cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error
    try:
        with input_errors():
            yield reader_of(FdFile(descriptor), image_format or format_by_name(path.name))
    finally:
        os.close(descriptor)


def check_alone(path: Path, image_format: str) -> None:
    """Raises where whoever opens the image ``path`` opens other files with it: those that a link, a backing file, an
    external data file or a descriptor names. A hypervisor would give them to the guest. Raises IntegrityError
    ``image_has_backing_file``, ``unreadable_image`` or ``bad_format``, TargetError."""
    known = format_by_name(f".{image_format}")
    if known is None:
        raise IntegrityError(f"{path.name} has the unknown format '{clean(image_format, 40)}'", code=BAD_FORMAT)
    with target_errors(f"opening {path.name}"), opened(path) as descriptor:
        reader_of(FdFile(descriptor), known)


def layout_of(path: Path, image_format: ImageName | None = None) -> DiskLayout:
    """What lies on the disk in the image ``path``. Raises as ``opened_image``."""
    with opened_image(path, image_format) as reader:
        return read_layout(reader)


def format_by_name(name: str) -> ImageName | None:
    """The format that a file's extension names."""
    suffix = name.rpartition(".")[2].lower()
    return next((known for known in get_args(ImageName) if known == suffix), None)


def reader_of(file: ReadableFile, image_format: ImageName | None) -> Reader:
    """The guest's disk in ``file``, which is judged by its content where no format is given."""
    return _READERS[image_format or _format_by_content(file)](file)


def _format_by_content(file: ReadableFile) -> ImageName:
    head = file.pread(_HEAD, 0)
    if is_qcow2(head):
        return "qcow2"
    return "vmdk" if head.startswith(VMDK_MAGIC) else "raw"


class RawReader:
    """A raw image: the file is the disk."""

    def __init__(self, file: ReadableFile) -> None:
        self.size = file.size()
        self._file = file

    def read(self, offset: int, length: int) -> bytes:
        """See Reader."""
        return self._file.pread(length, offset)


class VmdkReader:
    """A VMDK."""

    def __init__(self, disk: DiskReader) -> None:
        self.size = disk.capacity
        self._disk = disk

    def read(self, offset: int, length: int) -> bytes:
        """See Reader."""
        buffer = bytearray(max(0, min(length, self.size - offset)))
        self._disk.read(offset, memoryview(buffer))
        return bytes(buffer)


class EmptyReader:
    """A disk without an image: all of it is zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """See Reader."""
        return bytes(max(0, min(length, self.size - offset)))


def _refuse_extents(names: Sequence[str]) -> ReadableFile:
    raise IntegrityError(f"the disk is in several files, such as '{names[0][:200]}'", code=BAD_FORMAT)


_READERS: Final[Mapping[ImageName, Callable[[ReadableFile], Reader]]] = {
    "raw": RawReader,
    "qcow2": Qcow2Reader,
    "vmdk": lambda file: VmdkReader(open_vmdk(file, _refuse_extents)),
}
