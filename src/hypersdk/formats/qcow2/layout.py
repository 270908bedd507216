"""Layout of qcow2 version 3, from the specification in QEMU's ``docs/interop/qcow2.txt``, and where our writer puts
things.

All numbers are big-endian. A cluster is 64 KiB, the size of a VMDK grain, so that one becomes the other.

::

    guest offset ──/512 MiB──> L1 entry ──> L2 table (one cluster, 8192 entries) ──> L2 entry ──> data cluster, or
                                                                                                  compressed bytes

    cluster   0         header                        written last; until then it has a magic that no reader knows
              1         refcount block 0              counts of clusters 0 .. 32767
              2 ..      refcount table                space for the largest image that this disk can become
              . ..      L1 table
              . ..      L2 tables, data and compressed data, as they come
          32768         refcount block 1              and so on: block n lies in the first cluster of its own 2 GiB
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hypersdk.formats.image import BLOCK
from hypersdk.units import SECTOR, align_up

CLUSTER: Final = BLOCK
CLUSTER_BITS: Final = 16

MAGIC: Final = b"QFI\xfb"
DRAFT_MAGIC: Final = b"qfi~"
"""Magic of an unfinished image: no other program accepts it as qcow2."""

HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
"""Section "Header": magic, version, backing_file_offset, backing_file_size, cluster_bits, size, crypt_method, l1_size,
l1_table_offset, refcount_table_offset, refcount_table_clusters, nb_snapshots, snapshots_offset, incompatible_features,
compatible_features, autoclear_features, refcount_order, header_length."""
VERSION: Final = 3
REFCOUNT_ORDER: Final = 4  # 2**4 = 16 bits a count

L2_ENTRIES: Final = CLUSTER // 8
"""64-bit entries in a cluster: of an L2 table, of the L1 and the refcount table."""
L2_SPAN: Final = L2_ENTRIES * CLUSTER
"""Guest bytes that one L2 table maps: 512 MiB."""

COUNTS_PER_BLOCK: Final = CLUSTER // 2
REFCOUNT_TABLE_OFFSET: Final = 2 * CLUSTER

COPIED: Final = 1 << 63
"""In an L1 or L2 entry: the cluster's refcount is exactly one. Never set for compressed clusters."""
COMPRESSED: Final = 1 << 62
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00  # bits 9 to 55 of an L1 entry or a plain L2 entry

_COMPRESSED_OFFSET_BITS: Final = 62 - (CLUSTER_BITS - 8)
_COMPRESSED_OFFSET_MASK: Final = (1 << _COMPRESSED_OFFSET_BITS) - 1

DEFLATED_MAX: Final = CLUSTER - SECTOR
"""Longer deflated clusters are stored plain. A shorter one touches at most 128 sectors wherever it begins: libqcow
refuses compressed clusters that take more space than a cluster."""
DEFLATED_MIN: Final = CLUSTER // 1032
"""Nothing shorter inflates to a cluster: deflate makes at most 1032 bytes of one (zlib's technical notes, "Maximum
Compression Factor"). It also limits how many compressed clusters can share a host cluster, hence the refcounts."""

HOST_CLUSTERS_PER_GUEST_CLUSTER: Final = 4
"""How large an image may become, for the size of the refcount table: data and tables take little more than one cluster
each; the rest is for holes that resumed runs leave."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the fixed parts of an image for ``capacity`` guest bytes lie; sizes in clusters."""

    capacity: int

    def __post_init__(self) -> None:
        if self.capacity <= 0 or self.capacity % SECTOR:
            raise ValueError(f"a disk has whole sectors, not {self.capacity} bytes")

    @property
    def guest_clusters(self) -> int:
        """Clusters of the guest's disk; the last one may end beyond it."""
        return align_up(self.capacity, CLUSTER) // CLUSTER

    @property
    def l1_entries(self) -> int:
        """L2 tables that a full disk needs."""
        return align_up(self.capacity, L2_SPAN) // L2_SPAN

    @property
    def refcount_table_clusters(self) -> int:
        """Clusters reserved for the refcount table: one for each 16 TiB of image."""
        most = self.guest_clusters * HOST_CLUSTERS_PER_GUEST_CLUSTER + COUNTS_PER_BLOCK
        per_table_cluster = COUNTS_PER_BLOCK * L2_ENTRIES
        return align_up(most, per_table_cluster) // per_table_cluster

    @property
    def most_host_clusters(self) -> int:
        """Most clusters that the refcount table can count."""
        return self.refcount_table_clusters * COUNTS_PER_BLOCK * L2_ENTRIES

    @property
    def l1_offset(self) -> int:
        """Byte offset of the L1 table."""
        return REFCOUNT_TABLE_OFFSET + self.refcount_table_clusters * CLUSTER

    @property
    def fixed_clusters(self) -> int:
        """Clusters at the front that are never used for data."""
        return (self.l1_offset + align_up(self.l1_entries * 8, CLUSTER)) // CLUSTER

    def header(self, magic: bytes) -> bytes:
        """The first cluster, with ``MAGIC`` or ``DRAFT_MAGIC``. Zeros after the fields end the list of header
        extensions."""
        fields = HEADER.pack(
            magic,
            VERSION,
            0,
            0,
            CLUSTER_BITS,
            self.capacity,
            0,
            self.l1_entries,
            self.l1_offset,
            REFCOUNT_TABLE_OFFSET,
            self.refcount_table_clusters,
            0,
            0,
            0,
            0,
            0,
            REFCOUNT_ORDER,
            HEADER.size,
        )
        return fields.ljust(CLUSTER, b"\0")


def refcount_block(area: int) -> int:
    """The cluster that holds the refcounts of the ``area``-th 32768 clusters."""
    return area * COUNTS_PER_BLOCK if area else 1


def plain_entry(offset: int) -> int:
    """The L2 (or L1) entry of a cluster at host ``offset`` that nothing else refers to."""
    return COPIED | offset


def compressed_entry(offset: int, length: int) -> int:
    """The L2 entry of ``length`` deflated bytes at host byte ``offset``.

    Section "Compressed Clusters Descriptor": the sector count is of those after the one that holds the first byte.
    """
    more_sectors = (offset + length - 1) // SECTOR - offset // SECTOR
    return COMPRESSED | more_sectors << _COMPRESSED_OFFSET_BITS | offset


def entry_span(entry: int) -> tuple[int, int]:
    """``(first, count)`` of the host clusters that an L2 entry (not 0) refers to."""
    start, end = entry_bytes(entry)
    first = start // CLUSTER
    return first, (end - 1) // CLUSTER - first + 1


def entry_bytes(entry: int) -> tuple[int, int]:
    """``(start, end)`` in the file of what an L2 entry (not 0) refers to; of deflated data the end of the last
    sector."""
    if not entry & COMPRESSED:
        offset = entry & OFFSET_MASK
        return offset, offset + CLUSTER
    offset = entry & _COMPRESSED_OFFSET_MASK
    more_sectors = (entry & ~COMPRESSED & ~COPIED) >> _COMPRESSED_OFFSET_BITS
    return offset, (offset // SECTOR + more_sectors + 1) * SECTOR


def is_ours(entry: int) -> bool:
    """Whether an L2 entry (not 0) is one that ``plain_entry`` or ``compressed_entry`` makes, without any other flag."""
    if entry & COMPRESSED:
        return not entry & COPIED
    return entry == plain_entry(entry & OFFSET_MASK)
