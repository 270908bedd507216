"""The failures of virt-v2v that are known: from its text to a code with a cause and remedies.

The texts are those of virt-v2v 1.42 to 2.10 and libguestfs 1.44 to 1.58. Another one ends as ``conversion_failed`` with
the text itself.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import register
from hypersdk.guest.faults import NOT_CONVERTED, ConversionError
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.text import clean

MAX_TAIL: Final = 64 * 1024
"""How much of the log's end is searched, in bytes."""

NO_SYSTEM: Final = register(
    "guest_not_recognized",
    "No operating system was found on the disks.",
    "Check that all disks of the machine were exported, the one with the system among them.",
    NOT_CONVERTED,
)
NOT_INSTALLED: Final = register(
    "guest_not_installed",
    "The disks hold an installer or a live system, not an installed operating system.",
    NOT_CONVERTED,
)
KEY_NEEDED: Final = register(
    "guest_key_needed",
    "A disk is encrypted with LUKS, and no given key opens it.",
    First("put the passphrase of the encrypted disk into the first line of a file"),
    SetOption("key", "FILE"),
)
MULTI_BOOT: Final = register(
    "guest_multi_boot",
    "The disks hold more than one operating system, and nothing says which one is to be converted.",
    SetOption("root", "DEVICE"),
    NOT_CONVERTED,
)
NO_SUCH_ROOT: Final = register(
    "guest_no_such_root",
    "The device that was chosen as root holds no operating system.",
    SetOption("root", "DEVICE"),
)
HIBERNATED: Final = register(
    "guest_hibernated",
    "A file system of the guest can only be mounted read-only: Windows was hibernated or used Fast Startup, or the "
    "guest was not shut down cleanly.",
    "Start the source machine, disable Fast Startup (Windows: powercfg /h off), shut it down, and export it again.",
)
DAMAGED: Final = register(
    "guest_filesystem_damaged",
    "A file system of the guest has errors.",
    "Repair it in the source machine, shut the machine down, and export it again.",
)
UNSUPPORTED: Final = register(
    "guest_unsupported",
    "virt-v2v cannot convert this operating system.",
    NOT_CONVERTED,
)
NO_BOOT_LOADER: Final = register(
    "guest_no_boot_loader",
    "No boot loader configuration that virt-v2v understands was found in the guest.",
    "Check that the disk with /boot was exported, and that its boot loader is GRUB.",
    NOT_CONVERTED,
)
NO_KERNEL: Final = register(
    "guest_no_kernel",
    "No kernel that can boot on KVM was found in the guest.",
    "Install the distribution's standard kernel in the source machine, and export it again.",
)
INITRAMFS: Final = register(
    "guest_initramfs_failed",
    "The guest's initramfs could not be built anew with the virtio drivers.",
    "Check in the source machine that update-initramfs or dracut works, then export it again.",
)
NO_ROOM: Final = register(
    "guest_no_space",
    "A file system of the guest is too full for the conversion.",
    "Free space in the source machine, at least 100 MB on / and 50 MB on /boot, and export it again.",
)
VIRT_TOOLS: Final = register(
    "virt_tools_missing",
    "The programs that run scripts at the first boot of Windows (rhsrvany.exe) are not installed on this host.",
    "Install them in /usr/share/virt-tools, or set VIRT_TOOLS_DATA_DIR to the folder that holds them.",
    Retry(),
)
NO_VIRTIO_WIN: Final = register(
    "no_virtio_win",
    "virtio drivers for this version of Windows were not found on this host: the guest would only boot from emulated "
    "SATA disks.",
    First("install the package virtio-win, or set VIRTIO_WIN to the ISO image of the virtio-win project"),
    Retry(),
    SetOption("disk_bus", "sata"),
)
HOST_KERNEL: Final = register(
    "appliance_kernel_unreadable",
    "The appliance that converts guests is made from this host's kernel, which this user cannot read (Ubuntu installs "
    "/boot/vmlinuz-* with mode 0600) or which is missing.",
    First("make the kernel readable: sudo chmod 0644 /boot/vmlinuz-*"),
    Retry(),
)
HOST_SPACE: Final = register(
    "appliance_no_space",
    "The folder for the appliance and its temporary files has less than 1 GB of free space.",
    First("free space there, or set LIBGUESTFS_CACHEDIR to a folder on another file system"),
    Retry(),
)
APPLIANCE: Final = register(
    "appliance_failed",
    "The appliance that converts guests did not start.",
    First("run libguestfs-test-tool to see why"),
    Retry(),
    SetOption("acceleration", "tcg"),
)
KILLED: Final = register(
    "conversion_killed",
    "virt-v2v or its appliance was killed while it converted the guest, mostly by the kernel for lack of memory. The"
    " exported image is unchanged.",
    First("free about 1.5 GB of memory, or convert fewer guests at a time: `journalctl -k` names what was killed"),
    Retry(),
)
DISK_LOST: Final = register(
    "guest_disk_lost",
    "qemu-nbd, through which virt-v2v has the images open, ended while the guest was converted, or a drive failed. The"
    " exported image is unchanged.",
    First("look for killed processes and failing drives in the kernel's log, with `journalctl -k`"),
    Retry(),
)
NBD: Final = register(
    "guest_nbd_failed",
    "qemu-nbd or nbdkit, through which virt-v2v opens the images, did not start.",
    "Check that nbdkit, qemu-nbd and nbdinfo are installed.",
    Retry(),
)
IN_USE: Final = register(
    "image_in_use",
    "Another program has the image open: a running guest, a backup, or a qemu-nbd that was left over.",
    First("end that program"),
    Retry(),
)


