"""The event stream, over real sockets."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hypersdk.api import feed as feed_module
from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from tests.support.apiserver import Api, running_api
from tests.support.eventstream import listening
from tests.support.waiting import eventually


def test_a_stream_greets_and_shows_what_changes(api: Api) -> None:
    client = api.client("viewer")
    with listening(client) as events:
        name, greeted, data = events.next()
        assert name == "hello"
        assert data["revision"] == int(greeted)
        job = api.add_job()
        name, revision, data = events.next("job")
        assert (data["id"], data["state"], data["progress"]["phase"]) == (job.id, "queued", "queued")
        assert int(revision) == data["revision"] == job.revision
        claims = api.claims()
        claim = claims.claim(job.id, 1)
        assert claim is not None
        assert events.next("job")[2]["state"] == "running"
        claims.save(Unsaved(claim, {"percent_complete": 12.5}))
        found = events.next("progress")[2]
        assert (found["id"], found["state"], found["progress"]["percent_complete"]) == (job.id, "running", 12.5)
        claims.end(claim, JobEvent.FINISH, result={"success": True})
        assert events.next("job")[2]["state"] == "completed"
        api.services.jobs.delete(job.id)
        assert events.next("removed")[2] == {"topic": "jobs", "id": job.id}


def test_topics_and_ids_choose(api: Api) -> None:
    one, two = api.add_job(), api.add_job()
    with listening(api.client(), params={"topics": "progress", "ids": [two.id]}) as events:
        events.next("hello")
        api.services.jobs.pause(one.id)
        api.services.jobs.pause(two.id)
        name, _, data = events.next()
        assert (name, data["id"], data["state"]) == ("progress", two.id, "paused")
    answer = api.client().get("/api/v1/events", params={"topics": "weather"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert api.client(None).get("/api/v1/events").status_code == 401


def test_a_client_that_comes_back_gets_what_it_missed_once(api: Api) -> None:
    job = api.add_job()
    with listening(api.client()) as events:
        seen = events.next("hello")[1]
    api.services.jobs.pause(job.id)
    api.services.jobs.resume(job.id)
    other = api.add_job()
    gone = api.add_job()
    api.services.jobs.cancel(gone.id)
    api.services.jobs.delete(gone.id)
    ways: list[dict[str, Any]] = [{"headers": {"Last-Event-ID": seen}}, {"params": {"after": seen}}]
    for more in ways:
        with listening(api.client(), **more) as events:
            assert events.next()[0] == "hello"
            names = [events.next("job", "removed") for _ in range(3)]
            assert [(name, data.get("id"), data.get("state")) for name, _, data in names] == [
                ("job", job.id, "queued"),
                ("job", other.id, "queued"),
                ("removed", gone.id, None),
            ]


def test_an_id_that_is_too_old_or_from_elsewhere_is_a_resync(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "FOLLOWED", 5)
    for _ in range(10):
        api.add_job()
    for seen in ("1", "999999"):
        with listening(api.client(), headers={"Last-Event-ID": seen}) as events:
            name, revision, data = events.next()
            assert name == "resync"
            assert int(revision) == data["revision"] == api.services.jobs.revision()
            job = api.add_job()
            assert events.next("job")[2]["id"] == job.id


def test_pings_when_nothing_happens(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "PING_S", 0.2)
    with listening(api.client()) as events:
        events.next("hello")
        assert events.next()[0] == "ping"


def test_progress_of_one_job_comes_at_most_twice_a_second(api: Api) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    with listening(api.client(), params={"topics": "progress"}) as events:
        events.next("hello")
        began = time.monotonic()
        writes = 0
        while time.monotonic() - began < 2:
            writes += 1
            claims.save(Unsaved(claim, {"bytes_downloaded": writes}))
        spent = time.monotonic() - began
        seen = 0
        last: Any = 0
        while last != writes:
            last = events.next("progress")[2]["progress"]["bytes_downloaded"]
            seen += 1
        assert seen <= 2 * spent + 3
        assert writes > seen


def test_the_end_of_the_server_ends_the_streams(tmp_path: Any) -> None:
    with running_api(tmp_path) as api:
        context = listening(api.client())
        events = context.__enter__()
        events.next("hello")
    events.ended()
    context.__exit__(None, None, None)


def test_nobody_listens_nothing_is_polled(api: Api) -> None:
    feed = api.services.feed
    with listening(api.client()) as events:
        events.next("hello")
    eventually(lambda: not feed.clients)
    time.sleep(1.2)
    polls = feed.polls
    time.sleep(1.5)
    assert feed.polls == polls
    assert feed.clients == 0
