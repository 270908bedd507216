"""A file for each disk: ``NAME.partial`` with ``NAME.partial.blocks`` while it grows, ``NAME`` at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from hypersdk.migration.heldfile import HeldFile, partial_path, size_of
from hypersdk.migration.images import ImageFormat
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
from hypersdk.transfer.files import target_errors


class DiskFiles(Outputs):
    """One file for each disk. Methods: see ``Outputs``."""

    parallel: ClassVar[bool] = True

    def __init__(self, run: RunRecord, spec: ExportSpec, image: ImageFormat, check: Callable[[], None]) -> None:
        super().__init__(run, spec, image, check)
        self._files: dict[str, HeldFile] = {}

    def reset_lost(self) -> None:
        """See Outputs."""
        for record in self._run.disks:
            if record.done and size_of(self._partial(record), self._final(record)) != record.size_bytes:
                record.reset()

    def _final(self, record: DiskRecord) -> Path:
        return self._run.folder / record.file_name

    def _partial(self, record: DiskRecord) -> Path:
        return partial_path(self._final(record), self._run.attempt_suffix)

    def _file(self, record: DiskRecord) -> HeldFile:
        """The open file of a disk. Each disk has one thread at a time; ``setdefault`` keeps the first all the same."""
        wanted = self.spec.file_hash if self.hashes_trees else FileHash.NONE
        file = HeldFile(self._final(record), self._run.attempt_suffix, wanted)
        return self._files.setdefault(record.file_name, file)

    @contextmanager
    def open(self, record: DiskRecord, identity: str, wrap: Wrap) -> Iterator[OpenDisk]:
        """See Outputs."""
        with ExitStack() as stack:
            found = self._ledger(stack, record, identity, has_data=self.has_data(record))
            file = self._file(record)
            file.opened(fresh=not found.trusted)
            stack.enter_context(file.following())
            yield self._opened(wrap(file.from_byte(0)), record, found)

    def has_data(self, record: DiskRecord) -> bool:
        """See Outputs."""
        return self._partial(record).exists()

    def finished(self, record: DiskRecord) -> FinishedFile:
        """See Outputs."""
        assert record.size_bytes is not None
        return FinishedFile(self._file(record), range(record.size_bytes))

    def forget(self, record: DiskRecord) -> None:
        """See Outputs."""
        self._check()
        with target_errors(f"removing {record.file_name}"):
            self._file(record).remove()
            self._blocks(record).unlink(missing_ok=True)

    def publish(self, descriptor: Callable[[], bytes], cancel: CancelToken) -> Published:  # noqa: ARG002 - only renames
        """See Outputs."""
        files = []
        for record in self._run.disks:
            self.publish_disk(record)
            assert record.size_bytes is not None
            files.append(PublishedFile(record.file_name, record.size_bytes, record.sha256, record.tree))
        return Published(files)

    def publish_disk(self, record: DiskRecord) -> None:
        """Renames a finished disk to its final name."""
        file = self._file(record)
        # Where its content could not be made durable, no ledger tells which blocks are good: the disk starts again.
        file.publish(on_lost=file.remove)

    def check(self) -> None:
        """See Outputs."""
        for file in self._files.values():
            file.check()

    def close(self) -> None:
        """See Outputs."""
        for file in self._files.values():
            file.close()
