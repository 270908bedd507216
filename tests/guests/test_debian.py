"""Layouts of the Debian guest that boot as they are. ``test_prove.py`` has those that do not, and how that looks."""

from __future__ import annotations

import os
import re
from typing import Final

import pytest

from tests.support.guests.domains import Bus, serial_text, started
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


def booted(libvirtd: Libvirtd, guest: Guest, *, bus: Bus = "virtio") -> dict[str, str]:
    """Starts the guest and waits for its login; the fields of the line that it prints when it is up."""
    log = started(libvirtd, guest, guest.name, guest.image.parent, bus=bus)
    eventually(lambda: LOGIN in serial_text(log), BOOT_TIMEOUT_S, lambda: serial_text(log)[-2000:])
    (line,) = re.findall(rf"^{guest.marker} (.*)\r$", serial_text(log), re.MULTILINE)
    return dict(field.split("=", 1) for field in line.split())


def test_without_virtio_it_boots_from_a_disk_that_it_has_drivers_for(
    libvirtd: Libvirtd, debian_without_virtio: Guest
) -> None:
    assert booted(libvirtd, debian_without_virtio, bus="ide")["root"] == "/dev/sda1"


def test_uefi(libvirtd: Libvirtd, debian_uefi_guest: Guest) -> None:
    assert booted(libvirtd, debian_uefi_guest)["mounted"] == "/boot/efi"
