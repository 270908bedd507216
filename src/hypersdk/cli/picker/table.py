"""The list of machines: draws the lines that are on the screen and no others, so that its size does not matter.

A widget per row would take seconds for 10,000 machines; this one widget renders a line when the compositor asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hypersdk.cli.picker.search import Word, shown_name, words_of
from hypersdk.cli.text import clean
from hypersdk.model import MachineSummary, Power
from hypersdk.units import format_size


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``width`` in cells; 0 takes a share of what is left. It is shown from ``from_width`` cells of the whole list on."""

    key: str
    title: str
    width: int
    from_width: int
    text: Callable[[MachineSummary], str]
    right: bool = False


COLUMNS: Final = (
    Column("name", "Name", 0, 0, shown_name),
    Column("power", "Power", 9, 56, lambda machine: machine.power.value),
    Column("cpus", "CPU", 4, 92, lambda machine: str(machine.cpus), right=True),
    Column("memory", "Memory", 10, 80, lambda machine: format_size(machine.memory_bytes), right=True),
    Column("size", "Disks", 10, 0, lambda machine: format_size(machine.capacity_bytes), right=True),
    Column("guest", "Guest", 24, 66, lambda machine: clean(machine.guest_name or "", 80)),
    Column("host", "Host", 22, 118, lambda machine: clean(machine.host or "", 80)),
    Column("path", "Folder", 0, 150, lambda machine: clean(machine.path.rpartition("/")[0], 200)),
)

_MARK: Final = {True: "◉ ", False: "  "}
_LAMP: Final = {Power.ON: "●", Power.OFF: "○", Power.SUSPENDED: "◐", Power.UNKNOWN: "?"}
_LAMP_STYLE: Final = {
    Power.ON: Style(color="green"),
    Power.OFF: Style(dim=True),
    Power.SUSPENDED: Style(color="yellow"),
    Power.UNKNOWN: Style(color="red"),
}
_PLAIN: Final = Style()
_DIM: Final = Style(dim=True)
_HEADER: Final = Style(bold=True, underline=True)
_SORTED: Final = Style(bold=True, underline=True, color="cyan")
_MATCH: Final = Style(bold=True, color="bright_cyan")
_MARKED: Final = Style(color="bright_green", bold=True)
_CURSOR: Final = Style(bgcolor="#264b6e", bold=True)
_LEAD: Final = 4
"""Cells in front of the first column: the mark and the power lamp."""


