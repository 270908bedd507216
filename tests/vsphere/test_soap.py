"""Property replies from a server that lies: each ends in a named error, in bounded time, and leaves no half-read
connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import AccessError, ConnectError, HyperSDKError
from hypersdk.net.certificate import TlsPolicy
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere import soap
from hypersdk.vsphere.answers import PROPERTIES
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import filter_spec, read_objects, to_int
from tests.support.soapresponses import CONTENT, ENVELOPE, LOGIN, LOGOUT, OBJECT, VERSIONS
from tests.support.tls import Authority
from tests.support.tlsserver import TlsServer, answering, http_answer


def _reply(inner: str, method: str = "RetrievePropertiesEx") -> bytes:
    return http_answer(
        ENVELOPE.format(
            f'<{method}Response xmlns="urn:vim25"><returnval>{inner}</returnval></{method}Response>'
        ).encode()
    )


def _fault(kind: str, inner: str = "", status: str = "500 Internal Server Error") -> bytes:
    detail = f'<detail><{kind}Fault xmlns="urn:vim25" xsi:type="{kind}">{inner}</{kind}Fault></detail>' if kind else ""
    text = f"<e:Fault><faultcode>ServerFaultCode</faultcode><faultstring>said</faultstring>{detail}</e:Fault>"
    return http_answer(ENVELOPE.format(text).encode(), status)


class Liar:
    """Logs everyone in; answers property calls from a list."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.logins = 0

    def __call__(self, request: bytes) -> bytes:
        if b"vimServiceVersions" in request:
            return http_answer(VERSIONS)
        if b"<RetrieveServiceContent" in request:
            return http_answer(ENVELOPE.format(CONTENT).encode())
        if b"<Login " in request or b"<Login>" in request:
            self.logins += 1
            cookie = f'Set-Cookie: vmware_soap_session="c{self.logins}"; Path=/'
            return http_answer(ENVELOPE.format(LOGIN.format(self.logins)).encode(), "200 OK", cookie)
        if b"RetrievePropertiesEx" in request:
            return self.replies.pop(0)
        return http_answer(ENVELOPE.format(LOGOUT).encode())


@pytest.fixture(scope="module")
def liar() -> Liar:
    return Liar()


@pytest.fixture(scope="module")
def server(liar: Liar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    identity = Authority(tmp_path_factory.mktemp("ca")).identity("localhost", "127.0.0.1")
    with TlsServer(identity, answering(liar)) as running:
        yield running


@pytest.fixture(scope="module")
def read(liar: Liar, server: TlsServer) -> Iterator[Callable[..., list[str]]]:
    """Reads the morefs of all objects that the given replies hold, in one go."""
    with ExitStack() as stack:
        endpoint = Endpoint("127.0.0.1", server.port, "u", Secret("p"), TlsPolicy(insecure=True))
        session = stack.enter_context(Session.connect(endpoint, cancel=CancelToken()))

        def go(*replies: bytes, cancel: CancelToken | None = None) -> list[str]:
            liar.replies[:] = replies
            spec = filter_spec([session.ref("Folder", "group-d1")], {"Folder": ("name",)})
            token = cancel or CancelToken()
            return session.call(lambda: [item.moref for item in read_objects(session, spec, cancel=token)])

        yield go


Read = Callable[..., list[str]]


def test_pages_follow_the_token(read: Read) -> None:
    first = _reply(OBJECT.format("a") + OBJECT.format("b") + "<token>t1</token>")
    second = _reply("<token>t2</token>" + OBJECT.format("c"), "ContinueRetrievePropertiesEx")
    last = _reply(OBJECT.format("d"), "ContinueRetrievePropertiesEx")
    assert read(first, second, last) == ["a", "b", "c", "d"]


def test_an_empty_answer_is_no_object(read: Read) -> None:
    assert read(http_answer(ENVELOPE.format('<RetrievePropertiesExResponse xmlns="urn:vim25"/>').encode())) == []


def test_one_connection_serves_all(read: Read, server: TlsServer) -> None:
    read(_reply(OBJECT.format("a")))
    before = server.connections
    for _ in range(5):
        read(_reply(OBJECT.format("a")))
    assert server.connections == before


BOMB = (
    '<!DOCTYPE e [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c'
    ' "&b;&b;&b;&b;&b;&b;">]>'
)
FILE = '<!DOCTYPE e [<!ENTITY f SYSTEM "file:///etc/passwd">]>'


def _with_doctype(doctype: str, entity: str) -> bytes:
    body = ENVELOPE.format(
        f'<R xmlns="urn:vim25"><returnval><objects><obj type="Folder">{entity}</obj></objects></returnval></R>'
    )
    return http_answer(body.replace("?>", "?>" + doctype, 1).encode())


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (http_answer(b"<html>Bad gateway</html>", "502 Bad Gateway"), "bad_answer"),
        (http_answer(b"", "302 Found", "Location: https://192.0.2.1/sdk"), "bad_answer"),
        (http_answer(b"not xml at all"), "bad_answer"),
        (http_answer(b""), "bad_answer"),
        (http_answer(_reply(OBJECT.format("a")).partition(b"\r\n\r\n")[2][:-60]), "bad_answer"),
        (_reply("<objects><propSet><name>name</name></propSet></objects>"), "bad_answer"),
        (_reply("<objects><obj/></objects><x>" + "<y>" * 300 + "</y>" * 300 + "</x>"), "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nX-Hang-Up: 1\r\n\r\n<e:Envelope", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Hang-Up: 1\r\n\r\n5\r\n<e:En", "connect_failed"),
        (b"220 smtp.example.com ESMTP\r\nX-Hang-Up: 1\r\n\r\n", "bad_answer"),
        (_fault("InventedByNoOne"), "bad_answer"),
        (_fault(""), "vsphere_fault"),
        (http_answer(b"oops", "500 Internal Server Error"), "bad_answer"),
        (
            _fault("NoPermission", '<object type="Folder">group-d1</object><privilegeId>System.View</privilegeId>'),
            "privilege_missing",
        ),
    ],
)
def test_a_lie_ends_in_a_named_error_and_the_next_call_works(read: Read, reply: bytes, code: str) -> None:
    with pytest.raises(HyperSDKError) as caught:
        read(reply)
    assert caught.value.code == code
    assert read(_reply(OBJECT.format("next"))) == ["next"]


