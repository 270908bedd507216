"""Many machines: selected, shown in one table, exported with totals and a report, verified below a folder."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hypersdk.cli.app import program as hyper2kvm
from hypersdk.cli.batch import Batch, Failure
from hypersdk.cli.reportfile import html_text
from hypersdk.errors import Cancelled, Refused
from hypersdk.migration.findings import VerifyReport
from hypersdk.simulator import DiskSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.streams import SafeStream
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from tests.support.cli.commandline import environment, program, run, terminal
from tests.support.cli.shell import Shell, login, small
from tests.support.peers import Vcsim
from tests.support.simulator import SimulatorFactory

TINY = DiskSpec(capacity_bytes=256 * KiB, allocated_bytes=64 * KiB)
HOSTILE = "<script>alert('x')</script>"
FORMULA = '=HYPERLINK("http://192.0.2.1")'


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path) -> Shell:
    machines = (
        *(small(f"web-{number:02d}", disks=(TINY,), folder="Production/Web") for number in range(1, 6)),
        small("db-01", disks=(TINY, TINY), folder="Production/Databases"),
        small("db-asleep", disks=(TINY,), power="suspended", folder="Production/Databases"),
        small("test-01", disks=(TINY,), folder="Test"),
        small(HOSTILE, disks=(TINY,), folder="Odd"),
        small(FORMULA, disks=(TINY,), folder="Odd"),
    )
    return Shell(simulator(machines=machines), tmp_path)


def exported(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.rglob("artifact-manifest.json")}


# --- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "machines"),
    [
        (["web-0[12]"], {"web-01", "web-02"}),
        (["--folder", "Production/Web", "--exclude", "web-05"], {f"web-0{number}" for number in range(1, 5)}),
        (["--filter", "web 03"], {"web-03"}),
        (["--all", "--folder", "Test"], {"test-01"}),
        (["db-01", "test-*"], {"db-01", "test-01"}),
    ],
)
def test_selected_machines_are_planned_each_with_a_folder_of_its_own(
    shell: Shell, tmp_path: Path, arguments: list[str], machines: set[str]
) -> None:
    done = shell.good("export", *arguments, "-o", tmp_path / "x", "--dry-run", "--json")
    plans = [event for event in done.events if event["type"] == "plan"]
    assert {plan["machine"] for plan in plans} == machines
    assert {plan["output_dir"] for plan in plans} == {str(tmp_path / "x" / name) for name in machines}


def test_a_machine_by_its_name_alone_gets_the_folder_itself(shell: Shell, tmp_path: Path) -> None:
    (plan,) = shell.good("export", "web-01", "-o", tmp_path / "x", "--dry-run", "--json").events
    assert plan["output_dir"] == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ([], 2, "usage"),
        (["--exclude", "web-*"], 2, "usage"),
        (["web-01", "--all"], 2, "usage"),
        (["--folder", ""], 2, "usage"),
        (["--filter", "nosuchmachine"], 5, "nothing_selected"),
        (["--folder", "Nowhere"], 5, "not_found"),
        (["nosuch-*"], 5, "not_found"),
        (["--tag", "prod"], 5, "tags_unavailable"),
        (["--folder", "Test", "-f", "-"], 2, "usage"),
        (["-f", "-", "--write-job", "x.yaml"], 2, "usage"),
        (["--all", "--write-job", "x.yaml", "--resume"], 2, "usage"),
        (["--all", "--report", "x.txt"], 2, "usage"),
        (["--all", "--report", "/nonexistent/x.csv"], 9, "target_denied"),
        (["--all", "--report", "x" * 300 + ".csv"], 9, "target_failed"),
    ],
)
def test_a_selection_that_means_nothing_is_refused_before_anything_starts(
    shell: Shell, tmp_path: Path, arguments: list[str], status: int, code: str
) -> None:
    done = shell("export", *arguments, "-o", tmp_path / "x", "--json", stdin="{}")
    assert (done.status, done.error["code"]) == (status, code)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_exist_is_an_error_of_each_machine(shell: Shell, tmp_path: Path) -> None:
    done = shell("export", "web-*", "-o", tmp_path / ("x" * 300), "--resume", "--json")
    assert (done.status, done.error["code"]) == (10, "partly_failed")


def test_machines_with_a_tag_are_exported(vcsim: Callable[..., Vcsim], tmp_path: Path) -> None:
    server = vcsim(vm=2, autostart=False)
    server.govc("tags.category.create", "move")
    server.govc("tags.create", "-c", "move", "first")
    server.govc("tags.attach", "first", "/DC0/vm/DC0_H0_VM1")
    env = {"HOME": str(tmp_path), "GOVC_URL": server.login_url, "GOVC_INSECURE": "1"}
    done = run("export", "--tag", "move:first", "-o", str(tmp_path / "x"), "--dry-run", "--json", env=env)
    assert [event["machine"] for event in done.events if event["type"] == "plan"] == ["DC0_H0_VM1"]
    gone = run("export", "--tag", "second", "-o", str(tmp_path / "x"), "--dry-run", "--json", env=env)
    assert (gone.status, gone.error["code"]) == (5, "tag_not_found")


# --- before the start -------------------------------------------------------------------------------------------------


def test_one_table_and_a_sum_before_the_start(shell: Shell, tmp_path: Path) -> None:
    done = shell("export", "--folder", "Production", "-o", tmp_path / "x", "--dry-run")
    assert (done.status, done.out) == (10, "")
    lines = done.err.splitlines()
    assert lines[0].split() == ["Machine", "Power", "Disks", "Provisioned", "At", "most", "How", "Notes"]
    (asleep,) = [line for line in lines if line.startswith("db-asleep ")]
    assert asleep.split()[1:6] == ["suspended", "1", "256.0", "KiB", "skipped"]
    assert "is suspended" in asleep
    (two,) = [line for line in lines if line.startswith("db-01 ")]
    assert two.split()[1:5] == ["off", "2", "512.0", "KiB"]
    text = " ".join(done.err.split())
    assert "6 machines, 7 disks of 1.8 MiB, as qcow2, 1 machine skipped" in text
    assert f"to write to {tmp_path / 'x'}, " in text
    assert "skipped db-asleep: is suspended (machine_suspended). Resume the machine" in text
    assert "Error: 1 of 7 machines skipped" in text
    named = shell("export", "db-asleep", "web-01", "-o", tmp_path / "x", "--dry-run").err.splitlines()
    (asleep,) = [line for line in named if line.startswith("db-asleep ")]
    assert asleep.split()[:3] == ["db-asleep", "suspended", "1"], "the number of its disks is known"


def test_two_hundred_machines_are_two_hundred_lines_and_a_few(simulator: SimulatorFactory, tmp_path: Path) -> None:
    machines = tuple(small(f"machine-{number:03d}", disks=(TINY,), power="poweredOn") for number in range(200))
    shell = Shell(simulator(machines=machines), tmp_path)
    done = shell.good("export", "--all", "-o", tmp_path / "x", "--dry-run", "--no-quiesce")
    assert 203 <= len(done.err.splitlines()) <= 210
    assert "machine-000, machine-001, machine-002, machine-003, machine-004 and 195 more: the snapshot" in done.err


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_table_fits_the_terminal_and_a_question_comes_before_the_start(
    shell: Shell, tmp_path: Path, columns: int
) -> None:
    words = ("export", "--folder", "Production", "-o", str(tmp_path / "x"))
    env = environment(tmp_path, **{key: value for key, value in login(shell.server, tmp_path).items() if key != "HOME"})
    with terminal(program(*words), env, (columns, 60)) as shown:
        shown.wait_for("[q]uit: ")
        table = shown.text.partition("Machine")[2].splitlines()
        assert all(len(line) <= columns for line in table)
        shown.type("what\n")
        shown.wait_for("Start 6 exports?")
        shown.type("q\n")
        assert shown.finish() == 0
    assert "Nothing was exported." in shown.text
    assert not (tmp_path / "x").exists()


def test_yes_starts_without_a_question(shell: Shell, tmp_path: Path) -> None:
    words = ("export", "web-0[12]", "-o", str(tmp_path / "x"), "--yes")
    env = environment(tmp_path, **{key: value for key, value in login(shell.server, tmp_path).items() if key != "HOME"})
    with terminal(program(*words), env, (100, 40)) as shown:
        assert shown.finish() == 0
    assert "[q]uit" not in shown.text
    assert exported(tmp_path / "x") == {"web-01", "web-02"}


# --- totals and report ------------------------------------------------------------------------------------------------


def test_totals_after_success_failure_and_skips(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "web-01", "-o", tmp_path / "x" / "web-01")
    shell.server.set_faults(Fault(FaultKind.RESET, after_bytes=1 * KiB, times=1))
    words = ("export", "--folder", "Production", "-o", tmp_path / "x", "--resume", "--retries", "0", "--json")
    done = shell(*words, "--source", "lease", "--max-machines", "1", "--report", tmp_path / "r.json")
    assert done.status == 10
    (totals,) = [event for event in done.events if event["type"] == "totals"]
    results = [event for event in done.events if event["type"] == "result"]
    counted = {name: totals[name] for name in ("machines", "exported", "failed", "skipped", "exported_earlier")}
    assert counted == {"machines": 7, "exported": 4, "failed": 1, "skipped": 1, "exported_earlier": 1}
    for name in ("data_bytes", "written_bytes"):
        assert totals[name] == sum(result[name] for result in results)
    assert totals["data_bytes"] + totals["holes_bytes"] == sum(result["capacity_bytes"] for result in results)
    assert totals["wire_bytes"] >= sum(result["wire_bytes"] for result in results)
    failed = {
        event["machine"]: event["code"] for event in done.events if event["type"] == "error" and "machine" in event
    }
    assert failed["db-asleep"] == "machine_suspended"
    assert len(failed) == 2
    report = json.loads((tmp_path / "r.json").read_text())
    assert {"type": "totals", **report["totals"]} == totals
    rows = {row["machine"]: row for row in report["machines"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "web-01": "exported earlier", "db-asleep": "skipped",
        **{name: "failed" if name in failed else "exported" for name in rows if name not in ("web-01", "db-asleep")},
    }  # fmt: skip
    for name, code in failed.items():
        assert rows[name]["code"] == code
        assert rows[name]["next_step"]


def test_many_results_are_a_line_each_for_people(shell: Shell, tmp_path: Path) -> None:
    done = shell.good("export", "--folder", "Production/Web", "-o", tmp_path / "x")
    lines = done.out.splitlines()
    assert [line.split()[1] for line in lines[:5]] == [f"web-0{number}" for number in range(1, 6)]
    assert lines[5] == "✔ 5 machines: 5 exported"
    assert [line.split()[0] for line in lines[6:]] == ["moved", "data", "next"]
    assert lines[-1].endswith(f"hyper2kvm verify {tmp_path / 'x'}")
    assert "virt-install" not in done.err


class Page(HTMLParser):
    """What a browser would do with the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


