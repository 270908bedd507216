from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import IntegrityError, TargetError
from hypersdk.migration.point import point_of
from hypersdk.migration.runfile import (
    LOCK_FILE,
    RUN_FILE,
    Change,
    ChangeKind,
    DiskRecord,
    FolderRuns,
    RunFile,
    is_locked,
    locked_folder,
)
from hypersdk.migration.runs import other_runs, unfinished_runs
from hypersdk.migration.spec import Compression, OutputFormat
from hypersdk.transfer.folder import OutputFolder
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.source import StreamDigests
from hypersdk.vsphere.cdrom import CdromChange
from hypersdk.vsphere.stale import LeaseRecord
from tests.support.machines import make_machine


def new_run(folder: Path, state: Path) -> RunFile:
    folder.mkdir(exist_ok=True)
    return RunFile.create(
        folder,
        FolderRuns(state),
        endpoint="root@vc.example.com:443",
        moref="vm-42",
        machine="web-01",
        format=OutputFormat.QCOW2,
        compress=Compression.NONE,
        disks=[DiskRecord(2000, "Hard disk 1", "web-01-disk1.qcow2", 1 << 30)],
    )


def test_everything_is_there_again_after_a_kill(tmp_path: Path) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    receipt = Receipt(
        "Hard disk 1", 1 << 30, "ab" * 32, StreamDigests("cd" * 32, None, 77), 1, 2, 3, 4, 5, 6, 7, 0.5, "esx1"
    )
    with run.changing() as record:
        record.point = point_of(make_machine(), None)
        record.changes.append(Change(ChangeKind.SNAPSHOT, {"name": record.snapshot_name}))
        record.disks[0].receipt, record.disks[0].size_bytes = receipt, 77
    again = RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert again is not None
    assert again.record == run.record
    assert again.record.disks[0].done
    assert [change.kind for change in again.record.open_changes] == [ChangeKind.SNAPSHOT]


def test_a_record_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    path = tmp_path / "out" / RUN_FILE
    fields = json.loads(path.read_text())
    del fields["source"], fields["exclude_disks"], fields["checksum"]
    path.write_text(json.dumps(fields))
    again = RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert again is not None
    assert again.record == run.record
    assert (again.record.source, again.record.exclude_disks) == ("auto", [])


@pytest.mark.parametrize("part", ["", "disks", "changes"])
def test_a_field_of_a_later_release_is_not_dropped_silently(tmp_path: Path, part: str) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    with run.changing() as record:
        record.changes.append(Change(ChangeKind.SNAPSHOT, {"name": record.snapshot_name}))
    path = tmp_path / "out" / RUN_FILE
    fields = json.loads(path.read_text())
    (fields[part][0] if part else fields)["later"] = True
    del fields["checksum"]
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="later") as caught:
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert caught.value.code == "run_unreadable"


def test_a_run_is_found_without_being_told_where(tmp_path: Path) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    with locked_folder(tmp_path / "out"):
        (found,) = unfinished_runs(tmp_path / "state")
        assert (found.folder, found.active) == (tmp_path / "out", True)
        assert found.record is not None
        assert found.record.machine == "web-01"
    (found,) = unfinished_runs(tmp_path / "state")
    assert not found.active
    run.remove()
    assert unfinished_runs(tmp_path / "state") == []


def test_pointers_to_runs_that_are_gone_are_dropped(tmp_path: Path) -> None:
    new_run(tmp_path / "out", tmp_path / "state")
    (tmp_path / "out" / RUN_FILE).unlink()
    assert unfinished_runs(tmp_path / "state") == []
    assert list((tmp_path / "state" / "runs").iterdir()) == []


