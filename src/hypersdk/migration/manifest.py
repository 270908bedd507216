"""``artifact-manifest.json`` 1.0: what lies in the folder and where it came from. Written last: where it is missing,
the export is not done.

It is the contract with guest-conversion tools, so its fields are fixed. What more we know goes under one key,
``hypersdk``, in ``disks[]`` and in ``metadata``; readers that do not know it pass it over::

    manifest_version  source  vm  disks[]  nics[]  notes[]  warnings[]  pipeline  output
                                  └ hypersdk: capacity, content digest, stream digests, verdict, place inside an OVA
    metadata
    └ hypersdk: point in time, proof, every file with size and checksum, digest of this manifest itself

``bytes`` and ``checksum`` of a disk are those of the file at ``local_path``: for an OVA, of the whole archive; the
disk's own are then in ``hypersdk.member``. ``local_path`` is relative to the manifest: a folder may be moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hypersdk import __version__
from hypersdk.errors import IntegrityError, register
from hypersdk.formats.names import is_bare_name
from hypersdk.migration.outputs import PublishedFile
from hypersdk.model import Disk, Firmware, Machine, Nic, boot_sequence
from hypersdk.transfer.receipt import Receipt
from hypersdk.units import GiB, MiB, align_up

MANIFEST_VERSION: Final = "1.0"
MAX_MANIFEST_BYTES: Final = 16 * MiB
CONTENT_ALGORITHM: Final = "blake3-64k-512m"
"""Name of the content digest of ``transfer.digest``: BLAKE3 over 64 KiB blocks, 512 MiB groups, the disk."""

VERIFY_BAD_MANIFEST = register(
    "verify_bad_manifest",
    "artifact-manifest.json cannot be read: it was damaged, edited, or written by another program.",
    "Restore it from a backup, or export again; do not trust the folder as it is.",
)
VERIFY_MANIFEST_CHANGED = register(
    "verify_manifest_changed",
    "artifact-manifest.json was changed after it was written: its own digest does not match its content.",
    "Restore it from a backup, or export again; what it says about the files cannot be relied on.",
)


# --- the document ----------------------------------------------------------------------------------------------------


class _Part(BaseModel):
    """Unknown keys are passed over on reading: later versions and other tools add their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


def _bare(name: str) -> str:
    if not is_bare_name(name):
        raise ValueError("a path, not the name of a file beside the manifest")
    return name


Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
FileName = Annotated[str, AfterValidator(_bare)]
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class SourcePart(_Part):
    """Where the machine came from."""

    provider: str
    vm_id: str
    vm_name: str
    datacenter: str
    export_timestamp: str
    export_method: str


class VmPart(_Part):
    """The machine. ``mem_gb`` is rounded up to whole GiB; the exact size is in ``metadata.hypersdk.memory_bytes``."""

    cpu: Count
    mem_gb: Count
    firmware: str
    secureboot: bool
    os_hint: str
    os_version: str


class MemberPart(_Part):
    """A disk inside an OVA: the bytes ``offset`` to ``offset + bytes`` of the archive are its VMDK."""

    name: FileName
    offset: Count
    bytes: Count
    checksum: Checksum | None


class StreamPart(_Part):
    """Digests of the stream as the server sent it, where it was read from first to last."""

    sha256: str | None
    sha1: str | None
    bytes: Count


class DiskFacts(_Part):
    """What we know of a disk beyond the fixed fields. ``saved_bytes`` is what holes spare against the capacity."""

    device_key: int
    capacity_bytes: Count
    data_bytes: Count
    saved_bytes: Count
    content_digest: Hex256 | None
    content_algorithm: str | None
    stream: StreamPart | None
    verdict: str
    route: str
    bus: str
    unit: str
    member: MemberPart | None = None


class DiskPart(_Part):
    """One disk. ``checksum`` is null when the export ran without file hashes, ``boot_order_hint`` when it is not known
    which disk boots."""

    id: str
    source_format: str
    bytes: Count
    local_path: FileName
    checksum: Checksum | None
    boot_order_hint: Count | None
    label: str
    disk_type: str
    hypersdk: DiskFacts | None = None


class NicPart(_Part):
    """One network card."""

    id: str
    mac: str
    network: str


class WarningPart(_Part):
    """Something the user should know; ``stage`` is where it came up."""

    stage: str
    message: str
    timestamp: str


class FilePart(_Part):
    """One file of the export, the manifest itself left out."""

    name: FileName
    bytes: Count
    checksum: Checksum | None


class MetadataFacts(_Part):
    """``manifest_digest`` is over the manifest without it (see ``seal``)."""

    job_name: str | None = None
    point_in_time: str = ""
    proof: str = ""
    memory_bytes: Count = 0
    files: tuple[FilePart, ...] = Field(default=(), max_length=4096)
    manifest_digest: str | None = None


