"""Signs of a boot: what a line of a console says about how far it came.

::

    line ──> SignReader.read ──> the marker, a login prompt      the guest is up
                             ──> a KnownFailure                  it will not come up by itself
                             ──> nothing                         go on

The texts are those of the programs themselves: SeaBIOS (``boot.c``), EDK II (``BdsBoot.c``, the shell), shim, GRUB, the
Linux kernel, initramfs-tools, dracut, systemd, FreeBSD's ``vfs_mountroot.c``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hypersdk.errors import IntegrityError, register
from hypersdk.kvm.consoletext import ConsoleText
from hypersdk.model.guestplan import Verdict
from hypersdk.remedies import SetOption
from hypersdk.text import clean

BOOT_UNPROVED: Final = register(
    "boot_unproved",
    "The guest was started, and in time nothing showed that it came up: no expected text or login prompt on its first"
    " serial port, no answer of a guest agent.",
    "Look at the screenshot and the serial log. A guest without a serial console and without an agent needs a longer"
    " time, so that a screen that does not change can be taken for a sign.",
)
BOOT_NO_ROOT: Final = register(
    "boot_no_root",
    "The kernel started and found no root file system: its initramfs has no driver for the bus of the disk, or the root"
    " device has another name than in vSphere.",
    "Convert the guest: the conversion puts the drivers into the initramfs. Without a conversion, choose the disk bus"
    " that the guest had in vSphere (sata, ide or scsi).",
    "If it was converted, check the guest's root device: the boot loader and /etc/fstab must name it by UUID or label.",
)
BOOT_EMERGENCY: Final = register(
    "boot_emergency_shell",
    "The kernel started, and the guest stopped in an emergency shell: a file system or a device is missing, or the root"
    " file system is damaged.",
    "Read the serial log from its end. Often a line of /etc/fstab names a device that exists only in vSphere.",
)
BOOT_EFI_SHELL: Final = register(
    "boot_efi_shell",
    "The EFI firmware found no boot loader and started its shell. Boot entries in the source's NVRAM are not copied,"
    " so the disk needs the loader at EFI/BOOT/BOOTX64.EFI.",
    "Convert the guest: the conversion adds that loader. Or copy the guest's own loader there on its EFI partition.",
    "If the guest boots by BIOS, the firmware was chosen wrongly.",
)
BOOT_SECURE_BOOT: Final = register(
    "boot_secure_boot",
    "Secure boot is on, and the boot loader or the kernel has no signature that the firmware trusts.",
    "Install the distribution's signed loader (shim-signed, grub-efi-amd64-signed) in the source machine, and"
    " export it again.",
    SetOption("secure_boot", False),
)
BOOT_NO_DEVICE: Final = register(
    "boot_no_device",
    "The firmware found no disk to boot from.",
    "Check which disk has the boot loader, and the firmware: a disk that was installed for EFI does not boot by BIOS,"
    " nor the other way round.",
)
BOOT_KERNEL_PANIC: Final = register(
    "boot_kernel_panic",
    "The guest's kernel started and crashed.",
    "Read the serial log from its end. Another CPU model or machine type can help with an old kernel.",
)
BOOT_GRUB: Final = register(
    "boot_grub",
    "The boot loader GRUB started and did not find its configuration or the kernel.",
    "Reinstall GRUB in the guest, or check that every disk of the guest was landed: /boot may be on another one.",
)

REST_OF_LINE_S: Final = 0.5
"""After a sign, its line and what explains it may still be on its way."""


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """A state from which no boot gets further. ``text`` says what was seen, as a clause."""

    code: str
    text: str

    def error(self, line: str) -> IntegrityError:
        """The error; ``line`` is where it was seen."""
        return IntegrityError(f"the guest did not boot: {self.text}", code=self.code, seen=clean(line, 400))


_NO_ROOT: Final = KnownFailure(BOOT_NO_ROOT, "it found no root file system")
_EMERGENCY: Final = KnownFailure(BOOT_EMERGENCY, "it stopped in an emergency shell")
_NO_DEVICE: Final = KnownFailure(BOOT_NO_DEVICE, "the firmware found no disk to boot from")
_DENIED: Final = KnownFailure(BOOT_SECURE_BOOT, "secure boot refused its boot loader")
FAILURES: Final[tuple[tuple[re.Pattern[str], KnownFailure], ...]] = tuple(
    (re.compile(pattern), failure)
    for pattern, failure in (
        (r"^\(initramfs\)|^mountroot>", _NO_ROOT),
        (r"Kernel panic - not syncing: (?:VFS|No working init|Requested init)", _NO_ROOT),
        (r"Give root password for maintenance|^Enter root password for system maintenance", _EMERGENCY),
        (
            r"^dracut:/#|^:/# ?$|You are in emergency mode|Entering emergency mode|[Ee]ntering emergency shell",
            _EMERGENCY,
        ),
        (r"Security Violation|^BdsDxe: failed to (?:load|start) .*: Access Denied$", _DENIED),
        (r"bad shim signature|[Pp]rohibited by secure boot policy", _DENIED),
        (r"^(?:FS\d+:\\?|Shell)> ?$", KnownFailure(BOOT_EFI_SHELL, "the EFI firmware started its shell")),
        (
            r"^(?:No bootable device|Missing operating system|(?:NTLDR|BOOTMGR) is missing)",
            _NO_DEVICE,
        ),
        (r"^BdsDxe: No bootable option or device was found", _NO_DEVICE),
        (r"Kernel panic - not syncing|^panic: ", KnownFailure(BOOT_KERNEL_PANIC, "its kernel crashed")),
        (r"^grub(?: rescue)?> ?$", KnownFailure(BOOT_GRUB, "the boot loader stopped at its prompt")),
    )
)
"""The first pattern that is found in a line says what it means."""

_LOGIN: Final = re.compile(r"(?:^|(?<!Last)\s)[Ll]ogin: ?$|^(?:Username|User name): ?$|^SAC> ?$")
"""Prompts of getty and its like, of appliances, and of the emergency management console of Windows."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a ``line`` showed: a verdict or a failure."""

    meaning: Verdict | KnownFailure
    line: str


