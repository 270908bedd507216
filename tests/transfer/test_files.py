from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
import stat
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, TargetError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import (
    NotRegularError,
    open_output,
    open_regular,
    publish,
    sha256_of,
    shown_path,
    target_error,
    write_atomic,
    write_held,
)
from hypersdk.units import MiB


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_atomic_write_keeps_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(TargetError) as raised:
        write_atomic(path, b"new")
    assert raised.value.fields["errno"] == "EISDIR"
    assert list(tmp_path.iterdir()) == [path]


def test_a_fresh_output_is_new_and_private(tmp_path: Path) -> None:
    path = tmp_path / "disk.partial"
    path.write_bytes(b"another")
    other = tmp_path / "link"
    os.link(path, other)
    handle = open_output(path, fresh=True)
    os.write(handle, b"mine")
    os.close(handle)
    assert other.read_bytes() == b"another", "what lay there is given up, not written over"
    assert mode_of(path) & 0o007 == 0


def test_a_link_in_the_place_of_the_output_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = tmp_path / "disk.partial"
    path.symlink_to(victim)
    with pytest.raises(TargetError):
        open_output(path, fresh=False)
    os.close(open_output(path, fresh=True))
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()


def test_publish_moves_the_name(tmp_path: Path) -> None:
    partial, final = tmp_path / "disk.partial", tmp_path / "disk"
    handle = open_output(partial, fresh=True)
    os.write(handle, b"image")
    publish(handle, partial, final)
    os.close(handle)
    assert final.read_bytes() == b"image"
    assert not partial.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_only_a_file_of_ours_is_published(tmp_path: Path, kind: str) -> None:
    partial, final, victim = tmp_path / "disk.partial", tmp_path / "disk", tmp_path / "victim"
    victim.write_bytes(b"precious")
    handle = open_output(partial, fresh=True)
    partial.unlink()
    if kind == "link":
        partial.symlink_to(victim)
    else:
        os.mkfifo(partial)
    with pytest.raises(TargetError) as caught:
        publish(handle, partial, final)
    os.close(handle)
    assert caught.value.code == "output_replaced"
    assert not final.exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.timeout(20)
def test_a_fifo_in_the_place_of_the_output_is_not_waited_for(tmp_path: Path, fresh: bool) -> None:
    path = tmp_path / "disk.partial"
    os.mkfifo(path)
    if fresh:
        os.close(open_output(path, fresh=True))
        assert path.is_file()
        return
    with pytest.raises(TargetError, match="not a regular file"):
        open_output(path, fresh=False)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("folder", "a folder"),
        ("fifo", "a pipe"),
        ("socket", "a socket"),
        ("device", "a device"),
        ("link", "a symbolic link"),
    ],
)
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_named_and_never_opened(
    kind: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                monkeypatch.chdir(tmp_path)  # a socket's address is short
                listening.bind("there")
        case "device":
            path = Path("/dev/null")
        case _:
            (tmp_path / "file").touch()
            path.symlink_to("file")
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *args, **more: (opened.append(args), real(*args, **more))[1])
    folder = real(tmp_path, os.O_PATH)
    try:
        for act in (
            lambda: open_regular(path),
            lambda: open_regular(path.name if kind != "device" else path, folder=folder),
            lambda: open_regular(path, os.O_RDWR | os.O_CREAT),
        ):
            with pytest.raises(NotRegularError) as caught:
                act()
            assert caught.value.kind == told
    finally:
        os.close(folder)
    assert opened == []


@pytest.mark.parametrize("kind", ["link", "fifo"])
@pytest.mark.timeout(20)
def test_what_takes_the_place_of_a_file_as_it_is_opened_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "there", tmp_path / "other"
    path.touch()
    other.touch()
    real = os.open

    def late(*args: object, **more: object) -> int:
        path.unlink()
        path.symlink_to(other) if kind == "link" else os.mkfifo(path)
        return real(*args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", late)
        before = set(Path("/proc/self/fd").iterdir())
        with pytest.raises(OSError):
            open_regular(path)
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_lock_that_is_not_there_is_made_and_a_link_is_followed_where_the_user_named_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "lock")
    os.close(open_regular(tmp_path / "lock", os.O_RDWR | os.O_CREAT, mode=0o600))
    assert mode_of(tmp_path / "lock") == 0o600
    (tmp_path / "link").symlink_to("lock")
    os.close(open_regular(tmp_path / "link", follow=True))