class MetadataPart(_Part):
    """Who wrote it."""

    hypersdk_version: str
    job_id: str
    created_at: str
    tags: dict[str, str]
    hypersdk: MetadataFacts | None = None


class StepPart(_Part):
    """Whether a step was done to the images."""

    enabled: bool = False


class PipelinePart(_Part):
    """Steps after the export. An export on its own does none of them."""

    inspect: StepPart = StepPart()
    fix: StepPart = StepPart()
    convert: StepPart = StepPart()
    validate_: StepPart = Field(default=StepPart(), alias="validate")


class OutputPart(_Part):
    """What the folder holds; ``filename`` is the file to start from: the descriptor, the archive or the first disk."""

    directory: str
    format: str
    filename: FileName


class ArtifactManifest(_Part):
    """The whole document."""

    manifest_version: Literal["1.0"]
    source: SourcePart
    vm: VmPart
    disks: tuple[DiskPart, ...] = Field(max_length=4096)
    nics: tuple[NicPart, ...] = Field(max_length=4096)
    notes: tuple[str, ...]
    warnings: tuple[WarningPart, ...]
    metadata: MetadataPart
    pipeline: PipelinePart
    output: OutputPart

    @property
    def files(self) -> tuple[FilePart, ...]:
        """Every file of the export; from the disks alone where another program wrote the manifest."""
        if self.metadata.hypersdk and self.metadata.hypersdk.files:
            return self.metadata.hypersdk.files
        named = {disk.local_path: disk for disk in self.disks}
        return tuple(FilePart(name=name, bytes=disk.bytes, checksum=disk.checksum) for name, disk in named.items())


# --- making it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiskArtifact:
    """A finished disk. ``file`` is what holds it: its own image, or the OVA, and then ``member`` names its place in
    there.

    ``verdict`` is ``proved`` or ``unproved: <why>``.
    """

    disk: Disk
    file: PublishedFile
    receipt: Receipt
    verdict: str
    member: PublishedFile | None = None
    member_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What the manifest says of the run as a whole. Times are aware datetimes; ``warnings`` are ``(stage,
    message)``."""

    format: str
    disk_format: str
    method: str
    folder: Path
    main_file: str
    point_in_time: str
    proof: str
    exported_at: datetime
    created_at: datetime
    provider: str = "vsphere"
    job_id: str | None = None
    job_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[tuple[str, str]] = ()


def artifact_manifest(
    machine: Machine, disks: Sequence[DiskArtifact], files: Iterable[PublishedFile], facts: ExportFacts
) -> dict[str, Any]:
    """The manifest as JSON-able values. ``disks`` are in unit order, ``files`` all files but the manifest.
    ``manifest_text`` seals it."""
    sequence = boot_sequence(machine)
    document = ArtifactManifest(
        manifest_version=MANIFEST_VERSION,
        source=SourcePart(
            provider=facts.provider,
            vm_id=machine.moref,
            vm_name=machine.name,
            datacenter=machine.summary.datacenter or "",
            export_timestamp=_timestamp(facts.exported_at),
            export_method=facts.method,
        ),
        vm=_vm_part(machine),
        disks=tuple(_disk_part(number, disk, facts.disk_format, sequence) for number, disk in enumerate(disks)),
        nics=tuple(_nic_part(number, nic) for number, nic in enumerate(machine.nics)),
        notes=tuple(facts.notes),
        warnings=tuple(_warning_part(stage, message, facts.created_at) for stage, message in facts.warnings),
        metadata=_metadata_part(machine, files, facts),
        pipeline=PipelinePart(),
        output=OutputPart(directory=str(facts.folder), format=facts.format, filename=facts.main_file),
    )
    return document.model_dump(mode="json", by_alias=True)


def _vm_part(machine: Machine) -> VmPart:
    return VmPart(
        cpu=machine.summary.cpus,
        mem_gb=align_up(machine.summary.memory_bytes, GiB) // GiB,
        firmware=machine.firmware.value,
        secureboot=machine.secure_boot and machine.firmware is Firmware.EFI,
        os_hint=os_family(machine.guest_id or machine.guest.os_id),
        os_version=machine.guest.os_name or machine.summary.guest_name or "",
    )


def os_family(guest_id: str | None) -> str:
    """``windows``, ``linux``, ``freebsd``, ``darwin``, ``solaris`` or ``unknown``, from a vSphere guest id.

    vSphere's list of guest ids (``VirtualMachineGuestOsIdentifier``) names what is not Linux by a few prefixes.
    """
    text = (guest_id or "").lower()
    for prefix, family in (("win", "windows"), ("darwin", "darwin"), ("solaris", "solaris"), ("freebsd", "freebsd")):
        if text.startswith(prefix):
            return family
    if "linux" in text:
        return "linux"
    neither = ("other", "dos", "os2", "netware", "openserver", "unixware", "vmkernel", "ecomstation")
    return "linux" if text and not text.startswith(neither) else "unknown"


def _disk_part(number: int, artifact: DiskArtifact, source_format: str, sequence: Sequence[int]) -> DiskPart:
    place = sequence.index(artifact.disk.key) if artifact.disk.key in sequence else None
    return DiskPart(
        id=f"disk-{number}",
        source_format=source_format,
        bytes=artifact.file.size_bytes,
        local_path=artifact.file.name,
        checksum=_checksum(artifact.file),
        boot_order_hint=place,
        label=artifact.disk.label,
        disk_type={None: "unknown", 0: "boot"}.get(place, "data"),
        hypersdk=_disk_facts(artifact),
    )


def _disk_facts(artifact: DiskArtifact) -> DiskFacts:
    disk, receipt, stream = artifact.disk, artifact.receipt, artifact.receipt.stream
    return DiskFacts(
        device_key=disk.key,
        capacity_bytes=receipt.capacity_bytes,
        data_bytes=receipt.data_bytes,
        saved_bytes=max(0, receipt.capacity_bytes - receipt.data_bytes),
        content_digest=receipt.content,
        content_algorithm=CONTENT_ALGORITHM if receipt.content else None,
        stream=StreamPart(sha256=stream.sha256, sha1=stream.sha1, bytes=stream.length_bytes) if stream else None,
        verdict=artifact.verdict,
        route=receipt.route,
        bus=disk.bus,
        unit=f"{disk.bus_number}:{disk.unit_number}",
        member=_member_part(artifact),
    )


def _member_part(artifact: DiskArtifact) -> MemberPart | None:
    member = artifact.member
    if member is None:
        return None
    return MemberPart(
        name=member.name, offset=artifact.member_offset, bytes=member.size_bytes, checksum=_checksum(member)
    )


def _nic_part(number: int, nic: Nic) -> NicPart:
    return NicPart(id=f"nic-{number}", mac=nic.mac or "", network=nic.network or "")


def _warning_part(stage: str, message: str, at: datetime) -> WarningPart:
    return WarningPart(stage=stage, message=message, timestamp=_timestamp(at))


def _metadata_part(machine: Machine, files: Iterable[PublishedFile], facts: ExportFacts) -> MetadataPart:
    return MetadataPart(
        hypersdk_version=__version__,
        job_id=facts.job_id or "",
        created_at=_timestamp(facts.created_at),
        tags=dict(facts.tags),
        hypersdk=MetadataFacts(
            job_name=facts.job_name,
            point_in_time=facts.point_in_time,
            proof=facts.proof,
            memory_bytes=machine.summary.memory_bytes,
            files=tuple(FilePart(name=file.name, bytes=file.size_bytes, checksum=_checksum(file)) for file in files),
        ),
    )


def _checksum(file: PublishedFile) -> str | None:
    return f"sha256:{file.sha256}" if file.sha256 else None


def _timestamp(moment: datetime) -> str:
    """RFC 3339, UTC, seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- on disk ---------------------------------------------------------------------------------------------------------


