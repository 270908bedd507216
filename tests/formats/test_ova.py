"""OVA: what we write is read by GNU tar, Python's tarfile and qemu-img in place; what others write is read by us, or
refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError, TargetError
from hypersdk.formats.mf import parse_mf
from hypersdk.formats.names import is_inner_path
from hypersdk.formats.ova import (
    MAX_MEMBERS,
    TAR_BLOCK,
    OvaMember,
    OvaWriter,
    descriptor_member,
    member_header,
    pad_descriptor,
    read_ova,
)
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import GiB, KiB, MiB
from tests.support.seeds import examples
from tests.support.tools import run_tool

DESCRIPTOR = b'<?xml version="1.0"?><Envelope/>\n'
LONG = "x" * 120


@pytest.fixture
def ova(tmp_path: Path) -> Iterator[tuple[Path, FdFile]]:
    path = tmp_path / "web.ova"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    yield path, FdFile(descriptor)
    os.close(descriptor)


def write_ova(file: FdFile, disks: dict[str, bytes], descriptor_name: str = "web.ovf", room: int = 8 * KiB) -> bytes:
    """Writes an archive with ``disks``; returns the text of its .mf."""
    writer = OvaWriter(file, descriptor_name, descriptor_room=room, mtime_s=1_700_000_000)
    for name, data in disks.items():
        file.pwrite([data], writer.data_offset(name))
        writer.add_member(name, len(data))
    return writer.finish(DESCRIPTOR, {name: hashlib.sha256(data).hexdigest() for name, data in disks.items()})


class Bytes:
    """The reading half of a BlockFile, over bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, length: int, offset: int) -> bytes:
        return self._data[offset : offset + length]

    def size(self) -> int:
        return len(self._data)


def read(data: bytes) -> list[OvaMember]:
    return read_ova(Bytes(data))


# --- writing ---------------------------------------------------------------------------------------------------------


DISKS = {"web-disk1.vmdk": os.urandom(100_000), "web-disk2.vmdk": b"", "web-disk3.vmdk": b"x" * 512}


def test_descriptor_first_disks_in_order_mf_last(ova: tuple[Path, FdFile]) -> None:
    path, file = ova
    mf = write_ova(file, DISKS)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["web.ovf", *DISKS, "web.mf"]
        assert all(member.isreg() and member.mode == 0o640 and member.mtime == 1_700_000_000 for member in archive)
        content = {name: archive.extractfile(name).read() for name in archive.getnames()}
    assert {name: content[name] for name in DISKS} == DISKS
    assert content["web.mf"] == mf
    assert content["web.ovf"].rstrip() == DESCRIPTOR.rstrip()
    assert [(line.name, line.hexdigest) for line in parse_mf(mf)] == [
        (name, hashlib.sha256(content[name]).hexdigest()) for name in ("web.ovf", *DISKS)
    ]
    assert path.stat().st_size % 10240 == 0


@pytest.mark.parametrize("disk", ["web 1 (copy)-disk1.vmdk", f"{LONG}-disk1.vmdk"])
def test_gnu_tar_lists_blocks_by_which_virt_v2v_finds_a_disk(ova: tuple[Path, FdFile], disk: str) -> None:
    """`tar -tRv` gives the block of a header; virt-v2v takes the block behind it for the first of the disk."""
    path, file = ova
    data = os.urandom(3000)
    write_ova(file, {disk: data}, descriptor_name=f"{LONG}.ovf")
    lines = run_tool("tar", "--no-auto-compress", "-tRvf", path).splitlines()
    block = next(int(match[1]) for line in lines if (match := re.match(r"block (\d+): .*" + re.escape(disk), line)))
    start = (block + 1) * TAR_BLOCK
    assert path.read_bytes()[start : start + len(data)] == data
    assert [member.offset for member in read_ova(file) if member.name == disk] == [start]


def test_gnu_tar_unpacks_it_without_a_word(ova: tuple[Path, FdFile], tmp_path: Path) -> None:
    path, file = ova
    disks = DISKS | {f"{LONG}-disk4.vmdk": b"long", "wéb-disk5.vmdk": b"accent"}
    write_ova(file, disks)
    out = tmp_path / "out"
    out.mkdir()
    assert run_tool("tar", "-xf", path, "-C", out) == ""
    assert {name: (out / name).read_bytes() for name in disks} == disks


