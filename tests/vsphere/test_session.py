"""Sessions, against vcsim and against servers that are none."""

from __future__ import annotations

import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.errors import AccessError, Cancelled, ConnectError, HyperSDKError, LookupFailed, UsageError
from hypersdk.net.certificate import TlsPolicy
from hypersdk.net.proxy import Proxy
from hypersdk.secret import Secret
from hypersdk.simulator import Simulator, SimulatorConfig
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from hypersdk.vsphere.answers import CALL, UNKNOWN_SERVER
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.inventory import list_machines
from hypersdk.vsphere.session import Session
from tests.support.peers import Vcsim, running_vcsim
from tests.support.tls import Authority, Identity
from tests.support.tlsserver import ConnectProxy, TlsServer, answering, http_answer
from tests.support.vsphere import connect, endpoint_of
from tests.support.waiting import eventually

PASSWORD = 'pässwörd <&> "quoted" %2f'


@pytest.fixture(scope="module")
def server() -> Iterator[Vcsim]:
    with running_vcsim(vm=1, username="DOM\\üser@vsphere.local", password=PASSWORD) as running:
        yield running


@pytest.fixture
def session(server: Vcsim) -> Iterator[Session]:
    with connect(server) as opened:
        yield opened


def _sessions(server: Vcsim) -> set[str]:
    """Keys of all sessions on the server, but for the one of the govc that asks."""
    listed = json.loads(server.govc("session.ls", "-json"))
    return {entry["key"] for entry in listed["sessionList"]} - {listed["currentSession"]["key"]}


def _end(server: Vcsim, session: Session) -> None:
    server.govc("session.rm", session.key)


def test_login_tells_what_the_server_is(server: Vcsim, session: Session) -> None:
    about = json.loads(server.govc("about", "-json"))["about"]
    assert (session.about.full_name, session.about.build) == (about["fullName"], about["build"])
    assert session.about.instance_uuid == about["instanceUuid"]
    assert session.about.is_vcenter
    assert session.key in _sessions(server)
    assert abs(session.server_time().timestamp() - time.time()) < 60


def test_cookie_is_bare_and_never_shown(session: Session) -> None:
    cookie = session.cookie_value()
    assert cookie.reveal()
    assert not set(cookie.reveal()) & set('";= ')
    assert cookie.reveal() not in repr(cookie) + str(cookie) + repr(session)


def test_close_logs_out_and_ends_the_thread(server: Vcsim) -> None:
    session = connect(server)
    key = session.key
    assert key in _sessions(server)
    session.close()
    session.close()
    assert key not in _sessions(server)
    assert not session.keepalive.is_alive()
    with pytest.raises(AccessError) as caught:
        session.server_time()
    assert caught.value.code == "not_authenticated"
    assert key not in _sessions(server)


def _text(exc: BaseException) -> str:
    shown = "".join(traceback.format_exception(exc))
    return shown + (json.dumps(exc.as_dict()) if isinstance(exc, HyperSDKError) else "")


def test_a_wrong_password_is_refused_and_not_shown(server: Vcsim) -> None:
    endpoint = replace(endpoint_of(server), password=Secret("wr0ng-pässword"))
    with pytest.raises(AccessError) as caught:
        Session.connect(endpoint, cancel=CancelToken())
    assert caught.value.code == "login_refused"
    assert caught.value.exit_status == 4
    assert "wr0ng" not in _text(caught.value) + repr(endpoint)


@pytest.mark.parametrize("missing", [{"username": ""}, {"password": None}])
def test_missing_credentials_are_said_before_anything_is_sent(missing: dict[str, str | None]) -> None:
    endpoint = Endpoint("vc.invalid", 443, "user", Secret("pw"), TlsPolicy())
    with pytest.raises(UsageError) as caught:
        Session.connect(replace(endpoint, **missing), cancel=CancelToken())  # type: ignore[arg-type]
    assert caught.value.code == "no_password"


