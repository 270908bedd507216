"""The daemon that tests get: private, and gone when it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.guests.domains import domain_xml, started
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd, running_libvirtd

pytestmark = [pytest.mark.waits, pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")]


def processes_with(text: str) -> set[str]:
    """Ids of processes on whose command line ``text`` is."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                found.add(folder.name)
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
    return found


def test_two_daemons_know_nothing_of_each_other(
    libvirtd: Libvirtd, boot_sector_guest: Guest, guest_folder: Path
) -> None:
    started(libvirtd, boot_sector_guest, "first", guest_folder)
    with running_libvirtd() as other:
        assert other.domains() == []
    assert libvirtd.domains() == ["first"]


def test_no_process_outlives_a_killed_daemon(boot_sector_guest: Guest, guest_folder: Path) -> None:
    with running_libvirtd() as daemon:
        started(daemon, boot_sector_guest, "guest", guest_folder)
        ours = f"{boot_sector_guest.image}"
        assert processes_with(ours)
        daemon.kill()
        assert processes_with(ours) | processes_with(str(daemon.socket.parent)) == set()


def test_clearing_removes_what_a_test_left(
    libvirtd: Libvirtd, boot_sector_guest: Guest, guest_folder: Path, bridge_name: str
) -> None:
    started(libvirtd, boot_sector_guest, "guest", guest_folder)
    definition = guest_folder / "other.xml"
    definition.write_text(domain_xml(boot_sector_guest, "other", guest_folder))
    libvirtd.virsh("define", definition)
    network = guest_folder / "network.xml"
    network.write_text(f"<network><name>isolated</name><bridge name='{bridge_name}'/></network>")
    libvirtd.virsh("net-define", network)
    libvirtd.virsh("net-start", "isolated")
    libvirtd.virsh("pool-create-as", "images", "dir", "--target", guest_folder)
    assert Path(f"/sys/class/net/{bridge_name}").exists()
    libvirtd.clear()
    assert libvirtd.domains() == []
    assert libvirtd.virsh("net-list", "--all", "--name").split() == []
    assert libvirtd.virsh("pool-list", "--all", "--name").split() == []
    assert not Path(f"/sys/class/net/{bridge_name}").exists()
    assert boot_sector_guest.image.exists()
