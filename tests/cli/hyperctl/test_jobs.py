"""Jobs by hyperctl: the words and columns that other programs read, exactly."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
import yaml

from hypersdk.cli.hyperctl.shown import jobs_table
from hypersdk.client import Client
from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from hypersdk.jobs.store import Filter
from hypersdk.model import ExportProgress, job_object
from hypersdk.units import GiB, MiB
from tests.support.apiserver import Api, beating
from tests.support.cli.hyperctl import Hyperctl, job_file
from tests.support.cli.shell import Shell, small
from tests.support.simulator import SimulatorFactory

pytestmark = pytest.mark.waits


def worked(api: Api, job_id: str, event: JobEvent = JobEvent.FINISH) -> None:
    """What a worker does, in short."""
    claims = api.claims()
    claim = claims.claim(job_id, api.services.jobs.get(job_id).attempt)
    assert claim is not None
    claims.save(Unsaved(claim, log=b"2026-01-31T12:00:00Z web01: transferring\n"))
    claims.save(Unsaved(claim, {"phase": "transferring", "percent_complete": 42.5}))
    error = {
        "code": "no_space",
        "message": "the file system is full",
        "cause": "It is full.",
        "next_step": "Free space.",
        "exit_status": 9,
    }
    claims.end(
        claim, event, **({"error": error} if event is JobEvent.FAIL else {"result": {"files": ["web01-disk1.qcow2"]}})
    )


def test_submit_says_what_programs_look_for(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    file = tmp_path / "example-job.yaml"
    file.write_text(f"vm_path: /data/vm/web01\noutput_path: {api.folder}/exports/web01\n")
    for spelling in ("-file", "--file", "-f"):
        lines = ctl.ok("submit", spelling, file).splitlines()
        job = api.services.jobs.get(lines[2].removeprefix("Job ID: "))
        assert lines == ["Submitted 1 job(s)", "Accepted Jobs: 1", f"Job ID: {job.id}"]
    assert ctl.ok("submit", f"-file={file}").startswith("Submitted 1 job(s)\n")


def test_submit_of_one_machine_by_flags(api: Api, ctl: Hyperctl) -> None:
    out = ctl.ok(
        "submit",
        "--vm",
        "/data/vm/a b",
        "--output",
        f"{api.folder}/exports/x",
        "--format",
        "qcow2",
        "--name",
        "n",
        "-priority",
        "7",
    )
    job = api.services.jobs.get(out.splitlines()[-1].removeprefix("Job ID: "))
    assert (job.subject, job.definition["format"], job.name, job.priority) == ("/data/vm/a b", "qcow2", "n", 7)


def test_submit_from_standard_input_for_programs(api: Api, ctl: Hyperctl) -> None:
    done = ctl("submit", "-f", "-", "--json", stdin=job_file(api, "a", "b"))
    (facts,) = done.events
    assert (facts["type"], facts["accepted"], len(facts["job_ids"]), facts["errors"]) == ("submitted", 2, 2, [])


def test_a_job_file_that_is_no_utf8_is_told_from_wherever_it_comes(ctl: Hyperctl, tmp_path: Path) -> None:
    data = "vm_path: /data/vm/b\u00fcro\n".encode("latin-1")
    file = tmp_path / "job.yaml"
    file.write_bytes(data)
    piped, named = ctl("submit", "-f", "-", "--json", stdin=data), ctl("submit", "-f", file, "--json")
    assert (piped.status, piped.error["code"]) == (2, "job_unreadable")
    assert piped.error["message"] == named.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "-file", "/nonexistent"],
        ["submit", "-file", "x", "--vm", "y"],
        ["submit"],
        ["query", "-all", "-id", "x"],
        ["get", ".."],
        ["get"],
        ["endpoints", "add", "vc1", "https://vc.example.com"],
        ["endpoints", "add", "vc1", "https://vc.example.com", "--username", "u", "--password-file", "/nonexistent"],
    ],
)
def test_a_wrong_use_has_a_next_step_that_is_hyperctls_own(ctl: Hyperctl, words: list[str]) -> None:
    done = ctl(*words, "--json")
    assert done.status == 2
    assert "hyper2kvm" not in done.err + done.out
    assert done.error["next_step"] != "See `--help`."


def test_what_fails_for_all_in_one_way_has_the_status_of_that_way(api: Api, ctl: Hyperctl) -> None:
    done = ctl("cancel", "nope", "neither")
    assert done.status == 5
    assert "2 of 2 jobs were not cancelled" in done.err
    assert "machines" not in done.err
    done = ctl("cancel", "nope", "neither", "--json")
    assert (done.error["code"], done.error["exit_status"]) == ("job_unknown", 5)
    job = ctl.ok("submit", "-f", "-", stdin=job_file(api, "a")).splitlines()[-1].removeprefix("Job ID: ")
    mixed = ctl("pause", "nope", job, job, "neither", "--json")
    assert (mixed.status, mixed.error["code"]) == (10, "partly_failed")
    assert mixed.error["cause"] == "Some jobs were paused, others were not."
    ctl.ok("cancel", job)
    several = ctl("pause", "nope", job, "--json")
    assert (several.status, several.error["code"]) == (10, "partly_failed")
    assert several.error["cause"] == "None of the jobs was paused, for several reasons."
    refused = ctl("tokens", "revoke", "nope", "neither")
    assert (refused.status, "2 of 2 tokens were not revoked" in refused.err) == (5, True)


def test_submit_tells_each_job_that_was_not_taken(api: Api, ctl: Hyperctl) -> None:
    jobs = json.loads(job_file(api, "a", "b"))
    jobs[1]["colour"] = "blue"
    done = ctl("submit", "-file", "-", stdin=json.dumps(jobs))
    assert done.status == 10
    assert done.out.splitlines()[:3] == ["Submitted 1 job(s)", "Accepted Jobs: 1", "Rejected Jobs: 1"]
    assert "Job 2 of the file" in done.err
    assert "colour" in done.err
    alone = ctl("submit", "-file", "-", stdin=json.dumps(jobs[1:]))
    assert (alone.status, alone.out.splitlines()[0]) == (2, "Submitted 0 job(s)")
    assert alone.err.count("colour") == 1


@pytest.mark.parametrize("flags", [(), ("--vm", "x"), ("-file", "-", "--vm", "x")])
def test_submit_without_something_to_submit_is_an_error(ctl: Hyperctl, flags: tuple[str, ...]) -> None:
    assert ctl("submit", *flags).status == 2


def test_query_prints_the_columns_that_programs_read(api: Api, ctl: Hyperctl) -> None:
    first, second = api.add_job(name="one"), api.add_job(name="two")
    worked(api, first.id)
    for spelling in ("-all", "--all"):
        lines = ctl.ok("query", spelling).splitlines()
        assert lines[0] == "Found 2 job(s)"
        columns = [lines[1].index(title) for title in ("Job ID", "Name", "VM Path", "Status", "Progress", "Started")]
        assert columns == sorted(columns)
        row = lines[3]
        cells = [row[at:end].strip() for at, end in zip(columns, [*columns[1:], None], strict=True)]
        assert cells[:5] == [first.id, "one", first.subject, "completed", "done (100.0%)"]
        assert lines[2].split()[-3:] == ["queued", "(0.0%)", "-"]
        assert lines[2].startswith(second.id)


@pytest.mark.parametrize(
    ("event", "word"), [(JobEvent.FINISH, "completed"), (JobEvent.FAIL, "failed"), (None, "cancelled")]
)
def test_query_of_one_job_has_the_word_of_its_end(api: Api, ctl: Hyperctl, event: JobEvent | None, word: str) -> None:
    job = api.add_job()
    if event is None:
        assert ctl.ok("cancel", "-id", job.id) == "Cancelled 1 job(s)\n"
    else:
        worked(api, job.id, event)
    out = ctl.ok("query", "-id", job.id)
    assert out.startswith("Found 1 job(s)\n")
    assert word in out


def test_query_by_status_in_both_vocabularies(api: Api, ctl: Hyperctl) -> None:
    waiting, paused = api.add_job(), api.add_job()
    ctl.ok("pause", paused.id)
    both = ctl.ok("query", "-status", "pending")
    assert both.startswith("Found 2 job(s)\n")
    assert "pending (paused)" in both
    assert waiting.id not in ctl.ok("query", "--status", "paused")
    assert ctl.ok("query", "-status", "completed,failed") == "Found 0 job(s)\n"
    assert ctl("query", "--status", "asleep").status == 2


def test_query_of_a_job_that_does_not_exist(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job()
    none = ctl("query", "-id", "nope")
    assert (none.status, none.out) == (5, "Found 0 job(s)\n")
    assert "there is no job 'nope'" in none.err
    assert "job_unknown" in none.err
    some = ctl("query", "-id", "nope", "-id", job.id, "-id", "neither", "-id", "nope")
    assert some.status == 5
    assert some.out.startswith("Found 1 job(s)\n")
    assert job.id in some.out
    assert "2 of the jobs do not exist: 'nope', 'neither'" in " ".join(some.err.split())
    shown = ctl("query", "--json", "-id", job.id, "-id", "nope")
    assert (shown.status, shown.error["code"], shown.error["ids"]) == (5, "job_unknown", ["nope"])
    assert shown.events[0]["id"] == job.id
    # Filtered away, it is there all the same.
    assert ctl.ok("query", "-id", job.id, "-status", "completed") == "Found 0 job(s)\n"
    assert ctl("query", "-id", job.id, "-id", "nope", "-status", "completed").status == 5
    assert ctl.ok("query", "-id", job.id, "-id", api.add_job().id, "-limit", "1").startswith("Found 1 job(s)\n")


def test_query_combines_ids_and_a_text(api: Api, ctl: Hyperctl) -> None:
    one, two = api.add_job(name="alpha"), api.add_job(name="beta")
    out = ctl.ok("query", "-id", one.id, "-id", two.id, "-text", "alph")
    assert out.startswith("Found 1 job(s)\n")
    assert one.id in out
    assert ctl("query", "-id", two.id, "-id", "nope", "-text", "alph").status == 5


def test_the_folder_of_submit_is_no_format(api: Api, ctl: Hyperctl) -> None:
    for words in (["--output", "json"], ["--output=json"], ["-output", "json"], ["--output-dir", "json"]):
        done = ctl("submit", "--vm", "x", *words)
        assert done.status == 6  # below no export root
        assert done.out.startswith("Submitted 0 job(s)\n")
    folder = str(api.folder / "exports" / "x")
    assert ctl("submit", "--vm", "x", "--output", folder, "--json").events[0]["accepted"] == 1
    assert ctl("--output", "json", "submit", "--vm", "x", "--output", folder).events[0]["accepted"] == 1
    assert ctl("--context", "submit", "query", "--output", "json", "-alll").error["code"] == "usage"


def test_query_for_programs(api: Api, ctl: Hyperctl) -> None:
    jobs = [api.add_job() for _ in range(3)]
    assert [one["id"] for one in ctl("query", "--json").events] == [job.id for job in reversed(jobs)]
    assert [one["id"] for one in yaml.safe_load(ctl.ok("query", "--output", "yaml", "-limit", "2"))] == [
        jobs[2].id,
        jobs[1].id,
    ]


def test_status_shows_the_queue_as_a_whole(api: Api, ctl: Hyperctl) -> None:
    for _ in range(3):
        api.add_job()
    claim = api.claims().claim(api.add_job().id, 1)
    assert claim is not None
    copying = ExportProgress(fraction=0.5, copy_s=10, eta_s=10, rate_bytes_s=1.0 * MiB, expected_bytes=GiB)
    api.claims().save(Unsaved(claim, job_object(copying)))
    with beating(api.services):
        row = next(line for line in ctl.ok("status").splitlines() if line.startswith("Queue"))
    assert re.fullmatch(r"Queue +0 of 4 done, 12%, 1.0 MiB/s, about 1 m 1\d s left", row), row


def test_status_has_the_rows_that_programs_read(api: Api, ctl: Hyperctl) -> None:
    worked(api, api.add_job().id)
    lines = ctl.ok("status").splitlines()
    assert lines[0] == "Retrieved daemon status"
    rows = {line[:10].strip(): line[10:].strip() for line in lines[1:]}
    assert list(rows) == ["Version", "Uptime", "Total Jobs", "Running", "Completed", "Failed", "Queue"]
    assert (rows["Total Jobs"], rows["Running"], rows["Completed"], rows["Failed"]) == ("1", "0", "1", "0")
    assert rows["Queue"] == "empty"
    (status,) = ctl("status", "--json").events
    assert (status["total_jobs"], status["queue"]["percent_complete"]) == (1, 100)


def test_get_shows_a_job_with_its_error_and_its_next_step(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job()
    worked(api, job.id, JobEvent.FAIL)
    out = ctl.ok("get", job.id)
    for text in (job.id, "failed", "the file system is full", "Free space.", "no_space", "Took"):
        assert text in out
    missing = ctl("get", "nothing", "--json")
    assert (missing.status, missing.error["code"]) == (5, "job_unknown")


def test_each_reason_has_its_next_step_in_a_line(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    error = {
        "code": "refused",
        "message": "m",
        "cause": "c",
        "next_step": "domain_exists: Rename it.\nmac_taken: Land.",
    }
    claims.end(claim, JobEvent.FAIL, error=error)
    for command in ("get", "explain"):
        lines = [line.strip() for line in ctl.ok(command, job.id).splitlines()]
        assert any(line.lower().startswith("next") and line.endswith("domain_exists: Rename it.") for line in lines)
        assert "mac_taken: Land." in lines


def test_explain_says_cause_next_step_and_code(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job()
    worked(api, job.id, JobEvent.FAIL)
    out = ctl.ok("explain", job.id)
    assert f"{job.id} (" in out
    for text in ("the file system is full", "It is full.", "Free space.", "no_space", "attempt 1"):
        assert text in out
    assert ctl("explain", job.id, "--json").events[0]["code"] == "no_space"


def test_asking_says_how_many(api: Api, ctl: Hyperctl) -> None:
    jobs = [api.add_job().id for _ in range(3)]
    assert ctl.ok("pause", *jobs) == "Paused 3 job(s)\n"
    assert ctl.ok("resume", jobs[0]) == "Resumed 1 job(s)\n"
    assert ctl.ok("cancel", "-id", jobs[0], "--id", jobs[1], jobs[2]) == "Cancelled 3 job(s)\n"
    assert ctl.ok("retry", jobs[0]) == "Retried 1 job(s)\n"
    assert ctl.ok("delete", jobs[1], jobs[2]) == "Deleted 2 job(s)\n"


def test_what_cannot_be_done_is_told_for_each(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job().id
    done = ctl("cancel", job, "nothing")
    assert (done.status, done.out) == (10, "Cancelled 1 job(s)\n")
    assert "nothing" in done.err
    assert ctl("cancel", "nothing").status == 5
    assert ctl("cancel", job).status == 6
    assert ctl("cancel").status == 2
    again = ctl("cancel", job, "nothing", "--json")
    assert [one["type"] for one in again.events] == ["error", "error", "error"]


def test_logs_and_logs_that_are_followed(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job()
    worked(api, job.id)
    assert ctl.ok("logs", job.id) == "2026-01-31T12:00:00Z web01: transferring\n"
    for flag in ("-f", "-follow", "--follow"):
        assert ctl.ok("logs", flag, job.id) == "2026-01-31T12:00:00Z web01: transferring\n"
    assert ctl("logs", job.id, "--json").events == [{"line": "2026-01-31T12:00:00Z web01: transferring"}]


def test_watch_follows_to_the_end_and_its_status_is_the_jobs(api: Api, ctl: Hyperctl) -> None:
    good, bad = api.add_job(name="good"), api.add_job(name="bad")
    worker = threading.Timer(3.0, lambda: (worked(api, good.id), worked(api, bad.id, JobEvent.FAIL)))
    worker.start()
    done = ctl("watch")
    worker.join()
    assert done.status == 10
    assert f"{good.id} good completed: {good.target}" in done.out
    assert f"{bad.id} bad failed" in done.out
    assert "good: queued" in done.err
    assert ctl("watch", good.id).status == 0
    alone = ctl("watch", bad.id)
    assert alone.status == 9
    assert "the file system is full" in alone.err
    assert {one["state"] for one in ctl("watch", good.id, "--json").events} == {"completed"}
    assert ctl.ok("watch") == "No job is running or waiting.\n"


def test_watch_does_not_wait_for_a_daemon_that_was_never_there(ctl: Hyperctl) -> None:
    began = time.monotonic()
    done = ctl("watch", "some-job", "--url", "http://127.0.0.1:9")
    assert (done.status, "cannot be reached: Connection refused" in done.err) == (3, True)
    assert time.monotonic() - began < 60


def test_watch_of_many_jobs_begins_with_those_that_run(
    api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypersdk.cli.hyperctl.watch.MAX_SHOWN", 4)
    followed: list[list[str]] = []
    monkeypatch.setattr("hypersdk.cli.hyperctl.watch.follow", lambda _ctl, ids, **_: followed.append(ids))
    running, cancelling, paused, first, *queue = [api.add_job().id for _ in range(9)]
    for job in (running, cancelling):
        assert api.claims().claim(job, 1) is not None
    ctl.ok("pause", paused)
    ctl.ok("cancel", cancelling)
    done = ctl("watch")
    assert followed == [[running, cancelling, paused, first]]
    assert "following 4 jobs; 5 more are unfinished" in done.err
    monkeypatch.undo()
    monkeypatch.setattr("hypersdk.cli.hyperctl.watch.follow", lambda _ctl, ids, **_: followed.append(ids))
    assert ctl("watch").err == ""
    assert followed[1] == [running, cancelling, paused, first, *queue]


def test_submit_and_watch_in_one(api: Api, ctl: Hyperctl) -> None:
    def work() -> None:
        while not (ids := api.services.jobs.ids(Filter())):
            pass
        worked(api, ids[0])

    worker = threading.Thread(target=work)
    worker.start()
    out = ctl.ok("submit", "-f", "-", "--watch", stdin=job_file(api, "a"))
    worker.join()
    assert out.splitlines()[-1].endswith(f"completed: {api.folder}/exports/a")


def test_an_interrupted_submit_is_not_told_to_submit_again(
    api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is there; the same command would be a second one."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hypersdk.cli.hyperctl.watch.follow", interrupted)
    done = ctl("submit", "-f", "-", "--watch", stdin=job_file(api, "a"))
    (job,) = api.services.jobs.ids(Filter())
    assert done.status == 130
    assert "same command" not in done.err
    assert f"`hyperctl watch {job}`" in done.err


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits_the_terminal_with_ids_that_can_be_used(api: Api, width: int) -> None:
    job = api.add_job(name="a rather long name of a machine that somebody gave it", subject="/Amsterdam/vm/" + "x" * 60)
    with Client(api.url, token=api.tokens["viewer"], environ={}) as client:
        lines = jobs_table(client.query(), width).plain.split("\n")
    assert max(map(len, lines)) <= max(width, 60)
    assert lines[1].startswith((job.id if width == 200 else job.id[:8]) + " ")
    assert "queued (0.0%)" in lines[1]


def test_names_from_elsewhere_cannot_drive_the_terminal(api: Api, ctl: Hyperctl) -> None:
    job = api.add_job(name="evil\x1b[2Jname\nFound 9 job(s)")
    for command in (("query",), ("get", job.id), ("explain", job.id)):
        out = ctl.ok(*command)
        assert "\x1b" not in out
        assert "\nFound 9 job(s)" not in out


@pytest.mark.parametrize("others", [0, 1])
def test_a_job_that_is_given_up_names_what_stays_behind(api: Api, ctl: Hyperctl, others: int) -> None:
    """Which the error that it failed with, a full disk, does not."""
    job_id = ctl.ok("submit", "--vm", "/data/vm/a", "--output", f"{api.folder}/exports/a").split()[-1]
    claims = api.claims()
    claim = claims.claim(job_id, 1)
    assert claim is not None
    kinds = ["snapshot", *["power"] * others]
    changes = [{"kind": kind, "data": {"name": "hypersdk-1"}, "undone": False} for kind in kinds]
    claims.write_run(claim, json.dumps({"machine": "a", "changes": changes}), len(changes))
    claims.end(claim, JobEvent.FAIL, error={"code": "no_space", "message": "the file system is full"})
    assert "not undone" in ctl("delete", job_id).err
    done = ctl("delete", "--give-up", job_id)
    assert done.status == 0, done.err
    assert "left at the source: snapshot hypersdk-1; `hyper2kvm cleanup --snapshot hypersdk-1` removes it" in done.err
    assert ("1 other change of '/data/vm/a'" in done.err) == bool(others)
    assert "full" not in done.err


def test_a_job_file_that_hyper2kvm_wrote_is_accepted(
    api: Api, ctl: Hyperctl, simulator: SimulatorFactory, tmp_path: Path
) -> None:
    shell = Shell(simulator(machines=(small("web-01"), small("web 02 =#:'\"*"), small("db-01"))), tmp_path)
    file, out = tmp_path / "jobs.yaml", api.folder / "exports"
    shell.good("export", "web*", "-o", out, "--write-job", file, "--compress")
    lines = ctl.ok("submit", "-file", file).splitlines()
    assert lines[:2] == ["Submitted 2 job(s)", "Accepted Jobs: 2"]
    jobs = [api.services.jobs.get(line.removeprefix("Job ID: ")) for line in lines[2:]]
    assert {job.name for job in jobs} == {"web-01", "web 02 =#:'\"*"}
    assert {job.definition["compress"] for job in jobs} == {"checked"}
