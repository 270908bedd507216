"""``artifact-manifest.json`` 1.0: the files of an export and their origin. Written last: without it, the export is not
finished.

It is the contract with guest-conversion tools, so its fields are fixed. Further facts are under one key, ``hypersdk``,
in ``disks[]``, ``nics[]`` and ``metadata``; readers that do not know it ignore it::

    manifest_version  source  vm  disks[]  nics[]  notes[]  warnings[]  pipeline  output
                                  │        └ hypersdk: adapter
                                  └ hypersdk: capacity, content, tree and stream digests, verdict, place inside an OVA
    metadata
    └ hypersdk: point in time, proof, every file with size and digest, digest of this manifest itself

``bytes``, ``checksum`` and ``tree`` of a disk are those of the file at ``local_path``: of the whole archive for an OVA;
the disk's own are then in ``hypersdk.member``. ``local_path`` is relative to the manifest: a folder may be moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
)

from hypersdk.errors import IntegrityError, register
from hypersdk.formats.names import is_bare_name
from hypersdk.migration.checked import first_problem
from hypersdk.migration.point import PointInTime
from hypersdk.model.guestplan import GuestDrivers
from hypersdk.transfer.treehash import TREE_ALGORITHM
from hypersdk.units import MiB

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
    "Restore it from a backup, or export again; its digests of the files cannot be trusted.",
)


# --- the document ----------------------------------------------------------------------------------------------------


class _ManifestPart(BaseModel):
    """Unknown keys are ignored on reading: later versions and other tools add their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


def _bare(name: str) -> str:
    if not is_bare_name(name):
        raise ValueError("a path, not the name of a file beside the manifest")
    return name


Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
FileName = Annotated[str, AfterValidator(_bare)]
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class SourcePart(_ManifestPart):
    """Where the machine came from."""

    provider: str
    vm_id: str
    vm_name: str
    datacenter: str
    export_timestamp: str
    export_method: str


class VmPart(_ManifestPart):
    """The machine. ``mem_gb`` is rounded up to whole GiB; the exact size is in ``metadata.hypersdk.memory_bytes``."""

    cpu: Count
    mem_gb: Count
    firmware: str
    secureboot: bool
    os_hint: str
    os_version: str


class MemberPart(_ManifestPart):
    """A disk in an OVA: the bytes ``offset`` to ``offset + bytes`` of the archive are its VMDK."""

    name: FileName
    offset: Count
    bytes: Count
    checksum: Checksum | None


class StreamPart(_ManifestPart):
    """Digests of the stream as the server sent it, where it was read from first to last."""

    sha256: str | None
    sha1: str | None
    bytes: Count


class TreePart(_ManifestPart):
    """The tree digest of a file (``transfer.treehash``)."""

    algorithm: str
    leaf_bytes: Count
    digest: Hex256


class DiskFacts(_ManifestPart):
    """Facts of a disk beyond the fixed fields. ``saved_bytes`` is what holes save of the capacity."""

    device_key: int
    capacity_bytes: Count
    data_bytes: Count
    saved_bytes: Count
    content_digest: Hex256 | None
    content_algorithm: str | None
    tree: TreePart | None = None
    stream: StreamPart | None
    verdict: str
    route: str
    bus: str
    unit: str
    member: MemberPart | None = None


class DiskPart(_ManifestPart):
    """One disk. ``checksum`` is null where no SHA-256 of the file was computed; images have a tree digest instead.
    ``boot_order_hint`` is null when it is not known which disk boots."""

    id: str
    source_format: str
    bytes: Count
    local_path: FileName
    checksum: Checksum | None
    boot_order_hint: Count | None
    label: str
    disk_type: str
    hypersdk: DiskFacts | None = None


class NicFacts(_ManifestPart):
    """Facts of a network card beyond the fixed fields. ``adapter`` is empty where it is not known."""

    adapter: str = ""


class NicPart(_ManifestPart):
    """One network card."""

    id: str
    mac: str
    network: str
    hypersdk: NicFacts | None = None


class WarningPart(_ManifestPart):
    """A warning to the user; ``stage`` is where it came up."""

    stage: str
    message: str
    timestamp: str


class FilePart(_ManifestPart):
    """One file of the export other than the manifest."""

    name: FileName
    bytes: Count
    checksum: Checksum | None
    tree: TreePart | None = None


class LandedPart(_ManifestPart):
    """The machine was landed as the domain ``uuid`` at ``uri``. ``owner`` says whose the images are now: ``domain``
    (it uses them in this folder), ``pool`` (they were moved into it) or ``export`` (the domain has copies).

    ``received_manifest`` is the digest of the manifest that the export wrote.
    """

    uri: str
    uuid: str
    name: str
    owner: str
    disks: tuple[str, ...] = Field(default=(), max_length=4096)
    landed_at: str = ""
    received_manifest: str | None = None