GUEST_ASKED = {"connected": {"4000": True}, "asked": "2026-01-02T03:04:05+00:00", "timeout_s": 600, "booted": None}
DRIVE = asdict(CdromChange(3000, "CD/DVD drive 1", "[a] b.iso", None, None, True, True, True, None))
LEASE = asdict(LeaseRecord("key", "", None, "2026-01-02T03:04:05Z", "vm-1"))
CHANGES: list[tuple[ChangeKind, dict[str, Any]]] = [
    (ChangeKind.POWER, {}),
    (ChangeKind.POWER, {"connected": {"4000": False}}),
    (ChangeKind.POWER, GUEST_ASKED),
    (ChangeKind.CDROM, {"drives": [DRIVE]}),
    (ChangeKind.SNAPSHOT, {"name": "hypersdk-1"}),
    (ChangeKind.SNAPSHOT, {"name": "hypersdk-1", "moref": "snapshot-1"}),
    (ChangeKind.LEASE, LEASE),
]


def loads(tmp_path: Path, kind: ChangeKind, data: dict[str, Any]) -> bool:
    run = new_run(tmp_path / "out", tmp_path / "state")
    with run.changing() as record:
        record.changes.append(Change(kind, data))
    loaded = None
    with suppress(IntegrityError):  # its code is tested above
        loaded = RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert loaded is None or loaded.record.changes[0].data == data
    return loaded is not None


@pytest.mark.parametrize(("kind", "data"), CHANGES)
def test_a_change_has_the_data_that_its_undo_needs(kind: ChangeKind, data: dict[str, Any], tmp_path: Path) -> None:
    """Others may write in the folder: a record that the undo could not use is refused as a whole."""
    assert loads(tmp_path, kind, data)
    assert not loads(tmp_path, kind, {**data, "later": 1})
    for name in data:
        assert not loads(tmp_path, kind, {**data, name: {"a": [7]}}), name
    for name in set(data) - {"connected", "moref"}:
        assert not loads(tmp_path, kind, {key: value for key, value in data.items() if key != name}), name


def test_a_drive_of_a_change_has_all_its_fields(tmp_path: Path) -> None:
    for name in DRIVE:
        drive = {key: value for key, value in DRIVE.items() if key != name}
        assert not loads(tmp_path, ChangeKind.CDROM, {"drives": [drive]}), name
        assert not loads(tmp_path, ChangeKind.CDROM, {"drives": [{**DRIVE, name: {"a": 7}}]}), name
    assert not loads(tmp_path, ChangeKind.CDROM, {"drives": [{**DRIVE, "later": 1}]})


@pytest.mark.parametrize("asked", ["", "yesterday", "2026-01-02T03:04:05"])
def test_the_time_of_a_change_has_a_time_zone(asked: str, tmp_path: Path) -> None:
    assert not loads(tmp_path, ChangeKind.POWER, {**GUEST_ASKED, "asked": asked})


@pytest.mark.parametrize("where", ["state", "state/runs"])
def test_a_state_that_cannot_be_read_is_not_one_without_runs(where: str, tmp_path: Path) -> None:
    """Else `cleanup --stray` would take the snapshots of all unfinished runs for stray ones."""
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    for look in (unfinished_runs, other_runs):
        with pytest.raises(TargetError, match="reading ") as caught:
            look(tmp_path / "state")
        assert f"Make {tmp_path / 'state'} writable" in next_step(caught.value)


def test_a_state_that_cannot_be_written_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, there = (new_run(tmp_path / name, tmp_path / "state") for name in ("gone", "there"))
    gone.record.folder.joinpath(RUN_FILE).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        (found,) = unfinished_runs(tmp_path / "state")
    assert found.run_id == there.record.run_id


def refuse(path: object, *_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = "import sys, pathlib; from hypersdk.migration.runfile import locked_folder\n"
    code += "with locked_folder(pathlib.Path(sys.argv[1])): print('has it')"
    with locked_folder(tmp_path):
        assert is_locked(tmp_path)
        second = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
        assert "run_active" in second.stderr or "another process" in second.stderr
        with pytest.raises(TargetError) as caught, locked_folder(tmp_path):
            pass
        assert caught.value.code == "run_active"
    assert not is_locked(tmp_path)
    third = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert third.stdout == "has it\n"


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 1}', '{"version": 9, "disks": []}', "[" * 100_000])
def test_a_damaged_record_is_told_and_never_guessed_at(tmp_path: Path, damage: str) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    (tmp_path / "out" / RUN_FILE).write_text(damage)
    with pytest.raises(IntegrityError) as caught:
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert caught.value.code == "run_unreadable"
    (found,) = unfinished_runs(tmp_path / "state")
    assert found.record is None
    assert found.error
    run.remove()
    assert (tmp_path / "out" / RUN_FILE).read_text() == damage, "not known to be this run's"
    assert unfinished_runs(tmp_path / "state") == []


