"""Packages as others make them, converted: the guest's bytes, or a refusal that names the file; and what the proof
says."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import resource
import socket
import tarfile
import unicodedata
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import Cancelled, HyperSDKError, IntegrityError, TargetError
from hypersdk.formats.ovf import adapt, build
from hypersdk.migration import stored
from hypersdk.migration.convert import convert_file
from hypersdk.migration.diskfiles import DiskFiles
from hypersdk.migration.manifest import read_manifest
from hypersdk.migration.package import UNPROVED_LOCAL
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.runfile import DiskRecord
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.migration.verify import verify_directory
from hypersdk.model import ExportProgress, Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from tests.support.packages import (
    CAPACITY,
    Line,
    descriptor,
    guest,
    manifest,
    plain_line,
    rounded_vmdk,
    tar,
    vmdk,
    write_folder,
)
from tests.support.seeds import examples
from tests.support.tools import run_tool

GUESTS = (guest(1), guest(2))
PROVED = "proved: each file matches the package's .mf"


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Both guests as streams."""
    folder = tmp_path_factory.mktemp("streams")
    return vmdk(GUESTS[0], folder), vmdk(GUESTS[1], folder)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first guest as a sparse disk, which has no checksums of its own."""
    return vmdk(GUESTS[0], tmp_path_factory.mktemp("sparse"), "monolithicSparse")


def convert(
    path: Path,
    out: Path,
    output: OutputFormat = OutputFormat.RAW,
    cancel: CancelToken | None = None,
    observer: Callable[[ExportProgress], None] = lambda _: None,
) -> ExportResult:
    spec = ExportSpec(machine="", output_dir=out, format=output)
    settings = RunSettings(state=out.with_name(f"{out.name}-state"))
    return convert_file(path, spec, cancel=cancel or CancelToken(), observer=observer, settings=settings)


def converted(path: Path, out: Path) -> tuple[list[bytes], ExportResult]:
    result = convert(path, out)
    return [file.read_bytes() for file in sorted(out.glob("*.raw"))], result


def refused(path: Path, out: Path) -> HyperSDKError:
    """The error; nothing lies in ``out``."""
    with pytest.raises(HyperSDKError) as caught:
        convert(path, out)
    assert not out.exists() or list(out.iterdir()) == []
    return caught.value


def two_disks(streams: tuple[bytes, bytes]) -> dict[str, bytes]:
    return {
        "m.ovf": descriptor({"a.vmdk": len(streams[0]), "b.vmdk": len(streams[1])}),
        "a.vmdk": streams[0],
        "b.vmdk": streams[1],
    }


def one_disk(disk: bytes, href: str = "m-disk1.vmdk", attributes: str = "") -> dict[str, bytes]:
    return {"m.ovf": descriptor({href: len(disk)}, attributes=attributes), href: disk}


# --- the .mf ----------------------------------------------------------------------------------------------------------

LINES: dict[str, Line] = {
    "as the standard has it": plain_line,
    "BSD": lambda algorithm, name, digest: f"{algorithm.upper()} ({name}) = {digest.upper()}\r\n",
    "coreutils": lambda _, name, digest: f"{digest}  {name}\n",
    "coreutils, binary, dotted": lambda _, name, digest: f"{digest} *./{name}\n",
}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("line", LINES)
def test_the_proof_says_what_was_compared(
    tmp_path: Path, streams: tuple[bytes, bytes], algorithm: str, line: str
) -> None:
    files = two_disks(streams)
    path = write_folder(tmp_path / "in", {**files, "m.mf": manifest(files, algorithm, LINES[line])})
    disks, result = converted(path, tmp_path / "out")
    assert disks == list(GUESTS)
    assert result.proof == f"{PROVED} ({algorithm.upper()})"
    assert not result.warnings
    written = read_manifest((tmp_path / "out" / "artifact-manifest.json").read_bytes())
    assert {disk.hypersdk.verdict for disk in written.disks if disk.hypersdk} == {result.proof}


@pytest.mark.parametrize("damage", [lambda data: b"QFI\xfb" + data, lambda data: data[:3000]], ids=["qcow2", "cut"])
def test_a_disk_that_is_no_vmdk_is_named(
    tmp_path: Path, streams: tuple[bytes, bytes], damage: Callable[[bytes], bytes]
) -> None:
    """Of several disks the user has to know which one."""
    files = two_disks(streams)
    error = refused(write_folder(tmp_path / "in", {**files, "b.vmdk": damage(files["b.vmdk"])}), tmp_path / "out")
    assert isinstance(error, IntegrityError)
    assert error.message.startswith("'b.vmdk': ")


def test_a_refused_package_ends_as_failed(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    """The last thing that a display hears; it said "verifying, 99 %" for ever."""
    files = two_disks(streams)
    mf = manifest(files)
    path = write_folder(tmp_path / "in", {**files, "b.vmdk": files["a.vmdk"], "m.mf": mf})
    seen: list[ExportProgress] = []
    with pytest.raises(HyperSDKError) as caught:
        convert(path, tmp_path / "out", observer=seen.append)
    assert (seen[-1].phase, seen[-1].note) == (Phase.FAILED, caught.value.message)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_exchanged_disks_are_refused_by_name(
    tmp_path: Path, streams: tuple[bytes, bytes], algorithm: str, line: str, archive: bool
) -> None:
    files = two_disks(streams)
    mf = manifest(files, algorithm, LINES[line])
    files["a.vmdk"], files["b.vmdk"] = files["b.vmdk"], files["a.vmdk"]
    path = tmp_path / "m.ova"
    if archive:
        path.write_bytes(tar({**files, "m.mf": mf}))
    else:
        path = write_folder(tmp_path / "in", {**files, "m.mf": mf})
    error = refused(path, tmp_path / "out")
    assert (error.code, error.exit_status, error.fields["file"]) == ("manifest_mismatch", 8, "a.vmdk")
    assert error.fields["actual"] == hashlib.new(algorithm, streams[1]).hexdigest()
    assert error.fields["expected"] == hashlib.new(algorithm, streams[0]).hexdigest()
    assert "content of 'b.vmdk'" in error.message


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("where", [0.3, 0.9, -1])
def test_a_flipped_bit_of_a_disk_without_checksums_is_refused(
    tmp_path: Path, sparse: bytes, algorithm: str, where: float
) -> None:
    files = one_disk(sparse)
    mf = manifest(files, algorithm)
    damaged = bytearray(sparse)
    damaged[int(len(sparse) * where) if where > 0 else -1] ^= 4
    path = write_folder(tmp_path / "in", {**files, "m-disk1.vmdk": bytes(damaged), "m.mf": mf})
    error = refused(path, tmp_path / "out")
    assert (error.code, error.fields["file"]) == ("manifest_mismatch", "m-disk1.vmdk")


def test_a_changed_descriptor_is_refused_before_anything_is_read(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    files = two_disks(streams)
    path = write_folder(tmp_path / "in", {**files, "m.ovf": files["m.ovf"] + b" ", "m.mf": manifest(files)})
    error = refused(path, tmp_path / "out")
    assert (error.code, error.fields["file"]) == ("manifest_mismatch", "m.ovf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "order",
    [
        ["m.mf", "m.ovf", "a.vmdk", "b.vmdk"],
        ["m.ovf", "a.vmdk", "m.mf", "b.vmdk"],
        ["b.vmdk", "a.vmdk", "m.mf", "m.ovf"],
    ],
)
@pytest.mark.parametrize("mf_name", ["m.mf", "M.MF", "other.mf"])
@pytest.mark.parametrize("folder", ["", "m/", "./"])
def test_the_mf_is_found_wherever_it_lies_in_an_archive(
    tmp_path: Path, streams: tuple[bytes, bytes], order: list[str], mf_name: str, folder: str
) -> None:
    files = two_disks(streams)
    files["m.mf"] = manifest(files)
    path = tmp_path / "m.ova"
    path.write_bytes(tar([(folder + (mf_name if name == "m.mf" else name), files[name]) for name in order]))
    disks, result = converted(path, tmp_path / "out")
    assert disks == list(GUESTS)
    assert result.proof == f"{PROVED} (SHA256)"


def test_files_that_the_mf_does_not_list_are_named(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    files = two_disks(streams)
    mf = manifest({name: files[name] for name in ("m.ovf", "b.vmdk")}) + b"SHA256(m.nvram)= " + b"0" * 64 + b"\n"
    disks, result = converted(write_folder(tmp_path / "in", {**files, "m.mf": mf}), tmp_path / "out")
    assert disks == list(GUESTS)
    assert result.proof == "unproved: the package's .mf does not list a.vmdk; the other files match it (SHA256)"


def test_a_line_that_cannot_be_read_is_a_warning(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    files = two_disks(streams)
    mf = manifest(files).replace(b"SHA256(b.vmdk)= ", b"SHA256(b.vmdk)= g")
    _, result = converted(
        write_folder(tmp_path / "in", {**files, "m.mf": mf, "m.cert": b"SHA256(m.mf)= 00\n"}), tmp_path / "out"
    )
    assert result.proof.startswith("unproved: the package's .mf does not list b.vmdk;")
    assert result.warnings == ("m.mf: line 3 cannot be read, and was left out of the comparison",)


def test_each_of_two_lines_for_a_file_counts(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    files = two_disks(streams)
    mf = manifest(files) + manifest(files, "sha1")
    _, result = converted(write_folder(tmp_path / "in", {**files, "m.mf": mf}), tmp_path / "out")
    assert result.proof == f"{PROVED} (SHA1, SHA256)"
    mf += manifest({"a.vmdk": b"something else"}, "sha512")
    error = refused(write_folder(tmp_path / "second", {**files, "m.mf": mf}), tmp_path / "again")
    assert (error.fields["file"], error.fields["algorithm"]) == ("a.vmdk", "SHA512")


def test_without_one_that_is_meant_nothing_is_proved(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    files = two_disks(streams)
    _, result = converted(write_folder(tmp_path / "none", files), tmp_path / "out")
    assert result.proof == UNPROVED_LOCAL
    strange = {"x.mf": b"", "y.mf": b"", "._m.mf": b"rubbish"}
    _, result = converted(write_folder(tmp_path / "two", {**files, **strange}), tmp_path / "out2")
    assert result.proof == UNPROVED_LOCAL
    assert "of 2 .mf files" in result.warnings[0]
    _, result = converted(write_folder(tmp_path / "empty", {**files, "m.mf": b""}), tmp_path / "out3")
    assert result.proof == "unproved: the package's .mf lists none of its files"


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    path = write_folder(tmp_path / "in", two_disks(streams))
    check = stored.FolderStore.check_unchanged

    def touched(store: stored.FolderStore) -> None:
        with (tmp_path / "in" / "b.vmdk").open("r+b") as file:
            file.write(streams[1][:1])
            os.utime(file.fileno(), (0, 0))
        check(store)

    with patch.object(stored.FolderStore, "check_unchanged", touched):
        error = refused(path, tmp_path / "out")
    assert (error.code, error.fields["file"]) == ("input_changed", "b.vmdk")


# --- how files are stored ---------------------------------------------------------------------------------------------


def in_chunks(name: str, data: bytes, size: int) -> dict[str, bytes]:
    return {f"{name}.{number:09d}": data[at : at + size] for number, at in enumerate(range(0, len(data), size))}


@pytest.mark.parametrize("attributes", ['ovf:compression="gzip"', ""], ids=["told", "not told"])
@pytest.mark.parametrize("size", [0, 700 * KiB, 10_000], ids=["whole", "chunks", "many chunks"])
@pytest.mark.parametrize("kind", ["stream", "sparse"])
def test_packed_and_cut_files(
    tmp_path: Path, streams: tuple[bytes, bytes], sparse: bytes, attributes: str, size: int, kind: str
) -> None:
    disk = gzip.compress(streams[0] if kind == "stream" else sparse, 1)
    files = {
        "m.ovf": descriptor(
            {"d.gz": len(disk)}, attributes=f'{attributes} ovf:chunkSize="{size}"' if size else attributes
        )
    }
    files |= in_chunks("d.gz", disk, size) if size else {"d.gz": disk}
    path = write_folder(tmp_path / "in", {**files, "m.mf": manifest(files)})
    disks, result = converted(path, tmp_path / "out")
    assert disks == [GUESTS[0]]
    assert result.proof == f"{PROVED} (SHA256)"


@pytest.mark.parametrize("kind", ["stream", "sparse"])
def test_files_in_chunks(tmp_path: Path, streams: tuple[bytes, bytes], sparse: bytes, kind: str) -> None:
    disk, size = streams[0] if kind == "stream" else sparse, 300 * KiB
    files = {
        "m.ovf": descriptor({"d.vmdk": len(disk)}, attributes=f'ovf:chunkSize="{size}"'),
        **in_chunks("d.vmdk", disk, size),
    }
    mf = manifest(files)
    disks, result = converted(write_folder(tmp_path / "in", {**files, "m.mf": mf}), tmp_path / "out")
    assert (disks, result.proof) == ([GUESTS[0]], f"{PROVED} (SHA256)")
    (tmp_path / "m.ova").write_bytes(tar({**files, "m.mf": mf}))
    assert converted(tmp_path / "m.ova", tmp_path / "out2")[0] == [GUESTS[0]]
    joined = {"m.ovf": files["m.ovf"], "d.vmdk": disk}
    assert converted(write_folder(tmp_path / "joined", joined), tmp_path / "out3")[0] == [GUESTS[0]]


def test_a_chunk_that_is_missing_or_damaged_is_named(tmp_path: Path, sparse: bytes) -> None:
    size = 300 * KiB
    files = {
        "m.ovf": descriptor({"d.vmdk": len(sparse)}, attributes=f'ovf:chunkSize="{size}"'),
        **in_chunks("d.vmdk", sparse, size),
    }
    mf, last = manifest(files), f"d.vmdk.{len(files) - 2:09d}"
    error = refused(
        write_folder(tmp_path / "a", {name: data for name, data in files.items() if name != last}), tmp_path / "out"
    )
    assert (error.code, last in error.message) == ("missing_disk_file", True)
    error = refused(write_folder(tmp_path / "b", {**files, "d.vmdk.000000001": bytes(size - 1)}), tmp_path / "out")
    assert (error.code, "d.vmdk.000000001" in error.message) == ("bad_format", True)
    error = refused(
        write_folder(tmp_path / "c", {**files, "d.vmdk.000000001": bytes(size), "m.mf": mf}), tmp_path / "out"
    )
    assert error.exit_status == 8
    error = refused(write_folder(tmp_path / "d", {"m.ovf": files["m.ovf"]}), tmp_path / "out")
    assert error.code == "missing_disk_file"


def test_a_package_that_was_packed_is_written_without_the_attributes(
    tmp_path: Path, streams: tuple[bytes, bytes]
) -> None:
    disk = gzip.compress(streams[0], 1)
    path = write_folder(tmp_path / "in", one_disk(disk, "d.gz", 'ovf:compression="gzip" ovf:chunkSize="99999999"'))
    convert(path, tmp_path / "out", OutputFormat.OVF)
    text = (tmp_path / "out" / "m.ovf").read_text()
    assert "compression" not in text
    assert "chunkSize" not in text
    assert converted(tmp_path / "out" / "m.ovf", tmp_path / "again")[0] == [GUESTS[0]]


def test_an_unknown_compression_is_named_unless_somebody_has_undone_it(
    tmp_path: Path, streams: tuple[bytes, bytes]
) -> None:
    attributes = 'ovf:compression="http://example.com/lzma"'
    error = refused(write_folder(tmp_path / "in", one_disk(b"\xfd7zXZ" * 99, attributes=attributes)), tmp_path / "out")
    assert (error.code, "example.com/lzma" in error.message) == ("bad_format", True)
    assert converted(write_folder(tmp_path / "un", one_disk(streams[0], attributes=attributes)), tmp_path / "out2")[
        0
    ] == [GUESTS[0]]


@pytest.mark.parametrize("suffix", [".ova", ".ova.gz"])
@pytest.mark.parametrize("kind", ["stream", "sparse"])
def test_a_whole_archive_may_be_packed(
    tmp_path: Path, streams: tuple[bytes, bytes], sparse: bytes, suffix: str, kind: str
) -> None:
    files = two_disks(streams) if kind == "stream" else {**one_disk(sparse)}
    path = tmp_path / f"m{suffix}"
    data = gzip.compress(tar({**files, "m.mf": manifest(files)}), 1)
    path.write_bytes(data)
    disks, result = converted(path, tmp_path / "out")
    assert disks == list(GUESTS)[: len(disks)]
    assert result.proof == f"{PROVED} (SHA256)"
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name, "out", "out-state"]  # nothing was unpacked
    for damage in (data[:-4], data[:-8] + bytes(8), data[: len(data) // 2], data + b"x"):
        path.write_bytes(damage)
        assert refused(path, tmp_path / "out2").exit_status == 8


@pytest.mark.parametrize("subformat", ["streamOptimized", "monolithicSparse"])
def test_a_lone_disk_may_be_packed(tmp_path: Path, subformat: str) -> None:
    (tmp_path / "d.vmdk.gz").write_bytes(gzip.compress(vmdk(GUESTS[0], tmp_path / "made", subformat), 1))
    assert converted(tmp_path / "d.vmdk.gz", tmp_path / "out")[0] == [GUESTS[0]]
    assert [path.name for path in (tmp_path / "out").glob("*.raw")] == ["d-disk1.raw"]
    (tmp_path / "d.ovf.gz").write_bytes(b"")
    assert refused(tmp_path / "d.ovf.gz", tmp_path / "out2").code == "unknown_input"


def test_a_stream_may_end_in_zeros(tmp_path: Path, streams: tuple[bytes, bytes]) -> None:
    (tmp_path / "d.vmdk").write_bytes(streams[0] + bytes(40_000))
    assert converted(tmp_path / "d.vmdk", tmp_path / "out")[0] == [GUESTS[0]]


def test_a_packed_archive_stops_when_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "m.ova"
    path.write_bytes(gzip.compress(tar({"junk": bytes(20 * MiB)})))
    cancel = CancelToken()
    cancel.cancel("stopped")
    with pytest.raises(Cancelled):
        convert(path, tmp_path / "out", cancel=cancel)


@pytest.mark.parametrize("href", ["disks/d.vmdk", "./disks/d.vmdk", "a/b/my%20disk.vmdk"])
def test_files_in_folders_below(tmp_path: Path, streams: tuple[bytes, bytes], href: str) -> None:
    name = href.removeprefix("./").replace("%20", " ")
    files = {"m.ovf": descriptor({href: len(streams[0])}), name: streams[0]}
    mf = manifest(files)
    disks, result = converted(write_folder(tmp_path / "in", {**files, "m.mf": mf}), tmp_path / "out")
    assert (disks, result.proof) == ([GUESTS[0]], f"{PROVED} (SHA256)")
    (tmp_path / "m.ova").write_bytes(tar({f"m/{name}": data for name, data in {**files, "m.mf": mf}.items()}))
    disks, result = converted(tmp_path / "m.ova", tmp_path / "out2")
    assert (disks, result.proof) == ([GUESTS[0]], f"{PROVED} (SHA256)")


@pytest.mark.parametrize(("told", "lies"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_the_same_however_its_accents_are_stored(
    tmp_path: Path, streams: tuple[bytes, bytes], told: Literal["NFC", "NFD"], lies: Literal["NFC", "NFD"]
) -> None:
    told_name, name = (unicodedata.normalize(form, "disqué.vmdk") for form in (told, lies))
    files = {"m.ovf": descriptor({told_name: len(streams[0])}), name: streams[0]}
    mf = manifest({"m.ovf": files["m.ovf"], told_name: streams[0]})
    disks, result = converted(write_folder(tmp_path / "in", {**files, "m.mf": mf}), tmp_path / "out")
    assert (disks, result.proof) == ([GUESTS[0]], f"{PROVED} (SHA256)")


@pytest.mark.parametrize("link", ["disks", "disks/d.vmdk", "m.mf"])
def test_no_symbolic_link_is_followed(tmp_path: Path, streams: tuple[bytes, bytes], link: str) -> None:
    path = write_folder(tmp_path / "in", {**one_disk(streams[0], "disks/d.vmdk"), "m.mf": b""})
    moved = tmp_path / "elsewhere"
    (path.parent / link).rename(moved)
    (path.parent / link).symlink_to(moved)
    error = refused(path, tmp_path / "out")
    assert (error.code, "symbolic link" in error.message) == ("bad_format", True)


def test_extents_lie_beside_the_descriptor_that_names_them(tmp_path: Path) -> None:
    text = (
        f'# Disk DescriptorFile\nversion=1\nencoding="GBK"\nCID=1\nparentCID=ffffffff\nRW {CAPACITY // 512} FLAT'
        ' "虚拟-flat.vmdk" 0\n'
    )
    for folder, name in (("utf8", "虚拟-flat.vmdk".encode()), ("bytes", "虚拟-flat.vmdk".encode("gbk"))):
        path = write_folder(tmp_path / folder, one_disk(text.encode("gbk"), "disks/d.vmdk"))
        (path.parent / "disks" / os.fsdecode(name)).write_bytes(GUESTS[0])
        assert converted(path, tmp_path / f"{folder}-out")[0] == [GUESTS[0]]
        assert converted(path.parent / "disks" / "d.vmdk", tmp_path / f"{folder}-alone")[0] == [GUESTS[0]]


def test_a_missing_extent_of_a_name_that_is_no_text_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "d.vmdk").write_bytes(b'# Disk DescriptorFile\nRW 8 FLAT "\x81-flat.vmdk" 0\n')
    error = refused(tmp_path / "d.vmdk", tmp_path / "out")
    assert (error.code, error.message.encode().decode()) == ("missing_disk_file", error.message)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_a_capacity_rounded_up_in_the_header(tmp_path: Path, subformat: str) -> None:
    """qemu-img has the same bytes, and zeros up to the end of the grain."""
    path = tmp_path / "d.vmdk"
    path.write_bytes(rounded_vmdk(GUESTS[0], tmp_path / "made", subformat))
    assert converted(path, tmp_path / "out")[0] == [GUESTS[0]]
    run_tool("qemu-img", "convert", "-O", "raw", path, tmp_path / "theirs.raw")
    assert (tmp_path / "theirs.raw").read_bytes() == GUESTS[0].ljust(-(-CAPACITY // (64 * KiB)) * 64 * KiB, b"\0")


def test_rounded_extents_of_a_split_disk(tmp_path: Path) -> None:
    parts = [GUESTS[0][: MiB + 512], GUESTS[0][MiB + 512 :]]
    lines = ""
    for number, part in enumerate(parts):
        whole = part.ljust(-(-len(part) // (64 * KiB)) * 64 * KiB, b"\0")
        (tmp_path / f"s{number}.vmdk").write_bytes(vmdk(whole, tmp_path / "made", "monolithicSparse"))
        lines += f'RW {len(part) // 512} SPARSE "s{number}.vmdk"\n'
    (tmp_path / "d.vmdk").write_text(f"# Disk DescriptorFile\nversion=1\n{lines}")
    assert converted(tmp_path / "d.vmdk", tmp_path / "out")[0] == [GUESTS[0]]


def test_a_disk_in_more_files_than_may_be_open(tmp_path: Path) -> None:
    lines = []
    for number, at in enumerate(range(0, CAPACITY, 4 * KiB)):
        part = GUESTS[0][at : at + 4 * KiB]
        (tmp_path / f"f{number}.vmdk").write_bytes(part)
        lines.append(f'RW {len(part) // 512} FLAT "f{number}.vmdk" 0\n')
    assert len(lines) > 3 * stored.MAX_OPEN
    path = tmp_path / "d.vmdk"
    path.write_text("# Disk DescriptorFile\nversion=1\n" + "".join(lines))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (is_open + stored.MAX_OPEN + 60, allowed[1]))
    try:
        assert converted(path, tmp_path / "out")[0] == [GUESTS[0]]
        path.with_name("f400.vmdk").unlink()
        assert refused(path, tmp_path / "out2").code == "missing_disk_file"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


def test_a_file_that_was_closed_and_replaced_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MAX_OPEN", 1)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    with ExitStack() as stack:
        store = stored.FolderStore(stack, stored.Pool(stack), tmp_path)
        files = [store.open(name) for name in ("a", "b")]
        assert [file.pread(1, 0) for file in files if file] == [b"a", b"b"]
        (tmp_path / "c").rename(tmp_path / "a")
        for check in (lambda: files[0] and files[0].pread(1, 0), store.check_unchanged):
            with pytest.raises(IntegrityError) as caught:
                check()
            assert (caught.value.code, caught.value.fields["file"]) == ("input_changed", "a")
        (tmp_path / "a").unlink()
        with pytest.raises(IntegrityError, match="changed"):
            store.check_unchanged()


def test_a_folder_that_cannot_be_listed_is_read_all_the_same(
    tmp_path: Path, streams: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    files = two_disks(streams)
    path = write_folder(tmp_path / "in", {**files, "m.mf": manifest(files)})
    assert convert(path, tmp_path / "out").proof == f"{PROVED} (SHA256)"
    (path.parent / "m.mf").unlink()
    result = convert(path, tmp_path / "out2")
    assert result.proof == UNPROVED_LOCAL
    assert "the only .mf looked for was m.mf" in result.warnings[0]


# --- names ------------------------------------------------------------------------------------------------------------

NAMES = ["web%2f01", "C:%5Cx", "100%0A", "50%off", "a%25b", "a#b?c", "web 01", "wéb", "%2e%2e", "a&b"]


@pytest.mark.parametrize("encoded", [True, False], ids=["now", "as earlier releases wrote it"])
@pytest.mark.parametrize("output", [OutputFormat.OVF, OutputFormat.OVA])
@pytest.mark.parametrize("name", NAMES)
def test_an_export_of_any_name_is_verified_and_converted(
    tmp_path: Path,
    streams: tuple[bytes, bytes],
    name: str,
    output: OutputFormat,
    encoded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"m.ovf": descriptor({"d.vmdk": len(streams[0])}, name=name), "d.vmdk": streams[0]}
    if not encoded:
        for module in (adapt, build):
            monkeypatch.setattr(module, "href_of", lambda name: name)
    convert(write_folder(tmp_path / "in", files), tmp_path / "out", output)
    monkeypatch.undo()
    assert verify_directory(tmp_path / "out", cancel=CancelToken()).findings == ()
    made = next((tmp_path / "out").glob(f"*.{output.value}"))
    disks, result = converted(made, tmp_path / "again")
    assert (disks, result.proof) == ([GUESTS[0]], f"{PROVED} (SHA256)")
    assert made.stem == name


# --- what is not a file -----------------------------------------------------------------------------------------------


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": make_socket,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["d.vmdk", "d.ova", "d.ovf", "d.ova.gz"])
def test_an_input_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, name: str) -> None:
    KINDS[kind](tmp_path / name)
    error = refused(tmp_path / name, tmp_path / "out")
    assert (error.code, error.exit_status) == ("input_not_a_file", 9)
    assert kind in error.message


@pytest.mark.timeout(20)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty", "/dev/null"])
def test_a_device_behind_a_link_is_refused_at_once(tmp_path: Path, device: str) -> None:
    (tmp_path / "d.vmdk").symlink_to(device)
    assert refused(tmp_path / "d.vmdk", tmp_path / "out").code == "input_not_a_file"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["m.mf", "a.vmdk"])
def test_a_file_of_the_package_that_is_none_is_refused_at_once(
    tmp_path: Path, streams: tuple[bytes, bytes], kind: str, name: str
) -> None:
    path = write_folder(tmp_path / "in", {**two_disks(streams), "m.mf": b""})
    (path.parent / name).unlink()
    KINDS[kind](path.parent / name)
    error = refused(path, tmp_path / "out")
    assert (error.code, error.fields["file"]) == ("input_not_a_file", name)


@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_pipe_after_it_was_looked_at_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.vmdk"
    path.write_bytes(b"")
    real = os.open

    def swapped(name: str | Path, *rest: int, **options: int) -> int:
        if name == path:
            path.unlink()
            os.mkfifo(path)
        return real(name, *rest, **options)

    monkeypatch.setattr(os, "open", swapped)
    assert refused(path, tmp_path / "out").code == "input_not_a_file"


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_a_disk_without_a_size_says_so(tmp_path: Path, subformat: str) -> None:
    run_tool("qemu-img", "create", "-f", "vmdk", "-o", f"subformat={subformat}", tmp_path / "d.vmdk", "0")
    error = refused(tmp_path / "d.vmdk", tmp_path / "out")
    assert (error.code, "capacity of 0 bytes" in error.message) == ("bad_format", True)


# --- any damage -------------------------------------------------------------------------------------------------------


@examples(40)
@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), cut=st.booleans(), packed=st.booleans())
def test_damage_to_a_proved_package_never_becomes_a_proof(
    tmp_path_factory: pytest.TempPathFactory,
    streams: tuple[bytes, bytes],
    position: float,
    mask: int,
    cut: bool,
    packed: bool,
) -> None:
    tmp_path = tmp_path_factory.mktemp("damaged")
    files = two_disks(streams)
    data = bytearray(tar({**files, "m.mf": manifest(files)}, tarfile.PAX_FORMAT))
    if packed:
        data = bytearray(gzip.compress(bytes(data), 1))
    at = int(position * len(data))
    if cut:
        del data[at:]
    else:
        data[at] ^= mask
    (tmp_path / "m.ova").write_bytes(data)
    proof = ""
    disks: list[Any] = []
    with contextlib.suppress(IntegrityError, TargetError):
        disks, result = converted(tmp_path / "m.ova", tmp_path / "out")
        proof = result.proof
    if proof:
        assert disks == list(GUESTS)
        assert proof.startswith(("proved: ", "unproved: "))
    else:
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.timeout(60)
def test_a_conversion_that_failed_does_not_wait_for_checksums(streams: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Of a disk of terabytes that takes an hour, while the user could be told at once that it is not what the .mf
    says."""
    texts = {"m.ovf": descriptor({"d1.vmdk": len(streams[0])}), "d1.vmdk": streams[0]}
    texts["m.mf"] = manifest({**texts, "d1.vmdk": streams[1]})
    given_up: list[bool] = []

    def endless(self: DiskFiles, record: DiskRecord, cancel: CancelToken, on_bytes: Callable[[int], None]) -> str:
        try:
            cancel.sleep(30)
        except Cancelled:
            given_up.append(True)
            raise
        return "0" * 64

    spec = ExportSpec(machine="", output_dir=tmp_path / "out", format=OutputFormat.RAW)
    with patch.object(DiskFiles, "tree", endless), pytest.raises(IntegrityError, match=r"d1\.vmdk"):
        convert_file(
            write_folder(tmp_path / "in", texts),
            spec,
            cancel=CancelToken(),
            observer=lambda _: None,
            settings=RunSettings(state=tmp_path / "state"),
        )
    assert given_up == [True]
    assert list((tmp_path / "out").iterdir()) == []