def test_a_cancelled_run_does_not_connect(server: Vcsim) -> None:
    cancel = CancelToken()
    cancel.cancel("test")
    before = _sessions(server)
    with pytest.raises(Cancelled):
        Session.connect(endpoint_of(server), cancel=cancel)
    assert _sessions(server) == before


def test_an_ended_session_is_renewed_silently(server: Vcsim, session: Session) -> None:
    old = session.key
    _end(server, session)
    name = session.call(lambda: session.ref("Folder", "group-d1").name)
    assert name == "Datacenters"
    assert session.key != old
    assert session.key in _sessions(server)


def test_many_threads_renew_it_once(server: Vcsim, session: Session) -> None:
    before = _sessions(server) - {session.key}
    _end(server, session)
    barrier = threading.Barrier(8)

    def ask(_: int) -> str:
        barrier.wait(90)
        return str(session.call(lambda: session.ref("Folder", "group-d1").name))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["Datacenters"] * 8
    assert _sessions(server) - before == {session.key}


def test_other_faults_are_translated_and_nothing_is_repeated(session: Session) -> None:
    calls = []

    def ask() -> str:
        calls.append(1)
        return str(session.ref("VirtualMachine", "vm-999999").name)

    with pytest.raises(LookupFailed) as caught:
        session.call(ask)
    assert caught.value.code == "object_gone"
    assert caught.value.fields["object"] == "VirtualMachine:vm-999999"
    assert len(calls) == 1


def test_an_answer_that_the_sdk_cannot_decode_is_named(server: Vcsim, session: Session) -> None:
    """vcsim sends empty enum elements in ``runtime``, which the SDK meets with an AttributeError."""
    moref = server.govc("find", "-i", "/", "-type", "m").split()[0].partition(":")[2]
    with pytest.raises(ConnectError) as caught:
        session.call(lambda: session.ref("VirtualMachine", moref).runtime)
    assert caught.value.code == "bad_answer"


def test_an_answer_without_elements_is_an_empty_list(session: Session) -> None:
    """On the wire it is no element at all, which the SDK reads as None."""
    nobody = "00000000-0000-4000-8000-000000000000"
    assert session.call(lambda: session.content.searchIndex.FindAllByUuid(None, nobody, True, True)) == []