def test_a_page_and_a_table_of_hostile_names_do_nothing(shell: Shell, tmp_path: Path) -> None:
    for kind in ("html", "csv"):
        shell.good("export", "--folder", "Odd", "-o", tmp_path / kind, "--report", tmp_path / f"r.{kind}")
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert {HOSTILE, FORMULA} <= set(page.cells)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(
        name in ("src", "href", "action") or name.startswith("on") for _, attrs in page.tags for name in attrs
    )
    assert not re.search(r"url\(|@import|https?://", html.unescape(text).replace(FORMULA, "").replace("192.0.2.1", ""))
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text(), newline="")))
    assert {row["machine"] for row in rows} == {HOSTILE, f"'{FORMULA}"}
    assert all(row["status"] == "exported" and int(row["data_bytes"]) > 0 for row in rows)
    cells = [cell for row in rows for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


def test_control_characters_in_messages_are_written_out_in_the_page() -> None:
    failure = Failure("\x1b[2J\u202ename", Refused("it's \x00 <b>bad</b>"))
    page = Page(html_text(Batch(skipped=[failure])))
    assert "\\x1b[2J\\u202ename" in page.cells
    assert any(cell.startswith("it's \\x00 <b>bad</b>") for cell in page.cells)


def test_the_report_of_a_dry_run_says_what_was_not_started(shell: Shell, tmp_path: Path) -> None:
    shell("export", "--folder", "Production", "-o", tmp_path / "x", "--dry-run", "--report", tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text(), newline="")))
    assert {row["status"] for row in rows} == {"not started", "skipped"}
    assert len(rows) == 7


