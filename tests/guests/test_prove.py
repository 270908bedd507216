"""Real guests, proved: a login, an agent, and the failures that a conversion is for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypersdk.kvm.prove import Boot, ProofOptions
from hypersdk.model.guestplan import Verdict
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.proofs import proved

pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]
OPTIONS = ProofOptions(timeout_s=400)
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def test_a_login(libvirtd: Libvirtd, guest_folder: Path, debian_guest: Guest) -> None:
    boot = proved(libvirtd, guest_folder, debian_guest, OPTIONS, bus="virtio")
    assert (boot.verdict, boot.line) == (Verdict.LOGIN, "test-guest login:")
    assert debian_guest.marker in boot.serial


def test_an_agent_tells_what_runs(libvirtd: Libvirtd, guest_folder: Path, debian_guest: Guest) -> None:
    boot = proved(libvirtd, guest_folder, debian_guest, OPTIONS, bus="virtio", devices=AGENT, serial=False)
    assert boot.verdict is Verdict.AGENT
    assert boot.line.startswith("Debian GNU/Linux 12 (bookworm), kernel 6.")
    assert boot.serial == ""


def test_a_guest_without_the_drivers(libvirtd: Libvirtd, guest_folder: Path, debian_without_virtio: Guest) -> None:
    boot = proved(libvirtd, guest_folder, debian_without_virtio, OPTIONS, bus="virtio")
    assert code_of(boot) == "boot_no_root"
    assert boot.line.startswith("(initramfs)")


def test_uefi_without_a_loader_that_it_finds(
    libvirtd: Libvirtd, guest_folder: Path, debian_uefi_without_fallback: Guest
) -> None:
    boot = proved(libvirtd, guest_folder, debian_uefi_without_fallback, OPTIONS, bus="virtio")
    assert code_of(boot) == "boot_efi_shell"


def test_secure_boot_with_an_unsigned_loader(libvirtd: Libvirtd, guest_folder: Path, debian_uefi_guest: Guest) -> None:
    boot = proved(libvirtd, guest_folder, debian_uefi_guest, OPTIONS, bus="virtio", secure_boot=True)
    assert code_of(boot) == "boot_secure_boot"
    assert "Access Denied" in boot.line or "Security Violation" in boot.line


def code_of(boot: Boot) -> str:
    assert boot.error is not None
    return boot.error.code
