"""Images get their place without replacing anything."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest

from hypersdk.errors import Cancelled, TargetError
from hypersdk.kvm.imagefile import clone, copy, drop_name, give_name, inode_of
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    with path.open("wb") as file:
        file.write(b"a" * MiB)
        file.seek(60 * MiB)
        file.write(b"z" * 5)
        file.truncate(80 * MiB + 1)
    return path


def test_a_copy_has_the_bytes_and_the_holes(image: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    copy(image, tmp_path / "copy", report=seen.append, cancel=CancelToken())
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 2 * MiB
    assert seen == sorted(seen)
    assert MiB < seen[-1] < 2 * MiB, "data, not holes"


def test_a_cancelled_copy_is_incomplete(image: Path, tmp_path: Path) -> None:
    cancel = CancelToken()
    cancel.cancel("test")
    with pytest.raises(Cancelled):
        copy(image, tmp_path / "copy", report=print, cancel=cancel)


def test_a_file_system_without_clones_leaves_no_file(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "ioctl", refused)
    assert clone(image, tmp_path / "clone") is False
    assert not (tmp_path / "clone").exists()


def test_a_clone_is_asked_of_the_kernel_with_both_files(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 has no clones; what btrfs and XFS do is done here by the test."""

    def cloned(target: int, request: int, source: int) -> None:
        assert request == 0x40049409
        Path(f"/proc/self/fd/{target}").write_bytes(Path(f"/proc/self/fd/{source}").read_bytes())

    monkeypatch.setattr(fcntl, "ioctl", cloned)
    assert clone(image, tmp_path / "clone") is True
    assert (tmp_path / "clone").read_bytes() == image.read_bytes()
    assert image.exists()


def test_a_name_that_exists_is_not_replaced(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    with pytest.raises(TargetError) as caught:
        give_name(image, other)
    assert caught.value.code == "name_in_use"
    assert other.read_bytes() == b"precious"


def test_a_rename_in_two_steps_is_always_one_of_both(image: Path, tmp_path: Path) -> None:
    inode = inode_of(image)
    give_name(image, tmp_path / "new")
    assert inode_of(image) == inode_of(tmp_path / "new") == inode
    drop_name(image)
    drop_name(image)
    assert inode_of(image) is None
    assert inode_of(tmp_path / "new") == inode
