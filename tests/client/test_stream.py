"""Server-sent events, cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.client import DaemonError
from hypersdk.client.stream import MAX_EVENT_CHARS, EventDecoder, StreamEvent

STREAM = (
    b': a comment\n\nevent: hello\nid: 7\ndata: {"revision":7}\n\ndata: one\ndata: two \xc3\xa4\nid: 8\r\n\nretry:'
    b" 2500\n\nevent: empty\n\nid: bad\0id\ndata:no blank\n\nfield: ignored\ndata\n\n"
)
EVENTS = [
    StreamEvent("hello", "7", '{"revision":7}'),
    StreamEvent("message", "8", "one\ntwo ä"),
    StreamEvent("message", "8", "no blank"),
    StreamEvent("message", "8", ""),
]


@given(st.sets(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_cut_anywhere_gives_the_same_events(cuts: set[int]) -> None:
    decoder = EventDecoder()
    places = [0, *sorted(cuts), len(STREAM)]
    found = [event for at, end in itertools.pairwise(places) for event in decoder.feed(STREAM[at:end])]
    assert found == EVENTS
    assert decoder.last_id == "8"


@pytest.mark.parametrize("endless", [b"data: xxxxxxxxxxxxxxxxxxxxxxxx\n", b"x" * 31])
def test_an_event_without_end_is_refused(endless: bytes) -> None:
    decoder = EventDecoder()
    block = endless * 10_000
    with pytest.raises(DaemonError) as raised:
        list(itertools.chain.from_iterable(decoder.feed(block) for _ in range(MAX_EVENT_CHARS // 200_000 + 2)))
    assert raised.value.code == "answer_unreadable"


def test_data_that_is_no_json_is_an_error_of_ours() -> None:
    with pytest.raises(DaemonError):
        StreamEvent("job", "1", "{").json()
