"""OVA: an OVF package in one tar file (DSP0243 1.1.1, section 5.3). Written from front to back into a seekable file;
read in all dialects of tar.

The descriptor must come first, but its sizes are known last. So space is reserved for it and filled at the end::

    0          512                   512 + room
    ├──────────┼─────────────────────┼─────────┬────────┬─────┬─────────┬────────┬─────┬───────────┬──────┐
    │ header   │ descriptor, padded  │ header  │ disk 1 │ pad │ header  │ disk 2 │ ... │ .mf member│ end  │
    └──────────┴─────────────────────┴─────────┴────────┴─────┴─────────┴────────┴─────┴───────────┴──────┘
      written last: until then the file starts with zeros, which tar reads as an empty archive

The unused space is white space behind the descriptor's last tag, which XML allows: so no filler member is needed, which
could confuse a reader.

Headers are POSIX ustar, with two extensions. Sizes from 8 GiB are base-256 numbers, as GNU tar writes them and all
readers accept them. Names over 100 bytes use a pax header (POSIX 1003.1-2001), not GNU's ``L`` member: `tar -R` prints
the block of the member's own header for the former and of the first header for the latter, and virt-v2v takes the
position of a disk from that listing.

The reader accepts v7, ustar, GNU, and pax with any keys; members in a folder, in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import BAD_FORMAT, TRUNCATED_STREAM, IntegrityError, TargetError, register
from hypersdk.formats.image import BlockFile, ReadableFile
from hypersdk.formats.mf import format_mf
from hypersdk.formats.names import is_bare_name, is_inner_path
from hypersdk.remedies import SetOption
from hypersdk.units import KiB, MiB, align_up

TAR_BLOCK: Final = 512
RECORD: Final = 20 * TAR_BLOCK
"""tar reads in records of 20 blocks; an archive that ends inside one draws a warning from some readers."""

DESCRIPTOR_ROOM: Final = 256 * KiB
"""Default space: a descriptor has 5 to 30 KiB, one with 240 disks (the most of a VM) about 200 KiB."""

MAX_MEMBERS: Final = 4096
MAX_EXTENSION_BYTES: Final = {b"L": 64 * KiB, b"K": 64 * KiB, b"x": MiB, b"g": MiB, b"X": MiB}
"""Headers that extend the next member's (``g``: those of all that follow), by type, and the limit of their size. GNU's
have one name. A pax header (``X`` is Sun's type for it) may also have extended attributes: macOS writes a few hundred
KiB."""

_MAX_OCTAL_SIZE: Final = 8**11 - 1
_MAX_PLAIN_NAME: Final = 100
MAX_EXTENSIONS_BYTES: Final = 16 * MiB
"""Limit of all such headers together: a few MiB of gzip may hold thousands of them."""
_REGULAR: Final = (b"0", b"\0", b"7")
_SPARSE: Final = b"GNU.sparse."
"""Prefix of the pax keys of a sparse file."""
_SPARSE_NAME: Final = b"GNU.sparse.name"
_PAX_KEYS: Final = (b"path", b"size", _SPARSE_NAME)
_APPLE_DOUBLE: Final = "._"
"""Prefix of the files in which macOS stores the attributes of another file."""

OVA_ROOM = register(
    "ova_room",
    "The descriptor is larger than the space reserved for it at the start of the OVA.",
    SetOption("format", "ovf"),
)


@dataclass(frozen=True, slots=True)
class OvaMember:
    """One file in the archive: its data are the ``size`` bytes from ``offset`` in the OVA. ``name`` may include
    folders."""

    name: str
    offset: int
    size: int


# --- writing ---------------------------------------------------------------------------------------------------------


class OvaWriter:
    """Writes one OVA into ``file``. Disks come one after another, each at an offset that only depends on those before.

    So a resumed export calls ``add_member`` again for the disks it has, with their sizes, and the next disk is
    where it was. ``mtime_s`` (Unix time) goes into all headers. Not thread-safe: one disk at a time is the format.
    """

    def __init__(
        self, file: BlockFile, descriptor_name: str, *, descriptor_room: int = DESCRIPTOR_ROOM, mtime_s: int
    ) -> None:
        self._file = file
        self._mtime_s = mtime_s
        self._descriptor_name = descriptor_name
        self._header = member_header(descriptor_name, align_up(descriptor_room, TAR_BLOCK), mtime_s)
        self._room = align_up(descriptor_room, TAR_BLOCK)
        self._next = len(self._header) + self._room
        self._names: list[str] = []

    def data_offset(self, name: str) -> int:
        """The offset at which the data of the next member, ``name``, start."""
        return self._next + len(member_header(name, 0, self._mtime_s))

    def add_member(self, name: str, size: int) -> None:
        """Adds ``name``, whose ``size`` bytes of data lie at ``data_offset``: writes the header in front and zeros up
        to the next block behind."""
        end = self.data_offset(name) + size
        self._file.pwrite([member_header(name, size, self._mtime_s)], self._next)
        self._next = align_up(end, TAR_BLOCK)
        if self._next > end:
            self._file.pwrite([bytes(self._next - end)], end)
        self._names.append(name)

    def finish(self, descriptor: bytes, digests: Mapping[str, str]) -> bytes:
        """Writes ``.mf``, end and descriptor, the header of the descriptor last and after a sync. Returns the text of
        the ``.mf``.

        ``digests`` has the SHA-256 (hex) of the members; a member without one has no line in the ``.mf``. Raises
        TargetError ``ova_room`` when the descriptor does not fit.
        """
        padded = pad_descriptor(descriptor, self._room)
        sums = {self._descriptor_name: hashlib.sha256(padded).hexdigest()}
        sums.update((name, digests[name]) for name in self._names if name in digests)
        mf = format_mf(("SHA256", name, digest) for name, digest in sums.items())
        mf_name = self._descriptor_name.removesuffix(".ovf") + ".mf"
        self._file.pwrite([mf], self.data_offset(mf_name))
        self.add_member(mf_name, len(mf))
        self._file.truncate(self._next)  # removes what an interrupted run left
        self._file.truncate(align_up(self._next + 2 * TAR_BLOCK, RECORD))
        self._file.pwrite([padded], len(self._header))
        self._file.sync()
        self._file.pwrite([self._header], 0)
        self._file.sync()
        return mf


def pad_descriptor(descriptor: bytes, room: int) -> bytes:
    """``descriptor`` followed by white space up to ``room`` bytes, in lines that an editor can show."""
    missing = room - len(descriptor)
    if missing < 0:
        raise TargetError(
            f"the OVF descriptor has {len(descriptor)} bytes, the OVA has space for {room}", code=OVA_ROOM
        )
    line = b" " * 127 + b"\n"
    return descriptor + (line * (missing // len(line) + 1))[:missing]


def member_header(name: str, size: int, mtime_s: int) -> bytes:
    """Returns the header blocks of a regular file. Raises ValueError for an invalid name."""
    if not is_bare_name(name):
        raise ValueError(f"not a name for a member: {name!r}")
    raw = name.encode()
    if len(raw) <= _MAX_PLAIN_NAME:
        return _ustar_block(raw, size, mtime_s, b"0")
    record = _pax_record("path", name)
    short = raw[:_MAX_PLAIN_NAME].decode(errors="ignore").encode()
    padded = record.ljust(align_up(len(record), TAR_BLOCK), b"\0")
    return _ustar_block(b"PaxHeaders/1", len(record), mtime_s, b"x") + padded + _ustar_block(short, size, mtime_s, b"0")


def _ustar_block(name: bytes, size: int, mtime_s: int, kind: bytes) -> bytes:
    fields = [
        name.ljust(100, b"\0"),
        b"0000640\0",
        b"0000000\0",
        b"0000000\0",
        _number(size),
        _number(mtime_s),
        b" " * 8,
        kind,
        bytes(100),
        b"ustar\00000",
        b"root".ljust(32, b"\0"),
        b"root".ljust(32, b"\0"),
        b"0000000\0",
        b"0000000\0",
        bytes(167),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _number(value: int) -> bytes:
    """A 12-byte field: 11 octal digits, or base-256 with the top bit set where they do not suffice."""
    if value <= _MAX_OCTAL_SIZE:
        return b"%011o\0" % value
    return b"\x80" + value.to_bytes(11, "big")


def _pax_record(key: str, value: str) -> bytes:
    """``LENGTH key=value\\n``, where LENGTH counts itself."""
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TarHeader:
    """One header block; ``data`` is the offset behind it."""

    name: bytes
    size: int
    kind: bytes
    data: int


def read_ova(file: ReadableFile) -> list[OvaMember]:
    """Returns the regular files of an OVA, in order. Reads headers only; at most 4096 of them.

    Raises IntegrityError: ``truncated_stream`` when a member goes past the end of the file, ``bad_format`` when it is
    not a tar archive, holds anything but regular files and folders, or names a file twice.
    """
    members: dict[str, OvaMember] = {}
    for member in _members(file):
        if member.name in members:
            raise _bad(f"the archive holds '{member.name}' twice")
        members[member.name] = member
    if not members:
        raise _bad("the archive is empty or was never finished")
    return list(members.values())


def descriptor_member(members: list[OvaMember]) -> OvaMember:
    """Returns the only ``.ovf`` among ``members`` in the outermost folder that has one.

    Raises IntegrityError ``bad_format`` for none or several.
    """
    found = [member for member in members if member.name.lower().endswith(".ovf") and not is_apple_double(member.name)]
    depth = min((member.name.count("/") for member in found), default=0)
    outermost = [member for member in found if member.name.count("/") == depth]
    if len(outermost) != 1:
        raise _bad(f"the archive holds {len(outermost)} OVF descriptors, not one")
    return outermost[0]


def is_apple_double(name: str) -> bool:
    """Whether ``name`` is that of a file in which macOS stores the attributes of another one."""
    return name.rpartition("/")[2].startswith(_APPLE_DOUBLE)


def _members(file: ReadableFile) -> Iterator[OvaMember]:
    """Yields the regular files, with the extended headers in front of them applied, up to the end mark."""
    position = extended_bytes = 0
    general: dict[bytes, bytes] = {}  # pax: of all members from here on
    own: dict[bytes, bytes] = {}  # of the next one
    for _ in range(MAX_MEMBERS):
        header = _read_header(file, position)
        if header is None:
            return
        extends = header.kind in MAX_EXTENSION_BYTES
        length = header.size if extends else _pax_size(general | own, header.size)
        if header.data + length > file.size():
            shown = _shown(header.name)
            raise IntegrityError(f"the archive ends inside '{shown}'", code=TRUNCATED_STREAM, file=shown)
        position = header.data + align_up(length, TAR_BLOCK)
        if extends:
            extended_bytes += length
            if extended_bytes > MAX_EXTENSIONS_BYTES:
                raise _bad(f"the extended headers of the archive have more than {MAX_EXTENSIONS_BYTES} bytes")
            own, general = _extended(header, file, own, general)
            continue
        if header.kind in _REGULAR and (name := _member_name(header, general | own)):
            yield OvaMember(name, header.data, length)
        own = {}
    raise _bad(f"the archive holds more than {MAX_MEMBERS} entries")


def _read_header(file: ReadableFile, position: int) -> _TarHeader | None:
    """The header at ``position``, ``None`` at the end mark (zeros) or the end of the file."""
    block = file.pread(TAR_BLOCK, position)
    if len(block) not in (0, TAR_BLOCK):
        raise IntegrityError(f"the archive ends inside a header, at byte {position}", code=TRUNCATED_STREAM)
    return _parse_block(block, position) if block.strip(b"\0") else None


def _extended(
    header: _TarHeader, file: ReadableFile, own: dict[bytes, bytes], general: dict[bytes, bytes]
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Returns the fields for the next member, and for all that follow, after one more extended header."""
    data = file.pread(header.size, header.data)
    match header.kind:
        case b"L":
            return own | {b"path": data.rstrip(b"\0")}, general
        case b"K":  # the name of a link's target; links are not read
            return own, general
        case b"g":
            return own, general | _pax_fields(data)
        case _:
            return own | _pax_fields(data), general


def _parse_block(block: bytes, position: int) -> _TarHeader:
    """Parses one block and checks sum, kind and numbers. Only the sum identifies a header: tar of Unix version 7 has no
    magic number."""
    if not _sum_fits(block):
        raise _bad(f"there is no valid tar header at byte {position}")
    kind, size = block[156:157], _parse_number(block[124:136])
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    if kind in _REGULAR and name.endswith(b"/"):
        kind = b"5"  # how version 7 marks a folder
    most = MAX_EXTENSION_BYTES.get(kind)
    if most is not None and size > most:
        raise _bad(f"an extended header of {size} bytes at byte {position}")
    if kind == b"S":
        raise _sparse(name)
    if kind not in (*_REGULAR, *MAX_EXTENSION_BYTES) and not (kind == b"5" and size == 0):
        raise _bad(f"'{_shown(name)}' in the archive is not a regular file (type {kind!r})")
    return _TarHeader(name, size, kind, position + TAR_BLOCK)


def _sum_fits(block: bytes) -> bool:
    """Whether the checksum is right, over unsigned bytes or, as in some old tars, signed ones."""
    field = block[148:156].split(b"\0", 1)[0].strip(b" ")
    if not field or field.strip(b"01234567"):
        return False
    stored, rest = int(field, 8), block[:148] + block[156:]
    return stored in ((unsigned := sum(rest) + 8 * 0x20), unsigned - 256 * sum(byte > 127 for byte in rest))


def _parse_number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise _bad("a number in a tar header is not octal")
    return int(digits, 8)


def _pax_fields(data: bytes) -> dict[bytes, bytes]:
    """Returns the fields of a pax header that are used here. Keys and values are bytes: extended attributes
    (``SCHILY.xattr``) are not text."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:  # some writers fill up with zeros
        digits, blank, _ = data[at : at + 9].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        key, separator, value = record.partition(b"=")
        if not separator or at + length > len(data) or not value.endswith(b"\n"):
            raise _bad("a pax header is damaged")
        if key.startswith(_SPARSE):
            found.setdefault(_SPARSE, b"")
        if key in _PAX_KEYS:
            found[key] = value[:-1]
        at += length
    return found


def _pax_size(fields: Mapping[bytes, bytes], plain: int) -> int:
    size = fields.get(b"size")
    if size is None:
        return plain
    if not size.isdigit() or len(size) >= 20:
        raise _bad("the size in a pax header is not a number")
    return int(size)


def _member_name(header: _TarHeader, fields: Mapping[bytes, bytes]) -> str | None:
    """Returns the member's name as an inner path. None where it is not text: no descriptor can name such a file."""
    raw = fields.get(b"path", header.name)
    if _SPARSE in fields:
        raise _sparse(fields.get(_SPARSE_NAME, raw))
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    while name.startswith("./"):
        name = name[2:]
    if not is_inner_path(name):
        raise _bad(f"{name[:100]!r} in the archive is not the name of a file inside it")
    return name


def _sparse(name: bytes) -> IntegrityError:
    return IntegrityError(
        f"'{_shown(name)}' is stored in the archive as a sparse file, which OVA does not support",
        code=BAD_FORMAT,
        next_step="Unpack the archive with `tar -xf`, and convert the .ovf.",
    )


def _shown(name: bytes) -> str:
    return name[:100].decode("utf-8", errors="replace")


def _bad(message: str) -> IntegrityError:
    return IntegrityError(message, code=BAD_FORMAT)
