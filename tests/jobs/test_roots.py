"""Export roots: nothing outside, no link followed, one id however many ask."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from hypersdk.errors import HyperSDKError
from hypersdk.jobs.roots import ROOT_ID_FILE, ExportRoots


@pytest.mark.parametrize(
    "folder", ["/etc", "relative", "{root}/../x", "{root}x", "/", "", "{root}/a\0b", "{root}/a/../../b"]
)
def test_outside_is_refused_with_the_key_to_change(tmp_path: Path, folder: str) -> None:
    roots = ExportRoots([tmp_path / "root"])
    with pytest.raises(HyperSDKError) as caught:
        roots.of(folder.format(root=tmp_path / "root"))
    assert caught.value.code == "outside_export_roots"
    assert "export_roots" in caught.value.next_step


@pytest.mark.parametrize("place", ["link", "link/below", "real/link", "file"])
def test_no_link_is_followed_and_nothing_is_made_behind_it(tmp_path: Path, place: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    roots = ExportRoots([root])
    outside.mkdir()
    (root / "real").mkdir()
    (root / "link").symlink_to(outside)
    (root / "real" / "link").symlink_to(outside)
    (root / "file").write_text("x")
    with pytest.raises(HyperSDKError) as caught, roots.opened(root / place, create=True):
        pass
    assert caught.value.code == "folder_is_link"
    assert list(outside.iterdir()) == []


def test_what_is_opened_stays_the_same_folder(tmp_path: Path) -> None:
    roots = ExportRoots([tmp_path])
    with roots.opened(tmp_path / "a" / "b", create=True) as descriptor:
        (tmp_path / "a").rename(tmp_path / "moved")
        (tmp_path / "a").symlink_to("/nonexistent")
        Path(f"/proc/self/fd/{descriptor}/file").write_text("x")
    assert (tmp_path / "moved" / "b" / "file").read_text() == "x"


def test_the_longest_root_counts(tmp_path: Path) -> None:
    roots = ExportRoots([tmp_path, tmp_path / "inner"])
    assert roots.of(tmp_path / "inner" / "x").path == tmp_path / "inner"
    assert len(roots.ids) == 2


def _id(root: Path) -> str:
    return ExportRoots([root]).ids[0]


def test_processes_that_start_at_once_agree_on_the_id(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert len(set(pool.map(_id, [tmp_path] * 32))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [ROOT_ID_FILE]
