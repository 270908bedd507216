"""Single machines, looked up without the inventory: the same ones as in the whole of it, in few calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypersdk.errors import LookupFailed
from hypersdk.model import MachineSummary
from hypersdk.simulator.config import MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.inventory import find_machine, list_machines
from hypersdk.vsphere.lookup import MAX_PATHS, look_up, look_up_one
from hypersdk.vsphere.session import Session
from tests.support.peers import Vcsim, running_vcsim
from tests.support.simulator import SimulatorFactory
from tests.support.vsphere import connect, log_in_to, noted_calls

ODD_NAMES = ["a b", "50%25 off", "slash%2fed", "back%5cslash", "Größe 東京 🚀", "<&>\"'", "vm-1", "Twin", "Twin"]


@pytest.fixture(scope="module")
def server() -> Iterator[Vcsim]:
    """Names that are hostile, and two machines of one name in different datacenters."""
    with running_vcsim(vm=6, dc=2, folder=1, pool=1, autostart=False) as running:
        paths = [line for line in running.govc("find", "/", "-type", "m").splitlines() if line]
        for path, name in zip(paths, ODD_NAMES[:-1], strict=False):
            running.govc("object.rename", path, name)
        twin = next(path for path in reversed(paths) if "DC1" in path)
        running.govc("object.rename", twin, ODD_NAMES[-1])
        yield running


@pytest.fixture(scope="module")
def session(server: Vcsim) -> Iterator[Session]:
    with connect(server) as opened:
        yield opened


@pytest.fixture(scope="module")
def machines(session: Session) -> list[MachineSummary]:
    return list_machines(session, cancel=CancelToken())


def answer(session: Session, selector: str, datacenter: str | None = None) -> object:
    """The machine, or the code and fields of the error."""
    try:
        return look_up_one(session, selector, cancel=CancelToken(), datacenter=datacenter)
    except LookupFailed as error:
        return error.code, error.message, error.fields


def answer_of_all(machines: list[MachineSummary], selector: str, datacenter: str | None = None) -> object:
    try:
        return find_machine(machines, selector, datacenter=datacenter)
    except LookupFailed as error:
        return error.code, error.message, error.fields


def selectors_of(machine: MachineSummary) -> list[str]:
    """Everything that may mean the machine, and some that nearly do."""
    path = machine.path
    return [
        machine.name,
        f" {machine.name.upper()} ",
        machine.moref,
        f"VirtualMachine:{machine.moref}",
        str(machine.uuid).upper(),
        str(machine.instance_uuid),
        path,
        f"{path}/",
        path[1:],
        path.replace("%2f", "%2F").replace("%5c", "%5C"),
        path.partition("/vm/")[2],
        f"/{machine.name}",
        f"{path}x",
        machine.name[:-1] or "x",
    ]


def test_each_selector_means_what_it_means_in_the_whole_inventory(
    session: Session, machines: list[MachineSummary]
) -> None:
    assert len({machine.name for machine in machines}) < len(machines)
    for machine in machines:
        for selector in selectors_of(machine):
            assert answer(session, selector) == answer_of_all(machines, selector), selector


@pytest.mark.parametrize(
    "selector", ["", "/", "/DC0", "/DC0/vm", "no-such", "vm-99999", "\x00", "]]>", "a\nb", "%", "🚀" * 300]
)
def test_what_means_no_machine_is_refused_alike(
    selector: str, session: Session, machines: list[MachineSummary]
) -> None:
    assert answer(session, selector) == answer_of_all(machines, selector)


def test_equal_names_are_refused_with_their_paths_or_decided_by_the_datacenter(
    session: Session, machines: list[MachineSummary]
) -> None:
    twins = [machine for machine in machines if machine.name == "Twin"]
    assert len(twins) == 2
    with pytest.raises(LookupFailed) as caught:
        look_up_one(session, "Twin", cancel=CancelToken())
    assert caught.value.code == "ambiguous"
    assert {entry["path"] for entry in caught.value.fields["candidates"]} == {twin.path for twin in twins}  # type: ignore[attr-defined]
    for twin in twins:
        assert look_up_one(session, "Twin", cancel=CancelToken(), datacenter=twin.datacenter) == twin
        assert look_up(session, ["Twin"], cancel=CancelToken(), only_in=twin.datacenter) == [twin]


def test_nothing_outside_of_the_datacenter_exists(session: Session, machines: list[MachineSummary]) -> None:
    elsewhere = next(machine for machine in machines if machine.datacenter == "DC1")
    selectors = [elsewhere.path, str(elsewhere.uuid), elsewhere.moref, elsewhere.name]
    for result in look_up(session, selectors, cancel=CancelToken(), only_in="DC0"):
        assert isinstance(result, LookupFailed)
        assert result.code == "not_found"


def test_the_calls_do_not_grow_with_the_inventory(session: Session, machines: list[MachineSummary]) -> None:
    plain = next(machine for machine in machines if machine.name.startswith("DC"))
    read = "RetrievePropertiesEx"
    for selector, expected in {
        plain.path: ["FindByInventoryPath", read],
        str(plain.uuid): ["FindAllByUuid", "FindAllByUuid", read],
        plain.name: ["CreateContainerView", read, "DestroyView", read],
        plain.moref: ["CreateContainerView", read, "DestroyView", read],
    }.items():
        with noted_calls(session) as calls:
            assert look_up_one(session, selector, cancel=CancelToken()) == plain
        assert calls == expected, selector


def test_many_are_looked_up_in_as_many_calls_as_one(session: Session, machines: list[MachineSummary]) -> None:
    wanted = [machine for machine in machines if machine.name != "Twin"]
    for selectors in ([machine.path for machine in wanted], [machine.moref for machine in wanted]):
        with noted_calls(session) as calls:
            found = look_up(session, [*selectors, "none"], cancel=CancelToken())
        assert found[:-1] == wanted
        assert isinstance(found[-1], LookupFailed)
        assert len(calls) == 4


def test_a_lone_esxi_host() -> None:
    with running_vcsim(esx=True, vm=3) as host, connect(host) as session:
        for machine in list_machines(session, cancel=CancelToken()):
            for selector in (machine.path, machine.name, machine.moref, str(machine.uuid)):
                assert look_up_one(session, selector, cancel=CancelToken()) == machine


def test_a_bios_uuid_of_two_machines_is_ambiguous(simulator: SimulatorFactory) -> None:
    uuid = "42000000-0000-0000-0000-00000000000a"
    server = simulator(machines=(MachineSpec("one"), MachineSpec("two")))
    for name in ("one", "two"):
        server.vm(name).uuid = uuid
    with log_in_to(server) as session, pytest.raises(LookupFailed) as caught:
        look_up_one(session, uuid, cancel=CancelToken())
    assert caught.value.code == "ambiguous"


def test_blanks_at_the_end_of_a_path_are_those_of_the_name(simulator: SimulatorFactory) -> None:
    server = simulator(machines=(MachineSpec("web"), MachineSpec("web "), MachineSpec("db ")))
    with log_in_to(server) as session:
        machines = {machine.name: machine for machine in list_machines(session, cancel=CancelToken())}
        for name in ("web", "web ", "db "):
            machine = machines[name]
            for selectors in ([machine.path], [machine.path] * MAX_PATHS + ["/none"]):
                assert look_up(session, selectors, cancel=CancelToken())[0] == machine
