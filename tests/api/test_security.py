"""Who gets in and who may: over the whole route table, on a real server."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI

from hypersdk.access.roles import Role
from hypersdk.api.app import Guarded, guarded_routes
from hypersdk.api.headers import CSP
from hypersdk.api.problems import is_legacy
from hypersdk.api.security import OPEN, READS
from hypersdk.errors import UsageError
from hypersdk.state.tables import logins
from tests.support.servedapi import PASSWORD, ServeApi, ServedApi, served


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


def filled(route: Guarded) -> str:
    """The path with something in each place."""
    return re.sub(r"\{[^}]+\}", "x", route.path)


def every(api: ServedApi) -> list[tuple[str, Guarded]]:
    return [(method, route) for route in guarded_routes(api.app) for method in sorted(route.methods)]


def test_the_route_table_is_the_one_of_the_design(running: ServedApi) -> None:
    paths = {route.path for route in guarded_routes(running.app)}
    assert {
        "/health",
        "/status",
        "/jobs/submit",
        "/jobs/query",
        "/jobs/{id}",
        "/jobs/cancel",
        "/metrics",
        "/ready",
        "/docs",
    } <= paths
    assert {(method, route.path) for method, route in every(running) if route.open} == OPEN


def test_without_a_token_it_is_401_everywhere(running: ServedApi) -> None:
    with running.client() as client:
        for method, route in every(running):
            answer = client.request(method, filled(route))
            if route.open:
                assert answer.status_code != 401, route
                continue
            assert answer.status_code == 401, (method, route)
            assert answer.headers["www-authenticate"] == "Bearer"
            if method == "HEAD":
                assert answer.content == b""
                continue
            assert answer.json()["code"] == "unauthenticated"
            assert ("error" in answer.json()) == is_legacy(route.path)


@pytest.mark.parametrize(
    "header", ["Bearer hst_" + "A" * 43, "Bearer", "Basic YWRtaW46YWRtaW4=", "hst_x", "Bearer a b", "bearer"]
)
def test_a_wrong_token_is_401_everywhere(running: ServedApi, header: str) -> None:
    with running.client() as client:
        for method, route in every(running):
            if not route.open:
                assert client.request(method, filled(route), headers={"Authorization": header}).status_code == 401, (
                    method,
                    route,
                )


def test_what_does_not_exist_tells_a_stranger_nothing(running: ServedApi) -> None:
    with running.client() as client:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND"):
            for path in (
                "/nothing",
                "/api/v1/../../etc/passwd",
                "/%2e%2e/%2e%2e/etc/passwd",
                "//health",
                "/health/",
                "/HEALTH",
            ):
                # the whole address: as a path, httpx would take //health for a host
                assert client.request(method, f"{running.url}{path}").status_code == 401, (method, path)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_a_lower_role_is_403_everywhere_it_is_not_enough(running: ServedApi, role: Role) -> None:
    checked = 0
    with running.client(running.token(role)) as client:
        for method, route in every(running):
            if route.role is None or role.allows(route.role):
                continue
            answer = client.request(method, filled(route), content=b"{}", headers={"Content-Type": "application/json"})
            assert answer.status_code == 403, (method, route)
            assert method == "HEAD" or answer.json()["code"] == "forbidden"
            checked += 1
    assert checked >= 8


def test_every_write_needs_more_than_a_viewer(running: ServedApi) -> None:
    own = {
        "/api/v1/auth/login",
        "/api/v1/auth/logout",
        "/api/v1/auth/password",
        "/api/v1/auth/tokens",
        "/api/v1/auth/tokens/{token_id}",
        "/jobs/query",
    }
    """What a viewer may write: its own session, password and tokens; and a query that is sent as POST."""
    writes = {
        route.path for method, route in every(running) if method not in READS and route.role in (None, Role.VIEWER)
    }
    assert writes <= own


def test_a_viewer_sees_names_of_files_and_not_what_is_in_them(running: ServedApi) -> None:
    needed = {route.path: route.role for _, route in every(running)}
    assert needed["/api/v1/jobs/{id}/artifacts"] is Role.VIEWER
    assert needed["/api/v1/jobs/{id}/artifacts/{name}"] is Role.OPERATOR


@pytest.mark.parametrize(
    "path",
    [
        "/jobs",
        "/endpoints",
        "/workers",
        "/auth/users",
        "/auth/tokens",
        "/auth/audit",
        "/auth/permissions",
        "/statistics/history",
        "/jobs/x/attempts",
        "/jobs/x/artifacts",
    ],
)
def test_a_list_refuses_what_it_does_not_know(running: ServedApi, path: str) -> None:
    with running.client(running.admin) as client:
        answer = client.get(f"/api/v1{path}", params={"order": "name", "colour": "red"})
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
        assert answer.json()["fields"] == ["query.order", "query.colour"]
        assert client.get(f"/api/v1{path}").status_code == (404 if "/x/" in path else 200)


def test_a_write_refuses_what_it_does_not_know(running: ServedApi) -> None:
    with running.client(running.token(Role.OPERATOR)) as client:
        for path in (
            "jobs?prority=5",
            "jobs/x/cancel?keep_partail=true",
            "jobs/x/retry?discrad=true",
            "jobs/bulk?dry_run=true",
        ):
            answer = client.post(f"/api/v1/{path}", json={"action": "cancel", "ids": ["x"]})
            assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), path
        assert client.post("/api/v1/jobs/x/cancel?keep_partial=true").status_code == 404
        assert client.get("/jobs/query?all=true&_=1").status_code == 200, (
            "the legacy routes look away: programs send such"
        )


def test_a_list_takes_what_it_knows(running: ServedApi) -> None:
    known = {
        "auth/tokens": "all=true",
        "auth/audit": "actor=a&action=b&outcome=ok&before=9&limit=1",
        "statistics/history": "since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z&points=5",
    }
    with running.client(running.admin) as client:
        for path, query in known.items():
            assert client.get(f"/api/v1/{path}?{query}").status_code == 200, path
    with running.client(running.token(Role.VIEWER)) as client:
        assert client.get("/api/v1/auth/users?order=name").status_code == 403, "who may not is told that first"


def test_an_administrator_is_never_401_or_403(running: ServedApi) -> None:
    with running.client(running.admin) as client:
        for method, route in every(running):
            if method in ("GET", "HEAD") and "events" not in route.path:
                assert client.request(method, filled(route)).status_code in (200, 404, 422, 503), (method, route)


def test_the_metrics_scope_reads_metrics_and_nothing_else(running: ServedApi) -> None:
    with running.client(running.token(Role.ADMIN, "metrics")) as client:
        assert client.get("/metrics").status_code == 200
        for method, route in every(running):
            if route.role is not None:
                assert client.request(method, filled(route)).status_code == 403, (method, route)
    with running.client() as client:
        assert client.get("/metrics").status_code == 401


def test_public_metrics(serve_api: ServeApi) -> None:
    with serve_api(public_metrics=True).client() as client:
        assert client.get("/metrics").status_code == 200
        assert client.head("/metrics").status_code == 200
        assert client.get("/status").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_balancer_asks_with_head(running: ServedApi, path: str) -> None:
    with running.client() as stranger, running.client(running.admin) as client:
        for one in (stranger, client):
            get, head = one.get(path), one.head(path)
            assert head.status_code == get.status_code
            assert (head.content, head.headers["content-length"]) == (b"", get.headers["content-length"])
        assert "head" not in client.get("/openapi.json").json()["paths"][path]
        assert client.head("/status").status_code == 405
    with socket.create_connection((running.host, running.port), 10) as sock:
        sock.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\n"), "no body"


def test_head_is_get_without_a_body(running: ServedApi) -> None:
    routes = guarded_routes(running.app)
    needed = {(method, route.path): route.role for route in routes for method in route.methods}
    native = [route for route in routes if "GET" in route.methods and not is_legacy(route.path)]
    assert len(native) > 20
    with running.client(running.admin) as client:
        for route in native:
            if route.path == "/api/v1/events":
                answer = client.head(route.path)
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
                continue
            assert needed["HEAD", route.path] is route.role
            get, head = client.get(filled(route)), client.head(filled(route))
            assert (head.status_code, head.content) == (get.status_code, b""), route
            assert head.headers["content-type"] == get.headers["content-type"], route
        document = client.get("/openapi.json").json()
        assert not [path for path, methods in document["paths"].items() if "head" in methods]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/jobs/query", "GET, POST"),
        ("PUT", "/jobs/x", "GET"),
        ("HEAD", "/status", "GET"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/api/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/api/v1/jobs/x", "DELETE, GET, HEAD"),
        ("GET", "/api/v1/jobs/x/cancel", "POST"),
        ("PUT", "/api/v1/auth/users/x", "DELETE, GET, HEAD, PATCH"),
        ("TRACE", "/api/v1/auth/tokens", "GET, HEAD, POST"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
    ],
)
def test_allow_names_the_methods_of_every_route_at_the_address(
    running: ServedApi, method: str, path: str, allow: str
) -> None:
    with running.client(running.admin) as client:
        answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("guards", [0, 2])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_route_without_exactly_one_guard_does_not_start(guards: int, method: str) -> None:
    from fastapi import Depends

    from hypersdk.api.security import admin, viewer

    app, router = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), APIRouter(prefix="/x")

    add = router.get if method == "GET" else router.head

    @add("/forgotten", dependencies=[Depends(viewer), Depends(admin)][:guards])
    def forgotten() -> None: ...

    app.include_router(router)
    with pytest.raises(RuntimeError, match="/x/forgotten needs one guard"):
        guarded_routes(app)


# Sessions of browsers


def logged_in(api: ServedApi, client: httpx.Client, role: Role = Role.OPERATOR, name: str | None = None) -> str:
    """Logs the client in; the CSRF token."""
    name = api.user(role, name)
    answer = client.post("/api/v1/auth/login", json={"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["csrf_token"])


def test_a_session_by_cookie(running: ServedApi) -> None:
    with running.client() as client:
        csrf = logged_in(running, client, name="cookie-user")
        cookie = next(iter(client.cookies.jar))
        assert cookie.name == "hypersdk_session"
        assert cookie.has_nonstandard_attr("HttpOnly")
        me = client.get("/api/v1/auth/me").json()
        assert (me["name"], me["role"], me["via"], me["csrf_token"]) == ("cookie-user", "operator", "cookie", csrf)
        denied = [one for one in me["permissions"] if not one["allowed"]]
        assert {one["reason"] for one in denied} == {"needs the role admin; you have operator"}
        kept = client.cookies["hypersdk_session"]
        assert client.post("/api/v1/auth/logout", headers={"X-CSRF-Token": csrf}).status_code == 204
        client.cookies.set("hypersdk_session", kept)
        assert client.get("/api/v1/auth/me").status_code == 401, "the session is gone on the server too"


def test_the_cookies_flags(running: ServedApi) -> None:
    with running.client() as client:
        name = running.user(Role.VIEWER, "flags")
        header = client.post("/api/v1/auth/login", json={"username": name, "password": PASSWORD}).headers["set-cookie"]
    parts = {part.strip().lower() for part in header.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= parts
    assert "secure" not in parts, "plain HTTP on loopback; see test_server for TLS"


@pytest.mark.parametrize("change", ["used_at", "expires_at"])
def test_a_session_that_has_ended(running: ServedApi, change: str) -> None:
    with running.client() as client:
        logged_in(running, client, name=f"ended-{change}")
        assert client.get("/api/v1/auth/me").status_code == 200
        with running.services.database.write() as connection:
            connection.execute(sa.update(logins).values({change: 1.0}))
        assert client.get("/api/v1/auth/me").status_code == 401


def test_a_write_by_cookie_needs_the_csrf_token(running: ServedApi) -> None:
    with running.client() as client:
        csrf = logged_in(running, client, name="csrf-user")
        path = "/api/v1/auth/tokens"
        for headers in (
            {},
            {"X-CSRF-Token": ""},
            {"X-CSRF-Token": csrf[:-1]},
            {"X-CSRF-Token": csrf + "x"},
            {"X-CSRF-Token": "é"},
        ):
            encoded = {key.encode(): value.encode() for key, value in headers.items()}
            answer = client.post(path, json={"label": "a"}, headers=encoded)
            assert (answer.status_code, answer.json()["code"]) == (403, "csrf_refused"), headers
        assert client.post(path, json={"label": "a"}, headers={"X-CSRF-Token": csrf}).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_another_sites_page_writes_nothing(running: ServedApi, headers: dict[str, str]) -> None:
    with running.client() as client:
        csrf = logged_in(running, client, name=f"origin-{abs(hash(tuple(headers.items())))}")
        answer = client.post("/api/v1/auth/tokens", json={"label": "a"}, headers=headers | {"X-CSRF-Token": csrf})
        assert (answer.status_code, answer.json()["code"]) == (403, "csrf_refused")
        # Neither does it log somebody in, nor does a token that it got hold of help it.
        body = {"username": "origin", "password": PASSWORD}
        assert client.post("/api/v1/auth/login", json=body, headers=headers).status_code == 403
    with running.client(running.admin) as client:
        assert client.post("/jobs/submit", json={}, headers=headers).status_code == 403


def test_our_own_pages_write(running: ServedApi) -> None:
    with running.client() as client:
        csrf = logged_in(running, client, name="own-page")
        headers = {"Origin": running.url, "Sec-Fetch-Site": "same-origin", "X-CSRF-Token": csrf}
        assert client.post("/api/v1/auth/tokens", json={"label": "a"}, headers=headers).status_code == 201


def test_a_bad_token_beside_a_good_cookie_is_refused(running: ServedApi) -> None:
    with running.client() as client:
        logged_in(running, client, name="both")
        assert client.get("/api/v1/auth/me", headers={"Authorization": "Bearer hst_no"}).status_code == 401


# Hosts and headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:80", 200),
        ("127.9.9.9", 200),
        ("[::1]:8080", 200),
        ("x.localhost", 200),
        ("evil.example.com", 403),
        ("evil.example.com:8080", 403),
        ("127.0.0.1.evil.example.com", 403),
        ("192.0.2.1", 403),
        ("", 403),
        ("localhost.evil.example.com", 403),
        ("localhost@evil.example.com", 403),
    ],
)
def test_the_host_must_be_ours(running: ServedApi, host: str, status: int) -> None:
    with running.client() as client:
        answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["code"] == "host_refused"


def test_no_host_or_two(running: ServedApi) -> None:
    for lines in (b"", b"Host: localhost\r\nHost: evil.example.com\r\n"):
        with socket.create_connection((running.host, running.port), 10) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
            assert sock.recv(4096).split(b" ")[1] in (b"400", b"403")


# Behind a proxy

PUBLIC = "hypervisord.example.com"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    """On loopback, for a proxy that serves it as ``PUBLIC``."""
    with served(tmp_path_factory.mktemp("proxied"), allowed_hosts=(PUBLIC,)) as found:
        yield found


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (PUBLIC, 200),
        (PUBLIC.upper(), 200),
        (f"{PUBLIC}:8443", 200),
        (f"{PUBLIC}.", 200),
        ("localhost", 200),
        ("evil.example.com", 403),
        (f"x.{PUBLIC}", 403),
        (f"{PUBLIC}.evil.example.com", 403),
        (f"{PUBLIC}@evil.example.com", 403),
    ],
)
def test_a_proxys_name_is_a_host_of_ours_and_no_other_is(proxied: ServedApi, host: str, status: int) -> None:
    with proxied.client() as client:
        assert client.get("/health", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (PUBLIC, f"https://{PUBLIC}", 201),
        (f"{PUBLIC}:443", f"https://{PUBLIC}", 201),
        (PUBLIC, f"http://{PUBLIC}", 201),
        (f"{PUBLIC}:8443", f"https://{PUBLIC}:8443", 201),
        (PUBLIC, "https://evil.example.com", 403),
        (PUBLIC, "null", 403),
        (PUBLIC, f"https://x.{PUBLIC}", 403),
        (PUBLIC, f"https://{PUBLIC}:8443", 403),
        (PUBLIC, f"ftp://{PUBLIC}", 403),
        ("localhost", "https://localhost", 403),
        ("localhost", f"https://{PUBLIC}", 403),
    ],
)
def test_pages_that_a_proxy_serves_by_tls_write(proxied: ServedApi, host: str, origin: str, status: int) -> None:
    with proxied.client() as client:
        name = proxied.user(Role.VIEWER, f"proxied-{abs(hash((host, origin)))}")
        login = client.post("/api/v1/auth/login", json={"username": name, "password": PASSWORD}).json()
        session = f"hypersdk_session={client.cookies['hypersdk_session']}"
    headers = {"Host": host, "Origin": origin, "X-CSRF-Token": login["csrf_token"], "Cookie": session}
    with proxied.client() as client:
        assert client.post("/api/v1/auth/tokens", json={"label": "a"}, headers=headers).status_code == status
        del headers["X-CSRF-Token"]
        assert client.post("/api/v1/auth/tokens", json={"label": "a"}, headers=headers).status_code == 403


def test_a_trusted_proxy_says_whether_the_client_speaks_tls(tmp_path: Path) -> None:
    with served(tmp_path, trusted_proxies=("127.0.0.0/8",)) as found, found.client() as client:
        host = f"localhost:{found.port}"
        body = {"username": found.user(Role.VIEWER, "ann"), "password": PASSWORD}
        for proto, status in (("https", 200), ("http", 403)):
            headers = {"Host": host, "Origin": f"https://{host}", "X-Forwarded-Proto": proto}
            answer = client.post("/api/v1/auth/login", json=body, headers=headers)
            assert answer.status_code == status, answer.text
            assert ("strict-transport-security" in answer.headers) == (proto == "https")


def test_a_session_that_a_proxy_carried_by_tls_is_for_tls_only(proxied: ServedApi) -> None:
    body = {"username": proxied.user(Role.VIEWER, "by-tls"), "password": PASSWORD}
    with proxied.client() as client:
        for scheme in ("https", "http"):
            headers = {"Host": PUBLIC, "Origin": f"{scheme}://{PUBLIC}"}
            cookie = client.post("/api/v1/auth/login", json=body, headers=headers).headers["set-cookie"]
            assert ("; secure" in cookie.lower()) == (scheme == "https")


def test_a_public_name_without_authentication_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, served(tmp_path, auth=False, allowed_hosts=(PUBLIC,)):
        pass
    assert caught.value.code == "no_auth_public"


def test_headers_are_on_every_answer(running: ServedApi) -> None:
    with running.client(running.admin) as client, running.client() as stranger:
        for answer in (
            client.get("/health"),
            client.get("/docs"),
            client.get("/status"),
            client.get("/nothing"),
            stranger.get("/status"),
            client.post("/jobs/submit", content=b"\xff"),
            client.get("/health", headers={"Host": "evil.example.com"}),
        ):
            policy = answer.headers["content-security-policy"]
            assert policy == CSP or (answer.url.path == "/docs" and policy.startswith(f"{CSP}; style-src 'sha256-"))
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers
            assert "strict-transport-security" not in answer.headers


# Without authentication


def test_no_auth_lets_everybody_in_and_says_so(serve_api: ServeApi, caplog: pytest.LogCaptureFixture) -> None:
    found = serve_api(auth=False)
    assert "NO AUTHENTICATION" in caplog.text
    with found.client() as client:
        assert client.get("/api/v1/auth/me").json()["via"] == "local"
        assert client.get("/status").status_code == 200
        assert client.post("/api/v1/auth/tokens", json={"label": "a"}).status_code == 201
        # A web page still reaches nothing.
        assert (
            client.post("/jobs/submit", content=b"{}", headers={"Origin": "https://evil.example.com"}).status_code
            == 403
        )
        assert client.get("/status", headers={"Host": "evil.example.com"}).status_code == 403


@pytest.mark.parametrize("addr", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"])
def test_no_auth_and_plain_http_are_for_loopback_only(tmp_path: Path, addr: str) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"auth": False, "tls_self_signed": True}, "no_auth_public"),
        ({}, "tls_required"),
    ]
    for settings, code in cases:
        with pytest.raises(UsageError) as caught, served(tmp_path, addr=addr, **settings):
            pass
        assert caught.value.code == code


@pytest.mark.parametrize(
    "addr", ["localhost", "8080", "a:b:1", "::1:80", "localhost:99999", "localhost:-1", "localhost:8o80", ""]
)
def test_what_is_no_address(tmp_path: Path, addr: str) -> None:
    with pytest.raises(UsageError) as caught, served(tmp_path, addr=addr):
        pass
    assert caught.value.code == "listen_address"


# Users and tokens over the API


def test_users_over_the_api(running: ServedApi) -> None:
    with running.client(running.admin) as client:
        made = client.post("/api/v1/auth/users", json={"name": "carol", "role": "operator", "password": PASSWORD})
        assert made.status_code == 201
        assert PASSWORD not in made.text
        assert client.post("/api/v1/auth/users", json={"name": "carol"}).json()["code"] == "user_exists"
        assert (
            client.post("/api/v1/auth/users", json={"name": "x", "password": "short"}).json()["code"] == "user_invalid"
        )
        assert client.post("/api/v1/auth/users", json={"name": "x", "surprise": 1}).status_code == 422
        assert client.patch("/api/v1/auth/users/carol", json={"disabled": True}).json()["disabled"] is True
        assert client.get("/api/v1/auth/users/carol").json()["role"] == "operator"
        body = {"username": "carol", "password": PASSWORD}
        assert client.post("/api/v1/auth/login", json=body).json()["code"] == "login_wrong", "disabled looks like wrong"
        assert client.delete("/api/v1/auth/users/carol").status_code == 204
        assert client.get("/api/v1/auth/users/carol").json()["code"] == "user_unknown"
        actions = [one["action"] for one in client.get("/api/v1/auth/audit").json()["entries"]]
        assert {"user.create", "user.change", "user.delete", "login"} <= set(actions)


@pytest.mark.parametrize("key", ["%00", "a%00b", "%ff", "..%2f..%2fetc", "'%20OR%201=1", "x" * 5000])
def test_strange_names_are_unknown(running: ServedApi, key: str) -> None:
    with running.client(running.token(Role.ADMIN)) as client:
        for path in ("/api/v1/auth/users/", "/api/v1/endpoints/"):
            assert client.get(path + key).status_code in (404, 422), (path, key)
        assert client.delete("/api/v1/auth/tokens/" + key).status_code == 404


@pytest.mark.parametrize(
    "text",
    [
        '{"username":"a\\u0000b","password":"x"}',
        '{"username":"\\ud800","password":"x"}',
        '{"username":"a","password":"\\ud800"}',
        "[]",
        "",
        "\xff",
        '{"username":"a"}',
        "9" * 5000,
        "[" * 100_000,
    ],
    ids=["nul", "half name", "half password", "list", "empty", "not utf-8", "no password", "digits", "deep"],
)
def test_a_login_that_is_none(running: ServedApi, text: str) -> None:
    with running.client() as client:
        answer = client.post(
            "/api/v1/auth/login", content=text.encode("latin-1"), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 401, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_tokens_over_the_api(running: ServedApi) -> None:
    viewer = running.token(Role.VIEWER)
    with running.client(viewer) as client, running.client(running.token(Role.ADMIN)) as boss:
        made = client.post("/api/v1/auth/tokens", json={"label": "ci"})
        text = made.json()["token"]
        assert made.json()["expires_at"] is not None
        assert text not in client.get("/api/v1/auth/tokens").text
        with running.client(text) as other:
            assert other.get("/status").status_code == 200
        assert client.post("/api/v1/auth/tokens", json={"label": "ci", "scope": "admin"}).status_code == 403
        assert client.post("/api/v1/auth/tokens", json={"label": "ci", "user": "admin"}).status_code == 403
        assert client.get("/api/v1/auth/tokens", params={"all": True}).status_code == 403
        theirs = boss.post("/api/v1/auth/tokens", json={"label": "boss"}).json()["id"]
        assert client.delete(f"/api/v1/auth/tokens/{theirs}").status_code == 403
        assert boss.delete(f"/api/v1/auth/tokens/{made.json()['id']}").status_code == 204
        with running.client(text) as other:
            assert other.get("/status").status_code == 401


def test_a_token_makes_no_token_that_outlives_it(running: ServedApi) -> None:
    path, access = "/api/v1/auth/tokens", running.services.access
    user = access.users.get(running.user(Role.ADMIN, "short-lived"))
    made, text = access.tokens.create(user.id, "an hour", "admin", lifetime_s=3600)
    assert made.expires_at is not None
    with running.client(text.reveal()) as client:
        for body in ({"expires_in_days": None}, {"expires_in_days": 1}, {"expires_in_days": None, "user": "admin"}):
            answer = client.post(path, json={"label": "a", **body})
            assert (answer.status_code, answer.json()["code"]) == (403, "token_outlives"), body
        assert client.post(path, json={"label": "a", "expires_in_days": 0.01}).status_code == 201
        inherited = client.post(path, json={"label": "a"}).json()
        assert access.tokens.get(inherited["id"]).expires_at == pytest.approx(
            made.expires_at, abs=timedelta(seconds=0.01)
        )
    with running.client() as browser:  # acts with the user's role, not with a token's life
        csrf = logged_in(running, browser, name="long-lived")
        answer = browser.post(path, json={"label": "a", "expires_in_days": 365}, headers={"X-CSRF-Token": csrf})
        assert answer.status_code == 201


def test_a_token_revokes_itself_and_none_that_is_above_it(running: ServedApi) -> None:
    path, access = "/api/v1/auth/tokens", running.services.access
    user = access.users.get(running.user(Role.ADMIN, "many-tokens"))
    ids, texts = {}, {}
    for scope in ("metrics", "viewer", "operator", "admin"):
        token, text = access.tokens.create(user.id, scope, scope)
        ids[scope], texts[scope] = token.id, text.reveal()
    same = access.tokens.create(user.id, "another", "viewer")[0].id
    with running.client(texts["viewer"]) as client:
        for scope in ("operator", "admin"):
            answer = client.delete(f"{path}/{ids[scope]}")
            assert (answer.status_code, answer.json()["code"]) == (403, "token_above")
        for token_id in (ids["metrics"], same, ids["viewer"]):
            assert client.delete(f"{path}/{token_id}").status_code == 204
        assert client.get(path).status_code == 401
    with running.client(texts["operator"]) as client:
        assert client.delete(f"{path}/{ids['operator']}").status_code == 204
    with running.client() as browser:
        body = {"username": "many-tokens", "password": PASSWORD}
        csrf = browser.post("/api/v1/auth/login", json=body).json()["csrf_token"]
        assert browser.delete(f"{path}/{ids['admin']}", headers={"X-CSRF-Token": csrf}).status_code == 204


def test_ones_own_password(running: ServedApi) -> None:
    with running.client() as client:
        csrf = logged_in(running, client, Role.VIEWER, "changer")
        headers = {"X-CSRF-Token": csrf}
        body = {"current": "wrong", "new": "another long one"}
        assert client.post("/api/v1/auth/password", json=body, headers=headers).json()["code"] == "login_wrong"
        body["current"] = PASSWORD
        assert client.post("/api/v1/auth/password", json=body, headers=headers).status_code == 204
        assert client.get("/api/v1/auth/me").status_code == 401, "its sessions ended"
        again = {"username": "changer", "password": "another long one"}
        assert client.post("/api/v1/auth/login", json=again).status_code == 200


def test_lockout_over_the_api(running: ServedApi) -> None:
    with running.client() as client:
        name = running.user(Role.VIEWER, "locked")
        body = {"username": name, "password": "wrong"}
        codes = [client.post("/api/v1/auth/login", json=body).status_code for _ in range(5)]
        assert codes == [401] * 5
        answer = client.post("/api/v1/auth/login", json=body | {"password": PASSWORD})
        assert (answer.status_code, answer.json()["code"]) == (429, "login_locked")
        assert 1 <= int(answer.headers["retry-after"]) <= 3


@pytest.mark.parametrize("give_up", [False, True])
def test_the_audit_trail_says_what_was_given_up(running: ServedApi, give_up: bool) -> None:
    with running.client(running.token(Role.OPERATOR)) as client, running.client(running.token(Role.ADMIN)) as boss:
        client.delete("/api/v1/jobs/absent", params={"give_up": give_up})
        (line,) = boss.get("/api/v1/auth/audit", params={"limit": 1}).json()["entries"]
    assert (line["action"], line["detail"]) == ("DELETE /api/v1/jobs/{id}", {"give_up": True} if give_up else {})


def test_every_write_is_in_the_audit_trail(running: ServedApi) -> None:
    with running.client(running.token(Role.OPERATOR)) as client, running.client(running.token(Role.ADMIN)) as boss:
        client.post("/api/v1/jobs/absent/cancel")
        client.post("/api/v1/endpoints", json={"name": "x", "url": "https://192.0.2.1"})
        client.post("/jobs/query", json={"all": True})
        found = boss.get("/api/v1/auth/audit", params={"limit": 2}).json()["entries"]
    assert [(one["action"], one["object"], one["outcome"], one["address"]) for one in found] == [
        ("POST /api/v1/endpoints", "/api/v1/endpoints", "403", "127.0.0.1"),
        ("POST /api/v1/jobs/{id}/cancel", "/api/v1/jobs/absent/cancel", "404", "127.0.0.1"),
    ]
