"""Clients for the simulator's tests: pyVmomi, HTTPS, and raw bytes over TLS. All check the certificate."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim

from hypersdk.simulator import Simulator, SimulatorConfig
from tests.support.waiting import eventually

TIMEOUT_S = 30


@contextmanager
def simulated(**settings: Any) -> Iterator[Simulator]:
    """A simulator for the length of the block."""
    with Simulator(SimulatorConfig(**settings)) as running:
        yield running


def trust(simulator: Simulator) -> ssl.SSLContext:
    """Trusts only the simulator's authority."""
    return ssl.create_default_context(cadata=simulator.ca_pem.decode())


def govc_url(simulator: Simulator) -> str:
    """The address with credentials in it."""
    user, password = quote(simulator.username, safe=""), quote(simulator.password, safe="")
    return f"https://{user}:{password}@{simulator.authority_part}/sdk"


@contextmanager
def login(simulator: Simulator, **changed: str) -> Iterator[Any]:
    """A pyVmomi ServiceInstance with its own session."""
    who = {"user": simulator.username, "pwd": simulator.password, **changed}
    instance = SmartConnect(host=simulator.host, port=simulator.port, sslContext=trust(simulator), **who)
    try:
        yield instance
    finally:
        with suppress(vim.fault.NotAuthenticated):  # the test has ended the session
            Disconnect(instance)
        instance._stub.DropConnections()


def session_id(instance: Any) -> str:
    """The session id from the cookie."""
    return str(instance._stub.cookie).partition("=")[2].partition(";")[0].strip('"')


def find(instance: Any, simulator: Simulator, name: str) -> Any:
    """pyVmomi's object of a machine."""
    return vim.VirtualMachine(simulator.vm(name).ref.moref, instance._stub)


def done(task: Any) -> Any:
    """Waits for a task; its result."""
    WaitForTask(task)
    return task.info.result


def ready(lease: Any) -> Any:
    """Waits until a lease is ready; its info."""
    eventually(lambda: lease.state != "initializing")
    assert lease.state == "ready", lease.error
    return lease.info


@contextmanager
def export(instance: Any, simulator: Simulator, name: str) -> Iterator[Any]:
    """An open lease on a machine that is powered off; aborted at the end if it is still open."""
    lease = find(instance, simulator, name).ExportVm()
    ready(lease)
    try:
        yield lease
    finally:
        if simulator.vm(name).lease is not None:
            lease.HttpNfcLeaseAbort()


@dataclass(frozen=True)
class Response:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def absolute(simulator: Simulator, url: str) -> str:
    """A lease's URL with the host that ``*`` stands for."""
    return url.replace("//*/", f"//{simulator.authority_part}/")


def request(
    simulator: Simulator, method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> Response:
    """One HTTPS request on its own connection. ``url`` may be a path. Raises http.client's exceptions and
    OSError."""
    parts = urlsplit(absolute(simulator, url))
    connection = http.client.HTTPSConnection(
        parts.hostname or simulator.host, parts.port or simulator.port, context=trust(simulator), timeout=TIMEOUT_S
    )
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def get(simulator: Simulator, url: str, headers: dict[str, str] | None = None) -> Response:
    """GET."""
    return request(simulator, "GET", url, headers)


def soap(simulator: Simulator, inner: str, cookie: str | None = None) -> Response:
    """POST of one SOAP body."""
    envelope = (
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>{inner}</soapenv:Body></soapenv:Envelope>'
    )
    headers = {"Content-Type": "text/xml"} | ({"Cookie": f"vmware_soap_session={cookie}"} if cookie else {})
    return request(simulator, "POST", "/sdk", headers, envelope.encode())


def call(type_: str, moref: str, method: str, inner: str = "") -> str:
    """The element of one API call."""
    return f'<{method} xmlns="urn:vim25"><_this type="{type_}">{escape(moref)}</_this>{inner}</{method}>'


def soap_login(simulator: Simulator) -> str:
    """Logs in without any SDK; the cookie's value."""
    credentials = f"<userName>{escape(simulator.username)}</userName><password>{escape(simulator.password)}</password>"
    manager = "ha-sessionmgr" if simulator.config.esxi else "SessionManager"
    answer = soap(simulator, call("SessionManager", manager, "Login", credentials))
    assert answer.status == 200, answer.body
    return answer.headers["set-cookie"].partition("=")[2].partition(";")[0].strip('"')


@contextmanager
def raw(simulator: Simulator) -> Iterator[ssl.SSLSocket]:
    """A TLS connection for arbitrary bytes."""
    with (
        socket.create_connection((simulator.host, simulator.port), timeout=TIMEOUT_S) as plain,
        trust(simulator).wrap_socket(plain, server_hostname=simulator.host) as secured,
    ):
        yield secured


def read_to_end(connection: ssl.SSLSocket) -> bytes:
    """All data until the other side closes, in any way."""
    parts = []
    try:
        while data := connection.recv(65536):
            parts.append(data)
    except OSError:
        pass
    return b"".join(parts)
