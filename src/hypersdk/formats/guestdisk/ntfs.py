"""NTFS: name, serial number, and whether ntfs-3g would mount it for writing. Structures as in the Linux-NTFS project's
documentation.

::

    boot sector ──> MFT: records of (mostly) 1 KiB ──> attributes: a small value inside, or runs of clusters
                     ├── 0  $MFT      runs of the MFT itself
                     ├── 2  $LogFile  two restart pages; version 2.0 belongs to a Windows that is not shut down
                     ├── 3  $Volume   name
                     └── 5  root      index of names: a node inside the record, the others in blocks of "INDX"
                              └──> hiberfil.sys: begins with "HIBR" while Windows is hibernated

ntfs-3g decides in ``ntfs_volume_check_hiberfile`` and ``ntfs_volume_check_logfile``: it refuses a file that begins with
``hibr`` or ``HIBR``, or has less than 4 KiB, and a journal whose latest restart page has version 2.0. All other
journals it replays or resets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hypersdk.formats.guestdisk.records import Content, ContentKind, NtfsState
from hypersdk.formats.guestdisk.region import Region, is_power_of_two, little
from hypersdk.units import KiB, MiB

_OEM: Final = b"NTFS    "
_MAX_RECORD: Final = 64 * KiB
_MAX_BLOCK: Final = 64 * KiB
_MAX_CLUSTER: Final = 2 * MiB
_MAX_UNITS: Final = 128
_MFT, _LOG_FILE, _VOLUME, _ROOT = 0, 2, 3, 5
_SYSTEM_RECORDS: Final = 6

_VOLUME_NAME, _DATA, _INDEX_ROOT, _INDEX_ALLOCATION = 0x60, 0x80, 0x90, 0xA0
_END_OF_ATTRIBUTES: Final = 0xFFFFFFFF
_MAX_ATTRIBUTES: Final = 128
_MAX_RUNS: Final = 4096
_INDEX_NAME: Final = "$I30"
_FIXUP_STEP: Final = 512
_IN_USE: Final = 0x01
_ENCODED: Final = 0xC001
"""Flags of an attribute that is compressed, encrypted or sparse."""

_SUBNODE, _LAST = 0x01, 0x02
_MAX_DEPTH: Final = 8
_MAX_ENTRIES: Final = 4096

_WINDOWS, _SYSTEM32 = "WINDOWS", "SYSTEM32"
_HIBERFIL: Final = "HIBERFIL.SYS"
_HIBERFIL_HEADER: Final = 4096
_HIBERNATED: Final = (b"hibr", b"HIBR")
_RESTART: Final = b"RSTR"
_MAX_PAGE: Final = 64 * KiB
_CACHING_VERSION: Final = (2, 0)


class _Unreadable(Exception):  # noqa: N818 - never leaves this module
    """Something is not where it should be: the state is not known."""


@dataclass(frozen=True, slots=True)
class _Attribute:
    """``value`` is the content of a resident attribute; others have ``runs`` of ``(first cluster, count)``, the first
    is -1 for a hole, and ``size`` bytes, of which ``valid`` were written."""

    type: int
    name: str
    flags: int
    value: bytes | None
    runs: tuple[tuple[int, int], ...]
    size: int
    valid: int


def probe(region: Region, head: bytes) -> Content | None:
    """The file system of which ``head`` is the start; None if it is none."""
    volume = _open(region, head)
    if volume is None:
        return None
    records = volume.system_records()
    return Content(
        ContentKind.NTFS,
        volume.label(records),
        volume.serial,
        ntfs=volume.state(records),
        windows=volume.has_windows(records),
    )


def _open(region: Region, boot: bytes) -> _Volume | None:
    sector = little(boot, 11, 2)
    if boot[3:11] != _OEM or not is_power_of_two(sector) or not 256 <= sector <= 4096:
        return None
    cluster = sector * _units(boot[13])
    record = _units(boot[64]) * (cluster if boot[64] <= _MAX_UNITS else 1)
    fits = 0 < cluster <= _MAX_CLUSTER and 512 <= record <= _MAX_RECORD and is_power_of_two(record)
    return _Volume(region, cluster, record, little(boot, 48, 8) * cluster, little(boot, 72, 8)) if fits else None


def _units(byte: int) -> int:
    """A number; above ``_MAX_UNITS`` the byte is the negative exponent of a power of two."""
    return byte if byte <= _MAX_UNITS else 1 << 256 - byte


class _Volume:
    """Reads records and attributes."""

    def __init__(self, region: Region, cluster: int, record: int, mft: int, serial: int) -> None:
        self.serial = f"{serial:016X}"
        self._region = region
        self._cluster = cluster
        self._record = record
        self._mft = mft

    def system_records(self) -> Sequence[bytes]:
        """The first records of the MFT, each with its fixups applied; empty where it is damaged."""
        data = self._region.read(self._mft, _SYSTEM_RECORDS * self._record)
        return [
            _fixed(data[at : at + self._record], b"FILE")
            for at in range(0, _SYSTEM_RECORDS * self._record, self._record)
        ]

    def label(self, records: Sequence[bytes]) -> str | None:
        """The volume's name."""
        for attribute in _attributes(records[_VOLUME]):
            if attribute.type == _VOLUME_NAME and attribute.value:
                return attribute.value.decode("utf-16-le", errors="replace")
        return None

    def state(self, records: Sequence[bytes]) -> NtfsState:
        """What ntfs-3g would make of it: the hibernation file counts first."""
        try:
            if self._is_hibernated(records):
                return NtfsState.HIBERNATED
            return NtfsState.CACHED if self._is_cached(records[_LOG_FILE]) else NtfsState.CLEAN
        except _Unreadable:
            return NtfsState.UNKNOWN

    def has_windows(self, records: Sequence[bytes]) -> bool:
        """Whether there is a system: the folder ``Windows\\System32``. False where that cannot be read."""
        try:
            windows = self._find(records[_ROOT], _WINDOWS)
            return windows is not None and self._find(self._read_record(records[_MFT], windows), _SYSTEM32) is not None
        except _Unreadable:
            return False

    # The hibernation file

    def _is_hibernated(self, records: Sequence[bytes]) -> bool:
        number = self._find(records[_ROOT], _HIBERFIL)
        if number is None:
            return False
        data = _attribute(self._read_record(records[_MFT], number), _DATA)
        if data.size < _HIBERFIL_HEADER or not data.valid:
            return data.size < _HIBERFIL_HEADER
        return self._read(data, 0, _HIBERFIL_HEADER)[:4] in _HIBERNATED

    def _read_record(self, mft: bytes, number: int) -> bytes:
        data = self._read(_attribute(mft, _DATA), number * self._record, self._record)
        record = _fixed(data, b"FILE")
        if not little(record, 22, 2) & _IN_USE:
            raise _Unreadable
        return record

    def _find(self, folder: bytes, name: str) -> int | None:
        """The record of the file ``name`` (in upper case) in a folder; None where there is none."""
        index = _attribute(folder, _INDEX_ROOT, _INDEX_NAME)
        if index.value is None:
            raise _Unreadable
        block = little(index.value, 8, 4)
        node = index.value[16:]
        for _ in range(_MAX_DEPTH):
            found, subnode = _search(node, name)
            if found is not None or subnode is None:
                return found
            node = self._index_block(folder, subnode, block)
        raise _Unreadable

    def _index_block(self, folder: bytes, number: int, size: int) -> bytes:
        """The node in a block of the index. Its number counts clusters, or sectors where blocks are smaller."""
        if not is_power_of_two(size) or not 512 <= size <= _MAX_BLOCK:
            raise _Unreadable
        unit = self._cluster if size >= self._cluster else 512
        blocks = _attribute(folder, _INDEX_ALLOCATION, _INDEX_NAME)
        return _fixed(self._read(blocks, number * unit, size), b"INDX")[24:]

    # The journal

    def _is_cached(self, log_file: bytes) -> bool:
        """Whether the latest restart page has the version of a Windows that is not shut down."""
        data = _attribute(log_file, _DATA)
        first = self._read(data, 0, _FIXUP_STEP)
        if first[:4] != _RESTART:
            return False  # an empty journal, or one that is reset
        page = little(first, 16, 4)
        if not is_power_of_two(page) or not 512 <= page <= _MAX_PAGE:
            raise _Unreadable
        pages = [first, self._read(data, page, _FIXUP_STEP)]
        latest = max((each for each in pages if each[:4] == _RESTART), key=_sequence)
        return (little(latest, 28, 2), little(latest, 26, 2)) == _CACHING_VERSION

    # Runs

    def _read(self, attribute: _Attribute, offset: int, length: int) -> bytes:
        """The bytes of an attribute that lie in one run. Raises _Unreadable for others."""
        if attribute.value is not None:
            return attribute.value[offset : offset + length]
        if attribute.flags & _ENCODED:
            raise _Unreadable
        parts, position = b"", 0
        for first, count in attribute.runs:
            end = position + count * self._cluster
            while position <= offset < end and len(parts) < length:
                step = min(end - offset, length - len(parts))
                parts += self._piece(first, offset - position, step)
                offset += step
            position = end
        if len(parts) < length:
            raise _Unreadable
        return parts

    def _piece(self, first: int, offset: int, length: int) -> bytes:
        return bytes(length) if first < 0 else self._region.read(first * self._cluster + offset, length)