def test_a_bug_in_the_caller_is_not_disguised(session: Session) -> None:
    with pytest.raises(ZeroDivisionError):
        session.call(lambda: 1 // 0)


def test_keepalive_asks_by_itself_and_renews(server: Vcsim) -> None:
    with connect(server, keepalive_s=0.05) as session:
        old = session.key
        _end(server, session)
        eventually(lambda: session.key != old)
        assert session.keepalive.is_alive()


def test_keepalive_outlives_a_guard_that_refuses_for_a_moment(server: Vcsim) -> None:
    """A worker whose heartbeat is late may not call; once it is confirmed it may again."""
    late = threading.Event()
    refused: list[str] = []

    def guard() -> None:
        if late.is_set():
            refused.append(threading.current_thread().name)
            raise Cancelled("the heartbeat is late")

    with Session.connect(endpoint_of(server), cancel=CancelToken(), keepalive_s=0.05, guard=guard) as session:
        late.set()
        eventually(lambda: len(refused) >= 2)
        late.clear()
        assert session.keepalive.is_alive()
        old = session.key
        _end(server, session)
        eventually(lambda: session.key != old)


def test_keepalive_outlives_a_server_that_is_away_and_close_does_not_wait_for_it() -> None:
    with running_vcsim(vm=0, standalone_host=0) as gone:
        session = connect(gone, keepalive_s=0.05)
    time.sleep(0.2)
    assert session.keepalive.is_alive()
    started = time.monotonic()
    session.close()
    assert time.monotonic() - started < 5


def test_a_server_that_is_gone_is_a_connect_error() -> None:
    with running_vcsim(vm=0, standalone_host=0) as gone:
        endpoint = endpoint_of(gone)
        session = connect(gone)
    with pytest.raises(ConnectError) as caught:
        session.server_time()
    assert endpoint.address in caught.value.message
    session.close()
    with pytest.raises(ConnectError) as caught:
        Session.connect(endpoint, cancel=CancelToken())
    assert caught.value.code == "connection_refused"


def test_login_through_a_proxy(server: Vcsim) -> None:
    with ConnectProxy(target=(server.host, server.port)) as proxy:
        endpoint = replace(endpoint_of(server), host="vc.example.com", port=443, proxy=Proxy("127.0.0.1", proxy.port))
        with Session.connect(endpoint, cancel=CancelToken()) as session:
            assert session.about.is_vcenter
        assert all(head.startswith("CONNECT vc.example.com:443 ") for head in proxy.requests)
        assert not any("vmware_soap_session" in head or "vsphere.local" in head for head in proxy.requests)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Authority(tmp_path_factory.mktemp("ca")).identity("localhost", "127.0.0.1")


def _versions(namespace: str, version: str) -> bytes:
    space = f"<namespace><name>{namespace}</name><version>{version}</version></namespace>"
    return f'<namespaces version="1.0">{space}</namespaces>'.encode()


BOMB = b'<!DOCTYPE n [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><namespaces>&b;</namespaces>'


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b"<html>Welcome</html>", "200 OK", "Content-Type: text/html"),
        http_answer(b"", "404 Not Found"),
        http_answer(b"", "302 Found", "Location: https://192.0.2.1/sdk/vimServiceVersions.xml"),
        http_answer(b"<namespaces"),
        http_answer(BOMB),
        http_answer(_versions("urn:vim25", "99.9.9")),
        http_answer(_versions("urn:pbm", "8.0.3.0")),
        http_answer(b"<a>" + b"x" * UNKNOWN_SERVER.wire_bytes + b"</a>"),
        b"SSH-2.0-OpenSSH_9.2\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nX-Hang-Up: 1\r\n\r\n<namespaces>",
    ],
)
def test_what_is_no_vsphere_is_said_to_be_none_and_gets_no_password(identity: Identity, answer: bytes) -> None:
    with TlsServer(identity, answering(lambda _: answer)) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "user", Secret("s3cret"), TlsPolicy(insecure=True))
        with pytest.raises(ConnectError) as caught:
            Session.connect(endpoint, cancel=CancelToken())
        assert caught.value.code in ("bad_answer", "connect_failed")
        assert b"s3cret" not in server.received
        assert server.connections == 1


def test_a_pinned_server_that_changes_its_certificate_gets_no_password(identity: Identity) -> None:
    with TlsServer(identity, answering(lambda _: b"")) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "user", Secret("s3cret"), TlsPolicy(thumbprint="ab" * 32))
        with pytest.raises(ConnectError) as caught:
            Session.connect(endpoint, cancel=CancelToken())
        assert caught.value.code == "certificate_changed"
        assert not server.received


def test_login_with_a_pin(server: Vcsim, tmp_path: Path) -> None:
    with pytest.raises(ConnectError) as caught:
        Session.connect(replace(endpoint_of(server), tls=TlsPolicy()), cancel=CancelToken())
    pinned = replace(endpoint_of(server), tls=TlsPolicy(thumbprint=str(caught.value.fields["sha256"])))
    with Session.connect(pinned, cancel=CancelToken()) as session:
        assert session.key


# --- a server that hangs ---------------------------------------------------------------------------------------------


def _cancelled_soon(act: Callable[[CancelToken], object], begun: Callable[[], bool]) -> float:
    """Has another thread cancel what waits in ``act`` once ``begun``; seconds until it ended."""
    cancel = CancelToken()
    ended: list[float] = []

    def later() -> None:
        while not begun():
            time.sleep(0.01)
        time.sleep(0.2)
        ended.append(time.monotonic())
        cancel.cancel("enough")

    thread = threading.Thread(target=later)
    thread.start()
    with pytest.raises(Cancelled, match="enough"):
        act(cancel)
    took = time.monotonic() - ended[0]
    thread.join()
    return took