def test_qemu_img_reads_a_disk_inside(ova: tuple[Path, FdFile], tmp_path: Path) -> None:
    path, file = ova
    raw, vmdk = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    raw.write_bytes(os.urandom(MiB) + bytes(MiB))
    run_tool("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk)
    write_ova(file, {"web-disk1.vmdk": b"first", "web-disk2.vmdk": vmdk.read_bytes()})
    member = next(member for member in read_ova(file) if member.name == "web-disk2.vmdk")
    node = {
        "driver": "raw",
        "offset": member.offset,
        "size": member.size,
        "file": {"driver": "file", "filename": str(path)},
    }
    inside = "json:" + json.dumps({"driver": "vmdk", "file": node})
    assert "identical" in run_tool("qemu-img", "compare", "-F", "raw", inside, raw)


def test_sizes_from_8_gib_on_are_read_by_tar_and_tarfile(ova: tuple[Path, FdFile]) -> None:
    path, file = ova
    size = 8 * GiB + 12345
    writer = OvaWriter(file, "big.ovf", mtime_s=0)
    start = writer.data_offset("big-disk1.vmdk")
    file.pwrite([b"end of disk"], start + size - 11)
    writer.add_member("big-disk1.vmdk", size)
    second = writer.data_offset("big-disk2.vmdk")
    file.pwrite([b"after"], second)
    writer.add_member("big-disk2.vmdk", 5)
    writer.finish(DESCRIPTOR, {"big-disk1.vmdk": "0" * 64, "big-disk2.vmdk": "0" * 64})
    assert f" {size} " in run_tool("tar", "-tvf", path, "big-disk1.vmdk")
    with tarfile.open(path) as archive:
        assert archive.getmember("big-disk1.vmdk").size == size
        assert archive.extractfile("big-disk2.vmdk").read() == b"after"
    assert [(member.offset, member.size) for member in read_ova(file)][1:3] == [(start, size), (second, 5)]


def test_until_finish_it_is_no_archive(ova: tuple[Path, FdFile]) -> None:
    path, file = ova
    writer = OvaWriter(file, "web.ovf", mtime_s=0)
    file.pwrite([b"data"], writer.data_offset("web-disk1.vmdk"))
    writer.add_member("web-disk1.vmdk", 4)
    with pytest.raises(IntegrityError, match="never finished"):
        read_ova(file)
    assert run_tool("tar", "-tf", path) == ""


def test_a_resumed_export_finds_the_next_disk_where_it_was(ova: tuple[Path, FdFile]) -> None:
    path, file = ova
    first = OvaWriter(file, "web.ovf", mtime_s=0)
    file.pwrite([b"A" * 700], first.data_offset("web-disk1.vmdk"))
    first.add_member("web-disk1.vmdk", 700)
    place = first.data_offset("web-disk2.vmdk")
    file.pwrite([b"B" * 5000], place)  # interrupted: longer than it will be

    again = OvaWriter(file, "web.ovf", mtime_s=0)
    again.add_member("web-disk1.vmdk", 700)
    assert again.data_offset("web-disk2.vmdk") == place
    again.add_member("web-disk2.vmdk", 1000)
    again.finish(DESCRIPTOR, {})
    with tarfile.open(path) as archive:
        assert archive.extractfile("web-disk2.vmdk").read() == b"B" * 1000
        assert archive.getnames() == ["web.ovf", "web-disk1.vmdk", "web-disk2.vmdk", "web.mf"]
    assert not path.read_bytes()[read_ova(file)[-1].offset + TAR_BLOCK :].strip(b"\0")


def test_a_descriptor_too_large_for_its_room_is_refused_with_a_way_out(ova: tuple[Path, FdFile]) -> None:
    writer = OvaWriter(ova[1], "web.ovf", descriptor_room=1024, mtime_s=0)
    with pytest.raises(TargetError) as caught:
        writer.finish(b"x" * 1025, {})
    assert caught.value.code == "ova_room"
    assert len(pad_descriptor(b"x" * 1024, 1024)) == 1024


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a\0b"])
def test_no_header_is_made_for_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        member_header(name, 1, 0)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=90).filter(
            lambda n: n.isprintable() and "/" not in n and "\\" not in n and n.strip(".") == n
        ),
        st.binary(max_size=1500),
        max_size=5,
    )
)
def test_any_names_and_sizes_come_back(disks: dict[str, bytes]) -> None:
    disks = {
        name: data for name, data in disks.items() if len(name.encode()) <= 200 and not name.endswith((".mf", ".ovf"))
    }
    descriptor = os.memfd_create("ova")
    try:
        file = FdFile(descriptor)
        write_ova(file, disks)
        members = {member.name: file.pread(member.size, member.offset) for member in read_ova(file)}
        with os.fdopen(os.dup(descriptor), "rb") as stream, tarfile.open(fileobj=stream) as archive:
            theirs = {entry.name: archive.extractfile(entry).read() for entry in archive}
    finally:
        os.close(descriptor)
    assert members == theirs
    assert {name: data for name, data in members.items() if name not in ("web.ovf", "web.mf")} == disks


