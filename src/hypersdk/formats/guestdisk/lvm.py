"""LVM2 physical volumes: the label, and the metadata (lvm2's ``lib/format_text/layout.h``).

::

    sector 0..3     label "LABELONE", which points to the header of the physical volume
    header          uuid, size, list of data areas, list of metadata areas; each list ends with zeros
    metadata area   512 bytes of header with the place of the current text; the text may wrap around the area's end
    text            vg_name { extent_size = 8192
                              physical_volumes { pv0 { id = "..." pe_start = 2048 } }
                              logical_volumes { lv_name { status = [...] segment1 { stripes = ["pv0", 0] } } } }
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias, Union

from hypersdk.formats.guestdisk.region import MAX_READ, Region, little

MAX_VOLUMES: Final = 256

_SECTOR: Final = 512
_LABEL: Final = b"LABELONE"
_TYPE: Final = b"LVM2 001"
_AREA_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_MAX_AREAS: Final = 16
_UUID_GROUPS: Final = (6, 4, 4, 4, 4, 4, 6)
_MAX_DIGITS: Final = 18
_MAX_TOKENS: Final = 100_000
"""A group of 256 volumes has about 20,000."""
_TOKEN: Final = re.compile(
    rb'#[^\n]*+|"(?P<text>(?:[^"\\]|\\.)*+)(?:"|\\?\Z)|(?P<word>[\w.+-]++)|(?P<mark>[][{}=])', re.DOTALL
)
"""A string ends at the end of the text, too: to look for its end again and again would take for ever."""

_Section: TypeAlias = dict[str, Union[str, list[str], "_Section"]]


@dataclass(frozen=True, slots=True)
class PlacedVolume:
    """A logical volume. ``start`` is where its first ``readable`` bytes lie in the physical volume; None where they
    lie elsewhere, or are spread."""

    name: str
    size: int
    start: int | None
    readable: int


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """``group`` is None where it belongs to none, or the metadata cannot be read."""

    uuid: str
    group: str | None
    volumes: tuple[PlacedVolume, ...]


def physical_volume(region: Region, head: bytes) -> PhysicalVolume | None:
    """The physical volume of which ``head`` is the start; None if it is none."""
    label = next((at for at in range(0, 4 * _SECTOR, _SECTOR) if head[at : at + 8] == _LABEL), None)
    if label is None or head[label + 24 : label + 32] != _TYPE:
        return None
    header = head[label + little(head, label + 20, 4) :][: 4 * _SECTOR]
    uuid = _uuid(header[:32])
    for offset, length in _metadata_areas(header):
        name, group = next(_sections(_parse(_text(region, offset, length))), (None, {}))
        if name is not None:
            return PhysicalVolume(uuid, name, tuple(_volumes(group, uuid))[:MAX_VOLUMES])
    return PhysicalVolume(uuid, None, ())


def _uuid(letters: bytes) -> str:
    parts, at = [], 0
    for length in _UUID_GROUPS:
        parts.append(letters[at : at + length].decode("ascii", errors="replace"))
        at += length
    return "-".join(parts)


def _metadata_areas(header: bytes) -> Iterator[tuple[int, int]]:
    """``(offset, length)`` of the second of two lists, each of which ends with an offset of 0."""
    at, lists = 40, 0
    for _ in range(_MAX_AREAS):
        offset, length = little(header, at, 8), little(header, at + 8, 8)
        at += 16
        if offset == 0:
            lists += 1
        elif lists == 1:
            yield offset, length
        if lists == 2:
            return


def _text(region: Region, offset: int, length: int) -> bytes:
    """The current metadata text of an area."""
    area = region.read(offset, _SECTOR)
    start, size = little(area, 40, 8), little(area, 48, 8)
    if area[4:20] != _AREA_MAGIC or not _SECTOR <= start < length or not 0 < size <= MAX_READ:
        return b""
    before_end = min(size, length - start)
    return region.read(offset + start, before_end) + region.read(offset + _SECTOR, size - before_end)


# --- the text --------------------------------------------------------------------------------------------------------


def _parse(text: bytes) -> _Section:
    """Sections, values and lists of a text, which may be anything."""
    top: _Section = {}
    path, key, assigned = [top], "", False
    values: list[str] | None = None
    for token in islice(_TOKEN.finditer(text), _MAX_TOKENS):
        match token["mark"]:
            case b"{":
                section: _Section = {}
                path[-1][key] = section
                path.append(section)
            case b"}":
                path = path[:-1] if len(path) > 1 else path
            case b"[":
                path[-1][key] = values = []
            case b"]":
                values, assigned = None, False
            case b"=":
                assigned = True
            case _ if token["text"] is not None or token["word"] is not None:
                word = (token["word"] or token["text"]).decode(errors="replace")
                if values is not None:
                    values.append(word)
                elif assigned:
                    path[-1][key], assigned = word, False
                else:
                    key = word
    return top


def _sections(section: Mapping[str, object]) -> Iterator[tuple[str, _Section]]:
    return ((name, value) for name, value in section.items() if isinstance(value, dict))


def _section(section: _Section, name: str) -> _Section:
    value = section.get(name)
    return value if isinstance(value, dict) else {}


def _list(section: _Section, name: str) -> Sequence[str]:
    value = section.get(name)
    return value if isinstance(value, list) else []


def _number(value: object) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) <= _MAX_DIGITS else 0


def _volumes(group: _Section, uuid: str) -> Iterator[PlacedVolume]:
    """The volumes that are visible: others are parts of these."""
    extent = _number(group.get("extent_size")) * _SECTOR
    ours = {
        name: _number(volume.get("pe_start")) * _SECTOR
        for name, volume in _sections(_section(group, "physical_volumes"))
        if volume.get("id") == uuid
    }
    for name, volume in _sections(_section(group, "logical_volumes")):
        if "VISIBLE" in _list(volume, "status"):
            counts = [_number(segment.get("extent_count")) for _, segment in _sections(volume)]
            start, count = _placed(_section(volume, "segment1"), ours, extent)
            yield PlacedVolume(name, sum(counts) * extent, start, count * extent)


def _placed(segment: _Section, ours: Mapping[str, int], extent: int) -> tuple[int | None, int]:
    """Where a segment lies in our physical volume, and its extents; ``(None, 0)`` where it is elsewhere or spread."""
    match _list(segment, "stripes"):
        case [name, first] if name in ours and segment.get("type") == "striped":
            return ours[name] + _number(first) * extent, _number(segment.get("extent_count"))
        case _:
            return None, 0
