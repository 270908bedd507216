"""Partition tables: MBR with its chain of logical partitions, and GPT (UEFI specification 2.10, chapter 5).

::

    LBA 0     MBR: code (440 bytes), disk id, four entries at 446, 55 AA; on a GPT disk one entry of type EE
        1     GPT header, CRC-32 over itself and over the entries
        2 ..  128 entries of 128 bytes, or as the header says
       -1     backup of the header, its entries before it

The numbers of a GPT are sectors of 512 or of 4096 bytes: where the header lies tells which.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hypersdk.formats.guestdisk.records import TableKind
from hypersdk.formats.guestdisk.region import Region, little, text
from hypersdk.units import KiB

MBR_BYTES: Final = 512
MAX_LOGICAL: Final = 128
"""Linux reads no more than 256 minors of a disk, sfdisk writes no more than 60 logical partitions."""
MAX_ENTRIES_BYTES: Final = 128 * KiB
"""Of a GPT: 1024 entries. All tools write 128."""

_SECTORS: Final = (512, 4096)
_CODE_BYTES: Final = 440
_ENTRIES: Final = 446
_SIGNATURE: Final = b"\x55\xaa"
_ENTRY: Final = struct.Struct("<B3xB3xII")
_FLAGS: Final = (0x00, 0x80)
_PROTECTIVE: Final = 0xEE
_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})
_CONTAINERS: Final = frozenset(f"0x{number:02x}" for number in _EXTENDED)

_GPT_SIGNATURE: Final = b"EFI PART"
_GPT_HEADER_BYTES: Final = 92
_GPT_ENTRY_SIZES: Final = (128, 256, 512, 1024, 2048, 4096)
_LEGACY_BOOT: Final = 1 << 2
_UNUSED: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class Slot:
    """An entry of a table, in bytes; see ``Partition``."""

    number: int
    start: int
    size: int
    type: str
    name: str | None
    active: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The partitions of a disk."""

    kind: TableKind
    sector: int
    slots: tuple[Slot, ...]
    damaged: bool = False


NO_TABLE: Final = Table(TableKind.NONE, _SECTORS[0], ())


def is_container(slot: Slot) -> bool:
    """Whether it is the extended partition of an MBR."""
    return slot.type in _CONTAINERS


def has_boot_code(sector: bytes) -> bool:
    """Whether the first sector of a disk holds a program that a BIOS starts."""
    return sector[510:512] == _SIGNATURE and any(sector[:_CODE_BYTES])


def read_table(disk: Region, sector: bytes) -> Table:
    """The partition table of ``disk``, whose first ``sector`` was read. Entries that cannot be right are no table."""
    if sector[510:512] != _SIGNATURE:
        return NO_TABLE
    entries = [_MbrEntry(*_ENTRY.unpack_from(sector, _ENTRIES + 16 * index)) for index in range(4)]
    if any(entry.type == _PROTECTIVE for entry in entries):
        return _read_gpt(disk) or _mbr(disk, entries)
    return _mbr(disk, entries)


# --- MBR -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _MbrEntry:
    """``start`` and ``count`` in sectors."""

    flag: int
    type: int
    start: int
    count: int

    @property
    def used(self) -> bool:
        return self.type != 0 and self.count != 0

    def slot(self, number: int, base: int = 0) -> Slot:
        start, size = (base + self.start) * MBR_BYTES, self.count * MBR_BYTES
        return Slot(number, start, size, f"0x{self.type:02x}", None, self.flag == _FLAGS[1])


def _mbr(disk: Region, entries: list[_MbrEntry]) -> Table:
    used = [entry for entry in entries if entry.used]
    sectors = disk.size // MBR_BYTES
    sound = all(entry.flag in _FLAGS for entry in entries) and all(entry.start > 0 for entry in used)
    if not sound or not any(entry.start < sectors for entry in used):
        return NO_TABLE  # the boot sector of a file system, which may have code there, or an entry for the whole disk
    slots = [entry.slot(number) for number, entry in enumerate(entries, 1) if entry.used]
    extended = next((entry for entry in used if entry.type in _EXTENDED), None)
    if extended is not None:
        slots += (entry.slot(number, base) for number, (base, entry) in enumerate(_logical(disk, extended.start), 5))
    return Table(TableKind.MBR, MBR_BYTES, tuple(slots))


def _logical(disk: Region, first: int) -> Iterator[tuple[int, _MbrEntry]]:
    """``(base, entry)`` of the logical partitions: each has a sector with its own entry, whose start counts from that
    sector, and a link, which counts from the extended partition. Links that do not rise are a loop."""
    here = first
    for _ in range(MAX_LOGICAL):
        sector = disk.read(here * MBR_BYTES, MBR_BYTES)
        if sector[510:512] != _SIGNATURE:
            return
        own, link = (_MbrEntry(*_ENTRY.unpack_from(sector, _ENTRIES + 16 * index)) for index in range(2))
        if own.used and own.type not in _EXTENDED:
            yield here, own
        if not link.used or link.type not in _EXTENDED or first + link.start <= here:
            return
        here = first + link.start


# --- GPT -------------------------------------------------------------------------------------------------------------


def _read_gpt(disk: Region) -> Table | None:
    """The GPT, from its backup at the end of the disk where the first one is damaged; None where both are."""
    for sector in _SECTORS:
        primary = _gpt_at(disk, sector, 1)
        backup = _gpt_at(disk, sector, disk.size // sector - 1)
        slots = primary if primary is not None else backup
        if slots is not None:
            return Table(TableKind.GPT, sector, slots, primary is None or backup is None)
    return None


def _gpt_at(disk: Region, sector: int, lba: int) -> tuple[Slot, ...] | None:
    """The partitions by the header in sector ``lba``; None unless header and entries match their checksums."""
    header = disk.read(lba * sector, sector)
    length = little(header, 12, 4)
    if header[:8] != _GPT_SIGNATURE or not _GPT_HEADER_BYTES <= length <= len(header):
        return None
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != little(header, 16, 4) or little(header, 24, 8) != lba:
        return None
    count, size = little(header, 80, 4), little(header, 84, 4)
    if size not in _GPT_ENTRY_SIZES or count * size > MAX_ENTRIES_BYTES:
        return None
    entries = disk.read(little(header, 72, 8) * sector, count * size)
    if len(entries) != count * size or zlib.crc32(entries) != little(header, 88, 4):
        return None
    return tuple(_gpt_slots(entries, size, sector))


def _gpt_slots(entries: bytes, size: int, sector: int) -> Iterator[Slot]:
    for number, at in enumerate(range(0, len(entries), size), 1):
        entry = entries[at : at + size]
        if entry[:16] == _UNUSED:
            continue
        first, last = little(entry, 32, 8), little(entry, 40, 8)
        yield Slot(
            number=number,
            start=first * sector,
            size=max(0, last - first + 1) * sector,
            type=str(uuid.UUID(bytes_le=entry[:16])),
            name=text(entry, 56, 72, "utf-16-le"),
            active=bool(little(entry, 48, 8) & _LEGACY_BOOT),
        )
