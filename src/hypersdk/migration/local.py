"""Images on disk as sources: a VMDK, an OVF with its files, an OVA. Everything in them may be hostile.

::

    FILE.vmdk   streamOptimized ──> stream (as from a lease)     other kinds ──> ranges through the reader
    FILE.ovf    descriptor names the disks; bare names beside it, nothing else is opened
    FILE.ova    descriptor and disks are members
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import BAD_FORMAT, IntegrityError, TargetError, UsageError, register
from hypersdk.formats.image import ReadableFile
from hypersdk.formats.names import is_bare_name
from hypersdk.formats.ova import descriptor_member, read_ova
from hypersdk.formats.ovf import EnvelopeDisk, OvfEnvelope, descriptor_text, parse_ovf
from hypersdk.formats.vmdk.reader import DiskReader, VmdkKind, open_vmdk, sniff
from hypersdk.model import Backing, Disk, DiskSummary, Firmware, GuestFacts, Machine, MachineSummary, Nic, Power
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.source import ByteStream, DiskSource
from hypersdk.units import SECTOR, KiB, MiB, align_up, format_size

UNREADABLE_INPUT: Final = register(
    "unreadable_input", "The file to convert cannot be opened.", "Check its path and permissions."
)
UNKNOWN_INPUT: Final = register(
    "unknown_input", "The file is none of those that can be converted.", "Give a .vmdk, .ovf or .ova file."
)
MISSING_DISK_FILE: Final = register(
    "missing_disk_file",
    "The descriptor names a disk file that is not there.",
    "Put all files of the OVF into one folder.",
)

MAX_DESCRIPTOR: Final = 8 * MiB
_FIRST_KEY: Final = 2000
"""vSphere numbers disks from 2000; a converted one has no key of its own."""
_SCSI_KEY: Final = 1000
"""vSphere's first SCSI controller: that of a disk without a descriptor."""


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """One disk that can be copied. ``envelope`` is what the descriptor says of it, if there is one."""

    key: int
    label: str
    source: DiskSource
    envelope: EnvelopeDisk | None

    @property
    def empty(self) -> bool:
        """Whether only the descriptor knows it: it has no file, and starts empty."""
        return self.envelope is not None and self.envelope.file is None


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """What a file holds: its disks in order and a description of the machine, as far as it is known. ``descriptor`` is the OVF's text.
    ``warnings`` say what of it was left out or not understood."""

    machine: Machine
    disks: tuple[LocalDisk, ...]
    descriptor: bytes | None
    warnings: tuple[str, ...] = ()


@contextmanager
def open_local(path: Path) -> Iterator[LocalMachine]:
    """Opens ``path`` by what its name ends in; files stay open for the block.

    Raises UsageError ``unknown_input``, TargetError ``unreadable_input``, IntegrityError for what is inside.
    """
    openers: dict[str, Callable[[ExitStack, Path], LocalMachine]] = {
        ".vmdk": _open_vmdk_file,
        ".ovf": _open_ovf,
        ".ova": _open_ova,
    }
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise UsageError(f"'{path.name}' is not a .vmdk, .ovf or .ova file", code=UNKNOWN_INPUT)
    with ExitStack() as stack:
        yield opener(stack, path)


def _open_file(stack: ExitStack, path: Path) -> FdFile:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"{path} cannot be opened: {error.strerror}", code=UNREADABLE_INPUT) from error
    stack.callback(os.close, handle)
    return FdFile(handle)


def _beside(stack: ExitStack, folder: Path) -> Callable[[str], ReadableFile]:
    """Opens files named by a descriptor: bare names in ``folder``, never through a symbolic link out of it."""

    def open_extent(name: str) -> ReadableFile:
        if not is_bare_name(name):
            raise IntegrityError(f"a descriptor names {name!r}, which is not a file beside it", code=BAD_FORMAT)
        if (folder / name).is_symlink():
            raise IntegrityError(f"'{name}' is a symbolic link", code=BAD_FORMAT)
        return _open_file(stack, folder / name)

    return open_extent