# --- reading ---------------------------------------------------------------------------------------------------------


def tar_of(members: list[tarfile.TarInfo], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive by Python's tarfile; each regular member holds zeros."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return stream.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_tools_are_read(tar_format: int) -> None:
    names = ["./a.ovf", "b.vmdk", "wéb.vmdk"] + ([] if tar_format == tarfile.USTAR_FORMAT else [LONG, "ü" * 70])
    data = tar_of([entry("./", kind=tarfile.DIRTYPE), *[entry(name, 600) for name in names]], tar_format)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = [
            OvaMember(info.name.removeprefix("./"), info.offset_data, info.size) for info in archive if info.isreg()
        ]
    assert read(data) == theirs


def test_a_pax_size_counts_where_the_octal_field_is_too_small() -> None:
    data = bytearray(tar_of([entry("a.vmdk", 1000, pax_headers={"size": "1000"})], tarfile.PAX_FORMAT))
    header = data.index(b"a.vmdk", 1024)
    zeroed = bytearray(data[header : header + 512])
    zeroed[124:136] = b"0" * 11 + b"\0"
    zeroed[148:156] = b" " * 8
    zeroed[148:156] = b"%06o\0 " % sum(zeroed)
    data[header : header + 512] = zeroed
    assert [member.size for member in read(bytes(data))] == [1000]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([entry("../etc/passwd", 1)], id="parent"),
        pytest.param([entry("/etc/passwd", 1)], id="absolute"),
        pytest.param([entry("sub/../../a.ovf", 1)], id="parent below a folder"),
        pytest.param([entry("sub//a.ovf", 1)], id="nameless folder"),
        pytest.param([entry("a/b/c/d/e/f/g/h/i/a.ovf", 1)], id="too many folders"),
        pytest.param([entry("a", kind=tarfile.GNUTYPE_SPARSE)], id="sparse"),
        pytest.param([entry("a", pax_headers={"GNU.sparse.major": "1"})], id="sparse, in pax"),
        pytest.param([entry("a\\b", 1)], id="backslash"),
        pytest.param([entry("..", 1)], id="dots"),
        pytest.param([entry("a", kind=tarfile.SYMTYPE, linkname="/etc/shadow")], id="symlink"),
        pytest.param([entry("a", kind=tarfile.LNKTYPE, linkname="/etc/shadow")], id="hard link"),
        pytest.param([entry("a", kind=tarfile.CHRTYPE)], id="device"),
        pytest.param([entry("a", kind=tarfile.FIFOTYPE)], id="fifo"),
        pytest.param([entry("a", 1), entry("a", 1)], id="twice"),
        pytest.param([], id="empty"),
        pytest.param([entry(f"{number}", 0) for number in range(MAX_MEMBERS + 1)], id="too many"),
    ],
)
def test_hostile_archives_are_refused(members: list[tarfile.TarInfo]) -> None:
    with pytest.raises(IntegrityError) as caught:
        read(
            tar_of(members, tarfile.PAX_FORMAT if any(member.pax_headers for member in members) else tarfile.GNU_FORMAT)
        )
    assert caught.value.code == "bad_format"


