"""Acting on many jobs: selected, counted, confirmed, and told."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from hypersdk.cli.hyperctl.app import program
from hypersdk.cli.hyperctl.conditions import conditions, moment
from hypersdk.client import Client
from hypersdk.client.bulk import Action, BulkResult
from hypersdk.errors import Refused, UsageError
from hypersdk.jobs.records import JOBS
from hypersdk.jobs.states import JobEvent
from hypersdk.jobs.store import Filter
from hypersdk.state.tables import jobs
from hypersdk.streams import SafeStream
from tests.support.apiserver import Api, fill
from tests.support.cli.commandline import terminal
from tests.support.cli.hyperctl import Hyperctl
from tests.support.waiting import eventually


def states(api: Api) -> dict[str, str]:
    """The state of each job by its name."""
    return {job.name: job.state.value for job in api.services.jobs.page(Filter()).rows}


def fail(api: Api, job_id: str, changes: int = 0) -> None:
    """Fails a job, with changes left at its source."""
    claims = api.claims()
    claim = claims.claim(job_id, 1)
    assert claim is not None
    claims.end(claim, JobEvent.FAIL, error={"code": "no_space", "message": "m", "cause": "c", "next_step": "n"})
    with api.services.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(source_changes=changes))


def test_all_acts_on_those_whose_state_allows_it_and_counts_the_others(api: Api, ctl: Hyperctl) -> None:
    one, two, three = (api.add_job(name=name).id for name in ("one", "two", "three"))
    fail(api, three)
    assert ctl.ok("pause", "--all", "--yes") == ("Paused 2 job(s)\nSkipped 1 job(s): their state does not allow it\n")
    assert states(api) == {"one": "paused", "two": "paused", "three": "failed"}
    assert ctl.ok("resume", "-all", "-y").startswith("Resumed 2 job(s)\n")
    done = ctl("cancel", "--all", "--yes", "--json")
    assert done.status == 0
    assert done.events == [
        {"id": one, "done": "cancelled"},
        {"id": two, "done": "cancelled"},
        {"type": "summary", "action": "cancel", "done": 2, "skipped": 1, "failed": 0, "pending": 0},
    ]
    assert ctl.ok("retry", "--status", "failed,cancelled", "--yes") == "Retried 3 job(s)\n"
    assert ctl.ok("retry", "--all", "--yes").startswith("Retried 0 job(s)\nSkipped 3 job(s)")


def test_conditions_are_those_of_the_list_and_all_must_hold(api: Api, ctl: Hyperctl) -> None:
    for name, kind in (("web01", "qcow2"), ("web02", "raw"), ("db01", "raw")):
        api.add_job(name=name, format=kind)
    for expressions, found in (
        (["name=web", "format=raw"], {"web02"}),
        (["web0"], {"web01", "web02"}),
        (["format=raw", "format=qcow2", "name=01"], {"web01", "db01"}),
        (["created_before=1h"], set()),
        (["created_after=1h", "percent_max=0", "state=pending"], {"web01", "web02", "db01"}),
    ):
        flags = [word for expression in expressions for word in ("--filter", expression)]
        assert {job["name"] for job in ctl("query", *flags, "--json").events} == found
        listed = ctl("pause", *flags, "--dry-run", "--json").events
        assert {job["name"] for job in listed} == found
    assert set(states(api).values()) == {"queued"}
    dry = ctl.ok("pause", "--filter", "web0", "--dry-run")
    assert dry.startswith("Would pause 2 job(s)\n")
    assert "web02" in dry
    ctl.ok("pause", "--filter", "web0", "--yes")
    assert states(api) == {"web01": "paused", "web02": "paused", "db01": "queued"}


def test_without_a_terminal_only_yes_lets_it_happen(api: Api, ctl: Hyperctl) -> None:
    api.add_job(name="one")
    for words in (["--all"], ["--status", "queued"], ["--filter", "one"], ["--all", "--json"]):
        done = ctl("cancel", *words)
        assert done.status == 2
        assert "--yes" in done.err + done.out
    assert states(api) == {"one": "queued"}


def test_at_a_terminal_the_number_is_confirmed_and_other_answers_are_asked_again(api: Api, ctl: Hyperctl) -> None:
    api.services.jobs.cancel(api.add_job(name="over").id)
    for name in ("one", "two"):
        api.add_job(name=name)
    command = [sys.executable, "-m", "hypersdk.cli.hyperctl.main"]
    env = ctl.env | {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    for answers, result in ((("maybe", "no"), "Nothing was changed."), (("",), "Nothing was changed.")):
        with terminal([*command, "cancel", "--all"], env) as shown:
            shown.wait_for("Cancel 2 jobs? [y/N]", timeout_s=60)
            for answer in answers:
                shown.type(answer + "\n")
            assert (shown.finish(60), result in shown.text) == (0, True)
            assert "1 other matching job will be skipped: their state" in shown.text
            assert ("Please answer y, yes, n, no." in shown.text) == ("maybe" in answers)
    assert states(api) == {"one": "queued", "two": "queued", "over": "cancelled"}
    with terminal([*command, "cancel", "--filter", "name=one"], env) as shown:
        shown.wait_for("Cancel 1 job? [y/N]", timeout_s=60)
        shown.type("Yes\n")
        assert (shown.finish(60), "Cancelled 1 job(s)" in shown.text) == (0, True)
    assert states(api) == {"one": "cancelled", "two": "queued", "over": "cancelled"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["x", "--all"], "ids cannot be combined"),
        (["-id", "x", "--filter", "y"], "ids cannot be combined"),
        (["x", "--dry-run"], "--dry-run is for"),
        ([], "no job was named"),
        (["--filter", "nmae=x"], "Did you mean name?"),
        (["--filter", "name=x", "--filter", "name=y"], "name is given twice"),
        (["--filter", "created_before=yesterday"], "is not a time"),
        (["--status", "asleep"], "is not a job state"),
        (["--filter", "percent_min=x", "--yes"], "percent_min"),
    ],
)
def test_a_wrong_selection_is_refused(api: Api, ctl: Hyperctl, words: list[str], text: str) -> None:
    api.add_job(name="one")
    done = ctl("cancel", *words)
    assert done.status == 2
    assert text in " ".join(done.err.split())
    assert states(api) == {"one": "queued"}


def test_a_source_is_given_up_one_job_at_a_time(api: Api, ctl: Hyperctl) -> None:
    fail(api, api.add_job(name="left").id, changes=1)
    fail(api, api.add_job(name="clean").id)
    assert ctl("delete", "--give-up", "--all", "--yes").status == 2
    assert ctl.ok("delete", "--all", "--yes") == (
        "Deleted 1 job(s)\nSkipped 1 job(s): unfinished, or with changes left at the source\n"
    )
    assert states(api) == {"left": "failed"}


def test_exactly_the_counted_jobs_are_acted_on(api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that come, go or end between the count and the action."""
    counted = {name: api.add_job(name=name).id for name in ("stays", "ends", "goes", "left")}
    select = Client.select

    def then_change(client: Client, action: Any, where: Any) -> Any:
        found = select(client, action, where)
        api.add_job(name="new")
        api.services.jobs.cancel(counted["ends"])
        api.services.jobs.cancel(counted["goes"])
        api.services.jobs.delete(counted["goes"])
        return found

    monkeypatch.setattr(Client, "select", then_change)
    done = ctl("cancel", "--all", "--yes")
    assert (done.status, done.out) == (0, "Cancelled 2 job(s)\nSkipped 2 job(s): their state does not allow it\n")
    assert states(api) == {"stays": "cancelled", "ends": "cancelled", "left": "cancelled", "new": "queued"}
    fail(api, api.add_job(name="late").id)

    def then_leave(client: Client, action: Any, where: Any) -> Any:
        found = select(client, action, where)
        with api.services.database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.name == "late").values(source_changes=1))
        return found

    monkeypatch.setattr(Client, "select", then_leave)
    done = ctl("delete", "--all", "--yes")
    assert (done.status, "1 of 4 jobs were not deleted" in done.err) == (10, True)
    assert "has not undone 1 change at its source" in " ".join(done.err.split())
    assert done.out.startswith("Deleted 3 job(s)\nSkipped 1 job(s)")
    assert "Refused 1 job(s); the reasons are above\n" in done.out


