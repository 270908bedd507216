"""The picker: a search line, the list, the details of the machine under the cursor, the sum of what is marked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from rich.console import Group, RenderableType
from rich.segment import Segment
from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.containers import Container
from textual.filter import LineFilter, Monochrome
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from hypersdk.cli.picker.choices import Choices, ChoicesScreen
from hypersdk.cli.picker.details import facts_table, machine_facts, summary_facts
from hypersdk.cli.picker.line import SearchLine
from hypersdk.cli.picker.search import FALLING, SORT_KEYS, Index, sort_machines
from hypersdk.cli.picker.table import COLUMNS, MachineTable
from hypersdk.cli.terminal import displayed
from hypersdk.errors import HyperSDKError
from hypersdk.model import Machine, MachineSummary, Power
from hypersdk.text import clean
from hypersdk.units import format_size

DETAILS_AFTER_S: Final = 0.3
"""How long the cursor rests before details are read: scrolling must not send a request per row."""

COMMANDS: Final = {
    "tab": "mark(1)",
    "shift+tab": "mark(-1)",
    "ctrl+a": "mark_all",
    "ctrl+t": "only_marked",
    "ctrl+p": "power_next",
    "ctrl+o": "sort_next",
    "ctrl+r": "sort_reverse",
    "enter": "go_on",
    "escape": "clear_or_quit",
    "up": "move(-1)",
    "down": "move(1)",
    "pageup": "page(-1)",
    "pagedown": "page(1)",
    "ctrl+home": "move(-1000000000)",
    "ctrl+end": "move(1000000000)",
}
"""Keys of the list. The search line passes them on in the order they were typed: as bindings of the app they would
overtake the characters before them, and mark another machine than the one that was searched for. Every terminal has
these keys, and none of them is text: a space belongs to the query."""

KEYS: Final = "Tab mark  ^A all  ^T only ✔  ^P power  ^O sort  ^R turn  Enter go on  Esc back"
KEYS_WIDE: Final = KEYS.replace("only ✔", "only marked").replace("turn", "reverse").replace("  ", "   ")
MIN_SIZE: Final = (60, 16)
"""Columns and lines that the picker needs."""
POWERS: Final = (None, Power.ON, Power.OFF, Power.SUSPENDED)
"""What the power filter goes through; None shows all."""


@dataclass(frozen=True, slots=True)
class Picked:
    """The picked machines and the answers of the form."""

    machines: tuple[MachineSummary, ...]
    choices: Choices


class Colourless(LineFilter):
    """Leaves bold, underlined and reversed text, and no colour at all."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002 - textual's signature
        return [Segment(text, style.without_color if style else style, control) for text, style, control in segments]


class TooSmall(Screen[None]):
    """Covers the picker while the terminal is too small for it."""

    def compose(self) -> ComposeResult:
        """One sentence."""
        yield Static(id="small")

    def on_unmount(self) -> None:
        """What was kept from the collector while the picker ran is given back."""
        gc.unfreeze()

    def on_resize(self, event: events.Resize) -> None:
        """The sentence has the current size."""
        width, height = event.size
        sizes = f"{width} x {height}, but {MIN_SIZE[0]} x {MIN_SIZE[1]} are needed"
        text = f"The terminal is too small: {sizes}. Enlarge it, or press Ctrl-C to quit."
        self.query_one("#small", Static).update(Text(text))


class Pane(Widget):
    """Shows a renderable. It never changes its size, so that the screen is not laid out again."""

    shown: RenderableType = ""

    def show(self, thing: RenderableType) -> None:
        """Shows ``thing`` from now on."""
        self.shown = thing
        self.refresh()

    def render(self) -> RenderableType:
        """What is shown."""
        return self.shown