def manifest_text(manifest: Mapping[str, Any]) -> bytes:
    """The sealed manifest as it is written."""
    return (json.dumps(seal(manifest), indent=2, ensure_ascii=False) + "\n").encode()


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """``manifest`` with ``metadata.hypersdk.manifest_digest``: SHA-256 of all the rest, as JSON with sorted keys and no
    white space.

    So a bit that flips in the manifest is found too, and a tool that only lays the text out anew does no harm.
    """
    metadata = dict(manifest["metadata"])
    facts = {key: value for key, value in metadata["hypersdk"].items() if key != "manifest_digest"}
    bare = {**manifest, "metadata": {**metadata, "hypersdk": facts}}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return {**bare, "metadata": {**metadata, "hypersdk": {**facts, "manifest_digest": digest}}}


def read_manifest(data: bytes) -> ArtifactManifest:
    """The manifest in ``data``, which may be anything.

    Raises IntegrityError ``verify_bad_manifest``, or ``verify_manifest_changed`` when it carries a digest of itself
    that does not match.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise _bad(f"it has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        manifest = ArtifactManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _bad(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _bad(f"it is not JSON ({error})") from error
    written = manifest.metadata.hypersdk.manifest_digest if manifest.metadata.hypersdk else None
    if written is not None and seal(document)["metadata"]["hypersdk"]["manifest_digest"] != written:
        raise IntegrityError("artifact-manifest.json does not match the digest in it", code=VERIFY_MANIFEST_CHANGED)
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bad(why: str) -> IntegrityError:
    return IntegrityError(f"artifact-manifest.json cannot be used: {why}", code=VERIFY_BAD_MANIFEST)
