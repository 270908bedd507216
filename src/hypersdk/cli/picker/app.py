"""The picker: a search line, the list, the details of the machine under the cursor, the sum of what is marked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from rich.console import Group, RenderableType
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from hypersdk.cli.picker.choices import Choices, ChoicesScreen
from hypersdk.cli.picker.details import facts_table, machine_facts, summary_facts
from hypersdk.cli.picker.line import SearchLine
from hypersdk.cli.picker.search import FALLING, SORT_KEYS, Index, sort_machines
from hypersdk.cli.picker.table import COLUMNS, MachineTable
from hypersdk.errors import HyperSDKError
from hypersdk.model import Machine, MachineSummary
from hypersdk.text import clean
from hypersdk.units import format_size

DETAILS_AFTER_S: Final = 0.3
"""How long the cursor rests before details are read: scrolling must not send a request per row."""

COMMANDS: Final = {
    "space": "mark",
    "ctrl+a": "mark_all",
    "enter": "go_on",
    "escape": "clear_or_quit",
    "tab": "sort_next",
    "shift+tab": "sort_reverse",
    "up": "move(-1)",
    "down": "move(1)",
    "pageup": "page(-1)",
    "pagedown": "page(1)",
    "ctrl+home": "move(-1000000000)",
    "ctrl+end": "move(1000000000)",
}
"""Keys of the list. The search line passes them on in the order they were typed: as bindings of the app they would
overtake the characters before them, and mark another machine than the one that was searched for."""

KEYS: Final = "space mark  ^A all  Enter continue  Tab sort  ⇧Tab reverse  Esc clear/quit"


@dataclass(frozen=True, slots=True)
class Picked:
    """The picked machines and the answers of the form."""

    machines: tuple[MachineSummary, ...]
    choices: Choices


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
    .-wide #details { width: 38%; max-width: 80; height: 1fr; border-top: none; border-left: solid $primary-darken-1; }
    #status { height: 1; background: $surface; padding: 0 1; }
    #keys { height: 1; color: $text-muted; padding: 0 1; }
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
    ) -> None:
        super().__init__()
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
        self.failure: Exception | None = None
        """The unexpected exception that ended the picker. The caller raises it again once the terminal is restored."""

    def _handle_exception(self, error: Exception) -> None:
        self.failure = self.failure or error
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        # Textual would print a traceback with all local variables.
        self._close_messages_no_wait()

    def compose(self) -> ComposeResult:
        """Title, search line, list and details, status and keys."""
        yield Static(Text(clean(self._heading, 200), no_wrap=True, overflow="ellipsis"), id="title")
        yield SearchLine("type to search name, path, guest and host", COMMANDS, id="search")
        with Container(id="body"):
            yield MachineTable(self._machines, id="list")
            yield Pane(id="details")
        yield Pane(id="status")
        yield Static(Text(KEYS, no_wrap=True, overflow="ellipsis"), id="keys")

    def on_mount(self) -> None:
        """Keys go to the search line; those that move the cursor are bound above it."""
        gc.collect()
        gc.freeze()  # the collector would walk through the whole inventory every few key presses
        self.query_one("#search").focus()
        self.table.marked = self._marked
        self._show_status()

    @property
    def table(self) -> MachineTable:
        """The list."""
        return self.query_one(MachineTable)

    async def on_search_line_command(self, event: SearchLine.Command) -> None:
        """One of the list's keys."""
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
        rows = self._index.search(query)
        if self.table.sorted_by is not None:
            rows = sorted(rows, key=self._ranks(*self.table.sorted_by).__getitem__)
        self.table.show(rows, query)
        self._show_status()

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

    def action_mark(self) -> None:
        """Marks or unmarks one machine."""
        self.table.toggle()

    def action_mark_all(self) -> None:
        """Marks or unmarks all that are shown."""
        self.table.toggle_all()

    def on_machine_table_marked(self) -> None:
        """The sum below the list follows the marks."""
        self._show_status()

    def _show_status(self) -> None:
        table = self.table
        marked = [self._machines[at] for at in table.marked]
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{len(table.rows):,} of {len(self._machines):,}", style="bold")
        if marked:
            total = sum(machine.capacity_bytes for machine in marked)
            used = sum(machine.used_bytes or 0 for machine in marked)
            text.append(f"   ◉ {len(marked):,} marked, {format_size(total)}", style="bold bright_green")
            text.append(f" ({format_size(used)} used)" if used else "", style="green")
        if table.sorted_by:
            column, reverse = table.sorted_by
            falling = (column in FALLING) != reverse
            text.append(f"   sorted by {column}, {'falling' if falling else 'rising'}", style="dim")
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
            pane.show(Text("Nothing matches. Esc clears the search.", style="yellow"))
            return
        facts = list(summary_facts(machine))
        known = self._known.get(machine.moref)
        if isinstance(known, Machine):
            facts += machine_facts(known)
        elif known is not None:
            facts.append(("note", Text(clean(known, 300), style="yellow")))
        pane.show(Group(Text(clean(machine.name, 200), style="bold"), facts_table(facts)))

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
        """Clears the search; quits if there is none."""
        search = self.query_one(SearchLine)
        if search.value:
            search.clear()
        else:
            self.exit(None)

    def action_leave(self) -> None:
        """Quits without a choice."""
        self.exit(None)
