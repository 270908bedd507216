"""Output: which stream gets what.

::

                    results          progress, notes, questions      errors
    for people      stdout           stderr                          stderr, with cause and next step
    with --json     stdout, a JSON   nothing                         stdout, one JSON line of type "error"
                    line per event

So a pipe on stdout gets only results. Where stdout is full, closed or no longer read, the command stops
(``OutputStopped``); one that must reach its end, like an export, goes on without it (``keep_going``). Live displays
appear only on a terminal, never with ``TERM=dumb``; what colours and characters appear, ``cli/terminal.py`` decides.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, TextIO

from hypersdk.cli.terminal import displayed, only_ascii, wants_colour
from hypersdk.streams import failure_of, failure_text
from hypersdk.text import clean, clean_lines

if TYPE_CHECKING:  # rich takes 90 ms to import: `--help` and `--json` do without it
    from rich.console import Console, ConsoleOptions, RenderableType

STDIN: Final = 0
PLAIN_WIDTH: Final = 120
"""Columns assumed for text that does not go to a terminal."""


class OutputStopped(Exception):  # noqa: N818 - no error of the command's, and nothing but ``Program`` catches it
    """Nobody can read the rest of what the command would print."""


class Output:
    """The two streams of a run. Thread-safe: lines of concurrent events never mix."""

    def __init__(
        self,
        stdout: TextIO,
        stderr: TextIO,
        environ: Mapping[str, str],
        *,
        json_lines: bool,
        stdin_is_tty: bool,
        program: str = "hyper2kvm",
    ) -> None:
        self.json_lines = json_lines
        self.program = program
        self._keeps_going = False
        self._told_failure = False
        self._stdout = stdout
        self._stderr = stderr
        self._environ = environ
        self._stdin_is_tty = stdin_is_tty
        self._lock = threading.Lock()
        self._undo_terminal: Callable[[], None] | None = None

    @property
    def colour(self) -> bool:
        """Whether the displays may use colours."""
        return wants_colour(self._environ)

    @property
    def live(self) -> bool:
        """Whether a display that redraws itself may be shown (on stderr)."""
        return not self.json_lines and self._stderr.isatty() and self._environ.get("TERM") != "dumb"

    @property
    def can_ask(self) -> bool:
        """Whether a person can answer: stdin and stderr are terminals, and the output is not for programs."""
        return self._stdin_is_tty and self._stderr.isatty() and not self.json_lines

    @property
    def full_screen(self) -> bool:
        """Whether the picker can be shown."""
        return self.can_ask and self._stdout.isatty() and self._environ.get("TERM") not in (None, "", "dumb")

    @cached_property
    def console(self) -> Console:
        """Results for people, on stdout."""
        return _make_console(self._stdout, self._environ)

    @cached_property
    def notes(self) -> Console:
        """Progress, notes and questions, on stderr."""
        return _make_console(self._stderr, self._environ)

    @contextmanager
    def silent_keyboard(self) -> Iterator[None]:
        """Turns off the echo of keys while a display redraws itself. Ctrl-C still works."""
        if not self._stdin_is_tty:
            yield
            return
        import termios

        before = termios.tcgetattr(STDIN)
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]

        def undo() -> None:
            with suppress(termios.error):  # the terminal went away
                termios.tcsetattr(STDIN, termios.TCSADRAIN, before)

        self._undo_terminal = undo
        termios.tcsetattr(STDIN, termios.TCSADRAIN, silent)
        try:
            yield
        finally:
            self._undo_terminal()
            self._undo_terminal = None

    def restore_terminal(self) -> None:
        """Restores echo and cursor, before the process is ended by force."""
        if self._undo_terminal is not None:
            self._undo_terminal()
            self.notes.show_cursor(True)

    def keep_going(self) -> None:
        """From here on the command reaches its end even if nobody can read its results: the source is changed, or
        several things are."""
        self._keeps_going = True

    @property
    def failure(self) -> OSError | None:
        """Why results were lost, if they were."""
        return failure_of(self._stdout)

    def tell_failure(self, more: str = "") -> None:
        """Says once, in one line, that results are lost. A reader that closed its pipe has had enough, and is told only
        that the run goes on (``more``)."""
        failure = self.failure
        if failure is None or self._told_failure or (isinstance(failure, BrokenPipeError) and not more):
            return
        self._told_failure = True
        self._stderr.write(f"{failure_text(self.program, failure, more)}\n")
        self._stderr.flush()

    def _flushed(self) -> None:
        """After each result."""
        self._stdout.flush()
        if self.failure is None:
            return
        if not self._keeps_going:
            raise OutputStopped
        self.tell_failure("; the run goes on")

    def event(self, kind: str, facts: Mapping[str, object]) -> None:
        """One JSON line of type ``kind`` on stdout."""
        self.row({"type": kind, **facts})

    def row(self, facts: Mapping[str, object]) -> None:
        """One JSON line on stdout, flushed: a reader at the other end of a pipe sees it at once."""
        line = json.dumps(facts, default=_plain, separators=(",", ":"))
        with self._lock:
            self._stdout.write(line + "\n")
            self._flushed()

    def print(self, *renderables: RenderableType, soft_wrap: bool = False) -> None:
        """A result for people, on stdout; nothing with --json, where ``event`` carries it. A pipe gets no blanks at the
        ends of lines."""
        if self.json_lines:
            return
        if self._stdout.isatty():
            self.console.print(*renderables, soft_wrap=soft_wrap)
            self._flushed()
            return
        lines = self._in_pipe(renderables)
        with self._lock:
            self._stdout.write("".join(f"{line.rstrip()}\n" for line in lines))
            self._flushed()  # notes go to stderr at once: where both end in one file, they keep their order

    def _in_pipe(self, renderables: Sequence[RenderableType]) -> list[str]:
        """The lines of ``renderables``. Without styles a text is its own rendering: a list of 5,000 machines takes ten
        times as long through the console."""
        from rich.text import Text

        if not self.console.is_terminal and all(isinstance(each, Text) for each in renderables):
            return [line for each in renderables for line in clean_lines(str(each)).split("\n")]
        with self.console.capture() as capture:
            self.console.print(*renderables, soft_wrap=True)
        return capture.get().splitlines()

    @property
    def width(self) -> int | None:
        """Width of stdout in cells; None if it is not a terminal, where lines may be of any length."""
        return self.console.width if self._stdout.isatty() else None

    def line(self, text: str) -> None:
        """One plain line for people on stdout, of any length and never wrapped: safe to parse and to copy."""
        if not self.json_lines:
            with self._lock:
                self._stdout.write(clean(text) + "\n")
                self._flushed()

    def note(self, text: str, style: str = "") -> None:
        """One remark for people, on stderr, in one line where it does not go to a terminal; nothing with --json."""
        if not self.json_lines:
            self.notes.print(clean(text), style=style or None, soft_wrap=not self._stderr.isatty())

    def warn(self, text: str) -> None:
        """A warning: on stderr for people, a line of type ``warning`` with --json."""
        if self.json_lines:
            self.event("warning", {"message": text})
        else:
            self.note(f"Warning: {text}", style="yellow")

    @contextmanager
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows a spinner with ``text`` on a terminal, nothing elsewhere; yields a function that replaces the text."""
        if not self.live:
            yield lambda _text: None
            return
        from rich.spinner import Spinner
        from rich.text import Text

        from hypersdk.cli.live import LiveDisplay

        def plain(message: str) -> Text:  # Spinner takes a string as markup
            return Text(displayed(clean(message)))

        spinner = Spinner("line" if only_ascii() else "dots", plain(text), style="status.spinner")
        with LiveDisplay(spinner, console=self.notes, refresh_per_second=12.5, transient=True):
            yield lambda message: spinner.update(text=plain(message))


def _make_console(stream: TextIO, environ: Mapping[str, str]) -> Console:
    from rich.console import Console
    from rich.segment import Segment

    class Quiet(Console):
        """Cleans all text, as a last defence against control characters from outside."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(clean_lines(segment.text), segment.style)

    at_terminal, colour = stream.isatty(), wants_colour(environ)
    return Quiet(
        file=stream,
        width=None if at_terminal else PLAIN_WIDTH,
        no_color=not colour,
        force_terminal=None if colour else at_terminal,  # NO_COLOR is stronger than FORCE_COLOR
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
        _environ=environ,
    )


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