def test_entities_are_never_expanded(read: Read) -> None:
    for reply in (_with_doctype(BOMB, "&c;"), _with_doctype(FILE, "&f;")):
        assert _read_or_code(read, reply) in ("bad_answer", [""])


def _read_or_code(read: Read, reply: bytes) -> list[str] | str:
    try:
        return read(reply)
    except ConnectError as error:
        return error.code


def test_an_endless_answer_is_cut(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "PROPERTIES", replace(PROPERTIES, wire_bytes=200_000))
    with pytest.raises(ConnectError, match="larger than 200000 bytes"):
        read(_reply(OBJECT.format("x") * 5000))


def test_what_comes_between_two_objects_is_cut(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "MAX_OBJECT_BYTES", 200_000)
    assert len(read(_reply(OBJECT.format("x") * 5000))) == 5000, "many objects are none that is too large"
    for much in ("<x/>" * 100_000, "<x>" + "x" * 400_000 + "</x>", OBJECT.format("y" * 400_000)):
        with pytest.raises(ConnectError, match="an object in the server's answer is larger"):
            read(_reply(OBJECT.format("x") + much))


def test_more_objects_or_pages_than_there_can_be_are_cut(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "MAX_OBJECTS", 50)
    assert len(read(_reply(OBJECT.format("x") * 50))) == 50
    with pytest.raises(ConnectError, match="more than 50 objects"):
        read(_reply(OBJECT.format("x") * 51))
    monkeypatch.setattr(soap, "MAX_PAGES", 3)
    with pytest.raises(ConnectError, match="more than 3 pages"):
        read(
            *[
                _reply(f"<token>{page}</token>", method)
                for page, method in enumerate(("RetrievePropertiesEx", *["ContinueRetrievePropertiesEx"] * 2))
            ]
        )


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_a_fault_is_one_whatever_the_status(read: Read, status: str) -> None:
    reply = _fault(
        "NoPermission", '<object type="Folder">group-d1</object><privilegeId>System.View</privilegeId>', status
    )
    with pytest.raises(AccessError) as caught:
        read(reply)
    assert caught.value.code == "privilege_missing"


def test_an_answer_to_another_question_is_none(read: Read) -> None:
    for inner in (
        LOGOUT,
        "<x/>",
        f'<FindByUuidResponse xmlns="urn:vim25"><returnval>{OBJECT.format("x")}</returnval></FindByUuidResponse>',
    ):
        with pytest.raises(ConnectError, match="does not contain the requested data"):
            read(http_answer(ENVELOPE.format(inner).encode()))


NOT_AUTHENTICATED = (
    '<objects><obj type="Folder">a</obj><missingSet><path>name</path><fault><fault xsi:type="{}"/>'
    "<localizedMessage>said</localizedMessage></fault></missingSet></objects>"
)


def test_a_missing_property_is_unset_but_a_lost_session_is_renewed(read: Read, liar: Liar) -> None:
    assert read(_reply(NOT_AUTHENTICATED.format("NoPermission"))) == ["a"]
    before = liar.logins
    assert read(_reply(NOT_AUTHENTICATED.format("NotAuthenticated")), _reply(OBJECT.format("b"))) == ["b"]
    assert liar.logins == before + 1
    with pytest.raises(AccessError) as caught:
        read(*[_fault("NotAuthenticated", '<object type="Folder">f</object><privilegeId>p</privilegeId>')] * 2)
    assert caught.value.code == "not_authenticated"
    assert liar.logins == before + 2


@given(st.text(max_size=40))
def test_numbers(text: str) -> None:
    value = to_int(text)
    assert value is None or (len(text) <= 20 and value == int(text))
