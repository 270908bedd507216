"""The guest's bytes in images of any program: raw, qcow2, VMDK."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import HyperSDKError, IntegrityError, TargetError
from hypersdk.formats.guestdisk import TableKind
from hypersdk.formats.qcow2.reader import Qcow2Reader
from hypersdk.formats.qcow2.writer import Compression, Qcow2Writer
from hypersdk.landing.reading import ImageName, layout_of, opened_image
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import KiB, MiB
from tests.support.guestdisks import empty, make_uefi_disk, put
from tests.support.tools import run_tool

SIZE = 9 * MiB + 512


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with data that shrinks, data that does not, zeros that are written, and holes; of odd size."""
    path = empty(tmp_path_factory.mktemp("images") / "disk.raw", SIZE)
    chance = random.Random(7)
    put(path, 0, b"it shrinks " * 6000)
    put(path, 1 * MiB + 512, chance.randbytes(200 * KiB))
    put(path, 5 * MiB, bytes(70 * KiB))
    put(path, SIZE - 1000, chance.randbytes(1000))
    return path


QCOW2 = {
    "plain": (),
    "version-2": ("-o", "compat=0.10"),
    "compressed": ("-c",),
    "compressed-version-2": ("-c", "-o", "compat=0.10"),
    "clusters-of-512": ("-o", "cluster_size=512"),
    "clusters-of-2M": ("-o", "cluster_size=2M"),
    "compressed-clusters-of-2M": ("-c", "-o", "cluster_size=2M"),
    "compressed-clusters-of-4K": ("-c", "-o", "cluster_size=4k"),
    "small-refcounts": ("-o", "refcount_bits=1"),
    "written-zeros": ("-S", "0"),
}


def converted(raw: Path, target: Path, *options: str) -> Path:
    """By qemu-img, into the format that the name tells."""
    run_tool("qemu-img", "convert", "-f", "raw", "-O", target.suffix[1:], *options, raw, target)
    return target


def assert_reads_as(image: Path, raw: Path, image_format: ImageName | None = None) -> None:
    """The image has the bytes of the raw disk, wherever it is read."""
    expected = raw.read_bytes()
    chance = random.Random(11)
    with opened_image(image, image_format) as reader:
        assert reader.size == len(expected)
        assert reader.read(0, len(expected)) == expected
        for _ in range(200):
            offset = chance.randrange(len(expected))
            length = chance.choice((1, 8, 512, 4096, 70 * KiB, 3 * MiB))
            assert reader.read(offset, length) == expected[offset : offset + length]
        assert reader.read(len(expected), 1) == b""
        assert reader.read(len(expected) + 7, 1) == b""


