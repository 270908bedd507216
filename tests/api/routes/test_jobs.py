"""The native routes of jobs."""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobEvent
from hypersdk.state.tables import jobs
from tests.support.apiserver import Api, beating, fill

JOBS = "/api/v1/jobs"


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["detail"]
    assert body["next_step"]
    return body


def _ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def _run(api: Api, job: JobRecord, event: JobEvent | None = None, **more: Any) -> None:
    claims = api.claims()
    claim = claims.claim(job.id, job.attempt)
    assert claim is not None
    if event is not None:
        claims.end(claim, event, **more)


def _finish(api: Api, job: JobRecord, files: dict[str, bytes]) -> Path:
    """A job that has ended, with its files in its folder."""
    folder = Path(job.target)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    known = [{"name": name, "size_bytes": len(data), "sha256": "ab" * 32} for name, data in files.items()]
    _run(api, job, JobEvent.FINISH, result={"success": True, "files": list(files), "artifacts": known})
    return folder


# --- create ----------------------------------------------------------------------------------------------------------


def test_create_takes_a_job_file_and_says_what_became_of_each(api: Api) -> None:
    folder = str(api.services.service.roots.roots[0].path / "x")
    good = {"vm_path": "/data/vm/a", "output_path": folder, "thin": False}
    answer = api.client("operator").post(
        f"{JOBS}?priority=5", json=[good, {"vm_path": "/b", "output_path": "/etc"}, {"x": 1}]
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert [job["state"] for job in body["accepted"]] == ["queued"]
    assert body["accepted"][0]["priority"] == 5
    assert body["accepted"][0]["owner"]
    assert [(one["number"], one["error"]["code"]) for one in body["rejected"]] == [
        (2, "outside_export_roots"),
        (3, "job_unknown_field"),
    ]
    assert all(one["error"]["next_step"] for one in body["rejected"])
    assert not any("pass --" in one["error"]["next_step"] for one in body["rejected"]), "a job has no flags"
    assert body["warnings"] == ["thin: false has no effect: holes stay holes in every format"]


def test_create_with_nothing_accepted_is_no_creation(api: Api) -> None:
    answer = api.client().post(JOBS, json={"vm_path": "/a"})
    assert answer.status_code == 200
    assert answer.json()["accepted"] == []
    _problem(api.client().post(JOBS, content=b"{", headers={"content-type": "application/json"}), 400, "job_unreadable")
    _problem(api.client().post(JOBS, content=b"x", headers={"content-type": "image/png"}), 415, "body_kind")
    _problem(api.client("viewer").post(JOBS, json={}), 403, "forbidden")
    _problem(api.client(None).post(JOBS, json={}), 401, "unauthenticated")


# --- list ------------------------------------------------------------------------------------------------------------


def test_every_column_filters(api: Api) -> None:
    client = api.client("viewer")
    one = api.add_job(
        name="Alpha web", format="raw", site="esx1.example.com:443", owner="u1", priority=7, endpoint_id="e1"
    )
    two = api.add_job(name="beta 100%_done", format="ova")
    _run(api, two)
    two = api.services.jobs.get(two.id)
    at = "2020-01-01T00:00:00Z"
    for query, found in (
        ({"id": one.id}, [one.id]),
        ({"id": [one.id, two.id]}, [two.id, one.id]),
        ({"state": "queued"}, [one.id]),
        ({"state": ["running", "paused"]}, [two.id]),
        ({"format": "raw"}, [one.id]),
        ({"site": "esx1.example.com:443"}, [one.id]),
        ({"owner": "u1"}, [one.id]),
        ({"endpoint_id": "e1"}, [one.id]),
        ({"worker_id": "worker-1"}, [two.id]),
        ({"waiting": "no_worker"}, []),
        ({"name": "ALPHA"}, [one.id]),
        ({"name": "100%_d"}, [two.id]),
        ({"name": "0__d"}, []),
        ({"vm_path": "/DATA/vm/web1"}, [one.id]),
        ({"output_path": "job2"}, [two.id]),
        ({"text": "alpha"}, [one.id]),
        ({"priority_min": 1}, [one.id]),
        ({"priority_max": 6}, [two.id]),
        ({"priority_min": 7, "priority_max": 7}, [one.id]),
        ({"attempt_min": 2}, []),
        ({"number_max": one.number}, [one.id]),
        ({"percent_min": 1}, []),
        ({"percent_max": 0}, [two.id, one.id]),
        ({"created_after": at}, [two.id, one.id]),
        ({"created_before": at}, []),
        ({"started_after": at}, [two.id]),
        ({"completed_after": at}, []),
        ({"updated_before": "2020-01-01T01:00:00+01:00"}, []),
    ):
        assert _ids(client.get(JOBS, params=query)) == found, query


def test_every_column_sorts_and_unknown_ones_are_named(api: Api) -> None:
    from hypersdk.jobs.store import JOB_LIST

    client = api.client()
    jobs = [api.add_job(name=name) for name in ("b", "c", "a")]
    for column in JOB_LIST.columns:
        for sort in (column, f"-{column}"):
            assert sorted(_ids(client.get(JOBS, params={"sort": sort}))) == sorted(job.id for job in jobs)
    assert [job["name"] for job in client.get(JOBS, params={"sort": "name"}).json()["jobs"]] == ["a", "b", "c"]
    assert "sort" in _problem(client.get(JOBS, params={"sort": "colour"}), 422, "request_invalid")["detail"]
    assert "colour" in _problem(client.get(JOBS, params={"colour": "red"}), 422, "request_invalid")["detail"]


def test_pages_by_cursor_and_by_offset_with_total_and_facets(api: Api) -> None:
    client = api.client()
    jobs = [api.add_job() for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        query: dict[str, Any] = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        body = client.get(JOBS, params=query).json()
        assert body["total"] == 7
        assert body["facets"]["state"] == {"queued": 7}
        seen += [job["id"] for job in body["jobs"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
        api.add_job(name="came in between")
        api.services.jobs.cancel(api.services.jobs.page(_named("came in between")).rows[0].id)
        api.services.jobs.delete(api.services.jobs.page(_named("came in between")).rows[0].id)
    assert seen == [job.id for job in reversed(jobs)]
    assert _ids(client.get(JOBS, params={"offset": 5, "limit": 3, "sort": "number"})) == [jobs[5].id, jobs[6].id]
    assert _ids(client.get(JOBS, params={"offset": 50})) == []
    _problem(client.get(JOBS, params={"cursor": "1", "offset": 1}), 400, "list_query")
    _problem(client.get(JOBS, params={"cursor": "1", "sort": "name"}), 400, "list_query")


def _named(text: str) -> Any:
    from hypersdk.jobs.store import Filter

    return Filter(text=text)


def test_long_lists_are_compressed_on_the_wire(api: Api) -> None:
    for _ in range(20):
        api.add_job()
    answer = api.client().get(JOBS, headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.json()["jobs"]) == 20


# --- one job ---------------------------------------------------------------------------------------------------------


def test_cancel_pause_resume_retry_delete(api: Api) -> None:
    client = api.client("operator")
    job = api.add_job()
    for action, state in (
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "queued"),
        ("cancel", "cancelled"),
        ("retry", "queued"),
        ("cancel", "cancelled"),
    ):
        answer = client.post(f"{JOBS}/{job.id}/{action}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == state
    _problem(client.post(f"{JOBS}/{job.id}/pause"), 409, "job_state")
    assert client.delete(f"{JOBS}/{job.id}").status_code == 204
    _problem(client.get(f"{JOBS}/{job.id}"), 404, "job_unknown")
    _problem(client.delete(f"{JOBS}/{api.add_job().id}"), 409, "job_state")
    for action in ("cancel", "pause", "resume", "retry"):
        _problem(client.post(f"{JOBS}/none/{action}"), 404, "job_unknown")
        _problem(api.client("viewer").post(f"{JOBS}/none/{action}"), 403, "forbidden")


def test_permissions_say_what_and_why_not(api: Api) -> None:
    job = api.add_job()
    allowed = api.client("operator").get(f"{JOBS}/{job.id}").json()["permissions"]
    assert {name for name, one in allowed.items() if one["allowed"]} == {"cancel", "pause"}
    assert allowed["resume"] == {
        "allowed": False,
        "code": "job_state",
        "reason": "a job that is queued cannot be resumed",
    }
    viewer = api.client("viewer").get(f"{JOBS}/{job.id}/permissions").json()
    assert viewer["cancel"] == {
        "allowed": False,
        "code": "forbidden",
        "reason": "needs the role operator; you have viewer",
    }
    for action, one in allowed.items():  # what it says is what happens
        if action in ("cancel", "pause", "resume", "retry"):
            fresh = api.add_job()
            assert (api.client().post(f"{JOBS}/{fresh.id}/{action}").status_code == 200) is one["allowed"], action


def test_progress_attempts_and_explain(api: Api) -> None:
    client = api.client("viewer")
    job = api.add_job()
    assert client.get(f"{JOBS}/{job.id}/progress").json()["percent_complete"] == 0
    assert client.get(f"{JOBS}/{job.id}/explain").json()["code"] == "no_worker"
    with beating(api.services):
        assert client.get(f"{JOBS}/{job.id}/explain").json()["code"] == "queued"
    failure = {"code": "no_space", "message": "/x is full", "cause": "It is full.", "next_step": "Free space."}
    _run(api, job, JobEvent.FAIL, error=failure)
    (attempt,) = client.get(f"{JOBS}/{job.id}/attempts").json()["attempts"]
    assert (attempt["outcome"], attempt["worker_id"], attempt["error"]["code"]) == ("fail", "worker-1", "no_space")
    found = client.get(f"{JOBS}/{job.id}/explain").json()
    assert (found["code"], found["next_step"]) == ("no_space", "Free space.")
    assert len(found["history"]) == 1


# --- bulk ------------------------------------------------------------------------------------------------------------


def test_bulk_by_ids_answers_for_each(api: Api) -> None:
    one, two = api.add_job(), api.add_job()
    api.services.jobs.cancel(two.id)
    body = {"action": "cancel", "ids": [one.id, two.id, "none", one.id], "except": []}
    found = api.client("operator").post(f"{JOBS}/bulk", json=body).json()
    assert (found["succeeded"], found["failed"], found["remaining"]) == (1, 2, 0)
    assert {one["id"]: one["error"] and one["error"]["code"] for one in found["results"]} == {
        one.id: None,
        two.id: "job_state",
        "none": "job_unknown",
    }


def test_bulk_by_filter_touches_what_the_caller_saw(api: Api) -> None:
    client = api.client("operator")
    seen = [api.add_job(format="raw"), api.add_job(format="raw"), api.add_job(format="ova")]
    revision = client.get(JOBS, params={"format": "raw"}).json()["revision"]
    later = api.add_job(format="raw")
    api.services.jobs.pause(seen[0].id)  # changed since: still one that was seen
    body = {"action": "cancel", "filter": {"format": ["raw"]}, "except": [seen[1].id], "revision": revision}
    found = client.post(f"{JOBS}/bulk", json=body).json()
    assert [one["id"] for one in found["results"]] == [seen[0].id]
    states = {job.id: job.state.value for job in api.services.jobs.page(_named("")).rows}
    assert states == {seen[0].id: "cancelled", seen[1].id: "queued", seen[2].id: "queued", later.id: "queued"}


def test_bulk_by_filter_reaches_all_by_repeating(api: Api) -> None:
    fill(api.services.database, 2500, "many")
    client = api.client("operator")
    revision = client.get(JOBS).json()["revision"]
    body = {"action": "cancel", "filter": {"text": "many"}, "revision": revision}
    done = [client.post(f"{JOBS}/bulk", json=body).json() for _ in range(3)]
    assert [(one["succeeded"], one["failed"], one["remaining"], one["skipped"]) for one in done] == [
        (1000, 0, 1500, 0),
        (1000, 0, 500, 1000),
        (500, 0, 0, 2000),
    ]
    assert client.get(JOBS).json()["facets"]["state"] == {"cancelled": 2500}


def test_bulk_by_filter_passes_by_what_would_refuse(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.api.routes.jobs.MAX_BULK", 1)
    client = api.client("operator")
    fine, left = api.add_job(), api.add_job()
    for job, changes in ((fine, 0), (left, 1)):
        _run(api, job, JobEvent.FAIL, error={"code": "no_space", "message": "m", "cause": "c", "next_step": "n"})
        with api.services.database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(source_changes=changes))
    revision = client.get(JOBS).json()["revision"]

    def bulk(action: str, **which: Any) -> tuple[list[str], int]:
        found = client.post(f"{JOBS}/bulk", json={"action": action, "filter": which, "revision": revision}).json()
        assert (found["failed"], found["remaining"]) == (0, 0)
        return [one["id"] for one in found["results"]], found["skipped"]

    assert bulk("resume") == ([], 2)
    assert bulk("pause", state=["failed"]) == ([], 2)
    assert bulk("delete", state=["failed", "queued"]) == ([fine.id], 1)
    assert bulk("cancel") == ([left.id], 0)


def test_a_dry_run_selects_in_pages_and_changes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.api.routes.jobs.MAX_BULK", 2)
    client = api.client("operator")
    seen = [api.add_job().id for _ in range(5)]
    api.services.jobs.pause(seen[0])
    body: dict[str, Any] = {"action": "pause", "filter": {}, "dry_run": True}
    first = client.post(f"{JOBS}/bulk", json=body).json()
    assert [(one["id"], one["ok"]) for one in first["results"]] == [(seen[1], True), (seen[2], True)]
    assert (first["succeeded"], first["remaining"], first["skipped"]) == (2, 2, 1)
    later = api.add_job().id
    api.services.jobs.cancel(seen[3])
    body |= {"revision": first["revision"], "cursor": first["next_cursor"]}
    last = client.post(f"{JOBS}/bulk", json=body).json()
    assert [one["id"] for one in last["results"]] == [seen[4]]
    assert (last["remaining"], last["skipped"], last["next_cursor"]) == (0, 1, None)
    queued = client.get(JOBS, params={"state": "queued"}).json()["jobs"]
    assert {one["id"] for one in queued} == {seen[1], seen[2], seen[4], later}
    assert api.services.access.audit.page().rows == ()


def test_the_audit_trail_says_which_jobs_and_how_many(api: Api) -> None:
    client = api.client("operator")
    folder = str(api.services.service.roots.roots[0].path / "x")
    good, bad = {"vm_path": "/data/vm/a", "output_path": folder}, {"x": 1}
    native = client.post(JOBS, json=[good, bad]).json()["accepted"][0]["id"]
    (legacy,) = client.post("/jobs/submit", json={**good, "name": "b"}).json()["job_ids"]
    client.post(JOBS, json=[bad])
    client.post(f"{JOBS}/bulk", json={"action": "pause", "ids": [native, legacy]})
    client.post("/jobs/cancel", json={"job_ids": [native, "a\u0000b", "none"]})
    many = [f"none-{number}" for number in range(150)]
    client.post(f"{JOBS}/bulk", json={"action": "delete", "ids": many})
    found = [(one.action, one.outcome, one.detail) for one in reversed(api.services.access.audit.page().rows)]
    assert found == [
        (f"POST {JOBS}", "partial", {"action": "submit", "accepted": 1, "rejected": 1, "ids": [native]}),
        ("POST /jobs/submit", "ok", {"action": "submit", "accepted": 1, "rejected": 0, "ids": [legacy]}),
        (f"POST {JOBS}", "partial", {"action": "submit", "accepted": 0, "rejected": 1}),
        (f"POST {JOBS}/bulk", "ok", {"action": "pause", "succeeded": 2, "failed": 0, "ids": [native, legacy]}),
        (
            "POST /jobs/cancel",
            "partial",
            {"action": "cancel", "succeeded": 1, "failed": 2, "ids": [native, "none"], "ids_left_out": 1},
        ),
        (
            f"POST {JOBS}/bulk",
            "partial",
            {"action": "delete", "succeeded": 0, "failed": 150, "ids": many[:100], "ids_left_out": 50},
        ),
    ]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"action": "cancel"}, 400, "bulk_query"),
        ({"action": "cancel", "ids": [], "filter": {}, "revision": 1}, 400, "bulk_query"),
        ({"action": "cancel", "filter": {}}, 400, "bulk_query"),
        ({"action": "explode", "ids": []}, 422, "request_invalid"),
        ({"action": "cancel", "filter": {"colour": "red"}, "revision": 1}, 422, "request_invalid"),
        ({"action": "cancel", "ids": ["a"], "dry_run": True}, 400, "bulk_query"),
        ({"action": "cancel", "ids": ["a"], "cursor": "1"}, 400, "bulk_query"),
        ({"action": "cancel", "filter": {}, "dry_run": True, "cursor": "x"}, 422, "request_invalid"),
    ],
)
def test_bulk_refuses_what_is_not_clear(api: Api, body: dict[str, Any], status: int, code: str) -> None:
    _problem(api.client().post(f"{JOBS}/bulk", json=body), status, code)


