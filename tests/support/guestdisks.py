"""Disks of guests, made by the real tools: partition tables, file systems, encryption; and what other tools read
there."""

from __future__ import annotations

import base64
import lzma
import os
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from hypersdk.formats.guestdisk import Content, ContentKind, DiskLayout, read_layout
from hypersdk.units import MiB
from tests.support.tools import run_tool

PASSPHRASE: Final = "correct horse"
ESP: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
BIOS_BOOT: Final = "21686148-6449-6E6F-744E-656564454649"
BASIC_DATA: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"


class FileReader:
    """A raw image as a Reader that counts."""

    def __init__(self, path: Path) -> None:
        self._data = path.open("rb", buffering=0)
        self.size = path.stat().st_size
        self.reads = 0
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        """See Reader."""
        assert offset >= 0
        assert offset + length <= self.size
        self.reads += 1
        self.bytes_read += length
        return os.pread(self._data.fileno(), length, offset)

    def close(self) -> None:
        """Closes the file."""
        self._data.close()


class MemoryReader:
    """A disk of ``size`` bytes with some ranges of bytes, as a Reader; all else is zeros."""

    def __init__(self, size: int, ranges: Mapping[int, bytes]) -> None:
        self.size = size
        self._ranges = ranges
        self.reads = 0

    def read(self, offset: int, length: int) -> bytes:
        """See Reader."""
        assert offset >= 0
        assert offset + length <= self.size
        self.reads += 1
        data = bytearray(length)
        for start, piece in self._ranges.items():
            first, last = max(start, offset), min(start + len(piece), offset + length)
            if first < last:
                data[first - offset : last - offset] = piece[first - start : last - start]
        return bytes(data)


def layout_of_file(path: Path) -> DiskLayout:
    """The layout of a raw image."""
    reader = FileReader(path)
    try:
        return read_layout(reader)
    finally:
        reader.close()


def empty(path: Path, size: int) -> Path:
    """A new sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


# --- content of a partition ------------------------------------------------------------------------------------------


def _mke2fs(kind: str) -> Callable[[Path], object]:
    return lambda path: run_tool("mke2fs", "-q", "-t", kind, "-L", f"label-{kind}", path)


def _mkfat(bits: int) -> Callable[[Path], object]:
    return lambda path: run_tool("mkfs.fat", "-F", str(bits), "-n", f"LABEL{bits}", path)


def _luks(version: int, *args: str) -> Callable[[Path], object]:
    fast = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    command = ("luksFormat", "-q", "--type", f"luks{version}", *fast, *args)
    return lambda path: run_tool("cryptsetup", *command, path, "-", stdin=PASSPHRASE)


FILE_SYSTEMS: Final[Mapping[str, tuple[int, Callable[[Path], object]]]] = {
    "ext2": (8 * MiB, _mke2fs("ext2")),
    "ext3": (16 * MiB, _mke2fs("ext3")),
    "ext4": (16 * MiB, _mke2fs("ext4")),
    "xfs": (320 * MiB, lambda path: run_tool("mkfs.xfs", "-q", "-L", "label-xfs", path)),
    "btrfs": (128 * MiB, lambda path: run_tool("mkfs.btrfs", "-q", "-L", "label-btrfs", path)),
    "swap": (4 * MiB, lambda path: run_tool("mkswap", "-q", "-L", "label-swap", path)),
    "swap-64k-pages": (4 * MiB, lambda path: run_tool("mkswap", "-q", "-p", "65536", path)),
    "fat12": (8 * MiB, _mkfat(12)),
    "fat16": (64 * MiB, _mkfat(16)),
    "fat32": (64 * MiB, _mkfat(32)),
    "fat-by-mtools": (64 * MiB, lambda path: make_fat(path)),
    "ntfs": (16 * MiB, lambda path: run_tool("mkntfs", "-q", "-F", "-L", "label-ntfs", path)),
    "luks1": (16 * MiB, _luks(1)),
    "luks2": (32 * MiB, _luks(2, "--label", "label-luks")),
    "iso9660": (0, lambda path: run_tool("genisoimage", "-quiet", "-V", "LABELISO", "-o", path, __file__)),
}
"""By name: the size in bytes, and what makes it in an empty file of that size."""


def make_content(path: Path, name: str) -> Path:
    """One of ``FILE_SYSTEMS`` as a file of its own."""
    size, make = FILE_SYSTEMS[name]
    make(empty(path, size))
    return path


def make_fat(path: Path, *folders: str, files: Sequence[str] = (), options: Sequence[str] = ()) -> Path:
    """A FAT by mtools in the existing file, with folders and small files."""
    sectors = str(path.stat().st_size // 512)
    run_tool("mformat", "-i", path, "-T", sectors, "-h", "64", "-s", "32", "-v", "LABELMT", *options, "::")
    for folder in folders:
        run_tool("mmd", "-i", path, f"::/{folder}")
    for file in files:
        run_tool("mcopy", "-i", path, __file__, f"::/{file}")
    return path


def blkid(path: Path) -> dict[str, str]:
    """What blkid reads in a file."""
    lines = run_tool("blkid", "-p", "-o", "export", path).splitlines()
    return dict(line.split("=", 1) for line in lines)


# --- partitions ------------------------------------------------------------------------------------------------------


def partition(path: Path, script: str, *, sector: int = 512) -> Path:
    """Writes a partition table by a script of sfdisk; fdisk knows other sectors than those of 512 bytes."""
    if sector == 512:
        run_tool("sfdisk", "-q", path, stdin=script)
        return path
    written = path.with_suffix(".sfdisk")
    written.write_text(script)
    run_tool("fdisk", "-b", str(sector), path, stdin=f"I\n{written}\nw\n")
    return path


def partitions_of(path: Path, *, sector: int = 512) -> list[tuple[int, int]]:
    """``(start, size)`` in bytes of all partitions, by fdisk."""
    told = run_tool("fdisk", "-b", str(sector), "-l", "-o", "Start,Sectors", path)
    lines = told.partition("Sectors\n")[2].split("\n")
    return [(int(start) * sector, int(count) * sector) for start, count in (line.split() for line in lines if line)]


def put(path: Path, offset: int, content: bytes | Path) -> None:
    """Writes bytes, or a file's data without its holes, into a disk."""
    if isinstance(content, bytes):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(content)
        return
    options = ("conv=notrunc,sparse", "oflag=seek_bytes", "bs=64K", "status=none")
    run_tool("dd", f"if={content}", f"of={path}", f"seek={offset}", *options)