def test_no_bit_of_a_record_can_turn_unseen(tmp_path: Path) -> None:
    """A name of a disk's file, or a snapshot's id, is another after one bit, and all of it still JSON."""
    run = new_run(tmp_path / "out", tmp_path / "state")
    run.record.changes.append(Change(ChangeKind.POWER, {"connected": {"12000": True, "4000": False}}))
    run.save()
    path = tmp_path / "out" / RUN_FILE
    whole = path.read_bytes()
    [as_it_was] = [found.record for found in unfinished_runs(tmp_path / "state")]
    assert as_it_was is not None
    for position in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with suppress(IntegrityError):
            found = RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
            assert found is not None
            assert found.record == as_it_was  # a blank between two fields


def test_two_disks_never_have_one_file(tmp_path: Path) -> None:
    """Also in a record of an earlier release, which has no checksum."""
    new_run(tmp_path / "out", tmp_path / "state")
    path = tmp_path / "out" / RUN_FILE
    fields = json.loads(path.read_text())
    del fields["checksum"]
    fields["disks"] *= 2
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="two disks"):
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))


@pytest.mark.parametrize(("name", "output"), [("size_bytes", "qcow2"), ("size_bytes", "ova"), ("start", "ova")])
def test_a_finished_disk_has_a_size_and_a_place(name: str, output: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    receipt = Receipt("Hard disk 1", 1 << 30, "aa", None, 1, 1, 1, 1, 0, 0, 1, 1.0, "lease")
    with run.changing() as record:
        record.format = OutputFormat(output)
        (disk,) = record.disks
        disk.receipt, disk.size_bytes, disk.start = receipt, 512, 4096
    assert RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state")) is not None
    with run.changing():
        setattr(disk, name, None)
    with pytest.raises(IntegrityError) as caught:
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert caught.value.code == "run_unreadable"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "vhdx"),
        ("compress", "vhdx"),
        ("run_id", "../../elsewhere"),
        ("run_id", ""),
        ("run_id", 7),
        ("started_at", "yesterday"),
        ("started_at", "2026-01-01T00:00:00"),
        ("started_at", None),
        ("lane", "/../../elsewhere"),
        ("lane", "../elsewhere"),
        ("lane", ".7\n"),
        ("lane", ".seven"),
        ("lane", 7),
    ],
)
def test_what_no_run_has_is_told(name: str, value: object, tmp_path: Path) -> None:
    new_run(tmp_path / "out", tmp_path / "state")
    path = tmp_path / "out" / RUN_FILE
    fields = json.loads(path.read_text()) | {name: value}
    del fields["checksum"]  # which would tell before anything is looked at
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError) as caught:
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert caught.value.code == "run_unreadable"


@pytest.mark.parametrize("file_name", ["../../etc/passwd", "..", "", "disk\0.qcow2", 7])
def test_a_file_name_with_a_path_in_it_is_refused(file_name: object, tmp_path: Path) -> None:
    new_run(tmp_path / "out", tmp_path / "state")
    path = tmp_path / "out" / RUN_FILE
    data = json.loads(path.read_text())
    data["disks"][0]["file_name"] = file_name
    path.write_text(json.dumps(data))
    with pytest.raises(IntegrityError):
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))


def test_nothing_secret_and_nobody_else_reads_it(tmp_path: Path) -> None:
    run = new_run(tmp_path / "out", tmp_path / "state")
    assert (tmp_path / "out" / RUN_FILE).stat().st_mode & 0o777 == 0o600
    assert run.record.endpoint == "root@vc.example.com:443"