@pytest.mark.parametrize("cut", [512 + 100, 512, 300])
def test_an_archive_that_ends_inside_something_is_truncated(cut: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        read(tar_of([entry("a.vmdk", 1000)])[:cut])
    assert caught.value.code == "truncated_stream"


@pytest.mark.parametrize(
    "size_field",
    [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"abc".ljust(12, b"\0"), b"\0" * 12, b"-0000000001\0"],
)
def test_sizes_that_lie_are_refused(size_field: bytes) -> None:
    block = bytearray(tar_of([entry("a.vmdk", 1000)])[:512])
    block[124:136] = size_field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(IntegrityError):
        read(bytes(block) + bytes(2048))


def test_a_huge_extended_header_is_not_read() -> None:
    with pytest.raises(IntegrityError, match="extended header"):
        read(tar_of([entry("n" * 100_000, 1)]))


@pytest.mark.parametrize("data", [b"", b"not a tar file" * 100, b"\x1f\x8b" + bytes(1000), os.urandom(4096)])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read(data)


SAMPLE = tar_of([entry("a.ovf", 10), entry("ü" * 70, 600), entry("a.mf", 5)], tarfile.PAX_FORMAT)


@given(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255))
def test_one_changed_byte_is_harmless_or_refused(position: int, value: int) -> None:
    data = bytearray(SAMPLE)
    data[position] = value
    with contextlib.suppress(IntegrityError):
        for member in read(bytes(data)):
            assert 0 <= member.offset <= member.offset + member.size <= len(SAMPLE)


def test_exactly_one_descriptor_is_expected() -> None:
    one = OvaMember("a.ovf", 512, 1)
    assert descriptor_member([one, OvaMember("a.vmdk", 1536, 1)]) == one
    for members in ([], [one, OvaMember("b.OVF", 1, 1)]):
        with pytest.raises(IntegrityError, match="not one"):
            descriptor_member(members)
    inner = OvaMember("vm/b.ovf", 512, 1)
    assert descriptor_member([inner, one, OvaMember("._a.ovf", 1, 1)]) == one
    assert descriptor_member([inner, OvaMember("vm/deeper/c.ovf", 1, 1)]) == inner


# --- the dialects of real packages ------------------------------------------------------------------------------------

FILES = {"m.ovf": b"<Envelope/>" * 50, "m-disk1.vmdk": os.urandom(3000), "m.mf": b"SHA256(m.ovf)= 00"}


def contents(data: bytes) -> dict[str, bytes]:
    return {member.name: data[member.offset : member.offset + member.size] for member in read(data)}


def raw_header(
    name: bytes, size: int, kind: bytes = b"0", magic: bytes = b"ustar\00000", *, signed: bool = False
) -> bytes:
    """One header block, byte by byte."""
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0" * 3,
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,
        kind,
        bytes(100),
        magic,
    ]
    block = bytearray(b"".join(fields).ljust(512, b"\0"))
    total = sum(block) - (256 * sum(byte > 127 for byte in block) if signed else 0)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def raw_tar(members: list[bytes], end: bytes = bytes(1024)) -> bytes:
    return b"".join(members) + end


def member(name: str, data: bytes, **fields: Any) -> bytes:
    return raw_header(name.encode(), len(data), **fields) + padded(data)


PLAIN = [member(name, data) for name, data in FILES.items()]
APPLE = b"\0\5\x16\7" + bytes(90)
XATTR = (
    record(b"mtime", b"1.5") + record(b"SCHILY.xattr.x", b"\xff\0\n9 a=\n") + record(b"LIBARCHIVE.x", b"\x80" * 70_000)
)