def make_uefi_disk(folder: Path, *loaders: str, root: str = "ext4", name: str = "disk.raw") -> Path:
    """A GPT disk with an EFI system partition that holds ``loaders`` and a partition with ``root``."""
    disk = empty(folder / name, 64 * MiB)
    partition(disk, f"label: gpt\nsize=32M, type={ESP}\ntype={LINUX}\n")
    folders = sorted({"/".join(path.split("/")[:depth]) for path in loaders for depth in range(1, path.count("/") + 1)})
    esp = make_fat(empty(folder / "esp.fat", 32 * MiB), *folders, files=loaders)
    put(disk, 1 * MiB, esp)
    put(disk, 33 * MiB, make_content(folder / f"root.{root}", root))
    return disk


def make_bios_disk(folder: Path, *, code: bytes = b"\xeb\x63", root: str = "ext4", name: str = "disk.raw") -> Path:
    """An MBR disk with ``code`` in its first sector and one active partition with ``root``."""
    disk = empty(folder / name, 64 * MiB)
    partition(disk, "label: dos\nstart=2048, type=83, bootable\n")
    put(disk, 0, code)
    put(disk, 1 * MiB, make_content(folder / f"root.{root}", root))
    return disk


# --- what no tool makes in a file ------------------------------------------------------------------------------------


def make_bitlocker(path: Path, *, to_go: bool = False) -> Path:
    """The headers of a BitLocker volume, as far as blkid checks them."""
    boot = bytearray(512)
    boot[:3] = b"\xeb\x58\x90"
    boot[3:11] = b"MSWIN4.1" if to_go else b"-FVE-FS-"
    struct.pack_into("<HB", boot, 11, 512, 8)
    at = 424 if to_go else 160
    boot[at : at + 16] = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
    struct.pack_into("<QQQ", boot, at + 16, 1 * MiB, 2 * MiB, 3 * MiB)
    boot[510:] = b"\x55\xaa"
    put(empty(path, 8 * MiB), 0, bytes(boot))
    block = bytearray(256)
    block[:8] = b"-FVE-FS-"
    struct.pack_into("<HH", block, 8, 64, 2)
    struct.pack_into("<IIII", block, 64, 48, 1, 48, 48)
    block[80:96] = BITLOCKER_ID.bytes_le
    put(path, 1 * MiB, bytes(block))
    return path


BITLOCKER_ID: Final = uuid.UUID("d1c2b3a4-0001-4000-8000-00000000cafe")


