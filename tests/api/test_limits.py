"""Rates, sizes, times, and repeated requests."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI

from hypersdk.access.faults import TooMany
from hypersdk.access.roles import Role
from hypersdk.access.vault import Vault
from hypersdk.api.app import create_app
from hypersdk.api.context import Services
from hypersdk.api.idempotency import KEEP_S, KEY_REUSED, KEY_RUNNING, STALE_S, Answers, StoredAnswer
from hypersdk.api.limits import MAX_BUCKETS, Rate
from hypersdk.api.security import operator
from hypersdk.errors import UsageError
from hypersdk.jobs.rotation import reseal
from hypersdk.jobs.store import Filter
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import idempotency
from tests.support.servedapi import PASSWORD, ServeApi, ServedApi, served
from tests.support.waiting import eventually


class Counted:
    """Routes that count how often they run, wait, and fail as asked."""

    def __init__(self) -> None:
        self.runs = 0
        self.hold = threading.Event()
        self.hold.set()
        self.status = 200

    def add(self, app: FastAPI) -> None:
        router = APIRouter(prefix="/test", dependencies=[Depends(operator)])

        @router.post("/count")
        def count(body: dict[str, Any]) -> dict[str, Any]:
            self.runs += 1
            self.hold.wait(20)
            if self.status == 500:
                raise RuntimeError("planted failure")
            return {"run": self.runs, "secret": "planted-answer", "body": body}

        @router.get("/slow")
        def slow() -> None:
            self.hold.wait(20)

        app.include_router(router)


def test_a_bucket_fills_again() -> None:
    now = 100.0
    rate = Rate(60, clock=lambda: now)
    for _ in range(15):
        rate.take("a")
    with pytest.raises(TooMany) as caught:
        rate.take("a")
    assert caught.value.fields["retry_after_s"] in (1, 2, 3)
    rate.take("b")
    now += 1.0
    rate.take("a")
    with pytest.raises(TooMany):
        rate.take("a")
    now += 3600
    for _ in range(15):
        rate.take("a")
    with pytest.raises(TooMany):
        rate.take("a")


def test_buckets_do_not_grow_without_end() -> None:
    rate = Rate(60)
    for number in range(MAX_BUCKETS + 50):
        rate.take(str(number))
    assert len(rate._buckets) == MAX_BUCKETS


def test_too_many_from_one_address(serve_api: ServeApi) -> None:
    found = serve_api(rate_per_address_per_minute=40)
    with found.client() as client:
        answers = [client.get("/status") for _ in range(11)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].json()["code"] == "rate_limited"
        assert client.get("/health").status_code == 200, "health checks are free"


def test_too_many_with_one_token(serve_api: ServeApi) -> None:
    found = serve_api(rate_per_minute=40)
    first, second = found.token(Role.VIEWER), found.token(Role.VIEWER)
    with found.client(first) as client, found.client(second) as other:
        answers = [client.get("/api/v1/auth/me") for _ in range(11)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert other.get("/api/v1/auth/me").status_code == 200


def test_behind_a_trusted_proxy_each_client_has_its_own_rate(serve_api: ServeApi) -> None:
    served = serve_api(rate_per_address_per_minute=8, trusted_proxies=("127.0.0.1", "192.0.2.0/24"))  # 2 at once
    with served.client(served.admin) as client:

        def ask(forwarded: str | None) -> int:
            headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
            return client.get("/api/v1/jobs", headers=headers).status_code

        assert [ask("198.51.100.7") for _ in range(3)] == [200, 200, 429]
        assert [ask("198.51.100.8") for _ in range(3)] == [200, 200, 429], "another client, another bucket"
        assert ask("203.0.113.1, 198.51.100.8, 192.0.2.9") == 429, (
            "who is behind the last trusted proxy, whatever it claims"
        )
        assert [ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8::3")] == [200, 200, 429], "a host has a whole /64"
        assert ask("2001:db8:0:1::1") == 200
        assert [ask("<script>"), ask("nobody"), ask("_hidden")] == [200, 200, 429], "what is no address is all one"
        answer = client.post("/api/v1/auth/tokens", json={"label": "x"}, headers={"X-Forwarded-For": "198.51.100.9"})
        assert answer.status_code == 201
        lines = client.get(
            "/api/v1/auth/audit?action=token.create", headers={"X-Forwarded-For": "198.51.100.9"}
        ).json()["entries"]
        assert [line["address"] for line in lines] == ["198.51.100.9"]


def test_a_stranger_does_not_say_who_it_is(serve_api: ServeApi) -> None:
    for trusted in ((), ("192.0.2.1",)):
        served = serve_api(rate_per_address_per_minute=8, trusted_proxies=trusted)
        with served.client(served.admin) as client:
            codes = [
                client.get("/status", headers={"X-Forwarded-For": f"198.51.100.{one}"}).status_code for one in range(3)
            ]
            assert codes == [200, 200, 429]


def test_too_many_logins(serve_api: ServeApi) -> None:
    found = serve_api(login_rate_per_minute=8)
    with found.client() as client:
        body = {"username": "nobody", "password": "wrong"}
        assert [client.post("/api/v1/auth/login", json=body).status_code for _ in range(3)] == [401, 401, 429]
    with found.client(found.admin) as client:
        assert client.get("/status").status_code == 200


def test_a_body_that_is_too_large(serve_api: ServeApi) -> None:
    found = serve_api(max_body_bytes=10_000)

    def unannounced() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    with found.client(found.admin) as client:
        for content in (b"x" * 10_001, unannounced()):
            answer = client.post("/jobs/submit", content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert client.post("/jobs/submit", content=b"x" * 10_000).status_code == 400
    for length in (b"99999999999999999999", b"-1", b"1e3", b"+5", b"5, 5"):
        with socket.create_connection((found.host, found.port), 10) as sock:
            sock.sendall(b"POST /jobs/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n")
            assert sock.recv(4096).split(b" ")[1] in (b"400", b"401", b"413"), length


BODIES = ("/jobs/submit", "/jobs/query", "/jobs/cancel", "/api/v1/jobs", "/api/v1/endpoints", "/api/v1/auth/login")


def _dripping(found: ServedApi, path: str, *headers: str, pause_s: float = 0.1) -> tuple[bytes, dict[str, Any]]:
    """Status line and JSON of the answer to a request whose head comes at once and whose body a byte now and then."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {found.admin}",
        "Content-Type: application/json",
        *headers,
    ]
    with socket.create_connection((found.host, found.port), 20) as sock:
        sock.sendall("\r\n".join([*head, "Content-Length: 1000", "", ""]).encode())
        sock.settimeout(pause_s)
        data = b""
        until = time.monotonic() + 20
        while b"\r\n\r\n" not in data and time.monotonic() < until:
            try:
                sock.sendall(b" ")
                data += sock.recv(4096)
            except TimeoutError:
                continue
        sock.settimeout(5)
        head_of, _, rest = data.partition(b"\r\n\r\n")
        length = int(head_of.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(rest) < length and (more := sock.recv(4096)):
            rest += more
    return head_of.partition(b"\r\n")[0], json.loads(rest)


def test_a_slow_body_is_told_from_a_slow_answer_on_every_route(serve_api: ServeApi) -> None:
    """The time of the body and that of the answer are over at the same moment: which one it was must not be chance. A
    byte now and then does not keep a request alive."""
    found = serve_api(request_timeout_s=1.0)
    wanted = [(path, *more) for path in BODIES for more in ((), ("Idempotency-Key: k-" + path.replace("/", "-"),))]
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda one: _dripping(found, *one), wanted))
    for one, (status, body) in zip(wanted, answers, strict=True):
        assert (status, body["code"]) == (b"HTTP/1.1 408 Request Timeout", "request_slow"), one


