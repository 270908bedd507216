"""Guests on a real libvirtd are started for a proof and end in each way that a boot can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.kvm.prove import Boot, ProofOptions, boot_domain
from hypersdk.model.guestplan import Verdict
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.guests.acts import Act, acting_guest
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.proofs import LONG_S, NAME, connected, landed, proved, state_of
from tests.support.waiting import eventually

Prove = Callable[..., Boot]


@pytest.fixture
def prove(libvirtd: Libvirtd, guest_folder: Path) -> Prove:
    """``proved`` in the test's folder."""
    return partial(proved, libvirtd, guest_folder)


def options(**wanted: object) -> ProofOptions:
    return ProofOptions(**{"timeout_s": LONG_S, **wanted})  # type: ignore[arg-type]


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_a_marker(prove: Prove, guest_folder: Path) -> None:
    boot = prove(acting_guest(guest_folder, r"starting\r\napp is UP now\r\n"), options(marker="is UP"))
    assert (boot.verdict, boot.line, boot.error) == (Verdict.MARKER, "app is UP now", None)
    assert boot.serial.splitlines() == ["starting", "app is UP now"]
    assert not boot.accelerated
    assert boot.screenshot is not None
    assert boot.screenshot.startswith(b"\x89PNG")
    assert 0 < boot.seconds < LONG_S


def test_a_login_prompt(prove: Prove, guest_folder: Path) -> None:
    boot = prove(acting_guest(guest_folder, r"Debian GNU/Linux 12 web-01 ttyS0\r\n\nweb-01 login: "), options())
    assert (boot.verdict, boot.line) == (Verdict.LOGIN, "web-01 login:")


def test_a_screen_that_stays(prove: Prove, guest_folder: Path) -> None:
    boot = prove(acting_guest(guest_folder, "Welcome"), options(stable_s=1))
    assert boot.verdict is Verdict.SCREEN_STABLE
    assert boot.line.startswith("the screen did not change for ")


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(initramfs) ", "boot_no_root"),
        (r"[ 1.0] Kernel panic - not syncing: Fatal exception\r\n", "boot_kernel_panic"),
        ("dracut:/# ", "boot_emergency_shell"),
        ("Shell> ", "boot_efi_shell"),
        (r"Verification failed: (0x1A) Security Violation\r\n", "boot_secure_boot"),
        ("grub rescue> ", "boot_grub"),
    ],
)
def test_a_known_failure_ends_it_at_once(prove: Prove, guest_folder: Path, text: str, code: str) -> None:
    boot = prove(acting_guest(guest_folder, text), options(marker="UP"))
    assert failure(boot).code == code
    assert boot.line
    assert boot.screenshot is not None


def test_a_disk_that_does_not_boot_is_told_by_the_firmware(prove: Prove, guest_folder: Path) -> None:
    image = guest_folder / "empty.raw"
    image.write_bytes(bytes(1 * MiB))
    boot = prove(Guest("empty", (image,), "", 32), options(marker="UP"))
    assert failure(boot).code == "boot_no_device"


def test_a_blue_screen(prove: Prove, guest_folder: Path) -> None:
    boot = prove(acting_guest(guest_folder, "INACCESSIBLE_BOOT_DEVICE", "blue"), options())
    assert failure(boot).code == "boot_blue_screen"


@pytest.mark.parametrize(
    ("act", "code"), [("power_off", "boot_stopped"), ("panic", "boot_crashed"), ("reboot", "boot_loop")]
)
def test_a_guest_that_ends_by_itself(prove: Prove, guest_folder: Path, act: Act, code: str) -> None:
    boot = prove(acting_guest(guest_folder, r"hello\r\n", act), options(), devices="<panic model='isa'/>")
    assert failure(boot).code == code
    assert "hello" in boot.serial


def test_a_qemu_that_is_killed(prove: Prove, libvirtd: Libvirtd, guest_folder: Path) -> None:
    killer = threading.Thread(target=kill_qemu, args=(libvirtd, guest_folder))
    killer.start()
    boot = prove(acting_guest(guest_folder, r"hello\r\n"), options())
    killer.join()
    assert failure(boot).code == "boot_crashed"


@pytest.mark.parametrize("act", ["stay", "blank"])
def test_nothing_in_time(prove: Prove, libvirtd: Libvirtd, guest_folder: Path, act: Act) -> None:
    marker, stable_s = ("UP", None) if act == "stay" else (None, 1)
    guest = acting_guest(guest_folder, r"hello\r\n", act)
    for timeout_s in (4, 16, 64):  # a loaded machine's guest says nothing for longer
        boot = prove(guest, options(marker=marker, timeout_s=timeout_s, stable_s=stable_s))
        assert failure(boot).code == "boot_unproved"
        if failure(boot).fields["seen"]:
            break
        libvirtd.virsh("undefine", NAME)
    assert failure(boot).fields["seen"] == "hello"


def failure(boot: Boot) -> HyperSDKError:
    assert boot.verdict is None
    assert boot.error is not None
    return boot.error


# --- the end from outside --------------------------------------------------------------------------------------------


def test_a_cancel_leaves_nothing(libvirtd: Libvirtd, guest_folder: Path) -> None:
    uuid = landed(libvirtd, acting_guest(guest_folder, r"hello\r\n"), guest_folder)
    before = state_of(libvirtd, guest_folder, uuid)
    cancel = CancelToken()

    def stop() -> None:
        eventually(lambda: qemu_of(guest_folder))
        cancel.cancel("test")

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Cancelled), connected(libvirtd) as connection:
        boot_domain(connection, uuid, options(), cancel=cancel)
    stopper.join()
    assert state_of(libvirtd, guest_folder, uuid) == before


def test_a_killed_process_leaves_no_guest_and_no_overlay(libvirtd: Libvirtd, guest_folder: Path) -> None:
    uuid = landed(libvirtd, acting_guest(guest_folder, r"hello\r\n"), guest_folder)
    names = sorted(path.name for path in guest_folder.iterdir())
    program = (
        "import sys\n"
        "from hypersdk.kvm.address import parse_libvirt_address\n"
        "from hypersdk.kvm.connection import open_connection\n"
        "from hypersdk.kvm.prove import ProofOptions, boot_domain\n"
        "from hypersdk.transfer.cancel import CancelToken\n"
        "with open_connection(parse_libvirt_address(sys.argv[1]), cancel=CancelToken()) as connection:\n"
        "    boot_domain(connection, sys.argv[2], ProofOptions(), cancel=CancelToken())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, libvirtd.uri, uuid]) as process:
        eventually(lambda: qemu_of(guest_folder) or process.poll() is not None)
        assert process.poll() is None
        process.kill()
    eventually(lambda: libvirtd.domains() == [NAME])
    assert sorted(path.name for path in guest_folder.iterdir()) == names


def qemu_of(folder: Path) -> list[int]:
    """Process ids of QEMUs that run with an image of ``folder``; a paused guest has not begun."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if b"qemu-system" in words and str(folder).encode() in words:
            found.append(int(process.name))
    return found


def kill_qemu(libvirtd: Libvirtd, folder: Path) -> None:
    eventually(lambda: libvirtd.virsh("list", "--state-running", "--name").strip())
    for process in qemu_of(folder):
        os.kill(process, signal.SIGKILL)