def test_another_file_of_the_same_name_is_not_published(tmp_path: Path) -> None:
    partial, final = tmp_path / "disk.partial", tmp_path / "disk"
    handle = open_output(partial, fresh=True)
    os.write(handle, b"mine")
    partial.unlink()
    partial.write_bytes(b"yours")
    with pytest.raises(TargetError) as caught:
        publish(handle, partial, final)
    assert caught.value.code == "output_replaced"
    assert (partial.read_bytes(), final.exists()) == (b"yours", False)
    assert sha256_of(handle, "disk", CancelToken()) == hashlib.sha256(b"mine").hexdigest()
    os.close(handle)


@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "with --force"])
def test_another_file_that_comes_between_the_look_and_the_rename_gets_its_name_back(
    tmp_path: Path, old: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, final = tmp_path / "disk.partial", tmp_path / "disk"
    handle = open_output(partial, fresh=True)
    os.write(handle, b"mine")
    if old is not None:
        final.write_bytes(old)
    replace = Path.replace

    def late(path: Path, target: Path) -> Path:
        partial.unlink()
        partial.write_bytes(b"yours")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", late)
        with pytest.raises(TargetError) as caught:
            publish(handle, partial, final)
    os.close(handle)
    assert caught.value.code == "output_replaced"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"disk.partial": b"yours"}


def test_a_small_file_that_is_not_to_be_written_after_all_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b"theirs")

    def refuse() -> None:
        raise TargetError("not ours any more")

    with pytest.raises(TargetError, match="not ours any more"):
        write_held(path, b"mine", check=refuse)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"manifest.json": b"theirs"}


def test_two_writers_of_one_small_file_never_publish_half_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both use the same name on the way: whoever comes second takes it, and the first is told."""
    path, fsync = tmp_path / "manifest.json", os.fsync
    halves: list[int] = []

    def late(handle: int) -> None:
        if not halves:
            halves.append(open_output(tmp_path / ".manifest.json.new", fresh=True))
            os.write(halves[0], b"ha")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(TargetError) as caught:
        write_atomic(path, b"mine")
    assert caught.value.code == "output_replaced"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {".manifest.json.new": b"ha"}
    os.close(halves[0])


def test_publish_of_nothing_is_an_error(tmp_path: Path) -> None:
    handle = open_output(tmp_path / "disk.partial", fresh=True)
    (tmp_path / "disk.partial").unlink()
    with pytest.raises(TargetError) as caught:
        publish(handle, tmp_path / "disk.partial", tmp_path / "disk")
    os.close(handle)
    assert caught.value.code == "output_replaced"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "no_space"),
        (errno.EDQUOT, "no_space"),
        (errno.EACCES, "target_denied"),
        (errno.EROFS, "target_denied"),
        (errno.EIO, "target_failed"),
    ],
)
def test_errors_are_named(number: int, code: str) -> None:
    error = target_error(OSError(number, "x"), "writing disk.qcow2")
    assert error.code == code
    assert "writing disk.qcow2" in error.message
    assert os.strerror(number) in error.message


def test_read_back_is_the_files_sha256_and_counts_its_bytes(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(9 * MiB + 77)
    path = tmp_path / "image"
    path.write_bytes(data)
    counts: list[int] = []
    with path.open("rb") as file:
        assert sha256_of(file.fileno(), "image", CancelToken(), counts.append) == hashlib.sha256(data).hexdigest()
    assert sum(counts) == len(data)


def test_read_back_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(9 * MiB))
    cancel = CancelToken()
    with path.open("rb") as file, pytest.raises(Cancelled):
        sha256_of(file.fileno(), "image", cancel, lambda _count: cancel.cancel("enough"))


def test_read_back_of_a_part(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(6 * MiB)
    path = tmp_path / "archive"
    path.write_bytes(data)
    expected = hashlib.sha256(data[1000 : 1000 + 5 * MiB]).hexdigest()
    with path.open("rb") as file:
        found = sha256_of(file.fileno(), "archive", CancelToken(), region=range(1000, 1000 + 5 * MiB))
    assert found == expected


def test_read_back_of_a_file_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(bytes(1000))
    with path.open("rb") as file, pytest.raises(TargetError, match="archive is 24 bytes shorter than expected"):
        sha256_of(file.fileno(), "archive", CancelToken(), region=range(1024))


def test_a_folder_that_is_named_by_a_descriptor_is_shown_by_its_name(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    by_descriptor = Path(f"/proc/self/fd/{descriptor}")
    assert shown_path(by_descriptor) == tmp_path
    assert shown_path(by_descriptor / "sub" / "disk.qcow2") == tmp_path / "sub" / "disk.qcow2"
    os.close(descriptor)
    for path in (by_descriptor, Path("/proc/self/fd"), Path("disk"), tmp_path / "disk"):
        assert shown_path(path) == path
