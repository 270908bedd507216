"""The six legacy routes, as programs have used them for long."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from hypersdk.api.examples import JOB_FILE_YAML
from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from hypersdk.model import DiskProgress, ExportProgress, job_object
from hypersdk.units import GiB
from tests.support.apiserver import Api, fill, running_api

PROGRESS = {
    "phase": "queued",
    "current_file": "",
    "current_step": "",
    "files_downloaded": 0,
    "total_files": 0,
    "bytes_downloaded": 0,
    "bytes_transferred": 0,
    "total_bytes": 0,
    "percent_complete": 0.0,
    "estimated_remaining": 0,
    "export_method": "",
}


def _job(api: Api, name: str = "one", **more: Any) -> dict[str, Any]:
    folder = api.services.service.roots.roots[0].path / name
    return {"name": name, "vm_path": f"/data/vm/{name}", "output_path": str(folder), **more}


def _moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def _is_legacy_error(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error", "code", "timestamp"}
    assert body["code"] == code
    _moment(body["timestamp"])


def test_health_is_open_and_needs_nothing(api: Api) -> None:
    answer = api.client(None).get("/health")
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "timestamp"}
    assert answer.json()["status"] == "healthy"
    _moment(answer.json()["timestamp"])


def test_status_counts_jobs_and_prints_the_uptime_as_go_does(api: Api) -> None:
    api.add_job()
    running = api.add_job()
    api.claims().claim(running.id, 1)
    body = api.client("viewer").get("/status").json()
    assert re.fullmatch(r"(\d+h)?(\d+m)?[\d.]+m?s", body.pop("uptime"))
    _moment(body.pop("timestamp"))
    assert body.pop("version")
    assert body == {"total_jobs": 2, "running_jobs": 1, "completed_jobs": 0, "failed_jobs": 0, "cancelled_jobs": 0}


def test_one_definition_a_batch_and_a_bare_array(api: Api) -> None:
    client = api.client("operator")
    for number, body in enumerate([_job(api, "a"), {"jobs": [_job(api, "b"), _job(api, "c")]}, [_job(api, "d")]]):
        answer = client.post("/jobs/submit", json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert set(found) == {"job_ids", "accepted", "rejected", "timestamp"}
        assert (found["accepted"], found["rejected"]) == (2 if number == 1 else 1, 0)
        assert len(found["job_ids"]) == found["accepted"]


@pytest.mark.parametrize(
    "kind", ["application/yaml", "text/yaml", None, "application/x-www-form-urlencoded", "text/plain"]
)
def test_yaml_by_its_type_or_found_out(api: Api, kind: str | None) -> None:
    text = JOB_FILE_YAML.replace("/tmp/export-test-vm", str(api.services.service.roots.roots[0].path / "yaml"))
    headers = {} if kind is None else {"content-type": kind}
    answer = api.client().post("/jobs/submit", content=text.encode(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == 1


def test_the_job_file_of_the_documentation_works_as_it_is(tmp_path: Any) -> None:
    with running_api(tmp_path, export_roots=(Path("/tmp"),)) as api:
        for content, kind in ((JOB_FILE_YAML.encode(), "application/yaml"), (JOB_FILE_YAML.encode(), "text/plain")):
            answer = api.client().post("/jobs/submit", content=content, headers={"content-type": kind})
            assert answer.json()["accepted"] == 1, answer.text


def test_a_job_that_is_not_valid_is_rejected_and_the_others_accepted(api: Api) -> None:
    body = [
        _job(api, "good"),
        {"name": "bad", "vm_path": "/x", "output_dri": "/y"},
        _job(api, "out", output_path="/etc/x"),
    ]
    answer = api.client().post("/jobs/submit", json=body)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["accepted"], found["rejected"]) == (1, 2)
    assert "output_dri" in found["errors"][0]
    assert "/etc/x" in found["errors"][1]


@pytest.mark.parametrize("text", ["{", "", "just a word", "\x00", "[[[[", '{"jobs": 5}'])
def test_what_does_not_parse_is_400(api: Api, text: str) -> None:
    answer = api.client().post("/jobs/submit", content=text.encode(), headers={"content-type": "application/json"})
    _is_legacy_error(answer, 400, "job_unreadable")


def test_an_id_that_exists_returns_that_job_or_is_rejected(api: Api) -> None:
    client = api.client()
    body = _job(api, "mine", id="my-id")
    assert client.post("/jobs/submit", json=body).json()["job_ids"] == ["my-id"]
    assert client.post("/jobs/submit", json=body).json()["job_ids"] == ["my-id"]
    other = client.post("/jobs/submit", json={**body, "format": "raw"}).json()
    assert (other["accepted"], other["rejected"]) == (0, 1)


def test_a_job_shows_all_of_its_progress_at_once(api: Api) -> None:
    client = api.client()
    (job_id,) = client.post("/jobs/submit", json=_job(api, "new")).json()["job_ids"]
    found = client.get(f"/jobs/{job_id}").json()
    assert set(found) == {"definition", "status", "progress", "updated_at"}
    assert found["status"] == "pending"
    assert found["progress"] == PROGRESS
    assert found["definition"]["id"] == job_id
    assert found["definition"]["vm_path"] == "/data/vm/new"
    _moment(found["definition"]["created_at"])


def test_the_bytes_of_a_completed_job_are_its_total(api: Api) -> None:
    """Scripts compare the two; what came over the wire is compressed and without holes, and in the native routes."""
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    disk = DiskProgress(capacity_bytes=10 * GiB)
    half = ExportProgress(fraction=0.5, wire_bytes=1 * GiB, disks=(disk,))
    claims.save(Unsaved(claim, job_object(half)))
    client = api.client()
    shown = client.get(f"/jobs/{job.id}").json()["progress"]
    assert (shown["bytes_downloaded"], shown["total_bytes"]) == (5 * GiB, 10 * GiB)
    claims.end(claim, JobEvent.FINISH, progress=job_object(replace(half, fraction=0.994, wire_bytes=2 * GiB)))
    shown = client.get(f"/jobs/{job.id}").json()["progress"]
    assert (shown["bytes_downloaded"], shown["total_bytes"]) == (10 * GiB, 10 * GiB)
    native = client.get(f"/api/v1/jobs/{job.id}/progress").json()
    assert native["bytes_downloaded"] == 2 * GiB


def test_no_password_comes_back(api: Api) -> None:
    client = api.client()
    part = {"server": "192.0.2.10", "username": "me", "password": "s3cr3t-word"}
    (job_id,) = client.post("/jobs/submit", json=_job(api, "secret", vcenter=part)).json()["job_ids"]
    for path in (f"/jobs/{job_id}", "/jobs/query", f"/api/v1/jobs/{job_id}", "/api/v1/jobs"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "s3cr3t-word" not in answer.text
        assert "192.0.2.10" in answer.text


def test_a_result_keeps_its_fields_and_counts_nanoseconds(api: Api) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    result = {
        "vm_name": "web",
        "output_dir": "/x",
        "files": ["a"],
        "duration": 1_500_000_000,
        "success": True,
        "proof": "full",
    }
    claims.end(claim, JobEvent.FINISH, result=result)
    found = api.client().get(f"/jobs/{job.id}").json()
    assert found["status"] == "completed"
    assert found["progress"]["percent_complete"] == 100.0
    assert found["result"] == {
        "vm_name": "web",
        "output_dir": "/x",
        "ovf_path": "",
        "files": ["a"],
        "output_files": [],
        "total_size": 0,
        "duration": 1_500_000_000,
        "success": True,
        "export_method": "",
        "error": "",
    }
    assert _moment(found["started_at"]) <= _moment(found["completed_at"])


def test_an_error_is_a_text(api: Api) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    claims.end(claim, JobEvent.FAIL, error={"code": "no_space", "message": "it is full", "cause": "", "next_step": ""})
    found = api.client().get(f"/jobs/{job.id}").json()
    assert (found["status"], found["error"]) == ("failed", "it is full")


def test_query_by_id_status_or_all(api: Api) -> None:
    one, two, three = api.add_job(), api.add_job(), api.add_job()
    api.services.jobs.cancel(three.id)
    client = api.client()

    def ask(body: Any) -> tuple[list[str], int]:
        found = client.post("/jobs/query", json=body).json()
        assert set(found) == {"jobs", "total", "timestamp"}
        return sorted(job["definition"]["id"] for job in found["jobs"]), found["total"]

    assert ask({"job_ids": [one.id, "no-such-job", "\x00", "ü" * 500]}) == ([one.id], 1)
    assert ask({"status": ["pending"]}) == (sorted([one.id, two.id]), 2)
    assert ask({"status": ["pending", "cancelled"], "job_ids": [two.id, three.id]}) == (sorted([two.id, three.id]), 2)
    assert ask({"all": True})[1] == 3
    assert ask({"all": True, "limit": 1})[1] == 3
    assert len(ask({"all": True, "limit": 1})[0]) == 1
    assert ask({})[1] == 3
    assert client.get("/jobs/query?all=true").json()["total"] == 3
    assert client.get("/jobs/query?status=cancelled").json()["total"] == 1


def test_a_query_of_many_looks_once_and_counts_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(api.services.database, 2500, "many")
    client, engine = api.client(), api.services.database.engine
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if " jobs" in statement:
            asked.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    found = client.get("/jobs/query?all=true").json()
    assert (len(found["jobs"]), found["total"], len(asked)) == (2500, 2500, 1)
    assert [job["definition"]["id"] for job in found["jobs"][:2]] == ["many-2499", "many-2498"]
    monkeypatch.setattr("hypersdk.api.routes.legacy.MAX_JOBS", 2000)
    for limit in (0, 5000):
        asked.clear()
        found = client.get("/jobs/query", params={"limit": limit}).json()
        assert (len(found["jobs"]), found["total"], len(asked)) == (2000, 2500, 2)
    sa.event.remove(engine, "before_cursor_execute", note)


def test_the_document_says_how_many_jobs_an_answer_holds(api: Api) -> None:
    paths = api.client().get("/openapi.json").json()["paths"]
    (limit,) = [one for one in paths["/jobs/query"]["get"]["parameters"] if one["name"] == "limit"]
    body = paths["/jobs/query"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "10,000" in limit["description"]
    assert body["properties"]["limit"]["description"] == limit["description"]


def test_cancel_says_for_each_what_became_of_it(api: Api) -> None:
    waiting, ended = api.add_job(), api.add_job()
    client = api.client("operator")
    client.post("/jobs/cancel", json={"job_ids": [ended.id]})
    answer = client.post("/jobs/cancel", json={"job_ids": [waiting.id, ended.id, "unknown"]})
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {"cancelled", "failed", "errors", "timestamp"}
    assert found["cancelled"] == [waiting.id]
    assert found["failed"] == [ended.id, "unknown"]
    assert set(found["errors"]) == {ended.id, "unknown"}
    assert "errors" not in client.post("/jobs/cancel", json={"job_ids": [api.add_job().id]}).json()


def test_errors_have_their_own_shape(api: Api) -> None:
    client = api.client()
    _is_legacy_error(client.get("/jobs/none"), 404, "job_unknown")
    _is_legacy_error(client.get("/jobs/%00%ff"), 404, "job_unknown")
    _is_legacy_error(api.client(None).get("/status"), 401, "unauthenticated")
    _is_legacy_error(client.post("/status"), 405, "method_refused")
    _is_legacy_error(client.delete("/jobs/query"), 405, "method_refused")
    _is_legacy_error(client.post("/jobs/submit", content=b"x", headers={"content-type": "image/png"}), 415, "body_kind")
    _is_legacy_error(
        client.post("/jobs/query", content=b"a: b", headers={"content-type": "application/yaml"}), 415, "body_kind"
    )
    _is_legacy_error(client.post("/jobs/query", content=b"{"), 400, "body_unreadable")
    _is_legacy_error(client.post("/jobs/query", json={"limit": -1}), 400, "body_unreadable")
    _is_legacy_error(client.post("/jobs/query", json={"status": ["done"]}), 400, "query_status")
    _is_legacy_error(client.post("/jobs/cancel", json={}), 400, "body_unreadable")
    _is_legacy_error(client.get("/jobs/query?limit=many"), 422, "request_invalid")
    _is_legacy_error(api.client("viewer").post("/jobs/submit", json=_job(api)), 403, "forbidden")
    _is_legacy_error(api.client("viewer").post("/jobs/cancel", json={"job_ids": ["a"]}), 403, "forbidden")


def test_numbers_and_names_that_no_database_takes(api: Api) -> None:
    client = api.client()
    lone = json.dumps({"job_ids": ["\ud800"]}).encode()
    assert client.post("/jobs/query", content=lone).status_code in (200, 400)
    assert client.post("/jobs/cancel", content=lone).status_code in (200, 400)
    assert client.post("/jobs/query", content=b'{"limit": 99999999999999999999}').status_code == 400
    assert client.post("/jobs/query", content=b'{"limit": NaN}').status_code == 400