def widths(total: int) -> list[tuple[Column, int]]:
    """The columns that fit ``total`` cells, with their widths; the flexible ones share what is left."""
    shown = [column for column in COLUMNS if total >= column.from_width]
    fixed = sum(column.width + 1 for column in shown if column.width)
    flexible = sum(1 for column in shown if not column.width)
    share = max((total - _LEAD - fixed) // flexible - 1, 8)
    return [(column, column.width or share) for column in shown]


class MachineTable(ScrollView):
    """Shows ``rows`` (positions in ``machines``), a cursor and marks. Line 0 is the header."""

    DEFAULT_CSS: ClassVar[str] = "MachineTable { height: 1fr; width: 1fr; overflow-x: hidden; }"
    can_focus = False  # keys go to the search line, which hands on those that move the cursor

    @dataclass
    class Moved(Message):
        """The cursor stands on another machine, or on none."""

        machine: MachineSummary | None

    @dataclass
    class HeaderClicked(Message):
        """The title of a column was clicked."""

        column: str

    @dataclass
    class Toggled(Message):
        """The marks have changed."""

    def __init__(self, machines: Sequence[MachineSummary], **settings: Any) -> None:
        super().__init__(**settings)
        self.machines = machines
        self.rows: list[int] = list(range(len(machines)))
        self.marked: set[int] = set()
        self.cursor = 0
        self.sorted_by: tuple[str, bool] | None = None
        self._words: list[Word] = []

    @property
    def current(self) -> MachineSummary | None:
        """The machine under the cursor."""
        return self.machines[self.rows[self.cursor]] if self.rows else None

    def show(self, rows: list[int], query: str) -> None:
        """Shows other ``rows``, from the top; ``query`` is highlighted in the names."""
        self.rows = rows
        self._words = words_of(query)
        self.cursor = 0
        self.virtual_size = Size(self.size.width, len(rows) + 1)
        self.scroll_to(y=0, animate=False, immediate=True)
        self.refresh()
        self.post_message(self.Moved(self.current))

    def move(self, steps: int) -> None:
        """Moves the cursor; it stops at the ends."""
        if self.rows:
            self.cursor = min(max(self.cursor + steps, 0), len(self.rows) - 1)
            self._follow()
            self.refresh()
            self.post_message(self.Moved(self.current))

    @property
    def page(self) -> int:
        """Rows on one screen."""
        return max(self.size.height - 1, 1)

    def _follow(self) -> None:
        top = round(self.scroll_y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + self.page:
            self.scroll_to(y=self.cursor - self.page + 1, animate=False, immediate=True)

    def toggle(self) -> None:
        """Marks or unmarks the machine under the cursor and moves on."""
        if self.rows:
            self.marked ^= {self.rows[self.cursor]}
            self.post_message(self.Toggled())
            self.move(1)

    def toggle_all(self) -> None:
        """Marks all that are shown; if all are marked already, unmarks them."""
        shown = set(self.rows)
        self.marked = self.marked - shown if shown <= self.marked else self.marked | shown
        self.post_message(self.Toggled())
        self.refresh()

    def on_mount(self) -> None:
        self.show(self.rows, "")

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        self._follow()

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            if column := self._column_at(event.x):
                self.post_message(self.HeaderClicked(column))
            return
        row = round(self.scroll_y) + event.y - 1
        if row < len(self.rows):
            self.move(row - self.cursor)
            if event.chain == 2 or event.x < _LEAD:
                self.toggle()

    def _column_at(self, x: int) -> str | None:
        left = _LEAD
        for column, width in widths(self.size.width):
            if left <= x <= left + width:
                return column.key
            left += width + 1
        return None

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width = self.size.width
        if y == 0:
            return Strip(self._header(width)).adjust_cell_length(width)
        row = round(self.scroll_y) + y - 1
        if row >= len(self.rows):
            return Strip.blank(width)
        strip = Strip(self._row(self.rows[row], width)).adjust_cell_length(width)
        return strip.apply_style(_CURSOR) if row == self.cursor else strip

    def _header(self, total: int) -> list[Segment]:
        segments = [Segment(" " * _LEAD, _HEADER)]
        for column, width in widths(total):
            key, reverse = self.sorted_by or ("", False)
            title = column.title + (" ▴" if reverse else " ▾") if column.key == key else column.title
            segments.append(Segment(_fit(title, width, column.right) + " ", _SORTED if column.key == key else _HEADER))
        return segments

    def _row(self, position: int, total: int) -> list[Segment]:
        machine = self.machines[position]
        marked = position in self.marked
        segments = [
            Segment(_MARK[marked], _MARKED),
            Segment(_LAMP[machine.power] + " ", _LAMP_STYLE[machine.power]),
        ]
        for column, width in widths(total):
            text = _fit(column.text(machine), width, column.right) + " "
            if column.key == "name":
                segments += self._highlighted(text, _MARKED if marked else _PLAIN)
            else:
                segments.append(Segment(text, _DIM if column.key in ("path", "host") else _PLAIN))
        return segments

    def _highlighted(self, text: str, style: Style) -> list[Segment]:
        lowered = text.lower()
        hits = {at for word in self._words for at in word.positions(lowered)}
        if not hits or len(lowered) != len(text):
            return [Segment(text, style)]
        return [Segment(char, style + _MATCH if at in hits else style) for at, char in enumerate(text)]


def _fit(text: str, width: int, right: bool) -> str:
    """``text`` in exactly ``width`` cells, cut with an ellipsis or padded."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if right else text + " " * (width - length)
