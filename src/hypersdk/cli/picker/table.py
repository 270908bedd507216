"""The list of machines: draws the lines that are on the screen and no others, so that its size does not matter.

A widget per row would take seconds for 10,000 machines; this one widget renders a line when the compositor asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Final, TypeAlias

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hypersdk.cli.columns import fit, size_text
from hypersdk.cli.picker.search import Word, words_of
from hypersdk.cli.terminal import displayed
from hypersdk.model import MachineSummary, Power
from hypersdk.text import clean
from hypersdk.units import format_size


@dataclass(frozen=True, slots=True)
class PickerColumn:
    """One column.

    ``width`` in cells; 0 is a text, as wide as the inventory's machines need: cut to ``least`` cells before the column
    is left out, shown in ``good`` cells before a less important column joins, and never wider than ``most``.
    """

    key: str
    title: str
    text: Callable[[MachineSummary], str]
    width: int = 0
    least: int = 0
    good: int = 0
    most: int = 0
    right: bool = False


def _clean(text: str | None, limit: int) -> str:
    return displayed(clean(text or "", limit))


POWER_SIGNS: Final = {Power.ON: "▸", Power.OFF: "·", Power.SUSPENDED: "‖", Power.UNKNOWN: "?"}


def _power(machine: MachineSummary) -> str:
    return f"{POWER_SIGNS[machine.power]} {machine.power.value}"


def _folder(machine: MachineSummary) -> str:
    return _clean(machine.path.rpartition("/")[0], 200)


COLUMNS: Final = (
    PickerColumn("name", "Name", lambda machine: _clean(machine.name, 200), least=20, good=32, most=80),
    PickerColumn("power", "Power", _power, width=11),
    PickerColumn("cpus", "CPU", lambda machine: str(machine.cpus), width=4, right=True),
    PickerColumn("memory", "Memory", lambda machine: format_size(machine.memory_bytes), width=10, right=True),
    PickerColumn("size", "Size", lambda machine: size_text(machine.provisioned_bytes), width=10, right=True),
    PickerColumn("guest", "Guest", lambda machine: _clean(machine.guest_name, 80), least=14, good=24, most=44),
    PickerColumn("host", "Host", lambda machine: _clean(machine.host, 80), least=12, good=20, most=40),
    PickerColumn("path", "Folder", _folder, least=16, good=24, most=80),
)
_IMPORTANCE: Final = ("name", "power", "size", "guest", "memory", "cpus", "path", "host")
_SQUEEZING: Final = ("guest", "memory")
"""Worth having even if the texts before them are cut to their least width."""

_MARK: Final = {True: "✔ ", False: "  "}
_POWER_STYLE: Final = {
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
_CURSOR_COLOURLESS: Final = Style(reverse=True)
_LEAD: Final = 2
"""Cells in front of the first column: the mark."""
_NEARLY_ALL: Final = 0.98
"""A column is as wide as this share of its texts needs: one odd name does not take the room of the others."""

Naturals: TypeAlias = Mapping[str, int]
"""Widths in cells that the texts of the columns need, by key."""


def natural_widths(machines: Sequence[MachineSummary]) -> Naturals:
    """What the columns of an inventory need."""
    texts: Mapping[str, Callable[[MachineSummary], str]] = {
        "name": lambda machine: machine.name,
        "guest": lambda machine: machine.guest_name or "",
        "host": lambda machine: machine.host or "",
        "path": lambda machine: machine.path.rpartition("/")[0],
    }
    at = int(len(machines) * _NEARLY_ALL)
    cells = {key: sorted(_cells(text(machine)) for machine in machines) for key, text in texts.items()}
    return {key: found[at] if found else 0 for key, found in cells.items()}


def _cells(text: str) -> int:
    # Most texts need no closer look, and this runs for each of ten thousand machines.
    return len(text) if text.isascii() and text.isprintable() else cell_len(_clean(text, 200))


def widths(total: int, naturals: Naturals) -> list[tuple[PickerColumn, int]]:
    """The columns that fit ``total`` cells, with their widths: the most important ones first, then each text as wide
    as it needs."""
    needs = {column.key: _needs(column, naturals) for column in COLUMNS}
    by_key = {column.key: column for column in COLUMNS}
    room = total - _LEAD
    chosen: dict[str, int] = {}
    for key in _IMPORTANCE:
        column = by_key[key]
        least = column.width or min(column.least, needs[key])
        beside = {
            other: min(needs[other], by_key[other].least if key in _SQUEEZING else by_key[other].good) or width
            for other, width in chosen.items()
        }
        if len(chosen) < 3 or sum(beside.values()) + len(beside) + least + 1 <= room:
            chosen[key] = least
    for limit in ("good", "most"):
        for key in chosen:
            if not by_key[key].width:
                spare = room - sum(chosen.values()) - len(chosen)
                wanted = min(needs[key], getattr(by_key[key], limit))
                chosen[key] += max(min(wanted - chosen[key], spare), 0)
    return [(column, chosen[column.key]) for column in COLUMNS if column.key in chosen]


def _needs(column: PickerColumn, naturals: Naturals) -> int:
    return 0 if column.width else max(min(naturals.get(column.key, 0), column.most), len(column.title) + 2)


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

    def __init__(self, machines: Sequence[MachineSummary], *, colour: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.machines = machines
        self._naturals = natural_widths(machines)
        self._cursor_style = _CURSOR if colour else _CURSOR_COLOURLESS
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

    def toggle(self, steps: int = 1) -> None:
        """Marks or unmarks the machine under the cursor and moves on."""
        if self.rows:
            self.marked ^= {self.rows[self.cursor]}
            self.post_message(self.Marked())
            self.refresh(Region(0, self.cursor - self._top + 1, self.size.width, 1))
            self.move(steps)

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
        return widths(self.size.width - 1, self._naturals)

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
        style = self._cursor_style if row == self.cursor else self._base
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
        segments = [Segment(_MARK[marked], _MARKED)]
        name, *others = self._columns
        segments += self._highlighted(fit(name[0].text(machine), name[1]) + " ", _MARKED if marked else _PLAIN)
        for column, width in others:
            style = _POWER_STYLE[machine.power] if column.key == "power" else None
            segments.append(Segment(fit(column.text(machine), width, right=column.right) + " ", style))
        return segments

    def _highlighted(self, text: str, style: Style) -> Iterator[Segment]:
        """``text`` in runs of one style: what the search matched stands out."""
        lowered = text.lower()
        hits = {at for word in self._words for at in word.positions(lowered)} if len(lowered) == len(text) else set()
        for hit, run in groupby(range(len(text)), key=hits.__contains__):
            yield Segment("".join(text[at] for at in run), style + _MATCH if hit else style)
