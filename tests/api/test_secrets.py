"""Secrets that go in come out nowhere: planted ones are looked for in every answer, log, file and (decoded) table."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import logging
import pickle
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hypersdk.access.roles import Role
from hypersdk.api.app import guarded_routes
from hypersdk.secret import Secret
from hypersdk.state.pages import ListConditions
from tests.support.servedapi import ServedApi, served
from tests.support.simulator import SimulatorFactory

PLANTED = {
    "user": "planted-user-password-1",
    "endpoint": "planted-endpoint-password-2",
    "job": "planted-job-password-3",
    "url": "planted-url-password-4",
    "wrong": "planted-wrong-password-5",
    "env": "planted-env-password-6",
    "name": "planted-name-field-password-7",
    "passphrase": "planted-disk-passphrase-8",
}

JOB_ROUTES = (("/jobs", ""), ("/api/v1/jobs", ""), ("/api/v1/jobs", "/explain"), ("/api/v1/jobs", "/logs"))


def decoded(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """``data`` and what may be inside: base64, hex, zlib, gzip, UTF-16, pickle."""
    yield data
    if not depth:
        return
    for word in re.findall(rb"[A-Za-z0-9+/_=-]{16,}", data):
        for decode in (
            lambda text: base64.urlsafe_b64decode(text + b"=="),
            lambda text: base64.b64decode(text + b"=="),
            binascii.unhexlify,
        ):
            try:
                yield from decoded(decode(word), depth - 1)
            except (ValueError, binascii.Error):
                continue
    for unpack in (zlib.decompress, gzip.decompress):
        try:
            yield from decoded(unpack(data), depth - 1)
        except (zlib.error, OSError, EOFError):
            continue
    if data[:1] == b"\x80":
        yield repr(pickle.loads(data)).encode()
    yield data.replace(b"\0", b"")


def cells(api: ServedApi) -> Iterator[tuple[str, bytes]]:
    """Every value of every table, as bytes."""
    database = api.services.database
    names = sa.inspect(database.engine).get_table_names()
    with database.read() as connection:
        for name in names:
            for row in connection.execute(sa.text(f'SELECT * FROM "{name}"')):
                for value in row:
                    yield name, value if isinstance(value, bytes) else str(value).encode()


def test_the_search_finds_what_is_hidden() -> None:
    text = PLANTED["job"].encode()
    hidden = [
        text,
        base64.b64encode(text),
        text.hex().encode(),
        zlib.compress(base64.b64encode(b"x" + text)),
        base64.b64encode(pickle.dumps({"a": text.decode()})),
    ]
    for one in hidden:
        assert any(text in form for form in decoded(b'{"a": "' + one + b'"}' if one[:1] != b"x" else one)), one


@pytest.mark.slow
def test_planted_secrets_are_nowhere(
    tmp_path: Path, simulator: SimulatorFactory, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for client_of_the_test in ("httpx", "httpcore"):
        caplog.set_level(logging.WARNING, client_of_the_test)
    vcenter = simulator(vms=1, username="user", password=Secret(PLANTED["endpoint"]))
    environ = {"GOVC_URL": "https://vcenter.example.com", "GOVC_PASSWORD": PLANTED["env"], "VC": PLANTED["endpoint"]}
    texts: list[str] = []
    shown_once: set[str] = set()
    with served(tmp_path, environ=environ) as found, found.client(found.admin) as client:
        host = vcenter.url.removeprefix("https://").removesuffix("/sdk").rpartition("@")[2]

        def post(path: str, body: object, **headers: str) -> Any:
            answer = client.post(path, json=body, headers=headers)
            texts.append(answer.text + str(answer.headers))
            return json.loads(answer.text or "null")

        post(
            "/api/v1/auth/users",
            {"name": "ann", "role": "operator", "password": PLANTED["user"]},
            **{"Idempotency-Key": "k1"},
        )
        post("/api/v1/auth/users", {"name": "b b", "password": PLANTED["user"], "x": PLANTED["wrong"]})
        client.patch("/api/v1/auth/users/ann", json={"password": PLANTED["user"]})
        with found.client() as browser:
            for password in (PLANTED["wrong"], PLANTED["user"]):
                answer = browser.post("/api/v1/auth/login", json={"username": "ann", "password": password})
                texts.append(re.sub('"csrf_token":"[^"]*"', "", answer.text))
            shown_once.add(browser.cookies["hypersdk_session"])
            for number in range(7):  # a password typed as the name, until that name is locked
                body = {"username": PLANTED["name"], "password": "x"}
                headers = {"Idempotency-Key": f"n{number}"} if number % 2 else {}
                refused = browser.post("/api/v1/auth/login", json=body, headers=headers)
                assert refused.status_code == (401 if number < 5 else 429)
                texts.append(refused.text + str(refused.headers))
            assert client.post("/api/v1/auth/login", json=body).status_code == 429
            browser.get(
                "/status", headers={"Authorization": "Basic " + base64.b64encode(PLANTED["user"].encode()).decode()}
            )
            browser.get("/status", headers={"Authorization": "Bearer " + PLANTED["wrong"]})
            browser.post("/api/v1/auth/login?password=" + PLANTED["wrong"], json={})
        shown_once.add(
            str(
                client.post("/api/v1/auth/tokens", json={"label": "once"}, headers={"Idempotency-Key": "k2"}).json()[
                    "token"
                ]
            )
        )
        one = {"name": "vc1", "url": f"https://{host}", "username": "user", "password": PLANTED["endpoint"]}
        pin = post("/api/v1/endpoints", one)["sha256"]
        post("/api/v1/endpoints", one | {"thumbprint": pin}, **{"Idempotency-Key": "k3"})
        post("/api/v1/endpoints", one | {"name": "vc2", "thumbprint": pin, "password": PLANTED["wrong"]})
        post("/api/v1/endpoints", {"name": "vc3", "url": f"https://user:{PLANTED['url']}@{host}", "insecure": True})
        post(
            "/api/v1/endpoints",
            {"name": "vc4", "url": f"https://{host}", "username": "user", "secret_ref": "env:VC", "insecure": True},
        )
        post("/api/v1/endpoints", one | {"name": "bad name", "surprise": PLANTED["wrong"]})
        for name in ("vc1", "vc2", "vc3", "vc4"):
            post(f"/api/v1/endpoints/{name}/test", None)
        job = {"name": "a", "vm_path": "/dc/vm/a", "output_path": str(tmp_path / "exports" / "a")}
        vcenters: tuple[dict[str, object], ...] = (
            {"vcenter": {"server": "192.0.2.1", "username": "u", "password": PLANTED["job"]}},
            {"vcenter_url": f"https://u:{PLANTED['url']}@192.0.2.1/sdk"},
            {"vcenter": {"server": "127.0.0.1", "username": "u", "password": PLANTED["job"]}},
            {"vcenter": {"server": "192.0.2.1", "pasword": PLANTED["job"]}},
            {"vcenter": PLANTED["job"]},
        )
        for number, more in enumerate(vcenters):
            for path in ("/jobs/submit", "/api/v1/jobs"):
                post(
                    path,
                    job | more | {"output_path": str(tmp_path / "exports" / f"{number}{path[1]}")},
                    **{"Idempotency-Key": f"j{number}{path[1]}"},
                )
        post("/api/v1/endpoints", {"name": "kvm1", "kind": "libvirt", "url": "test:///default"})
        root = tmp_path / "exports"
        imported = {"kind": "import", "to": "kvm1", "source": str(root / "a.ova"), "output_path": str(root / "b")}
        key = {"device": "/dev/sda2", "passphrase": PLANTED["passphrase"]}
        for keys in (
            [key],
            [{"passphrase": f"{PLANTED['passphrase']}\n"}],
            [{**key, "file": "x"}],
            PLANTED["passphrase"],
        ):
            post("/api/v1/jobs", {**imported, "keys": keys})
        broken = client.post(
            "/jobs/submit",
            content=f"vcenter: {{password: {PLANTED['job']}, ]",
            headers={"Content-Type": "application/yaml"},
        )
        texts.append(broken.text)
        for route in guarded_routes(found.app):
            if "GET" in route.methods and "events" not in route.path:
                texts += [client.get(re.sub(r"\{[^}]+\}", value, route.path)).text for value in ("ann", "vc1", "vc3")]
        ids = [one["definition"]["id"] for one in client.get("/jobs/query", params={"all": True}).json()["jobs"]]
        assert ids
        opened = [sealed for job_id in ids if (sealed := found.services.jobs.sealed_secret(job_id)) is not None]
        assert opened
        for one_id in ids:
            texts += [client.get(f"{start}/{one_id}{end}").text for start, end in JOB_ROUTES]
        lines = [
            one.actor for one in found.services.access.audit.page(ListConditions(equal=(("action", ("login",)),))).rows
        ]
        assert (lines.count("(unknown user)"), lines.count("ann")) == (8, 2)
        shown_once.add(found.admin)
        values = list(cells(found))
        assert {"users", "endpoints", "jobs", "audit", "idempotency", "logins", "api_tokens"} <= {
            name for name, _ in values
        }
        secrets = [*PLANTED.values(), *shown_once]
        for name, value in values:
            for form in decoded(value):
                assert not [one for one in secrets if one.encode() in form], name
    captured = capfd.readouterr()
    logged = [caplog.text, captured.out, captured.err, *(str(record.__dict__) for record in caplog.records)]
    for text in [*texts, *logged]:
        for form in decoded(text.encode(), depth=1):
            assert not [one for one in [*PLANTED.values()] if one.encode() in form], text[:500]
    for text in logged:
        assert not [one for one in shown_once if one in text]
    for file in (tmp_path / "state").rglob("*"):
        if file.is_file() and file.name != "admin.token":
            data = file.read_bytes()
            assert not [one for one in secrets if one.encode() in data], file


@pytest.mark.parametrize(
    "folder",
    [
        "/etc",
        "/etc/hypersdk",
        "../../etc",
        "{root}/../../etc",
        "/proc/self/root/etc",
        "{root}\0x",
        "/",
        "",
    ],
)
def test_no_export_leaves_its_root(tmp_path: Path, folder: str) -> None:
    with served(tmp_path) as found, found.client(found.token(Role.OPERATOR)) as client:
        root = found.services.settings.export_roots[0]
        body = {"name": "a", "vm_path": "/dc/vm/a", "output_path": folder.replace("{root}", str(root))}
        answer = client.post("/jobs/submit", json=body).json()
        assert answer["accepted"] == 0, folder
        assert answer["rejected"] == 1
