"""What a partition, or a whole disk, holds: by signatures, in the order in which blkid asks too.

A layer below a file system (RAID, LVM, encryption) counts before the file system that may shine through it: the members
of a mirror whose superblock is at the end begin like what is on the mirror.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from hypersdk.formats.guestdisk import fat, lvm, ntfs
from hypersdk.formats.guestdisk.records import Content, ContentKind, LogicalVolume, VolumeGroup
from hypersdk.formats.guestdisk.region import Region, big, little, text
from hypersdk.units import KiB

HEAD_BYTES: Final = 68 * KiB
"""What is read of each region: the last signature is that of btrfs, at 64 KiB."""

_Probe: TypeAlias = Callable[[Region, bytes], Content | None]


def read_content(region: Region) -> Content:
    """What ``region`` holds."""
    return _recognized(region, _PROBES)


def _recognized(region: Region, probes: Sequence[_Probe]) -> Content:
    head = region.read(0, HEAD_BYTES)
    for probe in probes:
        found = probe(region, head)
        if found is not None:
            return _with_efi_files(region, head, found)
    expected = min(HEAD_BYTES, region.size)
    return Content(ContentKind.UNKNOWN if any(head) or len(head) < expected or not head else ContentKind.EMPTY)


def _with_efi_files(region: Region, head: bytes, found: Content) -> Content:
    """Firmware reads a FAT also where it is the member of a mirror."""
    shape = fat.geometry(head) if found.kind in (ContentKind.FAT, ContentKind.MDRAID) else None
    if shape is None:
        return found
    volume = fat.FatVolume(region, shape)
    if found.kind is ContentKind.FAT:
        found = replace(found, label=volume.label(), uuid=fat.serial_text(shape.serial))
    return replace(found, efi=volume.efi_files())


def _uuid(data: bytes, offset: int) -> str | None:
    found = data[offset : offset + 16]
    return str(uuid.UUID(bytes=found)) if len(found) == 16 and any(found) else None


# --- encryption, RAID ------------------------------------------------------------------------------------------------

_LUKS: Final = b"LUKS\xba\xbe"


def _luks(region: Region, head: bytes) -> Content | None:  # noqa: ARG001 - as the others
    """cryptsetup's ``docs/on-disk-format*``: both versions have the UUID at one place."""
    version = big(head, 6, 2)
    if head[:6] != _LUKS or version not in (1, 2):
        return None
    label = text(head, 24, 48) if version == 2 else None
    return Content(ContentKind.LUKS, label, text(head, 168, 40), version)


_BITLOCKER: Final = b"-FVE-FS-"
_TO_GO: Final = b"MSWIN4.1"
_BITLOCKER_GUID: Final = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
_USED_SPACE_GUID: Final = uuid.UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8").bytes_le
_GUID_AT, _GUID_AT_TO_GO = 160, 424
_METADATA_AT: Final = 16
"""Offset of the metadata's three places, from the GUID."""
_VISTA_METADATA_CLUSTER: Final = 56


def _bitlocker(region: Region, head: bytes) -> Content | None:
    """Vista signs the boot sector and has no GUID in it; 7 and later sign it and have one; To Go looks like a FAT."""
    at = _GUID_AT_TO_GO if head[3:11] == _TO_GO else _GUID_AT
    has_guid = head[at : at + 16] in (_BITLOCKER_GUID, _USED_SPACE_GUID)
    if not has_guid and head[3:11] != _BITLOCKER:
        return None
    place = little(head, at + _METADATA_AT, 8)
    if not has_guid:
        place = little(head, _VISTA_METADATA_CLUSTER, 8) * little(head, 11, 2) * little(head, 13, 1)
    metadata = region.read(place, 512)
    volume = metadata[80:96] if metadata[:8] == _BITLOCKER else b""
    return Content(ContentKind.BITLOCKER, uuid=str(uuid.UUID(bytes_le=volume)) if len(volume) == 16 else None)


_MD_MAGIC: Final = 0xA92B4EFC


def _mdraid(region: Region, head: bytes) -> Content | None:
    """Linux software RAID (``md_p.h``): version 1.1 at the start, 1.2 at 4 KiB, 1.0 and 0.90 near the end."""
    sectors = region.size // 512
    last = ((sectors - 16) & ~7) * 512
    for at, block in ((0, head[:256]), (4096, head[4096:4352]), (last, region.read(last, 256))):
        if little(block, 0, 4) == _MD_MAGIC and little(block, 4, 4) == 1 and little(block, 144, 8) * 512 == at:
            return Content(ContentKind.MDRAID, text(block, 32, 32), _uuid(block, 16))
    old = region.read((region.size & ~0xFFFF) - 0x10000, 64)
    if little(old, 0, 4) == _MD_MAGIC and little(old, 4, 4) == 0:
        words = (old[20:24], old[52:56], old[56:60], old[60:64])
        return Content(ContentKind.MDRAID, uuid=_uuid(b"".join(word[::-1] for word in words), 0))
    return None


_MAX_VOLUMES_READ: Final = 64


