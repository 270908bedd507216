"""Each fault applies as documented, as often as configured, and nowhere else."""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import vim

from hypersdk.cli.remedies import next_step
from hypersdk.errors import UsageError
from hypersdk.simulator import DiskSpec, Fault, FaultKind, MachineSpec, Simulator
from hypersdk.units import KiB, MiB
from tests.support.simulatorclients import (
    done,
    export,
    find,
    get,
    login,
    ready,
    request,
    session_id,
    simulated,
    trust,
)
from tests.support.tools import run_tool
from tests.support.waiting import eventually

AFTER = 300 * KiB + 7
MACHINES = (
    MachineSpec("vm", (DiskSpec(8 * MiB, allocated_bytes=4 * MiB), DiskSpec(2 * MiB, allocated_bytes=2 * MiB))),
    MachineSpec("other", (DiskSpec(2 * MiB, allocated_bytes=2 * MiB),), host=1),
    MachineSpec("running", (DiskSpec(2 * MiB),), power="poweredOn"),
)
FLAT = "/folder/vm/vm-flat.vmdk?dcPath=Amsterdam&dsName=nvme-prod-01"


@pytest.fixture(scope="module")
def stream() -> Iterator[bytes]:
    """The undisturbed stream of the first disk."""
    with simulated(machines=MACHINES) as calm, login(calm) as instance, export(instance, calm, "vm") as lease:
        yield get(calm, lease.info.deviceUrl[0].url).body


@pytest.fixture
def instance(server: Simulator, instance: Any) -> Iterator[Any]:
    server.set_faults()
    server.faults.applied.clear()
    yield instance
    server.set_faults()


def broken(server: Simulator, url: str, headers: dict[str, str] | None = None) -> bytes:
    """What arrives before the connection breaks, as it must."""
    with pytest.raises((http.client.IncompleteRead, OSError)) as caught:
        get(server, url, headers)
    return caught.value.partial if isinstance(caught.value, http.client.IncompleteRead) else b""


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.DISCONNECT])
def test_a_stream_breaks_at_its_byte_and_then_no_more(
    server: Simulator, instance: Any, stream: bytes, kind: FaultKind
) -> None:
    server.set_faults(Fault(kind, times=2, after_bytes=AFTER, disk="vm:0"))
    with export(instance, server, "vm") as lease:
        first, second, _ = [url.url for url in lease.info.deviceUrl]
        assert get(server, second).status == 200, "the other disk is not meant"
        for _ in range(2):
            server.reset_counters()
            partial = broken(server, first)
            assert stream.startswith(partial)
            assert server.counters.stream_bytes["vm:0"] == AFTER
        assert get(server, first).body == stream
    assert server.faults.applied == {kind: 2}


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.DISCONNECT])
def test_a_reset_is_a_reset_and_a_disconnect_is_none(server: Simulator, instance: Any, kind: FaultKind) -> None:
    """Seen below TLS: OpenSSL tells both as an unexpected end."""
    server.set_faults(Fault(kind, after_bytes=AFTER))
    with export(instance, server, "vm") as lease:
        parts = urlsplit(lease.info.deviceUrl[0].url)
        plain = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)
        secured = trust(server).wrap_socket(plain, server_hostname=parts.hostname)
        secured.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with socket.socket(fileno=secured.detach()) as below:
            below.settimeout(10)
            with pytest.raises(ConnectionResetError) if kind is FaultKind.RESET else nullcontext():
                while below.recv(MiB):
                    pass


def test_a_short_stream_looks_whole(server: Simulator, instance: Any, stream: bytes) -> None:
    server.set_faults(Fault(FaultKind.SHORT, after_bytes=AFTER))
    with export(instance, server, "vm") as lease:
        assert get(server, lease.info.deviceUrl[0].url).body == stream[:AFTER]
        assert not lease.HttpNfcLeaseGetManifest(), "what was not sent whole is not vouched for"


def test_a_short_range_looks_whole(server: Simulator, instance: Any) -> None:
    server.set_faults(Fault(FaultKind.SHORT, after_bytes=1000))
    answer = get(server, FLAT, {"Cookie": f"vmware_soap_session={session_id(instance)}", "Range": "bytes=0-9999"})
    assert (answer.status, len(answer.body), answer.headers["content-range"]) == (206, 1000, f"bytes 0-9999/{8 * MiB}")


def test_a_stall_lasts_and_then_it_goes_on(server: Simulator, instance: Any, stream: bytes) -> None:
    server.set_faults(Fault(FaultKind.STALL, after_bytes=AFTER, seconds=0.8))
    with export(instance, server, "vm") as lease:
        began = time.monotonic()
        assert get(server, lease.info.deviceUrl[0].url).body == stream
        assert 0.8 <= time.monotonic() - began < 60


def test_a_stalled_stream_is_closed_when_its_client_leaves(server: Simulator, instance: Any) -> None:
    """Else a client that gave up and tries again would be counted twice."""
    server.set_faults(Fault(FaultKind.STALL, seconds=60))
    with export(instance, server, "vm") as lease:
        parts = urlsplit(lease.info.deviceUrl[0].url)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=trust(server))
        connection.request("GET", parts.path)
        eventually(lambda: server.counters.streams_now["esx01.example.com"] == 1)
        connection.close()
        eventually(lambda: server.counters.streams_now["esx01.example.com"] == 0)