def md_superblock(offset: int, name: bytes = b"host:0") -> bytes:
    """The superblock of a member of a mirror, version 1, for the byte ``offset``."""
    block = bytearray(256)
    struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, 0)
    block[16:32] = uuid.UUID("0a0b0c0d-0001-4000-8000-00000000cafe").bytes
    block[32 : 32 + len(name)] = name
    struct.pack_into("<Q", block, 64, 0)
    struct.pack_into("<IIQ", block, 72, 1, 0, 2048)  # level, layout, size in sectors
    struct.pack_into("<II", block, 88, 0, 2)
    struct.pack_into("<QQQ", block, 128, 2048, 2048, offset // 512)
    total = sum(word for (word,) in struct.iter_unpack("<I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(block)


def make_mdraid(path: Path, offset: int) -> Path:
    """A member of a mirror with its superblock at ``offset``."""
    put(empty(path, 8 * MiB), offset, md_superblock(offset))
    return path


def content_of(path: Path) -> Content:
    """What a file without a partition table holds."""
    found = layout_of_file(path).whole
    assert found is not None
    return found


def kinds(layout: DiskLayout) -> list[ContentKind]:
    """The kinds of all partitions, in order."""
    return [content.kind for _, content in layout.contents]


PHYSICAL_VOLUME: Final = lzma.decompress(
    base64.b85decode(
        "{Wp48S^xk9=GL@E0stWa8~^|S5YJf5;6MKZa$NubZ~gwXtxCD`m=%2MejFuyrJBA23o={owoJLh7ZM8Uni2^r^tcLy)#<K~6R-Tn"
        "ep}=~9mHI2b++KDGOCyCUCZw>r5*`jjPvp7=+mt`^Ew0mtpF9J<VDA-GDfRP{a&=?u*lx@1*H}W*w7-oi>u@aG5UCdC6|sC@yVdb"
        "$6mCMiQ<)u*(BG&j7h%UZ&kQjnSSJ;`wZ^l8$H2D1$Je+v3G3070!>-9Rv-T6gumt03@BEza@S@?qon~lF|lUIHQH($%QN|(h~Fu"
        "Q@tx)$BpDqGX_<L#$+-YT7w7LTX=(eAx!xiuux{cUkBXOZVZOuY`-mnA)g@v`pfWVy3376&gS=4J{@TxptdW$!ep`v4hC~Qyb`}j"
        ")5EWN&8YNtE;hv%Q`&6_ChCB(DlXr((*NG^cEsueG--vj`Q2=IoF<;(pC`H{_X4{uPw_<NO;Vc;2i7D}*t7@bX(5i#DzO=qlXau`"
        "3BBGYx#(y$9dt(^j(H>DA0uHP{Q~Ul-xz>_sRXy?B@Wm+#x5^6v-Uogb<$^tPWGun%`pRns_k+Z-S9`Ws4XJ?ISWiko0FOCbYdb<"
        "=dUmVO~gRhee@M6Glo+amuDJ%gB|`rJV}H7DEQgo!{m-$&(CskMp{M%*~7j2c1MC}LvEY(Z%iNiUm&eeuOL7s08+TqPHx2OS$rol"
        "{VDFVTkc8{05?m!l5Pv4<Xt8Wt8X*h0zbGDz7e1Jtirb+ynpZ;nRnm&CoX0F!nuk$xh$P|tgFX`$F3n@GGyezI$J-!UHTWSQlR2u"
        "c5Aj2YMV(>SpIs3oQw!U+Yy`JI30E2smmBDd4nc>twBQLI)1o#`pw%rqwryHkD_6#C}>i+ZMhI^p!yZ+!q=4RYt{tXEDFm*8?#I^"
        "hX44G-zNAriBBPiy2R97AHiwoI<WM8{D9Vw>?WN^YMHbeq$D$zvEQ#!?@&Xq<!%7Ve0`)}33v;61*_VMVU*zL=M(p9ccy}>NGpc)"
        "0Q1+~;U~e16a1fqG64Chi;3Cw1sp*c4v7o_zTgGnt0s;{zFBqbGKTCBE%MLmEkWq;Ct5sVUx3sJRZ01zB@<A}-lH!p`IMJ$V-Egq"
        "795Ofbr5l{wwk)D>OKf{OT_FX0jyZGP-2@)n*=Ut000004=FU4c5z-Y00E8%fPeu2pW(PbvBYQl0ssI200dcD"
    )
)
"""The first 16 KiB of a physical volume of 64 MiB that lvm2 2.03 wrote: group ``vg_guest`` with the volumes ``root``
(24 MiB, from 1 MiB on) and ``swap`` (8 MiB, from 25 MiB on)."""
