"""A small Debian on several layouts of its disks. Made as root, without loop devices and without mounts.

All have the root tree of ``debiantree.py``; a disk of it takes some seconds. virt-v2v accepts them. The initramfs has
the drivers of VMware and of KVM, except with ``no-virtio``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hypersdk.units import MiB
from tests.support.guests.appliance import guestfish
from tests.support.guests.debiantree import root_tree
from tests.support.guests.guest import MARKER, Guest
from tests.support.guests.shelf import from_shelf, package_versions
from tests.support.tools import run_tool

HERE: Final = Path(__file__).parent
GRUB: Final = Path("/usr/lib/grub")
MEMORY_MB: Final = 512

ROOT_MIB: Final = 512
BOOT_MIB: Final = 96
ESP_MIB: Final = 32
DATA_MIB: Final = 64
LUKS_HEADER_MIB: Final = 2
LVM_HEADER_MIB: Final = 1
ROOT_UUID: Final = "2b2a7c40-5a52-4f0c-9d5e-000000000001"
BOOT_UUID: Final = "2b2a7c40-5a52-4f0c-9d5e-000000000002"
DATA_UUID: Final = "2b2a7c40-5a52-4f0c-9d5e-000000000003"
LUKS_UUID: Final = "2b2a7c40-5a52-4f0c-9d5e-000000000004"
ESP_ID: Final = "B007-0001"
PASSPHRASE: Final = "open sesame"
VOLUME_GROUP: Final = "guest"
LVM_MIB: Final = LVM_HEADER_MIB + ROOT_MIB
LVM_COMMANDS: Final = (
    "run",
    "pvcreate /dev/sda",
    f"vgcreate {VOLUME_GROUP} /dev/sda",
    f"lvcreate-free root {VOLUME_GROUP} 100",
)
"""For guestfish: a physical volume whose one logical volume begins behind its header."""
FEATURES_GRUB_LACKS: Final = "^metadata_csum_seed,^orphan_file"
KERNEL_OPTIONS: Final = "norandmaps no_timer_check console=tty0 console=ttyS0,115200"
"""Without ``norandmaps`` software emulation translates shared pages anew for each program. On a busy machine the
emulated timer comes too late for the check that ``no_timer_check`` leaves out: "IO-APIC + timer doesn't work"."""
NOT_VIRTIO: Final = ("vmw_pvscsi", "ata_piix", "sd_mod")

BIOS: Final = ("bios", "no-virtio")

Layout = Literal["bios", "no-virtio", "lvm", "luks", "uefi", "uefi-no-fallback"]


def debian_guest(layout: Layout) -> Guest:
    """The guest on the shelf.

    - ``bios``: one ext4 on an MBR disk.
    - ``no-virtio``: the same with an initramfs that has no virtio drivers, as on a VMware guest: unconverted it ends in
      the initramfs shell when its disk is on virtio.
    - ``uefi``: GPT, the loader as ``EFI/debian/grubx64.efi`` and ``EFI/BOOT/BOOTX64.EFI``.
    - ``uefi-no-fallback``: the same without ``EFI/BOOT``, as Debian's installer leaves it.
    - ``luks``: as ``uefi``, without virtio drivers as above, ``/boot`` on a partition and the root file system in a
      LUKS1 volume that ``passphrase`` opens (the initramfs has it too, so that the guest boots by itself).
    - ``lvm``: as ``uefi-no-fallback``, without virtio drivers as above, ``/boot`` on a partition, the root file system
      on a logical volume, and an ext4 on a second disk, mounted on ``/srv``.
    """
    recipe = (str(root_tree()), layout, package_versions(*_packages(layout)), HERE / "debian.py")
    folder = from_shelf(f"debian-{layout}", recipe, lambda folder: _make(layout, folder))
    return Guest(
        f"debian-{layout}",
        tuple(sorted(folder.iterdir())),
        MARKER,
        MEMORY_MB,
        firmware="bios" if layout in BIOS else "efi",
        passphrase=PASSPHRASE if layout == "luks" else None,
    )


def _packages(layout: Layout) -> tuple[str, ...]:
    return ("e2fsprogs", "grub-pc-bin" if layout in BIOS else "grub-efi-amd64-bin")


@dataclass(frozen=True, slots=True)
class _Work:
    """Disks in the making: a copy of the tree, the folder of the disks, and one for what is needed meanwhile."""

    tree: Path
    disks: Path
    temporary: Path

    @property
    def kernel(self) -> str:
        """The version of the guest's kernel."""
        (modules,) = (self.tree / "lib/modules").iterdir()
        return modules.name

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the guest."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def add_to_fstab(self, line: str) -> None:
        """Adds a line to the guest's ``/etc/fstab``."""
        with (self.tree / "etc/fstab").open("a") as fstab:
            fstab.write(f"{line}\n")

    def disk(self, number: int, mib: int) -> Path:
        """An empty disk of the guest."""
        return _empty(self.disks / f"disk{number}.raw", mib)

    def scratch(self, name: str, mib: int) -> Path:
        """An empty file that is removed afterwards."""
        return _empty(self.temporary / name, mib)


