"""The form after the picker: output folder, format, and what may be done to the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Label, Static

from hypersdk.cli.remedies import next_step
from hypersdk.cli.terminal import displayed
from hypersdk.errors import HyperSDKError, UsageError
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.spec import Compression, ExportSpec, Method, OutputFormat, SourceState
from hypersdk.model import MachineSummary, Power
from hypersdk.text import clean, count
from hypersdk.units import format_size, parse_size


@dataclass(frozen=True, slots=True)
class Choices:
    """The answers of the form: an export, for machines still to be named; ``bandwidth_bytes_s`` None is no limit."""

    spec: ExportSpec
    bandwidth_bytes_s: int | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One value of a question: how it is shown and what it means."""

    value: str
    title: str
    meaning: str


FORMAT_OPTIONS: Final = tuple(Option(row.name, row.name, row.meaning) for row in FORMATS.values())
COMPRESSIONS: Final = (
    Option("none", "none", "fastest to run from"),
    Option("checked", "checked", "small; blocks stay compressed as they came, each is checked"),
    Option("unchecked", "unchecked", "fastest to create; only the server's manifest proves the copy"),
    Option("repack", "repack", "small, for old readers that need a narrow window"),
)
STATES: Final = (
    Option("auto", "keep running", "through a temporary snapshot that is removed at the end"),
    Option("shutdown", "shut down", "the guest shuts down, and is started again at the end"),
    Option("power-off", "power off", "immediately, as if unplugged; started again at the end"),
)
METHODS: Final = (
    Option("auto", "auto", "the best that this vSphere offers"),
    Option("lease", "lease", "the export stream of vSphere: compressed, works everywhere"),
    Option("datastore", "datastore", "ranges of the flat file: parallel, resumable; not on vSAN"),
)
ISOS: Final = (
    Option("leave", "leave", "ISO images are neither copied nor ejected"),
    Option("eject", "eject", "ejected during the export, then re-inserted"),
)


