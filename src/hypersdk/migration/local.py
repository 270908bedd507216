"""Local images as sources: a VMDK, an OVF with its files, an OVA. All of their content is untrusted.

::

    FILE.vmdk   streamOptimized ──> stream (as from a lease)     other kinds ──> ranges through the reader
    FILE.ovf    descriptor names the disks; only files next to it or in folders below are opened
    FILE.ova    descriptor and disks are members
    FILE.qcow2 .raw .img   one disk, its clusters or runs of data as ranges

An archive or a disk may be compressed with gzip as a whole. How files are opened is in ``stored``, how they are found
and compared in ``package``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from hypersdk.errors import BAD_FORMAT, IntegrityError, TargetError, UsageError, register
from hypersdk.formats import gzipped
from hypersdk.formats.gzipped import GzipReader
from hypersdk.formats.image import ReadableFile
from hypersdk.formats.ova import descriptor_member, read_ova
from hypersdk.formats.ovf import EnvelopeDisk, EnvelopeFile, OvfEnvelope, descriptor_text, parse_ovf
from hypersdk.formats.vmdk.reader import DiskReader, VmdkKind, open_vmdk, sniff, stream_capacity
from hypersdk.migration.package import Image, Package
from hypersdk.migration.plainimages import Qcow2Disk, RawDisk
from hypersdk.migration.stored import (
    UNREADABLE_INPUT,
    ArchiveStore,
    FolderStore,
    Pool,
    PooledFile,
    Stored,
    input_errors,
    open_input,
)
from hypersdk.model import Backing, Disk, DiskSummary, Firmware, GuestFacts, Machine, MachineSummary, Nic, Power
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.disk import named
from hypersdk.transfer.source import ByteStream, DiskSource, StreamAlgorithm
from hypersdk.units import SECTOR, KiB, align_up, format_size

UNKNOWN_INPUT: Final = register(
    "unknown_input",
    "Files of this type cannot be converted.",
    "Give a .vmdk, .ovf, .ova, .qcow2, .raw or .img file; a .vmdk or .ova may be compressed (.gz).",
)

_FIRST_KEY: Final = 2000
"""The first disk key: vSphere numbers disks from 2000; a converted one has no key of its own."""
_SCSI_KEY: Final = 1000
"""vSphere's first SCSI controller: the one of a disk without a descriptor."""


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """One disk to copy. ``envelope`` is its entry in the descriptor, if there is one."""

    key: int
    label: str
    source: DiskSource
    envelope: EnvelopeDisk | None

    @property
    def empty(self) -> bool:
        """Whether it is only in the descriptor: it has no file and is empty."""
        return self.envelope is not None and self.envelope.file is None

    def reader(self) -> DiskReader | None:
        """Random access to its content; None where it is ``empty``. Raises IntegrityError and OSError."""
        return self.source.reader() if isinstance(self.source, FileStreamSource | ReaderSource) else None


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """The content of an input file: its disks in order and a description of the machine, as far as it is known.
    ``descriptor`` is the OVF's text.

    ``package`` has the files and compares them. ``warnings`` name what was ignored in the descriptor.
    """

    machine: Machine
    disks: tuple[LocalDisk, ...]
    descriptor: bytes | None
    package: Package
    warnings: tuple[str, ...] = ()


_SUFFIXES: Final = (".vmdk", ".ovf", ".ova", ".qcow2", ".raw", ".img")
_PACKED: Final = (".vmdk", ".ova")
"""Those that may be compressed as a whole."""


def _suffix(path: Path) -> str | None:
    """The extension that says what the file is, without ``.gz``; None for a file that cannot be converted."""
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    return suffix if suffix in (_PACKED if packed else _SUFFIXES) else None


def is_package_name(name: str) -> bool:
    """Whether a file of that name can be converted, by its extension."""
    return _suffix(Path(name)) is not None


