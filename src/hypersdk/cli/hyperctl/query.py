"""`hyperctl query`: the list of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.hyperctl.shown import jobs_table
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import UsageError

if TYPE_CHECKING:
    from hypersdk.client import Job


@click.command("query", cls=Command)
@flag("--all", "everything", is_flag=True, help="All jobs (also without any flag).")
@flag(
    "--id",
    "ids",
    multiple=True,
    metavar="ID",
    help="This job; may be given more than once. One that does not exist is left out.",
)
@flag(
    "--status",
    "states",
    multiple=True,
    metavar="STATUS",
    help="Jobs that are pending, running, completed, failed or cancelled; or in one of the daemon's finer states, like paused.",
)
@flag("--text", metavar="WORDS", default="", help="Jobs with this in name, machine or folder.")
@flag("--limit", type=click.IntRange(1, 1_000_000), metavar="N", help="At most so many, the newest.")
@common_flags
@pass_ctl
def command(
    ctl: Ctl, everything: bool, ids: tuple[str, ...], states: tuple[str, ...], text: str, limit: int | None
) -> None:  # fmt: skip
    """List jobs, newest first.

    With --json, one job a line, as GET /api/v1/jobs/{id} gives it.
    """
    if everything and ids:
        raise UsageError("--all and --id exclude each other", next_step="Give one of them.")
    wanted = [word for given in states for word in given.split(",") if word]
    jobs = _by_id(ctl, ids, wanted, limit) if ids else list(ctl.client.list(states=wanted, text=text, limit=limit))
    ctl.show([dict(job.raw) for job in jobs], lambda: _print(ctl, jobs))


def _by_id(ctl: Ctl, ids: Sequence[str], states: Sequence[str], limit: int | None) -> Sequence[Job]:
    """One that does not exist is left out, as the older route does."""
    return ctl.client.query(ids, states)[:limit]


def _print(ctl: Ctl, jobs: Sequence[Job]) -> None:
    ctl.say(f"Found {len(jobs)} job(s)")
    if jobs:
        ctl.output.print(jobs_table(jobs, ctl.output.width))
