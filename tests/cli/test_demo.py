"""`demo migrate`: onto a libvirtd of the test's own, and where there is none."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guests.guest import MARKER
from tests.support.libvirtd import Libvirtd

pytestmark = [pytest.mark.waits, pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")]

DEMO = [sys.executable, "-m", "hypersdk.cli.main", "demo"]
TIMEOUT_S = 240


def demo(home: Path, *words: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the demo with ``home`` as its home and a temporary folder below it."""
    environ = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    command = [*before, *DEMO, *words, "--machines", "0"]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=TIMEOUT_S, check=False)


def test_the_machine_is_landed_and_the_domain_can_be_removed_as_it_says(libvirtd: Libvirtd, guest_folder: Path) -> None:
    done = demo(guest_folder, "migrate", "--to", libvirtd.uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the guest printed '{MARKER}'" in done.stdout
    assert "files as written" in done.stdout
    (name,) = libvirtd.domains()
    assert name.startswith("hypersdk-demo-")
    (folder,) = guest_folder.glob("hypersdk-demo-*")
    assert folder / "hypersdk-demo-disk1.qcow2" in folder.iterdir()
    _, _, remove = done.stdout.partition("To remove the domain: ")
    subprocess.run(shlex.split(remove.splitlines()[0]), check=True, capture_output=True, timeout=TIMEOUT_S)
    assert libvirtd.domains() == []


def test_without_libvirt_the_image_is_booted_by_qemu(tmp_path: Path) -> None:
    hidden = 'mkdir -p /run/libvirt && mount -t tmpfs none /run/libvirt && exec "$@"'
    done = demo(tmp_path, "migrate", before=("unshare", "--mount", "sh", "-c", hidden, "sh"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is not landed on qemu:///system" in done.stderr
    assert f"its serial port showed {MARKER}" in done.stdout


def test_a_target_that_is_named_has_to_answer(tmp_path: Path) -> None:
    done = demo(tmp_path, "migrate", "--to", f"qemu+unix:///system?socket={tmp_path}/none")
    assert done.returncode == 3
    assert "libvirt_unreachable" in done.stderr
    assert demo(tmp_path, "--to", "qemu:///system").returncode == 2