def test_a_lock_whose_file_is_gone_keeps_nobody_out_and_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends, and removes its lock file, between our opening of it and our locking."""
    flock = fcntl.flock
    gone: list[Any] = []

    def late(descriptor: int, how: int) -> None:
        if not gone:
            gone.append(descriptor)
            (tmp_path / LOCK_FILE).unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked_folder(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
        with pytest.raises(TargetError), locked_folder(tmp_path):
            pass
        assert is_locked(tmp_path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "folder", "socket"])
@pytest.mark.timeout(20)
def test_only_a_regular_file_is_a_lock(tmp_path: Path, kind: str) -> None:
    """A folder may be writable by others: the daemon neither makes a file where their link leads nor waits for their
    FIFO."""
    folder, victim = tmp_path / "out", tmp_path / "victim"
    folder.mkdir()
    lock = folder / LOCK_FILE
    with socket.socket(socket.AF_UNIX) as server:
        match kind:
            case "link":
                victim.write_bytes(b"precious")
                lock.symlink_to(victim)
            case "dangling link":
                lock.symlink_to(victim)
            case "fifo":
                os.mkfifo(lock)
            case "folder":
                lock.mkdir()
            case _:
                server.bind(str(lock))
        with pytest.raises(TargetError, match="not a regular file") as caught, locked_folder(folder):
            pass
        assert caught.value.code == "target_failed"
        assert str(lock) in caught.value.message
        assert not is_locked(folder)
    assert victim.exists() == (kind == "link")
    assert lock.is_symlink() == ("link" in kind), "what is not ours is left as it is"


def test_a_link_that_takes_the_place_of_a_lock_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        (tmp_path / LOCK_FILE).rename(tmp_path / "moved")
        (tmp_path / LOCK_FILE).symlink_to("moved")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(TargetError, match="not a regular file"), locked_folder(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["link", "fifo"])
@pytest.mark.timeout(20)
def test_only_a_regular_file_is_a_record(tmp_path: Path, kind: str) -> None:
    new_run(tmp_path / "out", tmp_path / "state")
    path = tmp_path / "out" / RUN_FILE
    path.rename(tmp_path / "aside")
    if kind == "link":
        path.symlink_to(tmp_path / "aside")
    else:
        os.mkfifo(path)
    with pytest.raises(TargetError, match="reading"):
        RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))


def test_the_record_of_another_run_is_not_removed(tmp_path: Path) -> None:
    first = new_run(tmp_path / "out", tmp_path / "state")
    second = new_run(tmp_path / "out", tmp_path / "state")
    first.remove()
    kept = RunFile.load(tmp_path / "out", FolderRuns(tmp_path / "state"))
    assert kept is not None
    assert kept.record.run_id == second.record.run_id
    assert [run.record.run_id for run in unfinished_runs(tmp_path / "state") if run.record] == [second.record.run_id]
    second.remove()
    assert not (tmp_path / "out" / RUN_FILE).exists()


def test_nothing_is_written_into_a_folder_that_another_run_has(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run = new_run(folder, tmp_path / "state")
    with (
        OutputFolder.opened(folder, folder) as held,
        locked_folder(held.path) as lock,
        held.locked_by(*lock),
    ):
        run.held_in(held)
        run.save()
        before = (folder / RUN_FILE).read_bytes()
        (folder / LOCK_FILE).unlink()
        run.record.proof = "proved"
        with pytest.raises(TargetError) as caught:
            run.save()
        assert caught.value.code == "folder_taken"
        assert (folder / RUN_FILE).read_bytes() == before
        run.check()  # nobody has it now: what is open at the source may be undone
        with locked_folder(folder):
            with pytest.raises(TargetError) as caught:
                run.check()
            assert caught.value.code == "folder_taken"
            (folder / RUN_FILE).unlink()
            run.check()  # another run of its own


def test_a_lock_that_goes_while_the_record_is_written_is_seen_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    run = new_run(folder, tmp_path / "state")
    with OutputFolder.opened(folder, folder) as held, locked_folder(held.path) as lock, held.locked_by(*lock):
        run.held_in(held)
        sync = os.fsync

        def emptied(handle: int) -> None:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            (folder / RUN_FILE).unlink(missing_ok=True)
            sync(handle)

        monkeypatch.setattr(os, "fsync", emptied)
        with pytest.raises(TargetError) as caught:
            run.save()
    assert caught.value.code == "folder_taken"
    assert list(folder.iterdir()) == []
