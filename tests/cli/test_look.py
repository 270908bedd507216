"""`list`, `inspect`, `doctor`, `status`: what there is, told to people and to programs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from rich.cells import cell_len

from hypersdk.cli.machines import list_table
from hypersdk.model import Power
from hypersdk.units import GiB, KiB
from tests.support.cli.commandline import environment, program, run
from tests.support.cli.shell import SMALL, Shell, login, small
from tests.support.inventories import machine
from tests.support.simulator import SimulatorFactory

TRICKY = ("100% sure", "R&D / prototype", "監視サーバー", "trailing.dot.", "-rf")
SCHEMA = {
    "name": str,
    "moref": str,
    "path": str,
    "uuid": str,
    "power": str,
    "cpus": int,
    "memory_bytes": int,
    "disk_count": int,
    "provisioned_bytes": int,
    "used_bytes": int,
}


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path) -> Shell:
    machines = [
        small("web-01", power="poweredOn", folder="Production/Web", snapshots=("before update",)),
        small("web-01", folder="Retired"),
        small("web-02", folder="Production/Web", disks=(SMALL, SMALL)),
        *(small(name) for name in TRICKY),
    ]
    return Shell(simulator(machines=tuple(machines), datacenters=2), tmp_path)


def test_list_json_has_the_fields_that_scripts_rely_on(shell: Shell) -> None:
    rows = shell.good("list", "--json").events
    assert sorted(row["name"] for row in rows) == sorted(["web-01", "web-01", "web-02", *TRICKY])
    for row in rows:
        for field, kind in SCHEMA.items():
            assert type(row[field]) is kind, (field, row)
        assert row["power"] in {power.value for power in Power}
        assert not {"disks", "capacity_bytes"} & set(row), "they need --disks"
    assert {row["disk_count"] for row in rows if row["name"] == "web-02"} == {2}


@pytest.mark.parametrize("filtered", [(), ("--filter", "web")])
def test_with_disks_a_list_has_those_of_each_machine(shell: Shell, filtered: tuple[str, ...]) -> None:
    rows = shell.good("list", "--json", "--disks", *filtered).events
    plain = shell.good("list", "--json", *filtered).events
    assert [{key: row[key] for key in row if key not in ("disks", "capacity_bytes")} for row in rows] == plain
    for row in rows:
        assert [set(disk) for disk in row["disks"]] == [{"label", "capacity_bytes"}] * row["disk_count"]
        assert row["capacity_bytes"] == sum(disk["capacity_bytes"] for disk in row["disks"])
    assert {len(row["disks"]) for row in rows if row["name"] == "web-02"} == {2}
    shown = shell.good("list", "--disks", *filtered)
    assert "4.0 MiB + 4.0 MiB" in shown.out
    assert "of disks" in shown.err


def test_every_listed_identity_leads_back_to_its_machine(shell: Shell) -> None:
    for row in shell.good("list", "--json").events:
        for identity in ("path", "moref", "uuid"):
            (found,) = shell.good("inspect", "--json", "--", row[identity]).events
            assert found["moref"] == row["moref"], identity


@pytest.mark.parametrize("name", TRICKY)
def test_any_name_is_found_and_its_path_is_a_vm_path(shell: Shell, tmp_path: Path, name: str) -> None:
    (found,) = shell.good("inspect", "--json", "--", name).events
    assert found["name"] == name
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"vm_path": found["path"], "output_path": str(tmp_path / "out")}))
    assert shell.good("export", "-f", job, "--dry-run", "--json").events[0]["moref"] == found["moref"]


def test_an_ambiguous_name_is_refused_with_the_candidates(shell: Shell) -> None:
    told = shell("inspect", "web-01")
    assert told.status == 5
    for folder in ("Production/Web", "Retired"):
        assert f"/Amsterdam/vm/{folder}/web-01" in told.err
    refused = shell("export", "web-01", "-o", shell.home / "x", "--json")
    assert refused.error["code"] == "ambiguous"
    assert len(refused.error["candidates"]) == 2
    assert not (shell.home / "x").exists()


def test_filter_takes_words_and_letters_of_the_name_only(shell: Shell) -> None:
    def names(*words: str) -> list[str]:
        return [row["name"] for row in shell.good("list", "--json", "--filter", " ".join(words)).events]

    assert names("web", "retired") == ["web-01"]
    assert names("w02") == ["web-02"]
    assert names("debian") == names("")
    assert names("dban") == [], "letters that stand apart in the guest's name match nearly everything"


def test_filter_without_a_match_says_so(shell: Shell) -> None:
    told = shell.good("list", "--filter", "nosuch")
    assert told.out == ""
    assert "None of 8 machines matches" in told.err


def test_sort_by_size_puts_the_largest_first(shell: Shell) -> None:
    rows = shell.good("list", "--json", "--sort", "size").events
    sizes = [row["provisioned_bytes"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[0]["power"] == "on", "its swap file counts"


def test_a_datacenter_narrows_by_name_and_by_path(shell: Shell) -> None:
    for spelled, number in (("Amsterdam", 8), ("/Amsterdam", 8), ("Frankfurt", 0)):
        assert len(shell.good("list", "--json", "--datacenter", spelled).events) == number
        assert len(shell.good("list", "--json", GOVC_DATACENTER=spelled).events) == number


def test_a_piped_list_is_whole_lines_without_control_characters(shell: Shell) -> None:
    lines = shell.good("list").out.splitlines()
    assert len(lines) == 1 + 8
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
    assert lines[0].split() == ["Name", "Power", "CPU", "Memory", "Size", "Guest", "Folder"]


LONG = [
    machine(
        1, name="a-very-long-name-of-a-machine-that-somebody-found-funny-once", path="/DC/vm/" + "deep/" * 20 + "x"
    ),
    machine(2, name="短い", guest=None, power=Power.SUSPENDED, capacity_bytes=512 * KiB),
    machine(3, name="web", capacity_bytes=64 * 1024 * GiB),
]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_list_never_wraps(width: int) -> None:
    lines = list_table(LONG, width).plain.splitlines()
    assert len(lines) == 1 + len(LONG)
    assert max(cell_len(line) for line in lines) <= width
    end = cell_len(lines[0][: lines[0].index("Size") + len("Size")])
    assert {cell_len(line[: line.index("iB", line.index("iB") + 1) + 2]) for line in lines[1:]} == {end}


def test_at_eighty_columns_an_ordinary_folder_is_there() -> None:
    rows = [machine(1, name="gitlab", guest="Debian GNU/Linux 12 (64-bit)", path="/Amsterdam/vm/Development/CI/gitlab")]
    assert "/Amsterdam/vm/" in list_table(rows, 80).plain
    assert "/Amsterdam/vm/Development/CI" in list_table(rows, 120).plain


def test_inspect_tells_people_what_matters(shell: Shell) -> None:
    told = shell.good("inspect", "/Amsterdam/vm/Production/Web/web-01").out
    for fact in ("power     on", "Hard disk 1", "before update", "uuid", "vmxnet3"):
        assert fact in told
    assert all(line == line.rstrip() for line in told.splitlines())


def test_doctor_passes_on_a_good_server_and_fails_with_status_3(shell: Shell) -> None:
    checks = shell.good("doctor", "--json", "--output", shell.home).events
    assert {"login", "clock", "port"} <= {check["name"] for check in checks}
    assert all(check["type"] == "check" and check["status"] in ("ok", "warn") for check in checks)
    told = shell("doctor", "-u", "127.0.0.1:9")
    assert told.status == 3
    assert "✘ port" in told.out
    assert "doctor_failed" in told.err


def test_doctor_names_the_missing_privilege(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(machines=(small("web"),), denied_privileges=frozenset({"VApp.Export"}))
    told = Shell(server, tmp_path)("doctor")
    assert "VApp.Export" in told.out


def test_status_without_runs_needs_no_server(tmp_path: Path) -> None:
    assert run("status", env={"HOME": str(tmp_path)}).out == "No unfinished exports.\n"
    assert run("status", "--json", env={"HOME": str(tmp_path)}).out == ""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_stops_early_is_quiet(simulator: SimulatorFactory, tmp_path: Path, flags: list[str]) -> None:
    server = simulator(vms=600)  # more than fits into a pipe
    pairs = {key: value for key, value in login(server, tmp_path).items() if key != "HOME"}
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -1; echo "${PIPESTATUS[0]}"', "-", *program("list", *flags)],
        capture_output=True,
        text=True,
        env=environment(tmp_path, **pairs),
        check=True,
    )
    assert done.stdout.splitlines()[1:] == ["141"]
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_an_odd_terminal_encoding_does_not_end_it(shell: Shell, tmp_path: Path) -> None:
    pairs = {key: value for key, value in login(shell.server, tmp_path).items() if key != "HOME"}
    env = {**environment(tmp_path, **pairs), "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(program("list"), capture_output=True, text=True, env=env, check=True)
    assert "R&D / prototype" in done.stdout
    assert "\\u76e3" in done.stdout


def test_doctor_examines_a_target_layer_by_layer(shell: Shell, tmp_path: Path) -> None:
    found = shell.good("doctor", "--json", "--to", "test:///default").events
    names = [check["name"] for check in found if check["type"] == "check"]
    assert names == [
        "connection", "permission", "versions", "acceleration", "firmware", "virt-v2v", "virtio-win", "KVM here",
    ]  # fmt: skip
    dead = shell("doctor", "--to", f"qemu+unix:///system?socket={tmp_path}/nobody")
    assert dead.status == 3
    assert "✘ connection: cannot connect" in dead.out
    assert "permission" not in dead.out
    assert shell("doctor", "--to", "https://vcenter.example.com").status == 2
