"""The machine of an export, as its manifest has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.errors import IntegrityError
from hypersdk.landing.guests import open_guest
from hypersdk.migration.manifest import VERIFY_BAD_MANIFEST, seal
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.spec import OutputFormat
from hypersdk.model import Firmware
from hypersdk.model.guestplan import SourceNic
from hypersdk.simulator import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.conversions import convert
from tests.support.exporter import Engine
from tests.support.exports import export_folder
from tests.support.simulator import SimulatorFactory


def test_an_export_has_what_its_source_was(simulator: SimulatorFactory, tmp_path: Path) -> None:
    machine = MachineSpec(
        name="a/b", disks=(DiskSpec(capacity_bytes=MiB),) * 2, cpus=4, firmware="efi", secure_boot=True
    )
    engine = Engine(simulator(machines=(machine,)), tmp_path / "state")
    engine.export(machine.name, tmp_path / "out")
    guest = open_guest(tmp_path / "out")
    assert (guest.name, guest.firmware, guest.secure_boot, guest.tpm) == ("a/b", Firmware.EFI, True, False)
    assert (guest.cpus, guest.cores_per_socket, guest.memory_bytes) == (4, 1, 2048 * MiB)
    assert (guest.guest_id, guest.os_family) == ("debian12_64Guest", "linux")
    assert [(disk.image_format, disk.capacity_bytes, disk.bus, disk.boot_order) for disk in guest.disks] == [
        ("qcow2", MiB, "scsi", 0),
        ("qcow2", MiB, "scsi", 1),
    ]
    assert all(disk.file.is_file() for disk in guest.disks)
    (nic,) = guest.nics
    assert nic.adapter == "vmxnet3"
    assert nic.mac is not None


def test_a_converted_package_has_what_its_descriptor_says(simulator: SimulatorFactory, tmp_path: Path) -> None:
    engine = Engine(simulator(machines=(MachineSpec(name="m"),)), tmp_path / "state")
    engine.export("m", tmp_path / "ovf", format=OutputFormat.OVF)
    convert(tmp_path / "ovf" / "m.ovf", tmp_path / "out", OutputFormat.RAW, tmp_path / "state")
    source, guest = open_guest(tmp_path / "ovf"), open_guest(tmp_path / "out")
    assert guest == replace(
        source, disks=tuple(replace(disk, file=found.file, image_format="raw") for disk, found in zip(
            source.disks, guest.disks, strict=True
        ))
    )  # fmt: skip


def test_a_manifest_of_an_earlier_release_has_defaults(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", name="web-01")
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    for name in ("cores_per_socket", "guest_id", "tpm"):
        del document["metadata"]["hypersdk"][name]
    for nic in document["nics"]:
        del nic["hypersdk"]
    path.write_text(json.dumps(seal(document)))
    guest = open_guest(folder)
    assert (guest.cores_per_socket, guest.guest_id, guest.tpm) == (1, None, False)
    assert guest.nics == (SourceNic("00:50:56:00:00:01", "VM Network"),)
    assert guest.memory_bytes == 512 * MiB


def test_a_manifest_of_another_program_is_read(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", name="web-01", image_format="raw")
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    del document["metadata"]["hypersdk"]
    for disk in document["disks"]:
        del disk["hypersdk"]
    path.write_text(json.dumps(document))
    guest = open_guest(folder)
    assert [(disk.bus, disk.capacity_bytes, disk.boot_order) for disk in guest.disks] == [("scsi", MiB, 0)]
    assert guest.memory_bytes == 1024 * MiB


def test_a_folder_without_a_manifest_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as raised:
        open_guest(tmp_path)
    assert raised.value.code == "verify_no_manifest"


def test_an_unknown_firmware_is_refused(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", name="web-01")
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    document["vm"]["firmware"] = "coreboot"
    path.write_text(json.dumps(seal(document)))
    with pytest.raises(IntegrityError) as raised:
        open_guest(folder)
    assert raised.value.code == VERIFY_BAD_MANIFEST


def test_the_firmware_and_the_files(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", name="web-01", disks=2, firmware=Firmware.EFI)
    guest = open_guest(folder)
    assert (guest.name, guest.firmware) == ("web-01", Firmware.EFI)
    assert [disk.file for disk in guest.disks] == [folder / "web-01-disk1.qcow2", folder / "web-01-disk2.qcow2"]
