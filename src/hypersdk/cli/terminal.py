"""What the terminal can show. This is the only place that decides it, from the environment and the streams.

::

    colours       none where NO_COLOR is set to anything (https://no-color.org), or TERM is dumb
    characters    those of the locale's charset; our own glyphs become ASCII in it, one cell for one cell, and other
                  characters (in names) are written as escapes
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Mapping
from typing import Final, TextIO

GLYPHS: Final = {
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("─━·", "-"),
    **dict.fromkeys("█▉▊▋▌┃▀▄▅▆▇", "#"),
    **dict.fromkeys("░▍▎▏○▁▂▃", "."),
    **dict.fromkeys("✔◉•", "*"),
    **dict.fromkeys("▸❯→", ">"),
    **dict.fromkeys("▴↑", "^"),
    **dict.fromkeys("▾↓", "v"),
    "│": "|",
    "←": "<",
    "✘": "x",
    "‖": "=",
    "…": "~",
}
"""The glyphs of our displays and their ASCII forms, each of one cell."""

_ERRORS: Final = "hypersdk.glyphs"
_ALL_ASCII: Final = "".join(map(chr, range(128)))


class _Shown:
    """What this process's streams can show. Set once, when the program starts."""

    charset: str = "utf-8"


def wants_colour(environ: Mapping[str, str]) -> bool:
    """Whether colours may be used."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def charset_of(environ: Mapping[str, str], encoding: str = "utf-8") -> str:
    """The codec for a stream that Python opened with ``encoding``.

    UTF-8 may only be Python's own choice: it also writes it in the C locale (PEP 540), for which it even sets LC_CTYPE
    to C.UTF-8 (PEP 538). Then the locale decides, unless Python was told.
    """
    opened = codecs.lookup(encoding).name
    if opened != "utf-8" or environ.get("PYTHONIOENCODING") or environ.get("PYTHONUTF8"):
        return opened
    ctype = environ.get("LC_CTYPE", "")
    coerced = ctype == "C.UTF-8" and environ.get("LANG") in ("C", "POSIX")
    name = environ.get("LC_ALL") or ("" if coerced else ctype) or environ.get("LANG") or ""
    language, _, charset = name.partition("@")[0].partition(".")
    if language in ("C", "POSIX") and not charset:
        return "ascii"
    try:
        found = codecs.lookup(charset or opened).name
        return found if _ALL_ASCII.encode(found) == _ALL_ASCII.encode("ascii") else opened
    except (LookupError, UnicodeError):  # unknown, or no charset, like `idna`
        return opened


def fit_streams(environ: Mapping[str, str], *streams: TextIO) -> None:
    """Makes the streams write only what the locale's charset has: no character ever ends the run with an error."""
    for stream in (*streams, *filter(None, [sys.__stderr__])):  # the picker draws on the latter
        _Shown.charset = charset_of(environ, stream.encoding)
        stream.reconfigure(encoding=_Shown.charset, errors=_ERRORS)  # type: ignore[attr-defined]


def displayed(text: str) -> str:
    """``text`` as the streams will write it, to measure and cut it: with escapes for characters that the charset does
    not have, except for our own glyphs, which keep their width."""
    if _Shown.charset == "utf-8" or text.isascii():
        return text
    return text.encode(_Shown.charset, _ERRORS).decode(_Shown.charset)


def only_ascii() -> bool:
    """Whether the streams cannot show our glyphs."""
    return not _Shown.charset.startswith("utf")


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    pieces = (GLYPHS.get(char) or _escaped(char) for char in error.object[error.start : error.end])
    return "".join(pieces), error.end


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode()


codecs.register_error(_ERRORS, _replace)
