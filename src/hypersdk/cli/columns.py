"""Tables without lines: columns are as wide as their cells, and cut or left out if the terminal is too narrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from hypersdk.cli.terminal import displayed
from hypersdk.resource import ListRecord, table_of
from hypersdk.text import clean
from hypersdk.units import format_size

GAP: Final = 2
"""Spaces between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. On a narrow terminal it is cut to ``least`` cells (0: never cut), then left out if it is
    ``optional``."""

    title: str
    right: bool = False
    least: int = 0
    optional: bool = False


Cell = tuple[str, str]
"""Text (clean) and style."""

R = TypeVar("R", bound=ListRecord)


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None) -> Text:
    """A header and a line per row, at most ``width`` cells wide if possible (None: as wide as needed)."""
    rows = [[(displayed(text), style) for text, style in row] for row in rows]
    natural = [
        max([cell_len(column.title), *(cell_len(row[at][0]) for row in rows)]) for at, column in enumerate(columns)
    ]
    widths = _fitted(columns, natural, width)
    visible = [at for at, cells in enumerate(widths) if cells]
    lines = [_line(columns, widths, visible, [(column.title, "bold underline") for column in columns])]
    lines += [_line(columns, widths, visible, row) for row in rows]
    return Text("\n", no_wrap=True).join(lines)


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """Width of each column, 0 if it is left out. Columns on the right are cut first."""
    widths = list(natural)
    if width is None:
        return widths
    for at in reversed(range(len(columns))):
        if columns[at].least:
            widths[at] = max(min(columns[at].least, widths[at]), widths[at] - max(_total(widths) - width, 0))
    for at in reversed(range(len(columns))):
        if columns[at].optional and _total(widths) > width:
            widths[at] = 0
    for at, column in enumerate(columns):  # columns that were left out may have made room for others
        if column.least and widths[at]:
            widths[at] = min(natural[at], widths[at] + max(width - _total(widths), 0))
    return widths


def _total(widths: Sequence[int]) -> int:
    shown = [cells for cells in widths if cells]
    return sum(shown) + GAP * (len(shown) - 1)


def _line(columns: Sequence[Column], widths: Sequence[int], visible: Sequence[int], cells: Sequence[Cell]) -> Text:
    line = Text(no_wrap=True)
    for at in visible:
        text, style = cells[at]
        last = at == visible[-1] and not columns[at].right
        fitted = fit(text, widths[at], right=columns[at].right)
        line.append(fitted.rstrip() if last else fitted, style)
        line.append("" if at == visible[-1] else " " * GAP)
    return line


def fit(text: str, width: int, *, right: bool = False) -> str:
    """``text`` in exactly ``width`` cells, cut with an ellipsis or padded."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if right else text + " " * (width - length)


def table(records: Sequence[R], kind: type[R], width: int | None, **cells: Callable[[R], Cell]) -> Text:
    """A table of records, with the columns that their type declares. ``cells`` makes those that show more than the
    value of their field."""
    named = table_of(kind)
    columns = [Column(cell.title, least=cell.least, optional=cell.optional) for _, cell in named]
    rows = [
        [
            cells[name](record) if name in cells else (value_text(getattr(record, name)), cell.style)
            for name, cell in named
        ]
        for record in records
    ]
    return lay_out(columns, rows, width)


def value_text(value: object) -> str:
    """A value of a record for people, in one line."""
    if isinstance(value, datetime) or value is None:
        return moment_text(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return clean(str(value), 400)


def size_text(size_bytes: int | None) -> str:
    """A size; empty where it is not known."""
    return "" if size_bytes is None else format_size(size_bytes)


def moment_text(moment: datetime | None) -> str:
    """In local time, to the second."""
    return "-" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
