"""The search line: a text input that is cheap to redraw.

Textual's own input lays the whole screen out anew at every character, which alone takes longer than the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.message import Message
from textual.widget import Widget

from hypersdk.cli.terminal import displayed
from hypersdk.text import clean

MAX_LENGTH: Final = 200


class SearchLine(Widget, can_focus=True):
    """One editable line; posts a message for every change."""

    DEFAULT_CSS: ClassVar[str] = "SearchLine { height: 1; }"

    @dataclass
    class Changed(Message):
        """The text has changed."""

        value: str

    @dataclass
    class Command(Message):
        """A key that is not part of the text, in order with the changes."""

        action: str

    def __init__(self, placeholder: str, commands: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._placeholder = placeholder
        self._commands = commands
        self._edits: dict[str, Callable[[], None]] = {
            "backspace": lambda: self.erase(1),
            "ctrl+w": self.erase_word,
            "ctrl+u": self.clear,
            "left": lambda: self.go(-1),
            "right": lambda: self.go(1),
            "home": lambda: self.go(-MAX_LENGTH),
            "end": lambda: self.go(MAX_LENGTH),
            "delete": self.delete,
        }
        self._at = 0
        self.value = ""

    def set(self, value: str, at: int) -> None:
        """Replaces the text and puts the cursor before character ``at``."""
        changed = value != self.value
        self.value = value[:MAX_LENGTH]
        self._at = min(max(at, 0), len(self.value))
        self.refresh()
        if changed:
            self.post_message(self.Changed(self.value))

    def insert(self, text: str) -> None:
        """Puts ``text`` in at the cursor."""
        self.set(self.value[: self._at] + text + self.value[self._at :], self._at + len(text))

    def on_key(self, event: events.Key) -> None:
        """Edits the text or passes the key on. Nothing is bound: bindings would overtake the characters typed before
        them."""
        if action := self._commands.get(event.key):
            self.post_message(self.Command(action))
        elif edit := self._edits.get(event.key):
            edit()
        elif event.is_printable and event.character:
            self.insert(event.character)
        else:
            return
        event.stop()
        event.prevent_default()

    def on_paste(self, event: events.Paste) -> None:
        """Inserts the first line of a pasted text."""
        event.stop()
        self.insert(clean(event.text.strip().split("\n")[0], MAX_LENGTH))

    def erase(self, count: int) -> None:
        """Removes characters before the cursor."""
        start = max(self._at - count, 0)
        self.set(self.value[:start] + self.value[self._at :], start)

    def erase_word(self) -> None:
        """Removes the word before the cursor."""
        self.erase(self._at - len(self.value[: self._at].rstrip().rpartition(" ")[0]))

    def clear(self) -> None:
        """Removes everything."""
        self.set("", 0)

    def delete(self) -> None:
        """Removes the character behind the cursor."""
        self.set(self.value[: self._at] + self.value[self._at + 1 :], self._at)

    def go(self, steps: int) -> None:
        """Moves the cursor."""
        self.set(self.value, self._at + steps)

    def render(self) -> Text:
        """The text with its cursor, or what to do while there is none."""
        if not self.value:
            return Text.assemble(
                ("❯ ", "bold cyan"),
                (self._placeholder[:1], "reverse dim"),
                (self._placeholder[1:], "dim"),
                no_wrap=True,
            )
        text = self.value + " "
        before = displayed(text[: self._at])
        room = max(self.size.width - 6, 1)  # the cursor stays in view
        while cell_len(before) > room:
            before = before[1:]
        return Text.assemble(
            ("❯ ", "bold cyan"),
            before,
            (displayed(text[self._at]), "reverse"),
            displayed(text[self._at + 1 :]),
            no_wrap=True,
            overflow="crop",
        )