def test_a_slow_stream_flows_at_its_rate(server: Simulator, instance: Any, stream: bytes) -> None:
    rate = len(stream)
    server.set_faults(Fault(FaultKind.SLOW, rate=rate))
    with export(instance, server, "vm") as lease:
        began = time.monotonic()
        assert get(server, lease.info.deviceUrl[0].url).body == stream
        assert 0.9 <= time.monotonic() - began < 60


def test_one_bit_is_flipped_and_zlib_notices(server: Simulator, instance: Any, stream: bytes, tmp_path: Path) -> None:
    server.set_faults(Fault(FaultKind.CORRUPT, after_bytes=AFTER))
    with export(instance, server, "vm") as lease:
        body = get(server, lease.info.deviceUrl[0].url).body
        manifest = lease.HttpNfcLeaseGetManifest()
    assert len(body) == len(stream)
    different = [n for n, (a, b) in enumerate(zip(body, stream, strict=True)) if a != b]
    assert len(different) == 1
    assert different[0] >= AFTER
    assert bin(body[different[0]] ^ stream[different[0]]).count("1") == 1
    assert manifest[0].sha1 == hashlib.sha1(stream).hexdigest(), "the host vouches for what it meant to send"
    vmdk = tmp_path / "bad.vmdk"
    vmdk.write_bytes(body)
    with pytest.raises(pytest.fail.Exception):
        run_tool("qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, tmp_path / "out.raw")


@pytest.mark.parametrize(("status", "retry"), [(500, None), (503, 7)])
def test_a_status_in_place_of_data(
    server: Simulator, instance: Any, stream: bytes, status: int, retry: int | None
) -> None:
    server.set_faults(
        Fault(FaultKind.STATUS, status=status, retry_after_s=retry), Fault(FaultKind.SHORT, after_bytes=AFTER)
    )
    with export(instance, server, "vm") as lease:
        url = lease.info.deviceUrl[0].url
        answer = get(server, url)
        assert answer.status == status
        assert answer.headers.get("retry-after") == (str(retry) if retry else None)
        assert get(server, url).body == stream[:AFTER], "the refusal has not used up the other fault"
        assert get(server, url).body == stream


def test_a_host_out_of_buffers(server: Simulator, instance: Any, stream: bytes) -> None:
    server.set_faults(Fault(FaultKind.NFC_EXHAUSTED))
    with export(instance, server, "vm") as lease:
        answer = get(server, lease.info.deviceUrl[0].url)
        assert (answer.status, b"failed to allocate" in answer.body) == (500, True)
        assert get(server, lease.info.deviceUrl[0].url).body == stream


def test_head_uses_no_fault_up(server: Simulator, instance: Any) -> None:
    server.set_faults(Fault(FaultKind.STATUS))
    with export(instance, server, "vm") as lease:
        url = lease.info.deviceUrl[0].url
        server.reset_counters()
        assert request(server, "HEAD", url).status == 200
        assert server.counters.opened == {}
        assert get(server, url).status == 500


def test_a_lease_times_out_under_the_stream(server: Simulator, instance: Any) -> None:
    server.set_faults(Fault(FaultKind.LEASE_TIMEOUT, after_bytes=AFTER))
    with export(instance, server, "vm") as lease:
        url = lease.info.deviceUrl[0].url
        broken(server, url)
        assert lease.state == "error"
        assert isinstance(lease.error, vim.fault.Timedout)
        with pytest.raises(vim.fault.Timedout):
            lease.HttpNfcLeaseProgress(50)
        assert get(server, url).status == 404
    assert server.vm("vm").lease is None


def test_a_lease_that_never_gets_ready(server: Simulator, instance: Any) -> None:
    server.set_faults(Fault(FaultKind.LEASE_ERROR, disk="vm"))
    lease = find(instance, server, "vm").ExportVm()
    eventually(lambda: lease.state != "initializing")
    assert lease.state == "error"
    assert "failed to prepare" in lease.error.msg
    assert server.vm("vm").lease is None


def test_a_session_ends_under_the_stream_or_at_a_call(server: Simulator) -> None:
    server.set_faults(Fault(FaultKind.SESSION_EXPIRY, method="HttpNfcLeaseProgress"))
    with login(server) as instance, export(instance, server, "vm") as lease:
        assert get(server, lease.info.deviceUrl[0].url).status == 200, "the call is meant, not the stream"
        with pytest.raises(vim.fault.NotAuthenticated):
            lease.HttpNfcLeaseProgress(1)
        assert server.vm("vm").lease is None
    server.set_faults(Fault(FaultKind.SESSION_EXPIRY, after_bytes=AFTER))
    with login(server) as instance, export(instance, server, "vm") as lease:
        broken(server, lease.info.deviceUrl[0].url)
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = lease.state
    assert server.vm("vm").lease is None
    server.set_faults(Fault(FaultKind.SESSION_EXPIRY, after_bytes=AFTER))
    with login(server) as instance:
        cookie = {"Cookie": f"vmware_soap_session={session_id(instance)}"}
        assert len(get(server, FLAT, cookie).body) == 8 * MiB, "a range goes on: it was let in"
        assert get(server, FLAT, cookie).status == 401


def test_what_a_lease_says_about_sizes(server: Simulator, instance: Any, stream: bytes) -> None:
    for kind, want in ((None, None), (FaultKind.FILE_SIZE_PRESENT, len(stream)), (FaultKind.FILE_SIZE_WRONG, 8 * MiB)):
        server.set_faults(*([Fault(kind, times=None)] if kind else []))
        with export(instance, server, "vm") as lease:
            assert lease.info.deviceUrl[0].fileSize == want
            assert lease.info.deviceUrl[2].fileSize == 8684, "of small files it is known"


def test_wrong_and_missing_manifests(server: Simulator, instance: Any) -> None:
    with export(instance, server, "vm") as lease:
        for url in lease.info.deviceUrl[:2]:
            get(server, url.url)
        right = [entry.sha1 for entry in lease.HttpNfcLeaseGetManifest()]
        server.set_faults(Fault(FaultKind.WRONG_MANIFEST, disk="vm:1"))
        wrong = [entry.sha1 for entry in lease.HttpNfcLeaseGetManifest()]
        assert wrong[0] == right[0]
        assert wrong[1] != right[1]
        server.set_faults(Fault(FaultKind.NO_MANIFEST))
        assert not lease.HttpNfcLeaseGetManifest()
        assert [entry.sha1 for entry in lease.HttpNfcLeaseGetManifest()] == right


def test_a_host_that_cannot_be_reached(server: Simulator, instance: Any) -> None:
    with export(instance, server, "vm") as lease, export(instance, server, "other") as elsewhere:
        url = lease.info.deviceUrl[0].url
        server.set_faults(Fault(FaultKind.UNREACHABLE, host="esx01.example.com"))
        with pytest.raises(ConnectionRefusedError):
            get(server, url)
        assert get(server, elsewhere.info.deviceUrl[0].url).status == 200
        through = "/" + url.split("/", 3)[3]
        assert get(server, through).status == 200, "through vCenter it works"
        assert server.counters.via_vcenter["esx01.example.com"] == 1
        server.set_faults()
        assert get(server, url).status == 200


def test_a_full_datastore(server: Simulator, instance: Any) -> None:
    server.set_faults(Fault(FaultKind.DATASTORE_FULL, disk="nvme-prod-01", after_bytes=1000))
    machine = find(instance, server, "running")
    (store,) = [datastore for datastore in machine.datastore if datastore.name == "nvme-prod-01"]
    assert store.summary.freeSpace == 1000
    with pytest.raises(vim.fault.NoDiskSpace):
        done(machine.CreateSnapshot(name="s", memory=False, quiesce=False))
    server.set_faults()
    done(machine.CreateSnapshot(name="s", memory=False, quiesce=False))
    done(machine.RemoveAllSnapshots())


def test_a_lease_that_nobody_renews() -> None:
    with simulated(machines=MACHINES, lease_timeout_s=0.6, rate_bytes_s=2 * MiB) as server, login(server) as instance:
        lease = find(instance, server, "vm").ExportVm()
        url = ready(lease).deviceUrl[0].url
        assert lease.info.leaseTimeout == 1
        broken(server, url)  # bytes that flow do not renew it
        assert lease.state == "error"
        lease = find(instance, server, "vm").ExportVm()
        ready(lease)
        for _ in range(5):
            time.sleep(0.25)
            lease.HttpNfcLeaseProgress(-(2**31))  # what govc says when it knows no total
        assert lease.state == "ready"
        lease.HttpNfcLeaseComplete()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            "reset,after=10MiB,times=2,disk=web-01:0",
            Fault(FaultKind.RESET, times=2, after_bytes=10 * MiB, disk="web-01:0"),
        ),
        ("stall,seconds=0.5,times=always,host=h", Fault(FaultKind.STALL, times=None, seconds=0.5, host="h")),
        ("status,status=503,retry-after=2", Fault(FaultKind.STATUS, status=503, retry_after_s=2)),
        ("call,method=ExportVm,fault=TaskInProgress", Fault(FaultKind.CALL, method="ExportVm", fault="TaskInProgress")),
    ],
)
def test_faults_as_text(text: str, want: Fault) -> None:
    assert Fault.parse(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bogus",
        "reset,after",
        "reset,when=now",
        "reset,after=x",
        "reset,times=-1",
        "call",
        "call,method=X,fault=AboutInfo",
        "call,method=X,fault=Nope",
        "status,status=200",
        "stall,seconds=nan",
        "stall,seconds=-1",
        "slow,rate=0",
    ],
)
def test_faults_that_could_never_strike_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Fault.parse(text)
    assert next_step(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_fault_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        Fault.parse(f"stall,{text}")