# --- logs ------------------------------------------------------------------------------------------------------------


def test_logs_by_offset_end_on_whole_characters(api: Api) -> None:
    client = api.client("viewer")
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    data = "grüße\n".encode()
    claims.save(Unsaved(claim, log=data[:3]))  # ends within a character
    first = client.get(f"{JOBS}/{job.id}/logs").json()
    assert first == {"text": "gr", "start": 0, "end": 2, "ended": False}
    claims.save(Unsaved(claim, log=data[3:]))
    rest = client.get(f"{JOBS}/{job.id}/logs", params={"after": first["end"]}).json()
    assert rest == {"text": "üße\n", "start": 2, "end": len(data), "ended": False}
    claims.end(claim, JobEvent.FAIL, error={"code": "no_space", "message": "m", "cause": "c", "next_step": "n"})
    began = time.monotonic()
    last = client.get(f"{JOBS}/{job.id}/logs", params={"after": rest["end"], "wait": 20}).json()
    assert last == {"text": "", "start": len(data), "end": len(data), "ended": True}
    assert time.monotonic() - began < 15
    _problem(client.get(f"{JOBS}/none/logs"), 404, "job_unknown")
    _problem(client.get(f"{JOBS}/{job.id}/logs", params={"wait": 1000}), 422, "request_invalid")


