"""Tags, on vcsim's Automation API; govc makes them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from hypersdk.errors import Cancelled, HyperSDKError, LookupFailed
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.connection import TrustedConnection
from hypersdk.vsphere.session import About, Session
from hypersdk.vsphere.tags import tagged_machines
from tests.support.peers import Vcsim, running_vcsim
from tests.support.simulator import SimulatorFactory
from tests.support.tlsserver import Script, TlsServer, answering, http_answer
from tests.support.vsphere import connect, log_in_to

NAMES = ("DC0_H0_VM0", "DC0_H0_VM1", "DC0_C0_RP0_VM0")


@pytest.fixture(scope="module")
def server() -> Iterator[Vcsim]:
    with running_vcsim(vm=2) as vcsim:
        for category, *names in (("env", "prod", "linux"), ("os", "linux", "a:b"), ("a", "b")):
            vcsim.govc("tags.category.create", category)
            for name in names:
                vcsim.govc("tags.create", "-c", category, name)
        for name in NAMES[:2]:
            vcsim.govc("tags.attach", "-c", "env", "prod", f"/DC0/vm/{name}")
        vcsim.govc("tags.attach", "-c", "os", "linux", f"/DC0/vm/{NAMES[2]}")
        vcsim.govc("tags.attach", "-c", "os", "a:b", f"/DC0/vm/{NAMES[1]}")
        vcsim.govc("tags.attach", "-c", "env", "prod", "/DC0/datastore/LocalDS_0")
        yield vcsim


def names(server: Vcsim, session: Session, *tags: str) -> list[str]:
    """By what govc calls them."""
    found = tagged_machines(session, tags, cancel=CancelToken())
    return sorted(server.govc("object.collect", "-s", f"VirtualMachine:{moref}", "name").strip() for moref in found)


def test_machines_with_a_tag_and_nothing_else_that_has_it(server: Vcsim, session: Session) -> None:
    assert names(server, session, "prod") == sorted(NAMES[:2])
    assert names(server, session, "env:prod") == sorted(NAMES[:2])
    assert names(server, session, "prod", "os:linux") == sorted(NAMES)
    assert names(server, session, "env:linux") == []


def test_a_name_with_a_colon_comes_before_a_category(server: Vcsim, session: Session) -> None:
    assert names(server, session, "a:b") == [NAMES[1]]
    assert names(server, session, "os:a:b") == [NAMES[1]]


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ("linux", "ambiguous", "env:linux, os:linux"),
        ("prd", "tag_not_found", "there are: a:b, b, linux, prod"),
        ("nosuch:prod", "tag_not_found", "nosuch:prod"),
    ],
)
def test_a_tag_that_is_not_one(session: Session, wanted: str, code: str, said: str) -> None:
    with pytest.raises(HyperSDKError) as caught:
        tagged_machines(session, [wanted], cancel=CancelToken())
    assert caught.value.code == code
    assert said in caught.value.message


@pytest.mark.parametrize("wanted", ["prod", "nosuch"])
def test_the_login_for_tags_ends_with_them(
    server: Vcsim, session: Session, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    seen: list[tuple[str, str, dict[str, str]]] = []
    request = TrustedConnection.request

    def noting(self: TrustedConnection, method: str, path: str, body: object, headers: dict[str, str]) -> None:
        seen.append((method, path, headers))
        request(self, method, path, body, headers)

    monkeypatch.setattr(TrustedConnection, "request", noting)
    with suppress(LookupFailed):
        tagged_machines(session, [wanted], cancel=CancelToken())
    assert [seen[0][:2], seen[-1][:2]] == [
        ("POST", "/rest/com/vmware/cis/session"),
        ("DELETE", "/rest/com/vmware/cis/session"),
    ]
    login = base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
    assert [headers.get("Authorization") for _, _, headers in seen] == [f"Basic {login}"] + [None] * (len(seen) - 1)


def test_a_server_without_tags_says_so(simulator: SimulatorFactory) -> None:
    with running_vcsim(esx=True) as host, connect(host) as on_host, pytest.raises(HyperSDKError) as caught:
        tagged_machines(on_host, ["prod"], cancel=CancelToken())
    assert caught.value.code == "tags_unavailable"
    assert "is an ESXi host" in caught.value.message
    with log_in_to(simulator(vms=1)) as without, pytest.raises(HyperSDKError) as caught:
        tagged_machines(without, ["prod"], cancel=CancelToken())
    assert caught.value.code == "tags_unavailable"
    assert "offers no tags" in caught.value.message


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([(b"", "401 Unauthorized")], "login_refused"),
        ([(b"", "404 Not Found")], "tags_unavailable"),
        ([(b'{"value": "id"}', "200 OK"), (b"", "403 Forbidden")], "access_denied"),
        ([(b'{"value": "id"}', "200 OK"), (b"\x1b[2Jbusy", "503 Busy")], "http_refused"),
        ([(b"<html>", "200 OK")], "bad_answer"),
        ([(b'{"value": 7}', "200 OK")], "bad_answer"),
        ([(b'{"value": "a\\r\\nX: y"}', "200 OK")], "bad_answer"),
        ([(b"[" * 100_000, "200 OK")], "bad_answer"),
        ([(b'{"value": "id"}', "200 OK"), (b'{"value": [7]}', "200 OK")], "bad_answer"),
        ([(b'{"value": "id"}', "200 OK"), (b'{"value": {"a": 1}}', "200 OK")], "bad_answer"),
        ([(b'{"value": "id"}', "200 OK"), (b'{"value": ["x"]}', "200 OK"), (b'{"value": []}', "200 OK")], "bad_answer"),
        ([(b"x" * 300_000, "200 OK")], "bad_answer"),
        ([(b"", "301 Moved")], "http_refused"),
    ],
)
def test_an_answer_that_is_not_one_is_an_error_of_its_kind(
    tls_server: Callable[[Script], TlsServer], answers: list[tuple[bytes, str]], code: str
) -> None:
    left = iter(answers)
    server = tls_server(answering(lambda _request: http_answer(*next(left, (b'{"value": []}', "200 OK")))))
    about = About("", "", "8", "1", "8.0", "VirtualCenter", None)
    endpoint = replace(server.endpoint(), password=Secret("secret"))
    session = cast(Session, SimpleNamespace(endpoint=endpoint, about=about))
    with pytest.raises(HyperSDKError) as caught:
        tagged_machines(session, ["prod"], cancel=CancelToken())
    assert caught.value.code == code
    assert "secret" not in caught.value.message
    assert "\x1b" not in caught.value.message


def test_a_cancelled_run_asks_nothing(session: Session) -> None:
    cancel = CancelToken()
    cancel.cancel("interrupted")
    with pytest.raises(Cancelled):
        tagged_machines(session, ["prod"], cancel=cancel)
