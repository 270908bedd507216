"""Each check of the doctor, good and bad, told by its name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import Cancelled
from hypersdk.model.check import CheckStatus, DoctorCheck
from hypersdk.net.certificate import TlsPolicy
from hypersdk.secret import Secret
from hypersdk.simulator import Fault, FaultKind, Simulator
from hypersdk.simulator.hosts import Host
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import GiB, TiB
from hypersdk.vsphere import doctor
from hypersdk.vsphere.doctor import run_doctor, snapshot_floor
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.machine import DatastoreFacts
from hypersdk.vsphere.privileges import REQUIRED, Operation, missing_privileges
from tests.support.leases import SMALL
from tests.support.peers import Vcsim
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.vsphere import endpoint_of


def endpoint_to(server: Simulator, **tls: Any) -> Endpoint:
    """Pinned, unless ``tls`` says otherwise."""
    policy = TlsPolicy(**tls) if tls else TlsPolicy(thumbprint=server.thumbprint_sha256.replace(":", "").lower())
    return Endpoint(server.host, server.port, server.username, Secret(server.password), policy)


def examine(endpoint: Endpoint, **options: Any) -> dict[str, DoctorCheck]:
    """All checks by name; a name occurs once."""
    checks = list(run_doctor(endpoint, cancel=CancelToken(), **options))
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    for check in checks:
        assert bool(next_step(check)) or check.status is CheckStatus.OK or check.name.startswith("datastore"), check
    return found


def test_all_is_well(simulator: SimulatorFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = simulator(machines=(SMALL,), hosts=1)
    host = server.platform.world.all(Host)[0]
    with server.platform.world.lock:
        host.rename(host.endpoint.address)
    monkeypatch.setattr(doctor, "HTTPS_PORT", host.endpoint.port)
    found = examine(endpoint_to(server), output_dir=tmp_path / "not" / "there")
    assert {check.status for check in found.values()} == {CheckStatus.OK}, found
    names = ["output", "name", "port", "certificate", "login", "clock", *(f"privileges: {one}" for one in Operation)]
    assert list(found)[: len(names)] == names
    assert f"host {host.name}" in found
    assert {"datastore nvme-prod-01", "datastore nfs-archive"} <= found.keys()
    assert server.thumbprint_sha256 in found["certificate"].detail
    assert server.username in found["login"].detail


def ends_with(found: dict[str, DoctorCheck], name: str) -> DoctorCheck:
    """The failed check ``name``, which is the last."""
    assert list(found)[-1] == name
    assert found[name].status is CheckStatus.FAIL
    return found[name]


def test_a_name_that_dns_does_not_know() -> None:
    check = ends_with(examine(Endpoint("vc.invalid", 443, "user", Secret("pw"), TlsPolicy())), "name")
    assert "vc.invalid" in check.detail


def test_a_port_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    check = ends_with(examine(Endpoint("127.0.0.1", port, "user", Secret("pw"), TlsPolicy())), "port")
    assert "Connection refused" in check.detail


def test_a_port_that_speaks_no_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve() -> None:
            for _ in range(2):
                peer, _ = plain.accept()
                with peer:
                    peer.settimeout(5)
                    try:
                        if peer.recv(100):
                            peer.sendall(b"220 mail.example.com ESMTP\r\n" * 4)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        found = examine(Endpoint("127.0.0.1", plain.getsockname()[1], "user", Secret("pw"), TlsPolicy()))
        thread.join(10)
    assert found["port"].status is CheckStatus.OK
    ends_with(found, "certificate")


@pytest.mark.parametrize("tls", [{"insecure": False}, {"thumbprint": "ab" * 32}])
def test_a_certificate_that_is_not_trusted_ends_it_before_the_password(
    simulator: SimulatorFactory, tls: dict[str, Any]
) -> None:
    server = simulator(machines=(SMALL,))
    check = ends_with(examine(endpoint_to(server, **tls)), "certificate")
    assert server.thumbprint_sha256 in check.detail + next_step(check)
    assert server.counters.calls["Login"] == 0


def test_a_certificate_by_its_authority_by_nobody_and_near_its_end(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(machines=(SMALL,))
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(server.ca_pem)
    assert examine(endpoint_to(server, ca_bundle=bundle))["certificate"].status is CheckStatus.OK
    insecure = examine(endpoint_to(server, insecure=True))["certificate"]
    assert (insecure.status, server.thumbprint_sha256 in next_step(insecure)) == (CheckStatus.WARN, True)
    later = datetime.now(UTC) + timedelta(days=390)
    found = examine(endpoint_to(server, ca_bundle=bundle), now=lambda: later)
    assert (found["certificate"].status, found["certificate"].detail.startswith("expires soon")) == (
        CheckStatus.WARN,
        True,
    )


@pytest.mark.parametrize(("shift", "word"), [(timedelta(minutes=6), "behind"), (timedelta(minutes=-6), "ahead of")])
def test_clocks_that_differ(simulator: SimulatorFactory, shift: timedelta, word: str) -> None:
    check = examine(endpoint_to(simulator(machines=(SMALL,))), now=lambda: datetime.now(UTC) + shift)["clock"]
    assert (check.status, word in check.detail) == (CheckStatus.WARN, True)


def test_a_wrong_password(simulator: SimulatorFactory) -> None:
    server = simulator(machines=(SMALL,))
    check = ends_with(examine(replace(endpoint_to(server), password=Secret("wr0ng"))), "login")
    assert "wr0ng" not in repr(check)


def test_missing_privileges_by_name_and_operation(simulator: SimulatorFactory) -> None:
    denied = frozenset(
        {"VApp.Export", "VirtualMachine.State.CreateSnapshot", "Sessions.TerminateSession", "Datastore.Browse"}
    )
    found = examine(endpoint_to(simulator(machines=(SMALL,), denied_privileges=denied)))
    export = found["privileges: export"]
    assert (export.status, export.detail) == (CheckStatus.FAIL, "missing: VApp.Export")
    assert "VApp.Export" in next_step(export)
    snapshot = found["privileges: snapshot"]
    assert (snapshot.status, snapshot.detail) == (CheckStatus.WARN, "missing: VirtualMachine.State.CreateSnapshot")
    assert found["privileges: cleanup after a crash"].detail == "missing: Sessions.TerminateSession"
    assert found["privileges: datastore ranges"].detail == "missing: Datastore.Browse"
    for other in ("inventory", "power", "cdrom", "changed areas"):
        assert found[f"privileges: {other}"].status is CheckStatus.OK


def test_every_privilege_is_one_that_vsphere_knows(vcsim: Callable[..., Vcsim], log_in: LogIn) -> None:
    """By the roles of vcsim, which are a recording of a real server's."""
    session = log_in(vcsim(vm=0, standalone_host=0))
    roles = session.call(lambda: session.content.authorizationManager.roleList)
    known = {name for role in roles for name in role.privilege}
    assert len(known) > 200
    assert {name for names in REQUIRED.values() for name in names} <= known


