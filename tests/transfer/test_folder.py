"""A folder that is held: what it says of itself after others renamed, removed or replaced it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.errors import TargetError
from hypersdk.transfer.folder import CHECK_INTERVAL_S, OutputFolder


@pytest.fixture
def named(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


@pytest.fixture
def held(named: Path) -> Iterator[OutputFolder]:
    with OutputFolder.opened(named, named) as folder:
        yield folder


def refused(held: OutputFolder) -> TargetError:
    with pytest.raises(TargetError) as caught:
        held.check()
    return caught.value


def test_a_folder_that_is_left_alone_passes(held: OutputFolder, named: Path) -> None:
    held.check()
    (held.path / "disk").write_bytes(b"image")
    assert (named / "disk").read_bytes() == b"image"


def test_without_proc_the_folder_is_reached_by_its_name_and_watched_all_the_same(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypersdk.transfer.folder._OPEN_FILES", tmp_path / "no-proc" / "fd")
    with OutputFolder.opened(named, named) as held:
        held.check()
        (held.path / "disk").write_bytes(b"image")
        named.rename(tmp_path / "elsewhere")
        assert refused(held).code == "folder_removed"
        named.mkdir()
        assert refused(held).code == "folder_removed", "another folder of that name is not this one"


def test_a_link_that_the_user_named_may_lead_elsewhere_as_long_as_it_leads_here(tmp_path: Path, named: Path) -> None:
    link, other = tmp_path / "link", tmp_path / "other"
    other.mkdir()
    link.symlink_to(named)
    with OutputFolder.opened(link, link) as held:
        held.check()
        link.unlink()
        link.symlink_to(other)
        assert refused(held).fields["moved_to"] == str(named), (
            "it is where it was, and has lost the name that was given"
        )


def test_a_moved_folder_is_told_with_its_place_and_files_go_on_into_it(
    held: OutputFolder, named: Path, tmp_path: Path
) -> None:
    named.rename(tmp_path / "new name")
    named.mkdir()
    (held.path / "disk").write_bytes(b"image")
    assert (tmp_path / "new name" / "disk").read_bytes() == b"image"
    assert list(named.iterdir()) == []
    error = refused(held)
    assert (error.code, error.fields["folder"]) == ("folder_moved", str(named))
    assert error.fields["moved_to"] == str(tmp_path / "new name")


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
def test_a_removed_folder_is_told_and_takes_no_file(again: bool, held: OutputFolder, named: Path) -> None:
    named.rmdir()
    if again:
        named.mkdir()
        (named / "disk").write_bytes(b"another")
    assert refused(held).code == "folder_removed"
    assert not (held.path / "disk").exists()
    with pytest.raises(FileNotFoundError):
        (held.path / "disk2").write_bytes(b"image")


def test_a_folder_whose_name_says_deleted_is_not_taken_for_one(held: OutputFolder, named: Path) -> None:
    named.rename(named.with_name("out (deleted)"))
    assert refused(held).code == "folder_moved"


def test_a_file_in_the_place_of_the_folder(held: OutputFolder, named: Path) -> None:
    named.rename(named.with_name("moved"))
    named.write_bytes(b"")
    assert refused(held).code == "folder_moved"


def test_the_lock_is_looked_at_while_it_is_held(held: OutputFolder, named: Path) -> None:
    lock = named / "lock"
    lock.touch()
    descriptor = os.open(lock, os.O_RDWR)
    with held.locked_by(held.path / "lock", descriptor):
        held.check()
        lock.unlink()
        lock.touch()  # another process's
        assert not held.has_lock
        assert refused(held).code == "folder_taken"
    os.close(descriptor)
    held.check()


def test_a_look_is_taken_every_few_seconds_only(named: Path) -> None:
    now, looked = [100.0], []

    def locate(path: Path) -> os.stat_result:
        looked.append(now[0])
        return path.stat()

    descriptor = os.open(named, os.O_RDONLY)
    held = OutputFolder(descriptor, named, locate, clock=lambda: now[0])
    for tenth in range(201):
        now[0] = 100 + tenth / 10
        held.check_sometimes()
    os.close(descriptor)
    assert looked == [100 + CHECK_INTERVAL_S * count for count in range(1, 5)]


def test_an_error_becomes_what_was_done_to_the_folder(held: OutputFolder, named: Path) -> None:
    with pytest.raises(TargetError) as caught, held.explaining():
        raise TargetError("writing disk failed", not_undone=["snapshot"])
    assert caught.value.code == "target_failed", "nothing was done to it"
    named.rmdir()
    with pytest.raises(TargetError) as caught, held.explaining():
        raise TargetError("writing disk failed", not_undone=["cdrom"], kept_snapshot="hypersdk-1", errno="ENOENT")
    assert caught.value.code == "folder_removed"
    assert caught.value.fields["not_undone"] == ["cdrom"]
    assert caught.value.fields["kept_snapshot"] == "hypersdk-1"
    assert "errno" not in caught.value.fields
    assert caught.value.__cause__ is not None
