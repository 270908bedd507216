"""The list of machines: draws the lines that are on the screen and no others, so that its size does not matter.

A widget per row would take seconds for 10,000 machines; this one widget renders a line when the compositor asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hypersdk.cli.columns import fit
from hypersdk.cli.picker.search import Word, words_of
from hypersdk.model import MachineSummary, Power
from hypersdk.text import clean
from hypersdk.units import format_size


@dataclass(frozen=True, slots=True)
class PickerColumn:
    """One column. ``width`` in cells; 0 takes a share of what is left. It is shown from ``from_width`` cells of the
    whole list on."""

    key: str
    title: str
    width: int
    from_width: int
    text: Callable[[MachineSummary], str]
    right: bool = False


COLUMNS: Final = (
    PickerColumn("name", "Name", 0, 0, lambda machine: clean(machine.name, 200)),
    PickerColumn("power", "Power", 9, 56, lambda machine: machine.power.value),
    PickerColumn("cpus", "CPU", 4, 92, lambda machine: str(machine.cpus), right=True),
    PickerColumn("memory", "Memory", 10, 80, lambda machine: format_size(machine.memory_bytes), right=True),
    PickerColumn("size", "Disks", 10, 0, lambda machine: format_size(machine.capacity_bytes), right=True),
    PickerColumn("guest", "Guest", 24, 66, lambda machine: clean(machine.guest_name or "", 80)),
    PickerColumn("host", "Host", 22, 118, lambda machine: clean(machine.host or "", 80)),
    PickerColumn("path", "Folder", 0, 150, lambda machine: clean(machine.path.rpartition("/")[0], 200)),
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
_HEADER: Final = Style(bold=True, underline=True)
_SORTED: Final = Style(bold=True, underline=True, color="cyan")
_MATCH: Final = Style(bold=True, color="bright_cyan")
_MARKED: Final = Style(color="bright_green", bold=True)
_BAR: Final = Style(color="cyan")
_CURSOR: Final = Style(bgcolor="#264b6e", bold=True)
_LEAD: Final = 4
"""Cells in front of the first column: the mark and the power lamp."""


def widths(total: int) -> list[tuple[PickerColumn, int]]:
    """The columns that fit ``total`` cells, with their widths; the flexible ones share what is left."""
    shown = [column for column in COLUMNS if total >= column.from_width]
    fixed = sum(column.width + 1 for column in shown if column.width)
    flexible = sum(1 for column in shown if not column.width)
    share = max((total - _LEAD - fixed) // flexible - 1, 8)
    return [(column, column.width or share) for column in shown]


class MachineTable(Widget):
    """Shows ``rows`` (positions in ``machines``), a cursor and marks. Line 0 is the header, the last column a scroll
    bar.

    It scrolls by itself: a change of textual's virtual size would lay the whole screen out anew at every key press.
    """

    DEFAULT_CSS: ClassVar[str] = "MachineTable { height: 1fr; width: 1fr; }"
    can_focus = False  # keys go to the search line; those that move the cursor are bound above it

    @dataclass
    class Moved(Message):
        """The cursor stands on another machine, or on none."""

        machine: MachineSummary | None

    @dataclass
    class HeaderClicked(Message):
        """The title of a column was clicked."""

        column: str

    @dataclass
    class Marked(Message):
        """The marks have changed."""

    def __init__(self, machines: Sequence[MachineSummary], **settings: Any) -> None:
        super().__init__(**settings)
        self.machines = machines
        self.rows: list[int] = list(range(len(machines)))
        self.marked: set[int] = set()
        self.cursor = 0
        self.sorted_by: tuple[str, bool] | None = None
        self._top = 0
        self._words: list[Word] = []
        self._base = _PLAIN
        self._columns: list[tuple[PickerColumn, int]] = []
        self._shown = 1

    @property
    def current(self) -> MachineSummary | None:
        """The machine under the cursor."""
        return self.machines[self.rows[self.cursor]] if self.rows else None

    @property
    def page(self) -> int:
        """Rows on one screen."""
        return max(self.size.height - 1, 1)

    def show(self, rows: list[int], query: str) -> None:
        """Shows other ``rows``, from the top; ``query`` is highlighted in the names."""
        self.rows = rows
        self._words = words_of(query)
        self.cursor = self._top = 0
        self.refresh()
        self.post_message(self.Moved(self.current))

    def move(self, steps: int) -> None:
        """Moves the cursor; it stops at the ends."""
        if self.rows:
            before = self.cursor
            self.cursor = min(max(self.cursor + steps, 0), len(self.rows) - 1)
            self._redraw(before)
            self.post_message(self.Moved(self.current))

    def _redraw(self, before: int) -> None:
        """Draws what a move of the cursor changed: two lines, or all when the list scrolled."""
        if self._follow():
            self.refresh()
            return
        for row in (before, self.cursor):
            self.refresh(Region(0, row - self._top + 1, self.size.width, 1))

    def _follow(self) -> bool:
        """Scrolls so that the cursor is seen; whether that was needed."""
        top = min(max(self._top, self.cursor - self.page + 1), self.cursor)
        scrolled, self._top = top != self._top, top
        return scrolled

    def toggle(self) -> None:
        """Marks or unmarks the machine under the cursor and moves on."""
        if self.rows:
            self.marked ^= {self.rows[self.cursor]}
            self.post_message(self.Marked())
            self.move(1)

    def toggle_all(self) -> None:
        """Marks all that are shown; if all are marked already, unmarks them."""
        shown = set(self.rows)
        self.marked = self.marked - shown if shown <= self.marked else self.marked | shown
        self.post_message(self.Marked())
        self.refresh()

    def on_mount(self) -> None:
        """Tells what the cursor stands on from the start."""
        self.post_message(self.Moved(self.current))

    def on_resize(self) -> None:
        """The cursor stays on the screen."""
        self._follow()

    def on_mouse_scroll_down(self) -> None:
        """Three rows at a time, as terminals do."""
        self.move(3)

    def on_mouse_scroll_up(self) -> None:
        """Three rows at a time."""
        self.move(-3)

    def on_click(self, event: events.Click) -> None:
        """A title sorts, a row takes the cursor; on the mark, or twice, it is marked."""
        if event.y == 0:
            if column := self._column_at(event.x):
                self.post_message(self.HeaderClicked(column))
            return
        row = self._top + event.y - 1
        if row < len(self.rows):
            self.move(row - self.cursor)
            if event.chain == 2 or event.x < _LEAD:
                self.toggle()

    def _column_at(self, x: int) -> str | None:
        left = _LEAD
        for column, width in self._widths():
            if left <= x <= left + width:
                return column.key
            left += width + 1
        return None

    def _widths(self) -> list[tuple[PickerColumn, int]]:
        return widths(self.size.width - 1)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Some lines of the screen; what they have in common is worked out once, not for every line."""
        self._base = self.rich_style
        self._columns = self._widths()
        self._shown = self.page
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width = self.size.width
        if y == 0:
            return Strip(self._header()).adjust_cell_length(width, _HEADER)
        row = self._top + y - 1
        if row >= len(self.rows):
            return Strip.blank(width, self._base)
        style = _CURSOR if row == self.cursor else self._base
        strip = Strip(self._row(self.rows[row])).adjust_cell_length(width - 1).apply_style(style)
        return Strip.join([strip, Strip([self._scroll_bar(y)], 1)])

    def _scroll_bar(self, y: int) -> Segment:
        if len(self.rows) <= self._shown:
            return Segment(" ", self._base)
        thumb = max(self._shown * self._shown // len(self.rows), 1)
        start = (self._shown - thumb) * self._top // (len(self.rows) - self._shown)
        return Segment("┃" if start <= y - 1 < start + thumb else "│", self._base + _BAR)

    def _header(self) -> list[Segment]:
        segments = [Segment(" " * _LEAD, _HEADER)]
        for column, width in self._columns:
            key, reverse = self.sorted_by or ("", False)
            title = column.title + (" ▴" if reverse else " ▾") if column.key == key else column.title
            segments.append(
                Segment(fit(title, width, right=column.right) + " ", _SORTED if column.key == key else _HEADER)
            )
        return segments

    def _row(self, position: int) -> list[Segment]:
        machine = self.machines[position]
        marked = position in self.marked
        segments = [Segment(_MARK[marked], _MARKED), Segment(_LAMP[machine.power] + " ", _LAMP_STYLE[machine.power])]
        name, *others = self._columns
        segments += self._highlighted(fit(name[0].text(machine), name[1]) + " ", _MARKED if marked else _PLAIN)
        segments.append(
            Segment(" ".join(fit(column.text(machine), width, right=column.right) for column, width in others))
        )
        return segments

    def _highlighted(self, text: str, style: Style) -> Iterator[Segment]:
        """``text`` in runs of one style: what the search matched stands out."""
        lowered = text.lower()
        hits = {at for word in self._words for at in word.positions(lowered)} if len(lowered) == len(text) else set()
        for hit, run in groupby(range(len(text)), key=hits.__contains__):
            yield Segment("".join(text[at] for at in run), style + _MATCH if hit else style)
