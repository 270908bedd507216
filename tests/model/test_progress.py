"""The JSON forms of progress: their names are an interface, and what a job writes is what clients read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.model import (
    MAX_UNFINISHED_FRACTION,
    Basis,
    Bottleneck,
    DiskProgress,
    ExportProgress,
    Phase,
    at_rest,
    event_object,
    job_object,
    never_below,
    read_job_object,
)

JOB_NAMES = {
    "phase", "current_file", "current_step", "files_downloaded", "total_files", "bytes_downloaded", "bytes_transferred",
    "total_bytes", "percent_complete", "estimated_remaining", "export_method", "rate_bytes_s", "eta_s", "lease_age_s",
    "note", "stalled", "disks", "percent_redone", "expected_bytes", "copy_s", "turn_s",
    "snapshots_on",
}  # fmt: skip
JOB_DISK_NAMES = {
    "label", "file", "phase", "capacity_bytes", "bytes_downloaded", "bytes_written", "bytes_skipped", "bytes_again",
    "percent_complete", "basis", "rate_bytes_s", "eta_s", "bottleneck", "attempt", "note", "percent_redone",
}  # fmt: skip
EVENT_NAMES = {
    "machine", "phase", "fraction", "wire_bytes", "rate_bytes_s", "eta_s", "elapsed_s", "lease_age_s", "note", "disks",
    "redone", "expected_bytes", "copy_s", "turn_s", "snapshots_on",
}  # fmt: skip
EVENT_DISK_NAMES = {
    "label", "file", "phase", "fraction", "basis", "capacity_bytes", "wire_bytes", "guest_bytes", "written_bytes",
    "skipped_bytes", "rate_bytes_s", "eta_s", "bottleneck", "attempt", "note", "again_bytes",
    "redone",
}  # fmt: skip

sizes = st.integers(0, 2**50)
numbers = st.none() | st.integers(0, 10**9).map(lambda tenths: tenths / 10)
fractions = st.integers(0, 1000).map(lambda permille: permille / 1000)
disks = st.builds(
    DiskProgress,
    label=st.text(max_size=5),
    file_name=st.text(max_size=5),
    phase=st.sampled_from(Phase),
    capacity_bytes=sizes,
    wire_bytes=sizes,
    written_bytes=sizes,
    skipped_bytes=sizes,
    again_bytes=sizes,
    fraction=fractions,
    basis=st.sampled_from(Basis),
    rate_bytes_s=numbers,
    eta_s=numbers,
    bottleneck=st.none() | st.sampled_from(Bottleneck),
    attempt=st.integers(0, 9),
    note=st.text(max_size=5),
    redone=st.none() | fractions,
)
machines = st.builds(
    ExportProgress,
    phase=st.sampled_from(Phase),
    disks=st.lists(disks, max_size=3).map(tuple),
    wire_bytes=sizes,
    fraction=fractions,
    rate_bytes_s=numbers,
    eta_s=numbers,
    lease_age_s=numbers,
    note=st.text(max_size=5),
    method=st.sampled_from(["", "lease"]),
    stalled=st.none() | st.text(max_size=5),
    redone=st.none() | fractions,
    expected_bytes=sizes,
    turn_s=st.integers(0, 10**9).map(lambda tenths: tenths / 10),
    snapshots_on=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    copy_s=st.integers(0, 10**9).map(lambda tenths: tenths / 10),
)


def test_names_stay() -> None:
    progress = ExportProgress(disks=(DiskProgress(),))
    for form, names, disk_names in (
        (job_object, JOB_NAMES, JOB_DISK_NAMES),
        (event_object, EVENT_NAMES, EVENT_DISK_NAMES),
    ):
        shown = form(progress)
        assert set(shown) == names
        assert set(shown["disks"][0]) == disk_names


@given(machines)
def test_what_a_job_writes_is_what_is_read(progress: ExportProgress) -> None:
    assert read_job_object(job_object(progress)) == progress


@given(machines)
def test_nothing_moves_at_rest(progress: ExportProgress) -> None:
    still = job_object(at_rest(progress, Phase.PAUSED))
    assert (still["phase"], still["current_step"], still["current_file"]) == ("paused", "paused", "")
    assert (still["estimated_remaining"], still["stalled"]) == (0, None)
    for part in (still, *still["disks"]):
        assert (part["rate_bytes_s"], part["eta_s"], part["note"]) == (None, None, "")
    before = job_object(progress)
    for name in ("bytes_downloaded", "bytes_transferred", "percent_complete", "files_downloaded", "export_method"):
        assert still[name] == before[name]


@given(machines, machines)
def test_another_attempt_shows_no_less_than_the_one_before_it(before: ExportProgress, now: ExportProgress) -> None:
    shown = never_below(now, before)
    assert shown.fraction >= min(before.fraction, MAX_UNFINISHED_FRACTION)
    labels = {disk.label: disk.fraction for disk in before.disks}
    for was, disk in zip(now.disks, shown.disks, strict=True):
        assert disk.fraction >= min(labels.get(disk.label, 0.0), MAX_UNFINISHED_FRACTION)
        assert disk.fraction == was.fraction or disk.redone is not None, "what is really done is told"
    assert never_below(shown, before) == shown


def test_what_is_done_again_is_told_until_it_is_passed() -> None:
    disk = DiskProgress(label="Hard disk 1", phase=Phase.TRANSFERRING, fraction=0.1)
    before = ExportProgress(fraction=0.6, disks=(replace(disk, fraction=0.6),))
    now = ExportProgress(phase=Phase.TRANSFERRING, fraction=0.1, disks=(disk,))
    again = never_below(now, before)
    assert (again.fraction, again.redone) == (0.6, 0.1)
    assert (again.disks[0].fraction, again.disks[0].redone) == (0.6, 0.1)
    assert job_object(again)["percent_redone"] == 10.0
    passed = replace(now, fraction=0.61, disks=(replace(disk, fraction=0.61),))
    assert never_below(passed, before) == passed
    assert at_rest(again, Phase.QUEUED).redone is None


def test_sums_are_those_of_the_disks() -> None:
    first = DiskProgress(file_name="a", phase=Phase.VERIFYING, capacity_bytes=10, written_bytes=4)
    second = DiskProgress(file_name="b", phase=Phase.TRANSFERRING, capacity_bytes=20, written_bytes=1)
    shown = job_object(ExportProgress(phase=Phase.TRANSFERRING, disks=(first, second), fraction=0.1234, eta_s=7.9))
    assert (shown["current_file"], shown["current_step"]) == ("b", "transferring")
    assert (shown["files_downloaded"], shown["total_files"]) == (1, 2)
    assert (shown["total_bytes"], shown["bytes_transferred"]) == (30, 5)
    assert (shown["percent_complete"], shown["estimated_remaining"]) == (12.3, 7)


def test_other_releases_are_read() -> None:
    """Fields are missing in what an earlier one wrote; words and fields of a later one are not known."""
    later = {
        "phase": "thinking",
        "percent_complete": 50,
        "colour": "red",
        "disks": [{"basis": "dice", "shape": "round"}],
    }
    assert read_job_object({}) == ExportProgress()
    assert read_job_object(later) == replace(ExportProgress(), fraction=0.5, disks=(DiskProgress(),))


@pytest.mark.parametrize(
    "raw",
    [
        {"bytes_downloaded": "1"},
        {"bytes_downloaded": True},
        {"bytes_downloaded": None},
        {"percent_complete": "x"},
        {"note": 1},
        {"disks": {}},
        {"disks": [1]},
        {"disks": [{"label": 3}]},
    ],
)
def test_values_of_another_type_are_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="has a value of another type"):
        read_job_object(raw)
