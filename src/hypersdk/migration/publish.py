"""The end of an export: final names, descriptor, ``.mf``, and the manifest last. Absent means not done.

Every step can be repeated, so a crash in the middle of publishing is finished by the next ``--resume``.

Before the manifest and after it, each name must lead to the file that this run wrote, and the folder's name to the
folder that was written into:
the manifest speaks of those bytes, and the result of that place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import IntegrityError, TargetError
from hypersdk.formats.ovf import OvfDisk, adapt_ovf, build_ovf
from hypersdk.migration.formats import FORMATS, Format
from hypersdk.migration.manifest import (
    MAX_MANIFEST_BYTES,
    DiskArtifact,
    ExportFacts,
    artifact_manifest,
    manifest_text,
    read_manifest,
)
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.outputs import Outputs, Published, PublishedFile
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import Disk, Machine
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import check_name, open_regular, remove_own, shown_path, target_errors, write_held
from hypersdk.transfer.folder import FOLDER_MOVED, OutputFolder

UNPROVED_UNKNOWN: Final = "unproved: the run does not say whether the server's manifest was compared"
NO_HASH_WARNING: Final = "the files were not hashed: verify can compare their sizes only"


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What lies in ``output_dir`` now. ``proof`` is ``proved`` or ``unproved: <why>``; ``content`` maps disk files to
    their guest-content digest."""

    machine: str
    output_dir: Path
    files: tuple[PublishedFile, ...]
    main_file: str
    proof: str
    content: Mapping[str, str | None]
    warnings: tuple[str, ...]
    wire_bytes: int
    data_bytes: int
    written_bytes: int
    capacity_bytes: int
    blocks_written: int
    blocks_skipped: int
    elapsed_s: float
    restored: bool
    method: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "output_dir": str(self.output_dir)}