def _open_vmdk_file(stack: ExitStack, path: Path) -> LocalMachine:
    source = _vmdk_source(_open_file(stack, path), "disk 1", _beside(stack, path.parent))
    disk = LocalDisk(_FIRST_KEY, "disk 1", source, None)
    return LocalMachine(_machine(path.stem, None, (disk,)), (disk,), None)


def _open_ovf(stack: ExitStack, path: Path) -> LocalMachine:
    text = _descriptor_text(_open_file(stack, path), path.name)
    beside = _beside(stack, path.parent)

    def open_disk(names: Sequence[str]) -> ReadableFile:
        found = next((name for name in names if (path.parent / name).exists()), None)
        if found is None:
            raise TargetError(f"'{names[0]}' is missing beside {path.name}", code=MISSING_DISK_FILE)
        return beside(found)

    return _described(path.stem, text, open_disk, beside)


def _open_ova(stack: ExitStack, path: Path) -> LocalMachine:
    file = _open_file(stack, path)
    members = {member.name: member for member in read_ova(file)}
    descriptor = descriptor_member(list(members.values()))
    text = _descriptor_text(Region(file, descriptor.offset, descriptor.size), descriptor.name)

    def open_disk(names: Sequence[str]) -> ReadableFile:
        member = next((members[name] for name in names if name in members), None)
        if member is None:
            raise TargetError(f"'{names[0]}' is missing in {path.name}", code=MISSING_DISK_FILE)
        return Region(file, member.offset, member.size)

    return _described(path.stem, text, open_disk, lambda name: open_disk([name]))


def _descriptor_text(file: ReadableFile, name: str) -> bytes:
    size = file.size()
    if size > MAX_DESCRIPTOR:
        raise IntegrityError(f"the descriptor {name} has {size} bytes", code=BAD_FORMAT)
    return file.pread(size, 0)


def _described(
    name: str,
    text: bytes,
    open_disk: Callable[[Sequence[str]], ReadableFile],
    open_extent: Callable[[str], ReadableFile],
) -> LocalMachine:
    envelope = parse_ovf(text)
    disks, warnings = [], list(envelope.warnings)
    for key, disk in enumerate(envelope.disks, start=_FIRST_KEY):
        if disk.file is None:
            capacity = align_up(disk.capacity_bytes or 0, SECTOR)
            warnings.append(
                f"the disk '{disk.label}' has no file in the package: it is empty, of {format_size(capacity)}"
            )
            disks.append(LocalDisk(key, disk.label, EmptySource(disk.label, capacity), disk))
            continue
        source = _vmdk_source(open_disk(disk.file.names), disk.label, open_extent)
        disks.append(LocalDisk(key, disk.label, source, disk))
    machine = _machine(envelope.system.name or name, envelope, tuple(disks))
    return LocalMachine(machine, tuple(disks), descriptor_text(text).encode(), tuple(warnings))


def _vmdk_source(file: ReadableFile, label: str, open_extent: Callable[[str], ReadableFile]) -> DiskSource:
    kind = sniff(file.pread(64 * KiB, 0))
    if kind is VmdkKind.STREAM:
        return FileStreamSource(file, label, open_vmdk(file, open_extent).capacity)
    return ReaderSource(open_vmdk(file, open_extent), label)


