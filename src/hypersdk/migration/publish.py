"""The end of an export: final names, descriptor, ``.mf``, and the manifest last. Without a manifest an export is not
finished.

Every step can be repeated, so a crash in the middle of publishing is finished by the next ``--resume``.

Before and after the manifest is written, each name must lead to the file that this run wrote, and the folder's name to
the folder that was written into: the manifest describes those bytes, and the result that folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from hypersdk import __version__
from hypersdk.errors import IntegrityError, TargetError
from hypersdk.formats.mf import format_mf
from hypersdk.formats.ovf import OvfDisk, adapt_ovf, build_ovf
from hypersdk.migration.formats import FORMATS, Format
from hypersdk.migration.manifest import (
    CONTENT_ALGORITHM,
    MANIFEST_VERSION,
    MAX_MANIFEST_BYTES,
    ArtifactManifest,
    DiskFacts,
    DiskPart,
    FilePart,
    MemberPart,
    MetadataFacts,
    MetadataPart,
    NicFacts,
    NicPart,
    OutputPart,
    PipelinePart,
    SourcePart,
    StreamPart,
    TreePart,
    VmPart,
    WarningPart,
    hex_of,
    manifest_text,
    os_family,
    read_manifest,
    timestamp,
    tree_of,
)
from hypersdk.migration.naming import MANIFEST_NAME, stem_of_run
from hypersdk.migration.outputs import Outputs, Published, PublishedFile
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import Disk, Firmware, Machine, boot_sequence
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import check_name, open_regular, remove_own, shown_path, target_errors, write_held
from hypersdk.transfer.folder import FOLDER_MOVED, OutputFolder
from hypersdk.transfer.treehash import LEAF, TREE_ALGORITHM
from hypersdk.units import GiB, align_up

UNPROVED_UNKNOWN: Final = "unproved: the run does not say whether the server's manifest was compared"
NO_HASH_WARNING: Final = "the files were not hashed: verify can compare their sizes only"


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The result of an export in ``output_dir``. ``proof`` is ``proved`` or ``unproved: <why>``; ``content`` maps disk
    files to their guest-content digest."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """Publishes the files of one machine, whose disks are all copied. ``warnings`` and ``elapsed_s`` are those of the
    run, ``restored`` says whether its source was restored."""

    spec: ExportSpec
    machine: Machine
    run: RunRecord
    outputs: Outputs
    folder: OutputFolder
    cancel: CancelToken
    warnings: Sequence[str]
    restored: bool
    elapsed_s: float
    described: bool = True
    """Whether enough is known of the machine for a descriptor next to its images."""
    provider: str = "vsphere"
    empty_disks: Sequence[OvfDisk] = ()
    """Disks that the descriptor lists without a file."""
    _small: dict[str, int] = field(default_factory=dict)
    """File descriptors of the files that are written here, by name."""

    def publish(self) -> ExportResult:
        """Publishes all files, the manifest last. Raises Cancelled; TargetError, also where the folder or a file no
        longer belongs to this run; IntegrityError where a file changed since it was written."""
        folder = self.run.folder
        self.folder.check()
        with target_errors(f"publishing into {shown_path(folder)}"):
            (folder / MANIFEST_NAME).unlink(missing_ok=True)  # with --force: no manifest while its files are replaced
        with ExitStack() as stack:
            stack.callback(self._close_small)
            published = self._publish_files()
            warnings = list(self.warnings)
            if not all(file.hashed for file in published.files):
                warnings.append(NO_HASH_WARNING)
            text = manifest_text(self._manifest(published, warnings))
            self._check_own()
            self.write(MANIFEST_NAME, text)
            self._check_manifest()
        return self._result(published.files, warnings)

    def _publish_files(self) -> Published:
        """Publishes all files but the manifest."""
        published = self.outputs.publish(self.descriptor, self.cancel)
        beside = []
        if self._format.descriptor_file and self.described:
            stem = stem_of_run(self.run)
            beside.append(self.write(f"{stem}.ovf", self.descriptor()))
            if self._format.package:
                lines = [("SHA256", file.name, file.sha256) for file in (*beside, *published.files) if file.sha256]
                beside.append(self.write(f"{stem}.mf", format_mf(lines)))
        return Published([*beside, *published.files], published.archive)

    @property
    def _format(self) -> Format:
        return FORMATS[self.spec.format]

    def _check_own(self) -> None:
        """Raises TargetError where the folder or a published file no longer belongs to this run."""
        self.folder.check()
        self.outputs.check()
        for name, descriptor in self._small.items():
            check_name(descriptor, self.run.folder / name)

    def _check_manifest(self) -> None:
        """Checks again after the manifest was written, and removes it where it lies next to files of another run. In a
        folder that was moved it stays: it is correct there, and whoever waited for it may have moved the folder."""
        try:
            self._check_own()
        except TargetError as error:
            if error.code != FOLDER_MOVED:
                remove_own(self._small[MANIFEST_NAME], self.run.folder / MANIFEST_NAME)
            raise

    def _close_small(self) -> None:
        for descriptor in self._small.values():
            os.close(descriptor)
        self._small.clear()

    def published(self) -> ExportResult:
        """The result of a run that was published before, from its manifest; nothing is written. Raises TargetError and
        IntegrityError."""
        place = self.run.folder / MANIFEST_NAME
        with target_errors(f"reading {shown_path(place)}"), open(open_regular(place), "rb") as file:
            manifest = read_manifest(file.read(MAX_MANIFEST_BYTES + 1))
        files = [PublishedFile(file.name, file.bytes, hex_of(file.checksum), tree_of(file)) for file in manifest.files]
        if not files:
            raise TargetError(f"{shown_path(place)} names no file")
        return self._result(files, self.warnings)

    # Files

    def write(self, name: str, data: bytes) -> PublishedFile:
        """Writes a small file into the folder and holds it open."""
        self._small[name] = write_held(self.run.folder / name, data, check=self.folder.check)
        return PublishedFile(name, len(data), hashlib.sha256(data).hexdigest())

    def descriptor(self) -> bytes:
        """The OVF descriptor: the server's with our files in it, else our own."""
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
        """The proof of the run. Runs that earlier releases published may have none."""
        return self.run.proof or UNPROVED_UNKNOWN

    @property
    def _method(self) -> str:
        return self.run.method or self.spec.method.value

    def _main_file(self, files: Sequence[PublishedFile]) -> str:
        """The file to start from: the archive, else the descriptor, else the first disk."""
        names = [file.name for file in files]
        return next((name for suffix in (".ova", ".ovf") for name in names if name.endswith(suffix)), names[0])

    def _manifest(self, published: Published, warnings: Sequence[str]) -> ArtifactManifest:
        """The manifest, not sealed yet. Disks are in unit order."""
        machine, spec, now = self.machine, self.spec, timestamp()
        sequence = boot_sequence(machine)
        return ArtifactManifest(
            manifest_version=MANIFEST_VERSION,
            source=SourcePart(
                provider=self.provider,
                vm_id=machine.moref,
                vm_name=machine.name,
                datacenter=machine.summary.datacenter or "",
                export_timestamp=timestamp(datetime.fromisoformat(self.run.started_at)),
                export_method=self._method,
            ),
            vm=VmPart(
                cpu=machine.summary.cpus,
                mem_gb=align_up(machine.summary.memory_bytes, GiB) // GiB,
                firmware=machine.firmware.value,
                secureboot=machine.secure_boot and machine.firmware is Firmware.EFI,
                os_hint=os_family(machine.guest_id or machine.guest.os_id),
                os_version=machine.guest.os_name or machine.summary.guest_name or "",
            ),
            disks=tuple(
                self._disk_part(number, record, published.archive, sequence)
                for number, record in enumerate(self.run.disks)
            ),
            nics=tuple(
                NicPart(
                    id=f"nic-{number}",
                    mac=nic.mac or "",
                    network=nic.network or "",
                    hypersdk=NicFacts(adapter=nic.adapter),
                )
                for number, nic in enumerate(machine.nics)
            ),
            notes=(),
            warnings=tuple(WarningPart(stage="export", message=text, timestamp=now) for text in warnings),
            metadata=MetadataPart(
                hypersdk_version=__version__,
                job_id=spec.job_id or "",
                created_at=now,
                tags=dict(spec.metadata),
                hypersdk=self._metadata(published.files),
            ),
            pipeline=PipelinePart(),
            output=OutputPart(
                directory=str(spec.shown_dir), format=spec.format.value, filename=self._main_file(published.files)
            ),
        )

    def _metadata(self, files: Sequence[PublishedFile]) -> MetadataFacts:
        return MetadataFacts(
            job_name=self.spec.job_name,
            point_in_time=self.run.point.describe() if self.run.point else "the file as it was read",
            proof=self._proof,
            memory_bytes=self.machine.summary.memory_bytes,
            cores_per_socket=self.machine.cores_per_socket,
            guest_id=self.machine.guest_id or self.machine.guest.os_id,
            tpm=self.machine.has_vtpm,
            point=self.run.point,
            files=tuple(
                FilePart(name=file.name, bytes=file.size_bytes, checksum=file.checksum, tree=_tree_part(file))
                for file in files
            ),
        )

    def _disk_part(
        self, number: int, record: DiskRecord, archive: PublishedFile | None, sequence: Sequence[int]
    ) -> DiskPart:
        """``sequence`` are the keys of the disks in boot order."""
        assert record.size_bytes is not None
        own = PublishedFile(record.file_name, record.size_bytes, record.sha256, record.tree)
        file = archive or own
        disk = next(disk for disk in self.machine.disks if disk.key == record.key)
        place = sequence.index(disk.key) if disk.key in sequence else None
        return DiskPart(
            id=f"disk-{number}",
            source_format=self._format.image.suffix,
            bytes=file.size_bytes,
            local_path=file.name,
            checksum=file.checksum,
            boot_order_hint=place,
            label=disk.label,
            disk_type={None: "unknown", 0: "boot"}.get(place, "data"),
            hypersdk=self._disk_facts(disk, record, file, own if archive else None),
        )

    def _disk_facts(
        self, disk: Disk, record: DiskRecord, file: PublishedFile, member: PublishedFile | None
    ) -> DiskFacts:
        """``member`` is the disk's file inside an OVA."""
        receipt = record.receipt
        assert receipt is not None
        stream = receipt.stream
        return DiskFacts(
            device_key=disk.key,
            capacity_bytes=receipt.capacity_bytes,
            data_bytes=receipt.data_bytes,
            saved_bytes=max(0, receipt.capacity_bytes - receipt.data_bytes),
            content_digest=receipt.content,
            content_algorithm=CONTENT_ALGORITHM if receipt.content else None,
            tree=_tree_part(file),
            stream=StreamPart(sha256=stream.sha256, sha1=stream.sha1, bytes=stream.length_bytes) if stream else None,
            verdict=self._proof,
            route=receipt.route,
            bus=disk.bus,
            unit=f"{disk.bus_number}:{disk.unit_number}",
            member=MemberPart(
                name=member.name, offset=record.start or 0, bytes=member.size_bytes, checksum=member.checksum
            )
            if member
            else None,
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
            elapsed_s=self.elapsed_s,
            restored=self.restored,
            method=self._method,
        )


def _tree_part(file: PublishedFile) -> TreePart | None:
    return TreePart(algorithm=TREE_ALGORITHM, leaf_bytes=LEAF, digest=file.tree) if file.tree else None