def _empty(path: Path, mib: int) -> Path:
    path.touch()
    os.truncate(path, mib * MiB)
    return path


def _make(layout: Layout, disks: Path) -> None:
    disks.mkdir()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        tree = Path(temporary) / "tree"
        run_tool("cp", "-a", "--reflink=auto", root_tree(), tree)
        LAYOUTS[layout](_Work(tree, disks, Path(temporary)))


def _bios(work: _Work) -> None:
    work.add_to_fstab(f"UUID={ROOT_UUID} / ext4 errors=remount-ro,noatime 0 1")
    _grub_files(work, "i386-pc", "part_msdos", ROOT_UUID, "/boot", f"UUID={ROOT_UUID}")
    disk = work.disk(1, 1 + ROOT_MIB)
    _partition(disk, "label: dos\nstart=1MiB, type=83, bootable\n")
    _fill_ext4(disk, 1, ROOT_MIB, work.tree, ROOT_UUID)
    _install_grub(disk, "/boot/grub")


def _no_virtio(work: _Work) -> None:
    _without_virtio(work)
    _bios(work)


def _without_virtio(work: _Work) -> None:
    work.write("etc/initramfs-tools/modules", "\n".join(NOT_VIRTIO) + "\n")
    _update_initramfs(work)


def _lvm(work: _Work) -> None:
    work.add_to_fstab(f"/dev/{VOLUME_GROUP}/root / ext4 errors=remount-ro,noatime 0 1")
    work.add_to_fstab(f"UUID={DATA_UUID} /srv ext4 nofail 0 2")
    _without_virtio(work)
    disk, start = _with_boot_partition(work, f"/dev/{VOLUME_GROUP}/root", LVM_MIB, "lvm")
    volume = from_shelf(
        "lvm-volume", LVM_COMMANDS, lambda volume: guestfish(f"sparse {volume} {LVM_MIB}M", *LVM_COMMANDS)
    )
    _copy_into(volume, disk, start)
    _fill_ext4(disk, start + LVM_HEADER_MIB, ROOT_MIB, work.tree, ROOT_UUID)
    with tempfile.TemporaryDirectory() as data:
        (Path(data) / "data.txt").write_text("on the second disk\n")
        _fill_ext4(work.disk(2, DATA_MIB), 0, DATA_MIB, Path(data), DATA_UUID)


