"""The log that all clients of the event stream share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypersdk.api.feed import ChangeLog, FeedEntry, Subscription, event


def _entry(revision: int, name: str, size: int = 10) -> FeedEntry:
    return FeedEntry(revision, "jobs", name, b"x" * size)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 10), st.integers(0, 60))
def test_whoever_is_above_the_floor_misses_no_object(names: list[str], room: int, place: int) -> None:
    log = ChangeLog(max_entries=room)
    log.begin(0)
    for revision, name in enumerate(names, start=1):
        log.add(_entry(revision, name))
    assert len(log) <= room
    if place >= log.floor:
        last = {name: revision for revision, name in enumerate(names, start=1) if revision > place}
        assert [(one.id, one.revision) for one in log.after(place)] == sorted(last.items(), key=lambda one: one[1])


def test_bytes_are_bounded_too() -> None:
    log = ChangeLog(max_bytes=100)
    for revision in range(1, 50):
        log.add(_entry(revision, str(revision), 30))
    assert len(log) == 3
    assert log.floor == 46
    log.add(_entry(50, "huge", 1000))
    assert len(log) == 0
    assert log.floor == 50


def test_progress_that_came_with_the_job_is_not_told_twice() -> None:
    covered = FeedEntry(1, "progress", "a", b"", covered=True)
    alone = FeedEntry(1, "progress", "a", b"")
    both, only = Subscription(frozenset({"jobs", "progress"})), Subscription(frozenset({"progress"}))
    assert [both.takes(covered), both.takes(alone), only.takes(covered), only.takes(alone)] == [False, True, True, True]
    assert not Subscription(frozenset({"progress"}), frozenset({"b"})).takes(alone)


def test_an_event_is_one_line_of_json_whatever_is_in_it() -> None:
    assert (
        event("job", {"name": "a\nb\r\u2028ü"}, 7) == 'event: job\nid: 7\ndata: {"name":"a\\nb\\r\u2028ü"}\n\n'.encode()
    )
