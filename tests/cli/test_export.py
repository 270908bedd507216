"""`export`, `verify`, `convert`, `cleanup`: every flag has its effect, every refusal its code."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import SourceError
from hypersdk.migration.runfile import FolderRuns, RunFile
from hypersdk.migration.spec import Compression, OutputFormat
from hypersdk.model import Cdrom
from hypersdk.simulator import DiskSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.units import MiB
from hypersdk.vsphere.cdrom import name_inserted_iso
from tests.support.cli.commandline import Run
from tests.support.cli.shell import SMALL, Shell, small
from tests.support.landings import mark_landed
from tests.support.machines import make_machine
from tests.support.simulator import SimulatorFactory
from tests.support.tools import sha256

ISO = "[iso-library] linux/debian-12.7.0-amd64-netinst.iso"
FILES = {
    "qcow2": {"off.ovf", "off-disk1.qcow2"},
    "raw": {"off.ovf", "off-disk1.raw"},
    "ovf": {"off.ovf", "off.mf", "off-disk1.vmdk"},
    "ova": {"off.ova"},
    "vmdk": {"off-disk1.vmdk"},
}


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path) -> Shell:
    machines = (
        small("off"),
        small("on", power="poweredOn", snapshots=("before update",)),
        small("two", disks=(SMALL, SMALL)),
        small("cd", iso=ISO, iso_connected=True),
        small("tpm", tpm=True, power="suspended"),
    )
    return Shell(simulator(machines=machines), tmp_path)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"artifact-manifest.json"}


def changes(run: Run) -> str:
    (plan,) = [event for event in run.events if event["type"] == "plan"]
    return " ".join(plan["changes"])


@pytest.mark.parametrize("kind", FILES)
def test_each_format_is_written_verified_and_converted_to_each_other(shell: Shell, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    done = shell.good("export", "off", "-o", out, "--format", kind, "--json")
    assert done.err == ""
    assert {event["type"] for event in done.events} <= {"plan", "progress", "result"}
    assert names(out) == FILES[kind]
    shell.good("verify", out)
    if kind in ("ovf", "ova", "vmdk"):
        source = out / {"ovf": "off.ovf", "ova": "off.ova", "vmdk": "off-disk1.vmdk"}[kind]
        content = set(done.events[-1]["content"].values()) - {None}
        for wanted in ("raw", "qcow2", "vmdk"):
            there = tmp_path / wanted
            made = shell.good("convert", source, "-o", there, "--format", wanted, "--json").events[-1]
            assert set(made["content"].values()) - {None} == content or kind == "ova"
            shell.good("verify", there)


@pytest.mark.parametrize("flag", ["--compress", "--compress=unchecked", "--compress=repack"])
def test_compressed_qcow2_holds_the_same(shell: Shell, tmp_path: Path, flag: str) -> None:
    shell.good("export", "off", "-o", tmp_path / "plain", "--format", "raw")
    shell.good("export", flag, "off", "-o", tmp_path / "small")
    image = tmp_path / "small" / "off-disk1.qcow2"
    checked = subprocess.run(["qemu-img", "check", "--output=json", image], capture_output=True, text=True, check=True)
    assert json.loads(checked.stdout)["compressed-clusters"] > 0
    subprocess.run(
        ["qemu-img", "compare", image, tmp_path / "plain" / "off-disk1.raw"], check=True, capture_output=True
    )


@pytest.mark.parametrize("output", ["ovf", "ova", "vmdk", "qcow2"])
@pytest.mark.parametrize("flags", [["--unchecked"], ["--compress", "--unchecked"], ["--compress=unchecked"]], ids=str)
def test_unchecked_means_the_same_for_every_format(shell: Shell, tmp_path: Path, output: str, flags: list[str]) -> None:
    plan = shell.good("export", "off", *flags, "--format", output, "-o", tmp_path / "x", "--dry-run", "--json").events[
        0
    ]
    assert plan["compress"] == "unchecked"
    assert any("only the server's manifest proves the copy" in warning for warning in plan["warnings"])


def test_unchecked_excludes_repacking(shell: Shell, tmp_path: Path) -> None:
    done = shell("export", "off", "--compress=repack", "--unchecked", "-o", tmp_path / "x")
    assert done.status == 2
    assert "--unchecked and --compress=repack exclude each other" in done.err


def test_a_package_is_converted_unchecked(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "off", "-o", tmp_path / "ovf", "--format", "ovf")
    folders = [tmp_path / "with", tmp_path / "without"]
    results = []
    for folder in folders:
        made = shell.good("convert", tmp_path / "ovf" / "off.ovf", "-o", folder, "--unchecked", "--json")
        results.append(made.events[-1])
        (tmp_path / "ovf" / "off.mf").unlink(missing_ok=True)
    assert results[0]["proof"].startswith("proved")
    assert results[1]["proof"].endswith("manifest to compare it with, and the blocks were not checked")
    assert all(set(result["content"].values()) == {None} for result in results)


def test_a_bare_compress_takes_no_value(shell: Shell, tmp_path: Path) -> None:
    plan = shell.good("export", "--compress", "off", "-o", tmp_path / "x", "--dry-run", "--json").events[0]
    assert (plan["machine"], plan["compress"]) == ("off", "checked")


@pytest.mark.parametrize(
    ("machine", "flags", "said"),
    [
        ("on", [], "temporary snapshot"),
        ("on", ["--from-snapshot", "new"], "temporary snapshot"),
        ("on", ["--power-off"], "power the machine off"),
        ("on", ["--shutdown"], "shut the guest down"),
        ("cd", ["--remove-cdrom"], "eject ISO images"),
    ],
)
def test_what_is_done_to_the_source_is_in_the_plan_and_undone(
    shell: Shell, tmp_path: Path, machine: str, flags: list[str], said: str
) -> None:
    before = shell.server.state()
    done = shell.good("export", machine, "-o", tmp_path / "x", "--json", *flags)
    assert said in changes(done)
    assert done.events[-1]["restored"] is True
    assert shell.server.state() == before


def test_dry_run_changes_nothing_anywhere(shell: Shell, tmp_path: Path) -> None:
    before = shell.server.state()
    shell.server.reset_counters()
    shell.good("export", "on", "two", "-o", tmp_path / "x", "--dry-run", "--power-off")
    assert shell.server.state() == before
    assert not (tmp_path / "x").exists()


def test_flags_of_the_plan(shell: Shell, tmp_path: Path) -> None:
    def plan(*flags: str) -> dict[str, Any]:
        return shell.good("export", *flags, "-o", tmp_path / "x", "--dry-run", "--json").events[0]

    assert plan("on", "--from-snapshot", "before update")["point"] == "snapshot 'before update'"
    assert plan("off", "--source", "datastore")["method"] == "datastore"
    assert len(plan("two")["disks"]) == 2
    for spelled in ("2", "Hard disk 2"):
        assert [disk["label"] for disk in plan("two", "--exclude-disk", spelled)["disks"]] == ["Hard disk 1"]
    assert not any("snapshot" in change for change in plan("off", "--power-off")["changes"]), "off already: no error"


def test_retries_of_none_are_none(shell: Shell, tmp_path: Path) -> None:
    shell.server.set_faults(Fault(FaultKind.RESET, after_bytes=64 * 1024, times=1))
    assert shell("export", "off", "-o", tmp_path / "x", "--source", "lease", "--retries", "0").status == 7
    shell.server.set_faults(Fault(FaultKind.RESET, after_bytes=64 * 1024, times=1))
    shell.good("export", "off", "-o", tmp_path / "y", "--source", "lease", "--retries", "1")


@pytest.mark.slow
def test_the_speed_limit_holds(simulator: SimulatorFactory, tmp_path: Path) -> None:
    disk = DiskSpec(capacity_bytes=16 * MiB, allocated_bytes=16 * MiB)
    shell = Shell(simulator(machines=(small("big", disks=(disk,)),)), tmp_path)
    free = shell.good("export", "big", "-o", tmp_path / "free", "--json").events[-1]
    slow = shell.good("export", "big", "-o", tmp_path / "slow", "--json", "--bwlimit", "2M").events[-1]
    assert slow["elapsed_s"] > free["elapsed_s"]
    assert slow["wire_bytes"] / slow["elapsed_s"] <= 3 * MiB


def test_several_machines_get_a_folder_each_and_their_own_verdict(shell: Shell, tmp_path: Path) -> None:
    done = shell("export", "off", "tpm", "two", "-o", tmp_path / "x", "--json")
    assert done.status == 10
    assert names(tmp_path / "x") == {"off", "two"}
    failed = [event for event in done.events if event["type"] == "error" and event.get("machine")]
    assert [(event["machine"], event["exit_status"]) for event in failed] == [("tpm", 6)]
    assert done.error["code"] == "partly_failed"


def test_resume_of_several_begins_what_was_not_begun_and_leaves_what_is_done(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "off", "-o", tmp_path / "x" / "off")
    manifest = (tmp_path / "x" / "off" / "artifact-manifest.json").read_bytes()
    done = shell.good("export", "off", "two", "-o", tmp_path / "x", "--resume", "--json")
    assert [event["output_dir"] for event in done.events if event["type"] == "skipped"] == [str(tmp_path / "x" / "off")]
    assert [event["machine"] for event in done.events if event["type"] == "result"] == ["two"]
    assert (tmp_path / "x" / "off" / "artifact-manifest.json").read_bytes() == manifest


def test_one_machine_with_nothing_to_resume_is_told_so(shell: Shell, tmp_path: Path) -> None:
    assert shell("export", "off", "-o", tmp_path, "--resume", "--json").error["code"] == "nothing_to_resume"


@pytest.mark.parametrize("flag", ["--resume", "--discard"])
def test_a_broken_export_is_seen_by_status_and_gone_on_with(shell: Shell, tmp_path: Path, flag: str) -> None:
    shell.server.set_faults(Fault(FaultKind.RESET, after_bytes=64 * 1024, times=None))
    out = tmp_path / "x"
    broken = shell("export", "off", "-o", out, "--source", "lease", "--retries", "0", "--json")
    assert broken.status == 7
    shell.server.set_faults()
    (seen,) = shell.good("status", "--json").events
    assert (seen["machine"], seen["folder"], seen["active"], seen["format"]) == ("off", str(out), False, "qcow2")
    told = shell.good("status")
    assert f"off -> {out}" in told.out
    options = "--format qcow2 --compress=none --source lease --file-hash tree"
    assert f"export {seen['moref']} -o {out} {options} --url https://" in told.err
    assert shell("export", "off", "-o", out, "--json").error["code"] == "resumable_state"
    assert shell("export", "off", "-o", out, "--resume", "--discard").status == 2
    assert shell.good("cleanup", out).out == f"off in {out}: nothing to restore\n"
    shell.good("export", "off", "-o", out, flag)
    assert shell.good("status").out == "No unfinished exports.\n"
    shell.good("verify", out)


def test_the_command_that_status_prints_goes_on_with_the_export(shell: Shell, tmp_path: Path) -> None:
    shell.server.set_faults(Fault(FaultKind.RESET, after_bytes=64 * 1024, times=None))
    out = tmp_path / "a folder"
    flags = ("--compress=unchecked", "--source", "lease", "--exclude-disk", "Hard disk 2")
    assert shell("export", "two", "-o", out, *flags, "--retries", "0").status == 7
    shell.server.set_faults()
    (seen,) = shell.good("status", "--json").events
    assert (seen["compress"], seen["source"], seen["exclude_disks"]) == ("unchecked", "lease", ["Hard disk 2"])
    told = shell.good("status").err
    assert "\n  " not in told.strip(), "one line, to be copied"
    words = shlex.split(told.partition("Resume two: ")[2].partition("\n")[0])
    assert words[:2] == ["hyper2kvm", "export"]
    assert words.index("--resume") == len(words) - 1
    left_out = [word for word in words if word not in ("--exclude-disk", "Hard disk 2")]
    assert shell(*left_out[1:], "--json").error["code"] == "resume_mismatch"
    shell.good(*words[1:])
    shell.good("verify", out)


def test_the_command_says_also_what_a_configuration_file_says_otherwise(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[export]\ncompress = "checked"\nsource = "datastore"\n')
    shell.server.set_faults(Fault(FaultKind.RESET, after_bytes=64 * 1024, times=None))
    asked = (
        *("--compress=none", "--source", "lease", "--file-hash", "none"),
        *("--remove-cdrom", "--power-off", "--no-quiesce"),
    )
    broken = shell("export", "off", "-o", tmp_path / "x", *asked, "--config", config, "--retries", "0")
    assert broken.status == 7
    shell.server.set_faults()
    (seen,) = shell.good("status", "--json").events
    words = shlex.split(seen["resume_command"])
    assert set(asked) <= set(words)
    assert words[-1] == "--resume"
    assert "--username" in words
    assert seen["resume_command"] in shell.good("status").err
    done = shell.good(*words[1:], "--config", config, "--json")
    assert done.events[-1]["type"] == "result"
    assert done.events[-1]["method"] == "lease"


def test_an_interrupted_conversion_is_shown_and_no_export(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    RunFile.create(
        tmp_path / "x",
        FolderRuns(tmp_path / "state" / "hypersdk"),
        endpoint="local",
        moref="",
        machine="web01",
        format=OutputFormat.QCOW2,
        compress=Compression.NONE,
        disks=[],
    )
    told = shell.good("status", XDG_STATE_HOME=str(tmp_path / "state"))
    assert f"web01 -> {tmp_path / 'x'}" in told.out
    assert "hyper2kvm export" not in told.err


def test_an_export_that_lies_there_is_replaced_by_force_only(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "off", "-o", tmp_path / "x")
    refused = shell("export", "off", "-o", tmp_path / "x", "--json")
    assert (refused.status, refused.error["code"]) == (9, "foreign_output")
    shell.good("export", "off", "-o", tmp_path / "x", "--force", "--format", "ova")


def test_images_of_a_landed_machine_are_not_replaced_even_by_force(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "off", "-o", tmp_path / "ova", "--format", "ova")
    shell.good("export", "off", "-o", tmp_path / "x")
    mark_landed(tmp_path / "x", "off-disk1.qcow2")
    before = sha256(tmp_path / "x" / "off-disk1.qcow2")
    for command in (["export", "off"], ["convert", tmp_path / "ova" / "off.ova"]):
        refused = shell(*command, "-o", tmp_path / "x", "--force", "--json")
        assert (refused.status, refused.error["code"]) == (6, "images_landed")
    assert sha256(tmp_path / "x" / "off-disk1.qcow2") == before


@pytest.mark.parametrize(
    ("flags", "status", "code"),
    [
        (["nosuch"], 5, "not_found"),
        ([], 2, "usage"),
        (["off", "-f", "job.yaml"], 2, "usage"),
        (["off", "--bwlimit", "0"], 2, "usage"),
        (["off", "--bwlimit", "fast"], 2, "usage"),
        (["off", "--datastore-floor", "101%"], 2, "usage"),
        (["off", "--power-off", "--shutdown"], 2, "usage"),
        (["off", "--format", "qcow3"], 2, "usage"),
        (["off", "--parallel", "0"], 2, "usage"),
        (["off", "--format", "raw", "--compress"], 6, "compress_unfit"),
        (["off", "--exclude-disk", "9"], 5, "no_such_disk"),
        (["on", "--from-snapshot", "nosuch"], 5, "snapshot_not_found"),
        (["on", "--datastore-min-free", "100%"], 6, None),
        (["on", "--datastore-floor", "100%"], 6, None),
        (["tpm"], 6, None),
        (["off", "-o", "/dev/null/x"], 9, "target_denied"),
    ],
)
def test_each_refusal_has_its_status_code_cause_and_next_step(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], status: int, code: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    before = shell.server.state()
    done = shell("export", *flags, "--json")
    assert done.status == status, done.out
    assert done.error["exit_status"] == status
    assert code is None or done.error["code"] == code
    assert all(done.error[key] for key in ("message", "cause", "next_step"))
    assert shell.server.state() == before
    told = shell("export", *flags)
    assert told.out == ""
    for word in ("Error:", "next", "code"):
        assert word in told.err


def test_the_result_for_people_has_hashes_proof_and_the_next_command(shell: Shell, tmp_path: Path) -> None:
    done = shell.good("export", "off", "-o", tmp_path / "x")
    (event,) = [e for e in shell.good("export", "off", "-o", tmp_path / "y", "--json").events if e["type"] == "result"]
    for fact in ("sha256   ", "tree     ", "content  ", "proof   proved", "source  left as it was found"):
        assert fact in done.out
    assert f"next    hyper2kvm verify {tmp_path / 'x'}" in done.out
    assert event["content"]["off-disk1.qcow2"] in done.out
    command = done.err[done.err.index("  virt-install") :].strip()
    words = subprocess.run(
        ["bash", "-c", f"set -- {command}; printf '%s\\n' \"$@\""], capture_output=True, text=True
    ).stdout
    assert f"path={tmp_path / 'x' / 'off-disk1.qcow2'},format=qcow2" in words.splitlines()
    assert "\x1b" not in done.out + done.err


def test_configured_defaults_count_below_flags(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[export]\noutput_dir = "{tmp_path}/images"\nformat = "ova"\ncompress = "none"\nretries = 2\n')
    (plan,) = shell.good("export", "off", "--dry-run", "--json", "--config", config).events
    assert (plan["output_dir"], plan["format"]) == (f"{tmp_path}/images/off", "ova")
    (plan,) = shell.good("export", "off", "--dry-run", "--json", "--config", config, "--format", "raw").events
    assert plan["format"] == "raw"


# --- verify

DAMAGE = {
    "flipped bit": "verify_flipped",
    "missing": "verify_missing",
    "truncated": "verify_size",
    "extra": "verify_unexpected",
}


@pytest.mark.parametrize("damage", ["flipped bit", "missing", "truncated", "extra", "swapped", "manifest line"])
def test_verify_finds_damage_and_fails_with_status_8(shell: Shell, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "x"
    shell.good("export", "two", "-o", out, "--format", "ovf")
    one, two = out / "two-disk1.vmdk", out / "two-disk2.vmdk"
    if damage == "flipped bit":
        data = bytearray(one.read_bytes())
        data[len(data) // 2] ^= 1
        one.write_bytes(data)
    elif damage == "missing":
        two.unlink()
    elif damage == "truncated":
        one.write_bytes(one.read_bytes()[:-1])
    elif damage == "extra":
        (out / "other.vmdk").write_bytes(b"x")
    elif damage == "swapped":
        shutil.move(one, out / "t")
        shutil.move(two, one)
        shutil.move(out / "t", two)
    else:
        mf = out / "two.mf"
        mf.write_text(mf.read_text()[:-3] + "00\n")
    found = shell("verify", out, "--json")
    assert found.status == 8
    (report,) = [event for event in found.events if event["type"] == "verified"]
    assert not report["ok"]
    codes = {finding["code"] for finding in report["findings"]}
    assert codes
    assert codes.isdisjoint({"internal"})
    told = shell("verify", out)
    assert told.status == 8
    assert all(code in told.out for code in codes)


def test_each_damage_has_a_code_of_its_own(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "off", "-o", tmp_path / "good", "--format", "raw")
    seen = []
    for number, damage in enumerate(DAMAGE):
        out = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", out)
        image = out / "off-disk1.raw"
        if damage == "flipped bit":
            with image.open("r+b") as file:
                file.write(bytes([file.read(1)[0] ^ 1]) if not file.seek(0) else b"")
        elif damage == "missing":
            image.unlink()
        elif damage == "truncated":
            image.write_bytes(image.read_bytes()[:-512])
        else:
            (out / "other.raw").write_bytes(b"x")
        (event,) = [e for e in shell("verify", out, "--json").events if e["type"] == "verified"]
        seen.append(tuple(finding["code"] for finding in event["findings"]))
    assert len(set(seen)) == len(DAMAGE), seen


def test_verify_says_one_line_when_all_is_well(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "two", "-o", tmp_path / "x")
    told = shell.good("verify", tmp_path / "x")
    assert told.err == ""
    assert told.out.startswith("✔ two: 3 files as written (")
    assert told.out.count("\n") == 1
    events = shell.good("verify", tmp_path / "x", "--json").events
    progress = [event for event in events if event["type"] == "progress"]
    assert {event["machine"] for event in progress} == {"x"}
    assert all(event["phase"] == "verifying" for event in progress)


def test_verify_of_no_folder_is_a_usage_error(shell: Shell) -> None:
    assert shell("verify", "/nonexistent", "--json").error["code"] == "usage"


# --- convert


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("notes.txt", b"x", "unknown_input"),
        ("bad.ova", b"x" * 4096, None),
        ("bad.vmdk", b"", None),
        ("no.ovf", None, "unreadable_input"),
    ],
)
def test_what_cannot_be_converted_is_told_by_name(
    shell: Shell, tmp_path: Path, name: str, data: bytes | None, code: str | None
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    done = shell("convert", tmp_path / name, "-o", tmp_path / "x", "--json")
    assert done.status in (2, 8, 9)
    assert code is None or done.error["code"] == code
    assert done.error["code"] != "internal"
    assert not list((tmp_path / "x").glob("*.qcow2"))


def test_convert_speaks_of_a_file_not_of_a_source(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "off", "-o", tmp_path / "x", "--format", "vmdk")
    told = shell.good("convert", tmp_path / "x" / "off-disk1.vmdk", "-o", tmp_path / "y").out
    assert " read in " in told
    assert "received" not in told
    assert "left as it was found" not in told


# --- a disk without a size


@pytest.mark.parametrize("source", ["lease", "datastore"])
@pytest.mark.parametrize("kind", FILES)
def test_a_disk_of_no_size_is_refused_by_name_and_can_be_left_out(
    simulator: SimulatorFactory, tmp_path: Path, kind: str, source: str
) -> None:
    shell = Shell(simulator(machines=(small("off", disks=(SMALL, DiskSpec(MiB, reported_bytes=0))),)), tmp_path)
    before = shell.server.state()
    refused = shell("export", "off", "-o", tmp_path / "x", "--format", kind, "--source", source, "--json")
    assert (refused.status, refused.error["code"]) == (6, "disk_capacity")
    assert "'Hard disk 2' of 'off' has a capacity of 0 bytes" in refused.error["message"]
    assert shell.server.state() == before
    assert "0 B" in shell.good("inspect", "off").out
    shell.good("export", "off", "-o", tmp_path / "x", "--format", kind, "--source", source, "--exclude-disk", "2")
    shell.good("verify", tmp_path / "x")


# --- an inserted image that is gone


def test_an_image_that_is_gone_is_named_with_the_flag_that_helps(simulator: SimulatorFactory, tmp_path: Path) -> None:
    shell = Shell(simulator(machines=(small("cd", iso="[iso-library] old/deleted.iso"),)), tmp_path)
    failed = shell("export", "cd", "-o", tmp_path / "x", "--json")
    assert (failed.status, failed.error["code"]) == (7, "file_fault")
    assert "--remove-cdrom" in failed.error["next_step"]
    assert "'CD/DVD drive 1', [iso-library] old/deleted.iso" in failed.error["cause"]
    shell.good("export", "cd", "-o", tmp_path / "y", "--remove-cdrom")


@pytest.mark.parametrize(
    ("file", "ejects"),
    [
        ("[iso-library] old/deleted.iso", True),
        ("/vmfs/volumes/5f2a/old/deleted.iso", True),
        ("[ds1] vm/vm.vmdk", False),
        ("[ds1] vm/undeleted.iso", False),
    ],
)
def test_the_flag_is_named_for_the_image_alone(file: str, ejects: bool) -> None:
    machine = make_machine(
        cdroms=(Cdrom(3000, "CD", None, False), Cdrom(3001, "CD 2", "[iso-library] old/deleted.iso", True))
    )
    for error in (
        SourceError("refused", code="file_fault", file=file),
        SourceError(f"File {file} was not found", code="file_fault"),
    ):
        name_inserted_iso(error, machine)
        assert ("--remove-cdrom" in next_step(error)) is ejects
    other = SourceError(f"{file} is locked", code="file_locked")
    name_inserted_iso(other, machine)
    assert "--remove-cdrom" not in next_step(other)


# --- cleanup


def test_cleanup_removes_a_stray_snapshot_only_when_asked(shell: Shell, tmp_path: Path) -> None:
    assert "Nothing to restore" in shell.good("cleanup").err
    told = shell.good("cleanup", tmp_path / "nothing")
    assert "no unfinished export" in told.err
    assert shell.good("cleanup", "--json").out == ""
