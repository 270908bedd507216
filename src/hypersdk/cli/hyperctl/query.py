"""`hyperctl query`: the list of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.completing import complete_job, complete_status
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.hyperctl.selection import FILTER_HELP, STATUS_HELP, job_conditions
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import LookupFailed, UsageError

if TYPE_CHECKING:
    from hypersdk.client import Job

MAX_SHOWN: Final = 5
"""Ids in one message; the JSON output has all of them."""


@click.command("query", cls=Command)
@flag("--all", "everything", is_flag=True, help="All jobs (also without any flag).")
@flag(
    "--id",
    "ids",
    multiple=True,
    metavar="ID",
    shell_complete=complete_job,
    help="This job; may be repeated. An unknown id is skipped, and the exit status is 5.",
)
@flag("--status", "statuses", multiple=True, metavar="STATUS[,...]", help=STATUS_HELP, shell_complete=complete_status)
@flag("--filter", "filters", multiple=True, metavar="EXPR", help=FILTER_HELP)
@flag("--text", metavar="WORDS", default="", help="Jobs whose name, machine or folder contains this text.")
@flag("--limit", type=click.IntRange(1, 1_000_000), metavar="N", help="At most N jobs, the newest.")
@common_flags
@pass_ctl
def command(
    ctl: Ctl,
    everything: bool,
    ids: tuple[str, ...],
    statuses: tuple[str, ...],
    filters: tuple[str, ...],
    text: str,
    limit: int | None,
) -> None:
    """List jobs, newest first.

    With --json, one job per line, as GET /api/v1/jobs/{id} gives it.
    """
    if everything and ids:
        raise UsageError("--all and --id are mutually exclusive", next_step="Give one of them.")
    ids = tuple(ctl.client.find_id(text) for text in ids)
    where = job_conditions(statuses, (*filters, *([f"text={text}"] if text else ())))
    found = ctl.client.query(ids, where=where) if ids else list(ctl.client.list(limit=limit, where=where))
    jobs = found[:limit]
    ctl.show([dict(job.raw) for job in jobs], lambda: _print(ctl, jobs))
    _check_there(ctl, ids, found, filtered=bool(where))


def _check_there(ctl: Ctl, ids: Sequence[str], found: Sequence[Job], *, filtered: bool) -> None:
    """Raises LookupFailed ``job_unknown`` if one of ``ids`` does not exist; one that only the filter excludes is not
    an error."""
    missing = _without(dict.fromkeys(ids), found)
    if missing and filtered:
        missing = _without(missing, ctl.client.query(missing))
    if not missing:
        return
    shown = ", ".join(f"'{job_id}'" for job_id in missing[:MAX_SHOWN]) + (", ..." if len(missing) > MAX_SHOWN else "")
    several = f"{len(missing)} of the jobs do not exist: {shown}"
    error = LookupFailed(
        f"there is no job {shown}" if len(missing) == 1 else several,
        cause="There is no job with that id.",
        next_step="See `hyperctl query -all`.",
        ids=missing,
    )
    error.code = "job_unknown"  # the daemon's, which is registered there
    raise error


def _without(ids: Iterable[str], found: Sequence[Job]) -> list[str]:
    there = {job.id for job in found}
    return [job_id for job_id in ids if job_id not in there]


def _print(ctl: Ctl, jobs: Sequence[Job]) -> None:
    from hypersdk.cli.hyperctl.shown import jobs_table

    ctl.say(f"Found {len(jobs)} job(s)")
    if jobs:
        ctl.output.print(jobs_table(jobs, ctl.output.width))
