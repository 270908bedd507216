"""`hyperctl get`: one job."""

from __future__ import annotations

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.hyperctl.shown import facts_table, job_facts
from hypersdk.cli.programs.groups import Command


@click.command("get", cls=Command)
@click.argument("job_id", metavar="ID")
@common_flags
@pass_ctl
def command(ctl: Ctl, job_id: str) -> None:
    """Show one job: its state, progress and result."""
    job = ctl.client.get(job_id)
    ctl.show(dict(job.raw), lambda: ctl.output.print(facts_table(list(job_facts(job))), soft_wrap=True))