def test_an_object_that_the_answer_leaves_out_counts_as_denied() -> None:
    item = SimpleNamespace(privId="VApp.Export", isGranted=True)
    answer = SimpleNamespace(privAvailability=[item])
    manager = SimpleNamespace(HasPrivilegeOnEntities=lambda entities, key, names: [answer])
    session: Any = SimpleNamespace(
        key="k", content=SimpleNamespace(authorizationManager=manager), call=lambda ask: ask()
    )
    assert missing_privileges(session, ["a"], [Operation.EXPORT]) == {}
    assert missing_privileges(session, ["a", "b"], [Operation.EXPORT]) == {Operation.EXPORT: ("VApp.Export",)}


def test_the_licence_of_a_lone_host(vcsim: Callable[..., Vcsim], monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = endpoint_of(vcsim(esx=True, vm=0))
    found = examine(endpoint)
    assert (found["licence"].status, found["licence"].detail) == (CheckStatus.OK, "eval")
    assert not [name for name in found if name.startswith("host ")]
    monkeypatch.setattr(doctor, "FREE_LICENCE", "eval")
    free = examine(endpoint)["licence"]
    assert (free.status, "refuses exports" in free.detail) == (CheckStatus.FAIL, True)


def test_hosts_that_cannot_be_reached_or_are_away(simulator: SimulatorFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    server = simulator(machines=(SMALL,), hosts=2)
    one, two = server.platform.world.all(Host)
    with socket.create_server(("127.0.0.9", 0)) as free:
        monkeypatch.setattr(doctor, "HTTPS_PORT", free.getsockname()[1])
    with server.platform.world.lock:
        one.rename("127.0.0.9")
    away = {one.ref.moref: "connected", two.ref.moref: "notResponding"}
    real = doctor._read_all

    def read(*args: Any) -> Any:
        items = real(*args)
        for item in items:
            if item.moref in away:
                item.values["runtime.connectionState"].text = away[item.moref]
        return items

    monkeypatch.setattr(doctor, "_read_all", read)
    found = examine(endpoint_to(server))
    check = found["host 127.0.0.9"]
    assert (check.status, "its disks come through vCenter" in check.detail) == (CheckStatus.WARN, True)
    assert (found[f"host {two.name}"].status, "notResponding" in found[f"host {two.name}"].detail) == (
        CheckStatus.WARN,
        True,
    )


def test_a_datastore_without_room_for_a_snapshot(simulator: SimulatorFactory) -> None:
    fault = Fault(FaultKind.DATASTORE_FULL, disk="nvme-prod-01", after_bytes=10 * GiB, times=None)
    found = examine(endpoint_to(simulator(machines=(SMALL,), faults=(fault,))))
    check = found["datastore nvme-prod-01"]
    assert (check.status, "10.0 GiB" in check.detail) == (CheckStatus.WARN, True)
    assert found["datastore nvme-prod-02"].status is CheckStatus.OK


def test_the_floor_of_a_datastore() -> None:
    assert snapshot_floor(1 * TiB) == TiB // 10
    assert snapshot_floor(100 * GiB) == 20 * GiB
    away = DatastoreFacts("datastore-1", "away", None, None, False)
    assert doctor._datastore(away).status is CheckStatus.WARN
    assert doctor._datastore(replace(away, accessible=True)).status is CheckStatus.WARN


def test_one_machine_narrows_it_down(simulator: SimulatorFactory) -> None:
    found = examine(endpoint_to(simulator(machines=(SMALL,))), machine="web")
    assert len([name for name in found if name.startswith("datastore ")]) == 1
    missing = examine(endpoint_to(simulator(machines=(SMALL,))), machine="wbe")["machine"]
    assert missing.status is CheckStatus.FAIL
    assert "wbe" in missing.detail


def test_what_a_server_refuses_is_a_finding_and_the_rest_goes_on(simulator: SimulatorFactory) -> None:
    fault = Fault(FaultKind.CALL, method="HasPrivilegeOnEntities", fault="NotSupported", times=None)
    found = examine(endpoint_to(simulator(machines=(SMALL,), faults=(fault,))))
    assert found["privileges"].status is CheckStatus.WARN
    assert any(name.startswith("datastore ") for name in found)


@pytest.mark.parametrize("after", ["port", "login", "clock", "datastore iso-library"])
def test_cancel_is_no_finding(simulator: SimulatorFactory, after: str) -> None:
    cancel = CancelToken()
    seen = []

    def run() -> None:
        for check in run_doctor(endpoint_to(simulator(machines=(SMALL,))), cancel=cancel):
            seen.append(check.name)
            if check.name == after:
                cancel.cancel("test")

    if after.startswith("datastore"):
        run()  # the last check: nothing asks any more
    else:
        with pytest.raises(Cancelled):
            run()
        assert len(seen) - seen.index(after) <= 2


def test_a_folder_that_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("shutil.disk_usage", broken)
    assert doctor._local_space(tmp_path).status is CheckStatus.FAIL


def test_on_vcsim(vcsim: Callable[..., Vcsim]) -> None:
    server = vcsim(vm=1)
    found = examine(endpoint_of(server))
    assert found["login"].status is CheckStatus.OK
    assert found["clock"].status is CheckStatus.OK
    assert any(name.startswith("host DC0_") for name in found)
    assert any(name.startswith("datastore ") for name in found)
    assert [check for check in found.values() if check.status is CheckStatus.FAIL] == []


def test_the_role_in_the_docs_is_the_one_that_is_checked() -> None:
    text = (Path(__file__).parents[2] / "docs" / "minimal-role.md").read_text()
    table = {row[0].removeprefix("| "): tuple(row[1].replace("`", "").split()) for row in _operation_rows(text)}
    assert table == {operation.value: names for operation, names in REQUIRED.items()}
    commands = text.partition("```")[2].partition("```")[0]
    listed = [word for word in commands.replace("\\\n", " ").split() if "." in word and word != "role.create"]
    wanted = {name for names in REQUIRED.values() for name in names if not name.startswith("System.")}
    assert sorted(listed) == sorted(wanted)


def _operation_rows(text: str) -> list[list[str]]:
    operations = {operation.value for operation in Operation}
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0].removeprefix("| ") in operations]
