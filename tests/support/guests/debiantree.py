"""The root tree of the Debian guests: packages, and the files of ``debian/``: an init of 60 lines in place of systemd,
settings of a small initramfs (``early`` comes before the packages are configured). Made in about a minute.

``root``/``test`` logs in on the serial port. The power button and the guest agent work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.guests.shelf import from_shelf
from tests.support.tools import run_tool

HERE: Final = Path(__file__).parent
FILES: Final = HERE / "debian"
SUITE: Final = "bookworm"
PACKAGES: Final = (
    "linux-image-cloud-amd64", "initramfs-tools", "busybox", "kmod", "udev", "grub2-common", "grub-pc-bin", "lvm2",
    "cryptsetup-initramfs", "qemu-guest-agent",
)  # fmt: skip
LEFT_OUT: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
LOGIN: Final = ("root", "test")


def root_tree() -> Path:
    """The tree on the shelf; it is shared, so take a copy."""
    recipe = (HERE / "debiantree.py", *sorted(path for path in FILES.rglob("*") if path.is_file()))
    return from_shelf("debian-tree", recipe, _install)


def _install(tree: Path) -> None:
    run_tool(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--components=main",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        '--aptopt=Acquire::Languages "none"',
        f"--essential-hook=sync-in '{FILES}/early' /",
        f"--customize-hook=sync-in '{FILES}/late' /",
        f'--customize-hook=echo {":".join(LOGIN)} | chroot "$1" chpasswd',
        SUITE,
        tree,
        timeout_s=600,
    )
