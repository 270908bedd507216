"""Text from outside on its way to a terminal, a log, a file name or a shell: names of machines, folders and jobs may
hold anything.

What is unsafe is decided by Unicode category, so that no list has to be kept up to date::

    Cc Zl Zp      controls, line and paragraph separators: they move the cursor, colour, and begin lines that we did
                  not write
    Cf            format characters (bidi controls, soft hyphen, joiners, tags): invisible, and they reorder what stands
                  around them
    Cs Co Cn      surrogates, private use, not assigned: nobody knows what a terminal makes of them; many are invisible
    _BLANK        letters and marks that Unicode says to draw as nothing

All other spaces (Zs) stay as they are: they take their place, hide nothing and reorder nothing. An emoji that is joined
of several by U+200D falls apart into them, with the joiner written out: readable, and two names never look alike for
it.
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
    """Whether one character shows as what it is."""
    if char.isprintable():  # no category C, no separator but the space
        return not _BLANK.match(char)
    return unicodedata.category(char) == "Zs"


def _all_plain(text: str) -> bool:
    """The same of all of them, fast; where it is False they may be plain all the same."""
    return text.isprintable() and not _BLANK.search(text)


def clean(text: str, limit: int = 4096) -> str:
    """``text`` in one line, with what is not plain written out: ``\\x1b``, ``\\u2028``, ``\\U000e0041``. ``limit``
    bounds the characters of the answer, and so what a hostile server can make us print. Clean text stays as it is."""
    shown = text[: limit + 1]
    if not _all_plain(shown):
        shown = "".join(char if is_plain(char) else _written_out(char) for char in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def clean_lines(text: str) -> str:
    """A text of several lines of ours (a traceback, what was laid out for a screen): line feeds stay, all else is as
    ``clean`` shows it."""
    lines = text.split("\n")
    return "\n".join(clean(line, 10 * len(line)) for line in lines)


def _written_out(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def file_name(text: str, limit_bytes: int = MAX_NAME_BYTES, *, default: str = "unnamed") -> str:
    """``text`` as the name of one file: ``_`` for what is not plain and for the separators of any system, no blank at
    its ends, no ``-`` or ``.`` at its begin, cut at so many bytes of UTF-8. ``default`` where nothing is left. Letters
    stay composed or decomposed, as they came.
    """
    name = "".join(char if is_plain(char) and char not in "/\\" else "_" for char in text[: 4 * limit_bytes])
    name = name.lstrip(".-" + _SPACES)
    return name.encode()[:limit_bytes].decode(errors="ignore").rstrip(_SPACES) or default


_SPACES: Final = "".join(char for char in map(chr, range(0x3001)) if unicodedata.category(char) == "Zs")


def shell_word(word: str) -> str:
    """``word`` quoted for a shell, to be shown and copied; where it is not plain, in bash's ``$'...'``, which holds no
    character of that kind."""
    if all(map(is_plain, word)):
        return shlex.quote(word)
    pieces = ("\\" + char if char in "\\'" else char if is_plain(char) else _as_bytes(char) for char in word)
    return f"$'{''.join(pieces)}'"


def shell_line(words: Iterable[str]) -> str:
    """A whole command to be shown and copied."""
    return " ".join(map(shell_word, words))


def _as_bytes(char: str) -> str:
    """Three octal digits a byte: unlike ``\\x``, they end by themselves. A byte that is no UTF-8 comes as one of these
    surrogates (PEP 383)."""
    foreign = "\udc80" <= char <= "\udcff"
    return "".join(f"\\{byte:03o}" for byte in char.encode(errors="surrogateescape" if foreign else "surrogatepass"))
