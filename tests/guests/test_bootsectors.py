"""The guests of 512 bytes, under a libvirtd of the test's own."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Final

import pytest

from hypersdk.units import KiB, MiB
from tests.support.guests.bootsectors import ECHO_MARKER, WRITER_MARKER
from tests.support.guests.domains import serial_text, started
from tests.support.guests.guest import MARKER, Guest
from tests.support.libvirtd import Libvirtd
from tests.support.tools import run_tool
from tests.support.waiting import eventually

pytestmark = [pytest.mark.waits, pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")]

WRITTEN: Final = re.compile(r"^\.([0-9a-f]{8})\r$", re.MULTILINE)


def test_the_marker_comes_again_and_again(libvirtd: Libvirtd, boot_sector_guest: Guest, guest_folder: Path) -> None:
    log = started(libvirtd, boot_sector_guest, "marker", guest_folder)
    eventually(lambda: serial_text(log).count(f"{MARKER}\r\n") >= 2, explain=lambda: serial_text(log))


def test_a_letter_comes_back_with_its_case_changed(libvirtd: Libvirtd, echo_guest: Guest, guest_folder: Path) -> None:
    log = started(libvirtd, echo_guest, "echo", guest_folder)
    eventually(lambda: ECHO_MARKER in serial_text(log), explain=lambda: serial_text(log))
    with socket.socket(socket.AF_UNIX) as serial:
        serial.connect(str(guest_folder / "echo.serial"))
        serial.sendall(b"Hello")
        eventually(lambda: "hELLO" in serial_text(log), explain=lambda: serial_text(log))


def test_what_is_said_to_be_written_is_on_the_disk(libvirtd: Libvirtd, writer_guest: Guest, guest_folder: Path) -> None:
    log = started(libvirtd, writer_guest, "writer", guest_folder)
    eventually(lambda: len(WRITTEN.findall(serial_text(log))) >= 3, explain=lambda: serial_text(log))
    libvirtd.virsh("destroy", "writer")
    assert WRITER_MARKER in serial_text(log)
    numbers = [int(digits, 16) for digits in WRITTEN.findall(serial_text(log))]
    assert numbers == list(range(1, len(numbers) + 1))
    with writer_guest.image.open("rb") as disk:
        for number in numbers:
            disk.seek(MiB + number * 64 * KiB)
            assert disk.read(512) == number.to_bytes(4, "little") * 128


def test_a_copy_is_the_test_s_own(boot_sector_guest: Guest, guest_folder: Path) -> None:
    boot_sector_guest.image.write_bytes(b"changed")
    again = boot_sector_guest.image.stat().st_mode
    assert again & 0o044 == 0o044  # readable for qemu's user
    (other := guest_folder / "other").mkdir()
    assert run_tool("head", "--bytes=7", boot_sector_guest.copied(other).image) == "changed"
