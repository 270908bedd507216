"""Text of a serial console, read while it arrives.

Firmware and boot loaders draw on a serial port as on a terminal: colours inside of words, a cursor that jumps. What is
left here are lines of plain text. A jump of the cursor ends a line, so that two texts that stand in different places of
a screen are never one.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from typing import Final

from hypersdk.text import clean
from hypersdk.units import KiB

MAX_LINE: Final = 4 * KiB
"""Characters; a longer line is split."""
MAX_KEPT: Final = 512 * KiB
"""Characters of the text that is kept: a guest may print without end. The oldest lines are dropped."""
_MAX_SEQUENCE: Final = 256
"""Characters of an escape sequence; a longer one is none, and its text is shown."""

_SEQUENCE: Final = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*(?P<control>[@-~])"  # CSI: colours, cursor, clearing (ECMA-48, 5.4)
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # strings: titles, device controls
    r"|[ -/]*[0-Z\\`-~]"  # the others: character sets, save and restore
    r")"
)
_JUMPS: Final = frozenset("ABEFHJdf")
"""Final bytes of the sequences that move the cursor to another line or clear the screen."""
_ENDS: Final = re.compile("[\r\n\v\f\x85\u2028\u2029]+")


class ConsoleText:
    """Takes the bytes of one console in any pieces."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = ""
        self._line = ""
        self._kept: deque[str] = deque()
        self._size = 0
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` ended, and last the unfinished one, which may be empty: a prompt has no end of
        line."""
        *ended, self._line = _ENDS.split(self._line + self._plain(self._decode(data)))
        lines = [shown for line in ended for shown in _shown(line)]
        while len(self._line) > MAX_LINE:
            lines += _shown(self._line[:MAX_LINE])
            self._line = self._line[MAX_LINE:]
        self._keep(lines)
        return [*lines, "".join(_shown(self._line))]

    @property
    def text(self) -> str:
        """The lines so far, without those that were dropped."""
        head = [f"({self._dropped:,} earlier lines are not kept)"] if self._dropped else []
        return "\n".join([*head, *self._kept, *_shown(self._line)])

    def _keep(self, lines: list[str]) -> None:
        self._kept.extend(lines)
        self._size += sum(map(len, lines))
        while self._size > MAX_KEPT:
            self._size -= len(self._kept.popleft())
            self._dropped += 1

    def _plain(self, text: str) -> str:
        """``text`` without escape sequences. An unfinished one at the end waits for the rest."""
        text = _SEQUENCE.sub(_without, self._pending + text)
        start = text.rfind("\x1b")
        if start < 0 or len(text) - start > _MAX_SEQUENCE:
            self._pending = ""
            return text
        self._pending = text[start:]
        return text[:start]


def _without(sequence: re.Match[str]) -> str:
    return "\n" if sequence["control"] in _JUMPS else ""


def _shown(line: str) -> list[str]:
    """The line in pieces of at most ``MAX_LINE`` characters; nothing for an empty one."""
    pieces = (line[start : start + MAX_LINE] for start in range(0, len(line), MAX_LINE))
    return [shown for piece in pieces if (shown := _typed(piece).strip())]


def _typed(line: str) -> str:
    """The line as it stands after backspaces, tabs as spaces, other control characters escaped."""
    if line.isprintable():
        return line
    typed: list[str] = []
    for char in line:
        if char == "\b":
            del typed[-1:]
        elif char != "\0":
            typed.append(" " if char == "\t" else clean(char))
    return "".join(typed)
