"""Reads an event stream in tests, with a time limit on every event."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from hypersdk.client.stream import EventDecoder

LIMIT_S = 30.0


class Events:
    """Received events, in order."""

    def __init__(self) -> None:
        self._found: queue.Queue[tuple[str, str, Any] | None] = queue.Queue()

    def put(self, one: tuple[str, str, Any] | None) -> None:
        self._found.put(one)

    def next(self, *names: str) -> tuple[str, str, Any]:
        """The next event with one of these names (any, without names): name, id, data."""
        while True:
            found = self._found.get(timeout=LIMIT_S)
            assert found is not None, "the stream ended"
            if not names or found[0] in names:
                return found

    def ended(self) -> None:
        """Waits for the end of the stream."""
        while self._found.get(timeout=LIMIT_S) is not None:
            pass


@contextmanager
def listening(client: httpx.Client, path: str = "/api/v1/events", **more: Any) -> Iterator[Events]:
    """Events of a stream that is open for as long as the block runs."""
    events = Events()
    with client.stream("GET", path, **more) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")

        def read() -> None:
            decoder = EventDecoder()
            try:
                for chunk in answer.iter_raw():
                    for event in decoder.feed(chunk):
                        events.put((event.name, event.id, json.loads(event.data)))
            except (httpx.HTTPError, httpx.StreamError):
                pass  # the block has ended
            events.put(None)

        thread = threading.Thread(target=read, name="events")
        thread.start()
        try:
            yield events
        finally:
            # Shutting the socket down wakes the reader, which closing alone does not.
            stream = answer.extensions["network_stream"]
            sock = stream.get_extra_info("socket")
            with suppress(OSError):
                sock.shutdown(2)
            thread.join(LIMIT_S)
