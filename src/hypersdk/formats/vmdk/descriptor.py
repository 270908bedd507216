"""The text part of a VMDK: which kind of disk it is and which extents hold it.

::

    # Disk DescriptorFile
    CID=7f3b2f2d                                 changes whenever the content does
    parentCID=ffffffff                           anything else: a delta to another disk
    createType="twoGbMaxExtentSparse"
    RW 4192256 SPARSE "disk-s001.vmdk"           access, sectors, kind, file
    RW 63 FLAT "disk-f001.vmdk" 128              ... and the first sector in that file
    RW 2048 ZERO                                 no file at all

Source: VMware, "Virtual Disk Format 5.0", section "The Descriptor File". The parser also accepts what ``qemu-img``
reads, and what VirtualBox, Workstation and text editors write: any case, any blanks, any line ends, a byte order mark,
unknown keys.

Names are bytes in the code page of the system that wrote them. ``encoding="GBK"`` names it, if it is present and right;
and the names of the files may or may not have been converted to UTF-8 later. So a name is a list of names to try.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Final

from hypersdk.formats.vmdk.layout import MAX_CAPACITY, MAX_DESCRIPTOR_BYTES, bad_format
from hypersdk.units import SECTOR

_MARK: Final = re.compile(rb"#[ \t]*disk[ \t]*descriptor[ \t]*file", re.IGNORECASE)
_VERSION: Final = re.compile(rb"version[ \t]*=", re.IGNORECASE)
_LINE_END: Final = re.compile(r"\r\n|\n|\r")

NO_PARENT: Final = 0xFFFFFFFF
_ACCESS: Final = ("RW", "RDONLY", "NOACCESS")
_EXTENT: Final = re.compile(
    r"(?P<access>RW|RDONLY|NOACCESS)[ \t]+(?P<sectors>\d{1,19})[ \t]+(?P<kind>[A-Z0-9]{1,16})"
    r'(?:[ \t]+"(?P<name>[^"]{1,1024})"(?:[ \t]+(?P<offset>-?\w{1,19})(?:[ \t].*)?)?)?[ \t]*',
    re.IGNORECASE,
)
_SETTING: Final = re.compile(r'(?P<key>[A-Za-z][\w.]{0,63})[ \t]*=[ \t]*"?(?P<value>[^"]{0,1024})"?[ \t]*')

_CODE_PAGE: Final = re.compile(r"(?:windows|cp|ibm|ms)[-_]?(\d{3,5})")
_ENCODINGS: Final = {
    "shiftjis": "cp932", "sjis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030",
    "big5": "cp950", "big5hkscs": "big5hkscs", "euckr": "cp949", "eucjp": "euc_jp",
    "koi8r": "koi8_r", "koi8u": "koi8_u", "macroman": "mac_roman", "macintosh": "mac_roman",
    **{f"iso8859{part}": f"iso8859_{part}" for part in (*range(1, 12), 13, 14, 15, 16)},
}  # fmt: skip
"""Names as they stand in descriptors, without dashes -> codecs, each the superset that Windows means. Only
these, and code pages by their number: Python also has codecs that are no character sets. UTF-8 is always tried."""
_WINDOWS_ONLY: Final = {
    "936": "gb18030",
    "54936": "gb18030",
    "65001": "utf-8",
    "51949": "euc_kr",
    "51932": "euc_jp",
    "20932": "euc_jp",
}
_FALLBACKS: Final = ("utf-8", "cp1252")
"""Without ``encoding``: what Linux writes, and Workstation on western Windows."""


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One extent: ``sectors`` of the disk, of ``kind`` (SPARSE, FLAT, VMFS, ZERO, ...), in a file from sector
    ``offset`` on.

    ``names`` are those that the file may have, best first; none for an extent without a file. The last may hold bytes
    that are no text, as ``os.fsdecode`` has them.
    """

    sectors: int
    kind: str
    names: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A parsed descriptor. ``parent_cid`` is None or NO_PARENT for a disk without a parent."""

    parent_cid: int | None
    extents: tuple[ExtentLine, ...]

    @property
    def capacity(self) -> int:
        """Guest bytes of all extents."""
        return SECTOR * sum(extent.sectors for extent in self.extents)

    @property
    def own_sectors(self) -> int | None:
        """Sectors of the disk in whose file the descriptor is embedded; None where it has no extent, or several."""
        return self.extents[0].sectors if len(self.extents) == 1 else None


def is_descriptor(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a descriptor: it has the mark or, as for ``qemu-img``, its first word
    is ``version``."""
    if _MARK.search(head):
        return True
    lines = (line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return bool(_VERSION.match(next((line for line in lines if line and not line.startswith(b"#")), b"")))


def parse_descriptor(data: bytes) -> Descriptor:
    """Parses a descriptor, embedded (padded with zeros) or in its own file. Unknown lines are ignored.

    Raises IntegrityError ``bad_format``: too long, a malformed extent line, a disk that is only a delta.
    """
    if len(data) > MAX_DESCRIPTOR_BYTES:
        raise bad_format(f"a descriptor of {len(data)} bytes")
    settings: dict[str, str] = {}
    rows: list[str] = []
    # Latin-1 keeps each byte, and no code page has a quote, a blank or a line end inside a letter.
    for line in _LINE_END.split(data.removeprefix(b"\xef\xbb\xbf").partition(b"\0")[0].decode("latin-1")):
        row = line.strip(" \t")
        if row.split(maxsplit=1)[:1] and row.split(maxsplit=1)[0].upper() in _ACCESS:
            rows.append(row)
        elif match := _SETTING.fullmatch(row):
            settings.setdefault(match["key"].lower(), match["value"].strip())
    codec = _codec(settings.get("encoding", ""))
    extents = tuple(_extent(row, codec) for row in rows)
    descriptor = Descriptor(_cid(settings.get("parentcid")), extents)
    _check(descriptor)
    return descriptor


def _codec(encoding: str) -> str | None:
    """Returns the codec for the encoding of a descriptor; None for an unknown one."""
    name = encoding.strip().lower()
    page = _CODE_PAGE.fullmatch(name)
    plain = name.replace("-", "").replace("_", "")
    name = _WINDOWS_ONLY.get(page[1], f"cp{page[1]}") if page else _ENCODINGS.get(plain, "")
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None


def _names(raw: bytes, codec: str | None) -> tuple[str, ...]:
    """Returns the names that ``raw`` may have on this system, best first; last the bytes as they are, as ``qemu-img``
    uses them."""
    found = []
    for name in (codec, *_FALLBACKS):
        try:
            found.append(raw.decode(name or "utf-8"))
        except UnicodeDecodeError:
            continue  # not in this encoding; the bytes themselves are left in any case
    return tuple(dict.fromkeys([*found, raw.decode("utf-8", errors="surrogateescape")]))


def _extent(line: str, codec: str | None) -> ExtentLine:
    match = _EXTENT.fullmatch(line)
    if match is None or not (match["offset"] or "0").isdecimal():
        raise bad_format(f"extent line {line[:80]!r}")
    kind = match["kind"].upper()
    if match["access"].upper() == "NOACCESS" and kind != "ZERO":
        raise bad_format(f"an extent that may not be read: {line[:80]!r}")
    names = _names(match["name"].encode("latin-1"), codec) if match["name"] else ()
    return ExtentLine(int(match["sectors"]), kind, names, int(match["offset"] or 0))


def _cid(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text, 16)
    except ValueError as error:
        raise bad_format(f"parentCID={text[:20]!r}") from error


def _check(descriptor: Descriptor) -> None:
    if descriptor.parent_cid not in (None, NO_PARENT) and not _holds_everything(descriptor):
        raise bad_format("it is a delta to a parent disk; consolidate the machine's snapshots first")
    if descriptor.capacity > MAX_CAPACITY:
        raise bad_format(f"extents of {descriptor.capacity} bytes in all")


def _holds_everything(descriptor: Descriptor) -> bool:
    """Whether no byte can come from a parent: flat extents have all of them, so a stale ``parentCID`` does not
    matter."""
    return bool(descriptor.extents) and all(extent.kind in ("FLAT", "VMFS", "ZERO") for extent in descriptor.extents)


def stream_descriptor(capacity: int, cid: int) -> bytes:
    """Returns the descriptor embedded in a stream: lsilogic, with its geometry (255 heads, 63 sectors)."""
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
