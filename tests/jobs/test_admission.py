"""Limits hold over all export roots, and two exports never work in one folder or on one machine."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hypersdk.jobs.admission import Admission
from hypersdk.jobs.claims import Claim, Claims
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import JobEvent, JobState
from hypersdk.jobs.store import JobStore
from hypersdk.state.tables import jobs
from tests.support import jobrecords
from tests.support.jobrecords import new_job

ROOTS = ("r1", "r2", "r3")


def submit(store: JobStore, name: str, **more: object) -> str:
    """A job with a folder and a machine of its own, where nothing else is said."""
    given = {"id": name, "target": f"/exports/{name}", "subject": f"/dc/vm/{name}", "root_id": "r1", **more}
    return jobrecords.submit(store, new_job(**given)).id


def admission(store: JobStore, worker: str = "w1", roots: tuple[str, ...] = ROOTS, **limits: int) -> Admission:
    settings = DaemonSettings(**limits)  # type: ignore[arg-type] # whole numbers, all of them
    return Admission(store.database, settings, worker, roots)


def take(store: JobStore, by: Admission) -> list[str]:
    """Hands over what may begin, as the dispatcher does."""
    with store.database.write() as connection:
        taken = by.take(connection)
        for one in taken:
            connection.execute(sa.update(jobs).where(jobs.c.id == one.id).values(enqueued=one.attempt))
    return [one.id for one in taken]


def begin(store: JobStore, job_id: str, worker: str = "w1") -> Claim:
    claim = Claims(store.database, worker).claim(job_id, store.get(job_id).attempt)
    assert claim is not None
    return claim


def test_a_worker_takes_no_more_than_it_may_over_all_its_roots(store: JobStore) -> None:
    names = [submit(store, f"j{number}", root_id=ROOTS[number % 3]) for number in range(9)]
    mine = admission(store, jobs_per_worker=2)
    assert mine.is_due()
    assert take(store, mine) == names[:2]
    assert take(store, mine) == [], "what waits in the engine counts"
    held = [begin(store, name) for name in names[:2]]
    assert take(store, mine) == []
    Claims(store.database, "w1").end(held[0], JobEvent.FINISH)
    assert take(store, mine) == names[2:3]
    assert take(store, admission(store, "w2", jobs_per_worker=2)) == names[3:4], (
        "what waits for anybody counts for another, too"
    )


def test_limits_of_all_workers_and_of_a_site_hold_over_roots(store: JobStore) -> None:
    names = [submit(store, f"j{number}", root_id=ROOTS[number % 3], site=f"vc{number // 4}:443") for number in range(8)]
    assert take(store, admission(store, max_jobs=1)) == names[:1]
    begin(store, names[0], "other")
    assert take(store, admission(store, max_jobs=1)) == []
    assert take(store, admission(store, jobs_per_worker=8, jobs_per_site=2)) == [names[1], *names[4:6]]
    assert take(store, admission(store, jobs_per_worker=8, jobs_per_site=2)) == []


def test_a_job_without_a_site_burdens_none(store: JobStore) -> None:
    """Imports ask no vCenter."""
    names = [submit(store, f"j{number}", site="") for number in range(4)]
    assert take(store, admission(store, jobs_per_worker=3, jobs_per_site=1)) == names[:3]
    assert take(store, admission(store, jobs_per_worker=8, jobs_per_site=1)) == names[3:]


def test_order_is_by_priority_and_submit_and_only_roots_that_are_seen(store: JobStore) -> None:
    submit(store, "low", priority=-1)
    first, second = submit(store, "first"), submit(store, "second")
    high = submit(store, "high", priority=5)
    submit(store, "elsewhere", root_id="other", priority=9)
    assert take(store, admission(store, jobs_per_worker=3)) == [high, first, second]


@pytest.mark.parametrize(
    ("shared", "reason"),
    [({"target": "/exports/one/."}, "folder_busy"), ({"subject": "/dc/vm/one"}, "machine_exported")],
)
def test_what_cannot_run_side_by_side_waits_and_says_so(store: JobStore, shared: dict[str, str], reason: str) -> None:
    one, other, free = submit(store, "one"), submit(store, "other", **shared), submit(store, "free")
    mine = admission(store)
    assert take(store, mine) == [one, free]
    assert store.get(other).waiting == reason
    revision = store.revision()
    claim = begin(store, one)
    assert take(store, mine) == []
    assert store.get(other).waiting == reason
    assert store.get(other).revision < revision + 1, "it is told once"
    Claims(store.database, "w1").end(
        claim, JobEvent.FAIL, error={"code": "x", "message": "m", "cause": "c", "next_step": "n"}
    )
    assert take(store, mine) == [other]
    assert begin(store, other).job.waiting is None


@pytest.mark.parametrize("shared", [{"target": "/exports/all"}, {"subject": "/dc/vm/all"}])
def test_many_that_wait_do_not_hide_one_that_may_begin(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, shared: dict[str, str]
) -> None:
    monkeypatch.setattr("hypersdk.jobs.admission.PAGE", 4)
    first = submit(store, "first", **shared)
    many = [submit(store, f"waits{number}", **shared) for number in range(30)]
    free = submit(store, "free")
    low = submit(store, "low", priority=-1)
    assert take(store, admission(store, jobs_per_worker=3)) == [first, free, low]
    begin(store, first)
    with store.database.write() as connection:
        connection.execute(sa.delete(jobs).where(jobs.c.id == first))
    assert take(store, admission(store, jobs_per_worker=4)) == many[:1]


def test_the_same_folder_below_another_root_is_another_folder(store: JobStore) -> None:
    names = [submit(store, name, target="/exports/same", root_id=root) for name, root in (("a", "r1"), ("b", "r2"))]
    assert take(store, admission(store)) == names


def test_a_claim_sees_to_it_once_more(store: JobStore) -> None:
    """Attempts of an earlier release, or of a worker whose limits were changed, may be in the engine already."""
    one, rival, third = submit(store, "one"), submit(store, "rival", target="/exports/one"), submit(store, "third")
    begin(store, one)
    claims = Claims(store.database, "w1", most=1)
    for name in (rival, third):
        assert claims.claim(name, 1) is None
        now = store.get(name)
        assert (now.state, now.attempt, now.worker_id) == (JobState.QUEUED, 2, None)
    assert Claims(store.database, "w2").claim(rival, 2) is None, "whoever takes it: the folder is taken"
    assert Claims(store.database, "w2").claim(third, 2) is not None


def test_what_is_undone_waits_for_the_folder_too_and_for_no_place(store: JobStore) -> None:
    left = submit(store, "left")
    claims = Claims(store.database, "w1", most=1)
    claim = begin(store, left)
    claims.end(claim, JobEvent.FAIL, error={"code": "x", "message": "m", "cause": "c", "next_step": "n"})
    with store.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == left).values(source_changes=1))
    store.cancel(left)
    rival = begin(store, submit(store, "rival", target="/exports/left"))
    attempt = store.get(left).attempt
    assert claims.claim(left, attempt, free=True) is None
    assert store.get(left).attempt == attempt
    claims.end(rival, JobEvent.FINISH)
    begin(store, submit(store, "full"))
    assert claims.claim(left, attempt, free=True) is not None
