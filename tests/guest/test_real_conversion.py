"""What only a real guest shows. ``tests/guests`` converts Debian and boots it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from hypersdk.guest.conversion import convert_in_place
from hypersdk.guest.fallback import add_fallback_loader
from hypersdk.guest.report import GuestSystem
from hypersdk.guest.request import ConversionRequest, StaticAddress
from hypersdk.guest.tools import find_tools
from hypersdk.model.guestplan import Acceleration, DiskBus, NicModel
from hypersdk.transfer.cancel import CancelToken
from tests.support.guestrequests import source_disk, source_guest
from tests.support.guests.appliance import guestfish
from tests.support.guests.domains import serial_text, started
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.tools import run_tool
from tests.support.waiting import eventually

UEFI_LOADER = "/EFI/debian/grubx64.efi"
pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]

BOOT_TIMEOUT_S = 240


def test_a_uefi_guest_without_fallback_loader_boots_once_it_was_added(
    libvirtd: Libvirtd, debian_uefi_without_fallback: Guest, guest_folder: Path
) -> None:
    guest = debian_uefi_without_fallback
    loader = add_fallback_loader(
        [source_disk(guest.image, "raw")], GuestSystem(distro="debian", arch="x86_64"), find_tools(),
        log=guest_folder / "guestfish.log", accelerated=False, cancel=CancelToken(),
    )  # fmt: skip
    assert loader == UEFI_LOADER
    log = started(libvirtd, guest, guest.name, guest_folder, bus="virtio")
    eventually(lambda: guest.marker in serial_text(log), BOOT_TIMEOUT_S, lambda: serial_text(log)[-2000:])


def test_windows_gets_drivers_that_start_at_boot_and_its_static_address(
    windows_guest: Guest, virtio_win: Path, guest_folder: Path
) -> None:
    """Not that it boots: there is no Windows in it."""
    address = StaticAddress(
        "00:50:56:ab:cd:01", ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("192.0.2.1"), 24
    )
    report = convert_in_place(
        ConversionRequest(
            source_guest(source_disk(windows_guest.image, "raw")),
            static_addresses=(address,), acceleration=Acceleration.TCG,
        ),
        find_tools(), folder=guest_folder, cancel=CancelToken(),
    )  # fmt: skip
    assert (report.system.type, report.system.osinfo) == ("windows", "win2k19")
    assert (report.drivers.disk_bus, report.drivers.nic_model) == (DiskBus.VIRTIO, NicModel.VIRTIO)
    hive = guest_folder / "SYSTEM"
    found = guestfish(
        f"add-drive {windows_guest.image} format:raw",
        "run",
        "mount-ro /dev/sda1 /",
        f"download /Windows/System32/config/SYSTEM {hive}",
        "find /Windows/Drivers",
        "glob grep 192.0.2.7 /Windows/Temp/*",
    )
    assert "VirtIO/viostor.sys" in found
    assert "192.0.2.7" in found
    services = run_tool("hivexregedit", "--export", hive, r"\ControlSet001\Services\viostor")
    assert '"Start"=dword:00000000' in services