def _fixed(record: bytes, signature: bytes) -> bytes:
    """A record with its fixups applied: the last two bytes of each 512 are kept in its header. Empty where they do not
    match, because then it was not written as a whole."""
    at, count = little(record, 4, 2), little(record, 6, 2)
    if record[:4] != signature or len(record) != (count - 1) * _FIXUP_STEP or at + 2 * count > len(record):
        return b""
    mark, data = record[at : at + 2], bytearray(record)
    for number in range(1, count):
        end = number * _FIXUP_STEP
        if data[end - 2 : end] != mark:
            return b""
        data[end - 2 : end] = record[at + 2 * number : at + 2 * number + 2]
    return bytes(data)


def _attributes(record: bytes) -> Iterator[_Attribute]:
    at = little(record, 20, 2)
    for _ in range(_MAX_ATTRIBUTES):
        kind, length = little(record, at, 4), little(record, at + 4, 4)
        if length < 24 or kind == _END_OF_ATTRIBUTES or at + length > len(record):
            return
        yield _decoded(record[at : at + length], kind)
        at += length


def _decoded(data: bytes, kind: int) -> _Attribute:
    name_at, name_length = little(data, 10, 2), data[9]
    name = data[name_at : name_at + 2 * name_length].decode("utf-16-le", errors="replace")
    flags = little(data, 12, 2)
    if not data[8]:
        start, length = little(data, 20, 2), little(data, 16, 4)
        value = data[start : start + length]
        return _Attribute(kind, name, flags, value, (), len(value), len(value))
    runs = tuple(_runs(data[little(data, 32, 2) :])) if little(data, 16, 8) == 0 else ()
    return _Attribute(kind, name, flags, None, runs, little(data, 48, 8), little(data, 56, 8))