DIALECTS = {
    "no end blocks": (raw_tar(PLAIN, b""), FILES),
    "no end blocks, no padding": (raw_tar(PLAIN, b"").rstrip(b"\0"), FILES),
    "one end block": (raw_tar(PLAIN, bytes(512)), FILES),
    "rubbish behind the end": (raw_tar(PLAIN, bytes(1024) + b"\x1f\x8b not a header" * 99), FILES),
    "version 7": (raw_tar([member(name, data, magic=b"", kind=b"\0") for name, data in FILES.items()]), FILES),
    "gnu": (raw_tar([member(name, data, magic=b"ustar  \0") for name, data in FILES.items()]), FILES),
    "version 7 with folders": (raw_tar([raw_header(b"m/", 0, kind=b"\0", magic=b""), *PLAIN]), FILES),
    "last is first": (raw_tar(PLAIN[::-1]), FILES),
    "one leading folder": (
        raw_tar([raw_header(b"m/", 0, kind=b"5"), *(member(f"m/{name}", data) for name, data in FILES.items())]),
        {f"m/{name}": data for name, data in FILES.items()},
    ),
    "dots in front": (raw_tar([member(f"././{name}", data) for name, data in FILES.items()]), FILES),
    "pax global": (
        raw_tar([member("pax_global_header", record(b"comment", b"built by a machine"), kind=b"g"), *PLAIN]),
        FILES,
    ),
    "pax with binary attributes": (raw_tar([member("PaxHeader/m", XATTR, kind=b"x"), *PLAIN]), FILES),
    "pax filled up with zeros": (raw_tar([member("PaxHeader/m", XATTR + bytes(20), kind=b"x"), *PLAIN]), FILES),
    "Sun's pax": (
        raw_tar([member("m", record(b"path", b"long.vmdk"), kind=b"X"), PLAIN[1]]),
        {"long.vmdk": FILES["m-disk1.vmdk"]},
    ),
    "a long name": (
        raw_tar([member("././@LongLink", b"n" * 150 + b"\0", kind=b"L"), PLAIN[1]]),
        {"n" * 150: FILES["m-disk1.vmdk"]},
    ),
    "a name for a link": (
        raw_tar([member("././@LongLink", b"n" * 150 + b"\0", kind=b"K"), PLAIN[1]]),
        {"m-disk1.vmdk": FILES["m-disk1.vmdk"]},
    ),
    "a name that is no text": (raw_tar([raw_header(b"r\x82adme", 0), *PLAIN]), FILES),
    "a sum over signed bytes": (raw_tar([raw_header("é.vmdk".encode(), 0, signed=True)]), {"é.vmdk": b""}),
    "AppleDouble": (
        raw_tar([member("._m.ovf", APPLE), PLAIN[0], member("._m-disk1.vmdk", APPLE), *PLAIN[1:]]),
        {"._m.ovf": APPLE, "._m-disk1.vmdk": APPLE, **FILES},
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_of_tar(dialect: str) -> None:
    data, files = DIALECTS[dialect]
    assert contents(data) == files
    if len(files) > 1:
        assert descriptor_member(read(data)).name.removeprefix("m/") == "m.ovf"


def test_gnu_tar_packs_a_folder_as_version_7(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_bytes(data)
    run_tool("tar", "--format=v7", "-C", tmp_path, "-cf", tmp_path / "m.ova", "m")
    assert contents((tmp_path / "m.ova").read_bytes()) == {f"m/{name}": data for name, data in FILES.items()}


def test_a_sparse_member_is_refused_by_its_name(tmp_path: Path) -> None:
    with (tmp_path / "m-disk1.vmdk").open("wb") as file:
        file.truncate(3 * MiB)
        file.write(b"data")
    for tar_format in ("gnu", "posix"):
        run_tool("tar", f"--format={tar_format}", "--sparse", "-C", tmp_path, "-cf", tmp_path / "m.ova", "m-disk1.vmdk")
        with pytest.raises(IntegrityError, match="sparse file") as caught:
            read((tmp_path / "m.ova").read_bytes())
        assert "m-disk1.vmdk" in caught.value.message


def test_what_thousands_of_pax_headers_say_is_not_kept_in_memory() -> None:
    blocks = [
        member("g", b"".join(record(b"key%d.%d" % (number, key), bytes(10_000)) for key in range(90)), kind=b"g")
        for number in range(15)
    ]
    data = raw_tar(blocks + PLAIN)
    tracemalloc.start()
    assert len(read(data)) == len(FILES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * MiB
    with pytest.raises(IntegrityError, match="extended headers"):
        read(raw_tar(blocks * 2 + PLAIN))


@examples(400)
@given(
    st.sampled_from(sorted(DIALECTS)),
    st.integers(0, 20 * KiB),
    st.sampled_from(["flip", "cut", "drop", "put"]),
    st.integers(1, 255),
)
def test_damage_to_any_dialect_is_refused_or_leaves_members_inside(
    dialect: str, position: int, kind: str, value: int
) -> None:
    """Never an internal error, and never a member that is not what it was under a name that it had with its old size,
    but for its own bytes."""
    data, files = DIALECTS[dialect]
    position %= len(data)
    damaged = {
        "flip": data[:position] + bytes([data[position] ^ value]) + data[position + 1 :],
        "cut": data[:position],
        "drop": data[:position] + data[position + value :],
        "put": data[:position] + b"\xa5" * value + data[position:],
    }[kind]
    with contextlib.suppress(IntegrityError):
        for found in read(damaged):
            assert 0 <= found.offset <= found.offset + found.size <= len(damaged)
            assert is_inner_path(found.name)
            if (
                kind == "flip"
                and found.name in files
                and position < found.offset
                and found.offset == data.find(files[found.name])
            ):
                assert found.size == len(files[found.name])