@pytest.mark.parametrize("earlier", [None, "an older report"])
def test_a_stopped_run_writes_its_report(simulator: SimulatorFactory, tmp_path: Path, earlier: str | None) -> None:
    slow = DiskSpec(capacity_bytes=8 * MiB, allocated_bytes=8 * MiB)
    machines = tuple(small(f"slow-{number}", disks=(slow,)) for number in range(3))
    server = simulator(machines=machines, rate_bytes_s=256 * KiB)
    report = tmp_path / "r.json"
    if earlier:
        report.write_text(earlier)
    env = environment(tmp_path, **{key: value for key, value in login(server, tmp_path).items() if key != "HOME"})
    words = program(
        "export", "--all", "-o", str(tmp_path / "x"), "--yes", "--max-machines", "2", "--report", str(report)
    )
    with terminal(words, env, (100, 40)) as shown:
        shown.wait_for("KiB/s")
        shown.process.send_signal(signal.SIGINT)
        assert shown.finish(60) == 130
    written = json.loads(report.read_text())
    assert {row["status"] for row in written["machines"]} == {"stopped"}
    assert written["totals"]["stopped"] == 3
    assert written["totals"]["wire_bytes"] > 0
    assert [path.name for path in tmp_path.glob(".*new")] == []


# --- job files --------------------------------------------------------------------------------------------------------


