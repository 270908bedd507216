"""govmomi reads our packages: govc makes the machine again on vcsim; its OVF library says what it sees."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from hypersdk.formats.mf import format_mf
from hypersdk.formats.ova import OvaWriter
from hypersdk.formats.ovf import OvfDisk, adapt_ovf, build_ovf, parse_ovf
from hypersdk.model import Disk, Firmware, Machine, Nic
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import GiB, MiB
from tests.support.machines import make_disk, make_machine
from tests.support.ovfs import Package, packages
from tests.support.peers import Vcsim, go_peer, run_govc
from tests.support.seeds import examples
from tests.support.tools import run_tool, sha256

# The controllers that vcsim's importer knows.
DISKS = (
    make_disk(1, capacity_bytes=2 * GiB),
    make_disk(2, bus="ide", controller="ide", controller_key=200, capacity_bytes=GiB),
)
NIC = Nic(4000, "Network adapter 1", "00:50:56:00:00:01", "VM Network", "vmxnet3", True)


def described(machine: Machine) -> bytes:
    """The descriptor of ``machine``, without files behind it."""
    return build_ovf(
        machine,
        [
            OvfDisk(disk.key, f"disk{number}.vmdk", number, disk.capacity_bytes, None, "vmdk-stream", None)
            for number, disk in enumerate(machine.disks, start=1)
        ],
    )


@pytest.fixture
def package(tmp_path: Path) -> tuple[list[Path], bytes]:
    """A machine's disks as streamOptimized VMDK files, and its descriptor."""
    machine = make_machine("wéb 01", disks=DISKS, nics=(NIC,), annotation="kept")
    paths, entries = [], []
    for number, disk in enumerate(machine.disks, start=1):
        path = tmp_path / f"web-disk{number}.vmdk"
        size = str(disk.capacity_bytes)
        run_tool("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=streamOptimized", path, size)
        entries.append(OvfDisk(disk.key, path.name, path.stat().st_size, disk.capacity_bytes, 0, "vmdk-stream", None))
        paths.append(path)
    return paths, build_ovf(machine, entries)


def check_imported(server: Vcsim) -> None:
    """What govc says of the machine that was made from the package."""
    found: list[dict[str, Any]] = json.loads(server.govc("device.info", "-vm", "again", "-json"))["devices"]
    sizes = [device["capacityInKB"] * 1024 for device in found if device.get("capacityInKB")]
    assert sizes == [disk.capacity_bytes for disk in DISKS]
    assert len([device for device in found if device.get("macAddress")]) == 1
    config = json.loads(server.govc("vm.info", "-json", "again"))["virtualMachines"][0]["config"]
    assert config["guestId"] == "debian12_64Guest"
    assert (config["hardware"]["numCPU"], config["hardware"]["memoryMB"]) == (2, 4096)


def test_govc_imports_our_ovf(vcsim: Callable[..., Vcsim], package: tuple[list[Path], bytes], tmp_path: Path) -> None:
    paths, descriptor = package
    ovf = tmp_path / "web.ovf"
    ovf.write_bytes(descriptor)
    (tmp_path / "web.mf").write_bytes(format_mf(("SHA256", path.name, sha256(path)) for path in (ovf, *paths)))
    server = vcsim(esx=True, vm=0)
    server.govc("import.ovf", "-name", "again", ovf)
    check_imported(server)


def test_govc_imports_our_ova(vcsim: Callable[..., Vcsim], package: tuple[list[Path], bytes], tmp_path: Path) -> None:
    paths, descriptor = package
    ova = tmp_path / "web.ova"
    handle = os.open(ova, os.O_RDWR | os.O_CREAT)
    writer = OvaWriter(FdFile(handle), "web.ovf", mtime_s=0)
    for path in paths:
        data = path.read_bytes()
        FdFile(handle).pwrite([data], writer.data_offset(path.name))
        writer.add_member(path.name, len(data))
    writer.finish(descriptor, {path.name: sha256(path) for path in paths})
    os.close(handle)
    server = vcsim(esx=True, vm=0)
    server.govc("import.ova", "-name", "again", ova)
    check_imported(server)


@pytest.mark.usefixtures("govc_binary")
def test_govc_reads_note_and_networks(tmp_path: Path) -> None:
    ovf = tmp_path / "web.ovf"
    nics = (NIC, replace(NIC, key=4001, network="Ünet & co"))
    ovf.write_bytes(described(make_machine(nics=nics, annotation="kept")))
    spec = json.loads(run_govc("https://127.0.0.1:9", "import.spec", ovf))
    assert spec["Annotation"] == "kept"
    assert [entry["Name"] for entry in spec["NetworkMapping"]] == ["VM Network", "Ünet & co"]


# --- every controller and the firmware, as govmomi's library sees them -----------------------------------------------


def spec_of(machine: Machine, folder: Path) -> dict[str, Any]:
    """The ConfigSpec that govmomi, at its strictest, makes of our descriptor."""
    ovf = folder / "machine.ovf"
    ovf.write_bytes(described(machine))
    found: dict[str, Any] = json.loads(run_tool(str(go_peer("ovfspec")), ovf))
    return found