def test_a_log_that_is_waited_for_comes_when_it_is_written(api: Api) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    timer = threading.Timer(0.5, claims.save, (Unsaved(claim, log=b"here\n"),))
    timer.start()
    try:
        found = api.client().get(f"{JOBS}/{job.id}/logs", params={"wait": 20}).json()
    finally:
        timer.join()
    assert found["text"] == "here\n"


# --- artifacts -------------------------------------------------------------------------------------------------------


def test_files_of_an_export_in_whole_and_in_ranges(api: Api) -> None:
    job = api.add_job()
    data = bytes(range(256)) * 4096
    _finish(api, job, {"web disk ü.qcow2": data, "artifact-manifest.json": b"{}"})
    listed = api.client("viewer").get(f"{JOBS}/{job.id}/artifacts").json()
    client = api.client("operator")
    assert [one["name"] for one in listed["files"]] == ["web disk ü.qcow2", "artifact-manifest.json"]
    path = listed["files"][0]["href"]
    whole = client.get(path)
    assert whole.status_code == 200
    assert whole.content == data
    assert whole.headers["accept-ranges"] == "bytes"
    for header, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, len(data)),
        ("bytes=-5", len(data) - 5, len(data)),
        ("bytes=5-99999999999", 5, len(data)),
    ):
        part = client.get(path, headers={"range": header})
        assert part.status_code == 206
        assert part.content == data[start:end]
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert client.get(path, headers={"range": "bytes=5-1"}).status_code == 200
    assert client.get(path, headers={"range": "lines=1-2"}).status_code == 200
    assert client.get(path, headers={"range": "bytes=0-1", "if-range": '"old"'}).status_code == 200
    assert client.get(path, headers={"range": "bytes=0-1", "if-range": whole.headers["etag"]}).status_code == 206
    beyond = client.get(path, headers={"range": f"bytes={len(data)}-"})
    _problem(beyond, 416, "artifact_range")
    assert beyond.headers["content-range"] == f"bytes */{len(data)}"


