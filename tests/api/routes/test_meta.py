"""Readiness, statistics, history, the document and its page; the workers."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from hypersdk.api.front import PLACES, facts, front_page
from hypersdk.api.headers import CSP
from hypersdk.jobs.statistics import read_statistics, take_sample
from hypersdk.state.tables import samples
from tests.support.apiserver import Api, beating, running_api


def _ready(api: Api) -> tuple[int, dict[str, str]]:
    time.sleep(1.1)  # what was found is kept for a second
    answer = api.client(None).get("/ready")
    return answer.status_code, answer.json()["checks"]


def test_ready_wants_database_schema_and_a_worker(api: Api) -> None:
    assert _ready(api) == (503, {"database": "ok", "schema": "ok", "workers": "none is alive"})
    with beating(api.services):
        assert _ready(api) == (200, {"database": "ok", "schema": "ok", "workers": "ok"})
    with api.services.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert _ready(api)[1]["schema"] != "ok"


def test_an_api_without_workers_of_its_own_is_ready_without(tmp_path: Path) -> None:
    with running_api(tmp_path, roles=frozenset({"api"})) as api:
        assert _ready(api) == (200, {"database": "ok", "schema": "ok", "workers": "none is alive"})


def test_workers_are_listed(api: Api) -> None:
    assert api.client("viewer").get("/api/v1/workers").json()["workers"] == []
    with beating(api.services):
        (worker,) = api.client("viewer").get("/api/v1/workers").json()["workers"]
    assert (worker["id"], worker["state"]) == ("worker-1", "alive")
    assert worker["roots"] == api.services.service.roots.ids
    assert 0 <= worker["age_s"] < 60
    (worker,) = api.client("viewer").get("/api/v1/workers").json()["workers"]
    assert worker["state"] == "dead"


def test_statistics_and_their_history(api: Api) -> None:
    client = api.client("viewer")
    api.add_job()
    found = client.get("/api/v1/statistics").json()
    assert found["jobs"]["queued"] == 1
    assert (found["submitted"], found["workers_alive"], found["waiting"]) == (1, 0, {"": 1})
    queue = found["queue"]
    assert (queue["jobs"], queue["waiting"], queue["percent_complete"]) == (1, 1, 0)
    assert (queue["eta_s"], queue["reason"]) == (None, "no worker is running")
    database = api.services.database
    figures = read_statistics(database)
    with database.write() as connection:
        connection.execute(sa.delete(samples))
    for ago in (90, 30, 2, 1):
        assert take_sample(database, _at(figures, figures.now - ago * 60))
    assert not take_sample(database, _at(figures, figures.now - 60)), "one sample a minute, whoever comes first"
    points = client.get("/api/v1/statistics/history").json()["points"]
    assert [one["queued"] for one in points][:3] == [1, 1, 1]
    assert [one["at"] for one in points] == sorted(one["at"] for one in points)
    long = client.get("/api/v1/statistics/history", params={"since": "2020-01-01T00:00:00Z", "points": 2}).json()
    assert len(long["points"]) <= 2
    assert client.get("/api/v1/statistics/history", params={"since": "yesterday"}).status_code == 422
    take_sample(database, read_statistics(database, take_over_s=30.0))


def _at(figures: Any, now: float) -> Any:
    from dataclasses import replace

    return replace(figures, now=now)


def test_the_document_describes_every_route(api: Api) -> None:
    spec = api.client("viewer").get("/openapi.json").json()
    assert spec["openapi"].startswith("3.")
    ids = []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            ids.append(operation["operationId"])
            assert operation.get("summary"), where
            assert operation.get("description"), where
            assert operation.get("tags"), where
            assert "default" not in operation["responses"], where
            if path not in ("/health", "/ready", "/api/v1/auth/login"):
                assert operation["security"], where
                assert {"401", "403", "429"} <= set(operation["responses"]), where
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")) and path.startswith("/api/"):
                    assert list(answer["content"]) == ["application/problem+json"], f"{where} {status}"
                assert answer["description"], f"{where} {status}"
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z_]+", one) for one in ids), ids
    text = api.client().get("/openapi.json").text
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names <= set(spec["components"]["schemas"])
    assert "HTTPValidationError" not in spec["components"]["schemas"]


class _Page(HTMLParser):
    """Collects what a page loads, and checks that it is closed properly."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.inline: list[str] = []
        self.styles: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = dict(attrs)
        self.loads += [found[name] for name in ("src", "href") if found.get(name)]
        self.inline += [name for name in found if name.startswith("on") or name == "style"]
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in ("meta", "link"):
            self.open.append(tag)
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_elsewhere(api: Api) -> None:
    client = api.client("viewer")
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    page = _Page()
    page.feed(answer.text)
    page.close()
    assert page.open == []
    assert page.inline == []
    (style,) = page.styles
    print_of_it = b64encode(sha256(style.encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == f"{CSP}; style-src 'sha256-{print_of_it}'"
    assert ".css" not in answer.text, "it is read from a file, too"
    for path in page.loads:
        if path.startswith("#"):
            assert path[1:] in page.ids
        else:
            assert path.startswith("/")
            assert client.get(path).status_code == 200
    spec = client.get("/openapi.json").json()
    for methods in spec["paths"].values():
        for operation in methods.values():
            assert operation["operationId"] in page.ids
    assert api.client(None).get("/docs").status_code == 401
    assert api.client(None).get("/openapi.json").status_code == 401


def test_a_browser_gets_a_page_that_says_where_to_go_on(api: Api) -> None:
    with httpx.Client(base_url=api.url) as client:
        answer = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"] == CSP
        assert "Accept" in answer.headers["vary"].split(", ")
        page = _Page()
        page.feed(answer.text)
        page.close()
        assert (page.open, page.inline, page.styles) == ([], [], [])
        assert 401 not in {client.get(path).status_code for path in page.loads}, "what it links to is open"
        for place in PLACES.values():
            assert f"<code>{place.path}</code>" in answer.text
            assert (client.get(place.path).status_code != 401) is place.open
        assert f"hyperctl login --url {api.url}" in answer.text
        assert "color-scheme: light dark" in client.get("/docs/style.css").text


def test_a_program_gets_the_same_as_json(api: Api) -> None:
    with httpx.Client(base_url=api.url) as client:
        told = client.get("/").json()
        assert told["links"]["docs"] == f"{api.url}/docs"
        assert 401 not in {client.get(told["links"][name]).status_code for name in told["open"]}
        assert client.head("/").status_code == 200


def test_the_page_of_a_strange_host_is_escaped() -> None:
    assert "<script" not in front_page("http://a<script>alert(1)</script>")
    assert "--url 'http://a;reboot'" in facts("http://a;reboot")["token"]
