"""Every error has a status, and what is answered says cause and next step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from hypersdk.access.roles import Role
from hypersdk.api.problems import STATUS, is_legacy, problem, status_of
from hypersdk.api.security import viewer
from hypersdk.cli.errorlist import load_all
from hypersdk.errors import CODES, ConnectError, HyperSDKError
from hypersdk.jobs.remedies import next_step
from tests.support.servedapi import ServeApi


def classes(kind: type[HyperSDKError] = HyperSDKError) -> Iterator[type[HyperSDKError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from classes(inner)


def test_the_map_is_total() -> None:
    load_all()
    for kind in classes():
        if not hasattr(kind, "default_code"):
            continue
        status = status_of(kind("x"))
        assert 400 <= status < 600, kind
    assert {status for kind, status in STATUS.items() if kind is HyperSDKError} == {500}


def test_every_code_says_cause_and_next_step() -> None:
    load_all()
    for code, info in CODES.items():
        assert info.cause.strip(), code
        assert next_step(info).strip(), code


def test_fields_do_not_hide_what_a_problem_must_say() -> None:
    error = ConnectError("no answer", status=1, title="x", detail="y", host="vcenter.example.com", empty=None)
    found = problem(error, 502)
    assert found == {
        "type": "about:blank",
        "title": "Bad Gateway",
        "status": 502,
        "detail": "no answer",
        "code": "connect_failed",
        "cause": error.cause,
        "next_step": next_step(error),
        "remedies": [
            {"kind": "advice", "text": "Check the address, port and firewall."},
            {"kind": "look", "at": "connection"},
        ],
        "exit_status": 3,
        "host": "vcenter.example.com",
    }


@pytest.mark.parametrize(
    ("path", "legacy"),
    [
        ("/health", True),
        ("/jobs/x", True),
        ("/jobs/submit", True),
        ("/api/v1/jobs/x", False),
        ("/", False),
        ("/jobsx", False),
        ("/jobs", False),
    ],
)
def test_which_paths_are_legacy(path: str, legacy: bool) -> None:
    assert is_legacy(path) is legacy


def test_a_body_that_does_not_say_that_it_is_json(serve_api: ServeApi) -> None:
    found = serve_api()
    routes = [
        ("POST", "/api/v1/auth/login"),
        ("POST", "/api/v1/auth/password"),
        ("POST", "/api/v1/auth/users"),
        ("POST", "/api/v1/auth/tokens"),
        ("PATCH", "/api/v1/auth/users/admin"),
        ("POST", "/api/v1/endpoints"),
        ("POST", "/api/v1/jobs/bulk"),
    ]
    taking = {
        (method, context.path)
        for context in iter_route_contexts(found.app.routes)
        for method in context.methods or ()
        if getattr(context, "body_field", None) is not None
    }
    assert {(method, path.replace("admin", "{user_id}")) for method, path in routes} == taking
    with found.client(found.admin) as client, found.client(found.token(Role.VIEWER)) as viewer:
        for method, path in routes:
            for kind in (
                "application/x-www-form-urlencoded",
                "text/plain",
                "application/yaml",
                "multipart/form-data; boundary=x",
                "",
            ):
                headers = {"Content-Type": kind} if kind else {}
                answer = client.request(method, path, content=b'{"label": "a"}', headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (415, "body_kind"), (path, kind)
                assert "Content-Type: application/json" in answer.json()["detail"]
                assert kind.partition(";")[0] in answer.json()["detail"]
            assert client.request(method, path).status_code == 422, "no body at all"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert viewer.post("/api/v1/auth/users", content=b"{}", headers=form).status_code == 403
        for kind in ("application/json; charset=utf-8", "application/merge-patch+json"):
            answer = client.post("/api/v1/auth/tokens", content=b'{"label": "a"}', headers={"Content-Type": kind})
            assert answer.status_code == 201, kind


def test_both_forms(serve_api: ServeApi) -> None:
    def add(app: FastAPI) -> None:
        router = APIRouter(prefix="/api/v1/test", dependencies=[Depends(viewer)])

        @router.get("/{kind}")
        def fail(kind: str) -> None:
            if kind == "bug":
                raise RuntimeError("planted secret detail")
            if kind == "teapot":
                raise HTTPException(418, "short and stout")
            raise ConnectError("no answer", host="vcenter.example.com")

        app.include_router(router)

    found = serve_api(change=add)
    with found.client(found.admin) as client:
        bug = client.get("/api/v1/test/bug")
        assert (bug.status_code, bug.json()["code"]) == (500, "daemon_internal")
        assert "planted" not in bug.text
        assert client.get("/api/v1/test/teapot").json()["detail"] == "short and stout"
        known = client.get("/api/v1/test/known")
        assert (known.status_code, known.headers["content-type"]) == (502, "application/problem+json")
        assert known.json()["next_step"]
        for path, method, status, code in (
            ("/api/v1/nothing", "GET", 404, "route_unknown"),
            ("/api/v1/auth/me", "DELETE", 405, "method_refused"),
            ("/jobs/absent", "GET", 404, "job_unknown"),
            ("/jobs/submit", "GET", None, None),
            ("/jobs/cancel", "PUT", 405, "method_refused"),
        ):
            answer = client.request(method, path)
            if status is not None:
                assert (answer.status_code, answer.json()["code"]) == (status, code), path
            if is_legacy(path):
                assert set(answer.json()) == {"error", "code", "timestamp"}
        assert "GET" in client.delete("/api/v1/auth/me").headers["allow"]
