"""What lies on a guest's disk. Frozen records in bytes; unknown is None. Texts come from the disk: clean them before
they are shown.

::

    DiskLayout   partition table, boot code
    ├── partitions[] ──> Partition   place, type, name, flags
    │                    └── Content   file system, encryption, LVM ...
    └── whole ─────────> Content     of a disk without a partition table
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class TableKind(StrEnum):
    """The partition table of a disk."""

    NONE = "none"
    MBR = "mbr"
    GPT = "gpt"


class ContentKind(StrEnum):
    """What a partition, or a whole disk, holds. ``EMPTY``: zeros where any format would begin; ``UNKNOWN``: something
    that is not recognized, or could not be read. ``EXTENDED``: the container of an MBR's logical partitions."""

    EMPTY = "empty"
    UNKNOWN = "unknown"
    EXTENDED = "extended"
    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"
    SWAP = "swap"
    FAT = "vfat"
    EXFAT = "exfat"
    NTFS = "ntfs"
    REFS = "refs"
    BITLOCKER = "bitlocker"
    LUKS = "luks"
    LVM = "lvm"
    MDRAID = "mdraid"
    ISO9660 = "iso9660"
    BCACHE = "bcache"
    F2FS = "f2fs"
    HFSPLUS = "hfsplus"
    JFS = "jfs"
    REISERFS = "reiserfs"
    SQUASHFS = "squashfs"
    UFS = "ufs"
    APFS = "apfs"


ENCRYPTED: Final = frozenset({ContentKind.LUKS, ContentKind.BITLOCKER})


class NtfsState(StrEnum):
    """Whether ntfs-3g, with which a guest conversion works, can write to the file system.

    ``HIBERNATED``: Windows is hibernated, or was shut down with Fast Startup. ``CACHED``: the journal belongs to a
    Windows that was running when the disk was copied, or that keeps metadata for a fast start. ``UNKNOWN``: it could
    not be decided.
    """

    CLEAN = "clean"
    HIBERNATED = "hibernated"
    CACHED = "cached"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class EfiFiles:
    """The EFI programs of a FAT file system, as paths such as ``EFI/BOOT/BOOTX64.EFI``, in the order of the folders.

    ``complete`` is False where a folder could not be read to its end; then there may be more.
    """

    loaders: tuple[str, ...]
    complete: bool

    @property
    def fallback(self) -> tuple[str, ...]:
        """The loaders that firmware starts without a boot entry: ``EFI/BOOT/BOOT*.EFI``."""
        return tuple(path for path in self.loaders if path.upper().startswith("EFI/BOOT/BOOT"))

    def has(self, path: str) -> bool:
        """Whether a loader has this path, in any case."""
        return path.upper() in (loader.upper() for loader in self.loaders)


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """One volume of LVM. ``content`` is None where it cannot be told from this physical volume alone: the volume begins
    on another one, or is spread over several (RAID, stripes, thin pools)."""

    name: str
    size_bytes: int
    content: Content | None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """LVM: a volume group with its visible volumes, as one physical volume describes them."""

    name: str
    volumes: tuple[LogicalVolume, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What a partition or a whole disk holds. ``uuid`` as blkid prints it, ``version`` that of the LUKS header.

    ``efi`` is there for FAT, ``ntfs`` for NTFS, ``group`` for a physical volume whose metadata could be read.
    ``windows``: an NTFS with the folder ``Windows\\System32``.
    """

    kind: ContentKind
    label: str | None = None
    uuid: str | None = None
    version: int | None = None
    efi: EfiFiles | None = None
    ntfs: NtfsState | None = None
    windows: bool = False
    group: VolumeGroup | None = None

    @property
    def encrypted(self) -> bool:
        """Whether a key is needed to read it."""
        return self.kind in ENCRYPTED


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. ``number`` as Linux counts; ``type`` is a GUID in lower case, or ``0x83`` in an MBR.

    ``active`` is the MBR's boot flag, or the attribute "legacy BIOS bootable" of a GPT.
    """

    number: int
    start_bytes: int
    size_bytes: int
    type: str
    name: str | None
    active: bool
    content: Content

    @property
    def is_esp(self) -> bool:
        """Whether it is an EFI system partition by its type."""
        return self.type in (ESP_GUID, ESP_TYPE)

    @property
    def is_bios_boot(self) -> bool:
        """Whether it is where GRUB keeps its core for BIOS on a GPT disk."""
        return self.type == BIOS_BOOT_GUID


@dataclass(frozen=True, slots=True)
class DiskLayout:
    """What lies on one disk. ``whole`` is the content of a disk without partition table, None otherwise.

    ``boot_code``: the first sector holds a program that a BIOS starts. ``damaged_table``: the GPT was read from its
    backup, or its backup is missing. ``complete`` is False where a limit ended the reading; then what is missing here
    may be on the disk.
    """

    size_bytes: int
    sector_bytes: int
    table: TableKind
    partitions: tuple[Partition, ...]
    whole: Content | None
    boot_code: bool
    damaged_table: bool
    complete: bool

    @property
    def contents(self) -> Iterator[tuple[int | None, Content]]:
        """``(number of the partition, content)``; the number is None for a whole disk."""
        if self.whole is not None:
            yield None, self.whole
        for partition in self.partitions:
            yield partition.number, partition.content


ESP_GUID: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ESP_TYPE: Final = "0xef"
BIOS_BOOT_GUID: Final = "21686148-6449-6e6f-744e-656564454649"
