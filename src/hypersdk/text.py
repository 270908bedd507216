"""Escapes untrusted text for terminals, logs, file names and shells: names of machines, folders and jobs may contain
any character.

Unsafe characters are found by Unicode category, so no list has to be maintained::

    Cc Zl Zp      controls, line and paragraph separators: they move the cursor, set colours, and forge lines
    Cf            format characters (bidi controls, soft hyphen, joiners, tags): invisible, and they reorder the
                  characters around them
    Cs Co Cn      surrogates, private use, unassigned: how a terminal shows them is undefined; many are invisible
    _BLANK        letters and marks that Unicode defines as invisible

All other spaces (Zs) are kept: they are visible and reorder nothing. An emoji that U+200D joins from several is shown
as those, with the joiner escaped: readable, and two different names never look the same.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Final

MAX_NAME_BYTES: Final = 255
"""NAME_MAX of the Linux file systems, in bytes of UTF-8."""

_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Default_Ignorable_Code_Point (UAX #44) outside of the categories above: fillers, joiners and variation selectors."""


def is_plain(char: str) -> bool:
    """Whether a character is visible and safe to show."""
    if char.isprintable():  # no category C, no separator but the space
        return not _BLANK.match(char)
    return unicodedata.category(char) == "Zs"


def _all_plain(text: str) -> bool:
    """Whether all characters are plain. Fast; may return False for plain text with unusual spaces."""
    return text.isprintable() and not _BLANK.search(text)


def clean(text: str, limit: int = 4096) -> str:
    """``text`` in one line, with characters that are not plain escaped: ``\\x1b``, ``\\u2028``, ``\\U000e0041``.
    ``limit`` bounds the length of the result, and so what a hostile server can make us print."""
    shown = text[: limit + 1]
    if not _all_plain(shown):
        shown = "".join(char if is_plain(char) else _written_out(char) for char in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def clean_lines(text: str) -> str:
    """``clean`` for a text of several lines (a traceback, a screen): line feeds are kept."""
    lines = text.split("\n")
    return "\n".join(clean(line, 10 * len(line)) for line in lines)


def count(number: int, noun: str) -> str:
    """``1 disk``, ``2 disks``, ``1,234 machines``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _written_out(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def file_name(text: str, limit_bytes: int = MAX_NAME_BYTES, *, default: str = "unnamed") -> str:
    """``text`` as a file name: ``_`` for characters that are not plain and for path separators, no space at its ends,
    no ``-`` or ``.`` at its start, cut to ``limit_bytes`` of UTF-8. ``default`` where nothing is left. Letters are not
    normalized.
    """
    name = "".join(char if is_plain(char) and char not in "/\\" else "_" for char in text[: 4 * limit_bytes])
    name = name.lstrip(".-" + _SPACES)
    return name.encode()[:limit_bytes].decode(errors="ignore").rstrip(_SPACES) or default


_SPACES: Final = "".join(char for char in map(chr, range(0x3001)) if unicodedata.category(char) == "Zs")


def shell_word(word: str) -> str:
    """``word`` quoted for a shell, to be shown and copied; where it is not plain, with the characters escaped in bash's
    ``$'...'``."""
    if all(map(is_plain, word)):
        return shlex.quote(word)
    pieces = ("\\" + char if char in "\\'" else char if is_plain(char) else _as_bytes(char) for char in word)
    return f"$'{''.join(pieces)}'"


def shell_line(words: Iterable[str]) -> str:
    """A command line to be shown and copied."""
    return " ".join(map(shell_word, words))


def _as_bytes(char: str) -> str:
    """Three octal digits for each byte: unlike ``\\x``, they have a fixed length. A byte that is not UTF-8 arrives as a
    surrogate (PEP 383)."""
    foreign = "\udc80" <= char <= "\udcff"
    return "".join(f"\\{byte:03o}" for byte in char.encode(errors="surrogateescape" if foreign else "surrogatepass"))


_DIGITS: Final = re.compile(r"\d{1,18}")


def natural_key(text: str) -> str:
    """Sorts ``web2`` before ``web10``, and without regard to case."""
    return _DIGITS.sub(lambda match: match[0].zfill(18), text.lower())
