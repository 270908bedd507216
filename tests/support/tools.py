"""Programs that the tests run as independent peers. A missing one fails the test: a skip would hide what was never
proved."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "7z": "p7zip-full",
    "promtool": "prometheus",
    "tmux": "tmux",
    "tar": "tar",
    "virsh": "libvirt-clients",
    "nbdcopy": "libnbd-bin",
    "openssl": "openssl",
    "as": "binutils",
    "ld": "binutils",
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "/usr/sbin/sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "virt-ssh-helper": "libvirt-daemon",
    "setpriv": "util-linux",
    "fdisk": "fdisk",
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.fat": "dosfstools",
    "mkntfs": "ntfs-3g",
    "ntfscp": "ntfs-3g",
    "mkswap": "util-linux",
    "blkid": "util-linux",
    "mformat": "mtools",
    "mmd": "mtools",
    "mcopy": "mtools",
    "cryptsetup": "cryptsetup-bin",
    "dd": "coreutils",
}
_ADMINISTRATORS = "/usr/sbin:/sbin"


def requires(tool: str) -> Path:
    """Where ``tool`` is; fails the test, naming the Debian package, when it is neither on PATH nor among the
    administrators' tools, which PATH has for root only."""
    found = shutil.which(tool) or shutil.which(tool, path=_ADMINISTRATORS)
    if found is None:
        pytest.fail(
            f"{tool} is not installed (Debian package {_PACKAGES.get(tool, tool)}); see scripts/test", pytrace=False
        )
    return Path(found)


def run_tool(tool: str, *args: str | Path, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Standard output of ``tool``, with ``stdin`` as its input; fails the test with all it printed when its exit status
    is not 0."""
    done = subprocess.run(
        [requires(tool), *args],
        capture_output=True,
        text=True,
        errors="replace",
        input=stdin,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(str(arg) for arg in args)
        pytest.fail(f"{tool} {words}: exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
