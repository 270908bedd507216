"""The progress display, the log lines and the events."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from hypersdk.cli.output import Output
from hypersdk.cli.progress import FolderProgress, JsonProgress, LogProgress, draw, log_line, watching
from hypersdk.cli.total import MachinesTotal, total_text
from hypersdk.model import Basis, Bottleneck, DiskProgress, ExportProgress, Phase
from hypersdk.units import GiB, MiB

DISK = DiskProgress(
    label="Hard disk 1",
    file_name="web-disk1.qcow2",
    phase=Phase.TRANSFERRING,
    capacity_bytes=40 * GiB,
    wire_bytes=3 * GiB,
    guest_bytes=5 * GiB,
    written_bytes=5 * GiB,
    skipped_bytes=0,
    fraction=0.43,
    basis=Basis.ALLOCATED,
    rate_bytes_s=180.0 * MiB,
    eta_s=33.0,
    bottleneck=Bottleneck.SOURCE,
    attempt=1,
    note="",
)
MACHINE = ExportProgress(
    machine="web01",
    phase=Phase.TRANSFERRING,
    disks=(DISK,),
    wire_bytes=3 * GiB,
    fraction=0.43,
    rate_bytes_s=180.0 * MiB,
    eta_s=33.0,
    elapsed_s=12.0,
    lease_age_s=70.0,
    note="from esx1.example.com",
)

maybe_number = st.none() | st.floats(0, 1e15, allow_nan=False)
T = TypeVar("T")
disks = st.builds(
    replace,
    st.just(DISK),
    label=st.text(max_size=50),
    phase=st.sampled_from(Phase),
    fraction=st.floats(0, 1),
    rate_bytes_s=maybe_number,
    eta_s=maybe_number,
    note=st.text(max_size=100),
    attempt=st.integers(1, 4),
)


def repeated(elements: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    """Up to three elements, up to four times: many lines from little data, which is slow to generate."""
    return st.tuples(st.lists(elements, max_size=3), st.integers(1, 4)).map(lambda drawn: drawn[0] * drawn[1])


machines = st.builds(
    replace,
    st.just(MACHINE),
    machine=st.text(max_size=100),
    phase=st.sampled_from(Phase),
    fraction=st.floats(0, 1),
    disks=repeated(disks).map(tuple),
    rate_bytes_s=maybe_number,
    eta_s=maybe_number,
    note=st.text(max_size=100),
)


@given(repeated(machines), st.integers(20, 220), st.integers(5, 60))
def test_the_display_fits_any_terminal(shown: list[ExportProgress], width: int, height: int) -> None:
    lines = list(draw(shown, width, height))
    assert all(line.cell_len <= width for line in lines)
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in lines)
    assert len(lines) < height


def test_it_shows_what_the_user_wants_to_know() -> None:
    text = "\n".join(line.plain for line in draw([MACHINE], 140, 24))
    for fact in (
        "web01",
        "43%",
        "3.0 GiB",
        "180.0 MiB/s",
        "33 s left",
        "Hard disk 1",
        "allocated bytes",
        "waits for vSphere",
        "lease open for 1 m 10 s",
    ):
        assert fact in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_what_runs_is_shown_first_and_the_others_are_counted(width: int) -> None:
    phases = [*[Phase.DONE] * 5, *[Phase.QUEUED] * 30, Phase.FAILED, Phase.PREPARING, Phase.TRANSFERRING]
    many = [replace(MACHINE, machine=f"vm-{at:02d}", phase=phase, note="") for at, phase in enumerate(phases)]
    lines = [line.plain for line in draw(many, width, 24)]
    assert len(lines) == 23, "the height is used"
    names = [line.split()[0] for line in lines[1:-1] if line.startswith("vm-")]
    assert names[:4] == ["vm-36", "vm-37", "vm-35", "vm-05"], "running, failed, waiting"
    assert lines[-1] == f"  and {38 - len(names)} more: {33 - len(names)} queued, 5 done"
    assert all("preparing" in line or "queued" in line for line in lines if line.startswith(("vm-36", "vm-05")))
    assert names == sorted(names, key=lambda name: (name not in ("vm-36", "vm-37"), name != "vm-35", name))


def test_all_stay_in_their_order_where_there_is_room() -> None:
    phases = (Phase.DONE, Phase.QUEUED, Phase.TRANSFERRING, Phase.FAILED)
    some = [replace(MACHINE, machine=f"vm-{at}", phase=phase) for at, phase in enumerate(phases)]
    lines = [line.plain for line in draw(some, 120, 24)]
    assert [line.split()[0] for line in lines[1:] if line.startswith("vm")] == ["vm-0", "vm-1", "vm-2", "vm-3"]
    assert "more" not in "".join(lines)


def test_disks_are_left_out_where_they_are_not_wanted() -> None:
    two = replace(MACHINE, disks=(DISK, replace(DISK, label="Hard disk 2")))
    with_disks = [line.plain for line in draw([two], 140, 24)]
    without = [line.plain for line in draw([two], 140, 24, disks=False)]
    assert [line for line in with_disks if "Hard disk" not in line] == without
    assert len(with_disks) == len(without) + 2


def test_bars_of_all_lines_end_in_one_column() -> None:
    for width in (80, 120, 200):
        lines = [
            line.plain
            for line in draw([MACHINE, replace(MACHINE, machine="a-machine-with-a-long-name-indeed")], width, 24)
        ]
        ends = {line.rindex("░") for line in lines if "░" in line}
        assert len(ends) == 1, width


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_phases_are_whole_and_end_in_one_column(width: int) -> None:
    names = ("a", "web-01", "Büro Zürich – Drucker", "監視サーバー", "x" * 70)
    phases = (Phase.QUEUED, Phase.PREPARING, Phase.PUBLISHING, Phase.FAILED, Phase.QUEUED)
    shown = [
        replace(MACHINE, machine=name, phase=phase, fraction=0.0) for name, phase in zip(names, phases, strict=True)
    ]
    lines = list(draw(shown, width, 40, disks=False))
    ends = set()
    for phase in phases:
        line = next(line for line in lines if f"  {phase} " in line.plain)
        ends.add(Text(line.plain.partition(f"  {phase} ")[0]).cell_len + len(phase))
        lines.remove(line)
    assert len(ends) == 1


def test_the_phase_of_a_disk_is_whole_at_80_columns() -> None:
    verifying = replace(MACHINE, phase=Phase.VERIFYING, disks=(replace(DISK, phase=Phase.VERIFYING),))
    text = "\n".join(line.plain for line in draw([verifying], 80, 24))
    assert re.search(rf"^  {DISK.label} +verifying ", text, re.MULTILINE)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("phase", [Phase.CONVERTING, Phase.LANDING, Phase.PROVING, Phase.WAITING])
def test_a_step_after_the_copy_has_no_bar_and_no_percentage(phase: Phase, width: int) -> None:
    """How far it is in the step is not known."""
    copied = replace(DISK, phase=Phase.DONE, fraction=1.0)
    machine = replace(MACHINE, phase=phase, fraction=0.994, disks=(copied, copied), note="Opening", elapsed_s=75.0)
    (line,) = [line.plain for line in draw([machine], width, 24)]
    assert not {"%", "█", "Hard disk"} & {part for part in ("%", "█", "Hard disk") if part in line}
    assert phase.value in line
    assert "Opening" in line
    assert line.endswith("1 m 15 s so far")


def test_a_total_is_shown_for_several_machines() -> None:
    text = next(iter(draw([MACHINE, replace(MACHINE, phase=Phase.DONE, fraction=1.0)], 100, 24))).plain
    assert text.startswith("1 of 2 done")
    assert "72%" in text or "71%" in text


def test_the_total_counts_all_machines_with_the_waiting_ones() -> None:
    """Of the capacities alone, 11 done machines of 27 and two that run made 89 % and the seconds of one machine."""
    done = replace(MACHINE, phase=Phase.DONE, fraction=1.0, expected_bytes=GiB, elapsed_s=13, copy_s=10, eta_s=None)
    running = replace(MACHINE, fraction=0.5, expected_bytes=GiB, elapsed_s=8, copy_s=5, eta_s=5.0)
    waiting = replace(MACHINE, phase=Phase.QUEUED, fraction=0, expected_bytes=GiB, elapsed_s=0, copy_s=0, eta_s=None)
    machines = [*[done] * 11, *[running] * 2, *[waiting] * 14]
    total = MachinesTotal()(machines)
    assert total_text(total) == "11 of 27 done, 44%, 360.0 MiB/s, 1 m 36 s left"
    text = next(iter(draw(machines, 80, 24, total=total))).plain
    assert text.startswith("11 of 27 done")
    assert text.endswith("1 m 36 s left")
    assert "44%" in text


def test_a_total_that_waits_says_for_what_and_has_no_rate_and_no_time() -> None:
    full = replace(DISK, phase=Phase.WAITING, note="/srv is full: waiting for free space", rate_bytes_s=None)
    blocked = replace(MACHINE, phase=Phase.WAITING, disks=(full,), rate_bytes_s=None, eta_s=None, note="")
    waiting = replace(MACHINE, phase=Phase.QUEUED, fraction=0, disks=(), rate_bytes_s=None, eta_s=None)
    text = total_text(MachinesTotal()([blocked, waiting]))
    assert text.startswith("0 of 2 done")
    assert text.endswith("%, /srv is full: waiting for free space")


def test_what_the_user_stopped_has_not_failed() -> None:
    phases = (Phase.DONE, Phase.FAILED, *[Phase.CANCELLED] * 3)
    total = MachinesTotal()([replace(MACHINE, phase=phase) for phase in phases])
    assert (total.failed, total.cancelled) == (4, 3)
    assert total_text(total).startswith("1 of 5 done, 1 failed, 3 stopped")


def test_what_waits_to_be_landed_stands_behind_what_runs_and_is_told_once() -> None:
    copied = replace(DISK, phase=Phase.DONE)
    waits = replace(MACHINE, phase=Phase.WAITING, disks=(copied,), note="waits until other machines are landed")
    many = [replace(waits, machine=f"vm-{at:02d}") for at in range(40)] + [replace(MACHINE, machine="vm-99")]
    lines = [line.plain for line in draw(many, 120, 24)]
    assert lines[1].startswith("vm-99")
    assert lines[-1].endswith("more, waiting")
    assert "waits until" not in total_text(MachinesTotal()(many))
    output, out, _ = make(json_lines=True)
    clock = Ticks()
    observe = JsonProgress(output, clock, MachinesTotal())
    for _ in range(5):
        observe(many[:2])
        clock.now += 1
    sent = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["machine"] for event in sent if event["type"] == "progress"] == ["vm-00", "vm-01"]


def test_a_log_tells_what_a_step_waits_for_and_not_again_who_waits_for_it() -> None:
    output, _, err = make(json_lines=False)
    clock = Ticks()
    observe = LogProgress(output, clock, MachinesTotal())
    proving = replace(MACHINE, machine="a", phase=Phase.PROVING, note="waits for login or agent, 9 m left")
    waits = replace(MACHINE, machine="b", phase=Phase.WAITING, disks=(replace(DISK, phase=Phase.DONE),), note="waits")
    for _ in range(3):
        observe([proving, waits])
        clock.now += 30
    lines = err.getvalue().splitlines()
    assert lines.count("a: proving, waits for login or agent, 9 m left") == 3
    assert lines.count("b: waiting, waits") == 1


def test_what_is_done_again_is_told() -> None:
    text = "\n".join(line.plain for line in draw([replace(MACHINE, redone=0.12)], 140, 24))
    assert "done again: 12% of 43%" in text


def test_several_machines_have_a_total_in_logs_and_events() -> None:
    output, _, err = make(json_lines=False)
    clock = Ticks()
    observe = LogProgress(output, clock, MachinesTotal())
    observe([MACHINE, MACHINE])
    clock.now += 2
    observe([MACHINE, MACHINE])
    assert err.getvalue().splitlines()[-1].startswith("0 of 2 done, 43%, 360.0 MiB/s")
    output, out, _ = make(json_lines=True)
    JsonProgress(output, clock, MachinesTotal())([MACHINE, MACHINE])
    (event,) = [found for line in out.getvalue().splitlines() if (found := json.loads(line))["type"] == "total"]
    assert (event["jobs"], event["running"], event["percent_complete"]) == (2, 2, 43.0)


class Ticks:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(*, json_lines: bool) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(out, err, {}, json_lines=json_lines, stdin_is_tty=False), out, err


def test_events_come_at_most_twice_a_second_and_the_end_is_never_left_out() -> None:
    output, out, _ = make(json_lines=True)
    clock = Ticks()
    observe = JsonProgress(output, clock, MachinesTotal())
    for _ in range(80):  # ten seconds
        observe([MACHINE])
        clock.now += 0.125
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(events) == 20
    observe([MACHINE])
    observe([replace(MACHINE, phase=Phase.DONE, fraction=1.0)])
    observe([replace(MACHINE, phase=Phase.DONE, fraction=1.0)])
    ended = [event for line in out.getvalue().splitlines() if (event := json.loads(line))["phase"] == "done"]
    assert len(ended) == 1
    assert events[0]["disks"][0]["basis"] == "allocated bytes"
    assert events[0]["type"] == "progress"


def test_a_machine_that_waits_for_its_turn_has_one_event() -> None:
    output, out, _ = make(json_lines=True)
    clock = Ticks()
    observe = JsonProgress(output, clock, MachinesTotal())
    queued = ExportProgress(machine="later")
    for step in range(10):
        observe([MACHINE, replace(queued, elapsed_s=step)])
        clock.now += 1.0
    observe([MACHINE, replace(MACHINE, machine="later")])
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    events = [event for event in told if event["type"] == "progress"]
    assert [event["phase"] for event in events if event["machine"] == "later"] == ["queued", "transferring"]
    assert len(events) == 13


def test_two_machines_of_one_name_are_both_told_of() -> None:
    output, out, _ = make(json_lines=True)
    observe = JsonProgress(output, Ticks(), MachinesTotal())
    observe([replace(MACHINE, phase=Phase.DONE), replace(MACHINE, phase=Phase.DONE)])
    assert [json.loads(line)["type"] for line in out.getvalue().splitlines()] == ["progress", "progress", "total"]


def test_a_log_gets_a_line_per_phase_and_one_now_and_then() -> None:
    output, out, err = make(json_lines=False)
    clock = Ticks()
    observe = LogProgress(output, clock, MachinesTotal())
    for step in range(310):
        observe([MACHINE if step < 300 else replace(MACHINE, phase=Phase.VERIFYING)])
        clock.now += 0.1
    lines = err.getvalue().splitlines()
    assert [
        line.split(", ")[0] for line in lines
    ] == [  # at once, then after 2, 4, 8 and 15 s, and when the phase changes
        *["web01: transferring 43%"] * 5,
        "web01: verifying 43%",
    ]
    assert out.getvalue() == ""


def test_a_brief_run_leaves_nothing_in_a_log() -> None:
    output, out, err = make(json_lines=False)
    clock = Ticks()
    observe = LogProgress(output, clock, MachinesTotal(), phases=False)
    for phase in (Phase.VERIFYING, Phase.DONE):
        observe([replace(MACHINE, phase=phase)])
    assert (out.getvalue(), err.getvalue()) == ("", "")
    clock.now += 2
    observe([replace(MACHINE, phase=Phase.VERIFYING)])
    assert err.getvalue().startswith("web01: verifying 43%")


def test_files_read_one_after_the_other_are_one_run() -> None:
    seen: list[ExportProgress] = []
    clock = Ticks()
    progress = FolderProgress("web01", 400, lambda machines: seen.extend(machines), clock)
    for label, size in (("a", 100), ("b", 300)):
        for done in (0, size // 2, size):
            clock.now += 1
            phase = Phase.DONE if done == size else Phase.VERIFYING
            progress(replace(DISK, label=label, wire_bytes=done, phase=phase))
    assert [whole.wire_bytes for whole in seen] == [0, 50, 100, 100, 250, 400]
    assert [whole.fraction for whole in seen] == [0, 0.125, 0.25, 0.25, 0.625, 1]
    assert {whole.phase for whole in seen} == {Phase.VERIFYING}, "one file that is done is not the end"
    assert seen[4].eta_s == pytest.approx(150 / (250 / 5))


def test_a_log_line_is_one_line() -> None:
    line = log_line(MACHINE)
    assert line.startswith("web01: transferring 43%, 3.0 GiB, 180.0 MiB/s, 33 s left, from esx1.example.com")
    assert "waits for vSphere or the network" in line
    assert "\n" not in line
    assert log_line(replace(MACHINE, phase=Phase.PREPARING)) == "web01: preparing, from esx1.example.com"
    assert log_line(replace(MACHINE, phase=Phase.DONE)) == "web01: done, 3.0 GiB in 12 s"


@pytest.mark.parametrize(("json_lines", "kind"), [(True, JsonProgress), (False, LogProgress)])
def test_the_observer_fits_who_watches(json_lines: bool, kind: type) -> None:
    output, _, _ = make(json_lines=json_lines)
    with watching(output) as observer:
        assert isinstance(observer, kind)
