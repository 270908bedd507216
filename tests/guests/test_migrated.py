"""Real guests through `migrate`: exported, converted, landed and proved on other layouts than one plain file system.

Each proof reads the line that the guest prints when it is up: what its root file system is on, and what is mounted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from tests.support.cli.hyper2kvm import Ended, Program
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.simulator import SimulatorFactory

pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]


@dataclass(frozen=True, slots=True)
class Moving:
    """The command that migrates ``guest`` to a libvirtd; its source is the machine ``web-01`` of a simulator."""

    program: Program
    source: Simulator
    guest: Guest
    folder: Path
    words: tuple[str | Path, ...]

    def run(self, *more: str | Path) -> Ended:
        return self.program.run(*self.words, *more, timeout_s=900)

    def boot_line(self) -> dict[str, str]:
        """The fields of the guest's line in the evidence of the proof."""
        serial = (self.folder / "serial.log").read_text()
        (line,) = re.findall(rf"^{self.guest.marker} (.*?)\r?$", serial, re.MULTILINE)
        return dict(field.split("=", 1) for field in line.split())


@pytest.fixture
def moving(
    simulator: SimulatorFactory, libvirtd: Libvirtd, guest_folder: Path, tmp_path: Path
) -> Callable[..., Moving]:
    """``moving(guest)``."""

    def start(guest: Guest, *, secure_boot: bool = False) -> Moving:
        disks = tuple(DiskSpec(disk.stat().st_size, image=disk) for disk in guest.disks)
        machine = MachineSpec(
            "web-01", disks, power="poweredOn", memory_mb=guest.memory_mb, nics=0, firmware=guest.firmware,
            secure_boot=secure_boot,
        )  # fmt: skip
        server = simulator(machines=(machine,))
        folder = guest_folder / "out"
        words = (
            "migrate", "web-01", "--json", "--to", libvirtd.uri, "-o", folder, "--acceleration", "tcg",
            "--power-off", "--prove", "--prove-marker", guest.marker,
        )  # fmt: skip
        return Moving(Program(tmp_path, server), server, guest, folder, words)

    return start


def test_luks_with_its_key(
    moving: Callable[..., Moving], libvirtd: Libvirtd, debian_luks_guest: Guest, tmp_path: Path
) -> None:
    """Without the key it is refused before the appliance starts, and the export is kept for the next attempt."""
    assert debian_luks_guest.passphrase is not None
    key = tmp_path / "passphrase"
    key.write_text(debian_luks_guest.passphrase)
    key.chmod(0o600)
    moved = moving(debian_luks_guest)
    refused = moved.run("--start").error
    assert refused["code"] == "encrypted_without_key"
    assert "/dev/sda3" in refused["message"]
    assert "--key FILE" in refused["next_step"]
    assert (libvirtd.domains(), moved.source.vm("web-01").power) == ([], "poweredOn")
    done = moved.run("--key", key)
    assert done.result["converted"], done.explain()
    assert {disk["bus"] for disk in done.result["domain"]["disks"]} == {"virtio"}
    found = moved.boot_line()
    assert (found["root"], found["mounted"]) == ("/dev/mapper/root", "/boot,/boot/efi")
    assert debian_luks_guest.passphrase not in str(done)


def test_lvm_on_uefi_without_a_fallback_loader_and_with_a_second_disk(
    moving: Callable[..., Moving], debian_lvm_guest: Guest
) -> None:
    moved = moving(debian_lvm_guest)
    result = moved.run().result
    assert [disk["bus"] for disk in result["domain"]["disks"]] == ["virtio", "virtio"]
    found = moved.boot_line()
    assert (found["root"], found["disks"]) == ("/dev/guest/root", "vda,vdb")
    assert found["mounted"] == "/srv,/boot,/boot/efi"
    verified = moved.program.run("verify", "--json", moved.folder)
    assert (verified.status, verified.event("verified")["findings"]) == (0, []), verified.explain()


def test_secure_boot_of_an_unsigned_loader(
    moving: Callable[..., Moving], libvirtd: Libvirtd, debian_uefi_guest: Guest
) -> None:
    """Secure boot is taken over from the source, so what it does not start is found by the proof, not by the user."""
    moved = moving(debian_uefi_guest, secure_boot=True)
    ended = moved.run("--no-convert", "--start")
    assert ended.error["code"] == "boot_secure_boot", ended.explain()
    assert (libvirtd.domains(), moved.source.vm("web-01").power) == ([], "poweredOn")