class Region:
    """A part of a file, read-only: a member of an OVA. Reads end at its end, so that a member never shows its neighbour."""

    def __init__(self, file: ReadableFile, start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length

    def pread(self, length: int, offset: int) -> bytes:
        """See ReadableFile."""
        return self._file.pread(max(0, min(length, self._length - offset)), self._start + offset)

    def size(self) -> int:
        """Bytes of the part."""
        return self._length


class FileStreamSource:
    """A streamOptimized VMDK on disk, as a StreamSource."""

    def __init__(self, file: ReadableFile, label: str, capacity_bytes: int) -> None:
        self.label = label
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes: int | None = None
        self.wants_sha1 = False
        self.host = "local"
        self.size_bytes = file.size()
        self._file = file

    @contextmanager
    def open(self, cancel: CancelToken) -> Iterator[ByteStream]:
        """See StreamSource."""
        cancel.check()
        yield _FileStream(self._file)


class _FileStream:
    """See ByteStream."""

    route = "local file"

    def __init__(self, file: ReadableFile) -> None:
        self._file = file
        self._position = 0
        self.length_bytes: int | None = file.size()

    def readinto(self, buffer: memoryview) -> int:
        """See ByteStream. An image that cannot be read is no passing fault: OSError becomes TargetError."""
        with input_errors():
            data = self._file.pread(len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class ReaderSource:
    """Any other VMDK on disk, as a RangeSource."""

    def __init__(self, reader: DiskReader, label: str) -> None:
        self.label = label
        self.capacity_bytes = reader.capacity
        self.host = "local"
        self._reader = reader

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
    """A disk that nothing was ever written to, as a RangeSource."""

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


@contextmanager
def input_errors() -> Iterator[None]:
    """Raises any OSError of the block as TargetError ``unreadable_input``."""
    try:
        yield
    except OSError as error:
        raise TargetError(f"the input cannot be read: {error.strerror}", code=UNREADABLE_INPUT) from error


# What is known of the machine


def _machine(name: str, envelope: OvfEnvelope | None, disks: Sequence[LocalDisk]) -> Machine:
    system = envelope.system if envelope else None
    summary = MachineSummary(
        moref="", name=name, path=name, uuid=None, instance_uuid=None, power=Power.OFF,
        cpus=(system and system.cpus) or 0, memory_bytes=(system and system.memory_bytes) or 0,
        disks=tuple(DiskSummary(disk.label, disk.source.capacity_bytes) for disk in disks),
        datacenter=None, host=None, guest_name=system.os_name if system else None, template=False, used_bytes=None,
    )  # fmt: skip
    return Machine(
        summary=summary, firmware=system.firmware if system else Firmware.BIOS,
        secure_boot=bool(system and system.secure_boot),
        guest=GuestFacts(system.os_type if system else None, None, None, (), False, None),
        guest_id=system.os_type if system else None, hardware_version=system.hardware_version if system else None,
        cores_per_socket=(system and system.cores_per_socket) or 1, disks=_disks(disks),
        nics=tuple(
            Nic(4000 + number, nic.label, nic.mac, nic.network, (nic.adapter or "").lower(), True)
            for number, nic in enumerate(envelope.nics if envelope else ())
        ),
        cdroms=(), snapshots=(), boot_order=_boot_order(envelope, disks), cbt_enabled=False, change_version=None, boot_time=None,
        consolidation_needed=False, busy_with=None, has_vtpm=False, encrypted=False, unreachable_datastores=(),
        annotation=system.annotation if system else None, vmx_file=None,
    )  # fmt: skip


def _boot_order(envelope: OvfEnvelope | None, disks: Sequence[LocalDisk]) -> tuple[str, ...]:
    """What the descriptor names, and no more: the firmware's rule for the others is that of ``boot_sequence``."""
    keys = {disk.envelope.id: disk.key for disk in disks if disk.envelope is not None}
    return tuple(f"disk:{keys[name]}" for name in (envelope.system.boot_disks if envelope else ()) if name in keys)


def _disks(disks: Sequence[LocalDisk]) -> tuple[Disk, ...]:
    """A disk of which it is not known what it is attached to is on a SCSI controller that nothing else is attached to."""
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
        key=disk.key, label=disk.label, capacity_bytes=disk.source.capacity_bytes,
        bus=known.bus if known and known.bus else "scsi", controller=known.controller if known else "",
        controller_key=known.controller_key if known and known.controller_key is not None else spare_key,
        bus_number=(known.bus_number or 0) if known and placed else spare_number,
        unit_number=known.unit_number if known and placed and known.unit_number is not None else disk.key - _FIRST_KEY,
        backing=Backing.OTHER, file=None, chain=(), datastore=None, thin=None, independent=False, shared=False,
        encrypted=False, change_id=None, uuid=None, used_bytes=known.populated_bytes if known else None,
    )  # fmt: skip
