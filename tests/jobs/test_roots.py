"""Export roots: nothing outside, no link followed, one id however many ask."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hypersdk.errors import HyperSDKError, TargetError
from hypersdk.jobs.remedies import next_step
from hypersdk.jobs.roots import ROOT_ID_FILE, ExportRoots


@pytest.mark.parametrize(
    "folder", ["/etc", "relative", "{root}/../x", "{root}x", "/", "", "{root}/a\0b", "{root}/a/../../b"]
)
def test_outside_is_refused_with_the_key_to_change(tmp_path: Path, folder: str) -> None:
    roots = ExportRoots([tmp_path / "root"])
    with pytest.raises(HyperSDKError) as caught:
        roots.of(folder.format(root=tmp_path / "root"))
    assert caught.value.code == "outside_export_roots"
    assert "export_roots" in next_step(caught.value)


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


def test_folders_let_others_through_whatever_the_umask(tmp_path: Path) -> None:
    """QEMU's user has to reach an image that a landed machine uses. Folders that were there are left as they are."""
    roots = ExportRoots([tmp_path])
    (tmp_path / "old").mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        with roots.opened(tmp_path / "old" / "batch" / "web-01", create=True):
            pass
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o7777 for name in ("old", "old/batch", "old/batch/web-01")]
    assert modes == [0o700, 0o701, 0o701]


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


FOREIGN = "f" * 32


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o644)


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text(FOREIGN)
    path.symlink_to(path.parent / "elsewhere")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def _junk(path: Path) -> None:
    path.write_text("junk")
    path.chmod(0o644)


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _writable(path: Path) -> None:
    path.write_text(FOREIGN)
    path.chmod(0o666)


def _by_the_group(path: Path) -> None:
    path.write_text(FOREIGN)
    path.chmod(0o664)


BAD: list[Callable[[Path], None]] = [_fifo, _link, _dangling, _junk, _folder, _socket, _writable, _by_the_group]


@pytest.mark.parametrize("plant", BAD)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.timeout(30)
def test_a_root_whose_file_cannot_be_trusted_is_left_out_and_the_others_work(
    tmp_path: Path, plant: Callable[[Path], None], shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o1777 if shared else 0o755)
    plant(root / (_own_name() if shared else ROOT_ID_FILE))
    with caplog.at_level(logging.WARNING):
        roots = ExportRoots([tmp_path / "good", root])
    assert [one.path for one in roots.roots] == [tmp_path / "good"]
    assert f"{root} is left out" in caplog.text
    with pytest.raises(HyperSDKError) as caught:
        roots.of(root / "web-01")
    assert caught.value.code == "export_root_left_out"
    assert ROOT_ID_FILE in caught.value.message


def _own_name() -> str:
    return f"{ROOT_ID_FILE}-{os.geteuid()}"


def _as_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the file belongs to somebody else, and neither to us nor to root."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        return
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        here = path.lstat()
        if (found.st_dev, found.st_ino) != (here.st_dev, here.st_ino):
            return found
        return os.stat_result([*found[:4], 12345, *found[5:]])

    monkeypatch.setattr(os, "fstat", fstat)


def test_in_a_shared_folder_another_user_chooses_no_id_and_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / ROOT_ID_FILE).write_text(FOREIGN)
    roots = ExportRoots([tmp_path])
    assert roots.ids != [FOREIGN]
    assert (tmp_path / _own_name()).read_text().strip() == roots.ids[0] == _id(tmp_path)
    (tmp_path / _own_name()).write_text(FOREIGN)
    _as_another(tmp_path / _own_name(), monkeypatch)
    with pytest.raises(HyperSDKError) as caught:
        ExportRoots([tmp_path])
    assert (caught.value.code, "belongs to another user" in caught.value.message) == ("export_root_left_out", True)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o770, 0o2775])
def test_hosts_agree_on_the_id_although_their_uids_differ(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(mode)
    first = _id(tmp_path)
    _as_another(tmp_path / ROOT_ID_FILE, monkeypatch)
    assert _id(tmp_path) == first
    if mode & 0o020:
        (tmp_path / ROOT_ID_FILE).chmod(0o664)
        assert _id(tmp_path) == first, "the group may write here anyway"


def test_the_id_can_be_read_under_another_uid_whatever_the_umask(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from hypersdk.jobs.roots import ExportRoots; os.umask(0o077);"
        " ExportRoots([Path(sys.argv[1])])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, timeout=60)
    assert (tmp_path / ROOT_ID_FILE).stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be another user in another group")
def test_a_root_of_roots_is_open_to_a_user_of_its_group_alone() -> None:
    """What docs/daemon.md has administrators do for the packaged service, whose user is in no group by itself."""
    group, user = 61235, 61234
    folder = Path(tempfile.mkdtemp())  # pytest's own is root's alone
    try:
        folder.chmod(0o755)
        root = folder / "images"
        root.mkdir()
        os.chown(root, 0, group)
        root.chmod(0o2770)
        code = (
            "import os, sys; from pathlib import Path; from hypersdk.jobs.roots import ExportRoots\n"
            f"os.setgroups([int(one) for one in sys.argv[2:]]); os.setgid({user}); os.setuid({user}); os.umask(0o027)\n"
            "root = Path(sys.argv[1])\n"
            "with ExportRoots([root]).opened(root / 'web-01', create=True): pass"
        )
        alone, member = (
            subprocess.run([sys.executable, "-c", code, root, *groups], capture_output=True, text=True, timeout=60)
            for groups in ([], [str(group)])
        )
        assert "Permission denied" in alone.stderr
        assert member.returncode == 0, member.stderr
        made = (root / "web-01").stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (user, group, 0o2751)
    finally:
        shutil.rmtree(folder)


def test_without_a_root_that_can_be_used_there_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HyperSDKError) as caught:
        ExportRoots([tmp_path / "file"])
    assert str(tmp_path / "file") in caught.value.message


def test_a_root_that_was_left_out_is_no_part_of_the_root_around_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    _fifo(tmp_path / "inner" / ROOT_ID_FILE)
    roots = ExportRoots([tmp_path, tmp_path / "inner"])
    assert roots.of(tmp_path / "other").path == tmp_path
    with pytest.raises(HyperSDKError) as caught:
        roots.of(tmp_path / "inner" / "x")
    assert caught.value.code == "export_root_left_out"


def test_a_good_root_inside_of_one_that_was_left_out_is_used(tmp_path: Path) -> None:
    _fifo(tmp_path / ROOT_ID_FILE)
    roots = ExportRoots([tmp_path, tmp_path / "inner"])
    assert roots.of(tmp_path / "inner" / "x").path == tmp_path / "inner"


@pytest.mark.parametrize("where", ["root", "above", "folder"])
def test_a_link_that_takes_the_place_of_a_folder_is_not_followed(where: str, tmp_path: Path) -> None:
    """Also where the root itself is replaced after the start, and though the link leads to the very same folder."""
    root = tmp_path / "exports"
    roots = ExportRoots([root])
    folder = root / "team" / "web"
    folder.mkdir(parents=True)
    found = roots.locate(folder)
    assert found is not None
    assert os.path.samestat(found, folder.stat())
    place = {"root": root, "above": folder.parent, "folder": folder}[where]
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    assert folder.is_dir()
    assert roots.locate(folder) is None
    with pytest.raises(TargetError), roots.opened(folder, create=True):
        pass
    place.unlink()
    assert roots.locate(folder) is None
