"""Ranges of flat files: on our simulator and on vcsim where they are good, from a scripted server where they are
not."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hypersdk.errors import Cancelled, ConnectError, SourceError, TransientError
from hypersdk.model import Backing, Machine, Power
from hypersdk.net.certificate import TlsPolicy
from hypersdk.secret import Secret
from hypersdk.simulator import DiskSpec, Fault, FaultKind, MachineSpec, Simulator
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from hypersdk.vsphere import sources
from hypersdk.vsphere.inventory import find_machine, list_machines
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import create_snapshot
from hypersdk.vsphere.sources import FlatDiskSource, allocated_areas, probe_flat
from tests.support.leases import SMALL, moref_of
from tests.support.machines import make_disk, make_machine, make_snapshot
from tests.support.peers import Vcsim
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.tlsserver import Exchange, Request, Script, TlsServer
from tests.support.waiting import AT_ONCE_S

SIZE = 4096
CONTENT = bytes(number * 7 % 251 for number in range(SIZE))
ServerFactory = Callable[[Script], TlsServer]


def flat(session: Session, moref: str, number: int = 0, snapshot: str | None = None) -> FlatDiskSource:
    """The ranges of one disk."""
    machine = read_machine(session, moref)
    found = probe_flat(session, machine, machine.disks[number], snapshot=snapshot)
    assert isinstance(found, FlatDiskSource), found
    return found


def fetch(source: FlatDiskSource, offset: int, length: int, cancel: CancelToken | None = None) -> bytes:
    buffer = bytearray(length)
    source.read(offset, memoryview(buffer), cancel or CancelToken())
    return bytes(buffer)


def snapshot_of(session: Session, moref: str, name: str = "s") -> str:
    return create_snapshot(session, moref, name=name, description="", quiesce=False, cancel=CancelToken())


# Where they are good


def test_the_bytes_are_those_of_the_disk_from_several_threads(simulator: SimulatorFactory, log_in: LogIn) -> None:
    spec = MachineSpec("100% R&D / ü #1", (DiskSpec(4 * MiB, allocated_bytes=2 * MiB),))
    server = simulator(machines=(spec,))
    session, image = log_in(server), server.disk_image(spec.name)
    source = flat(session, moref_of(server, spec.name))
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda offset: fetch(source, offset, 256 * KiB), range(0, 4 * MiB, 256 * KiB)))
    assert b"".join(pieces) == image.read(0, 4 * MiB)
    assert any(pieces)
    connections = server.counters.connections
    assert fetch(source, 4 * MiB - 1, 1) == image.read(4 * MiB - 1, 1)
    assert fetch(source, 100, 1) == image.read(100, 1)
    assert server.counters.connections == connections
    source.close()


def test_the_base_of_the_only_snapshot_of_a_running_machine(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(replace(SMALL, power="poweredOn"),))
    session, moref = log_in(server), moref_of(server)
    frozen = server.disk_image("web")
    snapshot = snapshot_of(session, moref)
    source = flat(session, moref, snapshot=snapshot)
    server.change_disk("web")
    assert fetch(source, 0, 4 * MiB) == frozen.read(0, 4 * MiB)
    assert server.disk_image("web").read(0, 4 * MiB) != frozen.read(0, 4 * MiB)


def test_a_session_that_ended_is_renewed(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    source, key = flat(session, moref_of(server)), session.key
    server.end_sessions()
    assert fetch(source, 0, MiB) == server.disk_image("web").read(0, MiB)
    assert session.key != key


def test_a_disk_that_changes_between_two_reads(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    source = flat(log_in(server), moref_of(server))
    server.change_disk("web")
    with pytest.raises(SourceError) as caught:
        fetch(source, 0, 512)
    assert caught.value.code == "source_file_changed"
    assert not isinstance(caught.value, TransientError)


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.DISCONNECT, FaultKind.SHORT, FaultKind.STATUS])
def test_what_breaks_may_be_tried_again(simulator: SimulatorFactory, log_in: LogIn, kind: FaultKind) -> None:
    server = simulator(machines=(SMALL,))
    source = flat(log_in(server), moref_of(server))
    source.close()  # a kept connection would be replaced silently
    server.set_faults(Fault(kind, after_bytes=64 * KiB))
    with pytest.raises(TransientError):
        fetch(source, 0, MiB)
    assert fetch(source, 0, MiB) == server.disk_image("web").read(0, MiB)


def test_cancel_ends_a_read_that_stalls(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    source, cancel = flat(log_in(server), moref_of(server)), CancelToken()
    server.set_faults(Fault(FaultKind.STALL, after_bytes=64 * KiB, seconds=60))
    timer = threading.Timer(0.3, cancel.cancel, ["test"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(source, 0, MiB, cancel)
    assert time.monotonic() - started < AT_ONCE_S
    timer.join()


def test_on_vcsim(vcsim: Callable[..., Vcsim], log_in: LogIn) -> None:
    """vcsim keeps no flat files of its own making: one is laid beside the descriptor that it knows."""
    server = vcsim(vm=1, cluster=0, standalone_host=1, autostart=False)
    session = log_in(server)
    found = read_machine(session, find_machine(list_machines(session, cancel=CancelToken()), "DC0_H0_VM0").moref)
    disk = replace(found.disks[0], capacity_bytes=3 * MiB)
    data = hashlib.shake_256(b"disk").digest(3 * MiB)
    name = (disk.file or "").partition("] ")[2].removesuffix(".vmdk")
    (server.datastore_dir() / f"{name}-flat.vmdk").write_bytes(data)
    source = probe_flat(session, found, disk)
    assert isinstance(source, FlatDiskSource), source
    assert fetch(source, MiB + 5, MiB) == data[MiB + 5 : 2 * MiB + 5]
    server.govc("session.rm", session.key)
    assert fetch(source, 0, 3 * MiB) == data


# Where the answer is not what was asked for


def served(status: str = "206 Partial Content", **headers: str | None) -> Script:
    """Answers each range of CONTENT; ``headers`` replace the right ones (None: left out)."""

    def script(exchange: Exchange, request: Request) -> None:
        first, last = (int(number) for number in request.headers["range"].removeprefix("bytes=").split("-"))
        body = CONTENT if status.startswith("200") else CONTENT[first : last + 1]
        right: dict[str, str | None] = {
            "Content-Length": str(len(body)),
            "Content-Range": f"bytes {first}-{last}/{SIZE}",
            "ETag": '"1"',
        }
        wanted = right | {name.replace("_", "-"): text for name, text in headers.items()}
        lines = [f"{name}: {text}" for name, text in wanted.items() if text is not None]
        exchange.send("\n".join([f"HTTP/1.1 {status}", *lines, "", ""]), body)

    return script


def session_on(server: TlsServer, endpoint: Any = None) -> Any:
    """As much of a session as ranges need."""
    return SimpleNamespace(key="k", endpoint=endpoint or server.endpoint(), cookie_value=lambda: Secret("s3cret"))


def source_on(server: TlsServer, **more: Any) -> FlatDiskSource:
    disk = make_disk(capacity_bytes=SIZE)
    return FlatDiskSource(session_on(server, **more), disk, "/folder/a-flat.vmdk", lambda _: None)


def test_a_good_answer_and_what_was_asked(tls_server: ServerFactory) -> None:
    server = tls_server(served())
    source = source_on(server)
    assert fetch(source, 100, 200) == CONTENT[100:300]
    assert server.requests[0].headers["range"] == "bytes=100-299"
    assert server.requests[0].headers["cookie"] == "vmware_soap_session=s3cret"
    assert list(source.extents(CancelToken())) == [(0, SIZE)]
    source.close()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (served("200 OK", Content_Range=None), "range_ignored"),
        (served(Content_Range=None), "range_mismatch"),
        (served(Content_Range=f"bytes 0-199/{SIZE}"), "range_mismatch"),
        (served(Content_Range=f"bytes 100-298/{SIZE}"), "range_mismatch"),
        (served(Content_Range=f"bytes 100-299/{SIZE + 1}"), "range_mismatch"),
        (served(Content_Range="bytes 100-299/*"), "range_mismatch"),
        (served(Content_Range=f"bytes 100-299/{SIZE}, bytes 0-1/{SIZE}"), "range_mismatch"),
        (served(Content_Length="201"), "range_mismatch"),
        (served("416 Range Not Satisfiable"), "range_mismatch"),
        (served("302 Found", Location="https://192.0.2.1/"), "redirect_refused"),
        (served("403 Forbidden"), "http_refused"),
    ],
)
def test_other_answers_are_never_taken_for_the_range(tls_server: ServerFactory, script: Script, code: str) -> None:
    source = source_on(tls_server(script))
    with pytest.raises(SourceError) as caught:
        fetch(source, 100, 200)
    assert caught.value.code == code
    assert not isinstance(caught.value, TransientError)


def test_a_range_that_is_not_authorized_is_asked_for_in_a_new_session(tls_server: ServerFactory) -> None:
    """The API is content with the old one: only a new one has a cookie that the data plane takes."""

    def script(exchange: Exchange, request: Request) -> None:
        served("206 Partial Content" if request.headers["cookie"].endswith("=k2") else "401 Unauthorized")(
            exchange, request
        )

    server = tls_server(script)
    session = session_on(server)
    session.content = SimpleNamespace(rootFolder=SimpleNamespace(_moId="group-d1"))
    session.call = lambda ask: ask()
    session.ref = lambda *_: SimpleNamespace(name="Datacenters")
    session.cookie_value = lambda: Secret(session.key)

    def renew(key: str) -> None:
        session.key = {"k": "k1", "k1": "k2"}[key]

    session.renew = renew
    source = FlatDiskSource(session, make_disk(capacity_bytes=SIZE), "/folder/a-flat.vmdk", lambda _: None)
    with pytest.raises(TransientError):
        fetch(source, 0, 100)
    assert fetch(source, 0, 100) == CONTENT[:100]
    assert session.key == "k2"


def test_an_answer_that_announces_less_is_tried_again(tls_server: ServerFactory) -> None:
    with pytest.raises(TransientError) as caught:
        fetch(source_on(tls_server(served(Content_Length="199"))), 100, 200)
    assert caught.value.code == "short_body"


@pytest.mark.parametrize(
    "changed", [{"ETag": '"2"'}, {"ETag": None}, {"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}]
)
def test_another_validator_means_another_file(tls_server: ServerFactory, changed: dict[str, Any]) -> None:
    server = tls_server(served())
    source = source_on(server)
    fetch(source, 0, 10)
    server.script = served(**changed)
    with pytest.raises(SourceError) as caught:
        fetch(source, 10, 10)
    assert caught.value.code == "source_file_changed"
    source.close()


def test_a_kept_connection_that_the_server_has_closed_is_replaced(tls_server: ServerFactory) -> None:
    answered: list[Exchange] = []

    def once(exchange: Exchange, request: Request) -> None:
        if exchange in answered:
            exchange.reset()
        else:
            answered.append(exchange)
            served()(exchange, request)

    server = tls_server(once)
    source = source_on(server)
    for start in (0, 100, 200):
        assert fetch(source, start, 100) == CONTENT[start : start + 100]
    assert server.connections == 3
    source.close()


def test_a_certificate_that_changed_is_not_tried_again(tls_server: ServerFactory) -> None:
    server = tls_server(served())
    wrong = replace(server.endpoint(), tls=TlsPolicy(thumbprint="ab" * 32))
    with pytest.raises(ConnectError) as caught:
        fetch(source_on(server, endpoint=wrong), 0, 10)
    assert caught.value.code == "certificate_changed"
    assert server.requests == []


# Whether a disk can be read so at all


def reason(session: Any, machine: Machine, snapshot: str | None = None, number: int = 0) -> str:
    found = probe_flat(session, machine, machine.disks[number], snapshot=snapshot)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("machine", "snapshot", "words"),
    [
        (make_machine(power=Power.ON), None, "not powered off"),
        (make_machine(power=Power.SUSPENDED), None, "not powered off"),
        (
            make_machine(disks=(make_disk(chain=("[ds1] vm/vm_1-000001.vmdk", "[ds1] vm/vm_1.vmdk")),)),
            None,
            "it has snapshots",
        ),
        (make_machine(disks=(make_disk(backing=Backing.SESPARSE),)), None, "it has snapshots"),
        (make_machine(disks=(make_disk(backing=Backing.RDM_VIRTUAL),)), None, "not stored in a plain file"),
        (make_machine(disks=(make_disk(encrypted=True),)), None, "encrypted"),
        (make_machine(disks=(make_disk(file=None, chain=()),)), None, "it has snapshots"),
        (make_machine(disks=(make_disk(file="vm.vmdk", chain=("vm.vmdk",)),)), None, "is not known"),
        (make_machine(snapshots=(make_snapshot(),)), "snapshot-7", "only the base"),
        (
            make_machine(
                disks=(make_disk(chain=("[ds1] vm/vm-2.vmdk", "[ds1] vm/vm.vmdk")),),
                snapshots=(make_snapshot(), make_snapshot("b", moref="snapshot-8", depth=1)),
            ),
            "snapshot-8",
            "only the base",
        ),
    ],
)
def test_reasons_that_need_no_server(machine: Machine, snapshot: str | None, words: str) -> None:
    assert words in reason(None, machine, snapshot)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("404 Not Found", "vSAN"),
        ("403 Forbidden", "Datastore.Browse"),
        ("200 OK", "ignored the range"),
        ("400 Bad", "400"),
    ],
)
def test_reasons_that_the_server_gives(tls_server: ServerFactory, status: str, words: str) -> None:
    server = tls_server(served(status))
    machine = make_machine(disks=(make_disk(capacity_bytes=SIZE),))
    assert words in reason(session_on(server), machine)
    assert server.requests[0].target == "/folder/vm/vm_1-flat.vmdk?dcPath=%2FDC0&dsName=ds1"
    assert len(server.requests) == 1


def test_a_locked_file_is_a_reason_and_a_busy_moment_is_none(
    tls_server: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "RetryPolicy", lambda retries: sources_retry(retries))
    server = tls_server(served("500 Internal Server Error"))
    machine = make_machine(disks=(make_disk(capacity_bytes=SIZE),))
    assert "could not be read" in reason(session_on(server), machine)
    assert len(server.requests) == 1 + sources.PROBE_RETRIES


def sources_retry(retries: int) -> Any:
    from hypersdk.transfer.retry import RetryPolicy

    return RetryPolicy(retries=retries, first_s=0.01)


def test_names_with_anything_in_them_become_one_path(tls_server: ServerFactory) -> None:
    server = tls_server(served())
    name = "[ds & co] a b/100% #1?x/ü.vmdk"
    machine = make_machine(disks=(make_disk(capacity_bytes=SIZE, file=name, chain=(name,)),))
    found = probe_flat(session_on(server), machine, machine.disks[0])
    assert isinstance(found, FlatDiskSource)
    assert server.requests[0].target == (
        "/folder/a%20b/100%25%20%231%3Fx/%C3%BC-flat.vmdk?dcPath=%2FDC0&dsName=ds%20%26%20co"
    )
    found.close()


def test_a_machine_that_runs_without_a_snapshot(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(replace(SMALL, power="poweredOn"),))
    session = log_in(server)
    assert "not powered off" in reason(session, read_machine(session, moref_of(server)))


# Allocated areas


CBT = replace(SMALL, cbt=True, disks=(DiskSpec(16 * MiB, allocated_bytes=3 * MiB),))


def areas_of(session: Session, server: Simulator, snapshot: str | None = None) -> list[tuple[int, int]] | None:
    machine = read_machine(session, moref_of(server))
    return allocated_areas(session, machine, machine.disks[0], snapshot, cancel=CancelToken())


def test_areas_are_where_the_data_is(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(CBT,))
    session, image = log_in(server), server.disk_image("web")
    areas = areas_of(session, server)
    assert areas == list(image.extents())
    assert 0 < sum(length for _, length in areas) < 8 * MiB
    source = flat(session, moref_of(server))
    assert list(source.extents(CancelToken())) == areas
    content, rebuilt = image.read(0, 16 * MiB), bytearray(16 * MiB)
    for offset, length in areas:
        rebuilt[offset : offset + length] = fetch(source, offset, length)
    assert bytes(rebuilt) == content
    assert areas_of(session, server, snapshot_of(session, moref_of(server))) == areas


def test_areas_in_many_answers(simulator: SimulatorFactory, log_in: LogIn) -> None:
    """The simulator gives 2,000 areas at a time."""
    spec = replace(CBT, disks=(DiskSpec(4096 * MiB, stride_bytes=1 * MiB),))
    server = simulator(machines=(spec,))
    session = log_in(server)
    assert areas_of(session, server) == list(server.disk_image("web").extents())
    assert server.counters.calls["QueryChangedDiskAreas"] > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"machines": (SMALL,)},
        {"machines": (CBT,), "denied_privileges": frozenset({"VirtualMachine.Provisioning.DiskRandomRead"})},
        {"machines": (CBT,), "faults": (Fault(FaultKind.CALL, method="QueryChangedDiskAreas", fault="FileFault"),)},
    ],
)
def test_where_areas_are_not_known_all_is_read(
    simulator: SimulatorFactory, log_in: LogIn, settings: dict[str, Any]
) -> None:
    server = simulator(**settings)
    session = log_in(server)
    assert areas_of(session, server) is None
    source = flat(session, moref_of(server))
    if "faults" not in settings:
        assert list(source.extents(CancelToken())) == [(0, source.capacity_bytes)]
    source.close()


def told(start: int, length: int, *areas: tuple[int, int]) -> Any:
    found = [SimpleNamespace(start=offset, length=size) for offset, size in areas]
    return SimpleNamespace(startOffset=start, length=length, changedArea=found or None)


def asked(monkeypatch: pytest.MonkeyPatch, *answers: Any, version: str = "8.0.3.0") -> list[tuple[int, int]] | None:
    """Areas of a disk of 1,000 bytes from a server that answers so."""
    left = list(answers)
    monkeypatch.setattr(sources, "_query", lambda *_: left.pop(0))
    session: Any = SimpleNamespace(about=SimpleNamespace(api_version=version), call=lambda ask: ask())
    machine = make_machine(cbt_enabled=True)
    return allocated_areas(session, machine, make_disk(capacity_bytes=1000), None, cancel=CancelToken())


def test_areas_of_several_answers_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, told(0, 500, (0, 10), (20, 30)), told(500, 500)) == [(0, 10), (20, 30)]
    assert asked(monkeypatch, told(0, 1000)) == []


@pytest.mark.parametrize(
    "answers",
    [
        [told(0, 1000, (20, 30), (0, 10))],
        [told(0, 1000, (0, 30), (20, 30))],
        [told(0, 1000, (0, 0))],
        [told(0, 1000, (-5, 10))],
        [told(0, 500, (490, 20))],
        [told(0, 2000, (0, 10))],
        [told(0, 1000, (990, 20))],
        [told(100, 900)],
        [told(0, 0)],
        [told(0, 500), told(0, 500)],
    ],
)
def test_answers_that_cannot_be_make_all_be_read(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> None:
    assert asked(monkeypatch, *answers) is None


def test_change_tracking_of_old_servers_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, version="6.5") is None  # not even asked: there is no answer to take


def test_cancel_between_two_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = CancelToken()

    def query(*_: Any) -> Any:
        cancel.cancel("test")
        return told(0, 500)

    monkeypatch.setattr(sources, "_query", query)
    session: Any = SimpleNamespace(about=SimpleNamespace(api_version="8.0"), call=lambda ask: ask())
    with pytest.raises(Cancelled):
        allocated_areas(session, make_machine(cbt_enabled=True), make_disk(capacity_bytes=1000), None, cancel=cancel)
