"""The disks of one machine: content now, content at each snapshot, and the chain of files that holds them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

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
from hypersdk.units import MiB

if TYPE_CHECKING:
    from hypersdk.simulator.storage import Datastore

BOOT_DISK_BYTES: Final = 8 * MiB


def content_of(spec: DiskSpec, identity: str) -> DiskContent:
    """The content that a specification asks for."""
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
    """One file of a disk's chain. ``base_image`` is the content when the layer began; ``began`` and the growth tell a
    delta's size."""

    name: str
    base_image: DiskImage
    began: float
    delta: bool


@dataclass(slots=True)
class DiskState:
    """One disk of a machine. ``layers`` runs from the base to the file that is written now."""

    key: int
    index: int
    spec: DiskSpec
    datastore: Datastore
    folder: str
    image: DiskImage
    layers: tuple[Layer, ...] = field(default=())
    written: datetime | None = None
    """When its content was last changed; ``None`` for never."""

    def path(self, layer: Layer) -> str:
        """``[datastore] folder/name.vmdk`` of a layer."""
        return f"[{self.datastore.name}] {self.folder}/{layer.name}.vmdk"

    def chain(self) -> list[str]:
        """Paths from the file that is written now down to the base."""
        return [self.path(layer) for layer in reversed(self.layers)]

    def add_delta(self, number: int) -> None:
        """Freezes what is there and goes on in a new delta."""
        base = self.layers[0].name
        self.layers = (*self.layers, Layer(f"{base}-{number:06d}", self.image, time.monotonic(), delta=True))

    def drop_layer(self, position: int) -> None:
        """Merges the delta at ``position`` into the layer below it."""
        self.layers = tuple(layer for place, layer in enumerate(self.layers) if place != position)

    def frozen(self) -> DiskState:
        """A copy that later changes do not reach."""
        return replace(self)

    def base_content(self) -> DiskImage:
        """What the base file holds: the disk as it was when the first delta began, or as it is."""
        return self.layers[1].base_image if len(self.layers) > 1 else self.image

    def layer_bytes(self, position: int, growth_bytes_s: float) -> int:
        """Space that one layer takes on its datastore."""
        layer = self.layers[position]
        if not layer.delta:
            content = self.base_content()
            return content.allocated_bytes() if self.spec.thin else content.capacity_bytes
        after = self.layers[position + 1].base_image if position + 1 < len(self.layers) else self.image
        rewritten = sum(1 for block, g in after.generations.items() if layer.base_image.generations.get(block) != g)
        return MiB + rewritten * BLOCK + int(growth_bytes_s * (time.monotonic() - layer.began))


def unit_number(disk: DiskState) -> int:
    """Place on the controller; SCSI leaves out 7, which is the controller itself."""
    _, _, bus, _ = devices.CONTROLLERS[disk.spec.controller]
    place = disk.key - devices.FIRST_DISK[bus]
    return place + 1 if bus == "scsi" and place >= 7 else place
