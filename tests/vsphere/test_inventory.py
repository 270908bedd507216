"""The inventory against what govc prints of the same vcsim; selectors; economy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli.remedies import next_step
from hypersdk.errors import Cancelled, LookupFailed
from hypersdk.model import DiskSummary, MachineSummary, Power
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.inventory import add_disks, datacenter_path, find_machine, list_machines
from hypersdk.vsphere.paths import encode_name
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import read_inventory
from tests.support.peers import Vcsim, running_vcsim
from tests.support.vsphere import connect, noted_calls

ODD_NAMES = ["a b", "50%25 off", "slash%2fed", "back%5cslash", "Größe 東京 🚀", "<&>\"'", "vm-1"]


@pytest.fixture(scope="module")
def server() -> Iterator[Vcsim]:
    with running_vcsim(vm=5, dc=2, folder=1, pool=1, autostart=False) as running:
        for path, name in zip(_all_paths(running), ODD_NAMES, strict=False):
            running.govc("object.rename", path, name)
        yield running


@pytest.fixture(scope="module")
def machines(session: Session) -> list[MachineSummary]:
    return list_machines(session, cancel=CancelToken(), disks=True)


def test_it_holds_what_govc_finds(server: Vcsim, machines: list[MachineSummary]) -> None:
    found = server.govc("find", "-i", "/", "-type", "m").split()
    assert sorted(f"VirtualMachine:{machine.moref}" for machine in machines) == sorted(found)
    assert [machine.path for machine in machines] == sorted(machine.path for machine in machines)


def test_every_value_is_the_one_that_govc_reads(server: Vcsim, machines: list[MachineSummary]) -> None:
    listed: dict[str, Any] = {}
    for entry in json.loads(server.govc("vm.info", "-json", *_all_paths(server)))["virtualMachines"]:
        listed[entry["self"]["value"]] = entry
    assert len(listed) == len(machines)
    for machine in machines:
        entry = listed[machine.moref]
        config = entry["config"]
        assert machine.uuid == config["uuid"]
        assert machine.instance_uuid == config["instanceUuid"]
        assert machine.cpus == config["hardware"]["numCPU"]
        assert machine.memory_bytes == config["hardware"]["memoryMB"] * 2**20
        assert machine.power is {"poweredOn": Power.ON, "poweredOff": Power.OFF}[entry["runtime"]["powerState"]]
        assert machine.guest_name == config["guestFullName"]
        assert machine.template == config["template"]
        storage = entry["summary"]["storage"]
        assert machine.used_bytes == storage["committed"]
        assert machine.provisioned_bytes == storage["committed"] + storage["uncommitted"]
        assert machine.disk_count == entry["summary"]["config"]["numVirtualDisks"]
        disks = [device for device in config["hardware"]["device"] if "capacityInBytes" in device]
        assert machine.disks == tuple(
            DiskSummary(disk["deviceInfo"]["label"], disk["capacityInBytes"]) for disk in disks
        )


def _all_paths(server: Vcsim) -> list[str]:
    return [line for line in server.govc("find", "/", "-type", "m").splitlines() if line]


def test_names_are_shown_decoded_and_paths_stay_unambiguous(machines: list[MachineSummary]) -> None:
    shown = {machine.name for machine in machines}
    assert {"a b", "50% off", "slash/ed", "back\\slash", "Größe 東京 🚀", "<&>\"'", "vm-1"} <= shown
    for machine in machines:
        folders, _, name = machine.path.rpartition("/")
        assert name == encode_name(machine.name)
        assert folders.startswith(("/F0/DC0/vm", "/F0/DC1/vm", "/DC0/vm", "/DC1/vm"))
        assert machine.datacenter in ("DC0", "DC1")
        assert datacenter_path(machine) == folders.partition("/vm")[0]
        assert machine.host is not None


def test_one_call_a_page_and_two_more(server: Vcsim, machines: list[MachineSummary], session: Session) -> None:
    counts: list[int] = []
    with noted_calls(session) as calls:
        paged = list_machines(session, cancel=CancelToken(), on_count=counts.append, disks=True, page_size=7)
    assert paged == machines
    pages = [name for name in calls if "RetrievePropertiesEx" in name]
    assert pages[0] == "RetrievePropertiesEx"
    assert set(pages[1:]) == {"ContinueRetrievePropertiesEx"}
    assert len(pages) >= len(machines) / 7
    assert len(calls) == len(pages) + 2
    assert counts == sorted(counts)
    assert counts[-1] == len(machines)
    assert len(counts) > 2


def test_no_view_is_left_behind(server: Vcsim, session: Session) -> None:
    for _ in range(2):
        list_machines(session, cancel=CancelToken())
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        list_machines(session, cancel=cancel, on_count=lambda _: cancel.cancel("test"), page_size=5)
    views = session.call(lambda: session.content.viewManager.viewList)
    assert list(views or []) == []


def test_without_disks_the_rest_is_the_same(session: Session, machines: list[MachineSummary]) -> None:
    lean = list_machines(session, cancel=CancelToken())
    assert lean == [replace(machine, disks=()) for machine in machines]


def test_the_disks_of_some_are_added_in_a_call_for_each_page(session: Session, machines: list[MachineSummary]) -> None:
    some = machines[1::2]
    with noted_calls(session) as calls:
        added = add_disks(session, [replace(machine, disks=()) for machine in some], cancel=CancelToken(), page_size=4)
    assert added == some
    assert calls == ["RetrievePropertiesEx"] * -(-len(some) // 4)


def test_the_next_page_is_asked_for_before_the_objects_of_the_first_are_read(session: Session) -> None:
    def first_of_many() -> list[str]:
        with noted_calls(session) as calls:
            pages = read_inventory(session, {"VirtualMachine": ("name",)}, cancel=CancelToken(), page_size=4)
            for _ in range(3):
                next(pages)
            asked = list(calls)
            pages.close()
        return asked

    asked = session.call(first_of_many)
    assert asked == ["CreateContainerView", "RetrievePropertiesEx", "ContinueRetrievePropertiesEx"]


def test_an_ended_session_in_between_costs_nothing(server: Vcsim, machines: list[MachineSummary]) -> None:
    with connect(server) as own:
        server.govc("session.rm", own.key)
        assert list_machines(own, cancel=CancelToken(), disks=True) == machines


def test_a_lone_esxi_host() -> None:
    with running_vcsim(esx=True, vm=2) as host, connect(host) as session:
        machines = list_machines(session, cancel=CancelToken())
        assert [machine.path for machine in machines] == _all_paths(host)
        assert {datacenter_path(machine) for machine in machines} == {"/ha-datacenter"}
        assert not session.about.is_vcenter


def _machine(number: int, path: str, name: str | None = None, **changes: object) -> MachineSummary:
    made = MachineSummary(
        moref=f"vm-{number}",
        name=name or path.rpartition("/")[2],
        path=path,
        uuid=f"42000000-0000-0000-0000-{number:012x}",
        instance_uuid=f"50000000-0000-0000-0000-{number:012x}",
        power=Power.OFF,
        cpus=1,
        memory_bytes=1 << 30,
        disks=(),
        datacenter=path.split("/")[1],
        host=None,
        guest_name=None,
        template=False,
        disk_count=0,
        used_bytes=None,
        provisioned_bytes=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


POOL = [
    _machine(1, "/DC0/vm/web"),
    _machine(2, "/DC1/vm/web"),
    _machine(3, "/DC0/vm/prod/db"),
    _machine(4, "/data/vm/win2019-x86_64 - Clone"),
    _machine(5, "/DC0/vm/a%2fb", "a/b"),
    _machine(6, "/F/DC2/vm/vm/odd", datacenter="DC2"),
    _machine(7, "/DC0/vm/Mixed Case"),
    _machine(8, "/DC0/vm/vm-3"),
    _machine(9, "/DC0/vm/twin", uuid="42000000-0000-0000-0000-00000000000a"),
    _machine(10, "/DC0/vm/twin2"),
]


@pytest.mark.parametrize(
    ("selector", "number"),
    [
        ("vm-1", 1),
        ("VirtualMachine:vm-3", 3),
        ("42000000-0000-0000-0000-000000000003", 3),
        ("50000000-0000-0000-0000-00000000000A", 10),
        ("/DC0/vm/web", 1),
        ("/DC1/vm/web/", 2),
        ("DC1/vm/web", 2),
        ("prod/db", 3),
        ("db", 3),
        ("/data/vm/win2019-x86_64 - Clone", 4),
        ("win2019-x86_64 - Clone", 4),
        ("a/b", 5),
        ("/DC0/vm/a%2Fb", 5),
        ("/F/DC2/vm/vm/odd", 6),
        ("vm/odd", 6),
        ("mixed case", 7),
        (" Mixed Case ", 7),
        ("twin2", 10),
    ],
)
def test_a_selector_finds_the_one_it_means(selector: str, number: int) -> None:
    assert find_machine(POOL, selector).moref == f"vm-{number}"


def test_the_default_datacenter_decides_between_equal_names() -> None:
    assert find_machine(POOL, "web", datacenter="DC1").moref == "vm-2"
    assert find_machine(POOL, "web", datacenter="/DC0").moref == "vm-1"
    assert find_machine(POOL, "db", datacenter="DC1").moref == "vm-3"


@pytest.mark.parametrize(
    ("selector", "candidates"),
    [
        ("web", ["vm-1", "vm-2"]),
        ("vm-3", ["vm-3", "vm-8"]),
        ("42000000-0000-0000-0000-00000000000a", ["vm-9", "vm-10"]),
    ],
)
def test_an_ambiguous_selector_is_refused_with_the_candidates(selector: str, candidates: list[str]) -> None:
    with pytest.raises(LookupFailed) as caught:
        find_machine(POOL, selector)
    assert caught.value.code == "ambiguous"
    assert [entry["moref"] for entry in caught.value.fields["candidates"]] == candidates  # type: ignore[attr-defined]
    assert all(moref in caught.value.message for moref in candidates)


@pytest.mark.parametrize(
    ("selector", "similar"), [("wbe", "web"), ("win2019", "win2019-x86_64 - Clone"), ("/DC0/vm/dbb", "db")]
)
def test_a_near_miss_is_answered_with_similar_names(selector: str, similar: str) -> None:
    with pytest.raises(LookupFailed) as caught:
        find_machine(POOL, selector)
    assert caught.value.code == "not_found"
    assert similar in caught.value.fields["similar"]  # type: ignore[operator]
    assert similar in next_step(caught.value)


@pytest.mark.parametrize("selector", ["/web", "/prod/db", "", "/", "DC0", "vm/web/x"])
def test_half_a_path_is_none(selector: str) -> None:
    with pytest.raises(LookupFailed) as caught:
        find_machine(POOL, selector)
    assert caught.value.code == "not_found"


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_every_path_and_moref_finds_its_own_machine_whatever_the_names(names: list[str]) -> None:
    pool = [_machine(100 + i, f"/DC0/vm/{encode_name(name)}", name) for i, name in enumerate(names)]
    for machine in pool:
        assert find_machine(pool, f"VirtualMachine:{machine.moref}") is machine
        assert find_machine(pool, machine.path) is machine
