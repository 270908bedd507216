"""``hyperctl cancel``, ``pause``, ``resume``, ``retry`` and ``delete``: the commands that act on jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.hyperctl.ctl import Ctl, for_each, pass_ctl, raise_failures, tell_failure
from hypersdk.cli.hyperctl.selection import JobSelection, check_answerable, takes_jobs
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import HyperSDKError, UsageError
from hypersdk.text import count

if TYPE_CHECKING:
    from hypersdk.client import Job
    from hypersdk.client.bulk import Action

CHANGED: Final = frozenset({"job_state", "job_unknown"})
"""Codes of the daemon for jobs that changed their state, or were deleted, after they were counted."""
_REASONS: Final[Mapping[str, str]] = {"delete": "unfinished, or with changes left at the source"}
_REASON: Final = "their state does not allow it"


@dataclass(frozen=True, slots=True)
class Verb:
    """An action and its words. ``one`` acts on one job; ``flags`` are for many at once."""

    action: Action
    done: str
    one: Callable[[str], Job | None]
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What became of selected jobs. ``skipped``: their state did not allow it; ``pending``: no answer yet."""

    skipped: int
    pending: int
    done: list[str] = field(default_factory=list)
    failed: list[HyperSDKError] = field(default_factory=list)


def _act(ctl: Ctl, which: JobSelection, verb: Verb) -> list[str]:
    """Acts on the jobs. Prints ``Cancelled N job(s)`` and the like; raises the errors of those that failed. Returns the
    ids of jobs that may be unfinished."""
    if which.where is not None:
        return _act_on_selected(ctl, which, verb)

    def act_on(text: str) -> tuple[str, Job | None]:
        job_id = ctl.client.find_id(text)
        return job_id, verb.one(job_id)

    done, failed = for_each(ctl, which.ids, act_on)
    facts = [_facts(job_id, job, verb) for _, (job_id, job) in done]
    ctl.show(facts, lambda: _say_done(ctl, verb, len(done)))
    raise_failures(done, failed, verb.done.lower())
    return [job.id for _, (_, job) in done if job is not None and not job.ended]


def _facts(job_id: str, job: Job | None, verb: Verb) -> dict[str, Any]:
    return {"id": job_id, "done": verb.done.lower()} if job is None else dict(job.raw)


def _say_done(ctl: Ctl, verb: Verb, number: int) -> None:
    ctl.say(f"{verb.done} {number} job(s)", "bold green" if number else "bold")


# Selected jobs


def _act_on_selected(ctl: Ctl, which: JobSelection, verb: Verb) -> list[str]:
    assert which.where is not None
    check_answerable(ctl, which)
    found = ctl.client.select(verb.action, which.where)
    if which.dry_run:
        _list(ctl, found.ids, found.skipped, verb)
        return []
    if found.ids and not which.yes and not _confirmed(ctl, found.ids, found.skipped, verb):
        ctl.output.line("Nothing was changed.")
        return []
    ctl.output.keep_going()
    outcome = Outcome(found.skipped, len(found.ids))
    try:
        for ids in _parts(found.ids):
            _record(ctl, outcome, verb, ids)
    finally:  # also after a failure in between: what was done is done
        _tell(ctl, outcome, verb)
    raise_failures(outcome.done, outcome.failed, verb.done.lower())
    return _unfinished(ctl, outcome.done) if verb.action == "cancel" else []


def _unfinished(ctl: Ctl, ids: Sequence[str]) -> list[str]:
    return [job.id for job in ctl.client.query(ids, ["cancelling"])] if ids else []


def _confirmed(ctl: Ctl, ids: tuple[str, ...], skipped: int, verb: Verb) -> bool:
    if skipped:
        ctl.output.note(f"{count(skipped, 'other matching job')} will be skipped: {_reason(verb)}.", style="dim")
    return ctl.agreed(f"{verb.action.capitalize()} {count(len(ids), 'job')}?")