@dataclass(frozen=True, slots=True)
class Finished:
    """How the run went, known when all is copied."""

    warnings: tuple[str, ...]
    restored: bool
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Publishing:
    """One machine's files on their way to their final names."""

    spec: ExportSpec
    machine: Machine
    stem: str
    run: RunRecord
    outputs: Outputs
    folder: OutputFolder
    finished: Finished
    cancel: CancelToken
    described: bool = True
    """Whether the machine is known well enough for a descriptor beside its images."""
    provider: str = "vsphere"
    empty_disks: Sequence[OvfDisk] = ()
    """Disks that the descriptor has without a file."""
    _small: dict[str, int] = field(default_factory=dict)
    """Descriptors of the files that are written here, by name."""

    def publish(self) -> ExportResult:
        """All of it. Raises Cancelled, and TargetError, also where the folder or a file is not this run's any more;
        IntegrityError only where a file changed since it was written."""
        folder = self.run.folder
        self.folder.check()
        with target_errors(f"publishing into {shown_path(folder)}"):
            (folder / MANIFEST_NAME).unlink(missing_ok=True)  # with --force: no manifest while its files are replaced
        with ExitStack() as stack:
            stack.callback(self._let_go)
            published = self._format.publish(self.outputs, self)
            warnings = list(self.finished.warnings)
            if not self.spec.file_hash and any(file.sha256 is None for file in published.files):
                warnings.append(NO_HASH_WARNING)
            text = manifest_text(self._manifest(published, warnings))
            self._check_own()
            self.write(MANIFEST_NAME, text)
            self._check_manifest()
        return self._result(published.files, warnings)

    @property
    def _format(self) -> Format:
        return FORMATS[self.spec.format]

    def _check_own(self) -> None:
        """Raises TargetError where the folder or a published name is not this run's any more."""
        self.folder.check()
        self.outputs.check()
        for name, descriptor in self._small.items():
            check_name(descriptor, self.run.folder / name)

    def _check_manifest(self) -> None:
        """Once more, now that all is there. A manifest beside files that are not this run's goes; in a folder that was
        moved it is true, and whoever waited for it may have moved the folder."""
        try:
            self._check_own()
        except TargetError as error:
            if error.code != FOLDER_MOVED:
                remove_own(self._small[MANIFEST_NAME], self.run.folder / MANIFEST_NAME)
            raise

    def _let_go(self) -> None:
        for descriptor in self._small.values():
            os.close(descriptor)
        self._small.clear()

    def published(self) -> ExportResult:
        """The result of a run that was published before, as its manifest tells it; nothing is written. Raises
        TargetError and IntegrityError."""
        place = self.run.folder / MANIFEST_NAME
        with target_errors(f"reading {shown_path(place)}"), open(open_regular(place), "rb") as file:
            manifest = read_manifest(file.read(MAX_MANIFEST_BYTES + 1))
        files = [
            PublishedFile(file.name, file.bytes, file.checksum.removeprefix("sha256:") if file.checksum else None)
            for file in manifest.files
        ]
        if not files:
            raise TargetError(f"{shown_path(place)} names no file")
        return self._result(files, self.finished.warnings)

    # Files

    def write(self, name: str, data: bytes) -> PublishedFile:
        """See Publication."""
        self._small[name] = write_held(self.run.folder / name, data, check=self.folder.check)
        return PublishedFile(name, len(data), hashlib.sha256(data).hexdigest())

    def descriptor(self) -> bytes:
        """The server's descriptor with our files in it, else our own."""
        disks = [
            OvfDisk(
                device_key=record.key,
                file_name=record.file_name,
                size_bytes=record.size_bytes or 0,
                capacity_bytes=record.capacity_bytes,
                populated_bytes=record.receipt.data_bytes if record.receipt else None,
                format=self._format.image.in_ovf,
                lease_key=record.lease_key,
                disk_id=record.ovf_disk_id,
            )
            for record in self.run.disks
        ]
        disks += self.empty_disks
        if self.run.descriptor is not None:
            try:
                return adapt_ovf(self.run.descriptor.encode(), disks)
            except IntegrityError:
                # Servers differ in what they write; ours describes the same machine from its own properties.
                return build_ovf(self.machine, disks)
        return build_ovf(self.machine, disks)

    # Manifest and result

    @property
    def _proof(self) -> str:
        """Never empty: a reader would take it for anything. Runs that earlier releases published may have none."""
        return self.run.proof or UNPROVED_UNKNOWN

    def _main_file(self, files: Sequence[PublishedFile]) -> str:
        """The file to start from: the archive, else the descriptor, else the first disk."""
        names = [file.name for file in files]
        return next((name for suffix in (".ova", ".ovf") for name in names if name.endswith(suffix)), names[0])

    def _manifest(self, published: Published, warnings: Sequence[str]) -> dict[str, Any]:
        now = datetime.now(UTC)
        facts = ExportFacts(
            format=self.spec.format.value,
            disk_format=self._format.image.suffix,
            provider=self.provider,
            method=self.run.method or self.spec.method.value,
            folder=self.spec.shown_dir,
            main_file=self._main_file(published.files),
            point_in_time=self.run.point.describe() if self.run.point else "the file as it was read",
            proof=self._proof,
            exported_at=datetime.fromisoformat(self.run.started_at),
            created_at=now,
            job_id=self.spec.job_id,
            job_name=self.spec.job_name,
            tags=self.spec.metadata,
            warnings=[("export", text) for text in warnings],
        )
        return artifact_manifest(self.machine, self._disk_artifacts(published.archive), published.files, facts)

    def _disk_artifacts(self, archive: PublishedFile | None) -> list[DiskArtifact]:
        disks: dict[int, Disk] = {disk.key: disk for disk in self.machine.disks}
        return [self._disk_artifact(disks[record.key], record, archive) for record in self.run.disks]

    def _disk_artifact(self, disk: Disk, record: DiskRecord, archive: PublishedFile | None) -> DiskArtifact:
        assert record.receipt is not None
        assert record.size_bytes is not None
        own = PublishedFile(record.file_name, record.size_bytes, record.sha256)
        return DiskArtifact(
            disk=disk,
            file=archive or own,
            receipt=record.receipt,
            verdict=self._proof,
            member=own if archive else None,
            member_offset=record.start or 0,
        )

    def _result(self, files: Sequence[PublishedFile], warnings: Sequence[str]) -> ExportResult:
        receipts = {record.file_name: record.receipt for record in self.run.disks if record.receipt}
        return ExportResult(
            machine=self.machine.name,
            output_dir=self.spec.shown_dir,
            files=tuple(files),
            main_file=self._main_file(files),
            proof=self._proof,
            content={name: receipt.content for name, receipt in receipts.items()},
            warnings=tuple(warnings),
            wire_bytes=sum(receipt.wire_bytes for receipt in receipts.values()),
            data_bytes=sum(receipt.data_bytes for receipt in receipts.values()),
            written_bytes=sum(record.size_bytes or 0 for record in self.run.disks),
            capacity_bytes=sum(receipt.capacity_bytes for receipt in receipts.values()),
            blocks_written=sum(receipt.blocks_written for receipt in receipts.values()),
            blocks_skipped=sum(receipt.blocks_skipped for receipt in receipts.values()),
            elapsed_s=self.finished.elapsed_s,
            restored=self.finished.restored,
            method=self.run.method or self.spec.method.value,
        )
