"""The Debian guests, under a libvirtd of the test's own: what each of them proves before anything converts it."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import pytest

from tests.support.guests.domains import serial_text, started
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]

BOOT_TIMEOUT_S: Final = 240
LOGIN: Final = "test-guest login:"


def printed(libvirtd: Libvirtd, guest: Guest, wanted: str, **options: Any) -> str:
    """Starts the guest; what its serial port shows when ``wanted`` is there."""
    log = started(libvirtd, guest, guest.name, guest.image.parent, **options)
    eventually(lambda: wanted in serial_text(log), BOOT_TIMEOUT_S, lambda: serial_text(log)[-2000:])
    return serial_text(log)


def marker_line(text: str, guest: Guest) -> dict[str, str]:
    """The fields of the line that the guest prints when it is up."""
    (line,) = re.findall(rf"^{guest.marker} (.*)\r$", text, re.MULTILINE)
    return dict(field.split("=", 1) for field in line.split())


def test_bios(libvirtd: Libvirtd, debian_guest: Guest) -> None:
    text = printed(libvirtd, debian_guest, LOGIN, bus="virtio")
    assert marker_line(text, debian_guest) == {
        "boots": "1",
        "kernel": marker_line(text, debian_guest)["kernel"],
        "root": "/dev/vda1",
        "mounted": "",
        "disks": "vda",
        "nics": "",
    }


def test_without_virtio_it_ends_in_the_initramfs(libvirtd: Libvirtd, debian_without_virtio: Guest) -> None:
    text = printed(libvirtd, debian_without_virtio, "(initramfs)", bus="virtio")
    assert debian_without_virtio.marker not in text


def test_without_virtio_it_boots_from_the_disk_that_it_has_drivers_for(
    libvirtd: Libvirtd, debian_without_virtio: Guest
) -> None:
    text = printed(libvirtd, debian_without_virtio, LOGIN, bus="ide")
    assert marker_line(text, debian_without_virtio)["root"] == "/dev/sda1"


def test_two_disks(libvirtd: Libvirtd, debian_two_disks: Guest) -> None:
    fields = marker_line(printed(libvirtd, debian_two_disks, LOGIN, bus="virtio"), debian_two_disks)
    assert (fields["disks"], fields["mounted"]) == ("vda,vdb", "/srv")


def test_lvm(libvirtd: Libvirtd, debian_lvm_guest: Guest) -> None:
    fields = marker_line(printed(libvirtd, debian_lvm_guest, LOGIN, bus="virtio"), debian_lvm_guest)
    assert (fields["root"], fields["mounted"]) == ("/dev/guest/root", "/boot")


def test_luks(libvirtd: Libvirtd, debian_luks_guest: Guest) -> None:
    fields = marker_line(printed(libvirtd, debian_luks_guest, LOGIN, bus="virtio"), debian_luks_guest)
    assert (fields["root"], fields["mounted"]) == ("/dev/mapper/root", "/boot")


def test_uefi(libvirtd: Libvirtd, debian_uefi_guest: Guest) -> None:
    fields = marker_line(printed(libvirtd, debian_uefi_guest, LOGIN, bus="virtio"), debian_uefi_guest)
    assert fields["mounted"] == "/boot/efi"


def test_uefi_without_a_loader_that_the_firmware_finds(libvirtd: Libvirtd, debian_uefi_without_fallback: Guest) -> None:
    assert debian_uefi_without_fallback.marker not in printed(
        libvirtd, debian_uefi_without_fallback, "Shell>", bus="virtio"
    )


def test_secure_boot_refuses_a_loader_without_signature(libvirtd: Libvirtd, debian_uefi_guest: Guest) -> None:
    printed(libvirtd, debian_uefi_guest, "Security Violation", bus="virtio", secure_boot=True)
