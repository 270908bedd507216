"""Connections to libvirt: bounded in time, with our errors. libvirt's own test driver answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.errors import AccessError, Cancelled, ConnectError, HyperSDKError, LookupFailed, Refused
from hypersdk.kvm import library
from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.kvm.capabilities import read_facts
from hypersdk.kvm.connection import Connection, _Call, open_connection
from hypersdk.transfer.cancel import CancelToken
from tests.support.libvirtd import Libvirtd
from tests.support.waiting import eventually

TEST = parse_libvirt_address("test:///default")


@pytest.fixture
def connection() -> Iterator[Connection]:
    with open_connection(TEST, cancel=CancelToken()) as opened:
        yield opened


def test_calls_and_facts(connection: Connection) -> None:
    names = connection.call("cannot list domains", lambda raw: [domain.name() for domain in raw.listAllDomains()])
    assert names == ["test"]
    assert connection.is_alive
    assert read_facts(connection).virt_type == "test"


def test_errors_are_ours_and_nothing_is_printed(connection: Connection, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LookupFailed) as caught:
        connection.call("cannot find web-01", lambda raw: raw.lookupByName("web-01"))
    assert caught.value.code == "libvirt_not_found"
    assert caught.value.message.startswith("cannot find web-01: ")
    with pytest.raises(Refused) as refused:
        connection.call("cannot define it", lambda raw: raw.defineXML("<domain type='test'>"))
    assert refused.value.code == "libvirt_xml_refused"
    assert capfd.readouterr().err == ""


def test_a_call_that_does_not_return_ends_in_time(connection: Connection) -> None:
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        connection.call("cannot do it", lambda _: release.wait(), timeout_s=0.1)
    release.set()
    assert caught.value.code == "libvirt_timeout"
    assert time.monotonic() - started < 60, "it waited for the call"


def test_nothing_listens(tmp_path: Path) -> None:
    address = parse_libvirt_address(f"qemu+unix:///system?socket={tmp_path}/none")
    with pytest.raises(ConnectError) as caught:
        open_connection(address, cancel=CancelToken())
    assert caught.value.code == "libvirt_unreachable"
    assert str(tmp_path) in caught.value.message


def silent_server(listening: socket.socket) -> str:
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return f"qemu+tcp://127.0.0.1:{listening.getsockname()[1]}/system"


def test_a_server_that_says_nothing_ends_in_time() -> None:
    with socket.socket() as listening:
        address = parse_libvirt_address(silent_server(listening))
        with pytest.raises(ConnectError) as caught:
            open_connection(address, cancel=CancelToken(), timeout_s=0.2)
    assert caught.value.code == "libvirt_timeout"


def test_a_cancel_ends_the_wait() -> None:
    cancel = CancelToken()
    with socket.socket() as listening:
        address = parse_libvirt_address(silent_server(listening))
        threading.Timer(0.1, cancel.cancel, ["test"]).start()
        with pytest.raises(Cancelled):
            open_connection(address, cancel=cancel)


def test_a_connection_that_comes_too_late_is_closed() -> None:
    closed = threading.Event()
    late = threading.Event()
    call = _Call("cannot connect", late.wait, late=lambda _: closed.set())
    with pytest.raises(ConnectError):
        call.result(0.1)
    late.set()
    eventually(closed.is_set)


def test_errors_of_the_way_to_libvirtd_are_told_apart() -> None:
    module = library.libvirt()

    def raised(number: int, domain: int, text: str, errno: int = 0) -> HyperSDKError:
        error = module.libvirtError(text)
        error.err = (number, domain, text, 2, text, None, None, errno, 0)
        with pytest.raises(HyperSDKError) as caught, library.translated("cannot"):
            raise error
        return caught.value

    system, rpc, qemu = module.VIR_ERR_SYSTEM_ERROR, module.VIR_FROM_RPC, module.VIR_FROM_QEMU
    assert isinstance(raised(system, rpc, "Failed to connect socket", errno=13), AccessError)
    assert raised(system, rpc, "Cannot recv data: Host key verification failed").code == "libvirt_unreachable"
    assert raised(module.VIR_ERR_INTERNAL_ERROR, rpc, "client socket is closed").code == "libvirt_unreachable"
    assert raised(module.VIR_ERR_AUTH_FAILED, rpc, "authentication failed").code == "libvirt_denied"
    taken = raised(module.VIR_ERR_OPERATION_FAILED, qemu, "domain 'x' already exists with uuid y")
    assert taken.code == "libvirt_exists"
    assert raised(module.VIR_ERR_INTERNAL_ERROR, qemu, "qemu died\x1b[2J").message == "cannot: qemu died\\x1b[2J"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_without_the_library_the_error_says_how_to_get_it() -> None:
    code, step = run_python(
        "import sys\n"
        "sys.modules['libvirt'] = None\n"
        "from hypersdk.errors import Refused\n"
        "from hypersdk.kvm.library import libvirt\n"
        "try:\n    libvirt()\n"
        "except Refused as error:\n    print(error.code)\n    print(error.next_step)\n"
    ).splitlines()
    assert code == "libvirt_not_installed"
    assert "python3-libvirt" in step
    assert "hypersdk[kvm]" in step


def test_nothing_loads_the_library_before_it_is_needed() -> None:
    modules = "hypersdk.kvm.connection, hypersdk.kvm.domainxml, hypersdk.landing.planning"
    assert run_python(f"import sys, {modules}; print('libvirt' in sys.modules)").strip() == "False"


SSH = """#!{python}
import os, select, socket, sys
open({arguments!r}, "w").write("\\n".join(sys.argv[1:]))
daemon = socket.socket(socket.AF_UNIX)
daemon.connect({target!r})
while True:
    for ready in select.select([0, daemon], [], [])[0]:
        data = os.read(0, 65536) if ready == 0 else daemon.recv(65536)
        if not data:
            sys.exit()
        daemon.sendall(data) if ready == 0 else os.write(1, data)
"""


def test_by_ssh_nothing_is_asked_and_the_other_side_is_reached(
    libvirtd: Libvirtd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a program in place of ssh that reaches a real daemon."""
    arguments, ssh = tmp_path / "arguments", tmp_path / "ssh"
    ssh.write_text(SSH.format(python=sys.executable, arguments=str(arguments), target=str(libvirtd.socket)))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    address = parse_libvirt_address("qemu+ssh://admin@kvm1.example.com:2222/system")
    with open_connection(address, cancel=CancelToken()) as connection:
        assert read_facts(connection, accelerated=False).virt_type == "qemu"
    words = arguments.read_text().splitlines()
    assert {"-T", "BatchMode=yes", "2222", "admin", "kvm1.example.com"} <= set(words)
    assert words.index("--") < words.index("kvm1.example.com"), "a host is never an option"
