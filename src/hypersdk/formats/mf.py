"""The manifest beside an OVF: one line of digest per file.

The form is that of DSP0243 1.1.1 ("Open Virtualization Format Specification"), section 5.1::

    SHA256(web01.ovf)= 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef

No space before ``=``, one after it, lower-case hex, the descriptor first. ovftool and virt-v2v take this form and no other
spelling is common to both, so it is what ``format_mf`` writes. Files made by other tools put spaces around the sign or end
their lines in CR LF: ``parse_mf`` takes those too, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import BAD_FORMAT, IntegrityError
from hypersdk.formats.names import is_bare_name
from hypersdk.units import MiB

MAX_MF_BYTES: Final = 1 * MiB
"""A line is about 100 bytes: room for 10,000 files, a hundred times what a machine can have."""

HEX_DIGITS: Final = {"SHA1": 40, "SHA256": 64, "SHA512": 128}
"""Algorithms that OVF tools write, with the length of their digest in hex digits."""

_LINE: Final = re.compile(r"(SHA1|SHA256|SHA512) ?\((.{1,255})\) {0,2}= {0,2}([0-9A-Fa-f]{40,128})")


@dataclass(frozen=True, slots=True)
class MfLine:
    """One line: ``algorithm`` as ``SHA256``, a bare file ``name``, ``hexdigest`` in lower case."""

    algorithm: str
    name: str
    hexdigest: str


def format_mf(lines: Iterable[tuple[str, str, str]]) -> bytes:
    """The text of a manifest for ``(algorithm, name, hexdigest)``, in the order given: the descriptor comes first.

    Raises ValueError for what no reader would take; names are checked when they are made, so that is a bug of the caller.
    """
    return "".join(_format_line(algorithm, name, digest) for algorithm, name, digest in lines).encode()


def _format_line(algorithm: str, name: str, digest: str) -> str:
    if len(digest) != HEX_DIGITS.get(algorithm) or not is_bare_name(name):
        raise ValueError(f"not a line of a manifest: {algorithm} {name!r} {digest!r}")
    return f"{algorithm}({name})= {digest.lower()}\n"


def parse_mf(data: bytes) -> list[MfLine]:
    """The lines of a manifest, in order. Blank lines are skipped.

    Raises IntegrityError ``bad_format`` (field ``line``, from 1) for a line of another form, a digest of the wrong length, a
    name that is a path and a name that comes twice.
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
