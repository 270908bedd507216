"""The disks of one machine, copied in parallel and hashed as they finish. The same for vSphere and for local images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from hypersdk.errors import Cancelled
from hypersdk.formats.image import BLOCK, BlockFile
from hypersdk.migration.formats import FORMATS, Format
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.outputs import OpenDisk, Outputs
from hypersdk.migration.runfile import DiskRecord, RunFile
from hypersdk.migration.settings import RunResources
from hypersdk.migration.spec import Compression, ExportSpec, FileHash
from hypersdk.model import Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.disk import transfer_disk
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.folder import OutputFolder
from hypersdk.transfer.policies import CopyOptions, Policies
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.retry import RetryPolicy
from hypersdk.transfer.source import DiskSource
from hypersdk.transfer.space import SpaceWaitingFile
from hypersdk.units import format_size

READ_BACK_COST: Final = 1 / 10
"""The cost of reading a byte back for its SHA-256, which makes 1.4 GB/s of a core, relative to copying one: a lease's
stream makes 100 to 300 MB/s. A tree digest costs less. Used for the progress bar only."""

IMPORT_AFTER_S: Final = 1.0
"""When to import what publishes the files: not before the data flows, which it would delay, and not hours later, when
an upgrade of the package may have replaced the module."""


@dataclass(slots=True)
class DiskSet:
    """Copies disks into their files, and records each in the run file when it is done.

    ``verifier`` completes the digests of finished files while others are copied. ``warn`` adds to the result's
    warnings.
    """

    spec: ExportSpec
    run: RunFile
    outputs: Outputs
    folder: OutputFolder
    progress: MachineProgress
    resources: RunResources
    verifier: Executor
    warn: Callable[[str], None]
    _hashes: list[Future[None]] = field(default_factory=list)

    def copy(
        self, pairs: Sequence[tuple[DiskRecord, DiskSource]], identity: Callable[[int], str], cancel: CancelToken
    ) -> None:
        """Copies the disks, several at once. A failure ends the others and is raised.

        ``identity`` returns the point in time of a disk, by its key.
        """
        self.progress.phase(Phase.TRANSFERRING)
        group = cancel.child()
        width = self.spec.parallel if self.outputs.parallel else 1
        with ThreadPoolExecutor(max_workers=width, thread_name_prefix="disk") as pool:
            futures = [
                pool.submit(self._copy_one, record, source, identity(record.key), group) for record, source in pairs
            ]
            wait(futures, timeout=IMPORT_AFTER_S)
            import hypersdk.migration.publish  # noqa: F401 - see IMPORT_AFTER_S
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise next((error for error in errors if not isinstance(error, Cancelled)), errors[0])

    def _copy_one(self, record: DiskRecord, source: DiskSource, identity: str, cancel: CancelToken) -> None:
        meter = self.progress.meters[record.key]
        try:
            cancel.check()
            receipt, size, digest = self._transfer(record, source, identity, meter, cancel)
            self._save_when_room(lambda: self._note_done(record, receipt, size, digest), meter, cancel)
            self.outputs.close_disk(record)
        except BaseException as error:
            meter.enter(Phase.CANCELLED if isinstance(error, Cancelled) else Phase.FAILED)
            cancel.cancel("another disk of the machine failed")
            raise
        self.hash_later(record, cancel)

    def _note_done(self, record: DiskRecord, receipt: Receipt, size: int, digest: str | None) -> None:
        with self.run.changing():
            record.receipt, record.size_bytes, record.sha256 = receipt, size, digest

    def _save_when_room(self, save: Callable[[], None], meter: Meter, cancel: CancelToken) -> None:
        """Saves the run file. Waits for free space, as the images do, which may have used the last of it."""
        self.resources.space_gate(self.run.record.folder).retry_when_full(save, cancel, meter.waiting)

    def _transfer(
        self, record: DiskRecord, source: DiskSource, identity: str, meter: Meter, cancel: CancelToken
    ) -> tuple[Receipt, int, str | None]:
        """Copies one disk. Returns its receipt, the size of its file, and the SHA-256 where the writer computed it on
        the way."""
        gate = self.resources.space_gate(self.run.record.folder)

        def wait_for_space(file: BlockFile) -> BlockFile:
            return SpaceWaitingFile(file, gate, cancel, meter.waiting, guard=self._guard)

        self.folder.check()
        with self.outputs.open(record, identity, wait_for_space) as disk:
            if disk.restart_reason:
                self.warn(f"{record.label} is copied again from the start: {disk.restart_reason}")
            self._save_when_room(self.run.save, meter, cancel)  # its offset inside an OVA is known now
            meter.expect_read_back(self._read_back_share(record, disk))
            receipt = transfer_disk(
                source,
                disk.writer,
                disk.ledger,
                cancel=cancel,
                meter=meter,
                policies=Policies(
                    RetryPolicy(self.spec.retries), self.resources.limit, self.resources.budget, gate, self._guard
                ),
                options=CopyOptions(check=self.spec.compress is not Compression.UNCHECKED),
            )
            if receipt.blocks_damaged:
                self.warn(_damaged(record.label, receipt.blocks_damaged))
            with target_errors(f"finishing {record.file_name}"):
                return receipt, disk.file.size(), _digest_in_passing(disk)

    def _guard(self) -> None:
        """Called before every write to an image. Raises where this process may no longer write, or the folder is
        lost."""
        if (guard := self.resources.settings.guard) is not None:
            guard()
        self.folder.check_sometimes()

    @property
    def _format(self) -> Format:
        return FORMATS[self.spec.format]

    @property
    def _wants_sha256(self) -> bool:
        """Whether the file of each disk gets a SHA-256. An ``.mf`` needs it of every file, whatever was asked for."""
        asked = self.spec.file_hash is FileHash.SHA256
        return asked or self._format.package or (self.spec.file_hash is FileHash.TREE and not self.outputs.hashes_trees)

    def _read_back_share(self, record: DiskRecord, disk: OpenDisk) -> float:
        """The share of reading the file back in the work for a disk."""
        in_passing = not disk.resumed and (self._format.image.appended or not self._wants_sha256)
        if in_passing or not (self.outputs.hashes_trees or self._wants_sha256):
            return 0.0
        copied = self.progress.expected_bytes[record.key]
        file_bytes = record.capacity_bytes if self._format.image.full_length else copied
        return READ_BACK_COST * file_bytes / (READ_BACK_COST * file_bytes + copied)

    def hash_later(self, record: DiskRecord, cancel: CancelToken) -> None:
        """Has the digests of a finished file completed in the background."""
        self._hashes.append(self.verifier.submit(self._hash, record, cancel))

    def _hash(self, record: DiskRecord, cancel: CancelToken) -> None:
        meter = self.progress.meters[record.key]
        tree = self.outputs.hashes_trees and record.tree is None
        sha256 = self._wants_sha256 and record.sha256 is None
        if tree or sha256:
            assert record.size_bytes is not None
            meter.read_back(record.size_bytes)
        if tree:
            digest = self.outputs.tree(record, cancel, None if sha256 else meter.add_read_back)
            with self.run.changing():
                record.tree = digest
        if sha256:
            digest = self.outputs.sha256(record, cancel, meter.add_read_back)
            with self.run.changing():
                record.sha256 = digest
        meter.enter(Phase.DONE)

    def wait(self) -> None:
        """Waits for the digests that are still computed; they are in the run's record then. Raises the first
        error."""
        for future in self._hashes:
            future.result()


def _damaged(label: str, blocks: int) -> str:
    return (
        f"{label}: {format_size(blocks * BLOCK)} copied by the earlier run was damaged in the unfinished image and was"
        " copied again; check the drive that it is on"
    )


def _digest_in_passing(disk: OpenDisk) -> str | None:
    """The SHA-256 of an append-only writer, which hashes what it appends. None for other writers, and for an image that
    an earlier process started: that is read back."""
    digest: str | None = getattr(disk.writer, "sha256", None)
    return digest
