"""Where the disks of one machine are written: one file each (``diskfiles``), or one after another in an OVA
(``ovafile``).

A disk starts as a new file or, where its ledger proves that the existing data is of the same point in time, continues
where it ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

from hypersdk.errors import IntegrityError, TargetError
from hypersdk.formats.image import BlockFile, ImageWriter
from hypersdk.migration.heldfile import HeldFile, blocks_path
from hypersdk.migration.images import ImageFormat
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, FileHash
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import sha256_of, target_errors
from hypersdk.transfer.ledger import LEDGER_UNUSABLE, BlockLedger

Wrap: TypeAlias = Callable[[BlockFile], BlockFile]


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A disk that is open for writing. ``ledger`` is None where grains are stored unread: such a disk starts again
    after an interruption. ``restart_reason`` says why data of an earlier process is not used; empty where it is used,
    or there is none."""

    writer: ImageWriter
    ledger: BlockLedger | None
    file: BlockFile
    resumed: bool
    restart_reason: str = ""


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """An open file, and the region of it that is the disk."""

    held: HeldFile
    region: range

    @property
    def descriptor(self) -> int:
        """The descriptor of the file."""
        return self.held.whole


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file under its final name. ``sha256`` and ``tree`` (``transfer.treehash``) are hex, None where they were not
    computed."""

    name: str
    size_bytes: int
    sha256: str | None
    tree: str | None = None

    @property
    def checksum(self) -> str | None:
        """``sha256`` as a manifest has it."""
        return f"sha256:{self.sha256}" if self.sha256 else None

    @property
    def hashed(self) -> bool:
        """Whether there is a digest of its content."""
        return self.sha256 is not None or self.tree is not None


@dataclass(frozen=True, slots=True)
class Published:
    """The published files. ``archive`` is the file that contains all disks, where there is one."""

    files: Sequence[PublishedFile]
    archive: PublishedFile | None = None


class Outputs(ABC):
    """The disks of one run as files, in the folder of the run.

    ``check`` is called before a file is removed by its name. It raises where the file may be another run's.
    """

    parallel: ClassVar[bool]
    """Whether disks are independent of each other: several may be open at the same time, and one may be removed
    without those after it."""

    def __init__(self, run: RunRecord, spec: ExportSpec, image: ImageFormat, check: Callable[[], None]) -> None:
        self._run = run
        self.spec = spec
        self.image = image
        self._check = check

    # Implemented by each kind of outputs

    @abstractmethod
    def reset_lost(self) -> None:
        """Marks finished disks to start again where their files are missing or have another size. Raises OSError."""

    @abstractmethod
    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> AbstractContextManager[OpenDisk]:
        """Opens one disk for writing; ``identity`` names its point in time, ``wrap`` wraps its file. Raises
        TargetError."""

    @abstractmethod
    def has_data(self, record: DiskRecord) -> bool:
        """Whether a part of the disk was written already."""

    @abstractmethod
    def finished(self, record: DiskRecord) -> FinishedFile:
        """The open file of a finished disk, published or not. Raises TargetError."""

    @abstractmethod
    def forget(self, record: DiskRecord) -> None:
        """Removes what was written of the disk. Raises TargetError."""

    @abstractmethod
    def publish(self, descriptor: Callable[[], bytes], cancel: CancelToken) -> Published:
        """Renames the finished files to their final names; may be repeated after a crash. ``descriptor`` returns the
        OVF descriptor of the machine. Raises TargetError and Cancelled."""

    @abstractmethod
    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where a published file is not the one that this run wrote."""

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""

    # Shared

    @property
    def hashes_trees(self) -> bool:
        """Whether the file of each disk gets a tree digest. A stream has its SHA-256 in passing instead."""
        return self.spec.file_hash is not FileHash.NONE and not self.image.appended

    def forget_all(self) -> None:
        """Removes what was written of all disks. Raises TargetError."""
        for record in reversed(self._run.disks):
            self.forget(record)

    def sha256(self, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """Hex SHA-256 of the finished disk, read back from its file. Raises TargetError and Cancelled."""
        file = self.finished(record)
        return sha256_of(file.descriptor, record.file_name, cancel, on_bytes, file.region)

    def tree(self, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None] | None) -> str:
        """Hex tree digest of the file of a finished disk; see ``HeldFile.tree_digest``."""
        return self.finished(record).held.tree_digest(cancel, on_bytes)

    def close_disk(self, record: DiskRecord) -> None:
        """Removes the ledger of a finished disk. May be repeated. Raises TargetError."""
        self._check()
        with target_errors(f"finishing {record.file_name}"):
            self._blocks(record).unlink(missing_ok=True)

    def recorded_bytes(self, record: DiskRecord) -> int:
        """About how many guest bytes an earlier run recorded as written. Raises TargetError."""
        if not self.has_data(record):
            return 0
        with target_errors(f"checking {record.file_name}"):
            return min(record.capacity_bytes, BlockLedger.recorded_about(self._blocks(record)))

    def _blocks(self, record: DiskRecord) -> Path:
        return blocks_path(self._run.folder / record.file_name, self._run.attempt_suffix)

    def _ledger(self, stack: ExitStack, record: DiskRecord, identity: str, *, has_data: bool) -> _DiskLedger:
        """The disk's ledger; a new one where the old one does not match.

        Its identity includes the point in time and the format, so a ledger is never used for another image.
        """
        spec, place = self.spec, self._blocks(record)
        if spec.compress is Compression.UNCHECKED:
            reason = "unchecked compression does not record what was copied" if has_data else ""
            return _DiskLedger(None, trusted=False, reason=reason)
        whole_identity = f"{identity}/{spec.format}/{spec.compress}"
        found, reason = _old_ledger(place, record, whole_identity) if has_data else (None, "")
        trusted = found is not None
        ledger = found or BlockLedger.create(place, record.capacity_bytes, whole_identity)
        stack.callback(ledger.close)
        return _DiskLedger(ledger, trusted=trusted and ledger.recorded > 0, reason=reason)

    def _opened(self, file: BlockFile, record: DiskRecord, found: _DiskLedger) -> OpenDisk:
        """The writer of a new image, or of the one that the ledger describes. An image that cannot be continued starts
        again."""
        image, compress = self.image, self.spec.compress
        capacity, ledger, reason = record.capacity_bytes, found.ledger, found.reason
        with target_errors(f"opening {record.file_name}"):
            if ledger is not None and found.trusted:
                try:
                    with ledger.syncing():  # a VMDK is put in order first
                        writer = image.resume(file, capacity, compress, ledger.has)
                        return OpenDisk(writer, ledger, file, resumed=True)
                except IntegrityError as error:
                    reason = error.message
                    ledger.begin_again()  # before the image goes: a record must never outlive its block
            return OpenDisk(image.create(file, capacity, compress), ledger, file, resumed=False, restart_reason=reason)


@dataclass(frozen=True, slots=True)
class _DiskLedger:
    """The disk's ledger, and whether it proves data in the disk's file; if it does not and there is a file, the
    reason."""

    ledger: BlockLedger | None
    trusted: bool
    reason: str


def _old_ledger(place: Path, record: DiskRecord, identity: str) -> tuple[BlockLedger | None, str]:
    """The ledger of an earlier run, and the reason why the data is not used if the ledger is missing or empty."""
    if not place.exists():
        return None, "the record of what was copied is missing"
    try:
        return BlockLedger.open(place, record.capacity_bytes, identity), "its record is empty"
    except TargetError as error:
        if error.code != LEDGER_UNUSABLE:
            raise
        place.unlink()
        return None, error.message
