"""The manifest beside an OVF: one line of digest per file.

The form is that of DSP0243 1.1.1 ("Open Virtualization Format Specification"), section 5.1::

    SHA256(web01.ovf)= 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef

No space before ``=``, one after it, lower-case hex, the descriptor first. This is the only form that both ovftool and
virt-v2v accept, so ``format_mf`` writes it. ``parse_mf`` reads our own manifests, also after an editor has put spaces
around the sign or ended the lines in CR LF; anything else is an error.

Packages of other tools have variants of that line. ``read_mf`` accepts all of these, and reports what it could not
read::

    SHA256 (disks/a b.vmdk) = 5F70...      BSD's and coreutils' --tag; blanks, capitals, sub-folders
    SHA2-256(a.vmdk)= 5f70...              openssl 3
    5f70...  a.vmdk    5f70... *a.vmdk     sha256sum
    MD5(...)= / SHA384(...)=               algorithms that no OVF version names; they are compared too
    UTF-8 or UTF-16 with a byte order mark PowerShell
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import BAD_FORMAT, IntegrityError
from hypersdk.formats.names import is_bare_name
from hypersdk.units import KiB, MiB

MAX_MF_BYTES: Final = 1 * MiB
"""A line is about 100 bytes: room for 10,000 files, a hundred times what a machine can have."""

HEX_DIGITS: Final = {"SHA1": 40, "SHA256": 64, "SHA512": 128}
"""Algorithms that OVF tools write, with the length of their digest in hex digits."""

_ALGORITHMS: Final = {32: "MD5", 40: "SHA1", 64: "SHA256", 96: "SHA384", 128: "SHA512"}
"""By the length of the digest in hex digits: the lines of coreutils do not name the algorithm."""

_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAX_LINE: Final = 4 * KiB
_TAGGED: Final = re.compile(
    r"(MD5|SHA-?(?:1|256|384|512)|SHA2-(?:256|384|512))\s*\((.+)\)\s*=\s*([0-9a-f]+)(?:\s.*)?", re.IGNORECASE
)
_LISTED: Final = re.compile(r"([0-9a-f]{32,128})[ \t]+\*?(.+)", re.IGNORECASE)

_LINE: Final = re.compile(r"(SHA1|SHA256|SHA512) ?\((.{1,255})\) {0,2}= {0,2}([0-9A-Fa-f]{40,128})")


@dataclass(frozen=True, slots=True)
class MfLine:
    """One line: ``algorithm`` as ``SHA256``, the file's ``name``, ``hexdigest`` in lower case."""

    algorithm: str
    name: str
    hexdigest: str


@dataclass(frozen=True, slots=True)
class ForeignMf:
    """The manifest of another tool. Names are as written, without ``./`` in front; ``unread`` says what was not
    understood."""

    lines: tuple[MfLine, ...]
    unread: tuple[str, ...] = ()


def read_mf(data: bytes) -> ForeignMf:
    """Reads a manifest in any of its dialects. Never raises: lines that are not understood are ignored and reported."""
    if len(data) > MAX_MF_BYTES:
        return ForeignMf((), (f"it has more than {MAX_MF_BYTES} bytes",))
    lines: list[MfLine] = []
    wrong: list[int] = []
    for number, row in enumerate(_rows(data), start=1):
        if not row or row.startswith("#"):
            continue
        line = _foreign_line(row)
        if line is None:
            wrong.append(number)
        else:
            lines.append(line)
    shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
    unread = (f"line{'s' * (len(wrong) > 1)} {shown} cannot be read",) if wrong else ()
    return ForeignMf(tuple(lines), unread)


def _rows(data: bytes) -> Iterator[str]:
    mark, encoding = next(((mark, name) for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), (b"", "utf-8"))
    text = data[len(mark) :].decode(encoding, errors="replace")
    return (row.strip(" \t\r\0") for row in re.split(r"\r\n|\n|\r", text))


def _foreign_line(row: str) -> MfLine | None:
    if len(row) > _MAX_LINE:
        return None
    if match := _TAGGED.fullmatch(row):
        algorithm, name, digest = match[1].upper().replace("SHA2-", "SHA").replace("-", ""), match[2], match[3]
    elif match := _LISTED.fullmatch(row):
        algorithm, name, digest = None, match[2], match[1]
    else:
        return None
    by_length = _ALGORITHMS.get(len(digest))
    if by_length is None or algorithm not in (None, by_length):
        return None
    name = name.strip()
    while name.startswith(("./", ".\\")):
        name = name[2:]
    return MfLine(by_length, name, digest.lower())


def format_mf(lines: Iterable[tuple[str, str, str]]) -> bytes:
    """Returns the text of a manifest for ``(algorithm, name, hexdigest)``, in the given order: the descriptor first.

    Raises ValueError for a line that no reader would accept, which is a bug of the caller.
    """
    return "".join(_format_line(algorithm, name, digest) for algorithm, name, digest in lines).encode()


def _format_line(algorithm: str, name: str, digest: str) -> str:
    if len(digest) != HEX_DIGITS.get(algorithm) or not is_bare_name(name):
        raise ValueError(f"not a line of a manifest: {algorithm} {name!r} {digest!r}")
    return f"{algorithm}({name})= {digest.lower()}\n"


def parse_mf(data: bytes) -> list[MfLine]:
    """The lines of a manifest, in order. Blank lines are skipped.

    Raises IntegrityError ``bad_format`` (field ``line``, from 1) for a line of another form, a digest of the wrong
    length, a name that is a path and a name that comes twice.
    """
    if len(data) > MAX_MF_BYTES:
        raise IntegrityError(f"the manifest has {len(data)} bytes, more than {MAX_MF_BYTES}", code=BAD_FORMAT)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"the manifest is not UTF-8 text: {error.reason} at byte {error.start}", code=BAD_FORMAT
        ) from error
    lines: dict[str, MfLine] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        row = raw.removesuffix("\r").rstrip(" ")
        if row:
            line = _parse_line(row, number)
            if line.name in lines:
                raise _bad_line(number, f"names '{line.name}' a second time")
            lines[line.name] = line
    return list(lines.values())


def _parse_line(row: str, number: int) -> MfLine:
    match = _LINE.fullmatch(row)
    if match is None:
        raise _bad_line(number, "is not of the form 'SHA256(name)= hex'")
    algorithm, name, digest = match.groups()
    if len(digest) != HEX_DIGITS[algorithm]:
        raise _bad_line(number, f"has {len(digest)} hex digits where {algorithm} has {HEX_DIGITS[algorithm]}")
    if not is_bare_name(name):
        raise _bad_line(number, "names a path, not a file beside the manifest")
    return MfLine(algorithm, name, digest.lower())


def _bad_line(number: int, what: str) -> IntegrityError:
    return IntegrityError(f"line {number} of the manifest {what}", code=BAD_FORMAT, line=number)
