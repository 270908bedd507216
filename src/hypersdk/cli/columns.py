"""Tables without lines: columns as wide as what they hold, cut or left out where the terminal has no room, never
wrapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

GAP: Final = 2
"""Blanks between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Where room is short it is cut down to ``least`` cells (0: never cut), then left out if it is
    ``optional``."""

    title: str
    right: bool = False
    least: int = 0
    optional: bool = False


Cell = tuple[str, str]
"""Text (clean) and style."""


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None) -> Text:
    """The rows below a header, a line each; at most ``width`` cells wide where that can be done (None: as wide as it
    takes)."""
    natural = [
        max([cell_len(column.title), *(cell_len(row[at][0]) for row in rows)]) for at, column in enumerate(columns)
    ]
    widths = _fitted(columns, natural, width)
    shown = [at for at, cells in enumerate(widths) if cells]
    lines = [_line(columns, widths, shown, [(column.title, "bold underline") for column in columns])]
    lines += [_line(columns, widths, shown, row) for row in rows]
    return Text("\n", no_wrap=True).join(lines)


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """Width of each column, 0 where it is left out. What stands to the right gives way first."""
    widths = list(natural)
    if width is None:
        return widths
    for at in reversed(range(len(columns))):
        if columns[at].least:
            widths[at] = max(min(columns[at].least, widths[at]), widths[at] - max(_total(widths) - width, 0))
    for at in reversed(range(len(columns))):
        if columns[at].optional and _total(widths) > width:
            widths[at] = 0
    for at, column in enumerate(columns):  # what was left out may have made room for others
        if column.least and widths[at]:
            widths[at] = min(natural[at], widths[at] + max(width - _total(widths), 0))
    return widths


def _total(widths: Sequence[int]) -> int:
    shown = [cells for cells in widths if cells]
    return sum(shown) + GAP * (len(shown) - 1)


def _line(columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], cells: Sequence[Cell]) -> Text:
    line = Text(no_wrap=True)
    for at in shown:
        text, style = cells[at]
        last = at == shown[-1] and not columns[at].right
        fitted = fit(text, widths[at], right=columns[at].right)
        line.append(fitted.rstrip() if last else fitted, style)
        line.append("" if at == shown[-1] else " " * GAP)
    return line


def fit(text: str, width: int, *, right: bool = False) -> str:
    """``text`` in exactly ``width`` cells, cut with an ellipsis or padded."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if right else text + " " * (width - length)