def _luks(work: _Work) -> None:
    """qemu-img fills the volume: it knows LUKS, and needs no device mapper.

    ``/etc/fstab`` names the root file system by its UUID: libguestfs gives opened volumes other names than the guest.
    """
    work.add_to_fstab(f"UUID={ROOT_UUID} / ext4 errors=remount-ro,noatime 0 1")
    work.write("etc/crypttab", f"root UUID={LUKS_UUID} /etc/keys/root.key luks,initramfs\n")
    work.write("etc/keys/root.key", PASSPHRASE)
    work.write("etc/cryptsetup-initramfs/conf-hook", "KEYFILE_PATTERN=/etc/keys/*.key\n")
    _without_virtio(work)
    disk, start = _with_boot_partition(work, "/dev/mapper/root", LUKS_HEADER_MIB + ROOT_MIB, "linux")
    _add_fallback(disk)
    key = work.tree / "etc/keys/root.key"
    plain, volume = work.scratch("plain", ROOT_MIB), work.scratch("volume", LUKS_HEADER_MIB + ROOT_MIB)
    _fill_ext4(plain, 0, ROOT_MIB, work.tree, ROOT_UUID)
    few = ("--pbkdf-force-iterations", "1000")  # the guest opens it under software emulation
    run_tool(
        "cryptsetup", "luksFormat", "--batch-mode", "--type=luks1", *few, f"--uuid={LUKS_UUID}", f"--key-file={key}",
        volume,
    )  # fmt: skip
    secret = ("--object", f"secret,id=key,file={key}")
    target = f"driver=luks,key-secret=key,file.driver=file,file.filename={volume}"
    run_tool("qemu-img", "convert", "-n", *secret, "--target-image-opts", "-f", "raw", plain, target)
    _copy_into(volume, disk, start)


def _with_boot_partition(work: _Work, root: str, mib: int, type_: str) -> tuple[Path, int]:
    """A disk with an EFI system partition, ``/boot``, and a third partition of ``mib`` MiB for ``root``; also where
    that begins, in MiB."""
    work.add_to_fstab(f"UUID={BOOT_UUID} /boot ext4 noatime 0 2")
    start = 1 + ESP_MIB + BOOT_MIB
    disk = work.disk(1, start + mib + 1)  # the second table of partitions is at the end
    partitions = f"size={BOOT_MIB}MiB, type=linux\nsize={mib}MiB, type={type_}\n"
    _with_esp(work, disk, partitions, BOOT_UUID, "", root)
    _fill_ext4(disk, 1 + ESP_MIB, BOOT_MIB, work.tree / "boot", BOOT_UUID)
    shutil.rmtree(work.tree / "boot")
    (work.tree / "boot").mkdir()
    return disk, start


def _uefi(work: _Work) -> None:
    _uefi_without_fallback(work)
    _add_fallback(work.disks / "disk1.raw")


def _add_fallback(disk: Path) -> None:
    esp = _esp(disk)
    with tempfile.NamedTemporaryFile() as loader:
        run_tool("mcopy", "-n", "-o", *esp, "::/EFI/debian/grubx64.efi", loader.name)
        run_tool("mmd", *esp, "::/EFI/BOOT")
        run_tool("mcopy", *esp, loader.name, "::/EFI/BOOT/BOOTX64.EFI")


def _uefi_without_fallback(work: _Work) -> None:
    work.add_to_fstab(f"UUID={ROOT_UUID} / ext4 errors=remount-ro,noatime 0 1")
    start = 1 + ESP_MIB
    disk = work.disk(1, start + ROOT_MIB + 1)
    _with_esp(work, disk, f"size={ROOT_MIB}MiB, type=linux\n", ROOT_UUID, "/boot", f"UUID={ROOT_UUID}")
    _fill_ext4(disk, start, ROOT_MIB, work.tree, ROOT_UUID)


def _with_esp(work: _Work, disk: Path, partitions: str, boot_uuid: str, boot: str, root: str) -> None:
    """Partitions ``disk`` by GPT, an EFI system partition with grub before ``partitions``. The others: see
    ``_grub_files``."""
    work.add_to_fstab(f"UUID={ESP_ID} /boot/efi vfat umask=0077 0 1")
    (work.tree / "boot/efi").mkdir()
    _grub_files(work, "x86_64-efi", "part_gpt", boot_uuid, boot, root)
    early = work.write("boot/grub/early.cfg", _search(boot_uuid) + f"configfile ($root){boot}/grub/grub.cfg\n")
    loader = work.tree / "boot/grub/grubx64.efi"
    _grub_image("x86_64-efi", loader, "/EFI/debian", "part_gpt", "fat", "all_video", "-c", early)
    _partition(disk, f"label: gpt\nstart=1MiB, size={ESP_MIB}MiB, type=uefi\n{partitions}")
    esp = _esp(disk)
    run_tool("mformat", *esp, "-T", str(ESP_MIB * 2048), "-h", "64", "-s", "32", "-N", ESP_ID.replace("-", ""), "::")
    run_tool("mmd", *esp, "::/EFI", "::/EFI/debian")
    run_tool("mcopy", *esp, loader, "::/EFI/debian/grubx64.efi")
    run_tool("mcopy", *esp, early, "::/EFI/debian/grub.cfg")  # where virt-v2v looks for a boot loader