_DISK_ERROR: Final = r"(?:I/O error|critical [a-z ]+ error), dev [sv]d[a-z]+, sector"
"""What the appliance's kernel writes about a disk (``blk_print_req_error``)."""


@dataclass(frozen=True, slots=True)
class _Known:
    code: str
    pattern: re.Pattern[str]


def _known(code: str, *patterns: str) -> _Known:
    return _Known(code, re.compile("|".join(patterns), re.IGNORECASE))


_MESSAGES: Final = (
    _known(KEY_NEEDED, r"could not read key from user", r"key to open LUKS", r"cryptsetup_open.*passphrase"),
    _known(NOT_INSTALLED, r"not an installed operating system"),
    _known(NO_SYSTEM, r"inspection could not detect", r"no root device found", r"no operating system was found"),
    _known(MULTI_BOOT, r"multi-boot operating systems are not supported"),
    _known(NO_SUCH_ROOT, r"root device \S+ not found"),
    _known(HIBERNATED, r"Hibernation or Fast Restart", r"mounted read-only, even though", r"unsafe state.*Windows"),
    _known(DAMAGED, r"detected errors on the", r"fsck.*(?:failed|errors)", r"structure needs cleaning"),
    _known(UNSUPPORTED, r"unable to convert this guest type"),
    _known(
        NO_BOOT_LOADER, r"no bootloader detected", r"kernels were found in the bootloader",
        r"find grub\S* entry for kernel", r"not under grub tree", r"failed to find grub2?-mkconfig",
    ),
    _known(NO_KERNEL, r"only Xen kernels", r"no installed kernel packages"),
    _known(INITRAMFS, r"rebuild initr", r"update-initramfs.*(?:failed|error)", r"dracut.*(?:failed|error)"),
    _known(NO_ROOM, r"not enough free space for conversion", r"not enough available inodes", r"no space left on"),
    _known(VIRT_TOOLS, r"rhsrvany\.exe.*(?:missing|not found|unable)", r"missing.*rhsrvany", r"pnp_wait\.exe"),
    _known(HOST_SPACE, r"insufficient free space in the conversion server"),
    _known(HOST_KERNEL, r"supermin.*kernel", r"/boot/vmlinu\S*.*permission denied", r"cannot open '/boot/"),
    _known(IN_USE, r'failed to get (?:shared )?"\w+" lock'),
    _known(KILLED, r"killed by signal \d"),
    _known(NBD, r"(?:nbdkit|qemu-nbd).*(?:not installed|did not start)", r"nbdinfo.*not found", r"nbd_connect"),
    _known(APPLIANCE, r"guestfs_launch failed", r"appliance closed the connection", r"\bsupermin\b"),
)  # fmt: skip
_IN_LOG: Final = (
    _known(DISK_LOST, _DISK_ERROR),
    _known(
        HOST_KERNEL, r"supermin: .*(?:kernel|/boot/)", r"cp: cannot open '/boot/vmlinu", r"/boot/vmlinu\S*: Permission"
    ),
    _known(IN_USE, r'Failed to get (?:shared )?"\w+" lock'),
    _known(NBD, r"nbdinfo: (?:command )?not found"),
)
_BY_SIGNAL: Final = 128
"""What the supervisor adds to the signal that ended virt-v2v."""
_KEY_WANTED: Final = re.compile(r"crypto_LUKS")
_ERROR_LINE: Final = re.compile(
    r"^(?:\S*/)?(?:virt-v2v[\w-]*|guestfish|libguestfs): (?:error: )?((?<=error: ).+|could not (?:read|find) key .+)$",
    re.MULTILINE,
)
_ROOT: Final = re.compile(r"^fs: (/dev/\S+) \(\S*\) role: root\n((?: +.*\n)*)", re.MULTILINE)
_ROOT_FACT: Final = re.compile(r"^ +(type|distro|product_name): (.+)$", re.MULTILINE)
_LETTER: Final = re.compile(r"[^\W\d_]")


