"""`hyperctl retry`."""

from __future__ import annotations

import click

from hypersdk.cli.hyperctl.asking import ask, ids_given
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag


@click.command("retry", cls=Command)
@flag("--discard", is_flag=True, help="Start over instead of continuing from the last checkpoint.")
@ids_given
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], discard: bool) -> None:
    """Put failed or cancelled jobs back into the queue. They continue from their last checkpoint."""
    ask(ctl, ids, named, lambda job_id: ctl.client.retry(job_id, discard=discard), "Retried")
