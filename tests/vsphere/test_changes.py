"""Changes at the source, on vcsim: power, snapshots, CD-ROMs, and what tells of them. govc is the independent
witness."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from lxml import etree

from hypersdk.errors import Cancelled, HyperSDKError, LookupFailed, NotRestored, SourceError
from hypersdk.formats.ovf import OvfDisk
from hypersdk.model import Machine, Power
from hypersdk.simulator import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from hypersdk.vsphere.cdrom import CdromChange, remove_isos, restore_isos
from hypersdk.vsphere.inventory import find_machine, list_machines
from hypersdk.vsphere.machine import delta_bytes, read_machine, written_bytes
from hypersdk.vsphere.nfc import server_descriptor
from hypersdk.vsphere.power import ask_guest_down, power_off, power_on, wait_until_off
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.snapshot import consolidation_needed, create_snapshot, find_snapshots, remove_snapshot
from hypersdk.vsphere.tasks import wait_for_task
from tests.support.leases import moref_of
from tests.support.peers import Vcsim
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory

VM = "DC0_H0_VM0"
Pair = tuple[Vcsim, Session]


def machine_of(session: Session, name: str = VM) -> Machine:
    found = find_machine(list_machines(session, cancel=CancelToken()), name)
    return read_machine(session, found.moref)


def power_of(session: Session, moref: str) -> Power:
    return read_machine(session, moref).power


def shut_down(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    asked = ask_guest_down(session, moref, cancel=cancel)
    wait_until_off(session, moref, timeout_s=20, cancel=cancel)
    return asked


@pytest.mark.parametrize("down", [power_off, shut_down])
def test_power_off_and_on_say_whether_they_changed_anything(vcsim_session: Pair, down: Callable[..., bool]) -> None:
    _, session = vcsim_session
    moref, cancel = machine_of(session).moref, CancelToken()
    assert power_of(session, moref) is Power.ON
    assert down(session, moref, cancel=cancel) is True
    assert power_of(session, moref) is Power.OFF
    assert down(session, moref, cancel=cancel) is False
    assert power_on(session, moref, cancel=cancel) is True
    assert power_on(session, moref, cancel=cancel) is False
    assert power_of(session, moref) is Power.ON


def test_a_suspended_machine_is_not_powered_off(vcsim_session: Pair) -> None:
    server, session = vcsim_session
    server.govc("vm.power", "-suspend", VM)
    moref = machine_of(session).moref
    with pytest.raises(HyperSDKError) as caught:
        power_off(session, moref, cancel=CancelToken())
    assert (caught.value.code, caught.value.exit_status) == ("power_state", 6)
    assert power_of(session, moref) is Power.SUSPENDED


def test_power_of_a_machine_that_is_gone(vcsim_session: Pair) -> None:
    _, session = vcsim_session
    with pytest.raises(LookupFailed):
        power_on(session, "vm-99999", cancel=CancelToken())


def make(session: Session, moref: str, name: str = "hypersdk-job-1") -> str:
    return create_snapshot(session, moref, name=name, description="temporary", quiesce=False, cancel=CancelToken())


def test_a_snapshot_is_made_found_by_name_and_removed(vcsim_session: Pair) -> None:
    server, session = vcsim_session
    machine = machine_of(session)
    server.govc("snapshot.create", "-vm", VM, "before")
    snapshot = make(session, machine.moref)
    below = make(session, machine.moref, "hypersdk-job-2")
    assert "hypersdk-job-1" in server.govc("snapshot.tree", "-vm", VM)
    found = find_snapshots(session, "hypersdk-job-")
    assert [(item.moref, item.name, item.machine_name) for item in found] == [
        (snapshot, "hypersdk-job-1", VM),
        (below, "hypersdk-job-2", VM),
    ]
    assert {item.machine_moref for item in found} == {machine.moref}
    remove_snapshot(session, snapshot, cancel=CancelToken())
    remove_snapshot(session, snapshot, cancel=CancelToken())  # gone already: no error
    assert [item.moref for item in find_snapshots(session, "hypersdk-")] == [below]
    assert [item.name for item in find_snapshots(session, "bef")] == ["before"]
    assert consolidation_needed(session, machine.moref) is False


def test_a_cancelled_snapshot_leaves_no_task_behind(vcsim_session: Pair) -> None:
    """The task ends before Cancelled comes out, so that a clean-up by name sees what it made."""
    _, session = vcsim_session
    moref, cancel = machine_of(session).moref, CancelToken()
    cancel.cancel("test")
    with pytest.raises(Cancelled):
        create_snapshot(session, moref, name="hypersdk-late", description="", quiesce=False, cancel=cancel)
    assert read_machine(session, moref).busy_with is None
    assert [found.name for found in find_snapshots(session, "hypersdk-late")] == ["hypersdk-late"]


def insert_iso(server: Vcsim, path: str = "images/debian.iso") -> None:
    drive = server.govc("device.cdrom.add", "-vm", VM).strip()
    server.govc("device.cdrom.insert", "-vm", VM, "-device", drive, path)
    server.govc("device.connect", "-vm", VM, drive)


def drives(server: Vcsim) -> Any:
    devices = json.loads(server.govc("device.info", "-vm", VM, "-json"))["devices"]
    return [
        {key: device.get(key) for key in ("key", "backing", "connectable", "controllerKey", "unitNumber")}
        for device in devices
        if device["name"].startswith("cdrom")
    ]


def take_out(session: Session) -> list[CdromChange]:
    """Ejects all images; returns what was written down before."""
    kept: list[str] = []
    remove_isos(
        session,
        machine_of(session),
        before=lambda changes: kept.append(json.dumps([asdict(change) for change in changes])),
        cancel=CancelToken(),
    )
    assert len(kept) == 1
    return [CdromChange(**change) for change in json.loads(kept[0])]


def test_images_come_back_exactly_as_they_were(vcsim_session: Pair) -> None:
    server, session = vcsim_session
    insert_iso(server)
    insert_iso(server, "images/tools with space.iso")
    before = drives(server)
    machine = machine_of(session)
    assert [drive.iso for drive in machine.cdroms][-2:] == [
        "[LocalDS_0] images/debian.iso",
        "[LocalDS_0] images/tools with space.iso",
    ]
    changes = take_out(session)
    assert drives(server) != before
    assert all(drive.iso is None for drive in machine_of(session).cdroms)
    remove_isos(session, machine_of(session), before=lambda _: pytest.fail("nothing to remove"), cancel=CancelToken())
    restore_isos(session, machine.moref, changes, cancel=CancelToken())
    assert drives(server) == before
    version = machine_of(session).change_version
    restore_isos(session, machine.moref, changes, cancel=CancelToken())  # once more: nothing is touched
    assert (drives(server), machine_of(session).change_version) == (before, version)


def test_nothing_is_ejected_unless_it_was_written_down(vcsim_session: Pair) -> None:
    server, session = vcsim_session
    insert_iso(server)
    before = drives(server)

    def refuse(_: list[CdromChange]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        remove_isos(session, machine_of(session), before=refuse, cancel=CancelToken())
    assert drives(server) == before


def test_an_image_inserted_meanwhile_stays(vcsim_session: Pair) -> None:
    server, session = vcsim_session
    insert_iso(server)
    (change,) = take_out(session)
    server.govc("device.cdrom.insert", "-vm", VM, "-device", f"cdrom-{change.key}", "other.iso")
    restore_isos(session, machine_of(session).moref, [change], cancel=CancelToken())
    assert "[LocalDS_0] other.iso" in [drive.iso for drive in machine_of(session).cdroms]


def test_a_drive_that_is_gone_is_told_and_the_others_come_back(vcsim_session: Pair) -> None:
    server, session = vcsim_session
    insert_iso(server)
    (change,) = take_out(session)
    missing = replace(change, key=3999, label="CD/DVD drive 9")
    with pytest.raises(NotRestored, match="CD/DVD drive 9"):
        restore_isos(session, machine_of(session).moref, [missing, change], cancel=CancelToken())
    assert change.iso in [drive.iso for drive in machine_of(session).cdroms]


def test_the_server_writes_the_descriptor_with_our_file_names(vcsim_session: Pair) -> None:
    _, session = vcsim_session
    machine = machine_of(session)
    disk = OvfDisk(
        machine.disks[0].key, "renamed-disk1.vmdk", 12345, 1 << 30, None, "vmdk-stream", f"/{machine.moref}/disk:0"
    )
    text = server_descriptor(session, machine.moref, None, [disk])
    assert text is not None
    assert b"renamed-disk1.vmdk" in text
    assert b"12345" in text


def test_no_descriptor_from_a_server_that_has_none_is_no_error(vcsim_session: Pair) -> None:
    _, session = vcsim_session
    assert server_descriptor(session, "vm-99999", None, []) is None


def test_the_delta_of_a_machine_without_snapshots_is_nothing(vcsim_session: Pair) -> None:
    _, session = vcsim_session
    assert delta_bytes(session, machine_of(session).moref) == 0


def test_only_the_last_unit_of_a_chain_is_the_delta() -> None:
    layout = etree.fromstring("""<val xmlns="urn:vim25">
             <file><key>1</key><name>[ds] a/a.vmdk</name><type>diskDescriptor</type><size>500</size></file>
             <file><key>2</key><name>[ds] a/a-flat.vmdk</name><type>diskExtent</type><size>1073741824</size></file>
             <file><key>3</key><name>[ds] a/a-000001.vmdk</name><type>diskDescriptor</type><size>300</size></file>
             <file><key>4</key><name>[ds] a/a-000001-delta.vmdk</name><type>diskExtent</type>
              <size>16777216</size></file>
             <file><key>5</key><name>[ds] a/b-flat.vmdk</name><type>diskExtent</type><size>4096</size></file>
             <disk><key>2000</key><chain><fileKey>1</fileKey><fileKey>2</fileKey></chain>
                                  <chain><fileKey>3</fileKey><fileKey>4</fileKey></chain></disk>
             <disk><key>2001</key><chain><fileKey>5</fileKey></chain></disk>
           </val>""")
    assert written_bytes(layout) == 300 + 16777216


def test_an_image_that_cannot_go_back_does_not_keep_the_others_out(simulator: SimulatorFactory, log_in: LogIn) -> None:
    from pyVmomi import vim

    iso = "[iso-library] tools/virtio-win.iso"
    server = simulator(machines=(MachineSpec("web", (DiskSpec(MiB),), iso=iso),))
    session, moref = log_in(server), moref_of(server)
    backing = vim.vm.device.VirtualCdrom.IsoBackingInfo(fileName=iso)
    second = vim.vm.device.VirtualCdrom(key=-1, controllerKey=201, unitNumber=0, backing=backing)
    spec = vim.vm.ConfigSpec(deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="add", device=second)])
    wait_for_task(session, session.ref("VirtualMachine", moref).ReconfigVM_Task(spec=spec)._moId, cancel=CancelToken())
    taken: list[CdromChange] = []
    remove_isos(session, read_machine(session, moref), before=taken.extend, cancel=CancelToken())
    assert len(taken) == 2
    gone = replace(taken[0], iso="[gone] x.iso", datastore="datastore-999")
    for order in ([gone, taken[1]], [taken[1], gone]):
        with pytest.raises(SourceError):
            restore_isos(session, moref, order, cancel=CancelToken())
        assert [drive.iso for drive in read_machine(session, moref).cdroms] == [None, iso]