def plans_of(shell: Shell, *words: str | Path) -> list[dict[str, Any]]:
    """What would be exported; the free space changes by itself."""
    events = shell.good("export", *words, "--dry-run", "--json").events
    return [{**event, "free_bytes": 0} for event in events if event["type"] == "plan"]


@pytest.mark.parametrize("name", ["weekend.yaml", "weekend.json"])
@pytest.mark.parametrize(
    ("select", "flags"),
    [
        (("--folder", "Production", "--exclude", "*asleep"), ("--format", "raw", "--source", "lease")),
        (("db-01",), ("--exclude-disk", "2", "--parallel", "2", "--remove-cdrom", "--compress=unchecked")),
        (("--folder", "Odd"), ("--power-off", "--format", "ova")),
    ],
)
def test_a_written_job_file_runs_as_the_selection_would(
    shell: Shell, tmp_path: Path, name: str, select: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    file, out = tmp_path / name, tmp_path / "x"
    told = shell.good("export", *select, *flags, "-o", out, "--write-job", file)
    assert not out.exists()
    assert shell.server.password not in file.read_text()
    by_flags = plans_of(shell, *select, *flags, "-o", out)
    assert plans_of(shell, "-f", file) == by_flags
    machines = "1 machine" if len(by_flags) == 1 else f"{len(by_flags)} machines"
    assert told.out.startswith(f"{file}: {machines} of {shell.server.host}:{shell.server.port}")
    assert "B provisioned\n" in told.out
    assert f"hyper2kvm export -f {file} --dry-run" in told.err


def test_a_job_file_is_never_overwritten(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("mine")
    done = shell("export", "--all", "-o", tmp_path / "x", "--write-job", file, "--json")
    assert (done.status, done.error["code"]) == (2, "file_exists")
    assert file.read_text() == "mine"
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "nowhere")
    assert shell("export", "--all", "-o", tmp_path / "x", "--write-job", link, "--json").error["code"] == "file_exists"
    assert not (tmp_path / "nowhere").exists()


def test_a_job_file_on_standard_output_is_read_from_standard_input(shell: Shell, tmp_path: Path) -> None:
    written = shell.good("export", "--folder", "Odd", "-o", tmp_path / "x", "--write-job", "-").out
    shell.good("export", "-f", "-", stdin=written)
    assert len(exported(tmp_path / "x")) == 2


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(shell: Shell, tmp_path: Path) -> Path:
    out = tmp_path / "images"
    shell.good("export", "--folder", "Production/Web", "-o", out)
    (out / "deeper").mkdir()
    (out / "web-05").rename(out / "deeper" / "web-05")
    (out / "loop").symlink_to(out)
    (out / "deeper" / "up").symlink_to("..")
    return out


def test_verify_goes_down_folders_with_a_line_each_and_a_total(shell: Shell, images: Path) -> None:
    done = shell.good("verify", images)
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["✔", f"web-0{number}"] for number in (5, 1, 2, 3, 4)]
    assert lines[0].endswith(str(images / "deeper" / "web-05"))
    assert lines[-1].startswith("✔ 5 exports: 5 as written; ")
    again = shell.good("verify", images, images / "web-01", images / "loop" / "web-02")
    assert again.out.splitlines()[-1].startswith("✔ 5 exports"), "each once"


def test_verify_tells_of_each_that_differs_and_goes_on(shell: Shell, images: Path) -> None:
    with (images / "web-02" / "web-02-disk1.qcow2").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    (images / "web-03" / "artifact-manifest.json").unlink()
    (images / "web-04" / "hypersdk-run.json").write_text("{}")
    done = shell("verify", images, "--json")
    assert (done.status, done.error["code"]) == (8, "verify_failed")
    reports = {Path(event["folder"]).name: event for event in done.events if event["type"] == "verified"}
    assert {name for name, report in reports.items() if report["ok"]} >= {"web-01", "web-05"}
    assert reports["web-02"]["findings"][0]["code"] == "verify_flipped"
    assert reports["web-03"]["findings"][0]["code"] == "verify_no_manifest"
    (totals,) = [event for event in done.events if event["type"] == "totals"]
    assert (totals["exports"], totals["good"] + totals["failed"]) == (5, 5)
    assert {Path(entry["folder"]).name for entry in done.error["failed"]} >= {"web-02", "web-03"}
    told = shell("verify", images)
    assert "✘ web-02  " in told.out
    assert "(verify_flipped)" in told.out


