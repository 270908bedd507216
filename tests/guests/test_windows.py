"""The guest that is no Windows: virt-v2v takes it for one, and installs what it is given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.guests.appliance import ENVIRONMENT, TIMEOUT_S, guestfish
from tests.support.guests.domains import vmware_xml
from tests.support.guests.guest import Guest
from tests.support.tools import requires, run_tool

pytestmark = [pytest.mark.guests, pytest.mark.timeout(900)]


def converted(guest: Guest, folder: Path) -> str:
    """What virt-v2v-in-place prints about the guest."""
    definition = folder / "guest.xml"
    definition.write_text(vmware_xml(guest))
    done = subprocess.run(
        [requires("virt-v2v-in-place"), "-i", "libvirtxml", definition],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_virt_v2v_installs_the_drivers(windows_guest: Guest, virtio_win: Path, tmp_path: Path) -> None:
    text = converted(windows_guest, tmp_path)
    assert "This guest has virtio drivers installed." in text
    hive = tmp_path / "SYSTEM"
    guestfish(f"download /Windows/System32/config/SYSTEM {hive}", image=windows_guest.image)
    driver = run_tool("hivexregedit", "--export", hive, r"\ControlSet001\Services\viostor")
    assert '"Start"=dword:00000000' in driver