class MetadataFacts(_ManifestPart):
    """``manifest_digest`` is over the manifest without it (see ``seal``). Manifests of earlier releases lack
    ``cores_per_socket``, ``guest_id``, ``tpm`` and ``point``, the token of ``point_in_time``."""

    job_name: str | None = None
    point_in_time: str = ""
    proof: str = ""
    memory_bytes: Count = 0
    cores_per_socket: Count = 1
    guest_id: str | None = None
    tpm: bool = False
    point: PointInTime | None = None
    files: tuple[FilePart, ...] = Field(default=(), max_length=4096)
    landed: LandedPart | None = None
    manifest_digest: str | None = None

    @model_serializer(mode="wrap")
    def _serialized(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An export that was not landed says nothing of it."""
        found: dict[str, Any] = fields(self)
        if self.landed is None:
            del found["landed"]
        return found


class MetadataPart(_ManifestPart):
    """The program that wrote the manifest, and the job."""

    hypersdk_version: str
    job_id: str
    created_at: str
    tags: dict[str, str]
    hypersdk: MetadataFacts | None = None


class StepPart(_ManifestPart):
    """Whether a step was done to the images."""

    enabled: bool = False


class GuestSystemPart(_ManifestPart):
    """The guest's operating system, as a conversion found it, in libguestfs's words."""

    type: str = ""
    distro: str = ""
    product: str = ""
    osinfo: str = ""
    arch: str = ""


class ReceivedPart(FilePart):
    """A file as the export wrote it. Its content is that of the disk at the source."""

    content_digest: Hex256 | None = None
    content_algorithm: str | None = None


class ConvertPart(StepPart):
    """The guest conversion: what was found, what the guest can use now, and the files as they were ``received``.

    ``received_manifest`` is the digest of the manifest that the export wrote; times as in ``metadata``.
    ``fallback_loader`` is the loader that was copied to where firmware without boot entries looks.
    """

    tool: str = ""
    version: str = ""
    started_at: str = ""
    ended_at: str = ""
    guest: GuestSystemPart = GuestSystemPart()
    drivers: GuestDrivers | None = None
    fallback_loader: str | None = None
    warnings: tuple[str, ...] = Field(default=(), max_length=4096)
    received: tuple[ReceivedPart, ...] = Field(default=(), max_length=4096)
    received_manifest: str | None = None

    @model_serializer(mode="wrap")
    def _serialized(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A conversion that was not done has no further fields."""
        found: dict[str, Any] = fields(self) if self.enabled else {"enabled": False}
        return found


class ValidatePart(StepPart):
    """The boot proof: the landed machine was started in isolation. ``verdict`` is what was seen, in the line ``line``
    after ``seconds``; ``screenshot`` and ``serial_log`` are files beside the manifest.

    ``received_manifest`` is the digest of the manifest that the export wrote.
    """

    verdict: str = ""
    line: str = ""
    seconds: float = Field(default=0, ge=0, allow_inf_nan=False)
    accelerated: bool = False
    ended_at: str = ""
    screenshot: FileName | None = None
    serial_log: FileName | None = None
    received_manifest: str | None = None

    @model_serializer(mode="wrap")
    def _serialized(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A proof that was not made has no further fields."""
        found: dict[str, Any] = fields(self) if self.enabled else {"enabled": False}
        return found


class PipelinePart(_ManifestPart):
    """Steps after the export. An export alone does none of them."""

    inspect: StepPart = StepPart()
    fix: StepPart = StepPart()
    convert: ConvertPart = ConvertPart()
    validate_: ValidatePart = Field(default=ValidatePart(), alias="validate")


class OutputPart(_ManifestPart):
    """The output folder; ``filename`` is the file to start from: the descriptor, the archive or the first disk."""

    directory: str
    format: str
    filename: FileName


class ArtifactManifest(_ManifestPart):
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
        return tuple(
            FilePart(
                name=name,
                bytes=disk.bytes,
                checksum=disk.checksum,
                tree=disk.hypersdk.tree if disk.hypersdk else None,
            )
            for name, disk in named.items()
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


# --- on disk ---------------------------------------------------------------------------------------------------------


def manifest_text(manifest: ArtifactManifest) -> bytes:
    """The sealed manifest as it is written."""
    return document_text(manifest.model_dump(mode="json", by_alias=True))


def timestamp(moment: datetime | None = None) -> str:
    """A time as manifests and records have it: RFC 3339, UTC, seconds; now without a moment."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def document_text(document: Mapping[str, Any]) -> bytes:
    """The sealed text of a manifest as JSON."""
    return (json.dumps(seal(document), indent=2, ensure_ascii=False) + "\n").encode()


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """``manifest`` with ``metadata.hypersdk.manifest_digest``: SHA-256 of everything else, as JSON with sorted keys and
    without white space.

    It reveals a changed bit in the manifest, too, and allows tools to reformat the text.
    """
    metadata = dict(manifest["metadata"])
    facts = {key: value for key, value in metadata["hypersdk"].items() if key != "manifest_digest"}
    bare = {**manifest, "metadata": {**metadata, "hypersdk": facts}}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return {**bare, "metadata": {**metadata, "hypersdk": {**facts, "manifest_digest": digest}}}


def hex_of(checksum: str | None) -> str | None:
    """The hex digest of a ``checksum`` of the manifest."""
    return checksum.removeprefix("sha256:") if checksum else None


def tree_of(file: FilePart) -> str | None:
    """The hex tree digest of ``file``; None also where a later version computed another one."""
    return file.tree.digest if file.tree and file.tree.algorithm == TREE_ALGORITHM else None


def read_manifest(data: bytes) -> ArtifactManifest:
    """Reads the manifest in ``data``, which is untrusted.

    Raises IntegrityError ``verify_bad_manifest``, or ``verify_manifest_changed`` when it does not match the digest in
    it.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise _bad(f"it has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        manifest = ArtifactManifest.model_validate(document)
    except ValidationError as error:
        raise _bad(first_problem(error)) from error
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