@pytest.mark.parametrize("options", QCOW2.values(), ids=QCOW2)
def test_qcow2_of_qemu_img(raw: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert_reads_as(converted(raw, tmp_path / "disk.qcow2", *options), raw)


def test_clusters_that_were_made_zero(raw: Path, tmp_path: Path) -> None:
    image = converted(raw, tmp_path / "disk.qcow2")
    run_tool("qemu-io", "-f", "qcow2", "-c", "write -z 0 64k", "-c", "discard 1M 64k", image)
    again = tmp_path / "again.raw"
    run_tool("qemu-img", "convert", "-O", "raw", image, again)
    assert again.read_bytes()[: 64 * KiB] == bytes(64 * KiB)
    assert_reads_as(image, again)


@pytest.mark.parametrize("compression", get_args(Compression))
def test_qcow2_of_our_own_writer(raw: Path, tmp_path: Path, compression: Compression) -> None:
    image = empty(tmp_path / "disk.qcow2", 0)
    descriptor = os.open(image, os.O_RDWR)
    writer = Qcow2Writer.create(FdFile(descriptor), SIZE, compression=compression)
    writer.write(0, raw.read_bytes())
    writer.finish()
    os.close(descriptor)
    assert_reads_as(image, raw)


@pytest.mark.parametrize("options", [(), ("-o", "subformat=streamOptimized")], ids=["sparse", "stream"])
def test_vmdk_of_qemu_img(raw: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert_reads_as(converted(raw, tmp_path / "disk.vmdk", *options), raw)


def test_raw(raw: Path, tmp_path: Path) -> None:
    assert_reads_as(raw, raw)
    image = tmp_path / "disk.img"
    image.symlink_to(raw)
    assert_reads_as(image, raw)


def test_the_content_tells_the_format_only_where_the_name_does_not(raw: Path, tmp_path: Path) -> None:
    image = converted(raw, tmp_path / "disk.qcow2")
    unnamed = image.rename(tmp_path / "disk.img")
    assert_reads_as(unnamed, raw)
    forged = unnamed.rename(tmp_path / "disk.raw")
    assert_reads_as(forged, forged)
    assert_reads_as(forged, raw, "qcow2")


@pytest.fixture(scope="module")
def uefi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_uefi_disk(tmp_path_factory.mktemp("uefi"), "EFI/BOOT/BOOTX64.EFI", "EFI/debian/shimx64.efi")


@pytest.mark.parametrize(
    "options", [("qcow2",), ("qcow2", "-c"), ("vmdk", "-o", "subformat=streamOptimized")], ids=" ".join
)
def test_the_layout_is_that_of_the_raw_disk(uefi: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    expected = layout_of(uefi)
    assert expected.table is TableKind.GPT
    assert expected.partitions[0].content.efi is not None
    assert layout_of(converted(uefi, tmp_path / f"disk.{options[0]}", *options[1:])) == expected


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(image: Path) -> HyperSDKError:
    with pytest.raises(HyperSDKError) as caught:
        layout_of(image)
    return caught.value


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("-o", "compression_type=zstd", "-c"), "zstd"),
        (("-o", "extended_l2=on"), "subclusters"),
    ],
    ids=["zstd", "subclusters"],
)
def test_features_that_are_not_read_are_named(raw: Path, tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    error = refusal(converted(raw, tmp_path / "disk.qcow2", *options))
    assert isinstance(error, IntegrityError)
    assert error.code == "unreadable_image"
    assert word in error.message


def test_an_encrypted_image_is_refused(raw: Path, tmp_path: Path) -> None:
    image = converted(raw, tmp_path / "disk.qcow2")
    put(image, 32, struct.pack(">I", 2))  # qemu-img measures the time of its key derivation: a busy machine fails it
    assert "encrypted" in refusal(image).message


def test_an_overlay_is_refused(raw: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, overlay)
    assert refusal(overlay).code == "image_has_backing_file"


def test_data_in_another_file_is_refused(raw: Path, tmp_path: Path) -> None:
    image = converted(raw, tmp_path / "disk.qcow2", "-o", f"data_file={tmp_path / 'data'}")
    assert "in another file" in refusal(image).message


def test_a_disk_in_several_files_is_refused(raw: Path, tmp_path: Path) -> None:
    image = converted(raw, tmp_path / "disk.vmdk", "-o", "subformat=twoGbMaxExtentFlat")
    error = refusal(image)
    assert error.code == "bad_format"
    assert "several files" in error.message


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.raw").code == "unreadable_input"
    assert refusal(tmp_path).code == "input_not_a_file"
    assert isinstance(refusal(tmp_path), TargetError)


@pytest.mark.parametrize("size", [0, 3, 71, 104, 200])
def test_a_header_that_ends_early_is_refused(raw: Path, tmp_path: Path, size: int) -> None:
    image = converted(raw, tmp_path / "disk.qcow2")
    image.write_bytes(image.read_bytes()[:size])
    assert refusal(image).code == "unreadable_image"


def test_an_image_that_ends_early_is_refused_where_it_is_read(raw: Path, tmp_path: Path) -> None:
    image = converted(raw, tmp_path / "disk.qcow2")
    image.write_bytes(image.read_bytes()[: 5 * 64 * KiB])
    assert refusal(image).code == "unreadable_image"


class Bytes:
    """A ReadableFile in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, length: int, offset: int) -> bytes:
        """See ReadableFile."""
        assert 0 <= length <= 4 * MiB
        assert offset >= 0
        return self._data[offset : offset + length]

    def size(self) -> int:
        """See ReadableFile."""
        return len(self._data)


@pytest.fixture(scope="module")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("small")
    disk = empty(folder / "disk.raw", 1 * MiB)
    put(disk, 0, b"text " * 30_000)
    return [
        converted(disk, folder / f"{number}.qcow2", *options).read_bytes()
        for number, options in enumerate(((), ("-c",), ("-o", "cluster_size=512"), ("-c", "-o", "compat=0.10")))
    ]


@given(data=st.data())
def test_a_mutated_image_is_read_or_refused(small_images: list[bytes], data: st.DataObject) -> None:
    image = bytearray(data.draw(st.sampled_from(small_images)))
    for at, value in data.draw(
        st.lists(
            st.tuples(st.integers(0, 103) | st.integers(0, len(image) - 8), st.integers(0, 255)), min_size=1, max_size=8
        )
    ):
        image[at] = value
    try:
        reader = Qcow2Reader(Bytes(bytes(image)))
        for offset in (0, 64 * KiB, max(0, reader.size - 4096)):
            assert len(reader.read(offset, 4096)) <= 4096
    except IntegrityError as error:
        assert error.code in ("unreadable_image", "image_has_backing_file")  # noqa: PT017 - others fail the test


def test_absurd_sizes_are_refused(small_images: list[bytes]) -> None:
    for at, value in ((24, 1 << 62), (36, 1 << 31)):
        image = bytearray(small_images[0])
        image[at : at + 8] = struct.pack(">Q", value) if at == 24 else struct.pack(">I", value) + image[40:44]
        with pytest.raises(IntegrityError):
            Qcow2Reader(Bytes(bytes(image)))