@contextmanager
def open_local(path: Path, cancel: CancelToken, *, follow: bool = True) -> Iterator[LocalMachine]:
    """Opens ``path`` by its file name extension; files stay open for the block. ``cancel`` ends the reading of a
    compressed archive. Without ``follow``, a symbolic link is refused.

    Raises UsageError ``unknown_input``, TargetError ``unreadable_input`` or ``input_not_a_file``, IntegrityError for
    its content.
    """
    openers: dict[str, Callable[[FolderStore, Path, PooledFile, CancelToken], LocalMachine]] = {
        ".vmdk": _open_vmdk_file,
        ".ovf": _open_ovf,
        ".ova": _open_ova,
        ".qcow2": _open_qcow2,
        ".raw": _open_raw,
        ".img": _open_raw,
    }
    suffix = _suffix(path)
    if suffix is None:
        raise UsageError(f"'{path.name}' is not a file that can be converted", code=UNKNOWN_INPUT)
    with ExitStack() as stack:
        pool = Pool(stack)
        try:
            file = PooledFile(pool, partial(open_input, path, path.name, follow=follow), path.name)
        except FileNotFoundError as error:
            raise TargetError(f"{path} cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error
        with input_errors():
            opened = openers[suffix](FolderStore(stack, pool, path.parent), path, file, cancel)
        yield opened


def _open_vmdk_file(store: FolderStore, path: Path, file: PooledFile, cancel: CancelToken) -> LocalMachine:
    package = Package(store, "", cancel.check)
    stored = store.adopt(file)
    source = _vmdk_source(package.image_of(stored, stored), "disk 1", package)
    disk = LocalDisk(_FIRST_KEY, "disk 1", source, None)
    return LocalMachine(_machine(_stem(path), None, (disk,)), (disk,), None, package)


def _open_ovf(store: FolderStore, path: Path, file: PooledFile, cancel: CancelToken) -> LocalMachine:
    package = Package(store, "", cancel.check)
    return _described(_stem(path), package.descriptor(store.adopt(file)), package)


def _open_ova(store: FolderStore, path: Path, file: PooledFile, cancel: CancelToken) -> LocalMachine:  # noqa: ARG001 - as the others
    packed = file.pread(len(gzipped.MAGIC), 0) == gzipped.MAGIC
    content: ReadableFile = GzipReader(file, cancel.check) if packed else file
    members = read_ova(content)
    content.size()  # reads a compressed archive to its end, where its checksum is
    descriptor = descriptor_member(members)
    package = Package(ArchiveStore(file, content, members), descriptor.name.rpartition("/")[0], cancel.check)
    text = package.descriptor(Stored(descriptor.name, content, descriptor.offset, descriptor.size))
    return _described(_stem(path), text, package)


def _open_qcow2(store: FolderStore, path: Path, file: PooledFile, cancel: CancelToken) -> LocalMachine:
    return _image_alone(store, path, file, Qcow2Disk(file), cancel)


def _open_raw(store: FolderStore, path: Path, file: PooledFile, cancel: CancelToken) -> LocalMachine:
    return _image_alone(store, path, file, RawDisk(file), cancel)


def _image_alone(
    store: FolderStore, path: Path, file: PooledFile, reader: DiskReader, cancel: CancelToken
) -> LocalMachine:
    package = Package(store, "", cancel.check)
    store.adopt(file)
    disk = LocalDisk(_FIRST_KEY, "disk 1", ReaderSource(reader, "disk 1"), None)
    return LocalMachine(_machine(path.stem, None, (disk,)), (disk,), None, package)


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def _described(name: str, text: bytes, package: Package) -> LocalMachine:
    envelope = parse_ovf(text)
    disks, warnings = [], list(envelope.warnings)
    for key, disk in enumerate(envelope.disks, start=_FIRST_KEY):
        if disk.file is None:
            capacity = align_up(disk.capacity_bytes or 0, SECTOR)
            warnings.append(
                f"the disk '{disk.label}' has no file in the package: it is empty, with {format_size(capacity)}"
            )
            disks.append(LocalDisk(key, disk.label, EmptySource(disk.label, capacity), disk))
            continue
        image = _image(package, disk.file)
        with named(f"'{disk.file.names[0]}'"):
            source = _vmdk_source(image, disk.label, package)
        if disk.capacity_bytes not in (None, source.capacity_bytes):
            described, found = format_size(disk.capacity_bytes or 0), format_size(source.capacity_bytes)
            warnings.append(
                f"the disk '{disk.label}' has {described} by the descriptor and {found} by its file, which is used"
            )
        disks.append(LocalDisk(key, disk.label, source, disk))
    machine = _machine(envelope.system.name or name, envelope, tuple(disks))
    return LocalMachine(machine, tuple(disks), descriptor_text(text).encode(), package, tuple(warnings))


def _image(package: Package, file: EnvelopeFile) -> Image:
    """The disk file as an image. Raises IntegrityError that names a compression method other than gzip."""
    image = package.image(file)
    if file.compression not in (None, "gzip"):
        try:
            sniff(image.file.pread(64 * KiB, 0))
        except IntegrityError as error:
            raise IntegrityError(
                f"'{file.names[0]}' is compressed with '{file.compression[:60]}'; only gzip is read",
                code=BAD_FORMAT,
                next_step="Unpack the file and take the attribute 'compression' out of the descriptor.",
            ) from error
    return image


def _vmdk_source(image: Image, label: str, package: Package) -> DiskSource:
    kind = sniff(image.file.pread(64 * KiB, 0))
    if kind is VmdkKind.STREAM:
        algorithm = package.algorithm_of(image.stored) if image.stored is not None else "sha256"
        return FileStreamSource(image, label, stream_capacity(image.file), algorithm)
    image.file.size()  # reads a compressed file to its end, where its checksum is
    return ReaderSource(open_vmdk(image.file, image.beside), label)


class FileStreamSource:
    """A streamOptimized VMDK on disk, as a StreamSource. ``size_bytes`` is the number of bytes to read."""

    def __init__(self, image: Image, label: str, capacity_bytes: int, algorithm: StreamAlgorithm) -> None:
        self.label = label
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes: int | None = None
        self.algorithm = algorithm
        self.host = "local"
        self.size_bytes = image.stored_bytes
        self.stored = image.stored
        self._image = image

    @contextmanager
    def open(self, cancel: CancelToken) -> Iterator[ByteStream]:
        """See StreamSource."""
        cancel.check()
        yield _FileStream(self._image)

    def reader(self) -> DiskReader:
        """Random access to the disk. Raises IntegrityError where the stream's tables are damaged."""
        return open_vmdk(self._image.file, self._image.beside)


class _FileStream:
    """See ByteStream."""

    route = "local file"

    def __init__(self, image: Image) -> None:
        self._file = image.file
        self._position = 0
        self.length_bytes: int | None = image.length_bytes

    def readinto(self, buffer: memoryview) -> int:
        """See ByteStream. A read error is not retried: OSError becomes TargetError."""
        with input_errors():
            data = self._file.pread(len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class ReaderSource:
    """Any other image on disk, as a RangeSource."""

    def __init__(self, reader: DiskReader, label: str) -> None:
        self.label = label
        self.capacity_bytes = reader.capacity
        self.host = "local"
        self._reader = reader

    def reader(self) -> DiskReader:
        """Random access to the disk."""
        return self._reader

    def extents(self, cancel: CancelToken) -> Iterator[tuple[int, int]]:
        """See RangeSource."""
        for extent in self._reader.extents():
            cancel.check()
            yield extent

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """See RangeSource."""
        cancel.check()
        with input_errors():
            self._reader.read(offset, buffer)


class EmptySource:
    """An empty disk, as a RangeSource."""

    def __init__(self, label: str, capacity_bytes: int) -> None:
        self.label = label
        self.capacity_bytes = capacity_bytes
        self.host = "local"

    def extents(self, cancel: CancelToken) -> Iterator[tuple[int, int]]:
        """See RangeSource."""
        cancel.check()
        return iter(())

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:  # noqa: ARG002 - all of it is the same
        """See RangeSource."""
        cancel.check()
        buffer[:] = bytes(len(buffer))


# What is known of the machine


def _machine(name: str, envelope: OvfEnvelope | None, disks: Sequence[LocalDisk]) -> Machine:
    system = envelope.system if envelope else None
    summary = MachineSummary(
        moref="",
        name=name,
        path=name,
        uuid=None,
        instance_uuid=None,
        power=Power.OFF,
        cpus=(system and system.cpus) or 0,
        memory_bytes=(system and system.memory_bytes) or 0,
        disks=tuple(DiskSummary(disk.label, disk.source.capacity_bytes) for disk in disks),
        datacenter=None,
        host=None,
        guest_name=system.os_name if system else None,
        template=False,
        disk_count=len(disks),
        used_bytes=None,
        provisioned_bytes=None,
    )
    return Machine(
        summary=summary,
        firmware=system.firmware if system else Firmware.BIOS,
        secure_boot=bool(system and system.secure_boot),
        guest=GuestFacts(system.os_type if system else None, None, None, (), False, None),
        guest_id=system.os_type if system else None,
        hardware_version=system.hardware_version if system else None,
        cores_per_socket=(system and system.cores_per_socket) or 1,
        disks=_disks(disks),
        nics=tuple(
            Nic(4000 + number, nic.label, nic.mac, nic.network, (nic.adapter or "").lower(), True)
            for number, nic in enumerate(envelope.nics if envelope else ())
        ),
        cdroms=(),
        snapshots=(),
        boot_order=_boot_order(envelope, disks),
        cbt_enabled=False,
        change_version=None,
        boot_time=None,
        consolidation_needed=False,
        busy_with=None,
        has_vtpm=False,
        encrypted=False,
        unreachable_datastores=(),
        annotation=system.annotation if system else None,
        vmx_file=None,
    )


def _boot_order(envelope: OvfEnvelope | None, disks: Sequence[LocalDisk]) -> tuple[str, ...]:
    """The boot order of the descriptor; the rule of the firmware for other disks is in ``boot_sequence``."""
    keys = {disk.envelope.id: disk.key for disk in disks if disk.envelope is not None}
    return tuple(f"disk:{keys[name]}" for name in (envelope.system.boot_disks if envelope else ()) if name in keys)


def _disks(disks: Sequence[LocalDisk]) -> tuple[Disk, ...]:
    """The disks. One whose controller is not known is on a SCSI controller of its own."""
    known = [
        disk.envelope.controller_key for disk in disks if disk.envelope and disk.envelope.controller_key is not None
    ]
    numbers = [disk.envelope.bus_number or 0 for disk in disks if disk.envelope and disk.envelope.bus == "scsi"]
    spare_key, spare_number = max(known, default=_SCSI_KEY - 1) + 1, max(numbers, default=-1) + 1
    return tuple(_disk(disk, spare_key, spare_number) for disk in disks)


def _disk(disk: LocalDisk, spare_key: int, spare_number: int) -> Disk:
    known = disk.envelope
    placed = known is not None and known.bus is not None
    return Disk(
        key=disk.key,
        label=disk.label,
        capacity_bytes=disk.source.capacity_bytes,
        bus=known.bus if known and known.bus else "scsi",
        controller=known.controller if known else "",
        controller_key=known.controller_key if known and known.controller_key is not None else spare_key,
        bus_number=(known.bus_number or 0) if known and placed else spare_number,
        unit_number=known.unit_number if known and placed and known.unit_number is not None else disk.key - _FIRST_KEY,
        backing=Backing.OTHER,
        file=None,
        chain=(),
        datastore=None,
        thin=None,
        independent=False,
        shared=False,
        encrypted=False,
        change_id=None,
        uuid=None,
        used_bytes=known.populated_bytes if known else None,
    )
