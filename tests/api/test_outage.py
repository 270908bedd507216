"""The API while its state cannot be written: it says so, by code, to load balancers and to people, and its log says it
once."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from hypersdk.access.roles import Role
from hypersdk.api.readiness import Readiness
from hypersdk.jobs.records import NewJob
from hypersdk.jobs.workerfault import VARIABLE, SharedFault, WorkerFault
from hypersdk.state.database import DatabaseError
from hypersdk.state.tables import api_tokens
from tests.support.apiserver import beating
from tests.support.jobrecords import new_job, submit
from tests.support.outages import locked
from tests.support.servedapi import ServeApi, ServedApi
from tests.support.waiting import eventually

pytestmark = pytest.mark.waits


def ready(found: ServedApi) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, the parts, and the code of each that does not work."""
    time.sleep(1.1)  # what was found is kept for a second
    with found.client() as client:
        answer = client.get("/ready")
    body: dict[str, Any] = answer.json()
    assert all(reason["cause"] and reason["next_step"] for reason in body["reasons"])
    return answer.status_code, body["checks"], {reason["part"]: reason["code"] for reason in body["reasons"]}


def a_job(found: ServedApi) -> str:
    wanted: NewJob = new_job(root_id=found.services.service.roots.roots[0].id)
    return submit(found.services.jobs, wanted).id


def test_a_state_that_cannot_be_written_is_told_once_in_the_log_and_to_all_who_ask(
    serve_api: ServeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = serve_api()
    path = found.services.database.path
    assert path is not None
    token, job = found.token(Role.VIEWER), a_job(found)
    with beating(found.services), found.client(token) as client:
        assert ready(found) == (200, {"database": "ok", "schema": "ok", "workers": "ok"}, {})
        assert client.get(f"/api/v1/jobs/{job}/explain").json()["code"] == "queued"
        time.sleep(5)  # a probe that found all well is kept for so long
        with found.services.database.write() as connection:
            connection.execute(sa.update(api_tokens).values(used_at=1.0))  # due to be written with the next use
        with locked(path):
            status, checks, codes = ready(found)
            assert (status, checks["database"], codes) == (503, "cannot be written", {"database": "database_locked"})
            began = time.monotonic()
            told = client.get(f"/api/v1/jobs/{job}/explain").json()
            assert time.monotonic() - began < 10, "who only looks does not wait for the lock"
            assert told["code"] == "database_locked"
            assert "as far as it could be stored" in told["message"]
            for _ in range(20):
                assert client.get("/ready").status_code == 503
                assert client.get(f"/api/v1/jobs/{job}").status_code == 200
        eventually(lambda: ready(found)[0] == 200)
        assert client.get(f"/api/v1/jobs/{job}/explain").json()["code"] == "queued"
    told_of = [record.getMessage() for record in caplog.records if "the database" in record.getMessage()]
    assert [text.split(":")[0].split(" after")[0] for text in told_of] == [
        "the database cannot be used",
        "the database can be used again",
    ]


def test_a_write_is_refused_by_code_and_never_told_as_done_without_its_line_in_the_trail(
    serve_api: ServeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = serve_api()
    token, job = found.token(Role.OPERATOR), a_job(found)

    def full(*_: object, **__: object) -> None:
        raise DatabaseError("full", code="database_full")

    monkeypatch.setattr(found.services.access.audit, "write", full)
    with found.client(token) as client:
        for headers in ({}, {"Idempotency-Key": "once"}):
            answer = client.post(f"/api/v1/jobs/{job}/pause", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_full")
        answer = client.post("/jobs/cancel", json={"job_ids": [job]})
        assert (answer.status_code, answer.json()["code"]) == (503, "database_full")
        answer = client.post("/api/v1/jobs/absent/pause")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_unknown"), "a refusal stays what it is"
        monkeypatch.setattr(found.services.jobs, "cancel", full)
        answer = client.post(f"/api/v1/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_full")
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_state_whose_file_is_gone(serve_api: ServeApi) -> None:
    found = serve_api(roles=frozenset({"api"}))
    path = found.services.database.path
    assert path is not None
    with found.client(found.admin) as client:
        path.rename(path.with_name("aside"))
        assert ready(found)[2]["database"] == "database_gone"
        answer = client.get("/api/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_gone")
        assert answer.json()["next_step"]


@pytest.mark.parametrize(("how", "code"), [("locked", "database_locked"), ("garbage", "engine_damaged")])
def test_the_file_of_the_engine_is_looked_at_too(serve_api: ServeApi, how: str, code: str) -> None:
    found = serve_api()
    path = found.services.settings.state_dir / "engine.sqlite3"
    with beating(found.services):
        if how == "garbage":
            path.write_bytes(os.urandom(8192))
            assert ready(found)[::2] == (503, {"engine": code})
            return
        with closing(sqlite3.connect(path)) as engine:
            engine.execute("CREATE TABLE a (b)")
        assert ready(found)[0] == 200
        with locked(path):
            assert ready(found)[::2] == (503, {"engine": code})
        assert ready(found)[0] == 200


def test_a_worker_that_does_not_stay_alive(serve_api: ServeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_fault = SharedFault.make()
    monkeypatch.setenv(VARIABLE, str(shared_fault.descriptor))
    found = serve_api()
    with beating(found.services):
        assert ready(found)[0] == 200
        for code in ("engine_copy", "vault_key_lost", "a_code_of_some_later_version"):
            shared_fault.write(WorkerFault(code, exits=True))
            status, checks, codes = ready(found)
            assert (status, checks["workers"], codes) == (503, "one exits each time that it starts", {"workers": code})
        shared_fault.write(None)
        assert ready(found)[0] == 200


def test_a_look_that_ends_by_a_bug_is_not_the_last_one(serve_api: ServeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    found = serve_api(roles=frozenset({"api"}))
    readiness = Readiness(found.services.database, found.services.settings, SharedFault(None))
    with monkeypatch.context() as patched:
        patched.setattr(found.services.database, "writable", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            readiness.checks()
    assert readiness.checks()["database"].code is None


def test_a_worker_that_lives_and_cannot_work_is_told_to_all_who_ask(
    serve_api: ServeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It met what no small write of this process meets: a larger one did not fit, or its engine's file is locked."""
    shared_fault = SharedFault.make()
    monkeypatch.setenv(VARIABLE, str(shared_fault.descriptor))
    found = serve_api()
    token, job = found.token(Role.VIEWER), a_job(found)
    with beating(found.services), found.client(token) as client:
        assert client.get(f"/api/v1/jobs/{job}/explain").json()["code"] == "queued"
        shared_fault.write(WorkerFault("database_full", exits=False))
        assert ready(found)[1:] == (
            {"database": "ok", "schema": "ok", "workers": "one cannot do its work"},
            {"workers": "database_full"},
        )
        told = client.get(f"/api/v1/jobs/{job}/explain").json()
        assert (told["code"], "cannot do its work" in told["message"]) == ("database_full", True)
        assert "Free space" in told["next_step"]
        shared_fault.write(WorkerFault("a_code_of_some_later_version", exits=True))
        told = client.get(f"/api/v1/jobs/{job}/explain").json()
        assert (told["code"], "exits each time" in told["message"]) == ("a_code_of_some_later_version", True)
        shared_fault.write(None)
        assert client.get(f"/api/v1/jobs/{job}/explain").json()["code"] == "queued"


@pytest.mark.parametrize("text", ["", "x", "-1", "999", "²"])
def test_there_is_no_fault_where_the_variable_is_not_ours(text: str) -> None:
    assert SharedFault.inherited({VARIABLE: text}).read() is None