def test_every_file_is_where_its_address_says(api: Api) -> None:
    names = ["100% test-disk1.qcow2", "Büro – x#?.raw", "a%2Fb;c=d&e+f.vmdk", "%41.raw", "web01-disk1.qcow2"]
    job = api.add_job()
    _finish(api, job, {name: name.encode() for name in names})
    listed = api.client("viewer").get(f"{JOBS}/{job.id}/artifacts").json()["files"]
    assert [one["name"] for one in listed][:-1] == names
    for one in listed[:-1]:
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", one["href"]), one
        request = urllib.request.Request(
            api.url + one["href"], headers={"Authorization": f"Bearer {api.tokens['operator']}"}
        )
        with urllib.request.urlopen(request) as plain:  # takes an address as it is, where others mend it
            assert plain.read() == one["name"].encode()
        assert api.client("operator").get(one["href"]).content == one["name"].encode()


def test_a_viewer_downloads_nothing(api: Api) -> None:
    job = api.add_job()
    _finish(api, job, {"disk.raw": b"data"})
    client = api.client("viewer")
    assert "disk.raw" in client.get(f"{JOBS}/{job.id}/artifacts").text
    _problem(client.get(f"{JOBS}/{job.id}/artifacts/disk.raw"), 403, "forbidden")
    said = client.get(f"{JOBS}/{job.id}/permissions").json()["download"]
    assert said == {"allowed": False, "code": "forbidden", "reason": "needs the role operator; you have viewer"}
    assert api.client("operator").get(f"{JOBS}/{job.id}/permissions").json()["download"]["allowed"]