class Choice(Widget, can_focus=True):
    """One question with a few answers in one line; the arrow keys change the answer."""

    DEFAULT_CSS: ClassVar[str] = "Choice { height: 1; } Choice:focus { background: $boost; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "change(-1)", show=False),
        Binding("right,space", "change(1)", show=False),
    ]

    @dataclass
    class Explained(Message):
        """What the answer under the cursor means."""

        meaning: str

    def __init__(self, options: Sequence[Option], value: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.options = options
        self.at = next((at for at, option in enumerate(options) if option.value == value), 0)

    @property
    def value(self) -> str:
        """The answer."""
        return self.options[self.at].value

    def action_change(self, steps: int) -> None:
        """The next or previous answer, around the ends."""
        self.at = (self.at + steps) % len(self.options)
        self.refresh()
        self.post_message(self.Explained(self.options[self.at].meaning))

    def render(self) -> Text:
        """All answers, the chosen one marked."""
        text = Text(no_wrap=True, overflow="ellipsis")
        for at, option in enumerate(self.options):
            chosen = at == self.at
            style = "bold bright_cyan reverse" if chosen and self.has_focus else "bold bright_cyan" if chosen else "dim"
            text.append(f" {'◉' if chosen else '○'} {option.title} ", style=style)
        return text

    def on_focus(self) -> None:
        """Tells what the answer means."""
        self.post_message(self.Explained(self.options[self.at].meaning))

    def on_click(self, event: events.Click) -> None:
        """A click on an answer chooses it."""
        left = 0
        for at, option in enumerate(self.options):
            left += len(option.title) + 4
            if event.x < left:
                self.action_change(at - self.at)
                return


class ChoicesScreen(Screen["Choices | None"]):
    """Asks for Choices; dismissed with None to go back to the list."""

    CSS: ClassVar[str] = """
    ChoicesScreen { padding: 1 1; }
    ChoicesScreen VerticalScroll { scrollbar-size-vertical: 1; }
    ChoicesScreen .question { height: 1; margin-bottom: 1; }
    ChoicesScreen .label { width: 14; color: $text-muted; }
    ChoicesScreen Input { width: 1fr; }
    ChoicesScreen Choice { width: 1fr; }
    ChoicesScreen #selected { margin-bottom: 1; height: auto; max-height: 3; }
    ChoicesScreen #meaning { height: 1; dock: bottom; margin-bottom: 1; color: $text-muted; text-style: italic; }
    ChoicesScreen #error { color: $error; height: auto; }
    ChoicesScreen #keys { dock: bottom; height: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", show=False, priority=True),
        Binding("enter", "go", show=False),  # not before the keys that were typed ahead of it
        Binding("down", "app.focus_next", show=False, priority=True),
        Binding("up", "app.focus_previous", show=False, priority=True),
    ]

    def __init__(self, machines: Sequence[MachineSummary], start: Choices, free_bytes: Callable[[Path], int]) -> None:
        super().__init__()
        self._machines = machines
        self._start = start
        self._free_bytes = free_bytes

    def compose(self) -> ComposeResult:
        """The form, one question a line."""
        start, rate = self._start.spec, self._start.bandwidth_bytes_s
        limit = "" if rate is None else format_size(rate)
        with VerticalScroll(can_focus=False):
            yield Label(self._selected(), id="selected")
            folder = str(start.output_dir.absolute())
            yield from _question("Folder", Input(folder, id="folder", compact=True, select_on_focus=False))
            yield from _question("", Static("", id="free"))
            yield from _question("Format", Choice(FORMAT_OPTIONS, start.format, id="format"))
            yield from _question("Compression", Choice(COMPRESSIONS, start.compress, id="compress"))
            if any(machine.power is Power.ON for machine in self._machines):
                yield from _question("While it runs", Choice(STATES, start.state, id="state"))
            yield from _question("Data path", Choice(METHODS, start.method, id="method"))
            yield from _question("ISO images", Choice(ISOS, "eject" if start.remove_cdrom else "leave", id="isos"))
            yield from _question(
                "Speed limit", Input(limit, placeholder="none; like 100M (a second)", id="limit", compact=True)
            )
            yield Static("", id="error")
        yield Static("", id="meaning")
        yield Static("↑↓ question   ←→ answer   Enter plan   Esc back to list", id="keys")

    def on_mount(self) -> None:
        """The folder has the focus first: most people change it."""
        self.query_one("#folder").focus()
        self._show_free()

    def _selected(self) -> Text:
        total = sum(machine.provisioned_bytes or 0 for machine in self._machines)
        names = ", ".join(displayed(clean(machine.name, 60)) for machine in self._machines[:6])
        more = "" if len(self._machines) <= 6 else f" and {len(self._machines) - 6} more"
        head = f"{count(len(self._machines), 'machine')}, {format_size(total)} provisioned: "
        return Text.assemble((head, "bold"), names + more)

    def on_choice_explained(self, event: Choice.Explained) -> None:
        """The line at the bottom follows the focus."""
        self.query_one("#meaning", Static).update(Text(event.meaning))

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A line of text needs no explanation."""
        if isinstance(event.widget, Input):
            self.query_one("#meaning", Static).update("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Free space follows the folder."""
        if event.input.id == "folder":
            self._show_free()

    def on_input_submitted(self) -> None:
        """Enter in a line of text is Enter in the form."""
        self.action_go()

    def _show_free(self) -> None:
        try:
            text = format_size(self._free_bytes(self._folder())) + " free"
        except (HyperSDKError, ValueError) as error:
            text = str(error)
        self.query_one("#free", Static).update(Text(clean(text) + "; a folder for each machine", style="dim italic"))

    def _folder(self) -> Path:
        return Path(self.query_one("#folder", Input).value.strip() or ".").expanduser()

    def action_back(self) -> None:
        """Back to the list, with the marks as they were."""
        self.dismiss(None)

    def action_go(self) -> None:
        """Checks the answers and hands them over."""
        try:
            self.dismiss(self._answers())
        except UsageError as error:
            self.query_one("#error", Static).update(Text(clean(f"{error.message}. {next_step(error)}")))

    def _answers(self) -> Choices:
        chosen = {choice.id: choice.value for choice in self.query(Choice)}
        limit = self.query_one("#limit", Input).value.strip()
        spec = replace(
            self._start.spec,
            output_dir=self._folder(),
            format=OutputFormat(chosen["format"]),
            compress=Compression(chosen["compress"]),
            state=SourceState(chosen.get("state", "auto")),
            method=Method(chosen["method"]),
            remove_cdrom=chosen["isos"] == "eject",
        )
        if reason := FORMATS[spec.format].refusal(spec.compress):
            raise UsageError(reason, next_step="Choose compression none, or format qcow2.")
        return Choices(spec, parse_size(limit) if limit else None)


def _question(label: str, widget: Widget) -> ComposeResult:
    row = Horizontal(Label(label, classes="label"), widget, classes="question")
    if not label:
        row.styles.margin = (-1, 0, 1, 0)
    yield row