def _parts(ids: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    from hypersdk.client.bulk import MAX_AT_ONCE

    for at in range(0, len(ids), MAX_AT_ONCE):
        yield ids[at : at + MAX_AT_ONCE]


def _record(ctl: Ctl, outcome: Outcome, verb: Verb, ids: tuple[str, ...]) -> None:
    result = ctl.client.act(verb.action, ids, **verb.flags)
    outcome.pending -= len(ids)
    outcome.done += result.done
    for job_id, error in result.failed.items():
        if error.code in CHANGED:
            outcome.skipped += 1
        else:
            outcome.failed.append(error)
            tell_failure(ctl, error, job_id)


def _tell(ctl: Ctl, outcome: Outcome, verb: Verb) -> None:
    """The summary."""
    facts = [{"id": job_id, "done": verb.done.lower()} for job_id in outcome.done]
    summary = {
        "type": "summary",
        "action": verb.action,
        "done": len(outcome.done),
        "skipped": outcome.skipped,
        "failed": len(outcome.failed),
        "pending": outcome.pending,
    }
    ctl.show([*facts, summary], lambda: _print(ctl, outcome, verb))


def _print(ctl: Ctl, outcome: Outcome, verb: Verb) -> None:
    _say_done(ctl, verb, len(outcome.done))
    if outcome.skipped:
        ctl.say(f"Skipped {outcome.skipped} job(s): {_reason(verb)}", "yellow")
    if outcome.failed:
        ctl.say(f"Refused {len(outcome.failed)} job(s); the reasons are above", "bold red")
    if outcome.pending:
        ctl.say(f"Not confirmed: {outcome.pending} job(s); the same command continues with them", "bold red")


def _reason(verb: Verb) -> str:
    return _REASONS.get(verb.action, _REASON)


def _list(ctl: Ctl, ids: tuple[str, ...], skipped: int, verb: Verb) -> None:
    jobs = ctl.client.query(ids) if ids else ()

    def show() -> None:
        from hypersdk.cli.hyperctl.shown import jobs_table

        ctl.say(f"Would {verb.action} {len(jobs)} job(s)")
        if skipped:
            ctl.say(f"Would skip {skipped} job(s): {_reason(verb)}", "yellow")
        if jobs:
            ctl.output.print(jobs_table(jobs, ctl.output.width))

    ctl.show([dict(job.raw) for job in jobs], show)


# Commands


@click.command("cancel", cls=Command)
@flag(
    "--keep-partial", is_flag=True, help="Keep the data copied so far, so that `hyperctl retry` continues from there."
)
@flag("--wait", is_flag=True, help="Wait until all is undone.")
@takes_jobs
@pass_ctl
def cancel(ctl: Ctl, which: JobSelection, keep_partial: bool, wait: bool) -> None:
    """Cancel jobs: those with the given ids, or those that are selected by --all, --status or --filter.

    Copying stops within two seconds. A job is cancelled once its export lease is closed and what it changed at its
    source and target is undone. Selected jobs are counted, and cancelled after you confirm it; finished ones are
    skipped.
    """
    one = partial(ctl.client.cancel, keep_partial=keep_partial)
    going = _act(ctl, which, Verb("cancel", "Cancelled", one, {"keep_partial": keep_partial}))
    if wait and going:
        with ctl.output.working("Waiting until all is undone ..."):
            for _ in ctl.client.watch(going):
                pass
    elif going and ctl.for_people:
        ctl.output.note(f"What was changed is being undone; see `hyperctl watch {' '.join(going[:3])}`.", style="dim")


@click.command("pause", cls=Command)
@takes_jobs
@pass_ctl
def pause(ctl: Ctl, which: JobSelection) -> None:
    """Pause jobs at their next checkpoint until they are resumed."""
    _act(ctl, which, Verb("pause", "Paused", ctl.client.pause))


@click.command("resume", cls=Command)
@takes_jobs
@pass_ctl
def resume(ctl: Ctl, which: JobSelection) -> None:
    """Resume paused jobs from their checkpoints."""
    _act(ctl, which, Verb("resume", "Resumed", ctl.client.resume))


@click.command("retry", cls=Command)
@flag("--discard", is_flag=True, help="Start over instead of continuing from the last checkpoint.")
@takes_jobs
@pass_ctl
def retry(ctl: Ctl, which: JobSelection, discard: bool) -> None:
    """Requeue failed or cancelled jobs. They continue from their last checkpoint."""
    one = partial(ctl.client.retry, discard=discard)
    _act(ctl, which, Verb("retry", "Retried", one, {"discard": discard}))


@click.command("delete", cls=Command)
@flag(
    "--give-up",
    is_flag=True,
    help="Also delete jobs whose source or target could not be restored: prints what is left there.",
)
@takes_jobs
@pass_ctl
def delete(ctl: Ctl, which: JobSelection, give_up: bool) -> None:
    """Delete finished jobs and their logs. The exported files are kept."""
    if give_up and which.where is not None:
        raise UsageError(
            "--give-up needs the ids of the jobs",
            next_step="Look at each job first; `hyperctl delete --give-up ID` prints what is left at its source.",
        )
    _act(ctl, which, Verb("delete", "Deleted", lambda job_id: _delete(ctl, job_id, give_up)))


def _delete(ctl: Ctl, job_id: str, give_up: bool) -> None:
    left = list(_left_behind(ctl, job_id)) if give_up else []
    ctl.client.delete(job_id, give_up=give_up)
    for text in left:
        ctl.output.warn(f"{job_id}: deleted; left at the {text}")


def _left_behind(ctl: Ctl, job_id: str) -> Iterator[str]:
    """What is left at source and target. The job may have failed for another reason, which does not mention it."""
    job = ctl.client.get(job_id)
    if at_target := job.raw.get("target_changes"):
        record = f"`hyper2kvm cleanup` on {job.target} undoes it"
        yield f"target: {count(at_target, 'change')} of '{job.subject}'; {record}"
    if not (changes := job.raw.get("source_changes")):
        return
    snapshots = [held.snapshot for held in ctl.client.snapshots() if held.job_id == job_id]
    for name in snapshots:
        yield f"source: snapshot {name}; `hyper2kvm cleanup --snapshot {name}` removes it"
    if len(snapshots) < changes:
        error = job.error or {}
        message = error.get("message") if error.get("code") == "not_restored" else None
        yield "source: " + (
            message
            or f"{count(changes - len(snapshots), 'other change')} of '{job.subject}', named only in its deleted log"
        )