def test_every_download_is_a_line_in_the_audit_trail(api: Api) -> None:
    job = api.add_job()
    _finish(api, job, {"disk.raw": b"0123456789"})
    path = f"{JOBS}/{job.id}/artifacts/disk.raw"
    client = api.client("operator")
    assert client.get(path).content == b"0123456789"
    assert client.get(path, headers={"range": "bytes=2-4"}).status_code == 206
    assert client.get(path, headers={"range": "bytes=10-"}).status_code == 416
    assert api.client("viewer").get(path).status_code == 403
    assert client.get(f"{JOBS}/{job.id}/artifacts").status_code == 200
    found = api.services.access.audit.page().rows
    assert {(one.action, one.object) for one in found} == {(f"GET {JOBS}/{{id}}/artifacts/{{name}}", path)}
    assert [(one.actor, one.outcome, one.detail) for one in found] == [
        ("test-viewer", "403", {}),
        ("test-operator", "416", {}),
        ("test-operator", "ok", {"start": 2, "end": 5, "size_bytes": 10}),
        ("test-operator", "ok", {"start": 0, "end": 10, "size_bytes": 10}),
    ]


def test_head_says_how_long_a_file_is_and_reads_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job = api.add_job()
    disk = _finish(api, job, {"disk.raw": b"0123456789"}) / "disk.raw"
    path, client = f"{JOBS}/{job.id}/artifacts/disk.raw", api.client("operator")
    got = client.get(path)
    monkeypatch.setattr("hypersdk.api.artifacts.os.pread", lambda *_: pytest.fail("read"))
    for headers in ({}, {"range": "bytes=2-4"}, {"range": "bytes=10-"}):
        head = client.head(path, headers=headers)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "accept-ranges", "etag", "content-type", "content-disposition"):
            assert head.headers[name] == got.headers[name], name
    assert client.head(f"{path}x").status_code == 404
    assert api.client("viewer").head(path).status_code == 403
    assert disk not in opened()
    lines = api.services.access.audit.page().rows
    assert [(one.action.split()[0], one.outcome, one.detail) for one in lines] == [
        ("HEAD", "403", {}),
        ("HEAD", "404", {}),
        *[("HEAD", "ok", {"size_bytes": 10})] * 3,
        ("GET", "ok", {"start": 0, "end": 10, "size_bytes": 10}),
    ]


