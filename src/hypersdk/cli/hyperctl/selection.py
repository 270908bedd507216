"""Which jobs a command acts on: ids, or a selection by ``--all``, ``--status`` and ``--filter``, which is counted and
confirmed first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.completing import complete_job, complete_status
from hypersdk.cli.hyperctl.conditions import conditions, merged, split_words
from hypersdk.cli.hyperctl.ctl import Ctl
from hypersdk.cli.programs.groups import flag, flag_group
from hypersdk.errors import UsageError

FILTER_HELP: Final = (
    "Jobs for which this holds: NAME=VALUE with a parameter of the API's list, like owner=ID, percent_min=50 or"
    " completed_before=7d; or a text in name, machine, folder or id. May be repeated; all must hold."
)
STATUS_HELP: Final = (
    "Jobs that are pending, running, completed, failed or cancelled; or in one of the daemon's finer states, like"
    " paused."
)


@dataclass(frozen=True, slots=True)
class JobSelection:
    """The jobs that were asked for. ``where`` is None if they are named by ``ids``."""

    ids: tuple[str, ...]
    where: Mapping[str, Any] | None
    yes: bool
    dry_run: bool


def job_conditions(statuses: tuple[str, ...], filters: tuple[str, ...]) -> dict[str, Any]:
    """Parameters of the list of jobs. Raises UsageError."""
    from hypersdk.client.api import states_of
    from hypersdk.jobs.records import JOBS

    found = conditions(JOBS, filters, searched=True)
    return merged(found, state=states_of([*split_words(statuses), *found.pop("state", ())]))


_flags: Final = flag_group(
    click.argument("ids", nargs=-1, metavar="[ID...]", shell_complete=complete_job),
    flag(
        "--id",
        "named",
        multiple=True,
        metavar="ID",
        shell_complete=complete_job,
        help="The same as an argument; may be given more than once.",
    ),
    flag("--all", "everything", is_flag=True, help="All jobs whose state allows it."),
    flag(
        "--status", "statuses", multiple=True, metavar="STATUS[,...]", help=STATUS_HELP, shell_complete=complete_status
    ),
    flag("--filter", "filters", multiple=True, metavar="EXPR", help=FILTER_HELP),
    flag("--yes", "-y", is_flag=True, help="Do not ask before acting on jobs that were not named by id."),
    flag("--dry-run", is_flag=True, help="With --all, --status or --filter: list the jobs, and change none of them."),
    common_flags,
)


def takes_jobs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that select jobs, as one argument ``which``."""

    @functools.wraps(command)
    def call(
        *,
        ids: tuple[str, ...],
        named: tuple[str, ...],
        everything: bool,
        statuses: tuple[str, ...],
        filters: tuple[str, ...],
        yes: bool,
        dry_run: bool,
        **more: Any,
    ) -> Any:
        selected = everything or bool(statuses or filters)
        _check(bool(ids or named), selected=selected, dry_run=dry_run)
        where = job_conditions(statuses, filters) if selected else None
        return command(JobSelection((*ids, *named), where, yes, dry_run), **more)

    return _flags(call)


def _check(named: bool, *, selected: bool, dry_run: bool) -> None:
    """Raises UsageError."""
    if named and selected:
        raise UsageError(
            "ids cannot be combined with --all, --status or --filter", next_step="Give ids, or select jobs by these."
        )
    if not named and not selected:
        raise UsageError(
            "no job was named",
            next_step="Give its id, or --all, --status or --filter; `hyperctl query -all` lists the jobs.",
        )
    if dry_run and named:
        raise UsageError("--dry-run is for --all, --status and --filter", next_step="`hyperctl get ID` shows a job.")


def check_answerable(ctl: Ctl, which: JobSelection) -> None:
    """Raises UsageError if the jobs are to be confirmed and nobody can be asked. Before the daemon is asked for them:
    a script must not fail only in the nights when there are any."""
    if not (which.yes or which.dry_run or ctl.output.can_ask):
        raise UsageError(
            "the selected jobs must be confirmed, and there is no terminal to ask at",
            next_step="Pass --yes; --dry-run lists the jobs.",
        )