def _lvm(region: Region, head: bytes) -> Content | None:
    """A physical volume, with what its logical volumes hold. One inside of another is not looked into."""
    volume = lvm.physical_volume(region, head)
    if volume is None:
        return None
    group = VolumeGroup(volume.group, tuple(_read_volumes(region, volume.volumes))) if volume.group else None
    return Content(ContentKind.LVM, uuid=volume.uuid, group=group)


def _read_volumes(region: Region, volumes: Sequence[lvm.PlacedVolume]) -> Iterator[LogicalVolume]:
    for number, volume in enumerate(volumes):
        content = None
        if volume.start is not None and number < _MAX_VOLUMES_READ:
            content = _recognized(region.part(volume.start, volume.readable), _INSIDE_VOLUME)
        yield LogicalVolume(volume.name, volume.size, content)


# --- file systems ----------------------------------------------------------------------------------------------------

_EXT_AT: Final = 1024
_EXT_MAGIC: Final = 0xEF53
_EXT_JOURNAL: Final = 0x4
_EXT_JOURNAL_DEVICE: Final = 0x8
_EXT3_INCOMPATIBLE: Final = 0x2 | 0x4 | 0x10
_EXT3_READ_ONLY: Final = 0x1 | 0x2 | 0x4


def _ext(region: Region, head: bytes) -> Content | None:  # noqa: ARG001 - as the others
    """ext2 has no journal; whatever ext3 does not know makes it ext4."""
    block = head[_EXT_AT : _EXT_AT + 1024]
    compatible, incompatible, read_only = (little(block, at, 4) for at in (92, 96, 100))
    if little(block, 56, 2) != _EXT_MAGIC or incompatible & _EXT_JOURNAL_DEVICE:
        return None
    kind = ContentKind.EXT3 if compatible & _EXT_JOURNAL else ContentKind.EXT2
    if incompatible & ~_EXT3_INCOMPATIBLE or read_only & ~_EXT3_READ_ONLY:
        kind = ContentKind.EXT4
    return Content(kind, text(block, 120, 16), _uuid(block, 104))


def _xfs(region: Region, head: bytes) -> Content | None:  # noqa: ARG001
    return Content(ContentKind.XFS, text(head, 108, 12), _uuid(head, 32)) if head[:4] == b"XFSB" else None


def _btrfs(region: Region, head: bytes) -> Content | None:  # noqa: ARG001
    block = head[64 * KiB :]
    return Content(ContentKind.BTRFS, text(block, 299, 256), _uuid(block, 32)) if block[64:72] == b"_BHRfS_M" else None


_PAGES: Final = (4 * KiB, 8 * KiB, 16 * KiB, 32 * KiB, 64 * KiB)


def _swap(region: Region, head: bytes) -> Content | None:  # noqa: ARG001
    """The signature ends the first page, whose size is that of the machine."""
    if any(head[page - 10 : page] in (b"SWAPSPACE2", b"SWAP-SPACE") for page in _PAGES):
        return Content(ContentKind.SWAP, text(head, _EXT_AT + 28, 16), _uuid(head, _EXT_AT + 12))
    return None


def _fat(region: Region, head: bytes) -> Content | None:  # noqa: ARG001
    return Content(ContentKind.FAT) if fat.geometry(head) else None


def _iso9660(region: Region, head: bytes) -> Content | None:  # noqa: ARG001
    at = 32 * KiB
    return Content(ContentKind.ISO9660, text(head, at + 40, 32)) if head[at + 1 : at + 6] == b"CD001" else None


_SIGNATURES: Final = (
    (ContentKind.REFS, 0, b"\0\0\0ReFS\0"),
    (ContentKind.EXFAT, 3, b"EXFAT   "),
    (ContentKind.SQUASHFS, 0, b"hsqs"),
    (ContentKind.APFS, 32, b"NXSB"),
    (ContentKind.F2FS, 0x400, b"\x10\x20\xf5\xf2"),
    (ContentKind.HFSPLUS, 0x400, b"H+\0\x04"),
    (ContentKind.HFSPLUS, 0x400, b"HX\0\x05"),
    (ContentKind.BCACHE, 0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    (ContentKind.JFS, 0x8000, b"JFS1"),
    (ContentKind.UFS, 8 * KiB + 0x55C, b"\x54\x19\x01\x00"),
    (ContentKind.UFS, 64 * KiB + 0x55C, b"\x19\x01\x54\x19"),
    (ContentKind.REISERFS, 64 * KiB + 0x34, b"ReIsEr"),
)
"""``(kind, offset, bytes)`` of what is only told by name."""


def _signed(region: Region, head: bytes) -> Content | None:  # noqa: ARG001
    return next((Content(kind) for kind, at, magic in _SIGNATURES if head[at : at + len(magic)] == magic), None)


_INSIDE_VOLUME: Final[Sequence[_Probe]] = (
    _luks, _bitlocker, _mdraid, _ext, _xfs, _btrfs, ntfs.probe, _swap, _iso9660, _signed, _fat,
)  # fmt: skip
_PROBES: Final[Sequence[_Probe]] = (_lvm, *_INSIDE_VOLUME)
