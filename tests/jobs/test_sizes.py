"""Which machines of waiting jobs are looked up, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from hypersdk.errors import SourceError
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.sizes import QueueSizes, Unsized
from hypersdk.jobs.store import JobStore
from hypersdk.units import GiB
from tests.support.jobrecords import new_job, submit


def add(store: JobStore, number: int, **more: Any) -> JobRecord:
    return submit(store, new_job(subject=f"/data/vm/web-{number}", target=f"/srv/{number}", **more))


def test_jobs_of_the_same_server_and_account_are_looked_up_once(store: JobStore) -> None:
    own = {"vm_path": "x", "vcenter_url": "https://vcenter.example.com"}
    running, waiting, paused = add(store, 0), add(store, 1), add(store, 2)
    add(store, 3, site="other.example.com:443")
    add(store, 4, endpoint_id="ep1")
    add(store, 5, definition=own)
    store.pause(paused.id)
    asked: list[list[str]] = []

    def look_up(due: Sequence[Unsized]) -> Mapping[str, int]:
        asked.append([unsized.subject for unsized in due])
        return {unsized.id: GiB for unsized in due if unsized.id != running.id}

    before = store.get(waiting.id)
    sizes = QueueSizes(store.database)
    sizes.find(running, look_up)
    assert asked == [["/data/vm/web-0", "/data/vm/web-1"]]
    now = store.get(waiting.id)
    assert now.progress["expected_bytes"] == GiB
    assert (now.updated_at, now.state) == (before.updated_at, before.state)
    assert now.revision > before.revision, "clients are told"
    add(store, 6)
    sizes.find(running, look_up)
    sizes.find(running, look_up)
    assert asked[1:] == [["/data/vm/web-6"]]


def test_jobs_with_an_account_of_their_own_are_those_of_one_user(store: JobStore) -> None:
    own = {"vm_path": "x", "vcenter_url": "https://vcenter.example.com"}
    running, same, other = (add(store, n, definition=own, owner=owner) for n, owner in enumerate(("ann", "ann", "bob")))
    found: list[str] = []

    def look_up(due: Sequence[Unsized]) -> Mapping[str, int]:
        found.extend(unsized.id for unsized in due)
        return {}

    QueueSizes(store.database).find(running, look_up)
    assert same.id in found
    assert other.id not in found


def test_a_lookup_that_fails_leaves_the_jobs_as_they_are(store: JobStore) -> None:
    job = add(store, 0)

    def look_up(due: Sequence[Unsized]) -> Mapping[str, int]:
        raise SourceError("the server does not answer")

    with pytest.raises(SourceError):
        QueueSizes(store.database).find(job, look_up)
    assert store.get(job.id).progress["expected_bytes"] == 0