def test_a_body_that_does_not_come(serve_api: ServeApi) -> None:
    found = serve_api(request_timeout_s=1.0)
    status, body = _dripping(found, "/jobs/submit", pause_s=3.0)
    assert (status, body["code"]) == (b"HTTP/1.1 408 Request Timeout", "request_slow")


def test_a_body_that_grows_too_large_is_told_so_on_every_route(serve_api: ServeApi) -> None:
    """In chunks, so that its length is not known before."""
    found = serve_api(max_body_bytes=1000)
    with found.client(found.admin) as client:
        for path in BODIES:
            answer = client.post(path, content=iter([b" " * 600] * 2), headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), path


def test_an_answer_that_does_not_come(serve_api: ServeApi) -> None:
    counted = Counted()
    counted.hold.clear()
    found = serve_api(request_timeout_s=1.0, change=counted.add)
    with found.client(found.admin) as client:
        answer = client.get("/test/slow")
        assert (answer.status_code, answer.json()["code"]) == (504, "request_timeout")
        counted.hold.set()


# Idempotency-Key


def post(api: ServedApi, token: str, key: str | None, body: object, path: str = "/test/count") -> Any:
    with api.client(token) as client:
        return client.post(path, json=body, headers={} if key is None else {"Idempotency-Key": key})


