"""virt-v2v's messages (``--machine-readable=fd:N``): one JSON object a line, with ``type`` and ``message``.

``message`` begins a stage, ``info`` and ``warning`` are kept, ``error`` is the reason of a failure. Parts of the texts
come from the guest, so everything is bounded and made safe to show.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from hypersdk.guest.report import ConversionEvent, EventKind
from hypersdk.text import clean

MAX_TEXT: Final = 2000
"""In characters; a longer text is cut."""
MAX_KEPT: Final = 200
"""Of each kind; later ones are in the log alone."""
_ARGUMENTS: Final = ": -i libvirtxml "
"""Ends the text of the first stage; what follows is a temporary file."""
_KINDS: Final = {"message": EventKind.STAGE, "warning": EventKind.WARNING, "info": EventKind.INFO}


class MessageReader:
    """Reads the lines of one run. ``clock`` is in seconds."""

    def __init__(
        self,
        on_event: Callable[[ConversionEvent], None] = lambda _event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_event = on_event
        self._clock = clock
        self._begun = clock()
        self._kept: dict[EventKind, list[ConversionEvent]] = {kind: [] for kind in EventKind}
        self.errors: list[str] = []

    def read(self, line: bytes) -> None:
        """Takes one line. One that is no message is ignored: it is in the log."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict) or not isinstance(found.get("message"), str):
            return
        text = clean(" ".join(found["message"].split()), MAX_TEXT)
        kind = _KINDS.get(str(found.get("type")))
        if kind is not None:
            self._add(kind, text.partition(_ARGUMENTS)[0])
        elif found.get("type") == "error" and len(self.errors) < MAX_KEPT:
            self.errors.append(text)

    def _add(self, kind: EventKind, text: str) -> None:
        event = ConversionEvent(kind, text, self.elapsed_s())
        if len(self._kept[kind]) < MAX_KEPT:
            self._kept[kind].append(event)
            self._on_event(event)

    def begin(self, text: str) -> None:
        """Begins a stage of our own."""
        self._add(EventKind.STAGE, text)

    def elapsed_s(self) -> float:
        """Since the start."""
        return self._clock() - self._begun

    @property
    def warnings(self) -> tuple[str, ...]:
        """The texts, each once."""
        return tuple(dict.fromkeys(event.text for event in self._kept[EventKind.WARNING]))

    @property
    def infos(self) -> tuple[str, ...]:
        """The texts, in order."""
        return tuple(event.text for event in self._kept[EventKind.INFO])