def opened() -> list[Path]:
    """What this process has open."""
    found: list[Path] = []
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile, by another thread
            found.append(one.readlink())
    return found


def test_a_range_that_misses_leaves_no_file_open(api: Api) -> None:
    job = api.add_job()
    disk = _finish(api, job, {"disk.raw": b"data"}) / "disk.raw"
    path = f"{JOBS}/{job.id}/artifacts/disk.raw"
    assert api.client("operator").get(path, headers={"range": "bytes=10-"}).status_code == 416
    assert disk not in opened()


def test_a_download_follows_no_link_and_leaves_no_root(api: Api, tmp_path: Path) -> None:
    client = api.client()
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    job = api.add_job()
    folder = _finish(api, job, {"disk.raw": b"data", "fifo": b"", "folder": b"", "gone": b""})
    path = f"{JOBS}/{job.id}/artifacts"
    for name in ("../secret", "..%2f..%2fsecret", "%2e%2e", "%00", "other.raw", "disk.raw%00", "%2fetc%2fpasswd"):
        answer = client.get(f"{path}/{name}")
        assert answer.status_code == 404, name
        assert "hidden" not in answer.text
    (folder / "disk.raw").unlink()
    (folder / "disk.raw").symlink_to(secret)
    (folder / "fifo").unlink()
    os.mkfifo(folder / "fifo")
    (folder / "folder").unlink()
    (folder / "folder").mkdir()
    (folder / "gone").unlink()
    for name in ("disk.raw", "fifo", "folder", "gone"):
        _problem(client.get(f"{path}/{name}"), 404, "artifact_unknown")
    moved = folder.rename(folder.with_name("moved"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "gone").write_text("hidden")
    folder.symlink_to(tmp_path / "elsewhere")
    _problem(client.get(f"{path}/gone"), 404, "artifact_unknown")
    assert moved.exists()


def test_files_under_another_root_are_not_reachable(api: Api) -> None:
    job = api.add_job(root_id="f" * 32)
    _finish(api, job, {"disk.raw": b"data"})
    _problem(api.client().get(f"{JOBS}/{job.id}/artifacts/disk.raw"), 409, "artifact_elsewhere")


def test_a_job_that_has_not_ended_has_no_files(api: Api) -> None:
    job = api.add_job()
    assert api.client().get(f"{JOBS}/{job.id}/artifacts").json()["files"] == []
    _problem(api.client().get(f"{JOBS}/{job.id}/artifacts/artifact-manifest.json"), 404, "artifact_unknown")
