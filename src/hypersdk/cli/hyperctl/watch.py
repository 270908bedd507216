"""`hyperctl watch`: jobs while they run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.completing import complete_job
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command
from hypersdk.errors import PartlyFailed

if TYPE_CHECKING:
    from hypersdk.cli.progress import Observer
    from hypersdk.client import Client, Job
    from hypersdk.model import ExportProgress

MAX_SHOWN: Final = 500
STATES_AS_PHASES: Final = frozenset({"failed", "cancelled", "queued", "paused"})


@click.command("watch", cls=Command)
@click.argument("ids", nargs=-1, metavar="[ID...]", shell_complete=complete_job)
@common_flags
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...]) -> None:
    """Follow jobs until they finish; without an id, all unfinished jobs: at most 500, started ones first. The exit
    status is 0 if all were completed. Ctrl-C stops watching and does not affect the jobs. With --json, one job per
    line whenever it changes.
    """
    wanted, more = (list(dict.fromkeys(ctl.client.find_id(text) for text in ids)), 0) if ids else _not_ended(ctl.client)
    if ids:
        ctl.client.page(ids=wanted[:1])  # fails if the daemon cannot be reached; later outages are waited for
    if not wanted:
        ctl.show([], lambda: ctl.output.line("No job is running or waiting."))
        return
    if more:
        ctl.output.warn(f"following {len(wanted)} jobs; {more} more are unfinished")
    follow(ctl, wanted, queue=not ids)


def _not_ended(client: Client) -> tuple[list[str], int]:
    """Ids of jobs: those held by a worker, paused ones, then the queue from its head; and how many more there are."""
    # The queue is read first: a job that starts meanwhile is then found twice, not missed.
    # "running" includes all states of a job that a worker has.
    words = ("queued", "paused", "running")
    pages = [client.page(states=(word,), sort="number", limit=MAX_SHOWN) for word in words]
    found = list(dict.fromkeys(job.id for page in reversed(pages) for job in page.jobs))
    unread = sum(page.total - len(page.jobs) for page in pages)
    return found[:MAX_SHOWN], unread + len(found[MAX_SHOWN:])


def follow(ctl: Ctl, ids: Sequence[str], *, queue: bool = False) -> None:
    """Shows the jobs until all have finished, with the total of the daemon's ``queue`` or of these jobs. Raises the
    error of one that did not complete, PartlyFailed for several."""
    from hypersdk.cli.progress import watching
    from hypersdk.cli.total import DaemonTotal

    ended: dict[str, Job] = {}
    if ctl.for_people:
        with watching(ctl.output, total=DaemonTotal(ctl.client) if queue else None) as show:
            _watch(ctl.client, ids, ended, show)
    else:
        for job in ctl.client.watch(ids):
            ended[job.id] = job
            if ctl.format == "json":
                ctl.output.row(job.raw)
        if ctl.format == "yaml":
            ctl.yaml([dict(job.raw) for job in ended.values()])
    _conclude(ctl, [ended[job_id] for job_id in ids])


def _watch(client: Client, ids: Sequence[str], jobs: dict[str, Job], show: Observer) -> None:
    for job in client.watch(ids):
        jobs[job.id] = job
        if len(jobs) == len(ids):  # the first round shows all of them at once
            show([machine_of(jobs[job_id]) for job_id in ids])


def _conclude(ctl: Ctl, jobs: Sequence[Job]) -> None:
    from hypersdk.cli.hyperctl.shown import STATUS_STYLES

    if ctl.for_people:
        for job in jobs:
            folder = f": {job.target}" if job.state == "completed" else ""
            ctl.say(f"{job.id} {job.name} {job.status}{folder}", STATUS_STYLES.get(job.status, ""))
    failed = [job for job in jobs if job.state != "completed"]
    if len(jobs) == 1:
        jobs[0].raise_for_failure()
    elif failed:
        raise PartlyFailed(
            f"{len(failed)} of {len(jobs)} jobs were not completed",
            cause="Jobs failed or were cancelled.",
            next_step=f"Run `hyperctl explain {failed[0].id}`.",
            jobs=[{"id": job.id, "status": job.status} for job in failed],
        )


# Jobs as machines, for the progress display of hyper2kvm.


def machine_of(job: Job) -> ExportProgress:
    """A job as a machine that is being exported."""
    from hypersdk.model import Phase

    progress = job.progress
    if job.state == "completed":
        progress = replace(progress, phase=Phase.DONE, fraction=1.0)
    elif job.state in STATES_AS_PHASES:
        progress = replace(progress, phase=Phase(job.state))
    return replace(progress, machine=job.name, elapsed_s=_elapsed(job), note=_note(job))


def _elapsed(job: Job) -> float:
    if job.started_at is None:
        return 0.0
    return max((job.completed_at.timestamp() if job.completed_at else time.time()) - job.started_at.timestamp(), 0.0)


def _note(job: Job) -> str:
    if job.state in ("pausing", "cancelling"):
        return job.state
    if job.state == "failed" and job.error is not None:
        return str(job.error.get("message") or "")
    return f"waits: {job.waiting}" if job.waiting else job.progress.note
