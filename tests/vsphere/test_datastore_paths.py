"""``[datastore] path`` where the datastore's name holds brackets: vSphere allows them, and escapes nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.model import split_datastore_path
from hypersdk.simulator import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.sources import _folder_target
from hypersdk.vsphere.tasks import wait_for_task
from tests.support.cli.shell import Shell
from tests.support.leases import moref_of
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory

NAMES = ["my [ds] 1", "[a] b", "a]b", "a[b", "] ", "x] y", "[", "]]", "plain", "[[deep] [er]]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_known_is_found_whatever_it_holds(name: str) -> None:
    text = f"[{name}] vm [1]/vm] 2.vmdk"
    assert split_datastore_path(text, ["other", name, name[:1]]) == (name, "vm [1]/vm] 2.vmdk")
    assert split_datastore_path(f"[{name}]", [name]) == (name, "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[ds] vm/vm.vmdk", ("ds", "vm/vm.vmdk")),
        ("[my [ds] 1] vm/vm.vmdk", ("my [ds] 1", "vm/vm.vmdk")),
        ("[a]b] vm.vmdk", ("a]b", "vm.vmdk")),
        ("[a[b] vm.vmdk", ("a[b", "vm.vmdk")),
        ("[ds] x] y/z.vmdk", ("ds", "x] y/z.vmdk")),
        ("[ds]", ("ds", "")),
        ("[ds]vm.vmdk", ("ds", "vm.vmdk")),
        ("[ds", None),
        ("[] vm.vmdk", None),
        ("ds] vm.vmdk", None),
        ("", None),
    ],
)
def test_a_name_that_is_not_known_ends_where_its_bracket_closes(text: str, parts: tuple[str, str] | None) -> None:
    assert split_datastore_path(text) == parts


names = st.text(st.sampled_from("[] ab/"), min_size=1, max_size=8)


@given(
    names,
    st.text(st.sampled_from("[]ab/ "), max_size=8).map(lambda path: path.lstrip(" ")),
    st.lists(names, max_size=3),
)
def test_a_known_name_is_never_cut_short(name: str, path: str, others: list[str]) -> None:
    found = split_datastore_path(f"[{name}] {path}", [name, *others])
    assert found is not None
    assert len(found[0]) >= len(name)
    if found[0] == name:
        assert found[1] == path


@given(st.text(st.sampled_from("[] a"), max_size=12))
def test_any_text_has_an_answer(text: str) -> None:
    found = split_datastore_path(text)
    if found is not None:
        assert text.startswith(f"[{found[0]}]")
        assert text.endswith(found[1])


@pytest.mark.parametrize("name", ["my [ds] 1", "x] y", "a]b"])
def test_a_disk_on_such_a_datastore_is_read_in_ranges(
    simulator: SimulatorFactory, log_in: LogIn, tmp_path: Path, name: str
) -> None:
    server = simulator(machines=(MachineSpec("web", (DiskSpec(2 * MiB, allocated_bytes=MiB),)),))
    session = log_in(server)
    (store,) = {disk.datastore for disk in read_machine(session, moref_of(server)).disks}
    folder = session.content.rootFolder.childEntity[0].datastoreFolder
    (found,) = [entity for entity in folder.childEntity if entity.name == store]
    wait_for_task(session, found.Rename_Task(newName=name)._moId, cancel=CancelToken())
    machine = read_machine(session, moref_of(server))
    target = _folder_target(machine, machine.disks[0])
    assert target is not None
    assert unquote(target).endswith(f"dsName={name}")
    shell = Shell(server, tmp_path)
    shell.good("export", "web", "-o", tmp_path / "out", "--format", "raw", "--source", "datastore")
    assert (tmp_path / "out" / "web-disk1.raw").read_bytes() == server.disk_image("web").read(0, 2 * MiB)
