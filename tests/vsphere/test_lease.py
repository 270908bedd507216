"""Export leases, against our simulator (for faults) and against vcsim (for another's idea of a lease)."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hypersdk.errors import (
    AccessError,
    Cancelled,
    ConnectError,
    HyperSDKError,
    IntegrityError,
    Refused,
    SourceError,
    TransientError,
)
from hypersdk.simulator import DiskSpec, Fault, FaultKind, MachineSpec, Simulator
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.source import StreamDigests
from hypersdk.units import KiB, MiB
from hypersdk.vsphere import lease as lease_module
from hypersdk.vsphere import nfc
from hypersdk.vsphere import tasks as tasks_module
from hypersdk.vsphere.inventory import find_machine, list_machines
from hypersdk.vsphere.lease import LeasedExport, Verdict, _compare, match_disks
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import create_snapshot
from hypersdk.vsphere.tasks import cancel_task
from tests.support.leases import SMALL, Book, held, lease_on, moref_of, read_all
from tests.support.machines import make_disk
from tests.support.peers import Vcsim
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.waiting import AT_ONCE_S, eventually

CAPACITY_AT = 12
"""Offset of the capacity (in sectors, 64 bit) in a SparseExtentHeader."""


def stream_capacity(source: Any) -> int:
    """What the stream itself says it is of."""
    head = memoryview(bytearray(512))
    with source.open(CancelToken()) as stream:
        filled = 0
        while filled < len(head):
            count = stream.readinto(head[filled:])
            assert count
            filled += count
    return int.from_bytes(head[CAPACITY_AT : CAPACITY_AT + 8], "little") * 512


# Opening and ending


def test_each_disk_has_its_own_stream_whatever_its_controller(simulator: SimulatorFactory, log_in: LogIn) -> None:
    kinds: tuple[Any, ...] = ("pvscsi", "pvscsi", "nvme", "ahci", "ide", "ide")
    disks = tuple(DiskSpec((number + 1) * MiB, controller=kind) for number, kind in enumerate(kinds))
    server = simulator(machines=(MachineSpec("web", disks, iso="[iso-library] tools/virtio-win.iso"),))
    session, book = log_in(server), Book()
    machine = read_machine(session, moref_of(server))
    assert {disk.bus for disk in machine.disks} == {"scsi", "nvme", "sata", "ide"}
    with lease_on(session, machine.moref, book) as lease:
        found = {source.device_key: source for source in lease.sources}
        assert found.keys() == {disk.key for disk in machine.disks}
        for disk in machine.disks:
            source = found[disk.key]
            assert (source.label, source.capacity_bytes) == (disk.label, disk.capacity_bytes)
            assert stream_capacity(source) == disk.capacity_bytes
        assert held(server)
    assert not held(server)


def test_the_journal_hears_before_the_server_and_again_with_the_name(
    simulator: SimulatorFactory, log_in: LogIn
) -> None:
    server = simulator(machines=(SMALL,))
    asked: list[int] = []
    book = Book(before=lambda _: asked.append(server.counters.calls["ExportVm"]))
    session = log_in(server)
    with lease_on(session, moref_of(server), book) as lease:
        assert book.words == ["opened ?", "opened lease", "closed ?"]
        (record,) = book.left
        assert record.lease_moref.startswith(f"session[{session.key}]")
        assert record.session_key == session.key
        assert record.task_moref is not None
        lease.complete()
        lease.complete()
    assert asked == [0, 1]
    assert book.words == ["opened ?", "opened lease", "closed ?", "closed lease"]
    assert (server.counters.calls["HttpNfcLeaseComplete"], server.counters.calls["HttpNfcLeaseAbort"]) == (1, 0)
    assert not held(server)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), Cancelled("x")])
def test_every_other_way_out_aborts(simulator: SimulatorFactory, log_in: LogIn, error: BaseException) -> None:
    server = simulator(machines=(SMALL,))
    before = server.state()
    book = Book()
    session = log_in(server)

    def export() -> None:
        with lease_on(session, moref_of(server), book) as lease:
            read_all(lease.sources[0])
            raise error

    with pytest.raises(type(error)):
        export()
    assert (server.counters.calls["HttpNfcLeaseComplete"], server.counters.calls["HttpNfcLeaseAbort"]) == (0, 1)
    assert book.left == []
    assert server.state() == before


@pytest.mark.parametrize("at", [1, 2])
def test_a_journal_that_cannot_be_written_leaves_no_lease(simulator: SimulatorFactory, log_in: LogIn, at: int) -> None:
    server = simulator(machines=(SMALL,))
    heard: list[object] = []

    def full(record: object) -> None:
        heard.append(record)
        if len(heard) == at:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), lease_on(log_in(server), moref_of(server), Book(full)):
        pytest.fail("no lease that is not written down is used")
    assert server.counters.calls["ExportVm"] == at - 1
    assert not held(server)


def test_cancel_while_the_host_prepares(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), lease_ready_s=60)
    book, cancel = Book(), CancelToken()
    timer = threading.Timer(0.3, cancel.cancel, ["test"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled), lease_on(log_in(server), moref_of(server), book, cancel=cancel):
        pytest.fail("it is not ready")
    assert time.monotonic() - started < AT_ONCE_S
    timer.join()
    assert book.left == []
    assert not held(server)


def test_a_host_that_cannot_prepare_it(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(Fault(FaultKind.LEASE_ERROR),))
    book = Book()
    with (
        pytest.raises(SourceError, match="failed to prepare the export"),
        lease_on(log_in(server), moref_of(server), book),
    ):
        pytest.fail("it is in error")
    assert book.left == []


def test_what_passes_is_asked_again(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(Fault(FaultKind.CALL, method="ExportVm", fault="Timedout", times=2),))
    book = Book()
    heard: list[Any] = []
    with lease_on(log_in(server), moref_of(server), book, on_wait=heard.append):
        assert len(book.left) == 1
    assert len(heard) == 2
    assert "trying again" in heard[0]
    assert book.left == []


@pytest.mark.parametrize(
    ("settings", "code", "family", "words"),
    [
        ({"esxi": True, "free_licence": True}, "license_refuses_export", Refused, "Current license"),
        ({"denied_privileges": frozenset({"VApp.Export"})}, "privilege_missing", AccessError, "VApp.Export"),
        ({"machines": (replace(SMALL, power="poweredOn"),)}, "power_state", Refused, ""),
    ],
)
def test_refusals_by_name(
    simulator: SimulatorFactory,
    log_in: LogIn,
    settings: dict[str, Any],
    code: str,
    family: type[HyperSDKError],
    words: str,
) -> None:
    server = simulator(**{"machines": (SMALL,), **settings})
    book = Book()
    with pytest.raises(family) as caught, lease_on(log_in(server), moref_of(server), book):
        pytest.fail("it is refused")
    assert caught.value.code == code
    assert words in caught.value.message
    assert book.words == ["opened ?", "closed ?"]


def test_a_busy_machine_is_waited_for(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    first, second = log_in(server), log_in(server)
    moref = moref_of(server)
    heard: list[Any] = []
    with lease_on(first, moref, Book()) as earlier:
        done = threading.Timer(0.3, earlier.complete)
        done.start()
        with lease_on(second, moref, Book(), on_wait=heard.append):
            assert held(server)
        done.join()
    assert heard
    assert "holds the machine" in heard[0]


def test_a_machine_that_stays_busy(simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "BUSY_PATIENCE_S", 0.2)
    server = simulator(machines=(SMALL,))
    book = Book()
    with lease_on(log_in(server), moref_of(server), Book()):
        with pytest.raises(Refused) as caught, lease_on(log_in(server), moref_of(server), book):
            pytest.fail("it is held")
        assert held(server)
    assert caught.value.code == "busy"
    assert book.left == []


# Snapshots


def snapshot_of(session: Session, moref: str) -> str:
    return create_snapshot(session, moref, name="s", description="", quiesce=False, cancel=CancelToken())


def test_a_running_machine_through_its_snapshot(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(replace(SMALL, power="poweredOn"),))
    session, moref = log_in(server), moref_of(server)
    snapshot = snapshot_of(session, moref)
    with lease_on(session, moref, Book(), snapshot=snapshot) as lease:
        first = read_all(lease.sources[0])
        server.change_disk("web")
        assert read_all(lease.sources[0]) == first
        lease.complete()


def test_a_snapshot_has_the_disks_of_its_time(simulator: SimulatorFactory, log_in: LogIn) -> None:
    """Another disk sits in the place of one that was removed since: by today's list the stream would be taken for that
    one."""
    disks = (DiskSpec(1 * MiB), DiskSpec(2 * MiB), DiskSpec(3 * MiB))
    server = simulator(machines=(MachineSpec("web", disks),))
    session, moref = log_in(server), moref_of(server)
    snapshot = snapshot_of(session, moref)
    machine = server.vm("web")
    with server.platform.world.lock:
        machine.disks[1].key, machine.disks[2].key = machine.disks[2].key, machine.disks[1].key
        machine.refresh_disk_devices()
    assert [disk.capacity_bytes // MiB for disk in read_machine(session, moref).disks] == [1, 3, 2]
    with lease_on(session, moref, Book(), snapshot=snapshot) as lease:
        assert [(source.device_key, source.capacity_bytes // MiB) for source in lease.sources] == [
            (2000, 1),
            (2001, 2),
            (2002, 3),
        ]
        assert [stream_capacity(source) // MiB for source in lease.sources] == [1, 2, 3]


@pytest.fixture
def served(tmp_path: Path) -> dict[str, bytes]:
    """Content of the disk that vcsim serves for its first machine."""
    content = {"DC0_H0_VM0/disk1.vmdk": b"KDMV" + bytes(range(256)) * 8192}
    for name, data in content.items():
        (tmp_path / "disks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "disks" / name).write_bytes(data)
    return content


def test_both_leases_on_vcsim(
    vcsim: Callable[..., Vcsim], log_in: LogIn, served: dict[str, bytes], tmp_path: Path
) -> None:
    server = vcsim(vm=1, cluster=0, standalone_host=1, autostart=False, disks=tmp_path / "disks")
    session = log_in(server)
    machine = read_machine(session, find_machine(list_machines(session, cancel=CancelToken()), "DC0_H0_VM0").moref)
    digest = hashlib.sha256(served["DC0_H0_VM0/disk1.vmdk"]).hexdigest()
    snapshot = snapshot_of(session, machine.moref)
    server.govc("vm.disk.create", "-vm", "DC0_H0_VM0", "-name", "DC0_H0_VM0/later", "-size", "1M")
    assert len(read_machine(session, machine.moref).disks) == 2
    for point in (snapshot, None):
        book = Book()
        with lease_on(session, machine.moref, book, snapshot=point) as lease:
            (source,) = [one for one in lease.sources if one.device_key == machine.disks[0].key]
            assert len(lease.sources) == (1 if point else 2)
            received = read_all(source)
            assert received.sha256 == digest
            assert lease.verify({source.lease_key: received}) == {source.lease_key: Verdict.UNPROVED}
            lease.complete()
        assert book.left == []


# Staying


def test_kept_alive_while_nothing_moves(simulator: SimulatorFactory, log_in: LogIn) -> None:
    stall = Fault(FaultKind.STALL, after_bytes=64 * KiB, seconds=3.5)
    server = simulator(machines=(SMALL,), lease_timeout_s=2, faults=(stall,))
    book = Book()
    with lease_on(log_in(server), moref_of(server), book) as lease:
        lease.set_fraction(0.42)
        time.sleep(2.5)
        received = read_all(lease.sources[0])
        assert server.faults.applied[FaultKind.STALL] == 1
        with server.platform.world.lock:
            assert server.vm("web").lease.task.info.progress == 42
        assert lease.age_s > 5.5
        assert lease.verify({lease.sources[0].lease_key: received})[lease.sources[0].lease_key] is Verdict.PROVED
        lease.complete()
    assert len(book.leases) == 1
    assert server.counters.calls["HttpNfcLeaseProgress"] >= 12


def test_renewals_that_fail_are_made_again(simulator: SimulatorFactory, log_in: LogIn) -> None:
    fault = Fault(FaultKind.CALL, method="HttpNfcLeaseProgress", times=2)
    server = simulator(machines=(SMALL,), lease_timeout_s=2, faults=(fault,))
    with lease_on(log_in(server), moref_of(server), Book()):
        time.sleep(2.5)
        assert held(server)
    assert server.faults.applied[FaultKind.CALL] == 2


def time_out(server: Simulator, _session: Session, book: Book) -> None:
    with server.platform.world.lock:
        lease = server.vm("web").lease
        assert lease is not None
        lease.renewed -= 1000
    eventually(lambda: not held(server))


def end_session(server: Simulator, _session: Session, book: Book) -> None:
    server.end_sessions()


def cancel_its_task(server: Simulator, session: Session, book: Book) -> None:
    assert book.leases[-1].task_moref is not None
    assert cancel_task(session, book.leases[-1].task_moref)


Lose = Callable[[Simulator, Session, Book], None]
LOSSES = [time_out, end_session, cancel_its_task]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_lease_is_opened_again_at_the_same_point(simulator: SimulatorFactory, log_in: LogIn, lose: Lose) -> None:
    machine = replace(SMALL, disks=(DiskSpec(2 * MiB), DiskSpec(3 * MiB)))
    server = simulator(machines=(machine,))
    session, book, asked = log_in(server), Book(), []
    with lease_on(session, moref_of(server), book, same_point=lambda: asked.append(held(server))) as lease:
        one, two = lease.sources
        first = read_all(one)
        lose(server, session, book)
        second = read_all(two)
        assert asked == [False]
        assert lease.verify({one.lease_key: first, two.lease_key: second}) == {
            one.lease_key: Verdict.UNVERIFIABLE,
            two.lease_key: Verdict.PROVED,
        }
        assert read_all(one) == first
        assert lease.verify({one.lease_key: first})[one.lease_key] is Verdict.PROVED
        lease.complete()
    assert len(book.leases) == 2
    assert book.words[-5:] == ["closed lease", "opened ?", "opened lease", "closed ?", "closed lease"]
    assert book.left == []


@pytest.mark.parametrize("lose", LOSSES)
def test_no_new_lease_of_another_point(simulator: SimulatorFactory, log_in: LogIn, lose: Lose) -> None:
    server = simulator(machines=(SMALL,))
    session, book = log_in(server), Book()

    def moved() -> None:
        raise SourceError("it was powered on")

    with lease_on(session, moref_of(server), book, same_point=moved) as lease:
        lose(server, session, book)
        for _ in range(2):
            with pytest.raises(SourceError, match="it was powered on") as caught:
                read_all(lease.sources[0])
            assert not isinstance(caught.value, TransientError)
    assert len(book.leases) == 1
    assert book.left == []
    assert not held(server)


@pytest.mark.parametrize("kind", [FaultKind.LEASE_TIMEOUT, FaultKind.SESSION_EXPIRY])
def test_a_lease_lost_under_a_stream(simulator: SimulatorFactory, log_in: LogIn, kind: FaultKind) -> None:
    server = simulator(machines=(SMALL,), faults=(Fault(kind, after_bytes=64 * KiB),))
    session, book = log_in(server), Book()
    with lease_on(session, moref_of(server), book) as lease:
        with pytest.raises(TransientError):
            read_all(lease.sources[0])
        received = read_all(lease.sources[0])
        assert lease.verify({lease.sources[0].lease_key: received})[lease.sources[0].lease_key] is Verdict.PROVED
    assert len(book.leases) == 2
    assert book.left == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_data_request_that_is_not_authorized_leads_to_a_new_login_and_lease(
    simulator: SimulatorFactory, log_in: LogIn, times: int
) -> None:
    """While the API is content with session and lease: asking it again would only hear the same."""
    server = simulator(
        machines=(SMALL,), faults=(Fault(FaultKind.STATUS, status=401, times=2 * times),)
    )  # by both ways
    session, book = log_in(server), Book()
    keys, before = {session.key}, server.counters.calls["Login"]
    with lease_on(session, moref_of(server), book) as lease:
        (source,) = lease.sources
        for _ in range(times):
            with pytest.raises(TransientError) as caught:
                read_all(source)
            assert caught.value.code == "lease_lost"
            keys.add(session.key)
        received = read_all(source)
        assert lease.verify({source.lease_key: received}) == {source.lease_key: Verdict.PROVED}
        lease.complete()
    assert len(keys) == 1 + times == len(book.leases)
    assert server.counters.calls["Login"] == before + times
    assert book.left == []
    assert not held(server)


def test_streams_that_are_not_authorized_together_lead_to_one_login(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, give_up = threading.Barrier(4), LeasedExport._give_up

    def give_up_together(*arguments: Any) -> None:
        together.wait(30)
        give_up(*arguments)

    monkeypatch.setattr(LeasedExport, "_give_up", give_up_together)
    disks = tuple(DiskSpec(2 * MiB) for _ in range(4))
    server = simulator(machines=(MachineSpec("web", disks),), faults=(Fault(FaultKind.STATUS, status=401, times=8),))
    session, book = log_in(server), Book()
    before = server.counters.calls["Login"]
    with lease_on(session, moref_of(server), book) as lease, ThreadPoolExecutor(4) as pool:
        refused = [pool.submit(read_all, source) for source in lease.sources]
        assert {type(future.exception()) for future in refused} == {TransientError}
        assert server.counters.calls["Login"] == before + 1
        assert all(future.result() for future in [pool.submit(read_all, source) for source in lease.sources])
        lease.complete()
    assert book.left == []


def test_a_stream_that_is_cancelled_does_not_wait_for_another_ones_lease(
    simulator: SimulatorFactory, log_in: LogIn
) -> None:
    server = simulator(machines=(SMALL,))
    session, book, asked, go = log_in(server), Book(), threading.Event(), threading.Event()

    def slow() -> None:
        asked.set()
        assert go.wait(90)

    with lease_on(session, moref_of(server), book, same_point=slow) as lease:
        end_session(server, session, book)
        opener = threading.Thread(target=read_all, args=[lease.sources[0]])
        opener.start()
        assert asked.wait(90)
        cancel = CancelToken()
        timer = threading.Timer(0.2, cancel.cancel, ["test"])
        timer.start()
        started = time.monotonic()
        with pytest.raises(Cancelled), lease.sources[0].open(cancel):
            pytest.fail("the lease is not there yet")
        assert time.monotonic() - started < AT_ONCE_S
        go.set()
        opener.join()
        timer.join()
    assert book.left == []


def lose_answers(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """The server does what is asked, and the next ``times`` answers get lost."""
    lost: list[str] = []
    real = nfc.request_lease

    def request(session: Session, moref: str, snapshot: str | None) -> str:
        lease = real(session, moref, snapshot)
        if len(lost) < times:
            lost.append(lease)
            raise ConnectError("hung up")
        return lease

    monkeypatch.setattr(nfc, "request_lease", request)
    return lost


def test_a_lost_answer_stays_in_the_journal(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,))
    book = Book()
    lost = lose_answers(monkeypatch, 1)
    with pytest.raises(ConnectError), lease_on(log_in(server), moref_of(server), book):
        pytest.fail("nobody knows of the lease")
    assert lost
    assert held(server)
    assert book.words == ["opened ?"]


def test_a_lost_answer_does_not_make_the_machine_look_busy(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,))
    session, book = log_in(server), Book()
    with lease_on(session, moref_of(server), book) as lease:
        end_session(server, session, book)
        lose_answers(monkeypatch, 1)
        with pytest.raises(TransientError, match="hung up"):
            read_all(lease.sources[0])
        started = time.monotonic()
        read_all(lease.sources[0])
        assert time.monotonic() - started < 5
    assert book.left == []
    assert not held(server)


# The manifest


def received_and_verdict(server: Simulator, session: Session, **more: Any) -> tuple[StreamDigests, Verdict, str]:
    with lease_on(session, moref_of(server), Book(), **more) as lease:
        (source,) = lease.sources
        received = read_all(source)
        kept_sha256 = source.algorithm == "sha256"  # as the transfer does
        made = replace(received, sha1=None) if kept_sha256 else replace(received, sha256=None)
        verdict = lease.verify({source.lease_key: made})[source.lease_key]
        lease.complete()
    return received, verdict, source.algorithm


@pytest.mark.parametrize(
    ("manifest", "algorithm", "verdict"),
    [("sha256", "sha256", Verdict.PROVED), ("sha1", "sha1", Verdict.PROVED), ("absent", "sha256", Verdict.UNPROVED)],
)
def test_the_verdict_of_the_servers_manifest(
    simulator: SimulatorFactory, log_in: LogIn, manifest: str, algorithm: str, verdict: Verdict
) -> None:
    server = simulator(machines=(SMALL,), manifest=manifest)
    assert received_and_verdict(server, log_in(server))[1:] == (verdict, algorithm)


def test_the_digest_is_that_of_the_lease_that_serves_the_stream(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session, book = log_in(server), Book()
    with lease_on(session, moref_of(server), book) as lease:
        (source,) = lease.sources
        time_out(server, session, book)
        server.set_faults(Fault(FaultKind.CALL, method="HttpNfcLeaseSetManifestChecksumType", fault="NotSupported"))
        received = replace(read_all(source), sha256=None)
        assert source.algorithm == "sha1"
        assert lease.verify({source.lease_key: received}) == {source.lease_key: Verdict.PROVED}
        lease.complete()


@pytest.mark.parametrize("manifest", ["sha256", "sha1"])
def test_a_mismatch_is_an_error_that_names_the_disk(simulator: SimulatorFactory, log_in: LogIn, manifest: str) -> None:
    server = simulator(machines=(SMALL,), manifest=manifest, faults=(Fault(FaultKind.WRONG_MANIFEST),))
    with pytest.raises(IntegrityError, match="Hard disk 1") as caught:
        received_and_verdict(server, log_in(server))
    assert caught.value.code == "manifest_mismatch"
    assert caught.value.fields["disks"] == ["Hard disk 1"]
    assert not held(server)


def test_the_manifest_is_asked_for_before_the_end_and_its_kind_before_the_first_byte(
    simulator: SimulatorFactory, log_in: LogIn
) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    with lease_on(session, moref_of(server), Book()) as lease:
        assert server.counters.calls["HttpNfcLeaseSetManifestChecksumType"] == 1
        assert not server.counters.stream_bytes
        received = read_all(lease.sources[0])
        lease.complete()
        assert lease.verify({lease.sources[0].lease_key: received}) == {
            lease.sources[0].lease_key: Verdict.UNVERIFIABLE
        }
    assert server.counters.calls["HttpNfcLeaseGetManifest"] == 0


def test_a_digest_of_another_length_is_no_mismatch_where_the_stream_was_begun_twice() -> None:
    stream = StreamDigests("a" * 64, None, 1000)
    of_both = nfc.ManifestEntry(None, "b" * 64, 1500)
    assert _compare(of_both, stream, 2) is None
    assert _compare(of_both, stream, 1) is False
    assert _compare(replace(of_both, size_bytes=1000), stream, 2) is False
    assert _compare(replace(of_both, size_bytes=None), stream, 2) is False
    assert _compare(nfc.ManifestEntry("c" * 40, None, 1000), stream, 1) is None


def test_an_end_that_the_server_does_not_hear_of_is_an_abort(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), faults=(Fault(FaultKind.CALL, method="HttpNfcLeaseComplete"),))
    book = Book()
    with lease_on(log_in(server), moref_of(server), book) as lease:
        lease.complete()
    assert server.counters.calls["HttpNfcLeaseAbort"] == 1
    assert book.left == []
    assert not held(server)


def test_a_lease_that_may_still_be_there_stays_in_the_journal(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = simulator(machines=(SMALL,))
    book = Book()
    monkeypatch.setattr(lease_module, "_ABORT_PAUSE_S", 0.01)
    with lease_on(log_in(server), moref_of(server), book):
        server.set_faults(Fault(FaultKind.CALL, method="HttpNfcLeaseAbort", times=None))
    assert [record.lease_moref for record in book.left] == [book.leases[0].lease_moref]
    assert held(server)


# Which stream is of which disk


def url(key: str, target: str = "") -> nfc.DeviceUrl:
    return nfc.DeviceUrl(key, f"https://esx/nfc/1/{target}", None, True, target)


def matched(disks: list[Any], files: list[nfc.DeviceUrl]) -> list[tuple[int, str]]:
    return [(disk.key, file.key) for disk, file in match_disks(disks, files)]


def test_by_controller_and_unit_on_several_controllers() -> None:
    disks = [
        make_disk(1),
        make_disk(2, bus_number=1, unit_number=0),
        make_disk(3, bus="ide", bus_number=1, unit_number=0),
        make_disk(4, bus="sata", unit_number=0),
        make_disk(5, bus="nvme", unit_number=0),
        make_disk(6, unit_number=8),
    ]
    keys = [
        "/vm-1/VirtualNVMEController0:0",
        "/vm-1/VirtualLsiLogicController1:0",
        "/vm-1/ParaVirtualSCSIController0:8",
        "/vm-1/VirtualAHCIController0:0",
        "/vm-1/VirtualIDEController1:0",
        "/vm-1/VirtualLsiLogicSASController0:0",
    ]
    found = matched(disks, [url(key, "disk.vmdk") for key in keys])
    assert found == list(zip([2004, 2001, 2005, 2003, 2002, 2000], keys, strict=True))


def test_by_the_name_of_the_file() -> None:
    found = matched([make_disk(1), make_disk(2)], [url("b", "vm_2.vmdk"), url("a", "vm_1.vmdk")])
    assert found == [(2001, "b"), (2000, "a")]


def test_by_order_where_the_keys_tell_nothing() -> None:
    files = [url("x", "disk-0.vmdk"), url("y", "disk-1.vmdk")]
    assert matched([make_disk(1), make_disk(2)], files) == [(2000, "x"), (2001, "y")]
    assert matched([make_disk(1), make_disk(2), make_disk(3)], files) == []


def test_a_file_of_a_place_without_a_disk_is_not_given_to_a_disk_of_another_place() -> None:
    """One disk was removed and another added: as many on both sides, and not the same."""
    files = [url("/vm-1/ParaVirtualSCSIController0:0"), url("/vm-1/ParaVirtualSCSIController0:1")]
    disks = [make_disk(1), make_disk(3, unit_number=2)]
    assert matched(disks, files) == [(2000, "/vm-1/ParaVirtualSCSIController0:0")]
