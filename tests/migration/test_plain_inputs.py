"""qcow2 and raw images as inputs of a conversion, written by qemu-img."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hypersdk.errors import HyperSDKError
from hypersdk.migration.convert import convert_file
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from tests.support.seeds import SEED
from tests.support.tools import run_tool

CAPACITY = 9 * MiB + 512


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Data at drawn places, holes, and blocks of zeros that are stored."""
    chance, path = random.Random(SEED), tmp_path / "disk.raw"
    with path.open("wb") as file:
        for _ in range(40):
            file.seek(chance.randrange(CAPACITY - 128 * KiB))
            size = chance.randrange(1, 128 * KiB)
            file.write(chance.randbytes(size) if chance.random() < 0.7 else bytes(size))
        file.truncate(CAPACITY)
    return path


def converted(path: Path, folder: Path, output: OutputFormat) -> ExportResult:
    spec = ExportSpec(machine="", output_dir=folder, format=output)
    settings = RunSettings(state=folder.parent / "state")
    return convert_file(path, spec, cancel=CancelToken(), observer=lambda _: None, settings=settings)


def same(one: Path, kind: str, other: Path, other_kind: str) -> None:
    run_tool("qemu-img", "compare", "-f", kind, "-F", other_kind, one, other)


@pytest.mark.parametrize("output", [OutputFormat.QCOW2, OutputFormat.RAW])
def test_a_raw_image_is_read_without_its_holes(tmp_path: Path, raw: Path, output: OutputFormat) -> None:
    result = converted(raw, tmp_path / "out", output)
    same(raw, "raw", tmp_path / "out" / f"disk-disk1.{output}", output.value)
    assert result.wire_bytes < CAPACITY


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("compat=1.1", ()),
        ("compat=0.10", ()),
        ("compat=1.1,cluster_size=512", ()),
        ("compat=1.1,cluster_size=2M", ()),
        ("compat=1.1", ("-c",)),
        ("compat=1.1,cluster_size=4k", ("-c",)),
    ],
)
def test_a_qcow2_image_of_any_layout_is_read(tmp_path: Path, raw: Path, options: str, more: tuple[str, ...]) -> None:
    image = tmp_path / "web.qcow2"
    run_tool("qemu-img", "convert", "-O", "qcow2", "-o", options, *more, raw, image)
    converted(image, tmp_path / "out", OutputFormat.QCOW2)
    same(raw, "raw", tmp_path / "out" / "web-disk1.qcow2", "qcow2")


def test_an_image_that_is_not_a_whole_disk_is_refused(tmp_path: Path, raw: Path) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    run_tool("qemu-img", "convert", "-O", "qcow2", raw, base)
    run_tool("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay)
    torn, empty = tmp_path / "torn.qcow2", tmp_path / "empty.img"
    torn.write_bytes(base.read_bytes()[: 300 * KiB])
    empty.touch()
    codes = {"overlay": "image_has_backing_file", "torn": "unreadable_image", "empty": "bad_format"}
    for path in (overlay, torn, empty):
        with pytest.raises(HyperSDKError) as caught:
            converted(path, tmp_path / "out", OutputFormat.QCOW2)
        assert caught.value.code == codes[path.stem]
        assert list((tmp_path / "out").glob("*")) == []
