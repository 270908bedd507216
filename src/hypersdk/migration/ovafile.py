"""All disks in one tar file, ``STEM.ova.partial`` while it is written, one after another; ``NAME.partial.blocks`` for
each.

The offset of a disk depends only on the disks before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import ClassVar

from hypersdk.errors import Cancelled
from hypersdk.formats.image import BlockFile
from hypersdk.formats.ova import OvaWriter
from hypersdk.migration.heldfile import HeldFile, size_of
from hypersdk.migration.images import ImageFormat
from hypersdk.migration.naming import stem_of_run
from hypersdk.migration.outputs import (
    FinishedFile,
    OpenDisk,
    Outputs,
    Published,
    PublishedFile,
    Wrap,
)
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import ExportSpec, FileHash
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import has_name, sha256_of, target_errors


class OvaFile(Outputs):
    """All disks in one OVA. Methods: see ``Outputs``."""

    parallel: ClassVar[bool] = False

    def __init__(self, run: RunRecord, spec: ExportSpec, image: ImageFormat, check: Callable[[], None]) -> None:
        super().__init__(run, spec, image, check)
        self._records = run.disks
        self._stem = stem_of_run(run)
        self._file = HeldFile(run.folder / f"{self._stem}.ova", run.attempt_suffix, spec.file_hash)

    def reset_lost(self) -> None:
        """See Outputs. A disk in an archive ends where the next one starts, so the disks after a lost one start again,
        too."""
        size = size_of(self._file.partial, self._file.final)
        lost = False
        for record in self._records:
            lost = lost or (record.done and _region(record).stop > size)
            if lost:
                record.reset()

    @contextmanager
    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> Iterator[OpenDisk]:
        """See Outputs."""
        self._take_name_back(record)
        with ExitStack() as stack:
            found = self._ledger(stack, record, identity, has_data=self.has_data(record))
            first = record is self._records[0]
            fresh = not self._file.partial.exists() or (first and not found.trusted)
            self._file.opened(fresh=fresh)
            stack.enter_context(self._file.following())
            record.start = self._archive(self._file.from_byte(0), until=record).data_offset(record.file_name)
            file = wrap(self._file.from_byte(record.start))
            if not found.trusted:
                file.truncate(0)
            yield self._opened(file, record, found)

    def _take_name_back(self, record: DiskRecord) -> None:
        """Renames a published archive back where a disk of it must be copied again: the disks before it are still in
        there."""
        if record is not self._records[0] and not self._file.partial.exists():
            self._file.take_back()

    def _archive(self, file: BlockFile, until: DiskRecord | None) -> OvaWriter:
        """The archive with all members before ``until``; their headers are written again, with the same content."""
        # The modification time of the members must not change when the run is resumed.
        started_s = int(datetime.fromisoformat(self._run.started_at).timestamp())
        archive = OvaWriter(file, f"{self._stem}.ovf", mtime_s=started_s)
        for record in self._records:
            if record is until:
                break
            assert record.size_bytes is not None
            archive.add_member(record.file_name, record.size_bytes)
        return archive

    def has_data(self, record: DiskRecord) -> bool:
        """See Outputs."""
        return record.start is not None and self._file.partial.exists()

    def finished(self, record: DiskRecord) -> FinishedFile:
        """See Outputs."""
        return FinishedFile(self._file, _region(record))

    def forget(self, record: DiskRecord) -> None:
        """See Outputs. Disks after it move, so the caller removes all, or the last ones."""
        self._check()
        with target_errors(f"removing {self._file.final.name}"):
            self._blocks(record).unlink(missing_ok=True)
            if record is self._records[0]:
                self._file.remove()

    def publish(self, descriptor: Callable[[], bytes], cancel: CancelToken) -> Published:
        """See Outputs."""
        self.publish_archive(descriptor)
        tree, sha256 = self.archive_digests(cancel)
        archive = PublishedFile(self._file.final.name, os.fstat(self._file.whole).st_size, sha256, tree)
        return Published([archive], archive)

    def publish_archive(self, descriptor: Callable[[], bytes]) -> None:
        """Writes the descriptor, the ``.mf`` and the end of the archive, and renames it to its final name."""
        file = self._file
        if has_name(file.whole, file.final):
            return
        digests = {record.file_name: record.sha256 for record in self._records if record.sha256}
        with target_errors(f"finishing {file.final.name}"):
            self._archive(file.from_byte(0), until=None).finish(descriptor(), digests)
        file.publish()

    def archive_digests(self, cancel: CancelToken) -> tuple[str | None, str | None]:
        """Tree digest and SHA-256 of the whole archive, where they are wanted; they are known only now. When that is
        cancelled the archive loses its final name again, as it is not published yet."""
        wanted = self.spec.file_hash
        try:
            return (
                self._file.tree_digest(cancel) if wanted is not FileHash.NONE else None,
                sha256_of(self._file.whole, self._file.final.name, cancel) if wanted is FileHash.SHA256 else None,
            )
        except Cancelled:
            self._file.take_back()
            raise

    def check(self) -> None:
        """See Outputs."""
        self._file.check()

    def close(self) -> None:
        """See Outputs."""
        self._file.close()


def _region(record: DiskRecord) -> range:
    """The bytes of the archive that are the finished disk."""
    assert record.start is not None
    assert record.size_bytes is not None
    return range(record.start, record.start + record.size_bytes)