class PickerApp(App["Picked | None"]):
    """Returns the picked machines, or None if the user quit. ``look_up`` reads one machine in full and may block.

    ``marked`` are morefs that are marked from the start.
    """

    TITLE = "HyperSDK"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - textual declares it without ClassVar
    CSS: ClassVar[str] = """
    #title { height: 1; background: $primary-darken-2; color: $text; padding: 0 1; }
    #search { padding: 0 1; background: $surface; }
    #body { height: 1fr; layout: vertical; }
    #details { height: 7; border-top: solid $primary-darken-1; padding: 0 1; }
    .-wide #body { layout: horizontal; }
    .-wide #details { width: 36%; max-width: 68; height: 1fr; border-top: none; border-left: solid $primary-darken-1; }
    #status { height: 1; background: $surface; padding: 0 1; }
    #keys { height: auto; max-height: 2; color: $text-muted; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c,ctrl+q", "leave", priority=True, show=False)]

    def __init__(
        self,
        machines: Sequence[MachineSummary],
        *,
        title: str,
        start: Choices,
        free_bytes: Callable[[Path], int],
        look_up: Callable[[str], Machine] | None = None,
        marked: Sequence[str] = (),
        colour: bool = True,
    ) -> None:
        super().__init__()
        self._colour = colour
        self._machines = sort_machines(machines, "path")
        self._index = Index(self._machines)
        self._heading = title
        self._start = start
        self._free_bytes = free_bytes
        self._look_up = look_up
        self._marked = {at for at, machine in enumerate(self._machines) if machine.moref in set(marked)}
        self._known: dict[str, Machine | str] = {}
        self._order: dict[tuple[str, bool], dict[int, int]] = {}
        self._pending: Timer | None = None
        self._only_marked = False
        self._power: Power | None = None
        self._leaving = False
        self.failure: Exception | None = None
        """The unexpected exception that ended the picker. The caller raises it again once the terminal is restored."""

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own filter for NO_COLOR still writes shades of grey."""
        filters = [found for found in super().get_line_filters() if not isinstance(found, Monochrome)]
        return filters if self._colour else [*filters, Colourless()]

    def _handle_exception(self, error: Exception) -> None:
        self.failure = self.failure or error
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        # Textual would print a traceback with all local variables.
        self._close_messages_no_wait()

    def compose(self) -> ComposeResult:
        """Title, search line, list and details, status and keys."""
        yield Static(Text(displayed(clean(self._heading, 200)), no_wrap=True, overflow="ellipsis"), id="title")
        yield SearchLine("type to search name, path, guest and host", COMMANDS, id="search")
        with Container(id="body"):
            yield MachineTable(self._machines, colour=self._colour, id="list")
            yield Pane(id="details")
        yield Pane(id="status")
        yield Static(Text(KEYS), id="keys")

    def on_mount(self) -> None:
        """Keys go to the search line; those that move the cursor are bound above it."""
        gc.collect()
        gc.freeze()  # the collector would walk through the whole inventory every few key presses
        self.query_one("#search").focus()
        self.table.marked = self._marked
        self._show_status()

    def on_resize(self, event: events.Resize) -> None:
        """The hints fit the width; a terminal that is too small gets a sentence until it is enlarged."""
        width, height = event.size
        self.query_one("#keys", Static).update(Text(KEYS_WIDE if width >= len(KEYS_WIDE) + 2 else KEYS))
        small, covered = width < MIN_SIZE[0] or height < MIN_SIZE[1], isinstance(self.screen, TooSmall)
        if small and not covered:
            self.push_screen(TooSmall())
        elif covered and not small:
            self.pop_screen()

    @property
    def table(self) -> MachineTable:
        """The list."""
        return self.query_one(MachineTable)

    async def on_search_line_command(self, event: SearchLine.Command) -> None:
        """One of the list's keys."""
        if self._leaving and event.action != COMMANDS["escape"]:
            self._show_status()
        await self.run_action(event.action)

    def on_click(self) -> None:
        """The search line keeps the focus after a click."""
        if not isinstance(self.screen, ChoicesScreen):
            self.query_one(SearchLine).focus()

    # -- search and order

    def on_search_line_changed(self) -> None:
        """One key press in the search line."""
        self._refill()

    def _refill(self) -> None:
        query = self.query_one(SearchLine).value
        rows = [at for at in self._index.search(query) if self._wanted(at)]
        if self.table.sorted_by is not None:
            rows = sorted(rows, key=self._ranks(*self.table.sorted_by).__getitem__)
        self.table.show(rows, query)
        self._show_status()

    def _wanted(self, at: int) -> bool:
        return (not self._only_marked or at in self.table.marked) and self._power in (None, self._machines[at].power)

    @property
    def _filters_set(self) -> list[str]:
        return ["marked"] * self._only_marked + ([self._power.value] if self._power else [])

    def action_only_marked(self) -> None:
        """Shows only what is marked, or all again."""
        self._only_marked = not self._only_marked
        self._refill()

    def action_power_next(self) -> None:
        """Shows only machines that are on, then off, then suspended, then all again."""
        self._power = POWERS[(POWERS.index(self._power) + 1) % len(POWERS)]
        self._refill()

    def _ranks(self, column: str, reverse: bool) -> dict[int, int]:
        """Rank of each machine in the order by ``column``; computed once for each order."""
        if (column, reverse) not in self._order:
            at = {machine.moref: position for position, machine in enumerate(self._machines)}
            ordered = sort_machines(self._machines, column, reverse=reverse)
            self._order[column, reverse] = {at[machine.moref]: rank for rank, machine in enumerate(ordered)}
        return self._order[column, reverse]

    def action_sort_next(self) -> None:
        """Sorts by the next column; after the last one, by how well the search matches."""
        keys = [column.key for column in COLUMNS if column.key in SORT_KEYS]
        at = keys.index(self.table.sorted_by[0]) + 1 if self.table.sorted_by else 0
        self.table.sorted_by = (keys[at], False) if at < len(keys) else None
        self._refill()

    def action_sort_reverse(self) -> None:
        """Turns the order around."""
        if self.table.sorted_by is not None:
            column, reverse = self.table.sorted_by
            self.table.sorted_by = (column, not reverse)
            self._refill()

    def on_machine_table_header_clicked(self, event: MachineTable.HeaderClicked) -> None:
        """Sorts by the column; a second click turns it around."""
        before = self.table.sorted_by
        self.table.sorted_by = (event.column, not before[1] if before and before[0] == event.column else False)
        self._refill()

    # -- cursor and marks

    def action_move(self, steps: int) -> None:
        """Moves the cursor."""
        self.table.move(steps)

    def action_page(self, pages: int) -> None:
        """Moves the cursor by screens."""
        self.table.move(pages * self.table.page)

    def action_mark(self, steps: int) -> None:
        """Marks or unmarks one machine, and moves on."""
        self.table.toggle(steps)

    def action_mark_all(self) -> None:
        """Marks or unmarks all that are shown."""
        self.table.toggle_all()

    def on_machine_table_marked(self) -> None:
        """The sum below the list follows the marks."""
        self._show_status()

    def _show_status(self) -> None:
        self._leaving = False
        table = self.table
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{len(table.rows):,} of {len(self._machines):,}", style="bold")
        if self._filters_set:
            text.append(f" (only {', '.join(self._filters_set)})", style="yellow")
        if table.marked:
            marked = [self._machines[at] for at in table.marked]
            used = sum(machine.used_bytes or 0 for machine in marked)
            total = sum(machine.provisioned_bytes or 0 for machine in marked)
            hidden = len(table.marked.difference(table.rows))
            text.append(f"  ✔ {len(marked):,} marked", style="bold bright_green")
            text.append(f" ({hidden:,} not shown)" if hidden else "", style="bold yellow")
            text.append(f", {format_size(total)}", style="bold bright_green")
            text.append(f" ({format_size(used)} used)" if used else "", style="green")
        if table.sorted_by:
            column, reverse = table.sorted_by
            falling = (column in FALLING) != reverse
            text.append(f"  sorted by {column}, {'falling' if falling else 'rising'}", style="dim")
        self.query_one("#status", Pane).show(text)

    # -- details

    def on_machine_table_moved(self, event: MachineTable.Moved) -> None:
        """Shows the row's facts at once, and reads the details when the cursor rests."""
        self._show_details(event.machine)
        if self._pending is not None:
            self._pending.stop()
        if event.machine is not None and self._look_up is not None and event.machine.moref not in self._known:
            moref = event.machine.moref
            self._pending = self.set_timer(DETAILS_AFTER_S, lambda: self._read_details(moref))

    @work(thread=True, exclusive=True, group="details", exit_on_error=False)
    def _read_details(self, moref: str) -> None:
        assert self._look_up is not None
        try:
            found: Machine | str = self._look_up(moref)
        except HyperSDKError as error:  # shown in the pane; the list can still be used
            found = error.message
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._learned, moref, found)

    def _learned(self, moref: str, found: Machine | str) -> None:
        self._known[moref] = found
        current = self.table.current
        if current is not None and current.moref == moref:
            self._show_details(current)

    def _show_details(self, machine: MachineSummary | None) -> None:
        pane = self.query_one("#details", Pane)
        if machine is None:
            among = f" among those that are {' and '.join(self._filters_set)}" if self._filters_set else ""
            pane.show(Text(f"Nothing matches{among}. Esc clears the search.", style="yellow"))
            return
        facts = list(summary_facts(machine))
        known = self._known.get(machine.moref)
        if isinstance(known, Machine):
            facts += machine_facts(known)
        elif known is not None:
            facts.append(("note", Text(clean(known, 300), style="yellow")))
        pane.show(Group(Text(displayed(clean(machine.name, 200)), style="bold"), facts_table(facts)))

    # -- leaving

    def action_go_on(self) -> None:
        """Opens the form for the marked machines, or else for the machine under the cursor."""
        table = self.table
        marked = [self._machines[at] for at in sorted(table.marked)] or ([table.current] if table.current else [])
        if marked:
            self.push_screen(
                ChoicesScreen(marked, self._start, self._free_bytes),
                lambda choices: self._chosen(tuple(marked), choices),
            )

    def _chosen(self, machines: tuple[MachineSummary, ...], choices: Choices | None) -> None:
        if choices is not None:
            self.exit(Picked(machines, choices))

    def action_clear_or_quit(self) -> None:
        """Clears the search and the filters; quits if there is nothing to clear, with marks at the second time."""
        search = self.query_one(SearchLine)
        if search.value or self._filters_set:
            self._only_marked, self._power = False, None
            search.clear()
            self._refill()
        elif self.table.marked and not self._leaving:
            text = f"Esc again quits and forgets what is marked ({len(self.table.marked):,}); any other key stays here."
            self.query_one("#status", Pane).show(Text(text, style="bold yellow", no_wrap=True, overflow="ellipsis"))
            self._leaving = True
        else:
            self.exit(None)

    def action_leave(self) -> None:
        """Quits without a choice."""
        self.exit(None)
