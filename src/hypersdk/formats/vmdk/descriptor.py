"""The text part of a VMDK: which kind of disk it is and which extents hold it.

::

    # Disk DescriptorFile
    CID=7f3b2f2d                                 changes whenever the content does
    parentCID=ffffffff                           anything else: a delta to another disk
    createType="twoGbMaxExtentSparse"
    RW 4192256 SPARSE "disk-s001.vmdk"           access, sectors, kind, file
    RW 63 FLAT "disk-f001.vmdk" 128              ... and the first sector in that file
    RW 2048 ZERO                                 no file at all

Source: VMware, "Virtual Disk Format 5.0", section "The Descriptor File".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hypersdk.formats.vmdk.layout import MAX_CAPACITY, MAX_DESCRIPTOR_BYTES, bad_format
from hypersdk.units import SECTOR

NO_PARENT: Final = 0xFFFFFFFF
SIGNATURE: Final = b"# Disk DescriptorFile"

_EXTENT: Final = re.compile(
    r'(?P<access>RW|RDONLY|NOACCESS)[ \t]+(?P<sectors>\d{1,19})[ \t]+(?P<kind>[A-Z0-9]{1,16})'
    r'(?:[ \t]+"(?P<name>[^"]{1,1024})"(?:[ \t]+(?P<offset>\d{1,19}))?)?'
)  # fmt: skip
_SETTING: Final = re.compile(r'(?P<key>[A-Za-z][\w.]{0,63})[ \t]*=[ \t]*"?(?P<value>[^"]{0,1024})"?')


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One extent: ``sectors`` of the disk, of ``kind`` (SPARSE, FLAT, VMFS, ZERO, ...), in file ``name`` from sector ``offset`` on."""

    sectors: int
    kind: str
    name: str | None
    offset: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a descriptor says. ``parent_cid`` is None or NO_PARENT for a disk that stands on its own."""

    create_type: str
    parent_cid: int | None
    extents: tuple[ExtentLine, ...]

    @property
    def capacity(self) -> int:
        """Guest bytes of all extents."""
        return SECTOR * sum(extent.sectors for extent in self.extents)


def parse_descriptor(data: bytes) -> Descriptor:
    """Reads a descriptor, embedded (padded with zeros) or a file of its own. Lines of no interest are passed over.

    Raises IntegrityError ``bad_format``: too long, an extent line that does not read as one, a disk that is only a delta.
    """
    if len(data) > MAX_DESCRIPTOR_BYTES:
        raise bad_format(f"a descriptor of {len(data)} bytes")
    settings: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for line in _decode(data).splitlines():
        if match := _SETTING.fullmatch(line.strip()):
            settings[match["key"].lower()] = match["value"]
        elif line.startswith(("RW", "RDONLY", "NOACCESS")):
            extents.append(_extent(line))
    descriptor = Descriptor(settings.get("createtype", ""), _cid(settings.get("parentcid")), tuple(extents))
    _check(descriptor)
    return descriptor


def _decode(data: bytes) -> str:
    text = data.partition(b"\0")[0]
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("cp1252", errors="replace")  # what Workstation writes on western Windows


def _extent(line: str) -> ExtentLine:
    match = _EXTENT.match(line)
    if match is None:
        raise bad_format(f"extent line {line[:80]!r}")
    if match["access"] == "NOACCESS":
        raise bad_format(f"an extent that may not be read: {line[:80]!r}")
    return ExtentLine(int(match["sectors"]), match["kind"], match["name"], int(match["offset"] or 0))


def _cid(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text, 16)
    except ValueError as error:
        raise bad_format(f"parentCID={text[:20]!r}") from error


def _check(descriptor: Descriptor) -> None:
    if descriptor.parent_cid not in (None, NO_PARENT):
        raise bad_format("it is a delta to a parent disk; consolidate the machine's snapshots first")
    if descriptor.capacity > MAX_CAPACITY:
        raise bad_format(f"extents of {descriptor.capacity} bytes in all")


def stream_descriptor(capacity: int, cid: int) -> bytes:
    """The descriptor embedded in a stream: lsilogic, and the geometry that goes with it (255 heads, 63 sectors)."""
    sectors = capacity // SECTOR
    cylinders = max(1, sectors // (255 * 63))
    return f"""\
# Disk DescriptorFile
version=1
CID={cid:08x}
parentCID={NO_PARENT:08x}
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "generated-stream.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "{"0" * 24}{cid:08x}"
ddb.virtualHWVersion = "13"
""".encode("ascii")