class SignReader:
    """Looks for signs. With a ``marker`` only that text shows that the guest is up; without one a login prompt does."""

    def __init__(self, marker: str | None) -> None:
        self._marker = marker

    def read(self, line: str) -> Sign | None:
        """The sign in a line of the guest's own console."""
        if self._marker is None:
            return Sign(Verdict.LOGIN, line) if _LOGIN.search(line) else self.failure(line)
        return Sign(Verdict.MARKER, line) if self._marker in line else self.failure(line)

    def failure(self, line: str) -> Sign | None:
        """A known failure in a line of any console, also the firmware's own."""
        found = (failure for pattern, failure in FAILURES if pattern.search(line))
        return next((Sign(failure, line) for failure in found), None)


_REMEMBERED_LINES: Final = 100


class WatchedConsole:
    """A console and the first sign on it. ``has_news``: its last piece had text that was not seen shortly before; a
    guest that repeats itself is not booting any more."""

    def __init__(self, read: Callable[[str], Sign | None]) -> None:
        self._read = read
        self._console = ConsoleText()
        self.sign: Sign | None = None
        self.is_complete = False
        self.has_news = False
        self._seen: deque[str] = deque(maxlen=_REMEMBERED_LINES)

    @property
    def text(self) -> str:
        """See ``ConsoleText.text``."""
        return self._console.text

    def feed(self, data: bytes) -> Sign | None:
        """Takes more bytes; returns the first sign so far. Once its line is complete, ``is_complete`` is set."""
        *lines, unfinished = self._console.feed(data)
        self.has_news = any(map(self._is_new, (*lines, unfinished)))
        self._seen.extend(lines)
        for line in lines:
            self._take(line, complete=True)
        self._take(unfinished, complete=False)
        return self.sign

    def _is_new(self, line: str) -> bool:
        """An unfinished line is known if it is the beginning of a known one."""
        return bool(line) and not any(seen.startswith(line) for seen in self._seen)

    def _take(self, line: str, *, complete: bool) -> None:
        if self.sign is None:
            self.sign = self._read(line)
            self.is_complete = complete and self.sign is not None
        elif not self.is_complete and line.startswith(self.sign.line):
            self.sign, self.is_complete = replace(self.sign, line=line), complete
