"""Where the disks of one machine are written: one file each (``diskfiles``), or one after another in an OVA
(``ovafile``).

A disk is opened fresh or, where its ledger proves that what lies there is of the same point in time, where it ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias

from hypersdk.errors import IntegrityError, TargetError
from hypersdk.formats.image import BlockFile, ImageWriter
from hypersdk.migration.heldfile import blocks_path
from hypersdk.migration.images import ImageFormat
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.ledger import LEDGER_UNUSABLE, BlockLedger

Wrap: TypeAlias = Callable[[BlockFile], BlockFile]


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A disk that can be written. ``ledger`` is None where grains pass unseen: such a disk starts again after a break.
    ``begun_again`` says why what an earlier process left of it is not gone on with; empty where it is, and where
    nothing was left.
    """

    writer: ImageWriter
    ledger: BlockLedger | None
    file: BlockFile
    resumed: bool
    begun_again: str = ""


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """An open file, to be read and written, and the bytes of it that are the disk."""

    descriptor: int
    region: range


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file under its final name; ``sha256`` is hex, None where it was not hashed."""

    name: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """What outputs published. ``archive`` is the file that holds all disks, where one does."""

    files: Sequence[PublishedFile]
    archive: PublishedFile | None = None


class Publication(Protocol):
    """What outputs and output formats need to know of a machine that is being published."""

    @property
    def spec(self) -> ExportSpec: ...
    @property
    def stem(self) -> str: ...
    @property
    def cancel(self) -> CancelToken: ...

    @property
    def described(self) -> bool:
        """Whether the machine is known well enough for a descriptor."""
        ...

    def descriptor(self) -> bytes:
        """The OVF descriptor of the machine with its published disks."""
        ...

    def write(self, name: str, data: bytes) -> PublishedFile:
        """Writes a small file into the folder."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one run: what is written, where, and for which disks. ``check`` is called before something is
    removed by its name, and raises where the files of these names may be another run's."""

    spec: ExportSpec
    image: ImageFormat
    folder: Path
    stem: str
    run: RunRecord
    check: Callable[[], None]


class Outputs(ABC):
    """The disks of one machine as files."""

    parallel: ClassVar[bool]
    """Whether disks are independent of each other: several may be open at the same time, and one may be forgotten
    without those behind it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._suffix = layout.run.attempt_suffix

    # Each kind of outputs by itself

    @abstractmethod
    def begin_lost_again(self) -> None:
        """Disks that were finished begin again where their files are gone or have another size by now. Raises
        OSError."""

    @abstractmethod
    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> AbstractContextManager[OpenDisk]:
        """Opens one disk for writing; ``identity`` names its point in time, ``wrap`` goes around its file. Raises
        TargetError."""

    @abstractmethod
    def begun(self, record: DiskRecord) -> bool:
        """Whether something of the disk was written already."""

    @abstractmethod
    def finished(self, record: DiskRecord) -> AbstractContextManager[FinishedFile]:
        """The file of a finished disk, published or not. Raises TargetError."""

    @abstractmethod
    def sha256(self, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """Hex SHA-256 of the finished, unpublished disk, read back from its file. Raises TargetError and Cancelled."""

    @abstractmethod
    def forget(self, record: DiskRecord) -> None:
        """Removes what was written of the disk. Raises TargetError."""

    @abstractmethod
    def publish(self, publication: Publication) -> Published:
        """Gives the finished files their names; again after a crash in between. Raises TargetError and Cancelled."""

    @abstractmethod
    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where a published file is not the one that this run wrote."""

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""

    # The same for all

    def close_disk(self, record: DiskRecord) -> None:
        """The disk is finished, so its ledger is not needed any more. May be called again. Raises TargetError."""
        self._layout.check()
        with target_errors(f"finishing {record.file_name}"):
            self._blocks(record).unlink(missing_ok=True)

    def recorded_bytes(self, record: DiskRecord) -> int:
        """About how many of the guest's bytes an earlier run recorded as written. Raises TargetError."""
        if not self.begun(record):
            return 0
        with target_errors(f"looking at {record.file_name}"):
            return min(record.capacity_bytes, BlockLedger.recorded_about(self._blocks(record)))

    def _blocks(self, record: DiskRecord) -> Path:
        return blocks_path(self._layout.folder / record.file_name, self._suffix)

    def _ledger(self, stack: ExitStack, record: DiskRecord, identity: str, *, has_data: bool) -> _DiskLedger:
        """The disk's ledger; a new one where the old does not fit.

        The identity holds the point in time and how the bytes are laid down, so a ledger is never used for another
        image.
        """
        spec, place = self._layout.spec, self._blocks(record)
        if spec.compress is Compression.UNCHECKED:
            reason = "unchecked compression keeps no record of what was copied" if has_data else ""
            return _DiskLedger(None, trusted=False, reason=reason)
        whole_identity = f"{identity}/{spec.format}/{spec.compress}"
        found, reason = _old_ledger(place, record, whole_identity) if has_data else (None, "")
        trusted = found is not None
        ledger = found or BlockLedger.create(place, record.capacity_bytes, whole_identity)
        stack.callback(ledger.close)
        return _DiskLedger(ledger, trusted=trusted and ledger.recorded > 0, reason=reason)

    def _opened(self, file: BlockFile, record: DiskRecord, found: _DiskLedger) -> OpenDisk:
        """The writer of the format: of a new image, or of the one that the ledger knows. One that cannot be gone on
        with is begun again."""
        image, compress = self._layout.image, self._layout.spec.compress
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
            return OpenDisk(image.create(file, capacity, compress), ledger, file, resumed=False, begun_again=reason)


@dataclass(frozen=True, slots=True)
class _DiskLedger:
    """The disk's ledger, and whether it vouches for anything that lies in its file; if not and there is a file, why."""

    ledger: BlockLedger | None
    trusted: bool
    reason: str


def _old_ledger(place: Path, record: DiskRecord, identity: str) -> tuple[BlockLedger | None, str]:
    """The ledger that an earlier run left, and why the data is not used where there is none, or nothing in it."""
    if not place.exists():
        return None, "the record of what was copied is missing"
    try:
        return BlockLedger.open(place, record.capacity_bytes, identity), "its record is empty"
    except TargetError as error:
        if error.code != LEDGER_UNUSABLE:
            raise
        place.unlink()
        return None, error.message
