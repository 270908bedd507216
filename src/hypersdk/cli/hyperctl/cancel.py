"""`hyperctl cancel`."""

from __future__ import annotations

import click

from hypersdk.cli.hyperctl.asking import ask, ids_given
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag


@click.command("cancel", cls=Command)
@flag(
    "--keep-partial", is_flag=True, help="Keep the data copied so far, so that `hyperctl retry` continues from there."
)
@flag("--wait", is_flag=True, help="Wait until the sources are restored.")
@ids_given
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], keep_partial: bool, wait: bool) -> None:
    """Cancel jobs.

    Copying stops within two seconds. A job is cancelled once its export lease is closed and its source is restored.
    """
    jobs = ask(ctl, ids, named, lambda job_id: ctl.client.cancel(job_id, keep_partial=keep_partial), "Cancelled")
    going = [job.id for job in jobs if not job.ended]
    if wait and going:
        with ctl.output.working("Waiting for the sources to be restored ..."):
            for _ in ctl.client.watch(going):
                pass
    elif going and ctl.for_people:
        ctl.output.note("The source is being restored; see `hyperctl watch " + " ".join(going[:3]) + "`.", style="dim")