def test_the_first_answer_comes_again(serve_api: ServeApi) -> None:
    counted = Counted()
    found = serve_api(change=counted.add)
    first = post(found, found.admin, "k1", {"a": 1})
    again = post(found, found.admin, "k1", {"a": 1})
    assert counted.runs == 1
    assert first.json() == again.json()
    assert first.status_code == again.status_code
    assert first.headers["content-type"] == again.headers["content-type"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert post(found, found.admin, "k2", {"a": 1}).json()["run"] == 2
    assert post(found, found.admin, None, {"a": 1}).json()["run"] == 3


def test_another_request_with_the_same_key(serve_api: ServeApi) -> None:
    counted = Counted()
    found = serve_api(change=counted.add)
    post(found, found.admin, "k1", {"a": 1})
    for answer in (
        post(found, found.admin, "k1", {"a": 2}),
        post(found, found.admin, "k1", {"a": 1}, "/test/count?x=1"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_reused")
    assert post(found, found.token(Role.OPERATOR), "k1", {"a": 2}).status_code == 200, "keys are per user"


@pytest.mark.parametrize("scope", ["viewer", "operator", "metrics"])
def test_a_token_that_may_less_does_not_get_the_answer_of_one_that_may_more(serve_api: ServeApi, scope: str) -> None:
    found, path, body = serve_api(), "/api/v1/auth/tokens", {"label": "ci", "scope": "admin"}
    tokens, user = found.services.access.tokens, found.services.access.users.get("admin")
    less, same = (tokens.create(user.id, "test", one)[1].reveal() for one in (scope, "admin"))
    first = post(found, found.admin, "k1", body, path)
    assert first.status_code == 201
    for _ in range(2):
        answer = post(found, less, "k1", body, path)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert first.json()["token"] not in answer.text
    assert post(found, same, "k1", body, path).json() == first.json(), "another token of the same scope"
    with found.client() as browser:
        found.services.access.users.change("admin", password=Secret(PASSWORD))
        login = browser.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD}).json()
        headers = {"Idempotency-Key": "k1", "X-CSRF-Token": login["csrf_token"]}
        assert browser.post(path, json=body, headers=headers).json() == first.json(), "a session may as much"


def test_a_user_who_may_less_than_before_does_not_get_the_answer_of_then(serve_api: ServeApi) -> None:
    found, path, body = serve_api(), "/api/v1/auth/tokens", {"label": "ci", "scope": "admin"}
    users = found.services.access.users
    user = users.create("ann", Role.ADMIN, None)
    token = found.services.access.tokens.create(user.id, "test", "admin")[1].reveal()
    assert post(found, token, "x" * 128, body, path).status_code == 201
    users.change("ann", role=Role.VIEWER)
    assert post(found, token, "x" * 128, body, path).status_code == 403


def test_one_at_a_time(serve_api: ServeApi) -> None:
    counted = Counted()
    counted.hold.clear()
    found = serve_api(change=counted.add)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, found, found.admin, "k1", {"a": 1})
        eventually(lambda: counted.runs)
        others = [pool.submit(post, found, found.admin, "k1", {"a": 1}) for _ in range(3)]
        for other in others:
            answer = other.result(20)
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_running")
            assert answer.headers["Retry-After"] == "1"
        counted.hold.set()
        assert first.result(20).status_code == 200
    assert counted.runs == 1
    assert post(found, found.admin, "k1", {"a": 1}).json()["run"] == 1


