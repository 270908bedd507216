"""The disks of one machine: content now, content at each snapshot, and the chain of files that holds them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from hypersdk.simulator import devices
from hypersdk.simulator.bootsector import boot_sector
from hypersdk.simulator.config import DiskSpec
from hypersdk.simulator.content import (
    BLOCK,
    RUN_BLOCKS,
    Allocation,
    DiskContent,
    DiskImage,
    SpreadAllocation,
    StrideAllocation,
)
from hypersdk.simulator.imagefile import ImageBlocks
from hypersdk.simulator.storage import Datastore
from hypersdk.simulator.stream import content_id
from hypersdk.simulator.values import Data
from hypersdk.units import KiB, MiB

BOOT_DISK_BYTES: Final = 8 * MiB


def content_of(spec: DiskSpec, identity: str) -> DiskContent:
    """The content that a specification asks for. Raises UsageError for an image that cannot be read."""
    if spec.image is not None:
        blocks = ImageBlocks(spec.image, BLOCK)
        return DiskContent(f"{identity}/{blocks.version}", spec.capacity_bytes, SpreadAllocation.of(0, 0), blocks)
    if spec.boot:
        first = boot_sector().ljust(BLOCK, b"\0")
        return DiskContent(identity, spec.capacity_bytes, SpreadAllocation.of(0, 0), {0: first})
    total = -(-spec.capacity_bytes // (BLOCK * RUN_BLOCKS))
    if spec.stride_bytes is not None:
        stride = StrideAllocation(total, max(1, spec.stride_bytes // (BLOCK * RUN_BLOCKS)))
        return DiskContent(identity, spec.capacity_bytes, stride, {}, one_block_runs=True)
    wanted = spec.capacity_bytes // 3 if spec.allocated_bytes is None else spec.allocated_bytes
    spread: Allocation = SpreadAllocation.of(spec.capacity_bytes, wanted)
    return DiskContent(identity, spec.capacity_bytes, spread, {})


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a disk's chain: the base, then deltas. ``base_image`` is the content when the layer began; ``began``
    and the growth tell a delta's size."""

    name: str
    base_image: DiskImage
    began: float


@dataclass(slots=True)
class DiskState:
    """One disk of a machine. ``layers`` goes from the base to the layer that is written now."""

    key: int
    index: int
    spec: DiskSpec
    datastore: Datastore
    folder: str
    uuid: str
    change_uuid: str
    """First part of its change ids."""
    image: DiskImage
    layers: tuple[Layer, ...] = field(default=())
    written: datetime | None = None
    """When its content was last changed; ``None`` for never."""

    def path(self, layer: Layer) -> str:
        """``[datastore] folder/name.vmdk`` of a layer."""
        return f"[{self.datastore.name}] {self.folder}/{layer.name}.vmdk"

    def add_delta(self, number: int) -> None:
        """Freezes the newest layer and continues in a new delta."""
        base = self.layers[0].name
        self.layers = (*self.layers, Layer(f"{base}-{number:06d}", self.image, time.monotonic()))

    def change_id(self) -> str:
        """CBT's change id of its content: a uuid and a sequence number."""
        return f"{self.change_uuid}/{sum(self.image.generations.values()) + 1}"

    def base_content(self) -> DiskImage:
        """What the base file holds: the disk as it was when the first delta began, or as it is."""
        return self.layers[1].base_image if len(self.layers) > 1 else self.image

    def layer_bytes(self, position: int, growth_bytes_s: float) -> int:
        """Space that one layer takes on its datastore."""
        layer = self.layers[position]
        if position == 0:
            content = self.base_content()
            return content.allocated_bytes() if self.spec.thin else content.capacity_bytes
        after = self.layers[position + 1].base_image if position + 1 < len(self.layers) else self.image
        rewritten = sum(1 for block, g in after.generations.items() if layer.base_image.generations.get(block) != g)
        return MiB + rewritten * BLOCK + int(growth_bytes_s * (time.monotonic() - layer.began))