def devices(spec: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    found = [change["device"] for change in spec["deviceChange"]]
    return [device for device in found if device["_typeName"] in kinds]


@pytest.mark.parametrize(("firmware", "secure"), [(Firmware.BIOS, False), (Firmware.EFI, False), (Firmware.EFI, True)])
def test_firmware_secure_boot_and_sizes(firmware: Firmware, secure: bool, tmp_path: Path) -> None:
    machine = make_machine(firmware=firmware, secure_boot=secure, cores_per_socket=2)
    spec = spec_of(machine, tmp_path)
    assert (spec["firmware"], spec["name"], spec["guestId"]) == (firmware.value, "web-01", "debian12_64Guest")
    assert (spec["numCPUs"], spec["numCoresPerSocket"], spec["memoryMB"], spec["version"]) == (2, 2, 4096, "vmx-19")
    assert spec.get("bootOptions", {}).get("efiSecureBootEnabled", False) is secure


@pytest.mark.parametrize(
    ("bus", "controller", "kind"),
    [
        ("scsi", "pvscsi", "ParaVirtualSCSIController"),
        ("scsi", "lsilogic", "VirtualLsiLogicController"),
        ("scsi", "lsilogic-sas", "VirtualLsiLogicSASController"),
        ("scsi", "buslogic", "VirtualBusLogicController"),
        ("sata", "ahci", "VirtualAHCIController"),
        ("nvme", "nvme", "VirtualNVMEController"),
        ("ide", "ide", "VirtualIDEController"),
    ],
)
def test_controllers(bus: str, controller: str, kind: str, tmp_path: Path) -> None:
    disks = (
        make_disk(1, bus=bus, controller=controller, capacity_bytes=3 * GiB + MiB),
        make_disk(2, bus=bus, controller=controller, unit_number=1),
    )
    spec = spec_of(make_machine(disks=disks), tmp_path)
    made = devices(spec, kind)
    found = devices(spec, "VirtualDisk")
    assert [disk["capacityInBytes"] for disk in found] == [disk.capacity_bytes for disk in disks]
    assert [disk["unitNumber"] for disk in found] == [0, 1]
    assert made
    assert {disk["controllerKey"] for disk in found} <= {device["key"] for device in made}


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        ("vmxnet3", "VirtualVmxnet3"),
        ("e1000", "VirtualE1000"),
        ("e1000e", "VirtualE1000e"),
        ("pcnet32", "VirtualPCNet32"),
    ],
)
def test_network_cards(adapter: str, kind: str, tmp_path: Path) -> None:
    spec = spec_of(make_machine(nics=(replace(NIC, adapter=adapter),)), tmp_path)
    assert len(devices(spec, kind)) == 1


def test_disks_of_a_large_machine(tmp_path: Path) -> None:
    """Four controllers with fifteen disks each: every one where it was."""
    disks: list[Disk] = []
    for bus in range(4):
        for unit in (*range(7), *range(8, 16)):
            number = len(disks) + 1
            disks.append(
                make_disk(
                    number, controller_key=1000 + bus, bus_number=bus, unit_number=unit, capacity_bytes=number * GiB
                )
            )
    found = devices(spec_of(make_machine(disks=tuple(disks)), tmp_path), "VirtualDisk")
    assert [disk["unitNumber"] for disk in found] == [disk.unit_number for disk in disks]
    assert [disk["capacityInBytes"] for disk in found] == [disk.capacity_bytes for disk in disks]


# --- what we make of the packages of others
# -------------------------------------------------------------------------------

BUS_OF = {
    "VirtualIDEController": "ide",
    "VirtualLsiLogicController": "scsi",
    "VirtualAHCIController": "sata",
    "VirtualNVMEController": "nvme",
}


@given(packages(5, MiB))
@examples(20)
def test_govmomi_finds_every_disk_of_a_package_where_it_was(tmp_path: Path, package: Package) -> None:
    """Every dialect, adapted, and read at its strictest."""
    files = {disk.content: f"in{disk.content}.vmdk" for disk in package.disks if disk.content is not None}
    source = package.descriptor(files, parents_first=True)
    entries = [
        OvfDisk(2000, f"out-{disk.id}.vmdk" if disk.file else None, 1, MiB, None, "vmdk-stream", None, disk.id)
        for disk in parse_ovf(source).disks
    ]
    ovf = tmp_path / "machine.ovf"
    ovf.write_bytes(adapt_ovf(source, entries))
    spec: dict[str, Any] = json.loads(run_tool(str(go_peer("ovfspec")), ovf))
    places = {device["key"]: (BUS_OF[device["_typeName"]], device["busNumber"]) for device in devices(spec, *BUS_OF)}
    found = {
        (*places[disk["controllerKey"]], disk["unitNumber"]): disk["capacityInBytes"]
        for disk in devices(spec, "VirtualDisk")
    }
    assert found == {disk.place: MiB for disk in package.held}
