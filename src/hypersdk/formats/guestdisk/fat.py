"""FAT12, FAT16 and FAT32 (Microsoft, *FAT: General Overview of On-Disk Format*, 1.03): the geometry, and the EFI
programs in the folder ``EFI``.

::

    reserved sectors │ FATs │ root directory (not FAT32) │ clusters from number 2 on
      boot sector with the geometry                        a directory is a chain of them: entries of 32 bytes
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hypersdk.formats.guestdisk.records import EfiFiles
from hypersdk.formats.guestdisk.region import Region, is_power_of_two, little, text
from hypersdk.units import KiB

MAX_LOADERS: Final = 64
MAX_FOLDERS: Final = 48
"""Folders below ``EFI`` that are looked into; a machine has one per system installed."""
MAX_FOLDER_BYTES: Final = 128 * KiB
"""Of one folder: 4096 entries."""

_SIGNATURE: Final = b"\x55\xaa"
_ENTRY: Final = 32
_MAX_CLUSTER: Final = 256 * KiB
_FREE, _END = 0xE5, 0x00
_LONG_NAME: Final = 0x0F
_FOLDER, _VOLUME = 0x10, 0x08
_LONG_PARTS: Final = ((1, 10), (14, 12), (28, 4))
_LAST_PART: Final = 0x40
_MAX_PARTS: Final = 20
_NO_LABEL: Final = "NO NAME"
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things lie, in bytes; ``bits`` of a FAT entry: 12, 16 or 32."""

    bits: int
    fat: int
    root: int
    root_bytes: int
    root_cluster: int
    data: int
    cluster: int
    clusters: int
    label: str | None
    serial: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file or folder; ``cluster`` is the first one of its chain."""

    name: str
    attributes: int
    cluster: int

    @property
    def is_folder(self) -> bool:
        return bool(self.attributes & _FOLDER)


def geometry(boot: bytes) -> Geometry | None:
    """The geometry in the boot sector; None where it is not that of a FAT."""
    if boot[510:512] != _SIGNATURE:
        return None
    sector, cluster_sectors, reserved, fats = little(boot, 11, 2), boot[13], little(boot, 14, 2), boot[16]
    root_entries, media = little(boot, 17, 2), boot[21]
    if sector not in (512, 1024, 2048, 4096) or not is_power_of_two(cluster_sectors) or not reserved:
        return None
    if fats not in (1, 2) or not (media == 0xF0 or media >= 0xF8) or sector * cluster_sectors > _MAX_CLUSTER:
        return None
    short = little(boot, 22, 2)
    fat_sectors = short or little(boot, 36, 4)
    sectors = little(boot, 19, 2) or little(boot, 32, 4)
    root_sectors = -(-root_entries * _ENTRY // sector)
    data = reserved + fats * fat_sectors + root_sectors
    if not fat_sectors or data >= sectors or bool(short) != bool(root_entries):
        return None
    clusters = (sectors - data) // cluster_sectors
    bits = (12 if clusters < 4085 else 16) if short else 32
    details = 36 if short else 64  # of what follows the sizes: drive, flags, 29h, serial number, label
    signed = boot[details + 2] in (0x28, 0x29)
    return Geometry(
        bits=bits,
        fat=reserved * sector,
        root=(reserved + fats * fat_sectors) * sector,
        root_bytes=root_sectors * sector,
        root_cluster=0 if short else little(boot, 44, 4),
        data=data * sector,
        cluster=cluster_sectors * sector,
        clusters=clusters,
        label=text(boot, details + 7, 11, "cp437") if signed and boot[details + 2] == 0x29 else None,
        serial=little(boot, details + 3, 4) if signed else 0,
    )


class FatVolume:
    """Reads folders. ``complete`` turns False where a folder could not be read to its end."""

    def __init__(self, region: Region, shape: Geometry) -> None:
        self.complete = True
        self._region = region
        self._shape = shape

    def label(self) -> str | None:
        """The volume's name: of its entry in the root folder, which counts, or of the boot sector."""
        entries = self._folder(None)
        named = next((entry.name for entry in entries if entry.attributes & _VOLUME and not entry.is_folder), None)
        label = named or self._shape.label
        return None if label == _NO_LABEL else label

    def efi_files(self) -> EfiFiles:
        """The EFI programs in the folders of ``EFI``, and in the one where Windows keeps its own, one level deeper."""
        loaders: list[str] = []
        top = self._find(self._folder(None), "EFI")
        folders = [] if top is None else self._below(top, top.name)
        for path, folder in folders[:MAX_FOLDERS]:
            entries = self._folder(folder)
            loaders += _programs(path, entries)
            deeper = self._find(entries, "Boot") if path.upper() == "EFI/MICROSOFT" else None
            if deeper is not None:
                loaders += _programs(f"{path}/{deeper.name}", self._folder(deeper))
        if len(folders) > MAX_FOLDERS or len(loaders) > MAX_LOADERS:
            self.complete = False
        return EfiFiles(tuple(loaders[:MAX_LOADERS]), self.complete)

    def _below(self, folder: _Entry, path: str) -> list[tuple[str, _Entry]]:
        return [
            (f"{path}/{entry.name}", entry)
            for entry in self._folder(folder)
            if entry.is_folder and entry.name not in (".", "..")
        ]

    @staticmethod
    def _find(entries: list[_Entry], name: str) -> _Entry | None:
        return next((entry for entry in entries if entry.is_folder and entry.name.upper() == name.upper()), None)

    def _folder(self, folder: _Entry | None) -> list[_Entry]:
        """The entries of a folder; None: of the root."""
        return list(_entries(self._content(folder)))

    def _content(self, folder: _Entry | None) -> bytes:
        if folder is None and self._shape.root_bytes:
            data = self._region.read(self._shape.root, min(self._shape.root_bytes, MAX_FOLDER_BYTES))
            self.complete &= len(data) == self._shape.root_bytes
            return data
        first = self._shape.root_cluster if folder is None else folder.cluster
        return b"".join(self._chain(first))

    def _chain(self, cluster: int) -> Iterator[bytes]:
        """The clusters of a folder up to the one that holds its end."""
        read = 0
        while 2 <= cluster < self._shape.clusters + 2:
            place = self._shape.data + (cluster - 2) * self._shape.cluster
            data = self._region.read(place, self._shape.cluster)
            read += len(data)
            yield data
            if len(data) < self._shape.cluster or read >= MAX_FOLDER_BYTES:
                self.complete = False
                return
            if not any(data[-_ENTRY:]):
                return  # free entries at the end of the folder
            cluster = self._next(cluster)
        self.complete &= cluster >= self._end_of_chain

    @property
    def _end_of_chain(self) -> int:
        return {12: 0xFF8, 16: 0xFFF8, 32: 0xFFFFFF8}[self._shape.bits]

    def _next(self, cluster: int) -> int:
        """The FAT's entry of a cluster; 0 where it cannot be read."""
        if self._shape.bits == 12:
            pair = little(self._region.read(self._shape.fat + cluster * 3 // 2, 2), 0, 2)
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        width = self._shape.bits // 8
        return little(self._region.read(self._shape.fat + cluster * width, width), 0, width) & 0x0FFFFFFF


def _programs(path: str, entries: list[_Entry]) -> list[str]:
    return [
        f"{path}/{entry.name}"
        for entry in entries
        if not entry.attributes & (_FOLDER | _VOLUME) and entry.name.lower().endswith(".efi")
    ]


def _entries(data: bytes) -> Iterator[_Entry]:
    """The entries of a folder, with their long names where they have one."""
    parts: dict[int, str] = {}
    checksum = -1
    for at in range(0, len(data) - _ENTRY + 1, _ENTRY):
        entry = data[at : at + _ENTRY]
        if entry[0] == _END:
            return
        if entry[0] == _FREE:
            parts = {}
        elif entry[11] == _LONG_NAME:
            if entry[0] & _LAST_PART:
                parts = {}
            parts[entry[0] & ~_LAST_PART] = "".join(
                entry[start : start + length].decode("utf-16-le", errors="replace") for start, length in _LONG_PARTS
            )
            checksum = entry[13]
        else:
            name = _long_name(parts) if parts and checksum == _checksum(entry[:11]) else None
            yield _Entry(name or _short_name(entry), entry[11], little(entry, 20, 2) << 16 | little(entry, 26, 2))
            parts = {}


def _long_name(parts: dict[int, str]) -> str | None:
    """Joins the parts, which are counted from 1; None where one is missing."""
    if len(parts) > _MAX_PARTS or sorted(parts) != list(range(1, len(parts) + 1)):
        return None
    return "".join(parts[number] for number in range(1, len(parts) + 1)).partition("\0")[0]


def _short_name(entry: bytes) -> str:
    base, extension = (part.decode("cp437").rstrip() for part in (entry[:8], entry[8:11]))
    if entry[11] & _VOLUME:
        return entry[:11].decode("cp437").rstrip()
    base = base.lower() if entry[12] & _LOWER_BASE else base
    extension = extension.lower() if entry[12] & _LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base


def _checksum(name: bytes) -> int:
    """Of a short name, as it is in each part of its long name."""
    total = 0
    for byte in name:
        total = (total >> 1 | (total & 1) << 7) + byte & 0xFF
    return total


def serial_text(serial: int) -> str:
    """As blkid prints it: ``CAFE-0001``."""
    return f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
