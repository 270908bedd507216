"""What lies on a guest's disk, in a few small reads: partition tables, file systems, encryption, LVM, boot loaders.

::

    Reader ──read_layout──> DiskLayout ──┐
                                         ├── assess ──> findings: what a guest conversion would refuse
    firmware, keys ──────────────────────┘

``region`` bounds what is read, ``tables`` finds the partitions, ``contents`` tells what each holds, with ``fat``,
``ntfs`` and ``lvm`` for what lies deeper; ``assess`` judges. Everything on a disk may be forged: nothing here raises
for it, and what is doubtful is unknown.
"""

from hypersdk.formats.guestdisk.assess import GuestFinding, assess, device_name, volumes_of
from hypersdk.formats.guestdisk.layout import read_layout
from hypersdk.formats.guestdisk.records import (
    Content,
    ContentKind,
    DiskLayout,
    EfiFiles,
    LogicalVolume,
    NtfsState,
    Partition,
    TableKind,
    VolumeGroup,
)
from hypersdk.formats.guestdisk.region import Reader

__all__ = [
    "Content",
    "ContentKind",
    "DiskLayout",
    "EfiFiles",
    "GuestFinding",
    "LogicalVolume",
    "NtfsState",
    "Partition",
    "Reader",
    "TableKind",
    "VolumeGroup",
    "assess",
    "device_name",
    "read_layout",
    "volumes_of",
]
