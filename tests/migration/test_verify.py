"""What keeps `verify` from reading a file is a finding, with the rest of the folder still judged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypersdk.migration.convert import convert_file
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.migration.verify import verify_directory
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.tools import run_tool

IMAGE = "machine-disk1.raw"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A finished export of one small raw image."""
    raw, source, folder = tmp_path / "disk.raw", tmp_path / "machine.vmdk", tmp_path / "out"
    raw.write_bytes(os.urandom(1 * MiB) + bytes(3 * MiB))
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, source)
    spec = ExportSpec(machine="", output_dir=folder, format=OutputFormat.RAW)
    convert_file(
        source, spec, cancel=CancelToken(), observer=lambda _: None, settings=RunSettings(state=tmp_path / "state")
    )
    return folder


def found(folder: Path) -> list[tuple[str, str | None]]:
    report = verify_directory(folder, cancel=CancelToken())
    assert not report.ok
    assert IMAGE not in report.checked
    return [(finding.code, finding.file) for finding in report.findings]


def as_link(image: Path) -> None:
    image.symlink_to(image.rename(image.parent.parent / "elsewhere.raw"))


def as_folder(image: Path) -> None:
    image.unlink()
    image.mkdir()


def as_pipe(image: Path) -> None:
    image.unlink()
    os.mkfifo(image)


@pytest.mark.parametrize("replace", [as_link, as_folder, as_pipe])
def test_only_a_regular_file_is_the_image(export: Path, replace: Callable[[Path], None]) -> None:
    replace(export / IMAGE)
    assert found(export) == [("verify_not_a_file", IMAGE)]


def test_an_image_that_cannot_be_read_is_a_finding(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk under the file fails: nothing but the call itself can be made to say so."""

    real = os.pread

    def broken(descriptor: int, length: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == IMAGE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", broken)
    assert found(export) == [("verify_unreadable", IMAGE)]
