"""The record of a landing: what a later process knows of a killed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hypersdk.errors import IntegrityError, Refused, TargetError
from hypersdk.landing.record import (
    LANDING_FOREIGN,
    LANDING_UNREADABLE,
    Conversion,
    ConversionState,
    LandingFile,
    StepState,
    read_landing,
)
from hypersdk.migration.naming import LANDING_FILE
from hypersdk.migration.runfile import LOCK_FILE, held_folder
from hypersdk.transfer.folder import FOLDER_TAKEN, OutputFolder
from tests.support.exports import export_folder
from tests.support.landings import domain_change


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[OutputFolder]:
    with held_folder(export_folder(tmp_path / "web-01", name="web-01")) as held:
        yield held


def test_everything_is_there_again(folder: OutputFolder) -> None:
    landing = LandingFile.opened(folder)
    with landing.step("convert") as step:
        step.result["drivers"] = {"disk_bus": "virtio"}
    with landing.changing() as record:
        record.target = "qemu:///system"
        record.conversion = Conversion(ConversionState.CONVERTING, {"a.qcow2": ".a.qcow2.overlay"}, {"tool": "t"})
    with landing.change("domain", domain_change(landing)):
        pass
    again = LandingFile.opened(folder)
    assert again.record == landing.record
    assert again.done("convert") == {"drivers": {"disk_bus": "virtio"}}
    assert again.done("land") is None
    assert [(change.made, change.undone) for change in again.record.open_changes] == [(True, False)]
    assert read_landing(folder.named) == landing.record


def test_a_change_is_recorded_before_it_is_made(folder: OutputFolder) -> None:
    landing = LandingFile.opened(folder)
    with suppress(TargetError), landing.change("tried", {"path": "/p"}):
        seen = read_landing(folder.named)
        raise TargetError("full")
    for record in (seen, read_landing(folder.named)):
        assert record is not None
        assert [(change.kind, change.data, change.made) for change in record.open_changes] == [
            ("tried", {"path": "/p"}, False)
        ]
    landing.note_undone(landing.record.open_changes[0])
    record = read_landing(folder.named)
    assert record is not None
    assert record.open_changes == []


def test_a_failed_step_has_its_code(folder: OutputFolder) -> None:
    landing = LandingFile.opened(folder)
    with pytest.raises(TargetError), landing.step("land"):
        raise TargetError("no room", code="no_space")
    record = read_landing(folder.named)
    assert record is not None
    step = record.steps["land"]
    assert (step.state, step.error) == (StepState.FAILED, {"code": "no_space", "message": "no room"})
    assert not record.finished
    with landing.step("land"):
        running = read_landing(folder.named)
    assert running is not None
    assert (running.steps["land"].state, running.steps["land"].error) == (StepState.RUNNING, None)
    assert landing.record.finished


def test_the_record_of_another_export_does_not_count(folder: OutputFolder) -> None:
    landing = LandingFile.opened(folder)
    with landing.step("convert"), landing.change("domain", domain_change(landing)):
        pass
    export_folder(folder.named, name="web-01", content=b"of a later export")
    again = LandingFile.opened(folder)
    assert again.record.export != landing.record.export
    assert again.done("convert") is None
    assert again.record.changes == [], "the machine that was landed before is not undone by a later landing"


def test_changes_of_an_unfinished_landing_of_another_export_stay_open(folder: OutputFolder) -> None:
    landing = LandingFile.opened(folder)
    with pytest.raises(TargetError), landing.step("land"), landing.change("domain", domain_change(landing)):
        raise TargetError("refused")
    export_folder(folder.named, name="web-01", content=b"of a later export")
    assert [change.kind for change in LandingFile.opened(folder).record.open_changes] == ["domain"]


def test_nothing_is_written_without_the_lock(folder: OutputFolder) -> None:
    landing = LandingFile.opened(folder)
    landing.save()
    (folder.path / LOCK_FILE).unlink()
    with pytest.raises(TargetError) as raised, landing.changing() as record:
        record.target = "qemu:///session"
    assert raised.value.code == FOLDER_TAKEN
    found = read_landing(folder.named)
    assert found is not None
    assert found.target == ""


def test_an_open_folder_is_not_enough(tmp_path: Path) -> None:
    path = export_folder(tmp_path / "web-01", name="web-01")
    with OutputFolder.opened(path, path) as held, pytest.raises(ValueError, match="locked"):
        LandingFile.opened(held)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace(b"web-01", b"web-02"),
        lambda text: b"[]",
        lambda text: b"[" * 100_000,
        lambda text: b"1" * (5 << 20),
    ],
)
def test_a_damaged_record_is_an_error(folder: OutputFolder, damage: object) -> None:
    LandingFile.opened(folder).save()
    path = folder.path / LANDING_FILE
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(IntegrityError) as raised:
        LandingFile.opened(folder)
    assert raised.value.code == LANDING_UNREADABLE


@pytest.mark.parametrize("overlays", [{"a": "../b"}, {"/a": "./a.overlay"}, {"a": "a"}, {"a": "web-01.ovf"}])
def test_names_do_not_lead_elsewhere(folder: OutputFolder, overlays: dict[str, str]) -> None:
    landing = LandingFile.opened(folder)
    landing.record.conversion = Conversion(ConversionState.CONVERTING, overlays)
    landing.save()
    with pytest.raises(IntegrityError):
        read_landing(folder.path)


@pytest.mark.parametrize("data", [{"name": "../a"}, {"image": "/a"}, {"name": 1}, {"landing": "x/../../a"}])
def test_names_of_changes_do_not_lead_elsewhere(folder: OutputFolder, data: dict[str, object]) -> None:
    with pytest.raises(IntegrityError) as raised, LandingFile.opened(folder).change("image", data):
        read_landing(folder.path)
    assert raised.value.code == LANDING_UNREADABLE


def test_a_link_is_not_followed(folder: OutputFolder, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(json.dumps({}))
    (folder.path / LANDING_FILE).symlink_to(tmp_path / "other")
    with pytest.raises(TargetError):
        LandingFile.opened(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_nobody_acts_by_the_record_of_another_user(folder: OutputFolder) -> None:
    with LandingFile.opened(folder).change("tried", {"name": "somebodys.qcow2"}):
        pass
    os.chown(folder.path / LANDING_FILE, 65534, 65534)
    assert read_landing(folder.path) is not None, "it may be looked at"
    with pytest.raises(Refused) as raised:
        LandingFile.opened(folder)
    assert raised.value.code == LANDING_FOREIGN


def test_a_killed_process_leaves_a_running_step(tmp_path: Path) -> None:
    path = export_folder(tmp_path / "web-01", name="web-01")
    work = f"""
import os, signal
from pathlib import Path
from hypersdk.landing.record import LandingFile
from hypersdk.migration.runfile import held_folder
with held_folder(Path({str(path)!r})) as held:
    landing = LandingFile.opened(held)
    with landing.step("land"), landing.change("tried", {{}}):
        os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", work], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    with held_folder(path) as held:
        record = LandingFile.opened(held).record
    assert record.steps["land"].state is StepState.RUNNING
    assert [change.made for change in record.open_changes] == [False]
