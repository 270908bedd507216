"""Overlays: the image below stays as it is until the commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, TargetError
from hypersdk.guest.overlay import OVERLAY_FAILED, commit_overlay, create_overlay, overlay_bytes, remove_overlay
from hypersdk.guest.tools import find_tools
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB
from tests.support.tools import run_tool, sha256


@pytest.fixture(params=["qcow2", "raw"])
def image_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base(tmp_path: Path, image_format: str) -> Path:
    path = tmp_path / "disk, 1 ü.img"
    run_tool("qemu-img", "create", "-q", "-f", image_format, path, "8M")
    run_tool("qemu-io", "-f", image_format, "-c", "write -P 1 0 1M", path)
    return path


def test_changes_reach_the_image_with_the_commit(tmp_path: Path, base: Path, image_format: str) -> None:
    tools, overlay, before = find_tools(), tmp_path / "overlay.qcow2", sha256(base)
    create_overlay(tools, overlay, base, image_format)
    empty_bytes = overlay_bytes(tools, overlay)
    run_tool("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 512k", overlay)
    assert overlay_bytes(tools, overlay) >= empty_bytes + 512 * KiB
    assert sha256(base) == before
    for _again_after_a_crash in range(2):
        commit_overlay(tools, overlay, base, image_format)
    remove_overlay(overlay)
    run_tool("qemu-io", "-f", image_format, "-c", "read -P 2 0 512k", "-c", "read -P 1 512k 512k", base)
    remove_overlay(overlay)


def test_an_existing_file_is_not_replaced(tmp_path: Path, base: Path, image_format: str) -> None:
    overlay = tmp_path / "overlay.qcow2"
    overlay.write_text("other")
    with pytest.raises(TargetError):
        create_overlay(find_tools(), overlay, base, image_format)
    assert overlay.read_text() == "other"


def test_a_failure_leaves_no_overlay(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    with pytest.raises(TargetError, match="No such file") as caught:
        create_overlay(find_tools(), overlay, tmp_path / "missing.raw", "raw")
    assert caught.value.code == OVERLAY_FAILED
    assert not overlay.exists()


def test_a_cancel_ends_it(tmp_path: Path, base: Path, image_format: str) -> None:
    overlay, cancel = tmp_path / "overlay.qcow2", CancelToken()
    cancel.cancel("enough")
    with pytest.raises(Cancelled):
        create_overlay(find_tools(), overlay, base, image_format, cancel)
    assert not overlay.exists()
