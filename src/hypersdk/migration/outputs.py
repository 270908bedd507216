"""The files that disks are written to: one each, or one after another inside an OVA.

::

    DiskFiles   NAME.partial (+ NAME.partial.blocks) for each disk; disks in parallel
    OvaFile     STEM.ova.partial with the disks as members (+ NAME.partial.blocks for each); one disk at a time

Both open a disk fresh or, where its ledger proves that what lies there is of the same point in time, where it ended.

A file that was opened stays open until the outputs are closed: it is hashed, finished and published by that descriptor,
and a file of the same name that somebody else put there is never taken for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from hypersdk.errors import Cancelled, IntegrityError, TargetError
from hypersdk.formats.image import BLOCK, BlockFile, ImageWriter
from hypersdk.formats.ova import DESCRIPTOR_ROOM, OvaWriter
from hypersdk.formats.qcow2.writer import Qcow2Writer
from hypersdk.formats.qcow2.writer import most_bytes as qcow2_most_bytes
from hypersdk.formats.raw import RawWriter
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.formats.vmdk.writer import most_bytes as vmdk_most_bytes
from hypersdk.migration.naming import BLOCKS, MANIFEST_NAME, PARTIAL
from hypersdk.migration.runfile import LOCK_FILE, DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.transfer.blockfile import FdFile, RegionFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import (
    check_name,
    has_name,
    open_output,
    publish,
    remove_own,
    sha256_of,
    shown_path,
    target_errors,
)
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


class Outputs(Protocol):
    """Where the disks of one machine go."""

    parallel: bool
    """Whether several disks may be open at the same time."""

    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> AbstractContextManager[OpenDisk]:
        """Opens one disk for writing; ``identity`` names its point in time, ``wrap`` goes around its file. Raises
        TargetError."""
        ...

    def close_disk(self, record: DiskRecord) -> None:
        """Notes that the disk is finished: ``record`` has its size and receipt. May be called again."""
        ...

    def begun(self, record: DiskRecord) -> bool:
        """Whether something of the disk was written already."""
        ...

    def recorded_bytes(self, record: DiskRecord) -> int:
        """About how many of the guest's bytes an earlier run recorded as written. Raises TargetError."""
        ...

    def finished(self, record: DiskRecord) -> AbstractContextManager[FinishedFile]:
        """The file of a finished disk, published or not. Raises TargetError."""
        ...

    def sha256(self, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """Hex SHA-256 of the finished, unpublished disk, read back from its file. Raises TargetError and Cancelled."""
        ...

    def forget(self, record: DiskRecord) -> None:
        """Removes what was written of the disk. Raises TargetError."""
        ...

    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where a published file is not the one that this run wrote."""
        ...

    def close(self) -> None:
        """Lets go of the files."""
        ...


def outputs_for(
    spec: ExportSpec, folder: Path, stem: str, run: RunRecord, check: Callable[[], None] = lambda: None
) -> Outputs:
    """Where the disks of ``run`` go. Those that were finished and whose files are gone, or have another size by now,
    begin again.

    ``check`` is called before something is removed by its name, and raises where the files of these names may be
    another run's.
    """
    with target_errors(f"looking into {shown_path(folder)}"):
        if spec.format is not OutputFormat.OVA:
            _begin_lost_files_again(folder, run)
            return DiskFiles(spec, folder, run.lane, check)
        _begin_lost_members_again(folder / f"{stem}.ova", run)
    mtime_s = int(datetime.fromisoformat(run.started_at).timestamp())
    return OvaFile(spec, folder, stem, run.disks, run.lane, mtime_s, check)


def most_bytes(spec: ExportSpec, capacity: int, allocated: int | None) -> int:
    """What a disk's file takes at most on the file system, written in one run. All of the disk counts where
    ``allocated`` is not known.

    A raw image is as long as its disk, but what counts is the room of its data and of the file system's map of it.
    """
    blocks = -(-min(capacity, capacity if allocated is None else allocated) // BLOCK)
    if spec.format is OutputFormat.RAW:
        return blocks * BLOCK + blocks * BLOCK // 1000 + BLOCK
    if spec.format is OutputFormat.QCOW2:
        return qcow2_most_bytes(capacity, blocks, compressed=spec.compress is not Compression.NONE)
    return vmdk_most_bytes(capacity, blocks)


def most_bytes_around(spec: ExportSpec, disks: int) -> int:
    """What lies beside the images, or around them in an OVA: descriptor, ``.mf``, manifest, headers."""
    small = (disks + 1) * BLOCK
    return small + (DESCRIPTOR_ROOM if spec.format is OutputFormat.OVA else 0)


class _OwnFile:
    """One output of this run, by the descriptor that it was written with, and by that of an earlier process's file
    where one is gone on with."""

    def __init__(self, final: Path, lane: str) -> None:
        self.final: Final = final
        self.partial: Final = partial_path(final, lane)
        self._descriptor: int | None = None

    def opened(self, *, fresh: bool) -> int:
        """To be written: a new file, or the one that is there. Raises TargetError, ``output_replaced`` where another
        took its place."""
        if self._descriptor is not None:
            check_name(self._descriptor, self.partial)
            if not fresh:
                return self._descriptor
        descriptor = open_output(self.partial, fresh=fresh)
        self.close()
        self._descriptor = descriptor
        return descriptor

    @property
    def whole(self) -> int:
        """The finished file, by whichever name it has. Raises TargetError."""
        if self._descriptor is None:
            unfinished = os.path.lexists(self.partial) or not os.path.lexists(self.final)
            self._descriptor = open_output(self.partial if unfinished else self.final, fresh=False)
        return self._descriptor

    def publish(self, on_lost: Callable[[], None] | None = None) -> None:
        """Gives it its final name; again after a crash in between, where it may have it already. Raises TargetError."""
        if not has_name(self.whole, self.final):
            publish(self.partial, self.final, self.whole, on_lost)

    def take_back(self) -> None:
        """Gives it its unfinished name again. Raises TargetError."""
        check_name(self.whole, self.final)
        with target_errors(f"taking {self.final.name} back"):
            self.final.replace(self.partial)

    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where another file has the final name."""
        check_name(self.whole, self.final)

    def remove(self) -> None:
        """Removes the unfinished file; another's that has its name by now is left alone."""
        if self._descriptor is not None:
            remove_own(self._descriptor, self.partial)
            self.close()
        else:
            self.partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class DiskFiles:
    """One file for each disk."""

    parallel = True

    def __init__(
        self, spec: ExportSpec, folder: Path, lane: str = "", check: Callable[[], None] = lambda: None
    ) -> None:
        """``lane`` ends the names of partial files (see ``RunRecord``). ``check``: see ``outputs_for``."""
        self._spec = spec
        self._folder = folder
        self._lane = lane
        self._check = check
        self._files: dict[str, _OwnFile] = {}

    def _file(self, record: DiskRecord) -> _OwnFile:
        """Each disk has one thread at a time; ``setdefault`` keeps the one that came first all the same."""
        return self._files.setdefault(record.file_name, _OwnFile(self._folder / record.file_name, self._lane))

    @contextmanager
    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> Iterator[OpenDisk]:
        """See Outputs."""
        path = self._folder / record.file_name
        with ExitStack() as stack:
            found = _open_ledger(
                stack,
                self._spec,
                blocks_path(path, self._lane),
                record,
                identity,
                partial_path(path, self._lane).exists(),
            )
            descriptor = self._file(record).opened(fresh=not found.trusted)
            yield _open_disk(self._spec, wrap(FdFile(descriptor)), record, found)

    def close_disk(self, record: DiskRecord) -> None:
        """The ledger has served: a finished disk is never opened again."""
        self._check()
        with target_errors(f"finishing {record.file_name}"):
            blocks_path(self._folder / record.file_name, self._lane).unlink(missing_ok=True)

    def begun(self, record: DiskRecord) -> bool:
        """See Outputs."""
        return partial_path(self._folder / record.file_name, self._lane).exists()

    def recorded_bytes(self, record: DiskRecord) -> int:
        """See Outputs."""
        return _recorded_bytes(self._folder, record, self._lane) if self.begun(record) else 0

    @contextmanager
    def finished(self, record: DiskRecord) -> Iterator[FinishedFile]:
        """See Outputs."""
        assert record.size_bytes is not None
        yield FinishedFile(self._file(record).whole, range(record.size_bytes))

    def sha256(self, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """See Outputs."""
        file = self._file(record)
        return sha256_of(file.partial, cancel, on_bytes, written=file.whole)

    def forget(self, record: DiskRecord) -> None:
        """See Outputs."""
        self._check()
        with target_errors(f"removing {record.file_name}"):
            self._file(record).remove()
            blocks_path(self._folder / record.file_name, self._lane).unlink(missing_ok=True)

    def publish(self, record: DiskRecord) -> None:
        """Gives a finished disk its final name; again after a crash in between, where only some have theirs."""
        file = self._file(record)
        # Where its content is lost, its ledger is gone and nothing says which blocks are there: the disk begins again.
        file.publish(on_lost=file.remove)

    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where a published disk is not the one that this run wrote."""
        for file in self._files.values():
            file.check()

    def close(self) -> None:
        """See Outputs."""
        for file in self._files.values():
            file.close()


class OvaFile:
    """All disks in one tar file, one after another. A disk's place depends only on those before it."""

    parallel = False

    def __init__(
        self,
        spec: ExportSpec,
        folder: Path,
        stem: str,
        records: list[DiskRecord],
        lane: str,
        mtime_s: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``records`` are all disks in unit order; ``mtime_s`` (Unix time) is the same in every run that resumes this
        one. ``check``: see ``outputs_for``."""
        self._lane = lane
        self._check = check
        self._spec = spec
        self._folder = folder
        self._stem = stem
        self._records = records
        self._mtime_s = mtime_s
        self.path = folder / f"{stem}.ova"
        self._file = _OwnFile(self.path, lane)

    @contextmanager
    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> Iterator[OpenDisk]:
        """See Outputs."""
        self._take_name_back(record)
        with ExitStack() as stack:
            exists = partial_path(self.path, self._lane).exists()
            place = blocks_path(self._folder / record.file_name, self._lane)
            found = _open_ledger(stack, self._spec, place, record, identity, exists and record.start is not None)
            first = record is self._records[0]
            descriptor = self._file.opened(fresh=not exists or (first and not found.trusted))
            record.start = self._archive(FdFile(descriptor), until=record).begin_member(record.file_name)
            file = RegionFile(wrap(FdFile(descriptor)), record.start)
            if not found.trusted:
                file.truncate(0)
            yield _open_disk(self._spec, file, record, found)

    def _take_name_back(self, record: DiskRecord) -> None:
        """Where the archive was published and a disk of it must be copied again, those before it are still in there."""
        if record is not self._records[0] and not self._file.partial.exists():
            self._file.take_back()

    def _archive(self, file: BlockFile, until: DiskRecord | None) -> OvaWriter:
        """The archive with all members before ``until``; their headers are written again, which changes nothing."""
        archive = OvaWriter(file, f"{self._stem}.ovf", mtime_s=self._mtime_s)
        for record in self._records:
            if record is until:
                break
            assert record.size_bytes is not None
            archive.begin_member(record.file_name)
            archive.end_member(record.size_bytes)
        return archive

    def close_disk(self, record: DiskRecord) -> None:
        """See Outputs."""
        self._check()
        with target_errors(f"finishing {record.file_name}"):
            blocks_path(self._folder / record.file_name, self._lane).unlink(missing_ok=True)

    def begun(self, record: DiskRecord) -> bool:
        """See Outputs."""
        return record.start is not None and partial_path(self.path, self._lane).exists()

    def recorded_bytes(self, record: DiskRecord) -> int:
        """See Outputs."""
        return _recorded_bytes(self._folder, record, self._lane) if self.begun(record) else 0

    @contextmanager
    def finished(self, record: DiskRecord) -> Iterator[FinishedFile]:
        """See Outputs."""
        assert record.start is not None
        assert record.size_bytes is not None
        yield FinishedFile(self._file.whole, range(record.start, record.start + record.size_bytes))

    def sha256(self, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        """See Outputs."""
        assert record.start is not None
        assert record.size_bytes is not None
        region = range(record.start, record.start + record.size_bytes)
        return sha256_of(self._file.partial, cancel, on_bytes, region, written=self._file.whole)

    def forget(self, record: DiskRecord) -> None:
        """See Outputs. Disks behind it move, so they go with it: the caller forgets all or the last ones."""
        self._check()
        with target_errors(f"removing {self.path.name}"):
            blocks_path(self._folder / record.file_name, self._lane).unlink(missing_ok=True)
            if record is self._records[0]:
                self._file.remove()

    def publish(self, descriptor: bytes, digests: Mapping[str, str]) -> None:
        """Writes the end, the ``.mf`` and the descriptor and gives the archive its name; again after a crash in
        between.

        ``digests`` has the SHA-256 of every disk by file name.
        """
        file = self._file
        if has_name(file.whole, file.final):
            return
        with target_errors(f"finishing {self.path.name}"):
            self._archive(FdFile(file.whole), until=None).finish(descriptor, digests)
        file.publish()

    def size(self) -> int:
        """Bytes of the whole archive."""
        return os.fstat(self._file.whole).st_size

    def archive_sha256(self, cancel: CancelToken) -> str:
        """Of the whole archive, which is known only now. Where that is cancelled it loses its name again: it is not
        published yet."""
        try:
            return sha256_of(self.path, cancel, written=self._file.whole)
        except Cancelled:
            self._file.take_back()
            raise

    def check(self) -> None:
        """Raises TargetError ``output_replaced`` where the archive's name leads to another file."""
        self._file.check()

    def close(self) -> None:
        """See Outputs."""
        self._file.close()


def partial_path(path: Path, lane: str = "") -> Path:
    """Where ``path`` grows until it is whole."""
    return path.with_name(path.name + PARTIAL + lane)


def blocks_path(path: Path, lane: str = "") -> Path:
    """The ledger of ``path``'s blocks, beside its partial file."""
    return path.with_name(path.name + PARTIAL + lane + BLOCKS)


def remove_other_lanes(folder: Path, names: Sequence[str], lane: str) -> None:
    """Removes partial files of published ``names`` that other lanes left: a process that still has them open writes
    into nothing."""
    with target_errors(f"removing what another process left in {shown_path(folder)}"):
        for path in folder.iterdir():
            of_ours = any(path.name.startswith(name + PARTIAL) for name in names)
            lock = path.name.startswith(LOCK_FILE) and path.name != LOCK_FILE + lane
            if of_ours or lock:
                path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, stem: str) -> None:
    """Removes what grew in ``folder`` for a machine whose run nobody can read any more."""
    ours = re.compile(rf"{re.escape(stem)}(-disk\d+)?\.[a-z0-9]+{re.escape(PARTIAL)}")
    with target_errors(f"removing what an unfinished run left in {shown_path(folder)}"):
        for path in folder.iterdir():
            if ours.match(path.name):
                path.unlink(missing_ok=True)


def remove_half_published(folder: Path, run: RunRecord, stem: str) -> None:
    """Removes what ``run``, which is given up, had named already when it ended in the middle of publishing. Where a
    manifest is, it had not begun to, and the names are those of the export that it was to replace."""
    names = [record.file_name for record in run.disks] + [f"{stem}{suffix}" for suffix in (".ova", ".ovf", ".mf")]
    with target_errors(f"removing what an earlier run left in {shown_path(folder)}"):
        if run.copied and not os.path.lexists(folder / MANIFEST_NAME):
            for name in names:
                (folder / name).unlink(missing_ok=True)


def _begin_lost_files_again(folder: Path, run: RunRecord) -> None:
    for record in run.disks:
        path = folder / record.file_name
        if record.done and _size(partial_path(path, run.lane), path) != record.size_bytes:
            record.begin_again()


def _begin_lost_members_again(archive: Path, run: RunRecord) -> None:
    """A disk in an archive ends where the next one starts, so those behind a lost one go with it."""
    size = _size(partial_path(archive, run.lane), archive)
    lost = False
    for record in run.disks:
        lost = lost or (record.done and (record.start or 0) + (record.size_bytes or 0) > size)
        if lost:
            record.begin_again()


def _size(partial: Path, final: Path) -> int:
    """Bytes of an output, by the name that it has; -1 where it has neither."""
    for path in (partial, final):
        with suppress(FileNotFoundError):
            return path.lstat().st_size
    return -1


def _recorded_bytes(folder: Path, record: DiskRecord, lane: str) -> int:
    with target_errors(f"looking at {record.file_name}"):
        return min(record.capacity_bytes, BlockLedger.recorded_about(blocks_path(folder / record.file_name, lane)))


@dataclass(frozen=True, slots=True)
class _Found:
    """The disk's ledger, and whether it vouches for anything that lies in its file; if not and there is a file, why."""

    ledger: BlockLedger | None
    trusted: bool
    reason: str = ""


def _open_ledger(
    stack: ExitStack, spec: ExportSpec, place: Path, record: DiskRecord, identity: str, has_data: bool
) -> _Found:
    """The disk's ledger; a new one where the old does not fit.

    The identity holds the point in time and how the bytes are laid down, so a ledger is never used for another image.
    """
    if spec.compress is Compression.UNCHECKED:
        return _Found(None, False, "unchecked compression keeps no record of what was copied" if has_data else "")
    whole_identity = f"{identity}/{spec.format}/{spec.compress}"
    reason = "the record of what was copied is missing" if has_data else ""
    if has_data and place.exists():
        try:
            ledger = BlockLedger.open(place, record.capacity_bytes, whole_identity)
        except TargetError as error:
            if error.code != LEDGER_UNUSABLE:
                raise
            reason = error.message
            place.unlink()
        else:
            stack.callback(ledger.close)
            return _Found(ledger, ledger.recorded > 0, "nothing of it was on record")
    ledger = BlockLedger.create(place, record.capacity_bytes, whole_identity)
    stack.callback(ledger.close)
    return _Found(ledger, False, reason)


QCOW2_COMPRESSION: dict[Compression, Literal["none", "pass", "repack"]] = {
    Compression.NONE: "none",
    Compression.CHECKED: "pass",
    Compression.UNCHECKED: "pass",
    Compression.REPACK: "repack",
}


def _open_disk(spec: ExportSpec, file: BlockFile, record: DiskRecord, found: _Found) -> OpenDisk:
    """The writer of the format: of a new image, or of the one that the ledger knows. One that cannot be gone on with is
    begun again."""
    capacity, ledger, reason = record.capacity_bytes, found.ledger, found.reason
    with target_errors(f"opening {record.file_name}"):
        if ledger is not None and found.trusted:
            try:
                with ledger.syncing():  # a VMDK is put in order first
                    return OpenDisk(_resumed_writer(spec, file, capacity, ledger), ledger, file, resumed=True)
            except IntegrityError as error:
                reason = error.message
                ledger.begin_again()  # before the image goes: a record must never outlive its block
        return OpenDisk(_new_writer(spec, file, capacity), ledger, file, resumed=False, begun_again=reason)


def _new_writer(spec: ExportSpec, file: BlockFile, capacity: int) -> ImageWriter:
    if spec.format is OutputFormat.RAW:
        return RawWriter.create(file, capacity)
    if spec.format is OutputFormat.QCOW2:
        return Qcow2Writer.create(file, capacity, compression=QCOW2_COMPRESSION[spec.compress])
    return StreamOptimizedWriter.create(file, capacity)


def _resumed_writer(spec: ExportSpec, file: BlockFile, capacity: int, ledger: BlockLedger) -> ImageWriter:
    if spec.format is OutputFormat.RAW:
        return RawWriter.resume(file, capacity)
    if spec.format is OutputFormat.QCOW2:
        return Qcow2Writer.resume(file, capacity, compression=QCOW2_COMPRESSION[spec.compress], trusted=ledger.has)
    return StreamOptimizedWriter.resume(file, capacity, trusted=ledger.has)