def test_what_a_dead_process_did_not_answer_is_asked_again_at_once(services: Services) -> None:
    answers = Answers(services.database, services.vault)
    first = answers.begin("user:k1", "digest")
    assert isinstance(first, float)
    assert refused(answers, "digest") == KEY_RUNNING
    create_app(services)  # the next start
    assert refused(answers, "another digest") == KEY_REUSED
    assert answers.begin("user:k1", "digest") == first, "as of the first time"
    assert refused(answers, "digest") == KEY_RUNNING


def refused(answers: Answers, request: str) -> str:
    """The code of the refusal."""
    with pytest.raises(UsageError) as caught:
        answers.begin("user:k1", request)
    return caught.value.code


def aged(database: Database, seconds: float) -> None:
    """Every key was first seen, and taken up if it has no answer, so much longer ago."""
    with database.write() as connection:
        earlier = {"at": idempotency.c.at - seconds, "taken_at": idempotency.c.taken_at - seconds}
        connection.execute(sa.update(idempotency).values(earlier))


def test_what_another_node_did_not_answer_is_asked_again_by_one(database: Database) -> None:
    answers = Answers(database, Vault(bytes(32)))
    assert isinstance(answers.begin("user:k1", "digest"), float)
    aged(database, STALE_S + 1)
    with database.read() as connection:
        first_seen = connection.execute(sa.select(idempotency.c.at)).scalar_one()

    def ask() -> StoredAnswer | float | None:
        try:
            return answers.begin("user:k1", "digest")
        except UsageError as error:
            if error.code != KEY_RUNNING:
                raise
            return None

    with ThreadPoolExecutor(4) as pool:
        found = [one.result(60) for one in [pool.submit(ask) for _ in range(8)]]
    assert [one for one in found if one is not None] == [first_seen]
    answers.keep("user:k1", StoredAnswer(200, [], b"done"))
    again = answers.begin("user:k1", "digest")
    assert isinstance(again, StoredAnswer)
    assert again.body == b"done"
    aged(database, KEEP_S)
    renewed = answers.begin("user:k1", "another digest")
    assert isinstance(renewed, float)
    assert renewed > first_seen


def test_a_failure_may_be_tried_again(serve_api: ServeApi) -> None:
    counted = Counted()
    counted.status = 500
    found = serve_api(change=counted.add)
    assert post(found, found.admin, "k1", {"a": 1}).json()["code"] == "daemon_internal"
    counted.status = 200
    assert post(found, found.admin, "k1", {"a": 1}).json()["run"] == 2


def test_a_refusal_is_an_answer(serve_api: ServeApi) -> None:
    found = serve_api()
    made = [post(found, found.admin, "k1", {"name": "ann"}, "/api/v1/auth/users") for _ in range(2)]
    assert [one.status_code for one in made] == [201, 201]
    refused = [post(found, found.admin, "k2", {"name": "ann"}, "/api/v1/auth/users") for _ in range(2)]
    assert [one.status_code for one in refused] == [409, 409]
    assert refused[1].headers["idempotency-replayed"] == "true"
    assert refused[1].headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 129, "a/b"])
def test_what_is_no_key(serve_api: ServeApi, key: str) -> None:
    found = serve_api()
    with found.client(found.admin) as client:
        answer = client.post("/api/v1/auth/users", json={"name": "ann"}, headers={b"Idempotency-Key": key.encode()})
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key")


def test_a_token_that_is_shown_once_is_shown_again_to_the_same_key_after_a_restart(tmp_path: Path) -> None:
    with served(tmp_path) as found:
        admin = found.admin
        first = post(found, admin, "k1", {"label": "ci"}, "/api/v1/auth/tokens").json()
        assert found.services.database.path is not None
        with found.services.database.read() as connection:
            row = connection.execute(sa.select(idempotency)).one()
        assert first["token"].encode() not in row.answer, "the answer is sealed"
    with served(tmp_path) as found:
        assert post(found, admin, "k1", {"label": "ci"}, "/api/v1/auth/tokens").json() == first
        with found.client(admin) as client:
            assert len(client.get("/api/v1/auth/tokens").json()["tokens"]) == 2
        # A process that died while it answered: the key is taken for a while, then free.
        with found.services.database.write() as connection:
            now = found.services.database.now(connection)
            connection.execute(sa.update(idempotency).values(status=None, answer=None, taken_at=now))
        assert post(found, admin, "k1", {"label": "ci"}, "/api/v1/auth/tokens").status_code == 409
        aged(found.services.database, STALE_S + 1)
        assert post(found, admin, "k1", {"label": "ci"}, "/api/v1/auth/tokens").json()["token"] != first["token"]


