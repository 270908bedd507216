"""Submitting, listing, asking; and what only the worker that has a job may do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from hypersdk.errors import LookupFailed, UsageError
from hypersdk.jobs.claims import Claim, Claims, StaleAttempt, Unsaved
from hypersdk.jobs.states import JobEvent, JobState, JobStateError
from hypersdk.jobs.statistics import read_statistics
from hypersdk.jobs.store import MAX_LOG_BYTES, Filter, JobStore
from hypersdk.state.database import Database, DatabaseError
from hypersdk.state.pages import ListConditions, PageRequest
from tests.support.jobrecords import new_job, submit


def test_the_same_id_is_the_same_job_or_an_error(store: JobStore) -> None:
    before = store.revision()
    first = submit(store, new_job(id="mine"))
    assert before < first.revision == store.revision()
    again = submit(store, new_job(id="mine"))
    assert (again, store.revision()) == (first, first.revision)
    with pytest.raises(UsageError) as caught:
        submit(store, new_job(id="mine", digest="other"))
    assert caught.value.code == "job_exists"


def test_many_at_once_are_each_taken_or_refused(store: JobStore) -> None:
    submit(store, new_job(id="there"))
    wanted = [
        new_job(),
        new_job(id="twice"),
        new_job(id="there", digest="other"),
        new_job(id="twice"),
        new_job(id="twice", digest="other"),
        new_job(id="there"),
        *(new_job(name=f"vm {number}") for number in range(1200)),
    ]
    before = store.revision()
    found = store.submit(wanted)
    refused = [place for place, one in enumerate(found) if isinstance(one, UsageError)]
    assert refused == [2, 4]
    taken = [one for one in found if not isinstance(one, UsageError)]
    assert taken[2] == taken[1], "it is asked for twice"
    assert taken[3].revision <= before, "it was there"
    made = [*taken[:2], *taken[4:]]
    assert [job.number for job in made] == list(range(2, 2 + 1202))
    assert [job.revision for job in made] == list(range(before + 1, before + 1203))
    assert [job.name for job in made[2:]] == [f"vm {number}" for number in range(1200)]
    assert store.submit([]) == []
    assert store.revision() == before + 1202


def test_an_id_that_many_ask_for_at_once_is_one_job(store: JobStore) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: submit(store, new_job(id="mine")), range(6)))
    assert found == [found[0]] * 6
    assert store.ids(Filter()) == ["mine"]


def test_a_list_is_sorted_filtered_paged_and_counted(store: JobStore) -> None:
    for number in range(25):
        submit(store, new_job(name=f"vm {number % 5}", definition={"format": "qcow2" if number % 2 else "raw"}))
    page = store.page(Filter(where=ListConditions(equal=(("format", ("raw",)),))), PageRequest("name", limit=4))
    assert page.total == 13
    assert page.facets["state"] == {"queued": 13}
    assert [job.name for job in page.rows] == ["vm 0"] * 3 + ["vm 1"]
    seen: list[int] = []
    cursor: int | None = None
    while rows := store.page(Filter(), PageRequest("number", limit=7), after=cursor or 0).rows:
        seen += [job.number for job in rows]
        cursor = rows[-1].number
    assert seen == sorted(seen)
    assert len(seen) == 25
    with pytest.raises(UsageError):
        store.page(Filter(), PageRequest("password"))
    with pytest.raises(UsageError):
        store.page(Filter(), PageRequest("name", limit=100_000))


@pytest.mark.parametrize("text", ["100%", "a_b", "'; DROP TABLE jobs --", "ü"])
def test_text_is_found_as_it_is_written(store: JobStore, text: str) -> None:
    wanted = submit(store, new_job(name=f"x {text} y"))
    submit(store, new_job(name="x 100 a.b y"))
    assert [job.id for job in store.page(Filter(text=text)).rows] == [wanted.id]


def test_changes_are_seen_in_order_and_removals_too(store: JobStore) -> None:
    start = store.revision()
    first = submit(store, new_job())
    second = submit(store, new_job())
    store.cancel(first.id)
    assert [job.id for job in store.changed_since(start)] == [second.id, first.id]
    store.delete(first.id)
    assert [(event.id, event.event) for event in store.events_since(start)] == [
        (first.id, "submit"),
        (second.id, "submit"),
        (first.id, "abandon"),
        (first.id, "removed"),
    ]
    with pytest.raises(LookupFailed):
        store.get(first.id)


def test_a_job_that_nobody_had_is_cancelled_at_once_another_by_its_worker(store: JobStore) -> None:
    fresh = submit(store, new_job())
    assert store.cancel(fresh.id).state is JobState.CANCELLED
    held = submit(store, new_job())
    claims = Claims(store.database, "w1")
    claim = claims.claim(held.id, 1)
    assert claim is not None
    assert store.cancel(held.id, keep_partial=True).state is JobState.CANCELLING
    assert claims.requests([held.id]) == {held.id: ("cancel", True)}
    assert claims.end(claim, JobEvent.CANCELLED) is JobState.CANCELLED
    with pytest.raises(JobStateError):
        store.cancel(held.id)


def test_a_worker_that_was_taken_over_can_write_nothing(store: JobStore) -> None:
    job = submit(store, new_job())
    old, new = Claims(store.database, "old"), Claims(store.database, "new")
    stale = old.claim(job.id, 1)
    assert stale is not None
    old.write_run(stale, "old", 1)
    fresh = new.claim(job.id, 1)
    assert fresh is not None
    for act in (
        lambda: old.write_run(stale, "again", 0),
        lambda: old.end(stale, JobEvent.FINISH),
        lambda: old.check(stale),
    ):
        with pytest.raises(StaleAttempt):
            act()
    old.save(Unsaved(stale, {"phase": "lie"}))
    old.save(Unsaved(stale, log=b"lie"))
    assert new.read_run(fresh) == "old"
    assert store.get(job.id).source_changes == 1
    assert store.get(job.id).progress["phase"] == "queued"
    assert store.read_log(job.id) == (b"", 0)
    assert [attempt.worker_id for attempt in store.attempts(job.id)] == ["old", "new"]


def _counted(store: JobStore) -> int:
    return read_statistics(store.database).downloaded_bytes


def test_bytes_are_counted_as_they_grow_and_the_counter_never_falls(store: JobStore) -> None:
    claims = Claims(store.database, "w1")

    def write(*sizes: tuple[Claim, int | None]) -> int:
        claims.save(*(Unsaved(claim, {} if size is None else {"bytes_downloaded": size}) for claim, size in sizes))
        return _counted(store)

    first, second = (submit(store, new_job(target=f"/exports/{name}")).id for name in ("a", "b"))
    one, two = (claims.claim(job_id, 1) for job_id in (first, second))
    assert one is not None
    assert two is not None
    assert write((one, 2**42)) == 2**42
    assert write((one, 2**42 + 5), (two, 100)) == 2**42 + 105
    assert write((one, 2**42 + 5), (two, 100)) == 2**42 + 105
    assert write((two, 40)) == 2**42 + 105, "it does not fall"
    assert write((two, 60)) == 2**42 + 125, "and goes on from there"
    # Another attempt counts from its own beginning; the one before has no say any more.
    claims.end(two, JobEvent.REQUEUE)
    again = claims.claim(second, 2)
    assert again is not None
    assert write((two, 70)) == 2**42 + 125
    assert write((again, None)) == 2**42 + 125
    assert write((again, 30)) == 2**42 + 155
    store.cancel(first)
    claims.end(one, JobEvent.CANCELLED, progress={"bytes_downloaded": 2**42 + 5})
    store.delete(first)
    assert _counted(store) == 2**42 + 155, "jobs go, what they moved stays"


def test_bytes_of_a_write_that_failed_are_counted_by_the_next_and_once(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(store, new_job())
    claims = Claims(store.database, "w1")
    claim = claims.claim(job.id, 1)
    assert claim is not None

    def fail(*_: object) -> int:
        raise DatabaseError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "count", fail)
        with pytest.raises(DatabaseError):
            claims.save(Unsaved(claim, {"bytes_downloaded": 10}))
    assert store.get(job.id).progress["bytes_downloaded"] == 0
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: claims.save(Unsaved(claim, {"bytes_downloaded": 25})), range(8)))
    assert _counted(store) == 25


def test_those_who_write_at_once_never_wait_for_each_other(store: JobStore) -> None:
    """The reporter writes progress of all jobs while their exports write records and users ask for things."""
    jobs = [submit(store, new_job(name=f"vm {number}")) for number in range(4)]
    claims = Claims(store.database, "w1")
    held = [claim for job in jobs if (claim := claims.claim(job.id, 1)) is not None]
    rounds = range(60)

    def report(order: int) -> None:
        for number in rounds:
            claims.save(*(Unsaved(claim, {"bytes_downloaded": number}) for claim in held[::order]))

    def record(claim: Claim) -> None:
        for number in rounds:
            claims.write_run(claim, "{}", number % 2)

    def ask() -> None:
        for number in rounds:
            store.retry(free.id) if number % 2 else store.cancel(free.id)

    free = submit(store, new_job(name="asked"))
    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(report, 1),
            pool.submit(report, -1),
            *(pool.submit(record, claim) for claim in held),
            pool.submit(ask),
        ]
        for one in done:
            one.result(60)  # raises what any of them raised


def test_an_attempt_that_is_not_the_last_one_is_not_begun(store: JobStore) -> None:
    job = submit(store, new_job())
    claims = Claims(store.database, "w1")
    claims.hand_back(job.id, 1)
    assert claims.claim(job.id, 1) is None
    assert claims.claim(job.id, 2) is not None


def test_a_log_is_read_by_offset_and_does_not_grow_for_ever(store: JobStore) -> None:
    job = submit(store, new_job())
    claims = Claims(store.database, "w1")
    claim = claims.claim(job.id, 1)
    assert claim is not None
    for line in (b"one\n", b"two\n", b"three\n"):
        claims.save(Unsaved(claim, log=line))
    assert store.read_log(job.id, 4) == (b"two\nthree\n", 14)
    assert store.read_log(job.id, 5, limit=2) == (b"wo", 7)
    for _ in range(6):
        claims.save(Unsaved(claim, log=b"x" * (1024 * 1024)))
    whole, end = b"", 0
    while True:
        part, after = store.read_log(job.id, end)
        if after == end:
            break
        whole, end = whole + part, after
    assert whole.startswith(b"one\ntwo\nthree\nx")
    assert b"the log is full" in whole[-100:]
    assert len(whole) <= MAX_LOG_BYTES + 100


def test_the_password_of_a_job_goes_with_its_success(store: JobStore) -> None:
    job = submit(store, new_job(secret=b"sealed"))
    claims = Claims(store.database, "w1")
    claim = claims.claim(job.id, 1)
    assert claim is not None
    assert store.sealed_secret(job.id) == b"sealed"
    claims.end(claim, JobEvent.FINISH)
    assert store.sealed_secret(job.id) is None


def test_many_are_changed_in_one_transaction_and_each_for_itself(store: JobStore) -> None:
    names = [submit(store, new_job(id=f"j{number}")).id for number in range(5)]
    store.cancel(names[1])
    with store.together([*names, "absent", "\x00"]) as within:
        for name in (names[0], names[2], names[3]):
            assert within.cancel(name).state is JobState.CANCELLED
        with pytest.raises(JobStateError):
            within.pause(names[1])
        with pytest.raises(LookupFailed):
            within.cancel("absent")
        within.delete(names[3])
        assert store.get(names[0]).state is JobState.QUEUED, "not before the end"
    assert [store.get(name).state for name in names[:3]] == [JobState.CANCELLED] * 3
    with pytest.raises(LookupFailed):
        store.get(names[3])
    with pytest.raises(AttributeError), store.together([names[4]]) as within:
        within.cancel(names[4]).nothing_of_that_name  # type: ignore[attr-defined] # noqa: B018
    assert store.get(names[4]).state is JobState.QUEUED
