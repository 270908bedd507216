"""The API on a real PostgreSQL: what differs from SQLite are times, JSON, texts that it does not take, and several API
processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from hypersdk.jobs.store import JOB_LIST
from tests.support.apiserver import Api, beating, fill, running_api
from tests.support.eventstream import listening

JOBS = "/api/v1/jobs"


@pytest.fixture
def pg(tmp_path: Path, postgres_url: str) -> Iterator[Api]:
    """An API on a database of its own."""
    with running_api(tmp_path, postgres_url) as found:
        yield found


def test_a_job_from_submit_to_its_end(pg: Api) -> None:
    client = pg.client()
    folder = str(pg.services.service.roots.roots[0].path / "one")
    (job_id,) = client.post("/jobs/submit", json={"vm_path": "/data/vm/a", "output_path": folder}).json()["job_ids"]
    with listening(client) as events:
        events.next("hello")
        claims = pg.claims()
        claim = claims.claim(job_id, 1)
        assert claim is not None
        assert events.next("job")[2]["state"] == "running"
        claims.save(Unsaved(claim, {"percent_complete": 50.0, "bytes_downloaded": 2**43}))
        assert events.next("progress")[2]["progress"]["bytes_downloaded"] == 2**43
        claims.save(Unsaved(claim, log=b"a line\n"))
        assert client.get(f"{JOBS}/{job_id}/logs").json()["text"] == "a line\n"
        claims.end(claim, JobEvent.FAIL, error={"code": "no_space", "message": "full", "cause": "c", "next_step": "n"})
        assert events.next("job")[2]["state"] == "failed"
    assert client.get(f"{JOBS}/{job_id}/explain").json()["code"] == "no_space"
    assert client.post(f"{JOBS}/{job_id}/retry").json()["state"] == "queued"
    assert client.get("/status").json()["total_jobs"] == 1


def test_every_column_sorts_and_filters(pg: Api) -> None:
    client = pg.client()
    jobs = [pg.add_job(name=name, owner=owner) for name, owner in (("b", None), ("C", "u1"), ("a", "u2"))]
    for column in JOB_LIST.columns:
        for sort in (column, f"-{column}"):
            assert client.get(JOBS, params={"sort": sort}).json()["total"] == 3, column
    owners = [job["owner"] for job in client.get(JOBS, params={"sort": "owner"}).json()["jobs"]]
    assert owners == ["u1", "u2", None], "nothing comes last, on both databases"
    query: dict[str, Any] = {
        "state": "queued",
        "name": "B",
        "percent_max": 10,
        "priority_min": 0,
        "created_after": "2020-01-01T00:00:00Z",
        "text": "b",
    }
    assert [job["id"] for job in client.get(JOBS, params=query).json()["jobs"]] == [jobs[0].id]
    revision = client.get(JOBS).json()["revision"]
    pg.add_job()
    done = client.post(f"{JOBS}/bulk", json={"action": "pause", "filter": {}, "revision": revision}).json()
    assert done["succeeded"] == 3


def test_what_this_database_cannot_store_is_an_answer_all_the_same(pg: Api) -> None:
    client = pg.client()
    for path in (f"{JOBS}/%00", "/jobs/%00", "/api/v1/endpoints/%00", f"{JOBS}/%F0%9F%92%A9"):
        assert client.get(path).status_code == 404, path
    for name in ("name", "text", "id", "owner"):
        assert client.get(JOBS, params={name: "\x00"}).status_code == 422
        assert client.get(JOBS, params={name: "ü💩"}).status_code == 200
    assert client.post("/jobs/query", json={"job_ids": ["\x00", "💩"]}).json()["total"] == 0
    assert client.post("/jobs/cancel", json={"job_ids": ["\x00"]}).json()["failed"] == ["\x00"]
    assert client.post(f"{JOBS}/bulk", json={"action": "cancel", "ids": ["💩"]}).json()["failed"] == 1
    for text in ("a\\u0000b", "\\ud800"):
        folder = str(pg.services.service.roots.roots[0].path / "x")
        for field in ("name", "vm_path", "datacenter"):
            body = f'{{"vm_path": "/a", "output_path": "{folder}", "{field}": "{text}"}}'.encode()
            answer = client.post("/jobs/submit", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400), answer.text
            assert answer.status_code == 400 or answer.json()["accepted"] == 0
        body = f'{{"vm_path": "/a", "output_path": "{folder}", "metadata": {{"a": "{text}"}}}}'.encode()
        assert client.post("/jobs/submit", content=body, headers={"content-type": "application/json"}).status_code in (
            200,
            400,
        )


def test_metrics_statistics_readiness_and_workers(pg: Api) -> None:
    pg.add_job()
    with beating(pg.services):
        client = pg.client()
        assert 'hypersdk_jobs{state="queued"} 1.0' in client.get("/metrics").text
        assert client.get("/api/v1/statistics").json()["workers_alive"] == 1
        assert client.get("/api/v1/statistics/history").status_code == 200
        assert client.get("/ready").status_code == 200
        assert client.get("/api/v1/workers").json()["workers"][0]["state"] == "alive"


def test_every_api_process_tells_what_happened_at_another(tmp_path: Path, postgres_url: str) -> None:
    with running_api(tmp_path, postgres_url) as one, listening(one.client()) as events:
        events.next("hello")
        from hypersdk.state.database import Database

        other = Database.open(postgres_url)
        try:
            fill(other, 1, "elsewhere")
        finally:
            other.close()
        assert events.next("job")[2]["id"] == "elsewhere-0"


def test_abbreviations_dry_runs_and_the_jobs_of_workers(pg: Api) -> None:
    client = pg.client()
    one, two = (pg.add_job(id=f"0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a348{digit}").id for digit in (0, 1))
    for prefix, total in (("0B9C", 2), (two, 1), ("%", 0), ("9c3f", 0)):
        assert client.get(JOBS, params={"id_prefix": prefix}).json()["total"] == total
    with beating(pg.services):
        assert pg.claims().claim(one, 1) is not None
        for sort in ("jobs", "-jobs"):
            (worker,) = client.get("/api/v1/workers", params={"sort": sort, "jobs_min": 1}).json()["workers"]
            assert worker["jobs"] == 1
    body: dict[str, Any] = {"action": "pause", "filter": {"state": ["queued"]}, "dry_run": True}
    found = client.post(f"{JOBS}/bulk", json=body).json()
    assert ([result["id"] for result in found["results"]], found["skipped"]) == ([two], 0)
