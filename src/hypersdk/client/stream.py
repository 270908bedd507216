"""Decoder of server-sent events (WHATWG HTML, section 9.2.6). Pure: no sockets, no clock."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.client.errors import bad_answer, json_object
from hypersdk.units import MiB

MAX_EVENT_CHARS: Final = 4 * MiB
"""Limit of an event, which carries one job."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event. ``id`` is the position to resume after; ``name`` is ``message`` if the server sent none."""

    name: str
    id: str
    data: str

    def json(self) -> dict[str, Any]:
        """``data`` as a JSON object. Raises DaemonError ``answer_unreadable``."""
        return json_object(self.data)


class EventDecoder:
    """Parses chunks of a stream into events; a chunk may end anywhere."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._name = ""
        self._data: list[str] = []
        self._size = 0
        self.last_id = ""

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """The events that ``chunk`` completes. Raises DaemonError for an event above the limit."""
        lines = (self._rest + self._decode.decode(chunk)).split("\n")
        self._rest = lines.pop()
        if len(self._rest) + self._size > MAX_EVENT_CHARS:
            raise bad_answer("an event has no end")
        for line in lines:
            event = self._line(line.removesuffix("\r"))
            if event is not None:
                yield event

    def _line(self, line: str) -> StreamEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        # A line that begins with a colon is a comment: the server's ping. ``retry`` is never sent.
        return None

    def _dispatch(self) -> StreamEvent | None:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], "", 0
        return StreamEvent(name or "message", self.last_id, "\n".join(data)) if data else None
