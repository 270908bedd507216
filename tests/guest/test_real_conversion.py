"""The real virt-v2v on a real guest: killed in the middle, then to its end, then booted."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hypersdk.guest.conversion import convert_in_place
from hypersdk.guest.fallback import add_fallback_loader
from hypersdk.guest.overlay import OVERLAY_FORMAT, commit_overlay, create_overlay, overlay_size, remove_overlay
from hypersdk.guest.report import ConversionEvent, EventKind, GuestSystem
from hypersdk.guest.request import Acceleration, ConversionRequest
from hypersdk.guest.tools import find_tools
from hypersdk.model.guestplan import DiskBus, NicModel
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.guestprograms import own_processes
from tests.support.guestrequests import source_disk, source_guest
from tests.support.guests.domains import serial_text, started
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.seeds import SEED
from tests.support.tools import run_tool, sha256
from tests.support.waiting import eventually

UEFI_LOADER = "/EFI/debian/grubx64.efi"
pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]

BOOT_TIMEOUT_S = 240
PARENT = """
    import sys
    from pathlib import Path
    from hypersdk.guest.conversion import convert_in_place
from hypersdk.guest.fallback import add_fallback_loader
    from hypersdk.guest.request import Acceleration, ConversionRequest
    from hypersdk.guest.tools import find_tools
    from hypersdk.transfer.cancel import CancelToken
    from tests.support.guestrequests import source_disk, source_guest

    overlay = Path(sys.argv[1])
    convert_in_place(
        ConversionRequest(source_guest(source_disk(overlay)), acceleration=Acceleration.TCG), find_tools(),
        folder=overlay.parent, cancel=CancelToken(), on_event=lambda event: print(event.text, flush=True),
    )
"""


def kill_a_conversion(overlay: Path, environment: dict[str, str]) -> None:
    """``kill -9`` of the process that converts, at a drawn moment after qemu-nbd and the appliance were started."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), overlay], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "Setting up the source\n"
        assert parent.stdout.readline() == "Opening the source\n"
        time.sleep(random.Random(SEED).uniform(0, 10))
        assert parent.poll() is None
        parent.kill()


def test_a_guest_is_converted_and_boots_after_an_attempt_that_was_killed(
    libvirtd: Libvirtd, debian_without_virtio: Guest, guest_folder: Path
) -> None:
    guest, tools, overlay = debian_without_virtio, find_tools(), guest_folder / "overlay, 1.qcow2"
    before, temporary = sha256(guest.image), guest_folder / "temporary"
    temporary.mkdir()
    create_overlay(tools, overlay, guest.image, "raw")

    kill_a_conversion(overlay, {**os.environ, "TMPDIR": str(temporary)})
    eventually(
        lambda: not own_processes(str(guest_folder)) and not list(temporary.iterdir()),
        explain=lambda: own_processes(str(guest_folder)),
    )
    run_tool("qemu-img", "info", overlay)  # takes the lock
    assert sha256(guest.image) == before

    remove_overlay(overlay)
    create_overlay(tools, overlay, guest.image, "raw")
    events: list[ConversionEvent] = []
    report = convert_in_place(
        ConversionRequest(source_guest(source_disk(overlay, OVERLAY_FORMAT)), acceleration=Acceleration.TCG),
        tools, folder=guest_folder, cancel=CancelToken(), on_event=events.append,
    )  # fmt: skip
    assert (report.system.type, report.system.distro, report.system.arch) == ("linux", "debian", "x86_64")
    assert (report.drivers.disk_bus, report.drivers.nic_model) == (DiskBus.VIRTIO, NicModel.VIRTIO)
    stages = [event.text for event in events if event.kind is EventKind.STAGE]
    assert [stage.text for stage in report.stages] == stages
    assert stages[:3] == ["Setting up the source", "Opening the source", "Inspecting the source"]
    assert sum(stage.seconds for stage in report.stages) == pytest.approx(report.seconds, abs=5)
    assert sha256(guest.image) == before
    assert overlay_size(tools, overlay).allocated_bytes < 64 * MiB

    commit_overlay(tools, overlay, guest.image, "raw")
    remove_overlay(overlay)
    log = started(libvirtd, guest, guest.name, guest.image.parent, bus="virtio")
    eventually(lambda: guest.marker in serial_text(log), BOOT_TIMEOUT_S, lambda: serial_text(log)[-2000:])


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