def test_a_cancel_ends_a_handshake_that_is_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ExitStack() as stack:
        endpoint = Endpoint("127.0.0.1", silent.getsockname()[1], "user", Secret("s3cret"), TlsPolicy(insecure=True))
        silent.settimeout(30)

        def accepted() -> bool:
            stack.enter_context(silent.accept()[0])
            return True

        assert _cancelled_soon(lambda cancel: Session.connect(endpoint, cancel=cancel), accepted) < 5


@pytest.mark.parametrize("method", ["RetrieveServiceContent", "Login"])
def test_a_cancel_ends_a_login_that_is_not_answered(method: str) -> None:
    with _hanging(method) as simulator:
        endpoint = _endpoint_of(simulator)
        assert _cancelled_soon(lambda cancel: Session.connect(endpoint, cancel=cancel), lambda: _hangs(simulator)) < 5


@contextmanager
def _hanging(*methods: str) -> Iterator[Simulator]:
    """A vCenter that does not answer these calls for two minutes."""
    with Simulator(SimulatorConfig()) as simulator:
        simulator.set_faults(*(Fault(FaultKind.STALL, method=method, seconds=120) for method in methods))
        yield simulator


def _hangs(simulator: Simulator) -> bool:
    return bool(simulator.faults.applied.get(FaultKind.STALL))


def _endpoint_of(simulator: Simulator) -> Endpoint:
    return Endpoint(
        "127.0.0.1", simulator.port, simulator.username, Secret(simulator.password), TlsPolicy(insecure=True)
    )


def test_a_cancel_ends_a_breakable_read_and_the_session_with_it() -> None:
    with _hanging("RetrievePropertiesEx") as simulator:
        session = Session.connect(_endpoint_of(simulator), cancel=CancelToken())

        def read(cancel: CancelToken) -> None:
            with session.breakable(cancel):
                list_machines(session, cancel=cancel)

        assert _cancelled_soon(read, lambda: _hangs(simulator)) < 5
        with pytest.raises(ConnectError, match="aborted"):
            session.server_time()
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 5, "no farewell is waited for"


def test_what_ended_before_the_cancel_is_not_broken_off() -> None:
    with (
        Simulator(SimulatorConfig()) as simulator,
        Session.connect(_endpoint_of(simulator), cancel=CancelToken()) as session,
    ):
        cancel = CancelToken()
        with session.breakable(cancel):
            session.server_time()
        cancel.cancel("later")
        session.server_time()
        with pytest.raises(Cancelled), session.breakable(cancel):
            session.server_time()


def test_an_answer_without_end_is_given_up(identity: Identity) -> None:
    """Also one that shrinks on the way: none is asked for."""
    heads: list[bytes] = []

    def answer(head: bytes) -> bytes:
        heads.append(head)
        if head.startswith(b"GET"):
            return http_answer(_versions("urn:vim25", "8.0.1.0"))
        return http_answer(b"<a>" + b"x" * 2 * MiB + b"</a>")

    with TlsServer(identity, answering(answer)) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "user", Secret("s3cret"), TlsPolicy(insecure=True))
        with pytest.raises(ConnectError):
            Session.connect(endpoint, cancel=CancelToken())
    assert len(heads) > 1
    assert not any(b"gzip" in head.lower() for head in heads)


def test_the_limit_of_an_answer_holds_for_each_and_not_for_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.vsphere.session.CALL", replace(CALL, wire_bytes=64 * 1024))
    with (
        Simulator(SimulatorConfig(vms=300)) as simulator,
        Session.connect(_endpoint_of(simulator), cancel=CancelToken()) as session,
    ):
        for _ in range(200):
            session.server_time()
        assert len(list_machines(session, cancel=CancelToken())) == 300
        session.server_time()