def failure(errors: Sequence[str], log: Path, status: int) -> ConversionError:
    """The error for a run that ended with ``status`` and these error messages."""
    tail = log_tail(log)
    texts = [*errors, *(clean(" ".join(text.split()), 2000) for text in _ERROR_LINE.findall(tail)[-1:])]
    code = _code_of(texts, tail)
    if not texts and status > _BY_SIGNAL:
        return ConversionError(f"virt-v2v was killed by signal {status - _BY_SIGNAL}", code=KILLED, log=str(log))
    reason = texts[0] if texts else f"virt-v2v ended with status {status}"
    facts: dict[str, Any] = {"log": str(log), "status": status}
    if code == MULTI_BOOT and (roots := _roots(tail)):
        listed = ", ".join(f"{device} ({name})" for device, name in roots.items())
        reason, facts["roots"] = f"the disks hold several operating systems: {listed}", roots
    return ConversionError(reason, code=code, **facts)


def check_disks(log: Path) -> None:
    """Raises ConversionError ``guest_disk_lost`` where the appliance's kernel had an error of a disk: virt-v2v ends
    with status 0 also where the last data were not written."""
    with log.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            found = re.search(_DISK_ERROR.encode(), whole)
            line = found[0].decode() if found else ""
    if line:
        raise ConversionError(f"a disk of the guest could not be read or written: {line}", code=DISK_LOST, log=str(log))


def _roots(tail: str) -> dict[str, str]:
    """The devices with an operating system, and its name, as libguestfs lists them in its log."""
    found = {}
    for device, facts in _ROOT.findall(tail.replace("\r", "")):  # it came over the appliance's console
        known = dict(_ROOT_FACT.findall(facts))
        product, distro = known.get("product_name", ""), known.get("distro") or known.get("type", "unknown")
        found[clean(device, 200)] = clean(product if _LETTER.search(product) else f"{distro} {product}".strip(), 100)
    return found


def _code_of(texts: Iterable[str], tail: str) -> str | None:
    in_messages = (known.code for text in texts for known in _MESSAGES if known.pattern.search(text))
    code = next((known.code for known in _IN_LOG if known.pattern.search(tail)), None) or next(in_messages, None)
    return KEY_NEEDED if code == NO_SYSTEM and _KEY_WANTED.search(tail) else code


def log_tail(log: Path) -> str:
    """The last part of the log, as text."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - MAX_TAIL))
        return file.read().decode(errors="replace")
