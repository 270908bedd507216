"""`hyperctl workers`: the daemon's worker processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.conditions import conditions, merged
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.units import format_duration

if TYPE_CHECKING:
    from hypersdk.jobs.records import WorkerInfo

LIVING: Final = ("alive", "draining")


@click.command("workers", cls=Command)
@flag("--all", "everything", is_flag=True, help="Also dead workers, which are kept for a week.")
@flag(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the API's list of workers, like host=NAME or jobs_min=1. May be repeated; all must hold.",
)
@common_flags
@pass_ctl
def command(ctl: Ctl, everything: bool, filters: tuple[str, ...]) -> None:
    """List the worker processes: state, jobs, host, version, start, and the time since the last heartbeat."""
    from hypersdk.cli.hyperctl.shown import show_table
    from hypersdk.jobs.records import WORKERS, WorkerInfo

    where = conditions(WORKERS, filters)
    if not everything and "state" not in where:
        where = merged(where, state=LIVING)
    alive = "No worker is alive. `hyperctl workers --all` lists dead ones."
    empty = "No worker matches." if filters or everything else alive
    show_table(ctl, ctl.client.workers(where), WorkerInfo, empty=empty, state=_state, age_s=_age)


def _state(worker: WorkerInfo) -> tuple[str, str]:
    return worker.state, {"alive": "green", "draining": "yellow", "dead": "red"}.get(worker.state, "")


def _age(worker: WorkerInfo) -> tuple[str, str]:
    return f"{format_duration(worker.age_s)} ago", "dim"
