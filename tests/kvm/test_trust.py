"""Folders in which others could replace an image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypersdk.errors import Refused
from hypersdk.kvm.trust import check_trusted

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "exports" / "web-01"
    found.mkdir(parents=True)
    return found


def refused(folder: Path, **environ: str) -> tuple[list[str], str]:
    with pytest.raises(Refused) as caught:
        check_trusted(folder, environ)
    assert caught.value.code == "folder_untrusted"
    folders = caught.value.fields["folders"]
    assert isinstance(folders, list)
    return folders, str(caught.value.remedies[0])


def test_a_folder_of_this_user(folder: Path) -> None:
    check_trusted(folder, {})
    check_trusted(folder / "not" / "yet", {})


@pytest.mark.parametrize("which", ["folder", "above"])
def test_everybody_may_write(folder: Path, which: str) -> None:
    path = folder if which == "folder" else folder.parent
    path.chmod(0o757)
    folders, advice = refused(folder)
    assert folders == [str(path)]
    assert f"chmod go-w {path}" in advice
    path.chmod(0o1777)
    check_trusted(folder, {})


@needs_root
def test_a_group_may_write(folder: Path) -> None:
    folder.chmod(0o775)
    check_trusted(folder, {})  # root's own
    os.chown(folder, 0, NOBODY)
    assert refused(folder)[0] == [str(folder)]
    folder.chmod(0o755)
    check_trusted(folder, {})


@needs_root
def test_it_belongs_to_another_user(folder: Path) -> None:
    os.chown(folder.parent, NOBODY, 0)
    folders, advice = refused(folder)
    assert folders == [str(folder.parent)]
    assert f"chown 0 {folder.parent}" in advice
    check_trusted(folder, {"SUDO_UID": str(NOBODY)})
    assert refused(folder, SUDO_UID="1")[0] == [str(folder.parent)]


@needs_root
def test_a_link_of_another_user_leads_there(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    check_trusted(link, {})
    os.lchown(link, NOBODY, NOBODY)
    assert refused(link)[0] == [str(link)]
