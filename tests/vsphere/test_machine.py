"""One machine in full: against govc on vcsim, and against device lists with what vcsim does not make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hypersdk.errors import LookupFailed
from hypersdk.model import Backing, Disk, Firmware, Power
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.devices import boot_order, read_hardware
from hypersdk.vsphere.inventory import find_machine, list_machines
from hypersdk.vsphere.machine import _used_by_disk, read_datastores, read_machine, snapshot_nodes
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import parse_time
from tests.support.peers import Vcsim, running_vcsim
from tests.support.vsphere import noted_calls

VM = "DC0_H0_VM0"


@pytest.fixture(scope="module")
def server() -> Iterator[Vcsim]:
    with running_vcsim(vm=2, folder=1, autostart=False) as running:
        running.govc("vm.disk.create", "-vm", VM, "-name", f"{VM}/second", "-size", "3G")
        running.govc("vm.change", "-vm", VM, "-annotation", "line one\nline <two>")
        running.govc("device.boot", "-vm", VM, "-firmware", "efi", "-secure", "-order", "cdrom,disk,ethernet")
        running.govc("datastore.upload", "/etc/hostname", "boot.iso")
        running.govc("device.cdrom.insert", "-vm", VM, "boot.iso")
        running.govc("snapshot.create", "-vm", VM, "-m=false", "-d", "first one", "root%2fed")
        running.govc("snapshot.create", "-vm", VM, "-m=false", "child")
        running.govc("snapshot.revert", "-vm", VM, "root%2fed")
        running.govc("snapshot.create", "-vm", VM, "-m=false", "other child")
        yield running


@pytest.fixture(scope="module")
def moref(session: Session) -> str:
    return find_machine(list_machines(session, cancel=CancelToken()), VM).moref


@pytest.fixture(scope="module")
def known(server: Vcsim) -> dict[str, Any]:
    """The machine as govc prints it."""
    found: dict[str, Any] = json.loads(server.govc("vm.info", "-json", VM))["virtualMachines"][0]
    return found


def test_one_call_tells_all(session: Session, moref: str) -> None:
    with noted_calls(session) as calls:
        read_machine(session, moref)
        read_datastores(session, moref)
    assert calls == ["RetrievePropertiesEx"] * 2


def test_the_summary_is_that_of_the_list(session: Session, moref: str) -> None:
    listed = find_machine(list_machines(session, cancel=CancelToken(), disks=True), moref)
    assert read_machine(session, moref).summary == listed


def test_settings(session: Session, moref: str, known: dict[str, Any]) -> None:
    machine = read_machine(session, moref)
    config = known["config"]
    assert machine.firmware is Firmware.EFI
    assert machine.secure_boot
    assert machine.annotation == "line one\nline <two>"
    assert machine.guest_id == config["guestId"]
    assert machine.hardware_version == config["version"]
    assert machine.change_version == config["changeVersion"]
    assert machine.vmx_file == config["files"]["vmPathName"]
    assert machine.cores_per_socket == (config["hardware"].get("numCoresPerSocket") or 1)
    assert machine.boot_order[0] == "cdrom"
    assert f"disk:{machine.disks[0].key}" in machine.boot_order
    assert f"nic:{machine.nics[0].key}" in machine.boot_order
    assert machine.power is Power.OFF
    assert (machine.busy_with, machine.has_vtpm, machine.encrypted, machine.unreachable_datastores) == (
        None,
        False,
        False,
        (),
    )


def test_disks_are_those_of_the_device_list_in_unit_order(session: Session, moref: str, known: dict[str, Any]) -> None:
    machine = read_machine(session, moref)
    devices = {device["key"]: device for device in known["config"]["hardware"]["device"]}
    disks = [device for device in devices.values() if "capacityInBytes" in device]
    assert len(disks) == len(machine.disks) == 2
    assert [disk.unit_number for disk in machine.disks] == sorted(disk.unit_number for disk in machine.disks)
    for disk in machine.disks:
        device = devices[disk.key]
        assert disk.label == device["deviceInfo"]["label"]
        assert disk.capacity_bytes == device["capacityInBytes"]
        assert disk.file == device["backing"]["fileName"]
        assert disk.chain[0] == disk.file
        assert disk.datastore == disk.file.partition("]")[0][1:]
        assert disk.uuid == device["backing"].get("uuid")
        assert disk.thin is device["backing"].get("thinProvisioned")
        assert (disk.bus, disk.controller, disk.controller_key) == ("scsi", "pvscsi", device["controllerKey"])
        assert disk.backing is Backing.FLAT
    assert machine.disks[1].capacity_bytes == 3 << 30


def test_cards_and_drives(session: Session, moref: str, known: dict[str, Any]) -> None:
    machine = read_machine(session, moref)
    cards = [device for device in known["config"]["hardware"]["device"] if "macAddress" in device]
    assert [(nic.key, nic.mac) for nic in machine.nics] == [(card["key"], card["macAddress"]) for card in cards]
    assert machine.nics[0].network == "DC0_DVPG0"
    assert machine.nics[0].adapter == "e1000"
    (drive,) = machine.cdroms
    assert drive.iso == "[LocalDS_0] boot.iso"


def test_snapshots_are_a_tree_parents_first(session: Session, moref: str) -> None:
    nodes = read_machine(session, moref).snapshots
    assert [(node.name, node.depth, node.current) for node in nodes] == [
        ("root/ed", 0, False),
        ("child", 1, False),
        ("other child", 1, True),
    ]
    assert nodes[0].description == "first one"
    assert all(datetime.now(UTC) - node.created < timedelta(hours=1) for node in nodes)
    assert len({node.moref for node in nodes}) == 3


def test_datastores(server: Vcsim, session: Session, moref: str) -> None:
    (store,) = read_datastores(session, moref)
    info = json.loads(server.govc("datastore.info", "-json", store.name))["datastores"][0]
    assert (store.moref, store.capacity_bytes) == (info["self"]["value"], info["summary"]["capacity"])
    assert store.accessible
    assert store.free_bytes is not None
    assert 0 < store.free_bytes <= info["summary"]["capacity"]


def test_the_point_moves_with_a_snapshot_and_a_change_and_a_start(server: Vcsim, session: Session) -> None:
    name = "DC0_H0_VM1"
    moref = find_machine(list_machines(session, cancel=CancelToken()), name).moref
    first = read_machine(session, moref)
    assert read_machine(session, moref) == first
    assert first.power is Power.OFF
    assert first.change_version is not None
    server.govc("vm.change", "-vm", name, "-c", "2")
    second = read_machine(session, moref)
    assert second.change_version != first.change_version
    server.govc("snapshot.create", "-vm", name, "-m=false", "s")
    third = read_machine(session, moref)
    assert (first.snapshots, [node.current for node in third.snapshots]) == ((), [True])
    server.govc("vm.power", "-on", name)
    fourth = read_machine(session, moref)
    assert fourth.power is Power.ON
    assert fourth != third


@pytest.mark.parametrize("read", [read_machine, read_datastores])
def test_a_machine_that_is_gone(session: Session, read: Any) -> None:
    with pytest.raises(LookupFailed) as caught:
        read(session, "vm-999999")
    assert caught.value.code == "object_gone"


# What vcsim does not make: shapes from the API reference's data object pages.

HEAD = 'xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def _xml(text: str) -> Any:
    return etree.fromstring(f"<val {HEAD}>{text}</val>")


def _disk_xml(backing: str, *, key: int = 2000, controller: int = 1000, unit: int = 0, more: str = "") -> str:
    return (
        f'<VirtualDevice xsi:type="VirtualDisk"><key>{key}</key><deviceInfo xsi:type="Description"><label>Hard disk'
        f" {key}</label>"
        f"<summary>s</summary></deviceInfo>{backing}<controllerKey>{controller}</controllerKey>"
        f"<unitNumber>{unit}</unitNumber><capacityInKB>1024</capacityInKB>{more}</VirtualDevice>"
    )


def _disks(text: str) -> tuple[Disk, ...]:
    return read_hardware(list(_xml(text)), networks={}, datastores={"datastore-1": "store %2f"}, used={2000: 77}).disks


FLAT = (
    '<backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>[s] vm/vm-000002.vmdk</fileName>'
    '<datastore type="Datastore">datastore-1</datastore><diskMode>{mode}</diskMode>{more}</backing>'
)


PARENTS = (
    "<parent><fileName>[s] vm/vm-000001.vmdk</fileName><parent><fileName>[s] vm/vm.vmdk</fileName></parent></parent>"
)
RDM = '<backing xsi:type="VirtualDiskRawDiskMappingVer1BackingInfo"><compatibilityMode>{}</compatibilityMode></backing>'


@pytest.mark.parametrize(
    ("backing", "expected"),
    [
        (
            FLAT.format(mode="persistent", more=""),
            {"backing": Backing.FLAT, "independent": False, "shared": False, "encrypted": False, "thin": None},
        ),
        (FLAT.format(mode="independent_persistent", more=""), {"independent": True}),
        (FLAT.format(mode="independent_nonpersistent", more=""), {"independent": True}),
        (FLAT.format(mode="persistent", more="<sharing>sharingMultiWriter</sharing>"), {"shared": True}),
        (FLAT.format(mode="persistent", more="<sharing>sharingNone</sharing>"), {"shared": False}),
        (FLAT.format(mode="persistent", more="<keyId><keyId>k</keyId></keyId>"), {"encrypted": True}),
        (FLAT.format(mode="persistent", more="<thinProvisioned>true</thinProvisioned>"), {"thin": True}),
        (
            FLAT.format(mode="persistent", more="<changeId>52 a/7</changeId><uuid>6000C29</uuid>"),
            {"change_id": "52 a/7", "uuid": "6000C29"},
        ),
        (
            FLAT.format(mode="persistent", more=PARENTS),
            {
                "chain": ("[s] vm/vm-000002.vmdk", "[s] vm/vm-000001.vmdk", "[s] vm/vm.vmdk"),
                "file": "[s] vm/vm-000002.vmdk",
            },
        ),
        (
            '<backing xsi:type="VirtualDiskSeSparseBackingInfo"><fileName>[s] a.vmdk</fileName></backing>',
            {"backing": Backing.SESPARSE},
        ),
        (
            '<backing xsi:type="VirtualDiskSparseVer2BackingInfo"><fileName>[s] a.vmdk</fileName></backing>',
            {"backing": Backing.SPARSE},
        ),
        (RDM.format("physicalMode"), {"backing": Backing.RDM_PHYSICAL, "file": None}),
        (RDM.format("virtualMode"), {"backing": Backing.RDM_VIRTUAL}),
        (
            '<backing xsi:type="VirtualDiskLocalPMemBackingInfo"><fileName>[p] a.vmdk</fileName></backing>',
            {"backing": Backing.OTHER},
        ),
        (
            '<backing xsi:type="vim25:VirtualDiskFlatVer2BackingInfo"/>',
            {"backing": Backing.FLAT, "file": None, "chain": ()},
        ),
        ("", {"backing": Backing.OTHER, "file": None, "chain": (), "datastore": None}),
    ],
)
def test_backings(backing: str, expected: dict[str, object]) -> None:
    (disk,) = _disks(_disk_xml(backing))
    assert {name: getattr(disk, name) for name in expected} == expected
    assert (disk.capacity_bytes, disk.used_bytes) == (1024 * 1024, 77)


@pytest.mark.parametrize(
    ("kind", "bus", "name"),
    [
        ("ParaVirtualSCSIController", "scsi", "pvscsi"),
        ("VirtualLsiLogicController", "scsi", "lsilogic"),
        ("VirtualLsiLogicSASController", "scsi", "lsilogicsas"),
        ("VirtualBusLogicController", "scsi", "buslogic"),
        ("VirtualAHCIController", "sata", "ahci"),
        ("VirtualIDEController", "ide", "ide"),
        ("VirtualNVMEController", "nvme", "nvme"),
        ("VirtualFutureController", "scsi", "unknown"),
    ],
)
@pytest.mark.parametrize(("sharing", "shared"), [(None, False), ("noSharing", False), ("physicalSharing", True)])
def test_controllers(kind: str, bus: str, name: str, sharing: str | None, shared: bool) -> None:
    more = "" if sharing is None else f"<sharedBus>{sharing}</sharedBus>"
    controller = f'<VirtualDevice xsi:type="{kind}"><key>1000</key><busNumber>3</busNumber>{more}</VirtualDevice>'
    (disk,) = _disks(_disk_xml("", controller=1000) + controller)
    assert (disk.bus, disk.controller, disk.bus_number, disk.shared) == (bus, name, 3, shared)


def test_disks_come_by_controller_then_unit() -> None:
    text = (
        _disk_xml("", key=2016, controller=1001, unit=0)
        + _disk_xml("", key=2002, unit=2)
        + _disk_xml("", key=2000, unit=0)
        + _disk_xml("", key=3000, controller=200, unit=1)
    )
    assert [disk.key for disk in _disks(text)] == [3000, 2000, 2002, 2016]


def test_capacity_in_bytes_goes_before_kilobytes() -> None:
    (disk,) = _disks(_disk_xml("", more=f"<capacityInBytes>{(5 << 40) + 512}</capacityInBytes>"))
    assert disk.capacity_bytes == (5 << 40) + 512


def _nic_xml(kind: str, backing: str) -> str:
    return (
        "<VirtualDevice"
        f' xsi:type="{kind}"><key>4000</key>{backing}<connectable><connected>true</connected></connectable>'
        "<macAddress>00:50:56:00:00:01</macAddress></VirtualDevice>"
    )


@pytest.mark.parametrize(
    ("kind", "adapter", "backing", "network"),
    [
        (
            "VirtualVmxnet3",
            "vmxnet3",
            '<backing xsi:type="VirtualEthernetCardNetworkBackingInfo"><deviceName>VM Network</deviceName></backing>',
            "VM Network",
        ),
        (
            "VirtualE1000e",
            "e1000e",
            '<backing><deviceName>old</deviceName><network type="Network">network-7</network></backing>',
            "new name",
        ),
        (
            "VirtualPCNet32",
            "pcnet32",
            "<backing><port><switchUuid>u</switchUuid><portgroupKey>dvportgroup-9</portgroupKey></port></backing>",
            "dv name",
        ),
        (
            "VirtualSriovEthernetCard",
            "sriov",
            "<backing><opaqueNetworkId>opaque-1</opaqueNetworkId></backing>",
            "opaque-1",
        ),
        ("VirtualFutureCard", "futurecard", "", None),
    ],
)
def test_network_cards(kind: str, adapter: str, backing: str, network: str | None) -> None:
    names = {"network-7": "new name", "dvportgroup-9": "dv name"}
    (nic,) = read_hardware(list(_xml(_nic_xml(kind, backing))), networks=names, datastores={}, used={}).nics
    assert (nic.adapter, nic.network, nic.mac, nic.connected) == (adapter, network, "00:50:56:00:00:01", True)


def test_a_vtpm_is_seen_and_a_drive_without_image_has_none() -> None:
    text = (
        '<VirtualDevice xsi:type="VirtualTPM"><key>11000</key></VirtualDevice><VirtualDevice'
        ' xsi:type="VirtualCdrom"><key>16000</key><backing'
        ' xsi:type="VirtualCdromRemotePassthroughBackingInfo"/></VirtualDevice>'
    )
    hardware = read_hardware(list(_xml(text)), networks={}, datastores={}, used={})
    assert hardware.has_vtpm
    assert [(drive.key, drive.iso, drive.connected) for drive in hardware.cdroms] == [(16000, None, False)]


def test_used_bytes_are_those_of_the_whole_chain_each_file_once() -> None:
    layout = _xml(
        "<file><key>1</key><type>diskDescriptor</type><size>500</size></file>"
        "<file><key>2</key><type>diskExtent</type><size>1000000</size></file>"
        "<file><key>3</key><type>diskExtent</type><size>30</size></file>"
        "<file><key>4</key><type>log</type><size>9</size></file>"
        "<file><key>5</key><type>diskExtent</type><size>7</size></file>"
        "<disk><key>2000</key><chain><fileKey>1</fileKey><fileKey>2</fileKey></chain>"
        "<chain><fileKey>3</fileKey><fileKey>2</fileKey></chain></disk>"
        "<disk><key>2001</key><chain><fileKey>5</fileKey><fileKey>4</fileKey><fileKey>99</fileKey></chain></disk>"
    )
    assert _used_by_disk(layout) == {2000: 1000530, 2001: 7}
    assert _used_by_disk(None) == {}


def test_boot_order_words() -> None:
    options = _xml(
        '<bootOrder xsi:type="VirtualMachineBootOptionsBootableEthernetDevice"><deviceKey>4000</deviceKey></bootOrder>'
        '<bootOrder xsi:type="VirtualMachineBootOptionsBootableDiskDevice"><deviceKey>2001</deviceKey></bootOrder>'
        '<bootOrder xsi:type="VirtualMachineBootOptionsBootableCdromDevice"/><bootOrder xsi:type="Future"/>'
    )
    assert boot_order(options) == ("nic:4000", "disk:2001", "cdrom")
    assert boot_order(None) == ()


def test_a_deep_snapshot_tree_is_walked_without_recursion() -> None:
    depth = 200  # vSphere allows 32; the parser's own limit is 256 levels
    text = "<currentSnapshot>snapshot-199</currentSnapshot>"
    for number in range(depth):
        name = "rootSnapshotList" if number == 0 else "childSnapshotList"
        text += f'<{name}><snapshot type="VirtualMachineSnapshot">snapshot-{number}</snapshot><name>s{number}</name>'
    text += "".join(
        f"</{'rootSnapshotList' if number == 0 else 'childSnapshotList'}>" for number in reversed(range(depth))
    )
    nodes = snapshot_nodes(_xml(text))
    assert [node.depth for node in nodes] == list(range(depth))
    assert [node.name for node in nodes if node.current] == ["s199"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-04T05:06:07.123456Z", datetime(2026, 3, 4, 5, 6, 7, 123456, UTC)),
        ("2026-03-04T05:06:07+02:00", datetime(2026, 3, 4, 3, 6, 7, 0, UTC)),
        ("2026-03-04T05:06:07", datetime(2026, 3, 4, 5, 6, 7, 0, UTC)),
        ("2026-03-04T05:06:07.123456789Z", datetime(2026, 3, 4, 5, 6, 7, 123456, UTC)),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_times(text: str | None, expected: datetime | None) -> None:
    assert parse_time(text) == expected


TAGS = st.sampled_from(
    [
        "VirtualDevice",
        "key",
        "backing",
        "parent",
        "controllerKey",
        "unitNumber",
        "macAddress",
        "fileName",
        "connectable",
        "deviceInfo",
        "label",
    ]
)
KINDS = st.sampled_from(
    ["", "VirtualDisk", "VirtualCdrom", "VirtualE1000", "ParaVirtualSCSIController", "VirtualDiskFlatVer2BackingInfo"]
)
TREES = st.recursive(
    st.tuples(TAGS, KINDS, st.sampled_from(["", "7", "-1", "x", "9" * 30]), st.just(())),
    lambda inner: st.tuples(TAGS, KINDS, st.just(""), st.lists(inner, max_size=4)),
    max_leaves=20,
)


def _render(tree: Any) -> str:
    tag, kind, text, inner = tree
    attribute = f' xsi:type="{kind}"' if kind else ""
    return f"<{tag}{attribute}>{text}{''.join(_render(item) for item in inner)}</{tag}>"


@given(st.lists(TREES, max_size=5))
def test_any_device_list_is_decoded_without_a_crash(trees: list[Any]) -> None:
    devices = list(_xml("".join(_render(tree) for tree in trees)))
    hardware = read_hardware(devices, networks={}, datastores={}, used={})
    assert len(hardware.disks) == sum(1 for device in devices if "VirtualDisk" in device.values())
