"""Endpoints that an administrator registers, against the simulator over TLS."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa

from hypersdk.access.endpoints import EndpointStore, NewEndpoint
from hypersdk.access.faults import Conflict
from hypersdk.access.kinds import KINDS
from hypersdk.access.kinds.base import CertificateNotTrusted, EndpointLogin
from hypersdk.access.vault import Vault
from hypersdk.errors import AccessError, ConnectError, HyperSDKError, LookupFailed, UsageError
from hypersdk.jobs.remedies import next_step
from hypersdk.secret import Secret
from hypersdk.simulator import Simulator
from hypersdk.state.database import Database
from hypersdk.state.pages import EVERYTHING, PageRequest
from hypersdk.state.tables import endpoints as table
from hypersdk.vsphere.session import About
from tests.support.simulator import SimulatorFactory


@pytest.fixture
def vcenter(simulator: SimulatorFactory) -> Simulator:
    return simulator(vms=1, username="user", password=Secret("planted-password"))


@pytest.fixture
def endpoints(sqlite: Database) -> EndpointStore:
    return EndpointStore(sqlite, Vault(bytes(32), environ={"VC_PASSWORD": "from-env"}))


def new(vcenter: Simulator, **more: Any) -> NewEndpoint:
    values: dict[str, Any] = {
        "name": "vc1",
        "url": vcenter.url,
        "username": "user",
        "password": Secret("planted-password"),
    }
    return NewEndpoint(**(values | more))


def test_a_certificate_that_is_not_trusted_wants_its_pin(
    endpoints: EndpointStore, vcenter: Simulator, sqlite: Database
) -> None:
    with pytest.raises(CertificateNotTrusted) as caught:
        endpoints.create(new(vcenter))
    assert caught.value.code == "certificate_unknown"
    pin = caught.value.fields["sha256"]
    assert str(pin) in next_step(caught.value)
    assert endpoints.page(EVERYTHING, PageRequest("name")).rows == ()
    made = endpoints.create(new(vcenter, thumbprint=pin))
    assert (made.thumbprint, made.has_password, made.is_default) == (pin, True, True)
    assert endpoints.login_of("vc1", kind="vsphere").password == Secret("planted-password")
    with sqlite.read() as connection:
        row = connection.execute(sa.select(table)).one()
    assert "planted-password" not in repr(row)
    assert b"planted-password" not in row.secret
    about = endpoints.probe(made.id)
    assert about.api_type == "VirtualCenter"


def test_another_certificate_than_the_pinned_one_is_refused(endpoints: EndpointStore, vcenter: Simulator) -> None:
    with pytest.raises(ConnectError) as caught:
        endpoints.create(new(vcenter, thumbprint="AA" * 32))
    assert caught.value.code == "certificate_changed"


def test_an_endpoint_keeps_no_password_in_its_url(endpoints: EndpointStore, vcenter: Simulator) -> None:
    address = vcenter.url.removeprefix("https://").removesuffix("/sdk").rpartition("@")[2]
    made = endpoints.create(
        new(vcenter, url=f"https://who:planted@{address}/sdk", username="", password=None, insecure=True)
    )
    assert made.username == "who"
    assert made.url == f"https://{address}"
    assert endpoints.login_of(made.id, kind="vsphere").password == Secret("planted")


def test_a_reference_is_followed_when_it_is_used(endpoints: EndpointStore, vcenter: Simulator) -> None:
    made = endpoints.create(new(vcenter, password=None, secret_ref="env:VC_PASSWORD", insecure=True))
    assert made.secret_ref == "env:VC_PASSWORD"
    assert endpoints.login_of(made.id, kind="vsphere").password == Secret("from-env")
    with pytest.raises(UsageError, match="contradicts password"):
        endpoints.create(new(vcenter, name="b", secret_ref="env:VC_PASSWORD", insecure=True))


def test_default_names_and_deletion(endpoints: EndpointStore, vcenter: Simulator, sqlite: Database) -> None:
    assert endpoints.default() is None
    first = endpoints.create(new(vcenter, insecure=True))
    second = endpoints.create(new(vcenter, name="vc2", insecure=True))
    assert not second.is_default
    with pytest.raises(Conflict):
        endpoints.create(new(vcenter, insecure=True))
    endpoints.make_default("vc2")
    default = endpoints.default()
    assert default is not None
    assert default.name == "vc2"
    assert [one.is_default for one in endpoints.page(EVERYTHING, PageRequest("name")).rows] == [False, True]
    assert endpoints.get("vc1").revision > first.revision
    endpoints.delete(first.id)
    with pytest.raises(LookupFailed) as caught:
        endpoints.get(first.id)
    assert caught.value.code == "endpoint_unknown"


def test_an_id_wins_over_a_name(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.access.kinds.vsphere.Vsphere.check_trust", lambda *_: None)
    endpoints = EndpointStore(database, Vault(bytes(32)))
    first, second = (
        endpoints.create(NewEndpoint(name=name, url=f"https://{name}.example.com", insecure=True))
        for name in ("a", "b")
    )
    for low, high in ((first, second), (second, first)):
        with database.write() as connection:  # as an earlier version let it be named; whichever was made first
            connection.execute(sa.update(table).where(table.c.id == high.id).values(name=low.id))
            connection.execute(sa.update(table).where(table.c.id == low.id).values(name="c"))
        assert endpoints.get(low.id).id == low.id
    assert endpoints.make_default(second.id).id == second.id
    assert endpoints.login_of(second.id, kind="vsphere").url == "https://b.example.com"
    assert endpoints.delete(second.id).id == second.id
    assert endpoints.get(second.id).id == first.id, "now it is a name only"


def test_there_is_one_default_whoever_asks_at_the_same_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 8
    together = threading.Barrier(count)
    monkeypatch.setattr("hypersdk.access.kinds.vsphere.Vsphere.check_trust", lambda *_: together.wait(30))
    made = EndpointStore(database, Vault(bytes(32)))

    def defaults() -> int:
        return sum(one.is_default for one in made.page(EVERYTHING, PageRequest("name")).rows)

    def create(number: int) -> None:
        made.create(NewEndpoint(name=f"vc{number}", url=f"https://192.0.2.{number}", insecure=True))

    def choose(number: int) -> None:
        together.wait(30)
        made.make_default(f"vc{number}")

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(create, range(count)))
        assert defaults() == 1
        for _ in range(5):
            list(pool.map(choose, range(count)))
            assert defaults() == 1


@pytest.mark.parametrize(
    "more",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "../x"},
        {"name": "endpoint-0123456789ab"},
        {"name": "user-0123456789ab"},
        {"kind": "other"},
        {"url": "http://192.0.2.1"},
        {"url": "x" * 2000},
        {"secret_ref": "env:HYPERSDK_X"},
        {"thumbprint": "zz"},
        {"insecure": True, "thumbprint": "AA" * 32},
    ],
)
def test_what_cannot_be_an_endpoint(endpoints: EndpointStore, vcenter: Simulator, more: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        endpoints.create(new(vcenter, **more))


def test_nothing_answers(endpoints: EndpointStore, vcenter: Simulator) -> None:
    with pytest.raises(ConnectError):
        endpoints.create(new(vcenter, url="https://127.0.0.1:1", insecure=True))


def test_a_wrong_key_is_said_when_the_endpoint_is_used(
    endpoints: EndpointStore, vcenter: Simulator, sqlite: Database
) -> None:
    endpoints.create(new(vcenter, insecure=True))
    with pytest.raises(HyperSDKError) as caught:
        EndpointStore(sqlite, Vault(bytes(range(32)))).login_of("vc1", kind="vsphere")
    assert caught.value.code == "vault_wrong_key"


def test_a_login_that_vsphere_refuses(endpoints: EndpointStore, simulator: SimulatorFactory, tmp_path: Path) -> None:
    strict = simulator(vms=1, username="user", password=Secret("right"))
    endpoints.create(new(strict, insecure=True))
    with pytest.raises(AccessError) as caught:
        endpoints.probe("vc1")
    assert "planted-password" not in str(caught.value.as_dict())


class Libvirt:
    """Another kind, of which nothing but this is known."""

    name = "libvirt"
    asked: ClassVar[list[EndpointLogin]] = []

    def normalize(self, login: EndpointLogin) -> EndpointLogin:
        return replace(login, url=login.url.lower())

    def is_local(self, login: EndpointLogin) -> bool:
        return False

    def check_trust(self, login: EndpointLogin) -> None:
        self.asked.append(login)

    def probe(self, login: EndpointLogin) -> About:
        self.asked.append(login)
        return About("QEMU", "QEMU on kvm1", "10.1", "", "11.0", "libvirt", None)


def test_a_kind_is_one_object_in_the_registry(endpoints: EndpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "libvirt", Libvirt())
    made = endpoints.create(
        NewEndpoint(name="kvm1", url="QEMU+SSH://kvm1/system", kind="libvirt", password=Secret("planted"))
    )
    assert (made.kind, made.url, made.has_password) == ("libvirt", "qemu+ssh://kvm1/system", True)
    assert endpoints.probe("kvm1").version == "10.1"
    assert [login.password for login in Libvirt.asked] == [Secret("planted")] * 2
    with pytest.raises(UsageError, match="kind libvirt, not vsphere"):
        endpoints.login_of("kvm1", kind="vsphere")


def test_a_hypervisor_is_tested_by_what_its_guests_can_have(endpoints: EndpointStore, vcenter: Simulator) -> None:
    made = endpoints.create(NewEndpoint(name="lab", url="test:///default", kind="libvirt"))
    assert made.is_default, "the first of its kind"
    about = endpoints.probe("lab")
    assert (about.api_type, about.full_name.startswith("QEMU")) == ("test", True)
    other = endpoints.create(new(vcenter, insecure=True))
    assert other.is_default, "a hypervisor is not the default of jobs that export"
    assert {found.name for found in (endpoints.default(), endpoints.default("libvirt")) if found} == {"vc1", "lab"}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"url": "qemu+ssh://host/system?command=/bin/sh"}, "libvirt_address"),
        ({"url": "qemu+tcp://192.0.2.1/system"}, "libvirt_plain_tcp"),
        ({"username": "root"}, "endpoint_invalid"),
        ({"password": Secret("planted")}, "endpoint_invalid"),
        ({"insecure": True}, "endpoint_invalid"),
    ],
)
def test_the_uri_alone_says_how_to_log_in_to_a_hypervisor(
    endpoints: EndpointStore, more: dict[str, Any], code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        endpoints.create(NewEndpoint(**{"name": "kvm1", "url": "qemu:///system", "kind": "libvirt", **more}))
    assert caught.value.code == code


def test_a_local_address_is_the_one_of_the_workers(sqlite: Database, tmp_path: Path) -> None:
    """An API without workers may be on another machine, or may not use libvirt: it does not judge."""
    url = f"qemu+unix:///system?socket={tmp_path}/nobody"
    endpoints = EndpointStore(sqlite, Vault(bytes(32)), with_workers=False)
    endpoints.create(NewEndpoint(name="kvm1", url=url, kind="libvirt"))
    with pytest.raises(Conflict) as caught:
        endpoints.probe("kvm1")
    assert caught.value.code == "endpoint_at_workers"
    endpoints.create(NewEndpoint(name="lab", url="test:///default", kind="libvirt"))
    assert endpoints.probe("lab").api_type == "test"
    with pytest.raises(HyperSDKError) as remote:
        endpoints.create(NewEndpoint(name="kvm2", url="qemu+tcp://127.0.0.1:1/system", kind="libvirt"))
    assert remote.value.code == "libvirt_unreachable"


def test_a_hypervisor_that_does_not_answer_is_not_stored(endpoints: EndpointStore, tmp_path: Path) -> None:
    url = f"qemu+unix:///system?socket={tmp_path}/nobody"
    with pytest.raises(HyperSDKError) as caught:
        endpoints.create(NewEndpoint(name="kvm1", url=url, kind="libvirt"))
    assert caught.value.code == "libvirt_unreachable"
    assert endpoints.page(EVERYTHING, PageRequest("name")).rows == ()
