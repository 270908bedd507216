"""``hyperctl cancel``, ``pause``, ``resume``, ``retry`` and ``delete``: the commands that act on jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, for_each, pass_ctl, raise_failures
from hypersdk.cli.programs.groups import Command, flag, flag_group
from hypersdk.errors import UsageError
from hypersdk.text import count

if TYPE_CHECKING:
    from hypersdk.client import Job

_job_ids = flag_group(
    click.argument("ids", nargs=-1, metavar="ID..."),
    flag("--id", "named", multiple=True, metavar="ID", help="The same as an argument; may be given more than once."),
    common_flags,
)
"""Ids as arguments, and the older ``-id ID``."""


def _act(
    ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], act: Callable[[str], Job | None], done_word: str
) -> list[Job]:
    """Acts on each job. Prints ``Cancelled N job(s)`` and the like; raises the errors of those that failed."""
    wanted = [*ids, *named]
    if not wanted:
        raise UsageError("no job was named", next_step="Give its id; `hyperctl query -all` lists them.")

    def act_on(text: str) -> tuple[str, Job | None]:
        job_id = ctl.client.find_id(text)
        return job_id, act(job_id)

    done, failed = for_each(ctl, wanted, act_on)
    facts = [_facts(job_id, job, done_word) for _, (job_id, job) in done]
    ctl.show(facts, lambda: ctl.say(f"{done_word} {len(done)} job(s)", "bold green" if done else "bold"))
    raise_failures(done, failed, done_word.lower())
    return [job for _, (_, job) in done if job is not None]


def _facts(job_id: str, job: Job | None, done_word: str) -> dict[str, Any]:
    return {"id": job_id, "done": done_word.lower()} if job is None else dict(job.raw)


@click.command("cancel", cls=Command)
@flag(
    "--keep-partial", is_flag=True, help="Keep the data copied so far, so that `hyperctl retry` continues from there."
)
@flag("--wait", is_flag=True, help="Wait until the sources are restored.")
@_job_ids
@pass_ctl
def cancel(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], keep_partial: bool, wait: bool) -> None:
    """Cancel jobs.

    Copying stops within two seconds. A job is cancelled once its export lease is closed and its source is restored.
    """
    jobs = _act(ctl, ids, named, lambda job_id: ctl.client.cancel(job_id, keep_partial=keep_partial), "Cancelled")
    going = [job.id for job in jobs if not job.ended]
    if wait and going:
        with ctl.output.working("Waiting for the sources to be restored ..."):
            for _ in ctl.client.watch(going):
                pass
    elif going and ctl.for_people:
        ctl.output.note("The source is being restored; see `hyperctl watch " + " ".join(going[:3]) + "`.", style="dim")


@click.command("pause", cls=Command)
@_job_ids
@pass_ctl
def pause(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Pause jobs at their next checkpoint until they are resumed."""
    _act(ctl, ids, named, ctl.client.pause, "Paused")


@click.command("resume", cls=Command)
@_job_ids
@pass_ctl
def resume(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Resume paused jobs from their checkpoints."""
    _act(ctl, ids, named, ctl.client.resume, "Resumed")


@click.command("retry", cls=Command)
@flag("--discard", is_flag=True, help="Start over instead of continuing from the last checkpoint.")
@_job_ids
@pass_ctl
def retry(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], discard: bool) -> None:
    """Requeue failed or cancelled jobs. They continue from their last checkpoint."""
    _act(ctl, ids, named, lambda job_id: ctl.client.retry(job_id, discard=discard), "Retried")


@click.command("delete", cls=Command)
@flag(
    "--give-up",
    is_flag=True,
    help="Also delete jobs whose source could not be restored: prints what is left there, which is never undone.",
)
@_job_ids
@pass_ctl
def delete(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], give_up: bool) -> None:
    """Delete finished jobs and their logs. The exported files are kept."""
    _act(ctl, ids, named, lambda job_id: _delete(ctl, job_id, give_up), "Deleted")


def _delete(ctl: Ctl, job_id: str, give_up: bool) -> None:
    left = list(_left_behind(ctl, job_id)) if give_up else []
    ctl.client.delete(job_id, give_up=give_up)
    for text in left:
        ctl.output.warn(f"{job_id}: deleted; left at the source: {text}")


def _left_behind(ctl: Ctl, job_id: str) -> Iterator[str]:
    """What is left at the source. The job may have failed for another reason, which does not mention it."""
    job = ctl.client.get(job_id)
    if not (changes := job.raw.get("source_changes")):
        return
    snapshots = [held.snapshot for held in ctl.client.snapshots() if held.job_id == job_id]
    for name in snapshots:
        yield f"snapshot {name}; `hyper2kvm cleanup --snapshot {name}` removes it"
    if len(snapshots) < changes:
        error = job.error or {}
        message = error.get("message") if error.get("code") == "not_restored" else None
        yield (
            message
            or f"{count(changes - len(snapshots), 'other change')} of '{job.subject}', named only in its deleted log"
        )