def _esp(disk: Path) -> tuple[str, str]:
    """Options of mtools for the EFI system partition."""
    return "-i", f"{disk}@@1M"


def _grub_files(work: _Work, platform: str, table: str, boot_uuid: str, boot: str, root: str) -> None:
    """``/boot/grub`` as it lies on the file system ``boot_uuid``, which has the kernel in its folder ``boot``."""
    modules = work.tree / "boot/grub" / platform
    modules.mkdir(parents=True)
    for pattern in ("*.mod", "*.lst"):
        for module in (GRUB / platform).glob(pattern):
            shutil.copy(module, modules)
    work.write(
        "boot/grub/grub.cfg",
        f"""\
set default=0
set timeout=0
insmod {table}
insmod ext2
{_search(boot_uuid)}
menuentry 'Debian GNU/Linux' {{
\tlinux {boot}/vmlinuz-{work.kernel} root={root} ro {KERNEL_OPTIONS}
\tinitrd {boot}/initrd.img-{work.kernel}
}}
""",
    )


def _search(uuid: str) -> str:
    return f"search --no-floppy --fs-uuid --set=root {uuid}\n"


def _install_grub(disk: Path, prefix: str) -> None:
    """Writes grub's boot sector, and its core into the gap before the first partition, as grub-install does."""
    with tempfile.NamedTemporaryFile() as core:
        _grub_image("i386-pc", Path(core.name), f"(hd0,msdos1){prefix}", "part_msdos", "biosdisk")
        sector = GRUB / "i386-pc/boot.img"
        run_tool("dd", f"if={sector}", f"of={disk}", "bs=440", "count=1", "conv=notrunc", "status=none")
        run_tool("dd", f"if={core.name}", f"of={disk}", "bs=512", "seek=1", "conv=notrunc", "status=none")


def _grub_image(platform: str, image: Path, prefix: str, *more: str | Path) -> None:
    run_tool(
        "grub-mkimage", "-d", GRUB / platform, "-O", platform, "-p", prefix, "-o", image,
        "ext2", "normal", "linux", "search", "search_fs_uuid", "configfile", "serial", "terminal", "echo", *more,
    )  # fmt: skip


def _update_initramfs(work: _Work) -> None:
    run_tool("chroot", work.tree, "update-initramfs", "-u", timeout_s=300)


def _partition(disk: Path, script: str) -> None:
    run_tool("sfdisk", "--quiet", disk, stdin=script)


def _fill_ext4(disk: Path, start_mib: int, mib: int, content: Path, uuid: str) -> None:
    """An ext4 of ``mib`` MiB with ``content``, that far into the disk."""
    run_tool(
        "mke2fs", "-q", "-F", "-t", "ext4", "-O", FEATURES_GRUB_LACKS, "-U", uuid, "-d", content,
        "-E", f"offset={start_mib * MiB}", disk, f"{mib}M",
    )  # fmt: skip


def _copy_into(part: Path, disk: Path, start_mib: int) -> None:
    run_tool("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start_mib}", "conv=notrunc,sparse", "status=none")


LAYOUTS: Final[dict[Layout, Callable[[_Work], None]]] = {
    "bios": _bios,
    "no-virtio": _no_virtio,
    "lvm": _lvm,
    "luks": _luks,
    "uefi": _uefi,
    "uefi-no-fallback": _uefi_without_fallback,
}
