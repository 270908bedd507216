"""The state of an NTFS, compared with what ntfs-3g does: ``ntfscp`` mounts it for writing."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from hypersdk.formats.guestdisk import NtfsState, ntfs
from hypersdk.formats.guestdisk.region import BoundedDisk, Region
from tests.support.guestdisks import FileReader, content_of, make_content, put
from tests.support.tools import requires, run_tool

HEADER = 4096


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return make_content(tmp_path / "volume", "ntfs")


def copy_in(volume: Path, name: str, content: bytes) -> None:
    """Writes a file into the root folder."""
    file = volume.with_suffix(".file")
    file.write_bytes(content)
    run_tool("ntfscp", "-f", volume, file, name)


def ntfs_3g_writes(volume: Path) -> bool:
    """Whether ntfs-3g mounts a copy of it for writing."""
    copy, file = volume.with_suffix(".copy"), volume.with_suffix(".probe")
    copy.write_bytes(volume.read_bytes())
    file.write_bytes(b"x")
    done = subprocess.run([requires("ntfscp"), "-f", copy, file, "probe"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "Operation not permitted" in done.stderr, done.stderr
    return done.returncode == 0


def state(volume: Path) -> NtfsState:
    found = content_of(volume).ntfs
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"HIBR" + bytes(20_000), NtfsState.HIBERNATED),
        (b"hibr" + bytes(20_000), NtfsState.HIBERNATED),
        (b"wake" + bytes(20_000), NtfsState.CLEAN),
        (bytes(20_000), NtfsState.CLEAN),
        (bytes(HEADER - 1), NtfsState.HIBERNATED),
        (bytes(100), NtfsState.HIBERNATED),
    ],
    ids=["system", "other-system", "woken", "unused", "short", "tiny"],
)
@pytest.mark.parametrize("others", [0, 40], ids=["small-root", "large-root"])
def test_a_hibernation_file_counts_as_it_does_for_ntfs_3g(
    volume: Path, content: bytes, expected: NtfsState, others: int
) -> None:
    if others:
        fill_root(volume, others)
    copy_in(volume, "hiberfil.sys", content)
    assert state(volume) is expected
    assert ntfs_3g_writes(volume) is (expected is NtfsState.CLEAN)


def fill_root(volume: Path, count: int) -> None:
    """So many files in the root folder, with long names, that its index is a tree, as it is on a Windows disk."""
    for number in range(count):
        copy_in(volume, f"a long name of a file that takes space in the index {number:04}.txt", b"")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 1), (1, 1), NtfsState.CLEAN),
        ((2, 0), (2, 0), NtfsState.CACHED),
        ((2, 0), (1, 1), NtfsState.CLEAN),
        ((1, 1), (2, 0), NtfsState.CACHED),
    ],
)
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "in-use"])
def test_a_journal_counts_as_it_does_for_ntfs_3g(
    volume: Path, first: tuple[int, int], second: tuple[int, int], clean: bool, expected: NtfsState
) -> None:
    place, size = log_file(volume)
    pages = restart_page(first, 1000, size, clean=clean) + restart_page(second, 2000, size, clean=clean)
    put(volume, place, pages)
    assert state(volume) is expected
    assert ntfs_3g_writes(volume) is (expected is NtfsState.CLEAN)


def log_file(volume: Path) -> tuple[int, int]:
    """Where the journal lies, and its size."""
    shown = run_tool("ntfsinfo", "-i", "2", "-v", volume)
    told = dict(line.strip().split(":", 1) for line in shown.splitlines() if ":" in line)
    reader = FileReader(volume)
    opened = ntfs._open(region := Region(BoundedDisk(reader)), region.read(0, 512))
    assert opened is not None
    data = ntfs._attribute(opened.system_records()[2], 0x80)
    reader.close()
    assert str(data.size) in told["Data size"]
    return data.runs[0][0] * 4096, data.size


def restart_page(version: tuple[int, int], sequence: int, file_size: int, *, clean: bool) -> bytes:
    """A restart page with one client, NTFS itself."""
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIHHH", page, 0, b"RSTR", 0x1E, 9, 0, 4096, 4096, 0x30, version[1], version[0])
    in_use, free, flags = (0xFFFF, 0, 2) if clean else (0, 0xFFFF, 0)
    area = (sequence, 1, free, in_use, flags, 67 - file_size.bit_length(), 0x30 + 160, 0x30, file_size, 0, 48, 64, 0, 0)
    struct.pack_into("<QHHHHIHHQIHHII", page, 0x30, *area)
    struct.pack_into("<QQHHH6xI", page, 0x60, 0, 0, 0xFFFF, 0xFFFF, 0, 8)
    page[0x80:0x88] = "NTFS".encode("utf-16-le")
    page[0x1E:0x20] = mark = b"\x01\x00"
    for number in range(1, 9):
        end = number * 512
        page[0x1E + 2 * number : 0x20 + 2 * number] = page[end - 2 : end]
        page[end - 2 : end] = mark
    return bytes(page)


@pytest.mark.parametrize("record", [0, 2, 3, 5])
def test_a_damaged_record_is_unknown_and_never_refused(volume: Path, record: int) -> None:
    copy_in(volume, "hiberfil.sys", b"HIBR" + bytes(20_000))
    mft = struct.unpack_from("<Q", volume.read_bytes()[:512], 48)[0] * 4096
    put(volume, mft + record * 1024 + 510, b"\xde\xad")
    found = content_of(volume)
    if record == 3:
        assert (found.label, found.ntfs) == (None, NtfsState.HIBERNATED)
    else:
        assert found.ntfs is (NtfsState.HIBERNATED if record == 2 else NtfsState.UNKNOWN)