def unit_number(disk: DiskState) -> int:
    """Unit number on the controller; SCSI leaves out 7, which is the controller itself."""
    _, _, bus = devices.CONTROLLERS[disk.spec.controller]
    number = disk.key - devices.FIRST_DISK[bus]
    return number + 1 if bus == "scsi" and number >= 7 else number


def merge_spare_layers(current: DiskState, snapshots: list[DiskState]) -> None:
    """Merges every delta into the layer below it that no snapshot freezes and on which no other branch stands."""
    while (spare := _spare_layer(current, snapshots)) is not None:
        position, holders = spare
        for disk in holders:
            disk.layers = disk.layers[:position] + disk.layers[position + 1 :]


def _spare_layer(current: DiskState, snapshots: list[DiskState]) -> tuple[int, list[DiskState]] | None:
    """Position of a delta that can be merged, and the chains that hold it."""
    chains = [current, *snapshots]
    for chain in chains:
        for position in range(1, len(chain.layers)):
            below = chain.layers[position - 1]
            sharing = [
                other for other in chains if len(other.layers) >= position and other.layers[position - 1] is below
            ]
            needed = any(len(other.layers) == position for other in sharing)
            if not needed and len({other.layers[position].name for other in sharing}) == 1:
                return position, sharing
    return None


def disk_device(disk: DiskState, *, change_tracking: bool) -> Data:
    """The VirtualDisk of the API with its chain of backings."""
    spec = disk.spec
    capacity = spec.capacity_bytes if spec.reported_bytes is None else spec.reported_bytes
    kilobytes = capacity // KiB
    _, controller_key, _ = devices.CONTROLLERS[spec.controller]
    return devices.described(
        "VirtualDisk",
        disk.key,
        f"Hard disk {disk.index + 1}",
        f"{kilobytes:,} KB",
        backing=_backing(disk, len(disk.layers), change_tracking),
        controllerKey=controller_key,
        unitNumber=unit_number(disk),
        capacityInKB=kilobytes,
        capacityInBytes=capacity,
        shares=Data("SharesInfo", shares=1000, level="normal"),
        nativeUnmanagedLinkedClone=False,
    )


def _backing(disk: DiskState, depth: int, change_tracking: bool) -> Data:
    """The backing of the layer below ``depth``, with its parents."""
    spec, layer = disk.spec, disk.layers[depth - 1]
    common: dict[str, Any] = {
        "fileName": disk.path(layer),
        "datastore": disk.datastore.ref,
        "diskMode": "independent_persistent" if spec.independent else "persistent",
        "uuid": disk.uuid,
        "contentId": content_id(disk.image),
    }
    if change_tracking:
        common["changeId"] = disk.change_id()
    if depth > 1:
        common["parent"] = _backing(disk, depth - 1, change_tracking)
    if spec.encrypted:
        common["keyId"] = devices.CRYPTO_KEY
    type_, fields = _backing_kind(disk, depth > 1)
    return Data(type_, **common, **fields)


def _backing_kind(disk: DiskState, delta: bool) -> tuple[str, dict[str, Any]]:
    """The backing's type, and the fields that only this type has."""
    spec = disk.spec
    if spec.backing.startswith("rdm"):
        return "VirtualDiskRawDiskMappingVer1BackingInfo", {
            "lunUuid": "0200000000600000000000000000000000000000000000000000",
            "deviceName": "vml.02000000006000",
            "compatibilityMode": "physicalMode" if spec.backing == "rdm-physical" else "virtualMode",
            "sharing": _sharing(disk),
        }
    if spec.backing == "sesparse":
        return "VirtualDiskSeSparseBackingInfo", {"writeThrough": False}
    flat = {"split": False, "writeThrough": False, "thinProvisioned": spec.thin or delta, "sharing": _sharing(disk)}
    return "VirtualDiskFlatVer2BackingInfo", {**flat, "deltaDiskFormat": "seSparseFormat"} if delta else flat


def _sharing(disk: DiskState) -> str:
    return "sharingMultiWriter" if disk.spec.multi_writer else "sharingNone"