def test_more_jobs_than_one_request_takes(api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(api.services.database, 2300, "many")
    sizes: list[int] = []
    act = Client.act

    def counted(client: Client, action: Any, ids: Any, **flags: bool) -> Any:
        sizes.append(len(ids))
        return act(client, action, ids, **flags)

    monkeypatch.setattr(Client, "act", counted)
    assert ctl.ok("cancel", "--all", "--yes") == "Cancelled 2300 job(s)\n"
    assert sizes == [1000, 1000, 300]


def test_a_failure_in_between_tells_what_was_done(api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.client.bulk.MAX_AT_ONCE", 2)
    for number in range(5):
        api.add_job(name=f"job{number}")
    act, calls = Client.act, iter(range(9))

    def once(client: Client, action: Any, ids: Any, **flags: bool) -> Any:
        return act(client, action, ids if next(calls) < 1 else ["x"] * 1001, **flags)  # which the daemon refuses

    monkeypatch.setattr(Client, "act", once)
    done = ctl("cancel", "--all", "--yes")
    assert done.status == 2
    assert done.out == "Cancelled 2 job(s)\nNot confirmed: 3 job(s); the same command continues with them\n"
    monkeypatch.undo()
    assert ctl.ok("cancel", "--all", "--yes").startswith("Cancelled 3 job(s)\n")


def test_all_selected_jobs_are_acted_on_whoever_reads_it(
    api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of one job cannot be written; those of the later requests are cancelled all the same."""
    monkeypatch.setattr("hypersdk.client.bulk.MAX_AT_ONCE", 1)
    refused, *others = (api.add_job().id for _ in range(3))
    act = Client.act

    def refusing(client: Client, action: Action, ids: Sequence[str], **flags: bool) -> BulkResult:
        failed = {job_id: Refused("not now") for job_id in ids if job_id == refused}
        return BulkResult((), failed) if failed else act(client, action, ids, **flags)

    monkeypatch.setattr(Client, "act", refusing)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        out, err = SafeStream(descriptor, None), io.StringIO()
        program.main(["cancel", "--all", "--yes", "--json"], out, err, io.StringIO(), ctl.env)
    finally:
        os.close(descriptor)
    assert {api.services.jobs.get(job_id).state for job_id in others} == {"cancelled"}


def test_cancel_waits_for_selected_jobs(api: Api, ctl: Hyperctl) -> None:
    first, second = api.add_job(), api.add_job()
    claims = api.claims()
    claim = claims.claim(first.id, 1)
    assert claim is not None
    hint = ctl("cancel", "--filter", f"id={first.id}", "--yes").err
    assert f"`hyperctl watch {first.id}`" in hint
    assert ctl("cancel", "--filter", f"id={second.id}", "--yes").err == ""  # no worker had it
    claims.end(claim, JobEvent.CANCELLED)
    third = api.add_job()
    claim = claims.claim(third.id, 1)
    assert claim is not None

    def restore() -> None:
        eventually(lambda: api.services.jobs.get(third.id).state == "cancelling")
        claims.end(claim, JobEvent.CANCELLED)

    worker = threading.Thread(target=restore)
    worker.start()
    assert ctl.ok("cancel", "--all", "--yes", "--wait").startswith("Cancelled 1 job(s)\n")
    assert api.services.jobs.get(third.id).state == "cancelled"
    worker.join()


def test_more_than_a_hundred_jobs_are_watched(api: Api, ctl: Hyperctl) -> None:
    fill(api.services.database, 130, "many")
    ids = api.services.jobs.ids(Filter())
    ctl.ok("cancel", "--all", "--yes")
    done = ctl("watch", *ids, "--json")
    assert (done.status, len(done.events) - 1) == (10, 130)


def test_times_of_conditions() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert moment("7d", now) == "2026-01-24T12:00:00+00:00"
    assert moment("90m", now) == "2026-01-31T10:30:00+00:00"
    assert moment("2026-01-31T12:00:00+02:00") == "2026-01-31T10:00:00+00:00"
    assert moment("2026-01-31").startswith("2026-01-3")  # local time
    for wrong in ("", "d", "7", "7y", "-7d", "999999w", "2026-13-01", "0001-01-01T00:00+23:59"):
        with pytest.raises(UsageError, match="is not a time"):
            moment(wrong, now)
    assert conditions(JOBS, ["name=b=c", "x"], searched=True) == {"name": "b=c", "text": "x"}


@pytest.mark.parametrize("empty", [("--status", ""), ("--status", ","), ("--filter", ""), ("--filter", "text= ")])
def test_an_empty_condition_is_not_every_job(api: Api, ctl: Hyperctl, empty: tuple[str, str]) -> None:
    """As an unset variable of a script makes it."""
    api.add_job()
    done = ctl("cancel", *empty, "--yes")
    assert done.status == 2
    assert "leave the flag out" in done.err
    assert set(states(api).values()) == {"queued"}
