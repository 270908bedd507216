"""`hyperctl delete`."""

from __future__ import annotations

import click

from hypersdk.cli.hyperctl.asking import ask, ids_given
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag


@click.command("delete", cls=Command)
@flag(
    "--give-up",
    is_flag=True,
    help="Also jobs whose source could not be put back: tells what stays behind, and nobody undoes it any more.",
)
@ids_given
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], give_up: bool) -> None:
    """Forget jobs that have ended, with their logs. The files that they made stay."""
    ask(ctl, ids, named, lambda job_id: _delete(ctl, job_id, give_up), "Deleted")


def _delete(ctl: Ctl, job_id: str, give_up: bool) -> None:
    job = ctl.client.get(job_id) if give_up else None
    ctl.client.delete(job_id, give_up=give_up)
    if job is not None and job.raw.get("source_changes"):
        ctl.output.warn(f"{job_id}: given up, stays behind: {(job.error or {}).get('message') or 'see the daemon log'}")