def test_jobs_are_submitted_once(serve_api: ServeApi) -> None:
    found = serve_api()
    body = {"name": "a", "vm_path": "/dc/vm/a", "output_path": str(found.services.settings.export_roots[0] / "a")}
    answers = [post(found, found.admin, "k", body, "/jobs/submit") for _ in range(3)]
    assert len({json.dumps(one.json()["job_ids"]) for one in answers}) == 1
    with found.client(found.admin) as client:
        assert client.get("/jobs/query", params={"all": True}).json()["total"] == 1


def submitted(api: ServedApi, path: str = "/api/v1/jobs", name: str = "a") -> Any:
    """What a script that runs every night sends, with its one key."""
    folder = api.services.settings.export_roots[0] / name
    return post(api, api.admin, "nightly", {"vm_path": f"/dc/vm/{name}", "output_path": str(folder)}, path)


def job_of(answer: Any) -> str:
    """The one job of a submit."""
    found = answer.json()
    (job_id,) = found["job_ids"] if "job_ids" in found else [one["id"] for one in found["accepted"]]
    return str(job_id)


@pytest.mark.parametrize("path", ["/jobs/submit", "/api/v1/jobs"])
def test_a_key_is_new_the_next_night(serve_api: ServeApi, path: str) -> None:
    found = serve_api()
    nights = [job_of(submitted(found, path))]
    for _ in range(2):
        aged(found.services.database, KEEP_S - 60)
        again = submitted(found, path)
        assert (job_of(again), again.headers["idempotency-replayed"]) == (nights[-1], "true")
        aged(found.services.database, 23 * 3600 - 60 - (KEEP_S - 60))  # a minute early, and the clock was set forward
        answer = submitted(found, path)
        assert "idempotency-replayed" not in answer.headers
        nights.append(job_of(answer))
    assert len(set(nights)) == 3
    assert sum(found.services.jobs.counts().values()) == 3


def test_a_submit_that_the_daemon_died_of_is_one_submit(tmp_path: Path) -> None:
    with served(tmp_path) as found:
        first = job_of(submitted(found))
        with found.services.database.write() as connection:  # as if the answer had not been kept
            now = found.services.database.now(connection)
            connection.execute(sa.update(idempotency).values(status=None, answer=None, taken_at=now))
        assert submitted(found).json()["code"] == "idempotency_running"
    with served(tmp_path) as found:
        answer = submitted(found, name="b")
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_reused")
        answer = submitted(found)
        assert (job_of(answer), answer.status_code) == (first, 201)
        assert "idempotency-replayed" not in answer.headers, "it was done again, and made nothing new"
        assert submitted(found).headers["idempotency-replayed"] == "true"
        assert sum(found.services.jobs.counts().values()) == 1


def test_a_submit_that_failed_half_way_is_one_submit(serve_api: ServeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    found = serve_api()
    with monkeypatch.context() as planted:
        planted.setattr("hypersdk.api.routes.jobs.tell_submission", lambda *_: 1 / 0)  # its jobs are there by then
        assert submitted(found).status_code == 500
    (first,) = found.services.jobs.ids(Filter())
    assert job_of(submitted(found)) == first


def test_another_key_of_the_vault_makes_no_second_jobs(serve_api: ServeApi) -> None:
    found = serve_api()
    services = found.services
    first = job_of(submitted(found))
    reseal(services.database, services.vault, services.vault)
    with services.database.read() as connection:
        assert connection.execute(sa.select(idempotency.c.answer)).scalars().all() == [None]
    assert job_of(submitted(found)) == first
