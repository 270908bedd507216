"""Folders of exports, made without a source: images from qemu-img, and the manifest that an export would write."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypersdk.migration.manifest import (
    MANIFEST_VERSION,
    ArtifactManifest,
    DiskFacts,
    DiskPart,
    FilePart,
    MetadataFacts,
    MetadataPart,
    NicFacts,
    NicPart,
    OutputPart,
    PipelinePart,
    SourcePart,
    TreePart,
    VmPart,
    manifest_text,
)
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.model import Firmware
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.treehash import LEAF, TREE_ALGORITHM, tree_digest
from hypersdk.units import MiB
from tests.support.tools import run_tool, sha256

NOW = "2026-01-02T03:04:05Z"


def export_folder(
    folder: Path,
    *,
    name: str = "web-01",
    disks: int = 1,
    image_format: str = "qcow2",
    firmware: Firmware = Firmware.BIOS,
    secure_boot: bool = False,
    tpm: bool = False,
    os_hint: str = "linux",
    sha: bool = False,
    content: bytes = b"disk",
    raw: Sequence[Path] = (),
) -> Path:
    """The folder of a finished export of ``name``: of the ``raw`` images, else of so many small disks that begin with
    ``content``. ``sha``: with a SHA-256 of each image, as ``--file-hash sha256``. What lies there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = raw or [_small(folder / f"{number}.source", content + bytes([number])) for number in range(1, disks + 1)]
    made = []
    for number, source in enumerate(sources, start=1):
        path = folder / f"{name}-disk{number}.{image_format}"
        run_tool("qemu-img", "convert", "-f", "raw", "-O", image_format, source, path)
        made.append(_Made(number, path, source.stat().st_size, sha))
    for source in sources if not raw else ():
        source.unlink()
    manifest = _manifest(name, made, image_format, VmPart(
        cpu=2, mem_gb=1, firmware=firmware.value, secureboot=secure_boot, os_hint=os_hint, os_version=""
    ), folder, tpm)  # fmt: skip
    (folder / MANIFEST_NAME).write_bytes(manifest_text(manifest))
    return folder


def _small(path: Path, content: bytes) -> Path:
    path.write_bytes(small_disk(content))
    return path


def small_disk(content: bytes) -> bytes:
    """A disk of 1 MiB with boot code and a partition table, as far as firmware looks at them."""
    partition = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 64, MiB // 512 - 64)
    sector = content.ljust(446, b"\x90") + partition.ljust(64, b"\0") + b"\x55\xaa"
    return sector.ljust(MiB, b"\0")


@dataclass(frozen=True, slots=True)
class _Made:
    number: int
    path: Path
    capacity_bytes: int
    sha: bool

    def file(self) -> FilePart:
        return FilePart(
            name=self.path.name,
            bytes=self.path.stat().st_size,
            checksum=f"sha256:{sha256(self.path)}" if self.sha else None,
            tree=self.tree(),
        )

    def tree(self) -> TreePart:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return TreePart(algorithm=TREE_ALGORITHM, leaf_bytes=LEAF, digest=tree_digest(descriptor, CancelToken()))
        finally:
            os.close(descriptor)

    def disk(self, image_format: str) -> DiskPart:
        file = self.file()
        return DiskPart(
            id=f"disk-{self.number - 1}",
            source_format=image_format,
            bytes=file.bytes,
            local_path=file.name,
            checksum=file.checksum,
            boot_order_hint=self.number - 1,
            label=f"Hard disk {self.number}",
            disk_type="boot" if self.number == 1 else "data",
            hypersdk=DiskFacts(
                device_key=1999 + self.number,
                capacity_bytes=self.capacity_bytes,
                data_bytes=self.capacity_bytes,
                saved_bytes=0,
                content_digest="ab" * 32,
                content_algorithm="blake3-64k-512m",
                tree=file.tree,
                stream=None,
                verdict="proved",
                route="lease",
                bus="scsi",
                unit=f"0:{self.number - 1}",
            ),
        )


def _manifest(
    name: str, made: Sequence[_Made], image_format: str, vm: VmPart, folder: Path, tpm: bool
) -> ArtifactManifest:
    return ArtifactManifest(
        manifest_version=MANIFEST_VERSION,
        source=SourcePart(
            provider="vsphere",
            vm_id="vm-42",
            vm_name=name,
            datacenter="DC0",
            export_timestamp=NOW,
            export_method="lease",
        ),
        vm=vm,
        disks=tuple(image.disk(image_format) for image in made),
        nics=(
            NicPart(id="nic-0", mac="00:50:56:00:00:01", network="VM Network", hypersdk=NicFacts(adapter="vmxnet3")),
        ),
        notes=(),
        warnings=(),
        metadata=MetadataPart(
            hypersdk_version="0.9",
            job_id="",
            created_at=NOW,
            tags={"owner": "ops"},
            hypersdk=MetadataFacts(
                proof="proved",
                memory_bytes=512 * MiB,
                cores_per_socket=2,
                guest_id="debian12_64Guest",
                tpm=tpm,
                files=tuple(image.file() for image in made),
            ),
        ),
        pipeline=PipelinePart(),
        output=OutputPart(directory=str(folder), format=image_format, filename=made[0].path.name),
    )
