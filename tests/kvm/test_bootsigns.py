"""What the lines of real programs mean."""

from __future__ import annotations

import pytest

from hypersdk.errors import CODES
from hypersdk.kvm.bootsigns import FAILURES, KnownFailure, SignReader, WatchedConsole
from hypersdk.model.guestplan import Verdict

FAILED = [
    ("(initramfs) ", "boot_no_root"),
    ("[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "boot_no_root"),
    ("mountroot> ", "boot_no_root"),
    ("dracut:/# ", "boot_emergency_shell"),
    ("You are in emergency mode. After logging in, type \"journalctl -xb\" to view", "boot_emergency_shell"),
    ("Give root password for maintenance", "boot_emergency_shell"),
    ("Shell> ", "boot_efi_shell"),
    ("BdsDxe: failed to start Boot0002 \"EFI Internal Shell\" from Fv(7CB8)/FvFile(7C04): Security Violation",
     "boot_secure_boot"),
    ("BdsDxe: failed to load Boot0001 \"UEFI QEMU HARDDISK QM00001 \" from PciRoot(0x0)/Sata(0x0): Access Denied",
     "boot_secure_boot"),
    ("Verification failed: (0x1A) Security Violation", "boot_secure_boot"),
    ("error: bad shim signature.", "boot_secure_boot"),
    ("No bootable device.  Retrying in 60 seconds.", "boot_no_device"),
    ("BdsDxe: No bootable option or device was found.", "boot_no_device"),
    ("[    0.9] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b", "boot_kernel_panic"),
    ("grub rescue> ", "boot_grub"),
    ("grub> ", "boot_grub"),
]  # fmt: skip
PASSED = ["server login: ", "localhost.localdomain login:", "login: ", "Username: ", "SAC>"]
NOTHING = [
    "",
    "Last login: ",
    "Last login: Mon Nov 30 10:00:00 UTC 2026 on ttyS0",
    "systemd-logind.service - User Login Management.",
    "Booting from Hard Disk...",
    "Boot failed: not a bootable disk",  # SeaBIOS goes on with the next one
    "menu: Shell> or grub> or (initramfs)",
    'BdsDxe: failed to load Boot0001 "UEFI PXEv4": Not Found',
    "Welcome to GRUB!",
]


@pytest.mark.parametrize(("line", "code"), FAILED)
@pytest.mark.parametrize("marker", [None, "never printed"])
def test_known_failures(line: str, code: str, marker: str | None) -> None:
    sign = SignReader(marker).read(line)
    assert sign is not None
    assert isinstance(sign.meaning, KnownFailure)
    error = sign.meaning.error(line)
    assert error.code == code
    assert error.fields["seen"] == line


def test_every_code_has_a_line_above() -> None:
    assert {failure.code for _, failure in FAILURES} == {code for _, code in FAILED}
    assert all(CODES[code].cause and CODES[code].remedies for _, code in FAILED)


@pytest.mark.parametrize("line", PASSED)
def test_a_login_prompt_is_a_verdict_unless_a_marker_is_wanted(line: str) -> None:
    sign = SignReader(None).read(line)
    assert sign is not None
    assert sign.meaning is Verdict.LOGIN
    assert SignReader("app is ready").read(line) is None


@pytest.mark.parametrize("line", NOTHING)
def test_other_lines_mean_nothing(line: str) -> None:
    assert SignReader(None).read(line) is None


def test_the_first_sign_counts_and_its_line_is_completed() -> None:
    console = WatchedConsole(SignReader("READY").read)
    sign = console.feed(b"boot\r\nREADY")
    assert sign is not None
    assert not console.is_complete
    sign = console.feed(b" at last\r\n(initramfs) ")
    assert sign is not None
    assert console.is_complete
    assert (sign.meaning, sign.line) == (Verdict.MARKER, "READY at last")


def test_a_prompt_in_two_pieces_is_found() -> None:
    console = WatchedConsole(SignReader(None).read)
    assert console.feed(b"\r\nserver lo") is None
    assert console.feed(b"gin: ") is not None


def test_repetitions_are_no_news() -> None:
    console = WatchedConsole(SignReader("READY").read)
    told = []
    for piece in (
        b"starting\r\nalive\r\n",
        b"al",
        b"ive\r\n",
        b"alive\r\n",
        b"alive 2\r\n",
        b"\x1b[0m",
        b"alive, and more",
    ):
        console.feed(piece)
        told.append(console.has_news)
    assert told == [True, False, False, False, True, False, True]