def _attribute(record: bytes, kind: int, name: str = "") -> _Attribute:
    """The attribute of a record. Raises _Unreadable where the record is damaged, or the attribute may lie in another
    record."""
    found = next((each for each in _attributes(record) if (each.type, each.name) == (kind, name)), None)
    if found is None:
        raise _Unreadable
    return found


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Mapping pairs: a byte with the lengths of two numbers, a count of clusters, and a step from the run before."""
    at, cluster = 0, 0
    for _ in range(_MAX_RUNS):
        sizes = data[at] if at < len(data) else 0
        length, step = sizes & 0x0F, sizes >> 4
        if not 0 < length <= 8 or step > 8 or at + 1 + length + step > len(data):
            return
        count = little(data, at + 1, length)
        if step:
            cluster += int.from_bytes(data[at + 1 + length : at + 1 + length + step], "little", signed=True)
        yield (cluster if step else -1), count
        at += 1 + length + step


def _search(node: bytes, name: str) -> tuple[int | None, int | None]:
    """``(record, subnode)``: where the entry ``name`` of a node leads, or where to go on. Entries are sorted by name,
    upper and lower case alike."""
    at, end = little(node, 0, 4), little(node, 4, 4)
    for _ in range(_MAX_ENTRIES):
        entry = node[at : min(end, len(node))]
        length, flags = little(entry, 8, 2), little(entry, 12, 2)
        if not 16 <= length <= len(entry):
            raise _Unreadable
        found = None if flags & _LAST else _entry_name(entry)
        if found == name:
            return little(entry, 0, 6), None
        if found is None or found > name:
            return None, (little(entry, length - 8, 8) if flags & _SUBNODE else None)
        at += length
    raise _Unreadable


def _entry_name(entry: bytes) -> str:
    """Of an index entry, in upper case as far as that keeps the length."""
    name = entry[16 + 66 : 16 + 66 + 2 * little(entry, 16 + 64, 1)].decode("utf-16-le", errors="replace")
    return name.upper() if len(name.upper()) == len(name) else name


def _sequence(page: bytes) -> int:
    """The log sequence number of a restart page: that of the restart area in it."""
    return little(page, little(page, 24, 2), 8)
