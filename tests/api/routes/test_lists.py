"""Every list filters and sorts by every column that it shows, on both databases: what comes back is compared with the
same done in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from hypersdk.access.kinds.vsphere import VSPHERE
from hypersdk.access.records import AUDIT, ENDPOINTS, TOKENS, USERS
from hypersdk.access.roles import Role
from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.heartbeat import Heartbeat
from hypersdk.jobs.states import JobEvent
from hypersdk.resource import shown_fields
from hypersdk.state.tables import endpoints
from tests.support.apiserver import Api, running_api
from tests.support.databases import fresh_database

Row = Mapping[str, Any]
LISTS = {
    "jobs": "/api/v1/jobs",
    "attempts": "/api/v1/jobs/{job}/attempts",
    "workers": "/api/v1/workers",
    "endpoints": "/api/v1/endpoints",
    "users": "/api/v1/auth/users",
    "tokens": "/api/v1/auth/tokens?all=true",
    "entries": "/api/v1/auth/audit",
}
KEYS = {"attempts": "epoch", "entries": "number"}
"""Which column names a row; elsewhere it is the id."""
WHOLE = {
    "jobs": {"status", "definition", "steps", "progress", "result", "error"},  # status is the state in other words
    "attempts": {"error"},
}
"""Columns that are documents, or another one in other words."""
MOVES = {"workers": {"age_s"}}
"""Columns that are not the same at the next look."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with some rows in each of its lists, and no two alike."""
    with ExitStack() as stack:
        url = None
        if request.param == "postgresql":
            url = stack.enter_context(fresh_database(request.getfixturevalue("postgres_server")))
        api = stack.enter_context(running_api(tmp_path_factory.mktemp("lists"), url))
        fill(api)
        yield api


def fill(api: Api) -> None:
    """Something in each list."""
    claims = api.claims()
    for number, owner in enumerate(("ann", None, "bob", "ann")):
        api.add_job(
            id=f"job-{number}",
            name=f"name {number}",
            owner=owner,
            priority=number - 1,
            format=("raw", "qcow2")[number % 2],
        )
    for attempt in (1, 2):
        claim = claims.claim("job-0", attempt)
        assert claim is not None
        claims.save(Unsaved(claim, {"percent_complete": 12.34, "bytes_downloaded": 5}))
        if attempt == 1:
            claims.end(
                claim, JobEvent.FAIL, error={"code": "no_space", "message": "full", "cause": "c", "next_step": "n"}
            )
            api.services.jobs.retry("job-0")
    for name in ("worker-a", "worker-b"):
        with Heartbeat(api.services.database, name, [f"root-{name}"]):
            pass
    with api.services.database.write() as connection:
        for number, name in enumerate(("vc1", "vc2", "esx")):
            connection.execute(
                endpoints.insert().values(
                    id=f"endpoint-{number}",
                    name=name,
                    kind=VSPHERE,
                    url=f"https://{name}.example.com",
                    username=f"u{number}",
                    secret=None,
                    secret_ref=None if number else "env:VC",
                    thumbprint=None if number == 1 else f"AA:{number}",
                    insecure=number == 1,
                    datacenter=None if number else "DC0",
                    is_default=number == 2,
                    created_at=1_700_000_000.1234567 + number,
                    revision=api.services.database.revision(connection),
                )
            )
    users = api.services.access.users
    users.change("test-viewer", disabled=True)
    ann = users.create("ann", Role.OPERATOR, None)
    for label, life in (("ci", 90_000.0), ("Backup 100%", None)):
        api.services.access.tokens.create(ann.id, label, "viewer", lifetime_s=life)
    api.services.access.audit.write("ann", "192.0.2.1", "login", outcome="ok")
    api.services.access.audit.write(
        "eve", "192.0.2.2", "login", target="x", outcome="wrong_password", detail={"tries": 3}
    )
    api.services.access.audit.write("bob", "192.0.2.2", "user.create", target="carol", detail={"role": "viewer"})


def address(name: str) -> str:
    return LISTS[name].format(job="job-0")


def page(client: httpx.Client, listing: str, /, **query: Any) -> dict[str, Any]:
    answer = client.get(address(listing), params={**dict(httpx.URL(address(listing)).params), **query})
    assert answer.status_code == 200, (listing, query, answer.text)
    found: dict[str, Any] = answer.json()
    return found


def keys(name: str, rows: list[Row]) -> set[Any]:
    return {row[KEYS.get(name, "id")] for row in rows}


def parameters(api: Api, name: str) -> dict[str, Any]:
    """The parameters of a list as the document has them."""
    document = api.client().get("/openapi.json").json()
    path = LISTS[name].partition("?")[0].replace("{job}", "{id}")
    return {one["name"]: one["schema"] for one in document["paths"][path]["get"]["parameters"] if one["in"] == "query"}


def columns(name: str, rows: list[Row]) -> list[str]:
    return [column for column in rows[0] if column not in WHOLE.get(name, ())]


@pytest.mark.parametrize("name", LISTS)
def test_what_is_shown_can_be_filtered_by(filled: Api, name: str) -> None:
    client = filled.client()
    rows: list[Row] = page(client, name)[name]
    assert len(rows) > 1
    known = parameters(filled, name)
    for column in columns(name, rows):
        filters = list(filters_of(column, known))
        assert filters, f"{name}: no filter of {column}"
        if column in MOVES.get(name, ()):
            continue
        for row in rows:
            for parameter, value, holds in filters_for(filters, row[column]):
                expected = [one for one in rows if one[column] is not None and holds(one[column])]
                body = page(client, name, **{parameter: value})
                assert keys(name, body[name]) == keys(name, expected), (parameter, value)
                assert body["total"] == len(expected), "the total is of what matches"


