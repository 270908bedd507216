"""Endpoints over the API, against the simulator of vCenter."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from hypersdk.secret import Secret
from hypersdk.state.tables import jobs
from tests.support.apiserver import Api
from tests.support.eventstream import listening
from tests.support.simulator import SimulatorFactory

PATH = "/api/v1/endpoints"
PASSWORD = "planted-vcenter-word"


def _refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    return body


def test_create_shows_the_print_first_and_accepts_it_then(api: Api, simulator: SimulatorFactory) -> None:
    client = api.client("admin")
    server = simulator(vms=1, username="user", password=Secret(PASSWORD))
    body = {"name": "vc1", "url": server.url, "username": "user", "password": PASSWORD}
    shown = _refused(client.post(PATH, json=body), 409, "certificate_unknown")
    assert client.get(PATH).json()["endpoints"] == []
    wrong = client.post(PATH, json={**body, "thumbprint": "00" * 32})
    assert wrong.status_code == 502
    assert wrong.json()["code"] == "certificate_changed"
    with listening(client, params={"topics": "endpoints"}) as events:
        events.next("hello")
        answer = client.post(PATH, json={**body, "thumbprint": shown["sha256"]})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert events.next("endpoint")[2]["name"] == "vc1"
        assert (made["has_password"], made["is_default"]) == (True, True)
        _refused(client.post(PATH, json={**body, "thumbprint": shown["sha256"]}), 409, "endpoint_exists")
        tested = api.client("operator").post(f"{PATH}/vc1/test")
        assert tested.status_code == 200, tested.text
        assert tested.json()["api_type"] == "VirtualCenter"
        for path in (PATH, f"{PATH}/{made['id']}", f"{PATH}/vc1"):
            text = api.client("viewer").get(path).text
            assert PASSWORD not in text
            assert made["id"] in text
        assert client.post(f"{PATH}/vc1/default").json()["is_default"]
        assert client.delete(f"{PATH}/{made['id']}").status_code == 204
        assert events.next("removed")[2] == {"topic": "endpoints", "id": made["id"]}
    _refused(client.get(f"{PATH}/vc1"), 404, "endpoint_unknown")


def test_who_may_what_and_what_is_refused(api: Api) -> None:
    body = {"name": "vc1", "url": "https://192.0.2.1"}
    for role in ("viewer", "operator"):
        _refused(api.client(role).post(PATH, json=body), 403, "forbidden")
        _refused(api.client(role).delete(f"{PATH}/vc1"), 403, "forbidden")
    _refused(api.client("viewer").post(f"{PATH}/vc1/test"), 403, "forbidden")
    client = api.client()
    _refused(client.post(PATH, json={**body, "colour": "red"}), 422, "request_invalid")
    _refused(client.post(PATH, json={**body, "name": "a/b"}), 422, "request_invalid")
    refused = _refused(client.post(PATH, json={**body, "kind": "other"}), 400, "endpoint_invalid")
    assert "kind: must be libvirt or vsphere" in refused["detail"]
    _refused(client.get(f"{PATH}/%00%ff"), 404, "endpoint_unknown")
    answer = client.post(PATH, json={**body, "password": [PASSWORD]})
    assert answer.status_code == 422
    assert PASSWORD not in answer.text


def test_an_endpoint_that_jobs_use_stays(api: Api, simulator: SimulatorFactory) -> None:
    client = api.client()
    server = simulator(vms=1)
    body = {"name": "vc2", "url": server.url, "username": "a", "password": "b", "insecure": True}
    made = client.post(PATH, json=body).json()
    api.add_job(endpoint_id=made["id"])
    _refused(client.delete(f"{PATH}/vc2"), 409, "endpoint_used")
    server.stop()
    assert client.post(f"{PATH}/vc2/test").status_code == 502, "nobody answers there any more"


@pytest.mark.parametrize("place", ["source", "target"])
@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_an_endpoint_stays_while_a_job_has_something_to_undo_there(
    api: Api, simulator: SimulatorFactory, state: str, place: str
) -> None:
    client = api.client()
    body = {"name": "vc2", "url": simulator(vms=1).url, "username": "a", "password": "b", "insecure": True}
    if place == "target":
        body = {"name": "vc2", "url": "test:///default", "kind": "libvirt"}
    endpoint = client.post(PATH, json=body).json()["id"]
    job = api.add_job(**{"endpoint_id" if place == "source" else "target_endpoint_id": endpoint})

    def change(**values: Any) -> None:
        with api.services.database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(**values))

    assert _refused(client.delete(f"{PATH}/vc2"), 409, "endpoint_used")["job_ids"] == [job.id]
    change(**{"state": state, f"{place}_changes": 1})
    _refused(client.delete(f"{PATH}/vc2"), 409, "endpoint_used")
    change(**{f"{place}_changes": 0})
    assert client.delete(f"{PATH}/vc2").status_code == 204