def test_a_folder_without_an_export_among_several_is_not_taken_for_good(shell: Shell, images: Path) -> None:
    (images.parent / "empty").mkdir()
    done = shell("verify", images.parent / "empty", images / "web-01", "--json")
    assert done.error["code"] == "verify_failed"
    assert shell("verify", images.parent / "empty", "--json").error["code"] == "verify_no_manifest"
    assert shell("verify", images / "web-01", images.parent / "nosuch", "--json").error["failed"] == [
        {"folder": str(images.parent / "nosuch"), "code": "verify_unreadable"}
    ]


def test_a_stopped_verification_says_so(shell: Shell, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_arguments: object, **_named: object) -> None:
        raise Cancelled("stopped: interrupted")

    monkeypatch.setattr("hypersdk.cli.verifying.verify_export", stop)
    done = shell("verify", images, "--json")
    assert (done.status, done.error["code"]) == (130, "cancelled")
    assert not [event for event in done.events if event["type"] in ("verified", "totals")]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_verification_ends_when_its_results_cannot_be_written(
    images: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is read meanwhile, and when it is the display's thread that meets the error."""
    done = threading.Event()

    def verified(folder: Path, *, cancel: CancelToken, observer: object) -> VerifyReport:
        if flags or done.is_set():
            cancel.sleep(40)
            pytest.fail("nobody stopped it")
        done.set()
        return VerifyReport(folder, "web", (), ("disk",), (), 1, 0.1)

    monkeypatch.setattr("hypersdk.cli.verifying.verify_export", verified)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        out, err = SafeStream(descriptor, None), io.StringIO()
        status = hyper2kvm.main(["verify", str(images), *flags], out, err, io.StringIO(), {"HOME": str(images)})
    finally:
        os.close(descriptor)
    assert (status, len(err.getvalue().splitlines())) == (14, 1), err.getvalue()


def test_a_tree_without_end_is_refused(shell: Shell, images: Path) -> None:
    deep = images
    for number in range(40):
        deep = deep / str(number)
        deep.mkdir()
    done = shell("verify", images, "--json")
    assert (done.status, done.error["code"]) == (2, "usage")
    assert "32 levels" in done.error["message"]


# --- several servers, interruptions -----------------------------------------------------------------------------------


def test_a_server_that_cannot_be_used_does_not_stop_the_jobs_of_others(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "x"
    jobs = [
        {"vm_path": "nowhere", "output_path": str(out / "a"), "vcenter_url": "https://127.0.0.1:1"},
        {"vm_path": "web-01", "output_path": str(out / "b")},
    ]
    done = shell("export", "-f", "-", "--json", "--report", tmp_path / "r.json", stdin=json.dumps(jobs))
    assert done.status == 10
    assert [event["machine"] for event in done.events if event["type"] == "result"] == ["web-01"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert {row["machine"]: row["status"] for row in report["machines"]} == {"nowhere": "skipped", "web-01": "exported"}
    alone = shell("export", "-f", "-", "--json", stdin=json.dumps(jobs[:1]))
    assert alone.status == 3


def test_a_run_that_ends_while_it_plans_reports_all_machines(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_arguments: object, **_named: object) -> None:
        raise Cancelled("stopped: interrupted")

    monkeypatch.setattr("hypersdk.cli.exporting.make_plan", stop)
    done = shell("export", "web-*", "-o", tmp_path / "x", "--json", "--report", tmp_path / "r.json")
    assert done.status == 130
    report = json.loads((tmp_path / "r.json").read_text())
    assert [row["status"] for row in report["machines"]] == ["not started"] * 5


def test_machines_that_do_not_fit_together_are_skipped(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypersdk.migration.plan.free_bytes", lambda _folder: 1 * MiB)
    done = shell("export", "web-*", "-o", tmp_path / "x", "--format", "raw", "--dry-run", "--json")
    plans = [event for event in done.events if event["type"] == "plan"]
    skipped = {event["machine"]: event["code"] for event in done.events if "machine" in event and "code" in event}
    needs_bytes = sum(plan["needs_bytes"] for plan in plans)
    assert needs_bytes <= 1 * MiB < needs_bytes + plans[0]["needs_bytes"], "as many as fit"
    assert skipped == {f"web-0{number}": "target_too_small" for number in range(len(plans) + 1, 6)}
    assert skipped