def filters_of(column: str, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    stem = column.removesuffix("_at") if column != "at" else column
    for parameter in (column, f"{column}_min", f"{column}_max", f"{stem}_after", f"{stem}_before"):
        if parameter in known:
            yield parameter, known[parameter]


def filters_for(filters: list[tuple[str, Any]], value: Any) -> Iterator[tuple[str, Any, Callable[[Any], bool]]]:
    """Parameter, value, and what it must hold of a cell, for a cell that has ``value``."""
    if value is None:
        return
    for parameter, schema in filters:
        end = parameter.rpartition("_")[2]
        if end in ("min", "after"):
            yield parameter, value, lambda cell: bool(cell >= value)
        elif end == "max":
            yield parameter, value, lambda cell: bool(cell <= value)
        elif end == "before":
            yield parameter, value, lambda cell: bool(cell < value)
        elif schema.get("type") == "string":  # a part of it
            text = str(value if not isinstance(value, list | dict) else next(iter(value), ""))[1:].upper()
            if text:
                yield parameter, text, lambda cell, text=text: text in str(cell).upper()  # type: ignore[misc]
        else:
            yield parameter, value, lambda cell: bool(cell == value)


@pytest.mark.parametrize("name", LISTS)
def test_what_is_shown_can_be_sorted_by(filled: Api, name: str) -> None:
    client = filled.client()
    rows: list[Row] = page(client, name)[name]
    for column in columns(name, rows):
        for sign in ("", "-"):
            cells = [row[column] for row in page(client, name, sort=f"{sign}{column}")[name]]
            there = [cell for cell in cells if cell is not None]
            assert len(cells) == len(rows)
            assert cells == [*there, *[None] * (len(cells) - len(there))], "nothing comes last"
            if column not in MOVES.get(name, ()) and not isinstance(there[0] if there else 0, list | dict):
                assert there == sorted(there, reverse=bool(sign)), (column, sign)


@pytest.mark.parametrize("name", LISTS)
def test_pages_total_revision_and_facets(filled: Api, name: str) -> None:
    client = filled.client()
    whole = page(client, name)
    rows: list[Row] = whole[name]
    assert whole["total"] == len(rows)
    assert whole["revision"] == filled.services.jobs.revision()
    assert whole["facets"], name
    for column, counts in whole["facets"].items():
        cells = [str(row[column]).lower() if row[column] in (None, True, False) else row[column] for row in rows]
        assert counts == {cell: cells.count(cell) for cell in cells}
    apart = [row for at in range(len(rows)) for row in page(client, name, offset=at, limit=1)[name]]
    moving = MOVES.get(name, set())
    assert [strip(row, moving) for row in apart] == [strip(row, moving) for row in rows]
    assert page(client, name, offset=1000)["total"] == len(rows)
    for wrong in ({"sort": "colour"}, {"offset": -1}, {"limit": 0}, {"limit": 1001}, {"colour": "red"}):
        answer = client.get(address(name), params={**dict(httpx.URL(address(name)).params), **wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), wrong


def strip(row: Row, names: set[str]) -> Row:
    return {name: cell for name, cell in row.items() if name not in names}


def test_several_conditions_must_all_hold_and_of_several_values_any(filled: Api) -> None:
    client = filled.client()
    found = page(client, "entries", action=["login", "user.create"], address="192.0.2.2", sort="number")
    assert [row["actor"] for row in found["entries"]] == ["eve", "bob"]
    assert found["facets"]["action"] == {"login": 1, "user.create": 1}
    assert [row["label"] for row in page(client, "tokens", label="0%")["tokens"]] == ["Backup 100%"], (
        "% is only a character"
    )
    young = page(client, "workers", age_s_max=3600, state="dead", host="nowhere")
    assert (young["workers"], young["total"]) == ([], 0)


def test_the_trail_is_followed_by_number_whatever_comes_meanwhile(filled: Api) -> None:
    client = filled.client()
    first = page(client, "entries", limit=2, address=["192.0.2.1", "192.0.2.2"])
    filled.services.access.audit.write("ann", "192.0.2.1", "logout")
    second = page(client, "entries", limit=2, address=["192.0.2.1", "192.0.2.2"], before=first["next"])
    assert [row["actor"] for row in first["entries"] + second["entries"]] == ["bob", "eve", "ann"]
    assert second["next"] is None
    either: list[dict[str, str | int]] = [{"before": 1, "offset": 1}, {"before": 1, "sort": "actor"}]
    for wrong in either:
        answer = client.get(address("entries"), params=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "list_query")


def test_conditions_of_bulk_calls_know_revisions_too(filled: Api) -> None:
    client = filled.client()
    row = page(client, "jobs", name="name 3")["jobs"][0]
    body = {
        "action": "pause",
        "filter": {"revision_min": row["revision"], "revision_max": row["revision"]},
        "revision": row["revision"],
    }
    done = client.post("/api/v1/jobs/bulk", json=body).json()
    assert [one["id"] for one in done["results"]] == ["job-3"]


def test_rows_of_the_database_and_of_the_answer_have_the_same_names() -> None:
    """The columns of a list are those of its rows: one that is shown and cannot be sorted by would be found by the
    tests above only if it had a row here."""
    for resource in (AUDIT, ENDPOINTS, TOKENS, USERS):
        assert [one.name for one in shown_fields(resource.record)] == [one.name for one in resource.columns]
