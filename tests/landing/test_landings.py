"""Interrupted landings in `status` and `cleanup`, and by the pointers of a user's state directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.landing import land
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.land import undo_landing
from hypersdk.landing.landings import unfinished_landings
from hypersdk.landing.record import LAND, PROVE, START, LandingFile, StepState
from hypersdk.migration.naming import LANDING_FILE
from hypersdk.migration.runfile import held_folder
from hypersdk.transfer.cancel import CancelToken
from tests.support.cli.commandline import Run, run
from tests.support.exports import export_folder
from tests.support.guestconversions import MarkingConverter, killed, run_conversion
from tests.support.landings import Lander, domain_change, on_bridge
from tests.support.libvirtd import Libvirtd
from tests.support.tools import run_tool, sha256

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_folder(tmp_path / "exports" / "web-01", disks=2)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "hypersdk"


def command(state: Path, *arguments: str | Path) -> Run:
    """`hyper2kvm` of the user with that state directory, without a server."""
    env = {"HOME": str(state.parent), "XDG_STATE_HOME": str(state.parent)}
    return run(*map(str, arguments), env=env)


def test_nothing_is_shown_of_a_landing_without_anything_half_done(folder: Path, state: Path) -> None:
    run_conversion(folder, MarkingConverter(), state=state)
    assert unfinished_landings(state) == []
    assert list((state / "landings").iterdir()) == []
    assert command(state, "status").out == "No unfinished exports.\n"


@pytest.mark.parametrize(
    ("moment", "fact", "conversion", "cleaned"),
    [
        ("converting", "the images are as exported", "converting", "the images are as exported"),
        ("committed one", "the images are partly converted", "committing", "the images are converted"),
    ],
)
def test_a_killed_conversion_is_shown_and_cleaned_up_without_a_server(
    folder: Path, state: Path, moment: str, fact: str, conversion: str, cleaned: str
) -> None:
    assert killed(folder, moment, state=state)
    told = command(state, "status")
    assert f"interrupted: convert not finished, {fact}" in told.out
    assert f"hyper2kvm cleanup {folder}" in told.err
    (event,) = command(state, "status", "--json").events
    assert (event["type"], event["folder"], event["conversion"]) == ("landing", str(folder), conversion)
    done = command(state, "cleanup", folder)
    assert (done.status, cleaned in done.out) == (0, True)
    assert not [path for path in folder.iterdir() if path.name.endswith(".overlay")]
    assert command(state, "verify", folder).status == 0
    assert unfinished_landings(state) == []
    assert command(state, "status").out == "No unfinished exports.\n"


def test_half_a_manifest_of_a_killed_process_is_no_part_of_the_export(folder: Path, state: Path) -> None:
    assert killed(folder, "converting", state=state)
    half = [folder / f".{name}.new" for name in ("artifact-manifest.json", "hypersdk-landing.json")]
    for path in half:
        path.write_bytes(b"{")
    assert command(state, "cleanup", folder).status == 0
    assert not any(path.exists() for path in half)
    (folder / ".report.html.new").write_bytes(b"<")
    assert command(state, "verify", folder).status == 0


def test_a_folder_that_is_in_use_is_left_alone(folder: Path, state: Path) -> None:
    assert killed(folder, "converting", state=state)
    before = sorted(path.name for path in folder.iterdir())
    with held_folder(folder):
        assert "running now" in command(state, "status").out
        done = command(state, "cleanup", folder, "--json")
    assert done.error["code"] == "run_active"
    assert set(before) <= {path.name for path in folder.iterdir()} | {".hypersdk-run.lock"}


def test_changes_left_at_the_target_are_shown(folder: Path, state: Path) -> None:
    with held_folder(folder) as held:
        landing = LandingFile.opened(held, state=state)
        landing.record.target = "qemu:///system"
        with pytest.raises(RuntimeError), landing.step("land"), landing.change("domain", domain_change(landing)):
            raise RuntimeError
    told = command(state, "status").out
    assert f"web-01 -> qemu:///system, from {folder}" in told
    assert "interrupted: land failed, left at the target: domain" in told


def test_a_landed_machine_whose_proof_failed_is_not_said_to_be_interrupted(folder: Path, state: Path) -> None:
    with held_folder(folder) as held:
        landing = LandingFile.opened(held, state=state)
        with landing.step("land") as step, landing.change("domain", domain_change(landing)):
            step.result = {"uuid": "1", "name": "web-01", "uri": "qemu:///system", "disks": [], "owner": "the domain"}
        with pytest.raises(RuntimeError), landing.step("prove"):
            raise RuntimeError
    told = command(state, "status")
    assert "not finished: land done, prove failed, left at the target: domain" in told.out
    assert f"Leave it as it is: hyper2kvm status --forget {folder}" in told.err.splitlines()
    assert "hyper2kvm cleanup" not in told.err, "it would leave the machine where it is"


@pytest.mark.parametrize("by", ["folder", "id"])
def test_one_that_is_given_up_can_be_forgotten(folder: Path, state: Path, by: str) -> None:
    with held_folder(folder) as held:
        landing = LandingFile.opened(held, state=state)
        with pytest.raises(RuntimeError), landing.step("land"), landing.change("domain", domain_change(landing)):
            raise RuntimeError
        which = folder if by == "folder" else landing.record.landing_id
        assert command(state, "status", "--forget", which, "--json").error["code"] == "run_active"
    assert f"hyper2kvm status --forget {folder}" in command(state, "status").err
    told = command(state, "status", "--forget", which)
    assert (told.status, "left at the target: domain" in told.out) == (0, True)
    assert (folder / LANDING_FILE).exists(), "it keeps the images of a domain from being replaced"
    assert command(state, "status").out == "No unfinished exports.\n"
    assert command(state, "status", "--forget", which, "--json").error["code"] == "run_unknown"


@pytest.fixture
def lan(libvirtd: Libvirtd, bridge_name: str) -> Iterator[Libvirtd]:
    """The daemon, whose host has a bridge."""
    run_tool("ip", "link", "add", bridge_name, "type", "bridge")
    yield libvirtd
    libvirtd.clear()
    run_tool("ip", "link", "delete", bridge_name)


@pytest.fixture
def lander(lan: Libvirtd, bridge_name: str, guest_folder: Path) -> Lander:
    """Lands an export with two disks."""
    export = export_folder(guest_folder / "web-01", disks=2)
    export.chmod(0o755)
    return Lander(export, lan.uri, on_bridge(bridge_name))


@needs_root
def test_what_a_killed_landing_left_at_the_target_is_undone(lan: Libvirtd, lander: Lander, state: Path) -> None:
    before = {path.name: sha256(path) for path in lander.folder.glob("*.qcow2")}
    lander.land()
    with held_folder(lander.folder) as held:  # as if it had been killed before it was noted that the step is done
        landing = LandingFile.opened(held, state=state)
        with landing.changing() as record:
            record.steps["land"].state = StepState.RUNNING
    assert "interrupted: land not finished, left at the target: domain" in command(state, "status").out
    done = command(state, "cleanup", lander.folder)
    assert (done.status, done.out) == (0, f"{lander.folder}: undone at the target: domain\n")
    assert lan.domains() == []
    assert {path.name: sha256(path) for path in lander.folder.glob("*.qcow2")} == before
    assert command(state, "status").out == "No unfinished exports.\n"


def test_what_was_undone_is_done_again(folder: Path, state: Path) -> None:
    """Also its start: the next attempt would leave the machine off."""
    with held_folder(folder) as held:
        landing = LandingFile.opened(held, state=state)
        for step in (LAND, PROVE, START):
            with landing.step(step):
                pass
        land.note_steps_undone(landing)
        assert landing.record.done_steps == {PROVE}, "it was proved that it boots"


@needs_root
def test_a_landed_machine_stays(lan: Libvirtd, lander: Lander, state: Path) -> None:
    lander.land()
    command(state, "cleanup", lander.folder)
    assert lan.domains() == ["web-01"]


@needs_root
def test_a_landed_machine_whose_undo_failed_does_not_stay(lan: Libvirtd, lander: Lander, state: Path) -> None:
    """It was to be undone; that somebody runs it prevents that only for a time."""
    lander.land()
    lan.virsh("start", "web-01")
    with lander.connected() as (connection, _), held_folder(lander.folder) as held:
        landing = LandingFile.opened(held, state=state)
        assert len(undo_landing(connection, landing, cancel=CancelToken())) == 1
    assert command(state, "cleanup", lander.folder, "--json").error["code"] == "target_not_restored"
    lan.virsh("destroy", "web-01")
    assert command(state, "cleanup", lander.folder).out == f"{lander.folder}: undone at the target: domain\n"
    assert lan.domains() == []
    assert owner_of(lander.folder) is None


@needs_root
def test_killed_at_the_end_of_an_undo_the_manifest_names_no_owner(
    lan: Libvirtd, lander: Lander, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All changes are undone, and that they are is not noted yet."""
    lander.land()

    def killed_here(_folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, lander.connected() as (connection, _), held_folder(lander.folder) as held:
        patched.setattr(land, "forget_owner", killed_here)
        landing = LandingFile.opened(held, state=state)
        with pytest.raises(KeyboardInterrupt):
            undo_landing(connection, landing, cancel=CancelToken())
    assert (lan.domains(), owner_of(lander.folder)) == ([], "domain")
    cleaned = command(state, "cleanup", lander.folder)
    assert (cleaned.status, "the landing is over" in cleaned.out) == (0, True), cleaned.err
    assert owner_of(lander.folder) is None
    assert command(state, "status").out == "No unfinished exports.\n"


def owner_of(folder: Path) -> str | None:
    """Whose the images are by the manifest."""
    facts = open_manifest(folder).metadata.hypersdk
    return facts.landed.owner if facts and facts.landed else None


@needs_root
def test_a_target_that_cannot_be_reached_is_an_error(lan: Libvirtd, lander: Lander, state: Path) -> None:
    lander.land()
    with held_folder(lander.folder) as held, LandingFile.opened(held, state=state).changing() as record:
        record.steps["land"].state = StepState.FAILED
        record.target = "qemu+unix:///system?socket=/nonexistent"
        for change in record.changes:
            change.data["uri"] = record.target
    assert command(state, "cleanup", lander.folder, "--json").status != 0
    assert lan.domains() == ["web-01"]


def test_a_damaged_record_is_shown(folder: Path, state: Path) -> None:
    assert killed(folder, "converting", state=state)
    (folder / LANDING_FILE).write_text(json.dumps({"version": 1}))
    assert "damaged" in command(state, "status").out
    assert command(state, "verify", folder, "--json").error["code"] == "landing_unreadable"


def test_a_pointer_to_a_folder_that_is_gone_is_removed(folder: Path, state: Path) -> None:
    assert killed(folder, "converting", state=state)
    folder.rename(folder.with_name("moved"))
    assert command(state, "status").out == "No unfinished exports.\n"
    assert list((state / "landings").iterdir()) == []
